//! What a user sees and types: pictures as PNG, texts as keystrokes.

use softmetal_bus::{GuestMemory, PAGE_SIZE, Time};
use softmetal_devices::i8042::{chord, scancodes_for};

use crate::machine::{Font, Image, Machine};

/// The picture as a PNG file.
#[must_use]
pub fn png(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width, image.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&image.rgb));
    // What is written to is memory, and a picture has the size that it says.
    if let Err(e) = written {
        log::error!("the picture cannot be encoded: {e}");
    }
    bytes
}

/// The keystrokes that type `text` on a US keyboard, each as scan codes of set 1.
///
/// # Errors
/// The first character that no key types.
pub fn strokes(text: &str) -> Result<Vec<Vec<u8>>, char> {
    text.chars().map(|c| scancodes_for(c).ok_or(c)).collect()
}

/// The keystrokes of a list like `f10,esc,ctrl-alt-del`, each as scan codes of set 1.
///
/// # Errors
/// The first name that no key has.
pub fn chords(list: &str) -> Result<Vec<Vec<u8>>, &str> {
    list.split(',').map(chord).collect()
}

/// What a font of 8 by 16 pixels in the order of code page 437 is known by: the blocks of the left and the right half, one
/// after the other, after a full block and the lower half, and blanks where blanks belong.
const HALVES: [u8; 32] = {
    let mut bytes = [0xf0; 32];
    let mut n = 16;
    while n < 32 {
        bytes[n] = 0x0f;
        n += 1;
    }
    bytes
};
/// Where they are in the font.
const AT: usize = 0xdd * 16;

fn font(bytes: &[u8; 4096]) -> Option<Box<Font>> {
    let font: Box<Font> = Box::new(std::array::from_fn(|n| std::array::from_fn(|row| bytes[n * 16 + row])));
    let blank = [0, 0x20, 0xff].iter().all(|&n: &usize| font[n] == [0; 16]);
    (blank && font[0xdb] == [0xff; 16] && font[AT / 16..][..2].as_flattened() == HALVES).then_some(font)
}

/// Reads the text on a machine's screen, in whatever fonts the guest has.
#[derive(Debug, Default)]
pub struct Reader {
    fonts: Vec<Box<Font>>,
    searched: Option<Time>,
}

/// Virtual time between two searches for fonts, in nanoseconds.
const SEARCH: u64 = Time::SECOND;

impl Reader {
    /// The text on the screen now, line by line, U+FFFD for what is no text; none without a display adapter.
    pub fn text(&mut self, machine: &Machine) -> Option<String> {
        let read = |fonts: &[Box<Font>]| machine.screen_text(&fonts.iter().map(|font| &**font).collect::<Vec<_>>());
        let text = read(&self.fonts)?;
        let now = machine.now();
        let soon = self.searched.is_some_and(|then| now.0 < then.0.saturating_add(SEARCH));
        if soon || !mostly_unreadable(&text) {
            return Some(text);
        }
        self.searched = Some(now);
        self.fonts = machine.fonts();
        read(&self.fonts)
    }
}

/// Whether a quarter of what is on a screen, or more, is no text.
fn mostly_unreadable(text: &str) -> bool {
    let signs = text.chars().filter(|c| !c.is_whitespace()).count();
    text.chars().filter(|&c| c == char::REPLACEMENT_CHARACTER).count() * 4 > signs
}

/// The most fonts that are looked for.
const FONTS: usize = 8;

/// The fonts of 8 by 16 pixels that lie in guest memory, such as that of a kernel's console.
#[must_use]
pub fn fonts(memory: &GuestMemory) -> Vec<Box<Font>> {
    let halves = memchr::memmem::Finder::new(&HALVES);
    let mut found: Vec<Box<Font>> = Vec::new();
    let mut window = vec![0; 2 * PAGE_SIZE];
    for page in memory.touched() {
        // A page with the start of the next one.
        let start = page * PAGE_SIZE as u64;
        let len = (window.len() as u64).min(memory.len() - start) as usize;
        if memory.read(start, &mut window[..len]).is_err() {
            continue;
        }
        let here = len.min(PAGE_SIZE + HALVES.len() - 1);
        for at in halves.find_iter(&window[..here]) {
            let mut bytes = [0; 4096];
            let Some(from) = (start + at as u64).checked_sub(AT as u64) else { continue };
            let Some(font) = memory.read(from, &mut bytes).ok().and_then(|()| font(&bytes)) else { continue };
            if !found.contains(&font) {
                found.push(font);
            }
            if found.len() == FONTS {
                return found;
            }
        }
    }
    found
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
        assert_eq!(strokes("aB\n").unwrap(), [&[0x1e, 0x9e][..], &[0x2a, 0x30, 0xb0, 0xaa], &[0x1c, 0x9c]]);
        assert_eq!(strokes("a\u{1f600}"), Err('\u{1f600}'));
        assert_eq!(chords("esc,f1").unwrap(), [[0x01, 0x81], [0x3b, 0xbb]]);
        assert_eq!(chords("esc,,f1"), Err(""));
    }

    #[test]
    fn a_font_is_found_in_memory() {
        let memory = GuestMemory::new(1 << 20).unwrap();
        let bytes = softmetal_firmware::FONT.as_flattened();
        // Across pages, at no round address.
        memory.write(0x1_2344, bytes).unwrap();
        memory.write(0x4_0000, bytes).unwrap();
        memory.write(0x8_0ddd, &HALVES).unwrap();
        memory.write(0xf_ffe0, &HALVES).unwrap();
        let found = fonts(&memory);
        assert_eq!(found.len(), 1);
        assert_eq!(*found[0], softmetal_firmware::FONT);
    }
}
