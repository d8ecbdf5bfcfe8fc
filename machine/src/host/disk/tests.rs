//! Images as guests see them.

use super::*;

fn image(len: usize) -> tempfile::NamedTempFile {
    let f = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(f.path(), (0..len).map(|i| i as u8).collect::<Vec<_>>()).unwrap();
    f
}

#[test]
fn overlay_keeps_the_file() {
    let f = image(100 * 1024);
    let before = std::fs::read(f.path()).unwrap();
    let mut d = open(f.path(), &DiskMode { snapshot: true, ..DiskMode::default() }).unwrap();
    d.write_at(65530, &[0xaa; 20]).unwrap();
    let mut b = [0; 24];
    d.read_at(65528, &mut b).unwrap();
    assert_eq!(b[..2], before[65528..65530]);
    assert_eq!(b[2..22], [0xaa; 20]);
    assert_eq!(b[22..], before[65550..65552]);
    assert!(d.write_at(100 * 1024 - 1, &[0; 2]).is_err());
    assert_eq!(std::fs::read(f.path()).unwrap(), before);
}

#[test]
fn two_runs_cannot_write_one_image() {
    let f = image(1024);
    let first = open(f.path(), &DiskMode::default()).unwrap();
    let Err(e) = open(f.path(), &DiskMode::default()) else { panic!("the second run got the disk") };
    assert!(e.0.contains("in use"), "{e}");
    drop(first);
    let mut d = open(f.path(), &DiskMode::default()).unwrap();
    d.write_at(512, b"hello").unwrap();
    drop(d);
    assert_eq!(&std::fs::read(f.path()).unwrap()[512..517], b"hello");
}

#[test]
fn bad_images_are_refused() {
    for len in [0, 100, 513] {
        assert!(open(image(len).path(), &DiskMode::default()).is_err(), "{len}");
    }
    assert!(open(Path::new("/nonexistent/disk"), &DiskMode::default()).is_err());
    assert!(open(Path::new("/"), &DiskMode { read_only: true, ..DiskMode::default() }).is_err());
}
