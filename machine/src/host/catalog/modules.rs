//! Kernel modules: which of them a guest needs, and the index files that `modprobe` reads (modules.dep(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{CatalogError, Result, deb, read_limited};

/// The modules of one kernel.
#[derive(Default)]
pub struct Tree {
    /// The kernel's release, as `uname -r` gives it.
    release: Option<String>,
    /// By name (with underscores).
    modules: BTreeMap<String, Module>,
    /// `modules.order` and `modules.builtin`.
    lists: BTreeMap<String, Vec<u8>>,
}

struct Module {
    /// Below `lib/modules/RELEASE/`, decompressed, hence ending in `.ko`.
    path: String,
    content: Vec<u8>,
    info: Info,
}

/// What a module's `.modinfo` section says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    depends: Vec<String>,
    aliases: Vec<String>,
}

impl Tree {
    /// Whether the file `path` of a package belongs in here.
    #[must_use]
    pub fn wants(path: &str) -> bool {
        split(path).is_some_and(|(_, file)| matches!(file, "modules.order" | "modules.builtin") || module_name(file).is_some())
    }

    /// Adds the file `path` of a package.
    pub fn add(&mut self, path: &str, content: Vec<u8>) -> Result<()> {
        let Some((release, file)) = split(path) else {
            return Ok(());
        };
        self.release.get_or_insert_with(|| release.to_string());
        let Some((name, ending)) = module_name(file) else {
            self.lists.insert(file.to_string(), content);
            return Ok(());
        };
        let unpack = |detail: String| CatalogError::Unpack { what: path.to_string(), detail };
        let stream = deb::decompress(Path::new(path), ending, &content[..])?;
        let content = read_limited(stream, 256 << 20).map_err(|e| unpack(e.to_string()))?;
        let info = modinfo(&content).ok_or_else(|| unpack("it is not a kernel module".into()))?;
        let path = file[..file.len() - ending.len()].to_string();
        self.modules.insert(name, Module { path, content, info });
        Ok(())
    }

    /// The files of those of `wanted` that there are (the rest is built in, or the kernel has none), of all that they
    /// depend on, and of the index.
    pub fn select(self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let Some(release) = &self.release else {
            return Ok(Vec::new());
        };
        let mut chosen = BTreeSet::new();
        let mut pending: Vec<String> = wanted.iter().map(|name| name.replace('-', "_")).collect();
        while let Some(name) = pending.pop() {
            if let Some(module) = self.modules.get(&name) {
                if chosen.insert(name) {
                    pending.extend(module.info.depends.iter().cloned());
                }
            }
        }
        let mut dep = String::new();
        let mut alias = String::from("# Aliases extracted from modules themselves.\n");
        for name in &chosen {
            let module = &self.modules[name];
            dep += &format!("{}:", module.path);
            for name in self.all_dependencies(name) {
                dep += &format!(" {}", self.modules[&name].path);
            }
            dep.push('\n');
            for pattern in &module.info.aliases {
                alias += &format!("alias {pattern} {name}\n");
            }
        }
        let folder = format!("lib/modules/{release}");
        let mut files: Vec<(String, Vec<u8>)> =
            vec![(format!("{folder}/modules.dep"), dep.into_bytes()), (format!("{folder}/modules.alias"), alias.into_bytes())];
        files.extend(self.lists.into_iter().map(|(name, content)| (format!("{folder}/{name}"), content)));
        files.extend(
            self.modules.into_iter().filter(|(name, _)| chosen.contains(name)).map(|(_, m)| (format!("{folder}/{}", m.path), m.content)),
        );
        Ok(files)
    }

    /// What `name` needs, directly or not, such that each stands before those that it needs.
    fn all_dependencies(&self, name: &str) -> Vec<String> {
        fn visit(tree: &Tree, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
            let Some(module) = tree.modules.get(name) else {
                return;
            };
            if seen.insert(name.to_string()) {
                for dependency in &module.info.depends {
                    visit(tree, dependency, seen, order);
                }
                order.push(name.to_string());
            }
        }
        let mut order = Vec::new();
        visit(self, name, &mut BTreeSet::new(), &mut order);
        order.pop();
        order.reverse();
        order
    }
}

/// The release and the rest of a path below `lib/modules` or `usr/lib/modules`.
fn split(path: &str) -> Option<(&str, &str)> {
    let below = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    below.split_once('/')
}

/// The module's name and the ending that tells its compression.
fn module_name(file: &str) -> Option<(String, &'static str)> {
    let base = file.rsplit('/').next()?;
    let (stem, rest) = base.rsplit_once(".ko")?;
    let ending = ["", ".xz", ".zst", ".gz"].into_iter().find(|e| *e == rest)?;
    Some((stem.replace('-', "_"), ending))
}

/// Where an ELF file's headers keep what is needed of its sections (System V ABI, Object Files).
struct Class {
    /// Bytes of an offset or a size.
    word: usize,
    /// In the file header: the section table's offset, then the size, the count and the names' index of its entries.
    table: usize,
    entries: usize,
    /// In a section header.
    offset: usize,
    size: usize,
}

const ELF32: Class = Class { word: 4, table: 0x20, entries: 0x2e, offset: 0x10, size: 0x14 };
const ELF64: Class = Class { word: 8, table: 0x28, entries: 0x3a, offset: 0x18, size: 0x20 };

/// Reads the `.modinfo` section of a little-endian ELF file: NUL-terminated `key=value` strings.
fn modinfo(elf: &[u8]) -> Option<Info> {
    let word = |at: usize, len: usize| {
        let bytes = elf.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b)))
    };
    let class = match elf.get(..6)? {
        b"\x7fELF\x01\x01" => ELF32,
        b"\x7fELF\x02\x01" => ELF64,
        _ => return None,
    };
    let entries = |n: usize| word(class.entries + 2 * n, 2);
    let (table, size, count, names) = (word(class.table, class.word)?, entries(0)?, entries(1)?, entries(2)?);
    let section = |i: usize| {
        let header = table.checked_add(i.checked_mul(size)?)?;
        let field = |at: usize| word(header.checked_add(at)?, class.word);
        let start = field(class.offset)?;
        Some((word(header, 4)?, elf.get(start..start.checked_add(field(class.size)?)?)))
    };
    let names = section(names)?.1?;
    let info = (0..count).find_map(|i| {
        let (name, bytes) = section(i)?;
        names.get(name..)?.starts_with(b".modinfo\0").then_some(bytes?)
    })?;
    let mut out = Info::default();
    for entry in info.split(|b| *b == 0) {
        let entry = String::from_utf8_lossy(entry);
        let names = |list: &str| -> Vec<String> { list.split([',', ' ']).filter(|n| !n.is_empty()).map(|n| n.replace('-', "_")).collect() };
        match entry.split_once('=') {
            Some(("depends", list)) => out.depends.extend(names(list)),
            Some(("softdep", list)) => {
                // "pre: a b post: c"; all of them go along, as modprobe would load them.
                let list = list.replace("pre:", " ").replace("post:", " ");
                out.depends.extend(names(&list));
            }
            Some(("alias", pattern)) => out.aliases.push(pattern.to_string()),
            _ => {}
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with a `.modinfo` section of these entries.
    fn module(class: &Class, info: &[&str]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let info: Vec<u8> = info.iter().flat_map(|e| e.bytes().chain([0])).collect();
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', (class.word / 4) as u8, 1]);
        let (at_names, at_info) = (64, 64 + names.len());
        let table = at_info + info.len();
        let put = |bytes: &mut [u8], at: usize, value: usize| {
            bytes[at..at + class.word].copy_from_slice(&value.to_le_bytes()[..class.word]);
        };
        put(&mut elf, class.table, table);
        for (n, value) in [64, 3, 2].into_iter().enumerate() {
            elf[class.entries + 2 * n] = value;
        }
        elf.extend(names);
        elf.extend(&info);
        for (name, start, len) in [(0u32, 0, 0), (1, at_info, info.len()), (10, at_names, names.len())] {
            let mut header = [0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            put(&mut header, class.offset, start);
            put(&mut header, class.size, len);
            elf.extend(header);
        }
        elf
    }

    #[test]
    fn modules_of_both_classes_are_read() {
        for class in [&ELF32, &ELF64] {
            let info = modinfo(&module(class, &["depends=crc16,a-b", "alias=pci:*"])).unwrap();
            assert_eq!((info.depends.join(" "), info.aliases.join(" ")), ("crc16 a_b".into(), "pci:*".into()));
        }
    }

    #[test]
    fn modules_come_with_what_they_need() {
        let mut tree = Tree::default();
        let base = "lib/modules/6.1.0-1/kernel";
        for (file, info) in [
            ("net-fail.ko", &["depends=fail-over", "alias=fail"][..]),
            ("virtio_net.ko", &["depends=net_failover,net-fail,virtio", "alias=virtio:d00000001v*"]),
            ("fail-over.ko", &["depends="]),
            ("sound.ko", &["depends=virtio"]),
        ] {
            let path = format!("{base}/{file}");
            assert!(Tree::wants(&path));
            tree.add(&path, module(&ELF64, info)).unwrap();
        }
        assert!(!Tree::wants("lib/modules/6.1.0-1/modules.builtin.modinfo"));
        assert!(tree.add("lib/modules/6.1.0-1/kernel/x.ko", b"\x7fELF\x02\x01".to_vec()).is_err());
        let files: BTreeMap<String, Vec<u8>> = tree.select(&["virtio-net", "absent"]).unwrap().into_iter().collect();
        let text = |name: &str| String::from_utf8(files[&format!("lib/modules/6.1.0-1/{name}")].clone()).unwrap();
        assert_eq!(
            text("modules.dep"),
            "kernel/fail-over.ko:\nkernel/net-fail.ko: kernel/fail-over.ko\n\
             kernel/virtio_net.ko: kernel/net-fail.ko kernel/fail-over.ko\n"
        );
        assert!(text("modules.alias").ends_with("alias fail net_fail\nalias virtio:d00000001v* virtio_net\n"));
        assert!(!files.contains_key("lib/modules/6.1.0-1/kernel/sound.ko"));
    }
}
