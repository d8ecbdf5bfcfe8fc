//! Programs built for x86-64-v3 and a distribution's own give in a guest what they give on this host.
//!
//! One shell script is run natively and in the guest; the lines that begin with RESULT must be the same. The long form,
//! `SOFTMETAL_LONG_BOOTS=1 cargo test --release -p softmetal --test linux userland -- --nocapture`, has a million values a
//! function of libm, and programs from source packages. It takes some ten minutes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use softmetal_machine::host::catalog::Catalog;
use softmetal_testroms::userland;

use crate::boots::{long, wanted};
use crate::{TROUBLE, images, skip, softmetal};

const LIBM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/linux/userland/libm.c");
/// How everything here is compiled.
const V3: [&str; 4] = ["-O3", "-march=x86-64-v3", "-static", "-w"];

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the tools are here and this host can run what they make; says so if not.
pub fn able(tools: &[&str]) -> bool {
    let there = |tool: &&&str| Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().is_ok_and(|o| o.status.success());
    if let Some(missing) = tools.iter().find(|t| !there(t)) {
        return skip(&format!("{missing} is not installed"));
    }
    #[cfg(target_arch = "x86_64")]
    let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2");
    #[cfg(not(target_arch = "x86_64"))]
    let v3 = false;
    v3 || skip(&"this host's processor is not of x86-64-v3")
}

/// What a guest gets: a folder laid over its root.
pub struct Guest {
    root: tempfile::TempDir,
}

impl Guest {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("userland")).unwrap();
        Self { root }
    }

    /// A place in the folder that holds the script and what it uses.
    pub fn here(&self, name: &str) -> PathBuf {
        self.root.path().join("userland").join(name)
    }

    /// Compiles a static program.
    pub fn compile(&self, name: &str, from: &Path, arguments: &[&str]) {
        run(Command::new("gcc").current_dir(from).args(V3).arg("-o").arg(self.here(name)).args(arguments).arg("-lm"));
    }

    /// Copies a program or library of this host, and the libraries that it needs, to the same paths.
    fn install(&self, paths: &[&Path]) {
        userland::install(self.root.path(), paths).unwrap();
    }

    /// The same for the libraries that a program needs which is in the guest's folder already.
    pub fn install_libraries_of(&self, program: &Path) {
        let libraries = userland::libraries(&[program]).unwrap();
        self.install(&libraries.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    }

    /// Runs the script on this host, and in a guest with each of the engines.
    pub fn agrees(&self, script: &str, memory: &str, engines: &[Option<&str>]) {
        let script = format!("export PATH=/userland:$PATH PYTHONDONTWRITEBYTECODE=1\ncd /userland\n{script}\n");
        fs::write(self.here("run.sh"), &script).unwrap();
        let native = script.replace("/userland", self.here("").to_str().unwrap().trim_end_matches('/'));
        let python = format!("{}/usr/lib/python3.11", self.root.path().display());
        let native = results(&run(Command::new("sh").env("PYTHONPATH", python).args(["-c", &native])));
        assert!(!native.is_empty());
        for &engine in engines {
            let (guest, log) = self.boot("busybox", memory, engine);
            let differing: Vec<_> = native.iter().zip(&guest).filter(|(n, g)| n != g).collect();
            assert!(
                differing.is_empty() && native.len() == guest.len(),
                "{engine:?}: of {} and {}: {differing:#?}\n{log}",
                native.len(),
                guest.len()
            );
        }
        println!("{} results are the same", native.len());
    }

    /// Runs `run.sh` in a guest with the catalogue's `kernel`: the results, and all that the guest said.
    pub fn boot(&self, kernel: &str, memory: &str, engine: Option<&str>) -> (Vec<String>, String) {
        let initrd = Catalog::new(false).unwrap().initrd_with(kernel, self.root.path(), &mut |_| {}).unwrap();
        let output = softmetal()
            .args(["test", "--append", "console=ttyS0", "--memory", memory, "--forbid", TROUBLE, "--timeout", "1800"])
            .args(["--expect", "guest# ", "--send", "sh /userland/run.sh 2>&1; poweroff -f\\n", "--expect", "Power down"])
            .args(engine.map(|engine| ["--engine", engine]).iter().flatten())
            .arg("--kernel")
            .arg(images(kernel).unwrap().kernel)
            .arg("--initrd")
            .arg(&initrd)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{kernel}, {engine:?}: {log}\n{}", String::from_utf8_lossy(&output.stderr));
        _ = fs::remove_file(initrd);
        (results(&log), log)
    }
}

/// The lines of a log that the script is judged by.
fn results(log: &str) -> Vec<String> {
    log.lines().filter(|l| l.starts_with("RESULT ")).map(|l| l.trim_end().into()).collect()
}

#[test]
fn libm_gives_what_it_gives_here() {
    if images("busybox").is_none() || !able(&["gcc"]) {
        return;
    }
    let count = if wanted() { 1_000_000 } else { 3000 };
    let guest = Guest::new();
    guest.compile("libm", Path::new("/"), &[LIBM]);
    guest.agrees(&format!("libm {count} | sed 's/^/RESULT /'"), "256M", &[None]);
}

/// Fetches the sources of a distribution's package into `folder`; its root.
fn source(folder: &Path, package: &str) -> PathBuf {
    // The hosts of binary packages have the sources too, in lists of their own.
    let targets = run(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]));
    // The release itself: its security updates and the like are not everywhere.
    let release =
        |l: &&str| (l.contains("/debian/") || l.contains("/ubuntu/")) && l.split(' ').nth(1).is_some_and(|release| !release.contains('-'));
    let unique: BTreeSet<&str> = targets.lines().filter(release).collect();
    let list = folder.join("sources.list");
    fs::write(&list, unique.iter().map(|l| format!("deb-src {l}\n")).collect::<String>()).unwrap();
    fs::create_dir_all(folder.join("lists/partial")).unwrap();
    let options = [
        format!("Dir::Etc::SourceList={}", list.display()),
        "Dir::Etc::SourceParts=/dev/null".into(),
        format!("Dir::State::Lists={}", folder.join("lists").display()),
        format!("Dir::Cache={}", folder.display()),
        "APT::Sandbox::User=root".into(),
    ];
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.current_dir(folder).args(options.iter().flat_map(|o| ["-o", o])).arg("-q");
        apt
    };
    if !folder.join("pkgcache.bin").exists() {
        run(apt().arg("update"));
    }
    run(apt().args(["source", "--download-only", package]));
    let archive = fs::read_dir(folder).unwrap().filter_map(|e| Some(e.ok()?.path())).find(|p| {
        let name = p.file_name().unwrap().to_string_lossy();
        name.starts_with(&format!("{package}_")) && name.contains(".orig.tar.") && !name.ends_with(".asc")
    });
    let root = folder.join(package);
    fs::create_dir(&root).unwrap();
    run(Command::new("tar").arg("-C").arg(&root).args(["--strip-components=1", "-xf"]).arg(archive.expect("an upstream archive")));
    root
}

/// The C files of folders of `root`.
fn c_files(root: &Path, folders: &[&str]) -> Vec<String> {
    let names = folders.iter().flat_map(|f| fs::read_dir(root.join(f)).unwrap());
    names.filter_map(|e| Some(e.ok()?.path().to_str()?.to_string())).filter(|p| p.ends_with(".c")).collect()
}

const COMPRESSORS: &str = "\
for level in 1 3 9 19; do
  zstd -q -$level -c text >text.zst; echo RESULT zstd -$level $(sha256sum <text.zst) back $(zstd -dc text.zst | sha256sum)
done
for level in 1 6 9; do
  minigzip -$level <text >text.gz; echo RESULT zlib -$level $(sha256sum <text.gz) back $(minigzip -d <text.gz | sha256sum)
done
echo RESULT text $(sha256sum <text)";

const DATABASE: &str = "\
CREATE TABLE t(a INTEGER PRIMARY KEY, b REAL, c TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 30000)
  INSERT INTO t SELECT i, sin(i)*i/7.0, printf('%08x-%.9g', i*2654435761 % 4294967296, sqrt(i)) FROM n;
CREATE INDEX tc ON t(c);
SELECT count(*), sum(b), avg(b*b), min(c), max(c) FROM t;
SELECT substr(c, 1, 2), count(*), sum(b) FROM t GROUP BY 1 ORDER BY 1;
UPDATE t SET b = b*1.5 WHERE c LIKE '%7';
DELETE FROM t WHERE a % 3 = 0;
SELECT x.a, y.a, x.b - y.b FROM t x JOIN t y ON y.c > x.c WHERE x.a < 40 AND y.a < 400 ORDER BY 3, 1, 2 LIMIT 500;
SELECT round(sum(exp(-a/1000.0)*ln(a)), 9) FROM t; PRAGMA integrity_check;";

const DISTRIBUTION: &str = "\
echo RESULT sqlite $(sqlite3 :memory: <database.sql | sha256sum)
for digest in md5 sha1 sha256 sha512 sha3-256 blake2b512 blake2s256 sm3; do
  echo RESULT $digest $(openssl dgst -$digest <text)
done
for cipher in aes-128-cbc aes-256-ctr aes-192-cfb camellia-256-cbc aria-128-ctr chacha20; do
  openssl enc -$cipher -pbkdf2 -nosalt -k secret -in text -out text.enc
  echo RESULT $cipher $(sha256sum <text.enc) back $(openssl enc -d -$cipher -pbkdf2 -nosalt -k secret -in text.enc | sha256sum)
done
echo RESULT rsa $(openssl dgst -sha256 -sign rsa.pem text | sha256sum)
echo RESULT ed25519 $(openssl pkeyutl -sign -rawin -inkey ed.pem -in database.sql | sha256sum)
echo RESULT x25519 $(openssl pkeyutl -derive -inkey x.pem -peerkey x.pub | sha256sum)
for module in math cmath float struct complex decimal fractions statistics int; do
  /usr/bin/python3.11 -m test test_$module >log 2>&1; echo RESULT python $module $?
done";

#[test]
fn a_distributions_programs_give_what_they_give_here() {
    if !long() || images("busybox").is_none() || !able(&["gcc", "zstd", "openssl", "sqlite3", "/usr/bin/python3.11"]) {
        return;
    }
    let guest = Guest::new();
    fs::write(guest.here("text"), userland::text(2 << 20)).unwrap();
    fs::write(guest.here("database.sql"), DATABASE).unwrap();
    for (name, arguments) in [("rsa.pem", "RSA"), ("ed.pem", "ED25519"), ("x.pem", "X25519")] {
        run(Command::new("openssl").args(["genpkey", "-algorithm", arguments, "-out"]).arg(guest.here(name)));
    }
    run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(guest.here("x.pem")).arg("-out").arg(guest.here("x.pub")));

    let sources = tempfile::tempdir().unwrap();
    let zlib = source(sources.path(), "zlib");
    let files = c_files(&zlib, &["."]);
    let files: Vec<&str> = files.iter().map(String::as_str).chain(["test/minigzip.c", "-I.", "-D_GNU_SOURCE", "-DHAVE_UNISTD_H"]).collect();
    guest.compile("minigzip", &zlib, &files);
    let zstd = source(sources.path(), "libzstd");
    let folders = ["lib/common", "lib/compress", "lib/decompress", "lib/dictBuilder", "programs"];
    let mut files = c_files(&zstd, &folders);
    files.push(zstd.join("lib/decompress/huf_decompress_amd64.S").display().to_string());
    let files: Vec<&str> = files.iter().map(String::as_str).chain(["-DZSTD_LEGACY_SUPPORT=0", "-DXXH_NAMESPACE=ZSTD_"]).collect();
    guest.compile("zstd", &zstd, &files);

    let python = Path::new("/usr/lib/python3.11");
    run(Command::new("apt-get").current_dir(sources.path()).args(["download", "-q", "libpython3.11-testsuite"]));
    run(Command::new("sh").current_dir(sources.path()).args(["-c", "dpkg-deb -x libpython3.11-testsuite_*.deb ."]));
    let copy = format!(
        "mkdir -p {0}/usr/lib && cp -r {1} {0}/usr/lib/ && cp -r {2}/usr/lib/python3.11/. {0}/usr/lib/python3.11/ && \
         find {0} -name __pycache__ -prune -exec rm -r {{}} + && rm -rf {0}/usr/lib/python3.11/config-* && find {0} -type l -delete",
        guest.root.path().display(),
        python.display(),
        sources.path().display()
    );
    run(Command::new("sh").args(["-c", &copy]));
    let modules: Vec<PathBuf> = fs::read_dir(python.join("lib-dynload")).unwrap().map(|e| e.unwrap().path()).collect();
    let programs = ["/usr/bin/openssl", "/usr/bin/sqlite3", "/usr/bin/python3.11"].map(Path::new);
    guest.install(&modules.iter().map(PathBuf::as_path).chain(programs).collect::<Vec<_>>());
    guest.agrees(&format!("{COMPRESSORS}\n{DISTRIBUTION}"), "1G", &[None]);
}
