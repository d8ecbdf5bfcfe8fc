//! `apt-get download` without root rights and without changing the system.
//!
//! First with the package lists that the system has; where those are absent or out of date, with lists of our own, fetched
//! from the system's sources into the work folder. Either way apt's caches, locks and record of installed packages are
//! private and empty, so the newest version in the archive is what is found.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::recipes::AMD64;
use super::{CatalogError, Result, at};

/// The package that holds the guest's programs.
const BUSYBOX: &str = "busybox-static";

/// Whether the host has apt-get.
pub fn available() -> bool {
    Command::new("apt-get").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Downloads the packages of the first of `kernels` that there is, and busybox, for `architecture` into `work` for the entry
/// `name`; the paths are sorted.
pub fn download(work: &Path, name: &str, kernels: &[&str], architecture: &str, progress: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>> {
    if !available() {
        return Err(CatalogError::NoPackageManager(name.into()));
    }
    // The system's lists cover no other architecture than its own.
    if covered(architecture) {
        let apt = Apt::new(work, architecture, false)?;
        match apt.packages(kernels, progress) {
            Ok(packages) => return Ok(packages),
            Err(e) => log::info!("with the system's package lists: {e}"),
        }
    }
    Apt::with_own_lists(work, architecture, progress, |apt, progress| apt.packages(kernels, progress))
}

/// Downloads one package for amd64 into `work`.
pub fn download_package(work: &Path, package: &str, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    download_first(work, &[package], progress)
}

/// Downloads the first of `packages` that there is for amd64 into `work`.
pub fn download_first(work: &Path, packages: &[&str], progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    if !available() {
        return Err(CatalogError::NoPackageManager(packages.join(" or ")));
    }
    if covered(AMD64) {
        match Apt::new(work, AMD64, false)?.first_of(packages, progress) {
            Ok(file) => return Ok(file),
            Err(e) => log::info!("with the system's package lists: {e}"),
        }
    }
    Apt::with_own_lists(work, AMD64, progress, |apt, progress| apt.first_of(packages, progress))
}

/// Whether the system's own package lists may have `architecture`.
fn covered(architecture: &str) -> bool {
    cfg!(target_arch = "x86_64") && architecture == AMD64
}

struct Apt {
    config: PathBuf,
    /// Where packages are downloaded to.
    folder: PathBuf,
}

impl Apt {
    /// Prepares a private apt for `architecture` below `work`; with lists of its own if `own_lists`.
    fn new(work: &Path, architecture: &str, own_lists: bool) -> Result<Self> {
        let root = work.join(if own_lists { "apt-own" } else { "apt-system" });
        let folder = root.join("packages");
        for sub in ["packages", "lists/partial", "cache/archives/partial"] {
            let path = root.join(sub);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let status = root.join("status");
        fs::write(&status, "").map_err(at(&status))?;
        let mut text = format!(
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n#clear Acquire::IndexTargets::deb::DEP-11-icons-small;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons;\n#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-large;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;\n#clear Acquire::IndexTargets::deb::CNF;\n\
             #clear APT::Architectures;\nAPT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"2\";\n\
             Acquire::http::Timeout \"30\";\nAcquire::https::Timeout \"30\";\n\
             Dir::State::status {};\nDir::Cache {};\n",
            quoted(&status)?,
            quoted(&root.join("cache"))?,
        );
        if own_lists {
            text += &format!("Dir::State {};\nDir::State::lists {};\n", quoted(&root)?, quoted(&root.join("lists"))?);
        }
        let config = root.join("apt.conf");
        fs::write(&config, text).map_err(at(&config))?;
        Ok(Self { config, folder })
    }

    /// Does `f` with package lists of our own. A list that cannot be fetched is an error only if `f` fails without it.
    fn with_own_lists<T>(
        work: &Path,
        architecture: &str,
        progress: &mut dyn FnMut(&str),
        f: impl FnOnce(&Self, &mut dyn FnMut(&str)) -> Result<T>,
    ) -> Result<T> {
        let apt = Self::new(work, architecture, true)?;
        progress("fetching the distribution's package lists");
        let updated = apt.run("apt-get", &["update", "-q"], "the package lists");
        match (f(&apt, progress), updated) {
            (Err(_), Err(e)) => Err(e),
            (done, Err(e)) => {
                log::warn!("{e}; what was fetched serves");
                done
            }
            (done, Ok(_)) => done,
        }
    }

    /// Resolves the kernel to its packages and downloads them with busybox.
    fn packages(&self, kernels: &[&str], progress: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>> {
        let kernel = kernels
            .iter()
            .find_map(|k| self.kernel_packages(k))
            .ok_or_else(|| CatalogError::Apt { what: kernels.join(" or "), detail: "the package lists do not have it".into() })?;
        progress(&format!("downloading {} and {BUSYBOX}", kernel.iter().cloned().collect::<Vec<_>>().join(", ")));
        let mut args = vec!["download", "-q", BUSYBOX];
        args.extend(kernel.iter().map(String::as_str));
        self.run("apt-get", &args, &args[2..].join(", "))?;
        let mut packages: Vec<PathBuf> = fs::read_dir(&self.folder)
            .map_err(at(&self.folder))?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "deb"))
            .collect();
        packages.sort();
        Ok(packages)
    }

    /// Downloads the first of `packages` that the lists have.
    fn first_of(&self, packages: &[&str], progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let known = packages.iter().find(|p| self.run("apt-cache", &["show", "--no-all-versions", p], p).is_ok());
        let Some(package) = known else {
            return Err(CatalogError::Apt { what: packages.join(" or "), detail: "the package lists do not have it".into() });
        };
        progress(&format!("downloading {package}"));
        self.package(package)
    }

    /// Downloads one package.
    fn package(&self, package: &str) -> Result<PathBuf> {
        self.run("apt-get", &["download", "-q", package], package)?;
        let files = fs::read_dir(&self.folder).map_err(at(&self.folder))?;
        let file = files.filter_map(|e| Some(e.ok()?.path())).find(|p| p.extension().is_some_and(|e| e == "deb"));
        file.ok_or_else(|| CatalogError::Apt { what: package.into(), detail: "it downloaded nothing".into() })
    }

    /// The packages with the image and the modules of the kernel for which `package` stands. `None` if the lists have none.
    fn kernel_packages(&self, package: &str) -> Option<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        let mut pending = vec![package.to_string()];
        while let Some(package) = pending.pop() {
            let listing = self.run("apt-cache", &["depends", "--important", &package], &package).ok()?;
            let parts: Vec<String> = kernel_parts(&listing).map(str::to_string).collect();
            pending.extend(parts.into_iter().filter(|part| all.insert(part.clone())));
        }
        (!all.is_empty()).then_some(all)
    }

    fn run(&self, program: &str, args: &[&str], what: &str) -> Result<String> {
        let failed = |detail: String| CatalogError::Apt { what: what.into(), detail };
        let output = Command::new(program)
            .arg("-c")
            .arg(&self.config)
            .args(args)
            .current_dir(&self.folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| failed(format!("{program} does not start ({e})")))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        log::debug!("{program} {args:?}: {}\n{errors}", output.status);
        // "apt-get update" succeeds even if no list could be fetched.
        let error = errors.lines().find_map(|l| l.strip_prefix("E: "));
        if !output.status.success() || error.is_some() {
            let warning = errors.lines().find_map(|l| l.strip_prefix("W: "));
            return Err(failed(error.or(warning).unwrap_or("it gave no reason").trim_end_matches('.').to_string()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The packages of a kernel that `apt-cache depends` lists: its image and, where they are apart, its modules.
fn kernel_parts(listing: &str) -> impl Iterator<Item = &str> {
    listing
        .lines()
        .filter_map(|line| line.trim_start_matches([' ', '|']).split_once("Depends: ").map(|(_, name)| name.trim()))
        .filter(|name| ["linux-image-", "linux-binary-", "linux-modules-"].iter().any(|p| name.starts_with(p)))
}

/// `path` as a value in apt's configuration.
fn quoted(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\n', '\\']) => Ok(format!("\"{text}\"")),
        _ => Err(CatalogError::Path {
            path: path.to_path_buf(),
            detail: "apt-get cannot work in a folder of this name; set XDG_CACHE_HOME to another".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::kernel_parts;

    #[test]
    fn kernel_packages_are_found_among_dependencies() {
        let listing = "linux-image-x\n  PreDepends: foo\n  Depends: kmod\n |Depends: linux-initramfs-tool\n  \
                       Depends: linux-modules-6.8.0-1-generic\n  Depends: linux-base\n  Suggests: linux-image-doc\n";
        assert_eq!(kernel_parts(listing).collect::<Vec<_>>(), ["linux-modules-6.8.0-1-generic"]);
    }
}
