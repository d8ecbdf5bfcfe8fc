//! The controller, the keyboard and the mouse as a driver sees them.

use softmetal_bus::Effect;

use super::*;
use crate::testing::Rig;

const SECOND: u64 = Time::SECOND;

struct Bench(Rig, I8042);

impl Bench {
    fn new() -> Self {
        Self(Rig::new(), I8042::new())
    }
    fn command(&mut self, value: u64) {
        self.0.write(&mut self.1, 1, 0, 1, value);
    }
    fn data(&mut self, value: u64) {
        self.0.write(&mut self.1, 0, 0, 1, value);
    }
    fn status(&mut self) -> u8 {
        self.0.read(&mut self.1, 1, 0, 1) as u8
    }
    /// What port 0x60 gives, byte by byte, until nothing more comes.
    fn drain(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            self.0.run(&mut self.1, PAUSE);
            if self.status() & status::OUTPUT_FULL == 0 {
                return bytes;
            }
            bytes.push(self.0.read(&mut self.1, 0, 0, 1) as u8);
        }
    }
    fn keyboard(&mut self, bytes: &[u64]) -> Vec<u8> {
        bytes.iter().for_each(|&byte| self.data(byte));
        self.drain()
    }
    fn mouse(&mut self, byte: u64) -> Vec<u8> {
        self.command(0xd4);
        self.data(byte);
        self.drain()
    }
    fn keys(&mut self, codes: &[u8]) {
        let input = Input::Scancodes(codes.to_vec());
        self.1.input(&mut self.0.ctx(), &input);
    }
}

#[test]
fn controller() {
    let mut b = Bench::new();
    b.command(0xaa);
    assert_eq!(b.status(), 0x1d);
    assert_eq!(b.drain(), [0x55]);
    b.command(0x60);
    b.data(0x74);
    assert_eq!(b.status() & status::COMMAND, 0);
    b.command(0x20);
    assert_eq!(b.drain(), [0x74]);
    b.command(0xa7);
    b.command(0xae);
    b.command(0x20);
    assert_eq!(b.drain(), [0x64]);
    b.command(0xd3);
    b.data(0x5a);
    assert_eq!(b.status() & status::FROM_MOUSE, status::FROM_MOUSE);
    assert_eq!(b.drain(), [0x5a]);
    b.0.take();
    b.command(0xd1);
    b.data(0x01);
    b.command(0xd1);
    b.data(0x03);
    b.command(0xfe);
    b.command(0xff);
    let requests: Vec<_> = b.0.take().into_iter().collect();
    let expected = [Request::A20(false), Request::A20(true), Request::ResetProcessor];
    assert_eq!(requests, expected.map(Effect::Request));
    // Commands without end fill no queue.
    (0..1000).for_each(|_| b.command(0x20));
    assert!(b.drain().len() <= 17);
}

#[test]
fn keyboard_answers() {
    let mut b = Bench::new();
    assert_eq!(b.keyboard(&[0xff]), [0xfa, 0xaa]);
    assert_eq!(b.keyboard(&[0xf2]), [0xfa, 0xab, 0x41], "translated");
    assert_eq!(b.keyboard(&[0xed, 0x07]), [0xfa, 0xfa]);
    assert_eq!(b.keyboard(&[0xee]), [0xee]);
    assert_eq!(b.keyboard(&[0xf3, 0x20]), [0xfa, 0xfa]);
    b.command(0x60);
    b.data(0x05);
    assert_eq!(b.keyboard(&[0xf2]), [0xfa, 0xab, 0x83]);
    assert_eq!(b.keyboard(&[0xf0, 0]), [0xfa, 0xfa, 2]);
    assert_eq!(b.keyboard(&[0xfe]), [2], "resend");
    assert_eq!(b.keyboard(&[0x01]), [0xfe], "not a command");
}

#[test]
fn keys_in_either_set() {
    let mut b = Bench::new();
    // A, right arrow, Pause.
    let codes = [0x1e, 0x9e, 0xe0, 0x4d, 0xe0, 0xcd, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5];
    b.keys(&codes);
    assert_eq!(b.drain(), codes);
    b.command(0x60);
    b.data(0x05);
    b.keys(&codes[..6]);
    let set2 = [0x1c, 0xf0, 0x1c, 0xe0, 0x74, 0xe0, 0xf0, 0x74];
    assert_eq!(b.drain(), set2);
    b.keyboard(&[0xf0, 1]);
    b.keys(&codes);
    assert_eq!(b.drain(), codes);
    b.keyboard(&[0xf5]);
    b.keys(&codes);
    assert_eq!(b.drain(), []);
    // The scan codes of a flood are bounded.
    b.keyboard(&[0xf4]);
    (0..10_000).for_each(|_| b.keys(&codes));
    assert!(b.drain().len() < 2000);
}

#[test]
fn a_held_key_repeats() {
    let mut b = Bench::new();
    let mut pressed = |rate: u64, ms: u64| {
        b.keyboard(&[0xf3, rate]);
        b.keys(&[0x1e]);
        let mut bytes = Vec::new();
        for _ in 0..ms {
            b.0.run(&mut b.1, 1_000_000 - PAUSE);
            bytes.extend(b.drain());
        }
        b.keys(&[0x9e]);
        let last = b.drain();
        assert_eq!((last, bytes.iter().all(|&b| b == 0x1e)), (vec![0x9e], true));
        b.0.run(&mut b.1, SECOND);
        assert_eq!(b.drain(), [], "not after it was released");
        bytes.len()
    };
    assert_eq!(pressed(0x7f, 990), 1, "delay 1 s");
    assert_eq!(pressed(0x00, 240), 1, "delay 250 ms");
    assert_eq!(pressed(0x00, 260), 2);
    let (fast, slow) = (pressed(0x00, 1000), pressed(0x1f, 1000));
    assert!((23..=24).contains(&fast) && slow == 3, "30 and 2 a second: {fast}, {slow}");
    // The last key down repeats, and a repetition that somebody else makes is one too many.
    b.keyboard(&[0xf3, 0x00]);
    b.keys(&[0x1e, 0x1e, 0x30]);
    assert_eq!(b.drain(), [0x1e, 0x30]);
    b.0.run(&mut b.1, SECOND / 4);
    assert_eq!(b.drain(), [0x30]);
    b.keys(&[0x9e, 0xb0]);
    b.drain();
    // Nobody reads: one repetition waits, not thousands.
    b.keys(&[0x1e]);
    b.0.run(&mut b.1, 60 * SECOND);
    assert!(b.drain().len() < 4);
}

#[test]
fn set_3_and_the_lights() {
    let mut b = Bench::new();
    b.command(0x60);
    b.data(0x05);
    assert_eq!(b.keyboard(&[0xf0, 3]), [0xfa, 0xfa]);
    assert_eq!(b.keyboard(&[0xf0, 0]), [0xfa, 0xfa, 3]);
    // A and Escape tell nothing of their release, Shift does; the arrow has a code of its own, its Shift codes have none.
    b.keys(&[0x1e, 0x9e, 0x01, 0x81, 0x2a, 0xaa, 0xe0, 0x2a, 0xe0, 0x4b, 0xe0, 0xcb, 0xe0, 0xaa]);
    assert_eq!(b.drain(), [0x1c, 0x08, 0x12, 0xf0, 0x12, 0x61]);
    b.keys(&[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    assert_eq!(b.drain(), [0x62], "Pause");
    // All keys make and break; then A makes only.
    assert_eq!(b.keyboard(&[0xf8]), [0xfa]);
    b.keys(&[0x1e, 0x9e]);
    assert_eq!(b.drain(), [0x1c, 0xf0, 0x1c]);
    assert_eq!(b.keyboard(&[0xfd, 0x1c]), [0xfa, 0xfa]);
    assert_eq!(b.keyboard(&[0xf4]), [0xfa]);
    b.keys(&[0x1e, 0x9e, 0x30, 0xb0]);
    assert_eq!(b.drain(), [0x1c, 0x32, 0xf0, 0x32]);
    assert_eq!((b.keyboard(&[0xed, 5]), b.1.leds()), (vec![0xfa, 0xfa], 5));
    assert_eq!(b.keyboard(&[0xed, 0xf2]), [0xfa, 0xfa, 0xab, 0x83], "a command instead of a parameter");
    assert_eq!(b.keyboard(&[0xf6]), [0xfa]);
    assert_eq!(b.keyboard(&[0xf0, 0]), [0xfa, 0xfa, 2]);
}

#[test]
fn one_interrupt_a_byte() {
    let mut b = Bench::new();
    b.keys(&[0x1e, 0x9e]);
    assert_eq!(b.0.take_line(0), [true]);
    let read = |b: &mut Bench| b.0.read(&mut b.1, 0, 0, 1);
    assert_eq!(read(&mut b), 0x1e);
    assert_eq!(read(&mut b), 0x1e, "the same byte again");
    assert_eq!(b.0.take_line(0), [false]);
    b.0.run(&mut b.1, PAUSE);
    assert_eq!(b.0.take_line(0), [true]);
    assert_eq!(read(&mut b), 0x9e);
    // Keys wait while the keyboard is off.
    b.command(0xad);
    b.keys(&[0x1e]);
    assert_eq!(b.drain(), []);
    b.command(0xae);
    assert_eq!(b.drain(), [0x1e]);
}

#[test]
fn mouse() {
    let mut b = Bench::new();
    b.command(0x60);
    b.data(0x47);
    b.0.take();
    assert_eq!(b.mouse(0xff), [0xfa, 0xaa, 0x00]);
    assert_eq!(b.0.take_line(1).len(), 6);
    assert_eq!(b.mouse(0xf2), [0xfa, 0x00]);
    assert_eq!(b.mouse(0xf3), [0xfa]);
    assert_eq!(b.mouse(200), [0xfa]);
    assert_eq!(b.mouse(0xf4), [0xfa]);
    assert_eq!(b.mouse(0xe9), [0xfa, 0x20, 2, 200]);
    assert_eq!(b.mouse(0xeb), [0xfa, 0x08, 0, 0]);
    assert_eq!(b.mouse(0x77), [0xfe]);
}

#[test]
fn the_mouse_moves() {
    let mut b = Bench::new();
    let moved = |b: &mut Bench, dx, dy, wheel, buttons| {
        let input = Input::Mouse { dx, dy, wheel, buttons };
        b.1.input(&mut b.0.ctx(), &input);
    };
    moved(&mut b, 5, 5, 0, 1);
    assert_eq!(b.drain(), [], "not before reports are switched on");
    b.mouse(0xf6);
    assert_eq!(b.mouse(0xf4), [0xfa]);
    moved(&mut b, 5, 3, 0, 1);
    assert_eq!(b.drain(), [0x29, 5, 0xfd]);
    b.0.run(&mut b.1, SECOND / 100);
    moved(&mut b, -300, 0, 1, 4);
    assert_eq!(b.drain(), [0x1c, 0x00, 0], "no wheel");
    b.0.run(&mut b.1, SECOND / 100);
    assert_eq!(b.drain(), [0x1c, 0xd4, 0], "the rest, when the rate permits");
    for rate in [200, 100, 80] {
        b.mouse(0xf3);
        b.mouse(rate);
    }
    assert_eq!(b.mouse(0xf2), [0xfa, 3], "IntelliMouse");
    b.drain();
    b.0.run(&mut b.1, SECOND);
    moved(&mut b, 0, -1, -2, 2);
    assert_eq!(b.drain(), [0x0a, 0, 1, 0xfe]);
    assert_eq!(b.mouse(0xfe), [0x0a, 0, 1, 0xfe], "resend");
    // Another knock: the buttons at the side.
    for rate in [200, 200, 80] {
        b.mouse(0xf3);
        b.mouse(rate);
    }
    assert_eq!(b.mouse(0xf2), [0xfa, 4], "Explorer");
    b.0.run(&mut b.1, SECOND);
    moved(&mut b, 0, 0, -1, 0x11);
    assert_eq!(b.drain(), [0x09, 0, 0, 0x2f]);
    b.0.run(&mut b.1, SECOND);
    // 2:1 scaling, in stream mode only.
    b.mouse(0xe7);
    moved(&mut b, 3, 10, 0, 0);
    assert_eq!(b.drain(), [0x28, 3, 0xec, 0]);
    moved(&mut b, 5, 0, 0, 0);
    assert_eq!(b.mouse(0xeb), [0xfa, 0x08, 5, 0, 0]);
    assert_eq!(b.mouse(0xe9), [0xfa, 0x30, 2, 80]);
    b.mouse(0xe6);
    b.mouse(0xe8);
    assert_eq!((b.mouse(3), b.mouse(0xe9)), (vec![0xfa], vec![0xfa, 0x20, 3, 80]));
    // Wrap mode: an echo of all but two commands.
    b.mouse(0xee);
    assert_eq!((b.mouse(0xf2), b.mouse(0x55), b.mouse(0xec)), (vec![0xf2], vec![0x55], vec![0xfa]));
    assert_eq!(b.mouse(0xf2), [0xfa, 4]);
    assert_eq!((b.mouse(0x11), b.mouse(0x12), b.mouse(0x13)), (vec![0xfe], vec![0xfc], vec![0xfc]));
    // Disabled: nothing is kept.
    b.mouse(0xf5);
    b.0.run(&mut b.1, SECOND);
    moved(&mut b, 1, 1, 1, 1);
    assert_eq!((b.drain(), b.mouse(0xf4)), (vec![], vec![0xfa]));
    assert_eq!(b.drain(), []);
    assert_eq!(b.mouse(0xff), [0xfa, 0xaa, 0]);
    assert_eq!(b.mouse(0xf2), [0xfa, 0], "a standard mouse again");
    b.mouse(0xf4);
    // In remote mode the host asks, and gets all that has gathered.
    b.mouse(0xf0);
    moved(&mut b, 7, 0, 0, 0);
    moved(&mut b, 7, 0, 1, 0);
    assert_eq!(b.drain(), []);
    assert_eq!(b.mouse(0xeb), [0xfa, 0x08, 14, 0]);
    // A flood is bounded.
    b.mouse(0xea);
    (0..10_000).for_each(|_| moved(&mut b, i16::MAX, i16::MIN, 127, 7));
    assert!(b.drain().len() < 400);
}

#[test]
fn state_goes_round() {
    let mut a = Bench::new();
    a.keys(&[0x1e, 0x9e, 0xe0]);
    let mut copy = I8042::new();
    copy.load(&a.1.save()).unwrap();
    let mut b = Bench(Rig::new(), copy);
    assert_eq!(a.drain(), b.drain());
}
