//! The command line: options, their values, their order.

use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use softmetal_firmware::Chipset;
use softmetal_machine::board::BootDevice;
use softmetal_machine::host::clock::parse_date;
use softmetal_machine::host::serial::Target;
use softmetal_machine::media::MediumEvent;
use softmetal_machine::screen::{chords, strokes};
use softmetal_machine::script::{Step, pattern, unescape};
use softmetal_machine::session;

use crate::catalog::CatalogArgs;
use crate::disk::DiskCommand;
use crate::firmware::{FirmwareArg, firmware};
use crate::values::{DiskArg, LogFilter, Processor, boot, disk, exit_code, log_filter, number, processor, seconds, size};

const EXAMPLES: &str = "\
Examples:
  softmetal run busybox                       a Linux shell, fetched through the package manager
  softmetal run --kernel vmlinuz --initrd initrd.gz --append 'console=ttyS0 quiet'
  softmetal test busybox --expect 'guest# ' --send 'uname -a\\n' --expect x86_64
";

const RUN_EXAMPLES: &str = "\
Examples:
  softmetal run busybox                       a Linux shell; Ctrl-A x quits
  softmetal run busybox --disk data.img       with a disk as /dev/vda
  softmetal run vmlinuz --initrd initrd.gz --append 'console=ttyS0 quiet' --memory 1G
  softmetal run boot.bin                      a flat program at 7C00h, or a multiboot kernel
  softmetal run disk.qcow2                    boots from the disk; likewise from an ISO or a floppy
  softmetal run some.iso --disk target.img    boots from the CD-ROM, with a disk beside it
  softmetal run some.iso --firmware uefi-secure --machine q35
                                              the same by UEFI, which starts only what is signed
  softmetal run busybox --gdb 1234 --wait     then, in gdb: target remote :1234

On a terminal, Ctrl-A x quits, Ctrl-A c opens the monitor, and Ctrl-A h lists the keys.

Exit codes: 0 the guest powered off or you quit, 2 wrong input, 3 the guest crashed (with --no-reboot), 124 out of time, \
130 or 143 ended by a signal; a guest that writes V to port 0xf4 ends with 2*V+1.
";

const TEST_EXAMPLES: &str = "\
The options of a script, but for --forbid, are carried out in the order given. The test passes when the last expectation is \
met; if the last step is another, when the guest then powers off. The screen is looked at every 50 virtual milliseconds; its \
text is that of a text mode, or what can be read of a graphics mode in the guest's own fonts. Texts of --send and --type know \
\\n \\r \\t \\e \\0 \\\\ \\xHH.

Exit codes: 0 passed, 1 an expectation failed or a --forbid matched, 2 wrong input, 3 the guest crashed, 124 out of time; a \
guest that writes V to port 0xf4 ends with 2*V+1.

Examples:
  softmetal test busybox --expect 'guest# ' --send 'uname -a\\n' --expect x86_64
  softmetal test vmlinuz --initrd initrd.gz --forbid 'Call Trace' --expect '# ' --send 'poweroff\\n'
  softmetal test busybox --append console=tty0 --screen-expect 'guest# $' \\
      --type 'uname -a\\n' --screen-expect x86_64
  softmetal test floppy.img --screen-expect 'boot:' --key f2,down,enter --screenshot menu.png
  softmetal test selftest.bin --success-code 33 --guest-timeout 10
";

const DISK_EXAMPLES: &str = "\
Examples:
  softmetal disk create disk.qcow2 10G
  softmetal disk create work.qcow2 --backing-file disk.qcow2    keeps what differs from it
  softmetal disk convert appliance.vmdk disk.qcow2
  softmetal disk resize disk.qcow2 +5G
";

const CATALOG_EXAMPLES: &str = "\
Examples:
  softmetal catalog                           what there is, and what is fetched
  softmetal catalog copy debian my.img        then, with all changes kept: softmetal run my.img
";

/// An x86-64 PC made of software: boots unmodified systems, without hardware virtualization.
#[derive(Parser)]
#[command(name = "softmetal", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Boot something and use it
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Boot something headless, script it, judge it
    #[command(after_help = TEST_EXAMPLES)]
    Test(TestArgs),
    /// Make, describe, check, convert, commit and resize disk images
    #[command(subcommand, after_help = DISK_EXAMPLES)]
    Disk(DiskCommand),
    /// List, fetch, copy and remove the images that can be booted by name
    #[command(after_help = CATALOG_EXAMPLES)]
    Catalog(CatalogArgs),
    /// Tell what this host offers, or what the processor models have
    Doctor {
        /// List the features of each processor model, for `--cpu MODEL,+FEATURE,-FEATURE`
        #[arg(long)]
        cpu: bool,
    },
}

/// The board.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    pub chipset: Chipset,
    /// System management mode.
    pub smm: bool,
}

/// What runs the guest's code.
#[derive(Clone, Copy, Debug)]
pub enum Engine {
    Auto,
    Interpreter,
    Translator,
    Lockstep,
}

/// The host's clock or the virtual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClockArg {
    Host,
    Virtual,
}

impl From<ClockArg> for session::Clock {
    fn from(clock: ClockArg) -> Self {
        match clock {
            ClockArg::Host => Self::Host,
            ClockArg::Virtual => Self::Virtual,
        }
    }
}

/// The display adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VgaArg {
    None,
    Std,
}

/// Where keyboard and mouse are plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputArg {
    Ps2,
    Virtio,
}

/// Options of `run` and `test`.
#[derive(Args, Clone)]
pub struct MachineArgs {
    /// A kernel (bzImage, PVH or multiboot ELF), a disk, ISO or floppy image, or a name from `softmetal catalog`
    #[arg(value_name = "IMAGE")]
    pub image: Option<PathBuf>,
    /// Boot this kernel
    #[arg(long, value_name = "FILE", help_heading = "Image")]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk, or a multiboot module
    #[arg(long, value_name = "FILE", help_heading = "Image")]
    pub initrd: Option<PathBuf>,
    /// Its command line [default for Linux: console=ttyS0]; for a catalogue image, what to add to its own
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Image")]
    pub append: Option<String>,
    /// A disk image (raw, qcow2; to read also VMDK, VDI, VHD, VHDX):
    /// FILE[,ro][,snapshot[=FILE]][,if=virtio|scsi|ide|ahci][,format=X][,backing=any]; repeatable; `snapshot` drops all writes at
    /// the end, `snapshot=FILE` keeps them in FILE; `backing=any` lets an image depend on files outside its folder
    #[arg(long, value_name = "DISK", value_parser = disk, help_heading = "Machine")]
    pub disk: Vec<DiskArg>,
    /// A CD-ROM drive with this ISO image in it, or with nothing (`none`); repeatable
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub cdrom: Vec<PathBuf>,
    /// A floppy drive with this image in it, or with nothing (`none`); at most two
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub floppy: Vec<PathBuf>,
    /// What to boot from, in this order: disk, cdrom, floppy, net [default: IMAGE, then disk, cdrom, floppy; what cannot be booted is passed over]
    #[arg(long, value_name = "DEVICE", value_parser = boot, value_delimiter = ',', help_heading = "Machine")]
    pub boot: Vec<BootDevice>,
    /// What runs first: builtin; seabios, uefi, or uefi-secure (with Secure Boot and the usual keys; needs --machine q35), which
    /// are fetched if they are not installed; or a FILE with a BIOS (or, with --firmware-vars, with the code of a UEFI)
    #[arg(long, value_name = "FIRMWARE", default_value = "builtin", value_parser = firmware, help_heading = "Machine")]
    pub firmware: FirmwareArg,
    /// Keep the variables of the firmware in this file, made if it is not there [default: they are lost at the end]
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub firmware_vars: Option<PathBuf>,
    /// RAM, like 512M or 4G
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, default_value = "512M", value_parser = size, help_heading = "Machine")]
    pub memory: u64,
    /// Processors; only 1 works so far
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1, value_parser = one_cpu, help_heading = "Machine")]
    pub cpus: u8,
    /// A model (x86-64-v1, x86-64-v2, x86-64-v3, max, 486, k6-2, pentium3, athlon, core2duo, nehalem, haswell, zen3), with
    /// features added or removed: max,-rdrand; `softmetal doctor --cpu` lists them
    #[arg(long, value_name = "MODEL", default_value = "x86-64-v3", value_parser = processor, help_heading = "Machine")]
    pub cpu: Processor,
    /// The board: pc (440FX) or q35; with `,smm=off` without system management mode
    #[arg(long, value_name = "BOARD", default_value = "pc", value_parser = board, help_heading = "Machine")]
    pub machine: Board,
    /// The display adapter: std (a VGA with the Bochs display interface) or none
    #[arg(long, value_name = "ADAPTER", default_value = "std", hide_possible_values = true, help_heading = "Machine")]
    pub vga: VgaArg,
    /// Where keyboard and mouse are plugged in: ps2, which all firmware knows, or virtio
    #[arg(long, value_name = "PORT", default_value = "ps2", hide_possible_values = true, help_heading = "Machine")]
    pub input: InputArg,
    /// How the guest's code is run: translator (of hot code to host code); interpreter; lockstep, which runs both and
    /// compares them; or auto, the translator where the host can
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = engine, help_heading = "Machine")]
    pub engine: Engine,
    /// The first serial port: stdio, null, file:FILE, tcp:ADDR:PORT, unix:FILE
    #[arg(long, value_name = "TARGET", default_value = "stdio", help_heading = "Machine")]
    pub serial: Target,
    /// `host`: virtual time is held to the host's; `virtual`: it jumps when the guest idles, and runs repeat exactly
    /// [default: host in `run`, virtual in `test`]
    #[arg(long, value_name = "CLOCK", hide_possible_values = true, help_heading = "Time")]
    pub clock: Option<ClockArg>,
    /// The date at power-on [default: now; with the virtual clock 2026-01-01T00:00:00Z]
    #[arg(long, value_name = "DATE", value_parser = parse_date, help_heading = "Time")]
    pub rtc: Option<i64>,
    /// Seed of everything random in the machine [default: random; with the virtual clock 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number, help_heading = "Time")]
    pub seed: Option<u64>,
    /// Give up after so many host seconds [default: 600 in `test`]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, help_heading = "Time")]
    pub timeout: Option<std::time::Duration>,
    /// Give up after so many virtual seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, help_heading = "Time")]
    pub guest_timeout: Option<std::time::Duration>,
    /// Wait until the serial output matches
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true, help_heading = "Script, in the order given")]
    expect: Vec<String>,
    /// Wait until the text on the screen matches
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true, help_heading = "Script, in the order given")]
    screen_expect: Vec<String>,
    /// Type this on the keyboard (US layout), like 'ls\n'
    #[arg(long = "type", value_name = "TEXT", allow_hyphen_values = true, help_heading = "Script, in the order given")]
    typed: Vec<String>,
    /// Press these keys of the keyboard, like f10 or esc,down,enter or ctrl-alt-del
    #[arg(long, value_name = "KEYS", help_heading = "Script, in the order given")]
    key: Vec<String>,
    /// Send this to the serial port
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Script, in the order given")]
    send: Vec<String>,
    /// Press the eject button of a drive: cdrom, cdrom1, floppy or floppy1
    #[arg(long, value_name = "DRIVE", help_heading = "Script, in the order given")]
    eject: Vec<String>,
    /// Put another medium into a drive, like cdrom=other.iso
    #[arg(long, value_name = "DRIVE=FILE", help_heading = "Script, in the order given")]
    insert: Vec<String>,
    /// Fail at once if the serial output matches
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true, help_heading = "Script, in the order given")]
    forbid: Vec<String>,
    /// A reset or crash of the guest ends the run [always in `test`]
    #[arg(long, help_heading = "End")]
    pub no_reboot: bool,
    /// Let gdb connect at PORT or ADDR:PORT (then, in gdb: target remote :PORT)
    #[arg(long, value_name = "ADDRESS", help_heading = "Diagnostics")]
    pub gdb: Option<String>,
    /// Start only when gdb has connected
    #[arg(long, requires = "gdb", help_heading = "Diagnostics")]
    pub wait: bool,
    /// Write what the screen shows at the end to this PNG file
    #[arg(long, value_name = "FILE", help_heading = "End")]
    pub screenshot: Option<PathBuf>,
    /// Print figures at the end
    #[arg(long, help_heading = "End")]
    pub stats: bool,
    /// Write figures to this file at the end
    #[arg(long, value_name = "FILE", help_heading = "End")]
    pub stats_json: Option<PathBuf>,
    /// What to tell on stderr: off, error, warn, info, debug or trace, or MODULE=LEVEL; repeatable [default: warn]
    #[arg(long, value_name = "LEVEL", value_parser = log_filter, help_heading = "Diagnostics")]
    pub log: Vec<LogFilter>,
    /// List translated code in /tmp/perf-PID.map, so that `perf report` names it by the guest's addresses
    #[arg(long, help_heading = "Diagnostics")]
    pub perf_map: bool,
    /// Show on standard error the guest's and the host's instructions of the block at this address once it is translated
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = "Diagnostics")]
    pub dump_block: Option<u64>,
    /// Use only catalogue images that were fetched before
    #[arg(long, help_heading = "Image")]
    pub offline: bool,
}

/// Options of `run`.
#[derive(Args)]
pub struct RunArgs {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Options of `test`.
#[derive(Args)]
pub struct TestArgs {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The exit code of the debug-exit port that means success (2*V+1 for a written V)
    #[arg(long, value_name = "CODE", value_parser = exit_code, help_heading = "End")]
    pub success_code: Option<u8>,
}

/// The steps of the script in the order of the command line, and the forbidden patterns.
///
/// # Errors
/// A sentence when one is malformed.
pub fn script(matches: &ArgMatches) -> Result<(Vec<Step>, Vec<regex::bytes::Regex>), String> {
    let given = |name: &'static str| {
        let values = matches.get_many::<String>(name).unwrap_or_default();
        matches.indices_of(name).into_iter().flatten().zip(values)
    };
    let mut steps = Vec::new();
    for (at, text) in given("expect") {
        steps.push((at, Step::Expect(pattern(text)?)));
    }
    for (at, text) in given("send") {
        steps.push((at, Step::Send(unescape(text)?)));
    }
    for (at, text) in given("screen_expect") {
        steps.push((at, Step::ScreenExpect(pattern(text)?)));
    }
    for (at, text) in given("typed") {
        let plain = String::from_utf8_lossy(&unescape(text)?).into_owned();
        let keys = strokes(&plain).map_err(|c| format!("--type: a US keyboard has no key for {c:?}; leave it out"))?;
        steps.push((at, Step::Keys(keys)));
    }
    for (at, list) in given("key") {
        let keys = chords(list).map_err(|name| {
            format!("--key: there is no key {name:?}; there are letters, digits, f1 to f12, esc, enter, tab, up, down, del and such, held together as in ctrl-alt-del")
        })?;
        steps.push((at, Step::Keys(keys)));
    }
    for (at, drive) in given("eject") {
        steps.push((at, Step::Medium(drive.parse()?, MediumEvent::Eject)));
    }
    for (at, text) in given("insert") {
        let (drive, file) = text.split_once('=').ok_or_else(|| format!("--insert {text}: it wants DRIVE=FILE, like cdrom=other.iso"))?;
        steps.push((at, Step::Medium(drive.parse()?, MediumEvent::Insert(file.into()))));
    }
    steps.sort_by_key(|(at, _)| *at);
    let forbidden = given("forbid").map(|(_, text)| pattern(text)).collect::<Result<_, _>>()?;
    Ok((steps.into_iter().map(|(_, step)| step).collect(), forbidden))
}

/// The command of `matches`.
///
/// # Errors
/// As clap's.
pub fn command(matches: &ArgMatches) -> Result<Command, clap::Error> {
    Cli::from_arg_matches(matches).map(|cli| cli.command)
}

fn one_cpu(text: &str) -> Result<u8, String> {
    match text.parse::<u32>() {
        Ok(1) => Ok(1),
        Ok(2..) => Err("more than one processor does not work yet; leave out --cpus".into()),
        _ => Err(format!("`{text}` is no number of processors; use --cpus 1")),
    }
}

fn board(text: &str) -> Result<Board, String> {
    let mut parts = text.split(',');
    let chipset = match parts.next().unwrap_or_default() {
        "pc" => Chipset::I440fx,
        "q35" => Chipset::Q35,
        "microvm" => return Err("the board microvm does not work yet; use pc or q35".into()),
        name => return Err(format!("there is no board `{name}`; use pc or q35")),
    };
    let mut board = Board { chipset, smm: true };
    for part in parts {
        board.smm = match part {
            "smm=on" => true,
            "smm=off" => false,
            _ => return Err(format!("a board has no `{part}`; it has smm=on and smm=off")),
        };
    }
    Ok(board)
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("`{text}` is no address; give it in hexadecimal, such as 0xffffffff81000000"))
}

fn engine(text: &str) -> Result<Engine, String> {
    match text {
        "auto" => Ok(Engine::Auto),
        "interpreter" => Ok(Engine::Interpreter),
        "translator" => Ok(Engine::Translator),
        "lockstep" => Ok(Engine::Lockstep),
        _ => Err(format!("there is no engine `{text}`; use auto, interpreter, translator or lockstep")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_script_keeps_its_order() {
        let line = [
            "softmetal",
            "test",
            "x",
            "--send",
            "a",
            "--expect",
            "b",
            "--forbid",
            "c",
            "--screen-expect",
            "s",
            "--type",
            "k",
            "--key",
            "ctrl-c,f1",
            "--insert",
            "floppy1=a=b",
            "--eject=cdrom",
            "--send=-d",
            "--expect",
            "e",
        ];
        let matches = Cli::command().try_get_matches_from(line).unwrap();
        let (steps, forbidden) = script(matches.subcommand().unwrap().1).unwrap();
        let told: Vec<String> = steps
            .iter()
            .map(|s| match s {
                Step::Expect(re) => format!("expect {re}"),
                Step::ScreenExpect(re) => format!("screen {re}"),
                Step::Keys(keys) => format!("keys {keys:x?}"),
                Step::Send(bytes) => format!("send {}", String::from_utf8_lossy(bytes)),
                Step::Medium(drive, event) => format!("{drive} {event:?}"),
            })
            .collect();
        let keys = ["keys [[25, a5]]", "keys [[1d, 2e, ae, 9d], [3b, bb]]"];
        assert_eq!(told[..3], ["send a", "expect b", "screen s"]);
        assert_eq!(told[3..5], keys);
        assert_eq!(told[5..], ["floppy1 Insert(\"a=b\")", "cdrom Eject", "send -d", "expect e"]);
        assert_eq!(forbidden.len(), 1);
    }
}
