//! Runs an emulator and notes when each line of its output arrives.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What a run has shown.
pub struct Run {
    /// From start to end.
    pub wall: Duration,
    /// Each line of its standard output and when, since the start, it had arrived.
    pub lines: Vec<(Duration, String)>,
    /// The most memory it had resident, in bytes; none where the host does not tell.
    pub peak_rss: Option<u64>,
    /// It ended by itself with exit code 0.
    pub ended_well: bool,
    /// How it ended.
    pub end: String,
    /// What it wrote to standard error.
    pub errors: Vec<String>,
}

impl Run {
    /// Why it failed, in one line.
    pub fn last_words(&self) -> String {
        let last = self.lines.iter().rev().map(|(_, l)| l.as_str()).find(|l| !l.trim().is_empty()).unwrap_or("nothing");
        let error = self.errors.iter().map(String::as_str).find(|l| !l.trim().is_empty()).unwrap_or("");
        format!("{}; {error}; the last line on its serial port was: {last}", self.end)
    }
}

/// What a shell's prompt ends with: it counts as a line, as no line end follows it.
const PROMPT: &[u8] = b"# ";

/// Runs `command` to its end, or kills it when `timeout` is over. `seen` is told each line as it comes, and whether that was
/// all there is to see: then the command is killed, and has ended well.
pub fn watch(mut command: Command, timeout: Duration, mut seen: impl FnMut(&str) -> bool) -> Result<Run> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start", command.get_program().to_string_lossy()))?;
    let stderr = child.stderr.take().context("no pipe")?;
    let errors = std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).take(200).collect());
    let stdout = child.stdout.take().context("no pipe")?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || stamp_lines(stdout, |line| sender.send((start.elapsed(), line)).is_ok()));

    let mut lines = Vec::new();
    let mut peak_rss = None;
    let (mut expired, mut enough) = (false, false);
    loop {
        match receiver.recv_timeout(Duration::from_millis(20)) {
            Ok((at, line)) => {
                if seen(&line) && !enough {
                    enough = true;
                    child.kill()?;
                }
                lines.push((at, line));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        peak_rss = peak_rss.max(resident_peak(child.id()));
        if start.elapsed() > timeout && !expired && !enough {
            expired = true;
            child.kill()?;
        }
    }
    let status = child.wait()?;
    let wall = start.elapsed();
    Ok(Run {
        wall,
        lines,
        peak_rss,
        ended_well: enough || status.success() && !expired,
        end: if expired { format!("stopped after {} s", timeout.as_secs()) } else { status.to_string() },
        errors: errors.join().unwrap_or_default(),
    })
}

/// Tells `line` each line as soon as it is there, until that gives false.
fn stamp_lines(mut stream: impl Read, mut line: impl FnMut(String) -> bool) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches(['\r', '\n']).to_string();
    let (mut piece, mut begun) = ([0; 4096], Vec::new());
    loop {
        let n = stream.read(&mut piece).unwrap_or(0);
        begun.extend(&piece[..n]);
        while !begun.is_empty() {
            let whole = n == 0 || begun.ends_with(PROMPT);
            let end = begun.iter().position(|b| *b == b'\n').map(|at| at + 1);
            let Some(end) = end.or(whole.then_some(begun.len())) else { break };
            let rest = begun.split_off(end);
            if !line(text(&begun)) {
                return;
            }
            begun = rest;
        }
        if n == 0 {
            return;
        }
    }
}

/// VmHWM of proc(5).
fn resident_peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_stamped_as_they_arrive() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; sleep 0.3; printf 'two\\r\\n'; echo why >&2; exit 3"]);
        let run = watch(command, Duration::from_secs(20), |_| false).unwrap();
        assert_eq!(run.lines.iter().map(|(_, l)| l.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        assert!(run.lines[1].0 - run.lines[0].0 >= Duration::from_millis(250));
        assert!(!run.ended_well && run.last_words().contains("why"));
    }

    #[test]
    fn a_run_that_does_not_end_is_stopped() {
        let mut command = Command::new("sleep");
        command.arg("100");
        let run = watch(command, Duration::from_millis(100), |_| false).unwrap();
        assert!(run.wall < Duration::from_secs(50) && run.end.contains("stopped"));
    }
    #[test]
    fn a_prompt_ends_a_run_that_waits_for_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo up; printf 'root@guest:~# '; exec sleep 100"]);
        let run = watch(command, Duration::from_secs(50), |line| line.ends_with("# ")).unwrap();
        assert!(run.ended_well && run.wall < Duration::from_secs(40));
        assert_eq!(run.lines.iter().map(|(_, l)| l.as_str()).collect::<Vec<_>>(), ["up", "root@guest:~# "]);
    }
}
