use super::*;

fn catalog(folder: &Path) -> Catalog {
    Catalog { cache: folder.to_path_buf(), offline: true }
}

/// Puts an entry into the cache as a fetch would.
fn plant(catalog: &Catalog, kernel: &[u8], initrd: &[u8]) {
    let folder = catalog.folder(&RECIPES[0]);
    write_atomically(&folder.join("vmlinuz"), kernel).unwrap();
    write_atomically(&folder.join("initrd.gz"), initrd).unwrap();
    let files = [("vmlinuz".into(), sha256(kernel)), ("initrd.gz".into(), sha256(initrd))];
    let manifest = Manifest { recipe: RECIPES[0].version, packages: vec![], files: files.into() };
    write_atomically(&folder.join("manifest.json"), &serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn an_intact_entry_is_used_and_a_damaged_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path());
    let fetch = || catalog.fetch("busybox", &mut |_| ());
    assert!(matches!(fetch(), Err(CatalogError::Offline { what: "not fetched yet", .. })));
    plant(&catalog, b"kernel", b"initrd");
    assert_eq!(fs::read(fetch().unwrap().linux().unwrap().kernel).unwrap(), b"kernel");
    assert_eq!(catalog.entries()[0].state, EntryState::Ready);
    assert!(catalog.entries()[0].bytes > 0);
    fs::write(catalog.folder(&RECIPES[0]).join("vmlinuz"), b"kernal").unwrap();
    assert_eq!(catalog.entries()[0].state, EntryState::Stale);
    let error = fetch().unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("without --offline"), "{error}");
}

#[test]
fn unknown_names_are_told_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let error = catalog(folder.path()).fetch("busy", &mut |_| ()).unwrap_err().to_string();
    assert_eq!(error, "the catalogue has no \"busy\"; it has: busybox, busybox-full, busybox-i386, debian, debian-installer, memtest, ipxe");
}

#[test]
fn an_overlay_follows_the_initramfs_and_repeats() {
    let cache = tempfile::tempdir().unwrap();
    let extra = tempfile::tempdir().unwrap();
    let catalog = catalog(cache.path());
    plant(&catalog, b"kernel", &gzip(b"base"));
    fs::create_dir(extra.path().join("etc")).unwrap();
    fs::write(extra.path().join("etc/motd"), "hello").unwrap();
    std::os::unix::fs::symlink("etc/motd", extra.path().join("link")).unwrap();
    let build = || fs::read(catalog.initrd_with("busybox", extra.path(), &mut |_| ()).unwrap()).unwrap();
    let bytes = build();
    assert_eq!(bytes, build());
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    assert!(plain.starts_with(b"base070701"));
    let text = String::from_utf8_lossy(&plain);
    let order: Vec<_> = ["etc\0", "etc/motd\0", "hello", "link\0", "TRAILER!!!\0"].map(|s| text.find(s)).into();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}");
    let size = u32::from_str_radix(&text[4 + 54..4 + 62], 16).unwrap();
    assert_eq!((size, plain.len() % 4), (0, 0));
}
