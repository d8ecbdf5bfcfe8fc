use super::*;
use std::io::{Read, Write};

/// A guest whose memory is one page at 0x1000 and whose instructions are one byte each.
struct Toy {
    registers: Registers,
    memory: Vec<u8>,
    breakpoints: BTreeSet<u64>,
    resets: u32,
}

impl Toy {
    fn new() -> Self {
        let mut registers = Registers { cr3: 0x0123_4567_89ab_cdef, ..Registers::default() };
        registers.core.rip = 0x1000;
        Self { registers, memory: (0..=255).cycle().take(4096).collect(), breakpoints: BTreeSet::new(), resets: 0 }
    }
}

impl DebugTarget for Toy {
    fn registers(&mut self) -> Registers {
        self.registers.clone()
    }
    fn set_registers(&mut self, registers: &Registers) {
        self.registers = registers.clone();
    }
    fn read_memory(&mut self, linear: u64, buf: &mut [u8]) -> usize {
        let start = linear.wrapping_sub(0x1000) as usize;
        let bytes = self.memory.get(start..).unwrap_or_default();
        let len = bytes.len().min(buf.len());
        buf[..len].copy_from_slice(&bytes[..len]);
        len
    }
    fn write_memory(&mut self, linear: u64, bytes: &[u8]) -> bool {
        let start = linear.wrapping_sub(0x1000) as usize;
        let Some(to) = start.checked_add(bytes.len()).and_then(|end| self.memory.get_mut(start..end)) else {
            return false;
        };
        to.copy_from_slice(bytes);
        true
    }
    fn breakpoint(&mut self, linear: u64, on: bool) {
        if on {
            self.breakpoints.insert(linear)
        } else {
            self.breakpoints.remove(&linear)
        };
    }
    fn step(&mut self) -> StopReason {
        self.registers.core.rip += 1;
        StopReason::Step
    }
    fn resume(&mut self, poll: &mut dyn FnMut() -> bool) -> StopReason {
        loop {
            if self.breakpoints.contains(&self.registers.core.rip) {
                return StopReason::Breakpoint;
            }
            if poll() {
                return StopReason::Interrupted;
            }
            self.registers.core.rip += 1;
        }
    }
    fn reset(&mut self) {
        self.resets += 1;
    }
}

/// Sends the packet `body` and gives the body of the answer.
fn ask(stream: &mut TcpStream, body: &str) -> String {
    let sum = body.bytes().fold(0u8, u8::wrapping_add);
    write!(stream, "${body}#{sum:02x}").unwrap();
    answer(stream)
}

fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.contains(&b'#') {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    stream.read_exact(&mut [0; 2]).unwrap();
    stream.write_all(b"+").unwrap();
    let start = text.iter().position(|b| *b == b'$').unwrap();
    // "x*N" is a run of x; N - 29 more of them.
    let mut plain = Vec::new();
    let mut bytes = text[start + 1..text.len() - 1].iter();
    while let Some(&byte) = bytes.next() {
        match (byte, plain.last()) {
            (b'*', Some(&last)) => plain.extend(vec![last; usize::from(bytes.next().unwrap() - 29)]),
            _ => plain.push(byte),
        }
    }
    String::from_utf8(plain).unwrap()
}

fn session(client: impl FnOnce(TcpStream) + Send + 'static) -> (SessionEnd, Toy) {
    let server = Server::bind("0").unwrap();
    let address = server.local_addr().unwrap();
    assert!(address.ip().is_loopback());
    let thread = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        client(stream);
    });
    let mut toy = Toy::new();
    let stream = server.wait(&mut || false).unwrap().unwrap();
    let end = serve(stream, &mut toy);
    thread.join().unwrap();
    (end, toy)
}

#[test]
fn memory_breakpoints_and_steps() {
    let (end, toy) = session(|mut s| {
        assert!(ask(&mut s, "?").starts_with(['T', 'S']));
        assert_eq!(ask(&mut s, "m1010,4"), "10111213");
        assert_eq!(ask(&mut s, "m1ffe,8"), "feff");
        assert!(ask(&mut s, "m5000,4").starts_with('E'));
        assert_eq!(ask(&mut s, "M1010,2:aabb"), "OK");
        assert_eq!(ask(&mut s, "Z0,1042,1"), "OK");
        assert!(ask(&mut s, "vCont;c").starts_with("T05"));
        assert!(ask(&mut s, "vCont;s:1").starts_with("S05"));
        let registers = ask(&mut s, "g");
        assert_eq!(&registers[0x80 * 2..0x88 * 2], "4310000000000000");
        // CR3 is the fifth of the eight registers after the core's 0x218 bytes.
        assert_eq!(&registers[(0x218 + 32) * 2..(0x218 + 40) * 2], "efcdab8967452301");
        assert_eq!(ask(&mut s, &format!("G{}", registers.replace("4310", "0020"))), "OK");
        assert_eq!(ask(&mut s, "D"), "OK");
    });
    assert_eq!(end, SessionEnd::Detached);
    assert_eq!(toy.memory[0x10..0x13], [0xaa, 0xbb, 0x12]);
    assert_eq!(toy.registers.core.rip, 0x2000);
    assert_eq!(toy.registers.cr3, 0x0123_4567_89ab_cdef);
    assert!(toy.breakpoints.is_empty(), "breakpoints outlive gdb");
}

#[test]
fn a_running_guest_is_interrupted() {
    let (end, toy) = session(|mut s| {
        ask(&mut s, "?");
        let body = "vCont;c";
        let sum = body.bytes().fold(0u8, u8::wrapping_add);
        write!(s, "${body}#{sum:02x}").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        s.write_all(&[3]).unwrap();
        assert!(answer(&mut s).starts_with("S02"));
        // "monitor reset", then "monitor quit".
        assert!(ask(&mut s, "qRcmd,7265736574").starts_with('O'));
        assert_eq!(answer(&mut s), "OK");
        let body = "qRcmd,71756974";
        let sum = body.bytes().fold(0u8, u8::wrapping_add);
        write!(s, "${body}#{sum:02x}").unwrap();
    });
    assert_eq!(end, SessionEnd::Quit);
    assert_eq!(toy.resets, 1);
    assert!(toy.registers.core.rip > 0x1000);
}

#[test]
fn a_lost_connection_detaches() {
    let (end, _) = session(|mut s| {
        ask(&mut s, "?");
    });
    assert_eq!(end, SessionEnd::Detached);
}
