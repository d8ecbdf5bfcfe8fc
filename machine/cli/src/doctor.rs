//! `softmetal doctor`.

use softmetal_machine::host::catalog::Catalog;
use softmetal_machine::host::{files, terminal};
use softmetal_machine::machine::Model;

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

/// Prints which processor model has which feature, and where CPUID tells it.
pub fn processors() {
    let models: Vec<_> = Model::NAMES.iter().filter_map(|name| Some((*name, Model::by_name(name)?))).collect();
    let mut table = format!("{:<20}{:<20}", "feature", "CPUID");
    for (name, _) in &models {
        table += &format!("{name:<11}");
    }
    table.truncate(table.trim_end().len());
    table.push('\n');
    for (feature, register, bit) in Model::features() {
        let mut line = format!("{feature:<20}{:<20}", format!("{register}[{bit}]"));
        for (_, model) in &models {
            line += &format!("{:<11}", if model.has_named(feature) { "x" } else { "" });
        }
        table += line.trim_end();
        table.push('\n');
    }
    terminal::print(&table);
}
