//! The guest: guestbench in a busybox initramfs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use softmetal_machine::host::catalog::Catalog;

use crate::Sample;
use crate::report::Subject;

/// The kernel's command line.
pub const CMDLINE: &str = "console=ttyS0 poweroff";
/// Whether guestbench runs on this host.
pub const RUNS_NATIVELY: bool = cfg!(all(target_arch = "x86_64", target_os = "linux"));

const SOURCE: &str = include_str!("../../testroms/guestbench/guestbench.c");

/// What to boot.
pub struct Images {
    pub kernel: PathBuf,
    /// The guests by what they do: the initramfs of each.
    pub runs: Vec<(&'static str, PathBuf)>,
    /// RAM, as both emulators' options have it.
    pub memory: &'static str,
}

/// The guest that powers off as soon as it is up.
pub const BOOT: &str = "boot";

/// Compiles guestbench for x86-64.
pub fn compile(work: &Path) -> Result<PathBuf> {
    let compiler = if cfg!(target_arch = "x86_64") { "gcc" } else { "x86_64-linux-gnu-gcc" };
    let (source, program) = (work.join("guestbench.c"), work.join("guestbench"));
    fs::write(&source, SOURCE)?;
    let status = Command::new(compiler)
        .args(["-O2", "-static", "-w", "-o"])
        .args([&program, &source])
        .arg("-lm")
        .status()
        .with_context(|| format!("{compiler} does not start; install gcc and the C library's static files"))?;
    if !status.success() {
        bail!("{compiler} cannot compile guestbench.c; are the C library's static files installed (libc6-dev)?");
    }
    Ok(program)
}

/// The programs to run: those wanted, or all, in guestbench's order.
pub fn select(wanted: &[String]) -> Result<Vec<String>> {
    let all = names();
    if let Some(unknown) = wanted.iter().find(|w| !all.contains(w)) {
        bail!("there is no program {unknown:?}; there are: {}", all.join(", "));
    }
    Ok(all.into_iter().filter(|n| wanted.is_empty() || wanted.contains(n)).collect())
}

/// The names in guestbench's table, `T[] = { {"name", function}, ... }`.
fn names() -> Vec<String> {
    let table = SOURCE.split_once(" T[] = {").map_or("", |(_, rest)| rest);
    let table = table.split_once("};").map_or("", |(table, _)| table);
    table.split('"').skip(1).step_by(2).map(str::to_string).collect()
}

/// Makes the two guests.
pub fn images(program: &Path, work: &Path, kernels: &[String], scale: f64, offline: bool) -> Result<Images> {
    let catalog = Catalog::new(offline)?;
    let mut progress = |step: &str| eprintln!("compare: {step}");
    let base = catalog.fetch("busybox", &mut progress)?.linux().context("busybox boots no kernel")?;
    let overlay = work.join("overlay");
    fs::create_dir(&overlay)?;
    fs::copy(program, overlay.join("guestbench"))?;
    let kernels = kernels.join(" ");
    autorun(&overlay, &format!("for k in {kernels}; do echo \"START $k\"; /guestbench $k -s {scale}; done"))?;
    let programs = catalog.initrd_with("busybox", &overlay, &mut progress)?;
    Ok(Images { kernel: base.kernel, runs: vec![(BOOT, base.initrd), ("programs", programs)], memory: "256M" })
}

/// Has the guest with `overlay` laid over its root run a line of shell as soon as it is up.
pub fn autorun(overlay: &Path, line: &str) -> Result<()> {
    let path = overlay.join("autorun");
    fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
}

/// Runs one program on the host itself.
pub fn run_natively(program: &Path, kernel: &str, scale: f64, subject: &mut Subject) -> Result<()> {
    let output = Command::new(program).args([kernel, "-s", &scale.to_string()]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (seconds, checksum) = result(text.trim(), kernel).with_context(|| format!("{kernel} fails natively"))?;
    subject.samples.entry(kernel.into()).or_default().push(Sample { seconds, checksum });
    Ok(())
}

/// Takes the timings from a guest's serial lines.
pub fn collect(lines: &[(Duration, String)], subject: &mut Subject) {
    let mut started: Option<(Duration, &str)> = None;
    for (at, line) in lines {
        if let Some(kernel) = line.strip_prefix("START ") {
            started = Some((*at, kernel.trim()));
        } else if let Some((start, kernel)) = started {
            // The guest's own seconds are virtual; the host's count.
            if let Some((_, checksum)) = result(line, kernel) {
                let seconds = (*at - start).as_secs_f64();
                subject.samples.entry(kernel.into()).or_default().push(Sample { seconds, checksum });
                started = None;
            }
        }
    }
}

/// Reads "NAME SECONDS CHECKSUM".
fn result(line: &str, kernel: &str) -> Option<(f64, String)> {
    let mut words = line.split_whitespace();
    let found = words.next()? == kernel;
    let seconds = words.next()?.parse().ok()?;
    let checksum = words.next()?;
    (found && checksum.len() == 16 && words.next().is_none()).then(|| (seconds, checksum.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let names = names();
        assert_eq!((names.first().unwrap().as_str(), names.last().unwrap().as_str()), ("sieve", "smc"));
        assert!(names.contains(&"mandel_avx2".to_string()) && names.iter().all(|n| !n.contains([' ', ','])));
        assert!(select(&["nothing".into()]).is_err());
        assert_eq!(select(&["smc".into(), "sort".into()]).unwrap(), ["sort", "smc"]);
    }

    #[test]
    fn timings_are_the_hosts() {
        let lines = [
            (100, "smc 9.0 0000000000000001"),
            (1000, "START smc"),
            (1100, "[   12.3] some kernel message"),
            (3500, "smc 0.0100 00000000deadbeef"),
            (3600, "START x87"),
            (9000, "x87 0.1 cut"),
        ]
        .map(|(ms, line)| (Duration::from_millis(ms), line.to_string()));
        let mut subject = Subject::new("guest", String::new());
        collect(&lines, &mut subject);
        assert_eq!(subject.samples.len(), 1);
        let sample = &subject.samples["smc"][0];
        assert_eq!((sample.seconds, sample.checksum.as_str()), (2.5, "00000000deadbeef"));
    }
}
