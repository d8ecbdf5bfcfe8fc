//! The guest of `--workloads`: programs of this host's distribution at their usual work, and a whole Debian that boots.
//!
//! One shell script runs natively and in the guests. It prints "START NAME" before each program and afterwards, as
//! guestbench does, "NAME 0 CHECKSUM", so [`guest::collect`](crate::guest::collect) reads the timings of both.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use softmetal_machine::host::catalog::{Catalog, Media};
use softmetal_testroms::userland;

use crate::guest::{self, Images};
use crate::report::Subject;
use crate::watch;

const CRYPTO: &str = include_str!("../../testroms/workloads/crypto.c");
const LOOP: &str = include_str!("../../testroms/workloads/loop.py");
const DATABASE: &str = include_str!("../../testroms/workloads/database.sql");

/// The workload that is no program but a whole system, from power-on to its prompt.
pub const DEBIAN: &str = "debian";
/// How the prompt ends that Debian is waited for.
pub const DEBIAN_PROMPT: &str = "root@softmetal:~# ";
/// RAM of the guests; `xz -9` takes most of it.
pub const MEMORY: &str = "1536M";

/// A program, and the command whose output's checksum is its result.
struct Workload {
    name: &'static str,
    /// Runs in the folder [`HERE`]. `{N}` stands for the work at the scale asked for.
    command: &'static str,
    /// The work at scale 1.
    work: u32,
}

/// The folder with the programs' data, below the guest's root.
const HERE: &str = "workloads";

const WORKLOADS: [Workload; 7] = [
    Workload { name: "sqlite", command: "sed 's/ROWS/{N}/' database.sql | /usr/bin/sqlite3 :memory:", work: 60_000 },
    Workload { name: "sha256", command: "./crypto sha256 {N}", work: 512 },
    Workload { name: "aes_gcm", command: "./crypto aes-256-gcm {N}", work: 1024 },
    Workload {
        name: "python_start",
        command: "i=0; while [ $i -lt {N} ]; do $PYTHON -c 'import json, re; print(json.dumps([1]))'; i=$((i+1)); done",
        work: 20,
    },
    Workload { name: "python_loop", command: "$PYTHON loop.py {N}", work: 300_000 },
    // Ten thousand lines at scale 1.
    Workload { name: "gcc", command: "/usr/bin/gcc -O2 -w -nostdinc -I. -c big.c && cat big.o", work: 10_000 },
    Workload { name: "xz", command: "/usr/bin/xz -9 -T1 -c text", work: 20 << 20 },
];

/// The workloads to run: those wanted, or all.
pub fn select(wanted: &[String]) -> Result<Vec<String>> {
    let all: Vec<&str> = WORKLOADS.iter().map(|w| w.name).chain([DEBIAN]).collect();
    if let Some(unknown) = wanted.iter().find(|w| !all.contains(&w.as_str())) {
        bail!("there is no workload {unknown:?}; there are: {}", all.join(", "));
    }
    Ok(all.into_iter().filter(|n| wanted.is_empty() || wanted.iter().any(|w| w == n)).map(str::to_string).collect())
}

/// Where the packages of a Debian put them.
const PROGRAMS: [&str; 5] = ["/usr/bin/sqlite3", "/usr/bin/python3", "/usr/bin/gcc", "/usr/bin/as", "/usr/bin/xz"];

/// Makes the guest in `work`: what it boots, and the script for this host.
pub fn prepare(work: &Path, names: &[String], scale: f64, offline: bool) -> Result<(Images, PathBuf)> {
    if let Some(missing) = PROGRAMS.iter().find(|p| !Path::new(p).exists()) {
        bail!("{missing} is not there; the workloads need apt-get install sqlite3 python3 gcc libc6-dev xz-utils openssl");
    }
    let root = work.join("overlay");
    let here = root.join(HERE);
    fs::create_dir_all(&here)?;
    let amount = |w: &Workload| ((f64::from(w.work) * scale) as u32).max(1);
    let of = |name: &str| WORKLOADS.iter().find(|w| w.name == name).map_or(1, amount);
    fs::write(here.join("database.sql"), DATABASE)?;
    fs::write(here.join("loop.py"), LOOP)?;
    fs::write(here.join("big.c"), c_source(of("gcc")))?;
    fs::write(here.join("text"), userland::text(of("xz") as usize))?;
    let crypto = work.join("crypto.c");
    fs::write(&crypto, CRYPTO)?;
    output(Command::new("gcc").args(["-O2", "-w", "-o"]).arg(here.join("crypto")).arg(&crypto).arg("-l:libcrypto.so.3"))?;
    let python = python(&root)?;

    // The compiler calls what it finds beside itself, by other names than what is behind the links.
    let tool = |name: &str| output(Command::new("gcc").arg(format!("-print-prog-name={name}"))).map(|p| PathBuf::from(p.trim()));
    let assembler = Path::new("/usr/bin/as");
    let programs = ["/usr/bin/sqlite3", "/usr/bin/gcc", "/usr/bin/xz"].map(PathBuf::from);
    let programs: Vec<PathBuf> = programs.into_iter().chain([python.clone(), tool("cc1")?, assembler.into()]).collect();
    let crypto = here.join("crypto");
    let libraries = userland::libraries(&[&crypto])?;
    let all: Vec<&Path> = programs.iter().chain(&libraries).map(PathBuf::as_path).collect();
    userland::install(&root, &all)?;

    let mut script = format!("export PYTHON={} PYTHONHOME=$ROOT/usr LC_ALL=C\ncd $ROOT/{HERE}\n", python.display());
    for w in WORKLOADS.iter().filter(|w| names.iter().any(|n| n == w.name)) {
        let command = w.command.replace("{N}", &amount(w).to_string());
        let _ = writeln!(script, "echo \"START {0}\"; sum=$( ( {command} ) | sha256sum | cut -c1-16 ); echo \"{0} 0 $sum\"", w.name);
    }
    let run = here.join("run.sh");
    fs::write(&run, &script)?;
    guest::autorun(&root, &format!("ROOT= sh /{HERE}/run.sh"))?;
    let catalog = Catalog::new(offline)?;
    let mut progress = |step: &str| eprintln!("compare: {step}");
    let kernel = catalog.fetch("busybox", &mut progress)?.linux().context("busybox boots no kernel")?.kernel;
    let programs = catalog.initrd_with("busybox", &root, &mut progress)?;
    Ok((Images { kernel, runs: vec![("programs", programs)], memory: MEMORY }, run))
}

/// Runs the script on the host itself.
pub fn run_natively(script: &Path, timeout: Duration, subject: &mut Subject) -> Result<()> {
    let root = script.parent().and_then(Path::parent).context("the script is in the guest's root")?;
    let mut command = Command::new("sh");
    command.arg(script).env("ROOT", root);
    let run = watch::watch(command, timeout, |_| false)?;
    guest::collect(&run.lines, subject);
    if !run.ended_well {
        subject.failures.push(format!("native: {}", run.last_words()));
    }
    Ok(())
}

/// The disk of the catalogue's Debian.
pub fn debian(offline: bool) -> Result<PathBuf> {
    match Catalog::new(offline)?.fetch(DEBIAN, &mut |step| eprintln!("compare: {step}"))?.media {
        Media::Disk(path) => Ok(path),
        _ => bail!("{DEBIAN} boots from no disk"),
    }
}

/// Copies Python's own modules below `root`, compiled in a way that asks for no times of files; where Python itself is.
fn python(root: &Path) -> Result<PathBuf> {
    let python = fs::canonicalize("/usr/bin/python3")?;
    let version = python.file_name().context("python3 has a name")?.to_owned();
    let (from, to) = (Path::new("/usr/lib").join(&version), root.join("usr/lib").join(&version));
    copy_modules(&from, &to)?;
    output(Command::new(&python).args(["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]).arg(&to))?;
    Ok(python)
}

/// Copies `.py` files, without the packages that nothing here imports.
fn copy_modules(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && ["collections", "encodings", "importlib", "json", "re"].iter().any(|n| entry.file_name() == *n) {
            copy_modules(&path, &to.join(entry.file_name()))?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "py") {
            fs::copy(&path, to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// A C file of `lines` lines at least: functions of loops, switches, calls and arithmetic, each a little different.
fn c_source(lines: u32) -> String {
    let mut out = String::from("typedef struct { int a, b; unsigned c[16]; double d; } S;\n");
    for n in 0..lines.div_ceil(20) {
        let (k, m, previous) = (n * 37 % 101 + 3, n * 7 % 16, n.saturating_sub(1));
        let call = if n == 0 { String::from("x") } else { format!("f{previous}(s, x - 1, p)") };
        let _ = write!(
            out,
            "int f{n}(S *s, int x, const unsigned char *p)
{{
    unsigned h = {k}u * (unsigned)x;
    int i, sum = s->a;
    for (i = 0; i < {k}; i++) {{
        h = (h << 5 | h >> 27) ^ p[i & 63];
        s->c[(i + {m}) & 15] += h;
        if (h % {k} == {m})
            sum += s->c[i & 15] / (unsigned)(i + 1);
    }}
    switch (h & 7) {{
    case 0: sum -= {k}; break;
    case 1: s->d += sum * 0.{k}; break;
    case 2: s->b ^= sum; /* fall through */
    case 5: sum += x > {m} ? {call} : s->b; break;
    default: s->a = sum * {k} - (int)s->d;
    }}
    return sum + (s->b << {m});
}}

"
        );
    }
    out
}

/// What a command prints; an error if it fails.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_chosen_by_name() {
        assert_eq!(select(&[]).unwrap().len(), WORKLOADS.len() + 1);
        assert_eq!(select(&["debian".into(), "xz".into()]).unwrap(), ["xz", "debian"]);
        assert!(select(&["doom".into()]).unwrap_err().to_string().contains("python_loop"));
    }

    #[test]
    fn the_c_file_has_the_length_asked_for() {
        assert!((10_000..10_100).contains(&c_source(10_000).lines().count()));
    }
}
