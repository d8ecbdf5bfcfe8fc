use super::*;
use std::io::{Read, Write};

use iced_x86::code_asm::*;
use softmetal_testroms::image::{boot_sector, power_off, timer};

use crate::board::Plugs;
use crate::machine::{Config, Images, Machine};

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
    let mut toy = Toy::new();
    (session_with(&mut toy, client), toy)
}

fn session_with(target: &mut dyn DebugTarget, client: impl FnOnce(TcpStream) + Send + 'static) -> SessionEnd {
    let server = Server::bind("0").unwrap();
    let address = server.local_addr().unwrap();
    assert!(address.ip().is_loopback());
    let thread = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        client(stream);
    });
    let stream = server.wait(&mut || false).unwrap().unwrap();
    let end = serve(stream, target);
    thread.join().unwrap();
    end
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

/// A boot sector that counts in BX from 0 to 3, stores AX at 0x600 each time, waits for `wait` timer interrupts, and
/// powers off.
fn machine() -> Machine {
    let kernel = boot_sector(|a| {
        let (mut again, mut handler, mut start) = (a.create_label(), a.create_label(), a.create_label());
        a.jmp(start)?;
        // 0x7c02
        a.set_label(&mut handler)?;
        a.push(ax)?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.pop(ax)?;
        a.iret()?;
        a.set_label(&mut start)?;
        a.xor(bx, bx)?;
        a.mov(ds, bx)?;
        a.mov(word_ptr(0x80), 0x7c02)?;
        a.mov(word_ptr(0x82), bx)?;
        timer(a, 0x20, 0x400)?;
        a.mov(ax, 0x1233)?;
        a.set_label(&mut again)?;
        a.inc(ax)?;
        a.mov(word_ptr(0x600), ax)?;
        a.inc(bx)?;
        a.cmp(bx, 3)?;
        a.jne(again)?;
        a.sti()?;
        a.hlt()?;
        power_off(a)
    });
    let plugs = Plugs { seed: 1, ..Plugs::default() };
    Machine::new(Config {
        memory: 16 << 20,
        model: Default::default(),
        plugs,
        images: Images { kernel: kernel.into(), ..Images::default() },
    })
    .unwrap()
}

/// Where `bytes` are in the boot sector.
fn find(machine: &mut Machine, bytes: &[u8]) -> u64 {
    let mut sector = [0; 512];
    assert!(machine.processor_mut().cpu.debug_read(0x7c00, &mut sector));
    0x7c00 + sector.windows(bytes.len()).position(|w| w == bytes).unwrap() as u64
}

/// Register `n` of a `g` answer (8 bytes each as far as RIP).
fn register(s: &mut TcpStream, n: usize) -> u64 {
    let all = ask(s, "g");
    let bytes: Vec<u8> = (0..8).map(|i| u8::from_str_radix(&all[16 * n + 2 * i..][..2], 16).unwrap()).collect();
    u64::from_le_bytes(bytes.try_into().unwrap())
}
const RAX: usize = 0;
const RBX: usize = 1;
const RIP: usize = 16;

#[test]
fn a_machine_is_debugged() {
    let mut plain = machine();
    assert_eq!(plain.slice(u64::MAX), Some(StopReason::Ended(0)));

    let mut m = machine();
    let inc_bx = find(&mut m, &[0x43, 0x83]);
    let hlt = find(&mut m, &[0xfb, 0xf4]) + 1;
    let end = session_with(&mut Debugged::new(&mut m), move |mut s| {
        assert_eq!(register(&mut s, RIP), 0x7c00);
        assert_eq!(ask(&mut s, &format!("Z1,{inc_bx:x},1")), "OK");
        let code = ask(&mut s, &format!("m{inc_bx:x},2"));
        for i in 0..2 {
            assert!(ask(&mut s, "vCont;c").starts_with("T05"));
            assert_eq!([RIP, RAX, RBX].map(|n| register(&mut s, n)), [inc_bx, 0x1234 + i, i]);
            assert_eq!(ask(&mut s, "m600,2"), format!("{:02x}12", 0x34 + i));
            assert_eq!(ask(&mut s, &format!("m{inc_bx:x},2")), code, "a breakpoint changed memory");
        }
        // A step goes over the breakpoint that it starts on.
        assert!(ask(&mut s, "vCont;s:1").starts_with('S'));
        assert_eq!([RIP, RBX].map(|n| register(&mut s, n)), [inc_bx + 1, 2]);
        assert!(ask(&mut s, "vCont;c").starts_with("T05"));
        // RBX is written and comes back.
        let all = ask(&mut s, "g");
        assert_eq!(ask(&mut s, &format!("G{}07{}", &all[..16], &all[18..])), "OK");
        assert_eq!(register(&mut s, RBX), 7);
        assert_eq!(ask(&mut s, &format!("G{all}")), "OK");
        assert_eq!(ask(&mut s, &format!("z1,{inc_bx:x},1")), "OK");
        assert_eq!(ask(&mut s, &format!("Z0,{hlt:x},1")), "OK");
        assert!(ask(&mut s, "vCont;c").starts_with("T05"));
        assert_eq!(register(&mut s, RIP), hlt);
        // HLT is a step; the next one is the delivery of the timer's interrupt, whenever that comes.
        assert!(ask(&mut s, "vCont;s:1").starts_with('S'));
        assert_eq!(register(&mut s, RIP), hlt + 1);
        assert!(ask(&mut s, "vCont;s:1").starts_with('S'));
        assert_eq!(register(&mut s, RIP), 0x7c02);
        assert_eq!(ask(&mut s, "vCont;c"), "W00");
    });
    assert_eq!(end, SessionEnd::Ended(0));
    assert_eq!(m.icount(), plain.icount(), "the debugger changed the run");
    assert!(m.processor_mut().breakpoints_mut().is_empty());
}

#[test]
fn a_crash_can_be_looked_at() {
    let mut m = machine();
    // LIDT with limit 0, then UD2.
    m.processor_mut().cpu.state.idtr.limit = 0;
    assert!(m.processor_mut().cpu.debug_write(0x7c00, &[0x0f, 0x0b]));
    let end = session_with(&mut Debugged::new(&mut m), |mut s| {
        assert!(ask(&mut s, "vCont;c").starts_with("S0b"));
        assert_eq!(register(&mut s, RIP), 0x7c00);
        assert!(ask(&mut s, "vCont;c").starts_with("X0b"));
    });
    assert_eq!(end, SessionEnd::Crashed);
}

#[test]
fn the_real_gdb() {
    if std::process::Command::new("gdb").arg("--version").output().is_err() {
        softmetal_testroms::lacking("SOFTMETAL_NEED_IMAGES", &"gdb is not installed");
        return;
    }
    let mut m = machine();
    let inc_bx = find(&mut m, &[0x43, 0x83]);
    let server = Server::bind("0").unwrap();
    let port = server.local_addr().unwrap().port();
    let gdb = std::thread::spawn(move || {
        let mut gdb = std::process::Command::new("gdb");
        gdb.args(["-nx", "-batch"]);
        for command in [
            &format!("target remote 127.0.0.1:{port}"),
            &format!("hbreak *{inc_bx:#x}"),
            "continue",
            "stepi",
            "info registers rip rbx cr0",
            "p $st0",
            "x/2xb 0x600",
            "monitor physical 0x600 2",
            "monitor disassemble 1",
            "delete",
            "continue",
        ] {
            gdb.args(["-ex", command]);
        }
        let output = gdb.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    });
    let stream = server.wait(&mut || gdb.is_finished()).unwrap().expect("gdb connects");
    let end = serve(stream, &mut Debugged::new(&mut m));
    let text = gdb.join().unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    for expected in [
        &format!("rip {:#x} {:#x}", inc_bx + 1, inc_bx + 1),
        "rbx 0x1 1",
        "cr0 0x10 16",
        "0x600: 0x34 0x12",
        "0000000000000600: 34 12",
        "cmp bx,3",
        "exited normally]",
    ] {
        let expected: Vec<&str> = expected.split_whitespace().collect();
        assert!(words.windows(expected.len()).any(|w| w == expected), "no {expected:?} in:\n{text}");
    }
    assert_eq!(end, SessionEnd::Ended(0));
}
