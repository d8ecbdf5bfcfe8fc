//! The processor models, as a distribution's kernel sees them: it finds what it expects of the family, and no register is
//! missing.

use crate::boots::long;
use crate::{TROUBLE, images, softmetal};

/// A model, the image for it, and lines of `/proc/cpuinfo`.
struct Expected {
    cpu: &'static str,
    image: &'static str,
    lines: &'static [&'static str],
    flags: &'static str,
}

const SHORT: [Expected; 2] = [
    Expected {
        cpu: "haswell",
        image: "busybox",
        lines: &[
            "vendor_id\t: GenuineIntel",
            "cpu family\t: 6",
            "model\t\t: 60",
            "model name\t: Intel(R) Core(TM) i7-4770 CPU @ 1.00GHz",
            "stepping\t: 3",
            "microcode\t: 0x28",
            "cache size\t: 8192 KB",
            "clflush size\t: 64",
        ],
        flags: "avx2 bmi2 fma movbe tsc_deadline_timer monitor invpcid rdtscp lm",
    },
    Expected {
        cpu: "zen3",
        image: "busybox",
        lines: &[
            "vendor_id\t: AuthenticAMD",
            "cpu family\t: 25",
            "model\t\t: 33",
            "model name\t: AMD Ryzen 9 5950X 16-Core Processor",
            "microcode\t: 0xa201025",
            "cache size\t: 512 KB",
            "address sizes\t: 40 bits physical, 48 bits virtual",
        ],
        flags: "sha_ni vaes vpclmulqdq pku ospke umip xsaves topoext 3dnowprefetch",
    },
];

const LONG: [Expected; 7] = [
    Expected { cpu: "core2duo", image: "busybox", lines: &["model\t\t: 15", "cache size\t: 4096 KB"], flags: "ssse3 lahf_lm" },
    Expected { cpu: "nehalem", image: "busybox", lines: &["model\t\t: 26", "microcode\t: 0x1d"], flags: "sse4_2 popcnt rdtscp" },
    Expected { cpu: "max", image: "busybox-full", lines: &["model\t\t: 94"], flags: "waitpkg movdir64b la57 serialize" },
    Expected { cpu: "zen3", image: "busybox-full", lines: &["cpu family\t: 25"], flags: "topoext" },
    Expected { cpu: "nehalem", image: "busybox-full", lines: &["model\t\t: 26"], flags: "sse4_2" },
    Expected { cpu: "pentium3", image: "busybox-i386", lines: &["model\t\t: 8", "cache size\t: 256 KB"], flags: "pae sse" },
    Expected { cpu: "athlon", image: "busybox-i386", lines: &["model\t\t: 4", "cache size\t: 256 KB"], flags: "mmxext 3dnow 3dnowext" },
];

fn looks_right(e: &Expected) {
    if images(e.image).is_none() {
        return;
    }
    let forbidden = format!("{TROUBLE}|unchecked MSR");
    let output = softmetal()
        .args(["test", e.image, "--cpu", e.cpu, "--memory", "256M", "--forbid", &forbidden, "--expect", "guest# "])
        .args(["--send", "cat /proc/cpuinfo; poweroff -f\\n", "--expect", "Power down"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}: {log}\n{}", e.cpu, String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    for line in e.lines {
        assert!(lines.contains(line), "{}: no {line:?} in {log}", e.cpu);
    }
    let flags = lines.iter().find_map(|l| l.strip_prefix("flags\t\t: ")).unwrap_or_default();
    for flag in e.flags.split(' ') {
        assert!(flags.split(' ').any(|f| f == flag), "{}: no {flag} in {flags}", e.cpu);
    }
}

#[test]
fn a_haswell_and_a_zen3_are_taken_for_what_they_are() {
    SHORT.iter().for_each(looks_right);
}

#[test]
fn so_are_the_others() {
    if long() {
        LONG.iter().for_each(looks_right);
    }
}

#[test]
fn a_64_bit_kernel_is_refused_where_there_is_no_such_mode() {
    if images("busybox").is_none() {
        return;
    }
    let output = softmetal().args(["test", "busybox", "--cpu", "pentium3"]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("give a 32-bit kernel or another --cpu"), "{words}");
}
