//! Checkpoints, snapshots and state hashes: what runs on from a restored state is what ran on from it before.

use iced_x86::code_asm::*;
use softmetal_bus::Input;
use softmetal_machine::board::{Disk, Interface, Plugs, SharedDisk, chips::id};
use softmetal_machine::machine::{Config, Images, InputEvent, Machine, Turn};
use softmetal_testroms::image::{boot_sector, timer};

/// Runs for ever: a timer interrupt every 100 ticks whose handler counts; a loop that writes through 64 KiB with a
/// pattern from the count, changes its own code, and halts now and then.
fn sector() -> Vec<u8> {
    boot_sector(|a| {
        let (mut start, mut handler, mut again, mut patched) = (a.create_label(), a.create_label(), a.create_label(), a.create_label());
        a.jmp(start)?;
        // 0x7c02; its immediate is patched.
        a.set_label(&mut patched)?;
        a.add(al, 1)?;
        a.ret()?;
        // 0x7c05
        a.set_label(&mut handler)?;
        a.push(ax)?;
        a.inc(word_ptr(0x600))?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.pop(ax)?;
        a.iret()?;
        a.set_label(&mut start)?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(word_ptr(0x80), 0x7c05)?;
        a.mov(word_ptr(0x82), ax)?;
        timer(a, 0x20, 100)?;
        a.mov(ax, 0x2000)?;
        a.mov(es, ax)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.add(ax, word_ptr(0x600))?;
        a.mov(word_ptr(di).es(), ax)?;
        a.add(di, 0x82)?;
        a.inc(byte_ptr(0x7c03))?;
        a.call(patched)?;
        a.mov(cx, 5)?;
        a.rep().stosw()?;
        a.test(di, 0x100)?;
        a.jne(again)?;
        a.hlt()?;
        a.jmp(again)
    })
}

fn machine() -> Machine {
    let plugs = Plugs { seed: 1, ..Plugs::default() };
    Machine::new(Config {
        memory: 32 << 20,
        model: Default::default(),
        plugs,
        images: Images { kernel: sector().into(), ..Images::default() },
    })
    .unwrap()
}

fn run(m: &mut Machine, n: u64) -> String {
    let until = m.icount() + n;
    assert_eq!(m.run_until(until), Turn::Limit);
    assert_eq!(m.icount(), until);
    m.state_hash()
}

#[test]
fn the_run_from_a_checkpoint_is_the_run_that_went_on() {
    let mut m = machine();
    run(&mut m, 12_345);
    let first = m.checkpoint().unwrap();
    let at_first = m.state_hash();
    let later = run(&mut m, 20_011);
    let second = m.checkpoint().unwrap();
    let last = run(&mut m, 7_777);
    assert_ne!(later, last);

    m.restore(&first).unwrap();
    assert_eq!((m.icount(), m.state_hash()), (12_345, at_first.clone()));
    assert_eq!(run(&mut m, 20_011), later);
    m.restore(&second).unwrap();
    assert_eq!(m.state_hash(), later);
    assert_eq!(run(&mut m, 7_777), last);
    // Into another machine of the same make.
    let mut other = machine();
    run(&mut other, 999);
    other.restore(&first).unwrap();
    assert_eq!(run(&mut other, 20_011), later);
    // Without any checkpoint, and hashed nowhere on the way.
    let mut plain = machine();
    assert_eq!(run(&mut plain, 12_345 + 20_011 + 7_777), last);
    // A snapshot is the same state.
    other.load(&plain.save()).unwrap();
    assert_eq!(other.state_hash(), last);
}

#[test]
fn a_checkpoint_costs_what_was_written() {
    let mut m = machine();
    run(&mut m, 30_000);
    let first = m.checkpoint().unwrap();
    run(&mut m, 20);
    let second = m.checkpoint().unwrap();
    let cost = second.pages_beside(&first);
    assert!((1..=4).contains(&cost), "{cost} pages for 20 instructions");
    assert_eq!(m.checkpoint().unwrap().pages_beside(&second), 0);
}

#[test]
fn events_after_a_checkpoint_are_forgotten() {
    let mut m = machine();
    let event = |byte| InputEvent::Device(id::COM1, Input::Bytes(vec![byte]));
    m.record(true);
    m.apply(event(b'a'));
    run(&mut m, 100);
    let kept = m.checkpoint().unwrap();
    m.apply(event(b'b'));
    run(&mut m, 100);
    m.restore(&kept).unwrap();
    m.apply(event(b'c'));
    let log: Vec<_> = m.record(false).into_iter().map(|e| (e.at, e.event)).collect();
    assert_eq!(log, [(0, event(b'a')), (100, event(b'c'))]);
}

/// Flushes an IDE disk and reads its first sector, for ever; counts how often it looks whether the disk is ready, and how
/// often it is.
fn flushes_and_reads() -> Vec<u8> {
    boot_sector(|a| {
        let mut again = a.create_label();
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.cld()?;
        a.mov(dx, 0x1f6)?;
        a.mov(al, 0xe0)?;
        a.out(dx, al)?;
        a.set_label(&mut again)?;
        a.mov(dx, 0x1f2)?;
        a.mov(al, 1)?;
        a.out(dx, al)?;
        a.mov(dx, 0x1f7)?;
        for command in [0xe7, 0x20] {
            let mut wait = a.create_label();
            a.mov(al, command)?;
            a.out(dx, al)?;
            a.set_label(&mut wait)?;
            a.inc(dword_ptr(0x600))?;
            a.in_(al, dx)?;
            a.test(al, 0x80)?;
            a.jne(wait)?;
            a.inc(dword_ptr(0x604))?;
        }
        a.mov(dx, 0x1f0)?;
        a.mov(cx, 256)?;
        a.mov(di, 0x800)?;
        a.rep().insw()?;
        a.jmp(again)
    })
}

/// A saved machine and the log of what came in later are enough to repeat a run in which the host set the pace.
#[test]
fn a_run_at_the_hosts_pace_is_repeated() {
    let machine = |host_paced| {
        let disk = Disk { backend: SharedDisk::new(vec![0x5a; 1 << 20]), interface: Interface::Ide };
        let plugs = Plugs { disks: vec![disk], host_paced, seed: 1, ..Plugs::default() };
        let images = Images { kernel: flushes_and_reads().into(), ..Images::default() };
        Machine::new(Config { memory: 32 << 20, model: Default::default(), plugs, images }).unwrap()
    };
    let mut m = machine(true);
    run(&mut m, 5000);
    let saved = m.save();
    m.record(true);
    for n in 0..20 {
        assert_eq!(m.host_work(), (true, false));
        run(&mut m, 400 + n * 37);
    }
    // From here on the guest's time does, and from there on the host again.
    m.set_host_paced(false);
    run(&mut m, 1_000_000);
    assert_eq!(m.host_work(), (false, false));
    m.set_host_paced(true);
    run(&mut m, 200_000);
    assert_eq!(m.host_work(), (true, false));
    let last = run(&mut m, 1000);
    let log = m.record(false);
    assert_eq!(log.len(), 23);

    let mut again = machine(false);
    again.load(&saved).unwrap();
    for event in log {
        assert_eq!(again.run_until(event.at), Turn::Limit);
        again.apply(event.event);
    }
    assert_eq!(again.run_until(m.icount()), Turn::Limit);
    assert_eq!(again.state_hash(), last);
}

/// Raises an SMI for ever; the handler, which stays at the place after RESET, counts for a while in memory.
fn smis() -> Vec<u8> {
    boot_sector(|a| {
        let (mut start, mut again, mut count) = (a.create_label(), a.create_label(), a.create_label());
        a.jmp(start)?;
        // 0x7c02
        a.mov(cx, 500)?;
        a.set_label(&mut count)?;
        a.inc(dword_ptr(0x604))?;
        a.loop_(count)?;
        a.rsm()?;
        a.set_label(&mut start)?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(ax, 0x3000)?;
        a.mov(es, ax)?;
        a.mov(si, 0x7c02)?;
        a.mov(di, 0x8000)?;
        a.mov(cx, 0x20)?;
        a.rep().movsb()?;
        // PIIX4: APMC_EN in DEVACTB, SMI_EN in GLBCTL.
        for (port, value) in [(0xcf8, 0x8000_0b58_u32), (0xcfc, 1 << 25), (0x628, 1)] {
            a.mov(dx, port)?;
            a.mov(eax, value)?;
            a.out(dx, eax)?;
        }
        a.set_label(&mut again)?;
        a.inc(dword_ptr(0x600))?;
        a.out(0xb2, al)?;
        a.jmp(again)
    })
}

/// The engines never differ in system management mode, and a snapshot taken there goes on there.
#[test]
fn system_management_mode_in_lockstep_and_in_a_snapshot() {
    let machine = || {
        let plugs = Plugs { smm: true, seed: 1, ..Plugs::default() };
        let images = Images { kernel: smis().into(), ..Images::default() };
        Machine::new(Config { memory: 32 << 20, model: Default::default(), plugs, images }).unwrap()
    };
    let inside = |m: &Machine| m.processor().cpu.state.smm.active;
    let mut m = machine();
    m.in_lockstep_with(machine());
    // The handler takes nearly all of the time; before and after it, the loop's few instructions.
    let mut places = [0; 2];
    for _ in 0..200 {
        let until = m.icount() + 997;
        assert_eq!(m.run_until(until), Turn::Limit, "{:?}", m.divergence());
        places[usize::from(inside(&m))] += 1;
    }
    assert!(places[1] > 150, "{places:?}");

    let mut m = machine();
    run(&mut m, 10_000);
    while !inside(&m) {
        run(&mut m, 1);
    }
    let saved = m.save();
    let mut other = machine();
    other.load(&saved).unwrap();
    assert!(inside(&other));
    // Out of it, and into it again.
    for n in [300, 700, 5000] {
        assert_eq!(run(&mut other, n), run(&mut m, n));
    }
}
