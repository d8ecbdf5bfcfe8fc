//! The figures, as Markdown and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Samples;

/// One of those that are compared.
pub struct Subject {
    pub name: &'static str,
    /// What exactly it is.
    pub version: String,
    pub samples: Samples,
    /// From start to exit of a guest that powers off as soon as it is up.
    pub boot: Vec<Duration>,
    /// From start to the guest's first program.
    pub ready: Vec<Duration>,
    /// From power-on to the prompt of a whole system on a disk.
    pub prompt: Vec<Duration>,
    /// The most memory resident while it only boots, in bytes.
    pub boot_rss: Option<u64>,
    /// The same with the programs.
    pub peak_rss: Option<u64>,
    pub failures: Vec<String>,
}

impl Subject {
    pub fn new(name: &'static str, version: String) -> Self {
        Self {
            name,
            version: version.trim().to_string(),
            samples: Samples::new(),
            boot: Vec::new(),
            ready: Vec::new(),
            prompt: Vec::new(),
            boot_rss: None,
            peak_rss: None,
            failures: Vec::new(),
        }
    }

    fn checksums(&self, kernel: &str) -> impl Iterator<Item = &str> {
        self.samples.get(kernel).into_iter().flatten().map(|s| s.checksum.as_str())
    }
}

/// The comparison.
pub struct Report {
    scale: f64,
    kernels: Vec<String>,
    /// The first is what the others are held against.
    subjects: Vec<Subject>,
}

/// What guestbench prints for a program that the processor lacks the instructions for.
const SKIPPED: &str = "0000000000000000";

impl Report {
    pub fn new(scale: f64, kernels: Vec<String>, subjects: Vec<Subject>) -> Self {
        Self { scale, kernels, subjects }
    }

    /// The median time, if the checksum is right.
    fn seconds(&self, subject: &Subject, kernel: &str) -> Option<f64> {
        let expected = self.expected(kernel)?;
        if subject.checksums(kernel).any(|c| c != expected) {
            return None;
        }
        median(subject.samples.get(kernel)?.iter().map(|s| s.seconds).collect())
    }

    fn expected(&self, kernel: &str) -> Option<&str> {
        self.subjects.iter().find_map(|s| s.checksums(kernel).find(|c| *c != SKIPPED))
    }

    /// The geometric mean of the ratios of `subject` to `base` over the programs that both ran, and how many those are.
    fn mean(&self, subject: &Subject, base: &Subject) -> Option<(f64, usize)> {
        let ratios: Vec<f64> = self
            .kernels
            .iter()
            .filter_map(|k| Some(self.seconds(subject, k)? / self.seconds(base, k)?))
            .filter(|r| r.is_finite() && *r > 0.0)
            .collect();
        let mean = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
        (!ratios.is_empty()).then_some((mean, ratios.len()))
    }

    /// What is wrong: runs that failed and checksums that differ.
    pub fn complaints(&self) -> Vec<String> {
        let mut out: Vec<String> = self.subjects.iter().flat_map(|s| s.failures.iter().cloned()).collect();
        for kernel in &self.kernels {
            let expected = self.expected(kernel);
            for subject in &self.subjects {
                match subject.checksums(kernel).find(|c| Some(*c) != expected && *c != SKIPPED) {
                    Some(c) => out.push(format!("{}: {kernel} gives {c}, not {}", subject.name, expected.unwrap_or("?"))),
                    None if subject.checksums(kernel).next().is_none() => {
                        out.push(format!("{}: {kernel} gave no result", subject.name));
                    }
                    None => {}
                }
            }
        }
        out
    }

    /// The table. Each emulator's time is followed by how many times the first subject's that is.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let base = &self.subjects[0];
        let _ = writeln!(out, "Seconds of host time at scale {} (in brackets: times {}).\n", self.scale, base.name);
        for subject in &self.subjects {
            let _ = writeln!(out, "- {}: {}", subject.name, subject.version);
        }
        let names: Vec<&str> = self.subjects.iter().map(|s| s.name).collect();
        let _ = writeln!(out, "\n| | {} |\n|---|{}", names.join(" | "), "--:|".repeat(names.len()));
        for kernel in &self.kernels {
            let reference = self.seconds(base, kernel);
            let row = self.subjects.iter().map(|s| match (self.seconds(s, kernel), reference) {
                (Some(t), Some(r)) if !std::ptr::eq(s, base) => format!("{t:.3} ({:.1})", t / r),
                (Some(t), _) => format!("{t:.3}"),
                (None, _) if self.expected(kernel).is_none() && s.samples.contains_key(kernel) => "too little to do".into(),
                (None, _) if s.checksums(kernel).any(|c| c == SKIPPED) => "not offered".into(),
                (None, _) if s.checksums(kernel).next().is_some() => "WRONG".into(),
                (None, _) => "none".into(),
            });
            line(&mut out, kernel, row);
        }
        let row = self.subjects.iter().map(|s| match self.mean(s, base) {
            Some((mean, of)) => format!("{mean:.2} (of {of})"),
            None => "none".into(),
        });
        line(&mut out, "geometric mean of the ratios", row);
        let mut times = |title: &str, of: fn(&Subject) -> &Vec<Duration>| {
            if self.subjects.iter().any(|s| !of(s).is_empty()) {
                line(&mut out, title, self.subjects.iter().map(|s| seconds(of(s)).map_or("".into(), |s| format!("{s:.2}"))));
            }
        };
        times("start to first program", |s| &s.ready);
        times("start to power-off and exit", |s| &s.boot);
        times("a Debian disk to the root prompt", |s| &s.prompt);
        let rss = |bytes: Option<u64>| bytes.map_or(String::new(), |b| format!("{} MiB", b >> 20));
        if self.subjects.iter().any(|s| s.boot_rss.is_some()) {
            line(&mut out, "peak resident memory, booting", self.subjects.iter().map(|s| rss(s.boot_rss)));
        }
        line(&mut out, "peak resident memory, programs", self.subjects.iter().map(|s| rss(s.peak_rss)));
        if let [_, softmetal, qemu] = &self.subjects[..] {
            if let Some((mean, of)) = self.mean(softmetal, qemu) {
                let _ = writeln!(out, "\nOver {of} programs softmetal takes {mean:.2} times the time of qemu.");
            }
        }
        out
    }

    /// All figures.
    pub fn json(&self) -> serde_json::Result<String> {
        let subjects: Vec<Value> = self
            .subjects
            .iter()
            .map(|s| {
                let kernels: serde_json::Map<String, Value> = self
                    .kernels
                    .iter()
                    .map(|k| {
                        let runs: Vec<f64> = s.samples.get(k).into_iter().flatten().map(|s| s.seconds).collect();
                        let value = json!({
                            "seconds": self.seconds(s, k),
                            "runs": runs,
                            "checksum": s.checksums(k).next(),
                        });
                        (k.clone(), value)
                    })
                    .collect();
                json!({
                    "name": s.name,
                    "version": s.version,
                    "kernels": kernels,
                    "ratio_to_first": self.mean(s, &self.subjects[0]).map(|m| m.0),
                    "ready_s": seconds(&s.ready),
                    "boot_to_poweroff_s": seconds(&s.boot),
                    "disk_to_prompt_s": seconds(&s.prompt),
                    "boot_rss_bytes": s.boot_rss,
                    "peak_rss_bytes": s.peak_rss,
                    "failures": s.failures,
                })
            })
            .collect();
        serde_json::to_string_pretty(&json!({ "scale": self.scale, "processor": processor(), "subjects": subjects }))
    }
}

fn line(out: &mut String, title: &str, cells: impl Iterator<Item = String>) {
    let _ = writeln!(out, "| {title} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

fn seconds(times: &[Duration]) -> Option<f64> {
    median(times.iter().map(Duration::as_secs_f64).collect())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (n > 0).then(|| (values[n / 2] + values[(n - 1) / 2]) / 2.0)
}

/// The host's processor.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sample;

    fn subject(name: &'static str, results: &[(&str, f64, &str)]) -> Subject {
        let mut s = Subject::new(name, "1".into());
        for (kernel, seconds, checksum) in results {
            let sample = Sample { seconds: *seconds, checksum: checksum.repeat(16) };
            s.samples.entry((*kernel).into()).or_default().push(sample);
        }
        s
    }

    #[test]
    fn wrong_and_skipped_results_do_not_count() {
        let native = subject("native", &[("a", 1.0, "1"), ("b", 1.0, "2"), ("c", 1.0, "3")]);
        let guest = subject("softmetal", &[("a", 4.0, "1"), ("a", 2.0, "1"), ("b", 0.1, "9"), ("c", 0.1, "0")]);
        let report = Report::new(1.0, ["a", "b", "c", "d"].map(String::from).into(), vec![native, guest]);
        let text = report.markdown();
        assert!(text.contains("| a | 1.000 | 3.000 (3.0) |"), "{text}");
        assert!(text.contains("| b | 1.000 | WRONG |") && text.contains("| c | 1.000 | not offered |"), "{text}");
        assert!(text.contains("| geometric mean of the ratios | 1.00 (of 3) | 3.00 (of 1) |"), "{text}");
        let complaints = report.complaints();
        assert!(complaints[0].contains("b gives 9999999999999999, not 2222222222222222"), "{complaints:?}");
        assert_eq!(complaints.len(), 3);
        let json: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["subjects"][1]["kernels"]["a"]["seconds"], 3.0);
        assert_eq!(json["subjects"][1]["kernels"]["b"]["seconds"], Value::Null);
    }
}
