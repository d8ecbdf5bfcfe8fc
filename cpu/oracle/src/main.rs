//! `oracle`: runs any number of cases against the host's processor.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod command {
    use std::time::Instant;

    use clap::{Parser, ValueEnum};
    use iced_x86::Code;
    use softmetal_oracle::accepted;
    use softmetal_oracle::guest::Guest;
    use softmetal_oracle::host::Host;
    use softmetal_oracle::session::{self, Plan};

    /// What carries out the guest's instructions.
    #[derive(Clone, Copy, ValueEnum)]
    enum Engine {
        /// Decoded blocks of handlers.
        Interpreter,
        /// Code for the host, made before the first run.
        Translator,
    }

    /// Compares Softmetal's processor with the host's, instruction by instruction.
    #[derive(Parser)]
    struct Arguments {
        /// Chooses the cases
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many cases
        #[arg(long, default_value_t = 300_000)]
        count: u64,
        /// Only these mnemonics or iced codes, separated by commas
        #[arg(long, default_value = "")]
        only: String,
        /// Only this case of the seed; needs --code
        #[arg(long, requires = "code")]
        index: Option<u64>,
        /// The iced code of the case
        #[arg(long)]
        code: Option<String>,
        /// Write the page about the instruction set to this file, and run nothing
        #[arg(long)]
        isa: Option<std::path::PathBuf>,
        /// Write which codes have been compared to this file
        #[arg(long)]
        record: Option<std::path::PathBuf>,
        /// What carries out the guest's instructions
        #[arg(long, value_enum, default_value_t = Engine::Interpreter)]
        engine: Engine,
        /// How many failures to print
        #[arg(long, default_value_t = 50)]
        reports: usize,
    }

    pub fn run() -> Result<bool, String> {
        let a = Arguments::parse();
        let model = Guest::model();
        let write = |path: &std::path::Path, text: String| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
        if let Some(path) = &a.isa {
            write(path, softmetal_oracle::isa::page().text)?;
            return Ok(true);
        }
        let codes = session::codes(&model, &a.only);
        let mut plan = Plan { model, codes, seed: a.seed, first: 0, count: a.count, reports: a.reports };
        if let (Some(index), Some(code)) = (a.index, &a.code) {
            let code = Code::values()
                .find(|c| format!("{c:?}") == *code)
                .ok_or(format!("there is no code {code}: use a name as iced prints it"))?;
            (plan.codes, plan.first, plan.count) = (vec![code], index, 1);
        }
        if plan.codes.is_empty() {
            return Err(format!("no instruction that this host has is called {}: use mnemonics such as fsin,paddb", a.only));
        }
        let mut host = Host::new().map_err(|e| e.to_string())?;
        let mut guest = match a.engine {
            Engine::Interpreter => Guest::new(),
            Engine::Translator => Guest::translated()?,
        };
        let begun = Instant::now();
        let report = session::run(&plan, &mut host, &mut guest).map_err(|e| e.to_string())?;
        let took = begun.elapsed().as_secs_f64();
        for failure in &report.failures {
            println!("{failure}");
        }
        for (extension, cases) in &report.by_extension {
            println!("{cases:>10} {extension}");
        }
        for (row, cases) in &report.accepted {
            println!("{cases:>10} accepted: {}", accepted::ROWS[*row].what);
        }
        println!("ended with vector: {:?}", report.by_vector);
        if guest.processor().engine() == softmetal_cpu::Engine::Translator {
            println!("{} blocks translated", guest.processor().blocks_translated());
        }
        println!(
            "{} cases of {} codes in {took:.1} s, {:.0} a second; {} not made, {} processes lost, {} mismatches",
            report.cases,
            plan.codes.len(),
            report.cases as f64 / took,
            report.unmade,
            report.lost,
            report.mismatches
        );
        if let Some(path) = &a.record {
            write(path, session::record(&report))?;
        }
        Ok(report.mismatches == 0)
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> ExitCode {
    match command::run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(2)
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() -> ExitCode {
    eprintln!("the oracle is an x86-64 processor under Linux: run this there");
    ExitCode::from(2)
}
