//! Single files of single packages.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Catalog, CatalogError, Result, apt, at, deb, read, sha256, write_atomically};

impl Catalog {
    /// The files `wanted` (paths in the package, without a leading `/`) of `package`: from the cache if they are there and
    /// intact, else from the freshly downloaded package.
    ///
    /// # Errors
    /// [`CatalogError`]; the cache is then as it was.
    pub fn package_files(&self, package: &str, wanted: &[&str], progress: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>> {
        let folder = self.cache.join("packages").join(package);
        let sums = folder.join("sha256.json");
        let paths: Vec<PathBuf> = wanted.iter().map(|path| folder.join(path.rsplit('/').next().unwrap_or(path))).collect();
        let known =
            || -> BTreeMap<String, String> { read(&sums).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default() };
        let intact = || {
            let sums = known();
            wanted.iter().zip(&paths).all(|(name, path)| read(path).is_ok_and(|bytes| sums.get(*name) == Some(&sha256(&bytes))))
        };
        if intact() {
            return Ok(paths);
        }
        if self.offline {
            let name = format!("the package {package}");
            return Err(CatalogError::Offline { name, what: "not fetched yet", cache: self.cache.clone() });
        }
        let _lock = self.lock(progress)?;
        if intact() {
            return Ok(paths);
        }
        let work = self.cache.join("work");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work).map_err(at(&work))?;
        let unpacked = apt::download_package(&work, package, progress).and_then(|file| {
            let mut found = BTreeMap::new();
            deb::each_file(&file, |path, content| {
                if let Some(i) = wanted.iter().position(|w| *w == path) {
                    found.insert(i, content.read()?);
                }
                Ok(())
            })?;
            Ok(found)
        });
        let _ = fs::remove_dir_all(&work);
        let found = unpacked?;
        if let Some(missing) = (0..wanted.len()).find(|i| !found.contains_key(i)) {
            return Err(CatalogError::Unpack { what: package.into(), detail: format!("the package holds no {}", wanted[missing]) });
        }
        let mut all = known();
        for (i, bytes) in &found {
            write_atomically(&paths[*i], bytes)?;
            all.insert(wanted[*i].to_string(), sha256(bytes));
        }
        let text = serde_json::to_vec_pretty(&all).expect("sums are plain data");
        write_atomically(&sums, &text)?;
        Ok(paths)
    }
}

/// Puts files of the first of `packages` that there is into `work`: for each the name it gets, and how its path ends. The
/// packages that they are from.
pub fn build(work: &Path, packages: &[&str], files: &[(&str, &str)], progress: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
    let package = apt::download_first(work, packages, progress)?;
    let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
    progress("unpacking");
    let mut missing: Vec<_> = files.to_vec();
    deb::each_file(&package, |path, content| {
        if let Some(i) = missing.iter().position(|(_, end)| path.ends_with(end)) {
            let target = work.join(missing.swap_remove(i).0);
            fs::write(&target, content.read()?).map_err(at(&target))?;
        }
        Ok(())
    })?;
    match missing.first() {
        None => Ok(vec![name]),
        Some((_, end)) => Err(CatalogError::Unpack { what: name, detail: format!("the package holds no {}", end.trim_start_matches('/')) }),
    }
}
