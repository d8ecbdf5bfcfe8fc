//! `softmetal doctor`.

use softmetal_machine::host::catalog::Catalog;
use softmetal_machine::host::{files, terminal};

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
    let engine = match softmetal_machine::machine::translator() {
        Ok(()) => "translator".into(),
        Err(why) => format!("interpreter; {why}"),
    };
    terminal::print(&format!(
        "softmetal   {} on {} {}\n\
         processors  {cores}; a guest uses one\n\
         memory      {memory}\n\
         engine      {engine} (no hardware virtualization is needed or used)\n\
         terminal    {terminal}\n\
         packages    {packages}\n\
         cache       {cache}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    ));
}
