//! A FAT16 file system made whole, for EFI system partitions (Microsoft's "FAT: General Overview of On-Disk Format").

use std::collections::BTreeMap;

const SECTOR: usize = 512;
/// Sectors of a cluster.
const CLUSTER: usize = 2;
const ROOT_ENTRIES: usize = 512;
const ENTRY: usize = 32;
/// The end of a chain of clusters.
const LAST: u16 = 0xffff;
/// FAT16 has from 4085 to 65524 clusters.
const CLUSTERS: std::ops::Range<usize> = 4085..65525;

#[derive(Default)]
struct Folder<'a> {
    files: BTreeMap<&'a str, &'a [u8]>,
    folders: BTreeMap<&'a str, Folder<'a>>,
}

impl<'a> Folder<'a> {
    fn add(&mut self, path: &'a str, content: &'a [u8]) {
        match path.split_once('/') {
            Some((folder, rest)) => self.folders.entry(folder).or_default().add(rest, content),
            None => drop(self.files.insert(path, content)),
        }
    }
}

/// The clusters that are in use, and what they hold.
struct Volume {
    fat: Vec<u16>,
    data: Vec<u8>,
}

impl Volume {
    /// A chain of free clusters with `content`, or none (0) for nothing. `None` if the volume is full.
    fn store(&mut self, content: &[u8], capacity: usize) -> Option<u16> {
        if content.is_empty() {
            return Some(0);
        }
        let first = self.fat.len();
        let count = content.len().div_ceil(CLUSTER * SECTOR);
        if first + count > capacity + 2 {
            return None;
        }
        self.fat.extend((first + 1..first + count).map(|next| next as u16));
        self.fat.push(LAST);
        self.data.extend(content);
        self.data.resize((self.fat.len() - 2) * CLUSTER * SECTOR, 0);
        Some(first as u16)
    }

    /// The entries of `folder`, whose contents are stored. Those below come first, so each `..` is filled in by the caller.
    fn entries(&mut self, folder: &Folder, capacity: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (name, content) in &folder.files {
            let first = self.store(content, capacity)?;
            out.extend(entry(name, 0x20, first, content.len() as u32));
        }
        for (name, below) in &folder.folders {
            let mut content = [entry(".", 0x10, 0, 0), entry("..", 0x10, 0, 0)].concat();
            content.extend(self.entries(below, capacity)?);
            let first = self.store(&content, capacity)?;
            let at = (usize::from(first) - 2) * CLUSTER * SECTOR;
            self.data[at + 26..at + 28].copy_from_slice(&first.to_le_bytes());
            // The folders in this one learn where it is.
            for child in content[2 * ENTRY..].chunks(ENTRY).filter(|e| e[11] == 0x10) {
                let child = usize::from(u16::from_le_bytes([child[26], child[27]]));
                let parent = (child - 2) * CLUSTER * SECTOR + ENTRY + 26;
                self.data[parent..parent + 2].copy_from_slice(&first.to_le_bytes());
            }
            out.extend(entry(name, 0x10, first, 0));
        }
        Some(out)
    }
}

/// A directory entry of 1 January 1980.
fn entry(name: &str, attributes: u8, first: u16, size: u32) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    out[..11].fill(b' ');
    let (stem, ending) = if name.starts_with('.') { (name, "") } else { name.split_once('.').unwrap_or((name, "")) };
    out[..stem.len()].copy_from_slice(stem.as_bytes());
    out[8..8 + ending.len()].copy_from_slice(ending.as_bytes());
    out[11] = attributes;
    for date in [16, 18, 24] {
        out[date] = 0x21;
    }
    out[26..28].copy_from_slice(&first.to_le_bytes());
    out[28..32].copy_from_slice(&size.to_le_bytes());
    out
}

/// A volume of `sectors` sectors that begins at sector `hidden` of its disk, with `files`: upper-case 8.3 paths and contents.
/// `None` if they do not fit or `sectors` make no FAT16 volume.
pub fn image(sectors: u32, hidden: u32, files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let root_sectors = ROOT_ENTRIES * ENTRY / SECTOR;
    let all = sectors as usize;
    let fat_sectors = (all / CLUSTER + 2).div_ceil(SECTOR / 2);
    let capacity = all.checked_sub(1 + 2 * fat_sectors + root_sectors)? / CLUSTER;
    if !CLUSTERS.contains(&capacity) {
        return None;
    }
    let mut root = Folder::default();
    for (path, content) in files {
        root.add(path, content);
    }
    let mut volume = Volume { fat: vec![0xfff8, LAST], data: Vec::new() };
    let entries = volume.entries(&root, capacity)?;
    if entries.len() > ROOT_ENTRIES * ENTRY {
        return None;
    }

    let mut out = vec![0; SECTOR];
    out[..11].copy_from_slice(b"\xeb\x3c\x90MSWIN4.1");
    let mut field = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    field(11, &(SECTOR as u16).to_le_bytes());
    field(13, &[CLUSTER as u8, 1, 0, 2]);
    field(17, &(ROOT_ENTRIES as u16).to_le_bytes());
    field(19, &u16::try_from(sectors).unwrap_or(0).to_le_bytes());
    field(21, &[0xf8]);
    field(22, &(fat_sectors as u16).to_le_bytes());
    field(24, &63u16.to_le_bytes());
    field(26, &255u16.to_le_bytes());
    field(28, &hidden.to_le_bytes());
    field(32, &(if sectors > 0xffff { sectors } else { 0 }).to_le_bytes());
    field(36, &[0x80, 0, 0x29]);
    field(39, &0x534d_4546u32.to_le_bytes());
    field(43, b"EFI        FAT16   ");
    // A BIOS that starts this sector is stopped: hlt; jmp $-1.
    field(62, &[0xf4, 0xeb, 0xfd]);
    field(510, &[0x55, 0xaa]);

    let mut fat: Vec<u8> = volume.fat.iter().flat_map(|next| next.to_le_bytes()).collect();
    fat.resize(fat_sectors * SECTOR, 0);
    out.extend(&fat);
    out.extend(&fat);
    out.extend(entries);
    out.resize((1 + 2 * fat_sectors + root_sectors) * SECTOR, 0);
    out.extend(volume.data);
    out.resize(all * SECTOR, 0);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(image: &[u8], at: usize) -> usize {
        usize::from(u16::from_le_bytes([image[at], image[at + 1]]))
    }

    /// The place and the size of `path`, found as a reader would.
    fn find(image: &[u8], path: &str) -> Option<(usize, usize)> {
        let fat = word(image, 22);
        let root = (1 + 2 * fat) * 512;
        let data = root + word(image, 17) * 32;
        let mut at = root;
        let mut size = 0;
        for name in path.split('/') {
            let (stem, ending) = name.rsplit_once('.').filter(|(stem, _)| !matches!(*stem, "" | ".")).unwrap_or((name, ""));
            let wanted = format!("{stem:<8}{ending:<3}");
            let entry = image[at..].chunks(32).take_while(|e| e[0] != 0).find(|e| e[..11] == *wanted.as_bytes())?;
            at = data + (word(entry, 26) - 2) * 1024;
            size = word(entry, 28) + (word(entry, 30) << 16);
        }
        Some((at, size))
    }

    #[test]
    fn files_are_found_where_the_folders_say() {
        let large: Vec<u8> = (0..150_000u32).map(|i| (i >> 8) as u8 ^ i as u8).collect();
        let image = image(30_000, 2048, &[("EFI/BOOT/BOOTX64.EFI", &large), ("EFI/README", b"hi"), ("A.B", b"")]).unwrap();
        assert_eq!(image.len(), 30_000 * 512);
        let (at, size) = find(&image, "EFI/BOOT/BOOTX64.EFI").unwrap();
        assert_eq!(&image[at..at + size], &large[..]);
        let (at, size) = find(&image, "EFI/README").unwrap();
        assert_eq!(&image[at..at + size], b"hi");
        assert_eq!(find(&image, "EFI/BOOT/..").map(|(at, _)| at), find(&image, "EFI").map(|(at, _)| at));
        assert_eq!(find(&image, "EFI/BOOT/.").map(|(at, _)| at), find(&image, "EFI/BOOT").map(|(at, _)| at));
        // The chain of the large file, and the two copies of the table.
        let first = (find(&image, "EFI/BOOT/BOOTX64.EFI").unwrap().0 - (1 + 2 * word(&image, 22) + 32) * 512) / 1024 + 2;
        let chain = std::iter::successors(Some(first), |c| Some(word(&image, 512 + 2 * c)).filter(|n| *n != 0xffff));
        assert_eq!(chain.count(), large.len().div_ceil(1024));
        let fat = word(&image, 22) * 512;
        assert_eq!(image[512..512 + fat], image[512 + fat..512 + 2 * fat]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let large = vec![0; 20 << 20];
        assert!(image(30_000, 0, &[("A", &large)]).is_none());
        assert!(image(1000, 0, &[]).is_none() && image(1 << 30, 0, &[]).is_none());
    }
}
