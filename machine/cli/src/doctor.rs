//! `softmetal catalog` and `softmetal doctor`.

use softmetal_machine::UserError;
use softmetal_machine::host::catalog::{Catalog, EntryState};
use softmetal_machine::host::{files, terminal};

/// Lists the catalogue on stdout.
///
/// # Errors
/// [`UserError`] without a cache folder.
pub fn catalog() -> Result<(), UserError> {
    let catalog = Catalog::new(true).map_err(|e| UserError(e.to_string()))?;
    let mut out = String::new();
    for e in catalog.entries() {
        let mib = e.bytes.div_ceil(1 << 20);
        let state = match e.state {
            EntryState::Ready => format!("fetched, {mib} MiB"),
            EntryState::Absent => format!("about {mib} MiB to fetch"),
            EntryState::Stale => format!("damaged or old, about {mib} MiB to fetch again"),
        };
        out += &format!("{:<14} {} ({state})\n", e.name, e.description);
    }
    out += &format!("\nBoot one with: softmetal run busybox\nThey are kept in {}\n", catalog.cache.display());
    terminal::print(&out);
    Ok(())
}

/// Tells what the host offers, on stdout.
pub fn doctor() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = files::host_memory().map_or_else(|| "unknown".into(), |m| format!("{} MiB", m >> 20));
    let cache = match Catalog::new(true) {
        Ok(c) => c.cache.display().to_string(),
        Err(e) => e.to_string(),
    };
    let packages = if Catalog::can_fetch() { "apt-get: catalogue images can be fetched" } else { "no apt-get: give kernels with --kernel" };
    let terminal = if terminal::interactive() {
        "stdin and stdout: `run` is interactive"
    } else {
        "none: the serial port is on stdin and stdout as they are"
    };
    terminal::print(&format!(
        "softmetal   {} on {} {}\n\
         processors  {cores}; a guest uses one\n\
         memory      {memory}\n\
         engine      interpreter (no hardware virtualization is needed or used)\n\
         terminal    {terminal}\n\
         packages    {packages}\n\
         cache       {cache}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    ));
}
