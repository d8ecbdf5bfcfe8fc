//! From the command line to a running session.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use softmetal_machine::board::{AHCI_PLACES, Disk, Drive, IDE_PLACES, Interface, Plugs, SharedDisk, cd_interface};
use softmetal_machine::error::{UserError, words};
use softmetal_machine::gdb::Server;
use softmetal_machine::host::clock::{fresh_seed, unix_now};
use softmetal_machine::host::serial::{Serial, Target};
use softmetal_machine::host::{disk, files, listing, signals, terminal};
use softmetal_machine::machine::{Config, Engine, Images, Machine, translator};
use softmetal_machine::media::{DriveName, MediumEvent};
use softmetal_machine::screen;
use softmetal_machine::script::Step;
use softmetal_machine::session::{Clock, Debugger, End, Options, Session};

use crate::firmware;
use crate::images;
use crate::options::{self, InputArg, MachineArgs, VgaArg};
use crate::values::DiskArg;

/// The date at which a machine with the virtual clock is switched on: 2026-01-01T00:00:00Z.
const VIRTUAL_DATE: i64 = 1_767_225_600;
/// How long a test may take if nothing else is said.
const TEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Ctrl-D: tells the demonstration guest, where nobody sits at the terminal, that it can go.
const END_OF_TRANSMISSION: u8 = 4;
/// The most disks: there are 32 slots, and some are taken.
const MAX_DISKS: usize = 16;

/// What `run` and `test` do differently.
pub struct Purpose {
    /// It is a test.
    pub test: bool,
    /// The exit code of the debug-exit port that means success.
    pub success_code: Option<u8>,
}

/// Runs what `args` describe; the exit code.
///
/// # Errors
/// [`UserError`] for wrong input; nothing has been written then.
pub fn start(args: &MachineArgs, matches: &ArgMatches, purpose: &Purpose) -> Result<u8, UserError> {
    let args = &images::into_drives(args, matches)?;
    let mut options = session_options(args, matches, purpose)?;
    let is_virtual = options.clock == Clock::Virtual;
    check_stdin(args, purpose.test)?;
    check_memory(args.memory)?;
    if let Some(path) = &args.stats_json {
        files::creatable("file for --stats-json", path)?;
    }
    if let Some(path) = &args.screenshot {
        if args.vga == VgaArg::None {
            return Err(UserError::new("--screenshot needs a display adapter; leave out --vga none"));
        }
        files::creatable("screenshot", path)?;
    }
    if args.vga == VgaArg::None && options.steps.iter().any(|step| matches!(step, Step::ScreenExpect(_))) {
        return Err(UserError::new("--screen-expect needs a display adapter; leave out --vga none"));
    }
    if let Target::File(path) = &args.serial {
        files::creatable("serial log", path)?;
    }
    let loaded = firmware::load(args)?;
    let mut images = match images::images(args)? {
        Some(images) => Images { firmware: loaded.firmware, ..images },
        None if loaded.firmware.is_foreign() || has_drives(args) => Images { firmware: loaded.firmware, ..Images::default() },
        None if purpose.test => return Err(UserError::new("there is nothing to boot; give an IMAGE, like: softmetal test busybox")),
        None if !args.boot.is_empty() => {
            return Err(UserError::new("--boot needs something to boot from; give an IMAGE, or add --disk, --cdrom or --floppy"));
        }
        None => {
            options.farewell = Some(END_OF_TRANSMISSION);
            Images { kernel: softmetal_testroms::demo().into(), ..Images::default() }
        }
    };
    check_places(args)?;
    let lockstep = matches!(args.engine, options::Engine::Lockstep);
    if let Some(disk) = args.disk.iter().find(|d| lockstep && !d.mode.read_only && !d.mode.snapshot) {
        let p = disk.path.display();
        return Err(UserError(format!(
            "--engine lockstep runs two machines, which cannot both write {p}; give it with `,snapshot` or `,ro`"
        )));
    }
    let mut plugs = Plugs {
        disks: disks(&args.disk)?,
        host_paced: options.clock == Clock::Host,
        cdroms: media("CD-ROM", &args.cdrom, true)?,
        floppies: floppies(&args.floppy, lockstep)?,
        chipset: args.machine.chipset,
        smm: args.machine.smm,
        boot: args.boot.clone(),
        vga: args.vga == VgaArg::Std,
        vga_rom: loaded.vga_rom,
        vars: None,
        console: false,
        virtio_input: args.input == InputArg::Virtio,
        rtc: args.rtc.unwrap_or_else(|| if is_virtual { VIRTUAL_DATE } else { unix_now() }),
        seed: args.seed.unwrap_or_else(|| if is_virtual { 0 } else { fresh_seed() }),
    };
    plugs.vars = firmware::vars(args, &mut images.firmware)?;
    // Of a machine that runs beside, the disks are its own.
    let beside = if lockstep {
        let floppies = floppies(&args.floppy, true)?;
        Some(Plugs { disks: disks(&args.disk)?, cdroms: media("CD-ROM", &args.cdrom, true)?, floppies, ..plugs.clone() })
    } else {
        None
    };
    let offered = offered(args, &options.steps)?;
    let config = |plugs| Config { memory: args.memory, model: args.cpu.0.clone(), plugs, images: images.clone() };
    let mut machine = Machine::new(config(plugs))?;
    match args.engine {
        options::Engine::Auto => {
            if let Err(why) = translator() {
                terminal::say(&format!("softmetal: the interpreter runs the guest, at a fraction of the speed: {why}"));
            }
        }
        options::Engine::Interpreter => machine.set_engine(Engine::Interpreter).map_err(UserError)?,
        options::Engine::Translator | options::Engine::Lockstep => {
            machine.set_engine(Engine::Translator).map_err(|why| UserError(format!("{why}; use --engine interpreter")))?;
            if let Some(plugs) = beside {
                machine.in_lockstep_with(Machine::new(config(plugs))?);
            }
        }
    }
    // Who compares engines, or looks at one block, wants the same each time.
    let steady = lockstep || args.dump_block.is_some();
    machine.use_thread(!steady && std::thread::available_parallelism().is_ok_and(|n| n.get() > 1));
    for (name, medium) in &offered {
        machine.offer_medium(name, medium);
    }
    if args.perf_map || args.dump_block.is_some() {
        if machine.engine() == Engine::Interpreter {
            return Err(UserError("--perf-map and --dump-block need the translator; use --engine translator".into()));
        }
        let listener = listing::listener(args.perf_map, args.dump_block)
            .map_err(|e| UserError(format!("cannot write {}: {e}; leave --perf-map out", listing::map_path().display())))?;
        machine.on_translation(listener);
    }
    let debugger = args.gdb.as_deref().map(|at| debugger(at, args.wait)).transpose()?;
    let serial = Serial::open(&args.serial, !purpose.test)?;
    let signals = signals::catch().map_err(|e| UserError(format!("the host lets no signal handlers be set: {e}")))?;
    let mut session = Session::new(machine, serial, signals, options);
    if let Some(debugger) = debugger {
        session.debug(debugger);
    }
    let end = session.run();
    finish(&mut session, &end, args, purpose);
    session.abandon();
    Ok(end.code())
}

/// Tells how it ended, and the figures.
fn finish(session: &mut Session, end: &End, args: &MachineArgs, purpose: &Purpose) {
    if purpose.test && end.failed() {
        terminal::say(&session.report(end));
    } else if let End::Crash(report) = end {
        terminal::say(report);
    }
    let expected = matches!(end, End::PowerOff | End::Quit | End::ReaderGone | End::Reset);
    if purpose.test || !(expected || matches!(end, End::Crash(_))) {
        terminal::say(&format!("softmetal: {end}"));
    }
    if let (Some(path), Some(image)) = (&args.screenshot, session.machine().screen()) {
        if let Err(e) = files::write("screenshot", path, &screen::png(&image)) {
            terminal::say(&format!("softmetal: {e}"));
        }
    }
    if !args.stats && args.stats_json.is_none() {
        return;
    }
    let stats = session.stats();
    if args.stats {
        terminal::say(&stats.to_string());
    }
    if let Some(path) = &args.stats_json {
        if let Err(e) = files::write("figures", path, stats.json().as_bytes()) {
            terminal::say(&format!("softmetal: {e}"));
        }
    }
}

fn session_options(args: &MachineArgs, matches: &ArgMatches, purpose: &Purpose) -> Result<Options, UserError> {
    let (steps, forbidden) = options::script(matches).map_err(UserError)?;
    let clock = args.clock.map_or(if purpose.test { Clock::Virtual } else { Clock::Host }, Clock::from);
    Ok(Options {
        clock,
        no_reboot: args.no_reboot || purpose.test,
        timeout: args.timeout.or(purpose.test.then_some(TEST_TIMEOUT)),
        guest_timeout: args.guest_timeout,
        steps,
        forbidden,
        judge: purpose.test,
        success_code: purpose.success_code,
        farewell: None,
    })
}

/// Listens for gdb.
fn debugger(address: &str, wait: bool) -> Result<Debugger, UserError> {
    let refused = |e: &std::io::Error| {
        UserError(format!("--gdb {address}: {}; give a free port, or ADDR:PORT with an address of this host", words(e)))
    };
    let server = Server::bind(address).map_err(|e| refused(&e))?;
    let at = server.local_addr().map_err(|e| refused(&e))?;
    terminal::say(&format!("softmetal: gdb can connect: target remote {at}"));
    Ok(Debugger { server, wait })
}

/// Whether there is something for the firmware to boot from.
fn has_drives(args: &MachineArgs) -> bool {
    !(args.disk.is_empty() && args.cdrom.is_empty() && args.floppy.is_empty())
}

/// Only one thing can be read from stdin.
fn check_stdin(args: &MachineArgs, test: bool) -> Result<(), UserError> {
    let is_stdin = |p: &Option<std::path::PathBuf>| p.as_deref() == Some(Path::new("-"));
    let mut readers = Vec::new();
    for (given, name) in [(is_stdin(&args.image), "the image"), (is_stdin(&args.kernel), "--kernel"), (is_stdin(&args.initrd), "--initrd")]
    {
        if given {
            readers.push(name);
        }
    }
    if args.serial == Target::Stdio && !test && !readers.is_empty() {
        readers.push("the serial port");
    }
    match readers[..] {
        [first, second, ..] => {
            Err(UserError(format!("{first} and {second} cannot both be read from stdin; put one in a file (or use --serial null)")))
        }
        _ => Ok(()),
    }
}

fn check_memory(memory: u64) -> Result<(), UserError> {
    match files::host_memory() {
        Some(has) if memory > has => {
            Err(UserError(format!("--memory {}M is more than this host has ({} MiB); choose a smaller --memory", memory >> 20, has >> 20)))
        }
        _ => Ok(()),
    }
}

fn disks(args: &[DiskArg]) -> Result<Vec<Disk>, UserError> {
    if args.len() > MAX_DISKS {
        return Err(UserError(format!("{} disks are more than fit; give at most {MAX_DISKS}", args.len())));
    }
    let mut seen = BTreeSet::new();
    let mut disks = Vec::new();
    for arg in args {
        let DiskArg { path, mode, interface } = arg;
        if path.canonicalize().is_ok_and(|p| !seen.insert(p)) {
            return Err(UserError(format!("the disk {} is given twice; give it once", path.display())));
        }
        disks.push(Disk { backend: disk::open(path, mode)?.into(), interface: *interface });
    }
    Ok(disks)
}

/// The most floppy drives that a controller has.
const MAX_FLOPPIES: usize = 2;

fn floppies(paths: &[PathBuf], read_only: bool) -> Result<Vec<Drive>, UserError> {
    if paths.len() > MAX_FLOPPIES {
        return Err(UserError(format!("{} floppy drives are more than fit; give at most {MAX_FLOPPIES}", paths.len())));
    }
    media("floppy", paths, read_only)
}

/// Drives with an image in each, or with nothing.
fn media(what: &str, paths: &[PathBuf], read_only: bool) -> Result<Vec<Drive>, UserError> {
    if paths.len() > MAX_DISKS {
        return Err(UserError(format!("{} {what} drives are more than fit; give at most {MAX_DISKS}", paths.len())));
    }
    let drive = |path: &PathBuf| match path.to_str() {
        Some("none") => Ok(Drive::new()),
        _ => disk::open_medium(path, read_only).map(Drive::with),
    };
    paths.iter().map(drive).collect()
}

/// The media that the script's steps put in, by name.
fn offered(args: &MachineArgs, steps: &[Step]) -> Result<BTreeMap<String, SharedDisk>, UserError> {
    let mut media = BTreeMap::new();
    for step in steps {
        let Step::Medium(drive, event) = step else { continue };
        let (n, drives) = match drive {
            DriveName::Cdrom(n) => (*n, args.cdrom.len()),
            DriveName::Floppy(n) => (*n, args.floppy.len()),
        };
        if usize::from(n) >= drives {
            return Err(UserError(format!("the machine has no drive {drive} to put media into; add --cdrom none or --floppy none")));
        }
        if let MediumEvent::Insert(name) = event {
            if !media.contains_key(name) {
                let read_only = matches!(drive, DriveName::Cdrom(_)) || matches!(args.engine, options::Engine::Lockstep);
                media.insert(name.clone(), disk::open_medium(name.as_ref(), read_only)?);
            }
        }
    }
    Ok(media)
}

/// The host adapters have so many places.
fn check_places(args: &MachineArgs) -> Result<(), UserError> {
    let interfaces = args.disk.iter().map(|disk| disk.interface);
    let with_cds = cd_interface(interfaces.clone());
    for (interface, name, places) in [(Interface::Ide, "IDE", IDE_PLACES), (Interface::Ahci, "AHCI", AHCI_PLACES)] {
        let disks = interfaces.clone().filter(|i| *i == interface).count();
        let cds = if with_cds == interface { args.cdrom.len() } else { 0 };
        if disks + cds > places {
            return Err(UserError(format!(
                "{disks} disks and {cds} CD-ROM drives are more than the {places} places of {name}; use if=virtio for some disks"
            )));
        }
    }
    Ok(())
}
