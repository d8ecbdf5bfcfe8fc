//! The ELF kernel inside a bzImage.

use std::io::{self, Read};

use super::{CatalogError, read_limited};

/// No kernel is near this size.
const LARGEST: u64 = 512 << 20;

/// Unpacks the ELF `vmlinux` that a bzImage carries compressed (`payload_offset` and `payload_length` of the Linux/x86
/// boot protocol, 2.08 or later).
///
/// # Errors
/// [`CatalogError::Unpack`] when the image is no such bzImage, is damaged, or is compressed with bzip2 or LZO.
pub fn extract_vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, CatalogError> {
    let fail = |detail: String| CatalogError::Unpack { what: "the kernel image".into(), detail };
    let payload = payload(bzimage).ok_or_else(|| fail("it is not a bzImage of boot protocol 2.08 or later".into()))?;
    let stream: Box<dyn Read + '_> = match payload {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(liblzma::read::XzDecoder::new(payload)),
        [0x5d, 0, 0, ..] => {
            let lzma = liblzma::stream::Stream::new_lzma_decoder(u64::MAX).map_err(|e| fail(e.to_string()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(payload, lzma))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(payload).map_err(|e| fail(format!("bad zstd data ({e})")))?)
        }
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => Box::new(io::Cursor::new(lz4_legacy(rest).ok_or_else(|| fail("bad LZ4 data".into()))?)),
        [0x7f, b'E', b'L', b'F', ..] => Box::new(payload),
        _ => {
            return Err(fail("its compression is not one of gzip, xz, lzma, zstd and LZ4".into()));
        }
    };
    let elf = read_limited(stream, LARGEST).map_err(|e| fail(format!("it is damaged ({e})")))?;
    if !elf.starts_with(b"\x7fELF") {
        return Err(fail("what it carries is not an ELF file".into()));
    }
    Ok(elf)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize, len: usize| Some(image.get(at..at + len)?.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b)));
    if image.get(0x202..0x206)? != b"HdrS" || word(0x206, 2)? < 0x208 {
        return None;
    }
    // 0 setup sectors mean 4; the boot sector comes on top.
    let setup = match word(0x1f1, 1)? {
        0 => 4,
        n => n,
    };
    let start = (setup + 1) * 512 + word(0x248, 4)?;
    image.get(start..start.checked_add(word(0x24c, 4)?)?)
}

/// LZ4's legacy frame without its magic: blocks of up to 8 MiB, each after its compressed length. The kernel's build
/// appends the unpacked length, which is no block.
fn lz4_legacy(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while rest.len() > 4 {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        lz4_block(after.get(..len)?, &mut out)?;
        rest = &after[len..];
    }
    Some(out)
}

fn lz4_block(mut src: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let long = |src: &mut &[u8], nibble: u8| {
        let mut len = usize::from(nibble);
        let mut more = nibble == 15;
        while more {
            let (byte, rest) = src.split_first()?;
            *src = rest;
            len += usize::from(*byte);
            more = *byte == 255;
        }
        Some(len)
    };
    while let Some((token, rest)) = src.split_first() {
        src = rest;
        let literals = long(&mut src, token >> 4)?;
        out.extend(src.get(..literals)?);
        src = &src[literals..];
        let Some((distance, rest)) = src.split_first_chunk::<2>() else {
            break;
        };
        src = rest;
        let distance = usize::from(u16::from_le_bytes(*distance));
        let len = long(&mut src, token & 15)? + 4;
        if distance == 0 || distance > out.len() - start || out.len() as u64 + len as u64 > LARGEST {
            return None;
        }
        for _ in 0..len {
            out.push(out[out.len() - distance]);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206] = 0x0f;
        image[0x207] = 0x02;
        image[0x248] = 16;
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn every_compression_gives_the_kernel_back() {
        let kernel = b"\x7fELFabcabcabcabcabcabcabcabcabcabcX";
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(kernel).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(kernel).unwrap();
        // The kernel's build appends the unpacked size after xz data.
        let xz = [xz.finish().unwrap(), vec![kernel.len() as u8, 0, 0, 0]].concat();
        // 7 literals, then a match of 27 at distance 3, then 1 literal.
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18, 14, 0, 0, 0, 0x7f];
        lz4.extend(b"\x7fELFabc\x03\x00\x08\x10X");
        lz4.splice(4..8, (lz4.len() as u32 - 8).to_le_bytes());
        lz4.extend([34, 0, 0, 0]);
        for packed in [gz.finish().unwrap(), xz, lz4] {
            assert_eq!(extract_vmlinux(&image(&packed)).unwrap(), kernel);
        }
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [vec![], vec![0; 2000], image(b"\x1f\x8bgarbage"), image(b"BZh91AY")] {
            assert!(matches!(extract_vmlinux(&bytes), Err(CatalogError::Unpack { .. })));
        }
        let mut cut = image(b"\x7fELF");
        cut.pop();
        assert!(extract_vmlinux(&cut).is_err());
    }
}
