//! What a user sees and types: pictures as PNG, texts as keystrokes.

pub use softmetal_devices::i8042::scancodes_for;

use crate::machine::Image;

/// The picture as a PNG file.
#[must_use]
pub fn png(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width, image.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&image.rgb));
    if let Err(e) = written {
        log::error!("the picture cannot be encoded: {e}");
    }
    bytes
}

/// The scan codes (set 1) that type `text` on a US keyboard; characters without a key are left out, with a log line.
#[must_use]
pub fn strokes(text: &str) -> Vec<u8> {
    let codes = text.chars().map(|c| {
        scancodes_for(c).unwrap_or_else(|| {
            log::warn!("the keyboard has no key for {c:?}");
            Vec::new()
        })
    });
    codes.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_holds_the_pixels() {
        let image = Image { width: 3, height: 2, rgb: (0..18).collect() };
        let file = png(&image);
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let mut pixels = vec![0; 18];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, pixels), (3, 2, image.rgb));
    }

    #[test]
    fn texts_are_typed() {
        assert_eq!(strokes("aB\n\u{1f600}"), [0x1e, 0x9e, 0x2a, 0x30, 0xb0, 0xaa, 0x1c, 0x9c]);
    }
}
