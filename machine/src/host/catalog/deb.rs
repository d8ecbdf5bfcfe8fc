//! Debian packages: an `ar` archive with a compressed tar in it (deb(5)).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{CatalogError, Result, at, read_limited};

/// No single file that we take is near this size.
const LARGEST: u64 = 256 << 20;

/// A file in a package that may be read.
pub struct Content<'a> {
    package: &'a Path,
    stream: &'a mut dyn Read,
}

impl Content<'_> {
    /// The whole file.
    pub fn read(self) -> Result<Vec<u8>> {
        read_limited(self.stream, LARGEST).map_err(at(self.package))
    }
}

/// Calls `f` with the path (without a leading `./`) and content of every regular file in `package`.
pub fn each_file(package: &Path, f: impl FnMut(&str, Content) -> Result<()>) -> Result<()> {
    let mut archive = ar::Archive::new(File::open(package).map_err(at(package))?);
    while let Some(member) = archive.next_entry() {
        let member = member.map_err(at(package))?;
        let name = String::from_utf8_lossy(member.header().identifier()).trim_end_matches('/').to_string();
        if let Some(compression) = name.strip_prefix("data.tar") {
            return walk(package, decompress(package, compression, member)?, f);
        }
    }
    Err(CatalogError::Unpack { what: package.display().to_string(), detail: "it is not a Debian package".into() })
}

/// Undoes the compression that a file name's ending tells.
pub fn decompress<'a>(what: &Path, ending: &str, stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let unpack = |detail: String| CatalogError::Unpack { what: what.display().to_string(), detail };
    Ok(match ending {
        "" => Box::new(stream),
        ".gz" => Box::new(flate2::read::GzDecoder::new(stream)),
        ".xz" => Box::new(liblzma::read::XzDecoder::new(stream)),
        ".zst" => Box::new(ruzstd::decoding::StreamingDecoder::new(stream).map_err(|e| unpack(format!("bad zstd data ({e})")))?),
        other => return Err(unpack(format!("compression {other:?} is not supported"))),
    })
}

fn walk(package: &Path, stream: impl Read, mut f: impl FnMut(&str, Content) -> Result<()>) -> Result<()> {
    let mut tar = tar::Archive::new(stream);
    let broken =
        |e: io::Error| CatalogError::Unpack { what: package.display().to_string(), detail: format!("the package is damaged ({e})") };
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if entry.header().entry_type().is_file() {
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            f(path.trim_start_matches("./"), Content { package, stream: &mut entry })?;
        }
    }
    Ok(())
}
