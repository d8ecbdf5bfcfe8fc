//! `softmetal catalog`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use softmetal_machine::UserError;
use softmetal_machine::host::catalog::{Catalog, CatalogError, EntryState};
use softmetal_machine::host::terminal;

/// Options of `catalog`.
#[derive(Args)]
pub struct CatalogArgs {
    /// What to do; without it, the entries are listed.
    #[command(subcommand)]
    command: Option<CatalogCommand>,
}

#[derive(Subcommand)]
enum CatalogCommand {
    /// List the images, their sizes, and which are fetched [the default]
    List,
    /// Fetch or make images now, not at their first use
    Fetch {
        /// Names from the list
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Copy an image's disk to a new file that keeps what a guest changes: softmetal run FILE
    Copy {
        /// A name from the list
        name: String,
        /// The new file
        file: PathBuf,
    },
    /// Remove fetched images from the cache
    Remove {
        /// Names from the list
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

fn sentence(error: CatalogError) -> UserError {
    UserError(error.to_string())
}

/// Carries out what `args` say.
///
/// # Errors
/// [`UserError`] without a cache folder, for unknown names, and when something cannot be fetched, copied or removed.
pub fn catalog(args: &CatalogArgs) -> Result<(), UserError> {
    let catalog = Catalog::new(false).map_err(sentence)?;
    match args.command.as_ref().unwrap_or(&CatalogCommand::List) {
        CatalogCommand::List => list(&catalog),
        CatalogCommand::Fetch { names } => {
            known(names)?;
            for name in names {
                with_progress(|progress| catalog.fetch(name, progress))?;
            }
        }
        CatalogCommand::Copy { name, file } => {
            known(std::slice::from_ref(name))?;
            with_progress(|progress| catalog.copy(name, file, progress))?;
        }
        CatalogCommand::Remove { names } => {
            known(names)?;
            for name in names {
                match catalog.remove(name).map_err(sentence)? {
                    Some(bytes) => terminal::say(&format!("softmetal: {name} is removed, {} MiB are free again", bytes.div_ceil(1 << 20))),
                    None => terminal::say(&format!("softmetal: {name} is not in the cache")),
                }
            }
        }
    }
    Ok(())
}

/// All names are checked before anything is done.
fn known(names: &[String]) -> Result<(), UserError> {
    match names.iter().find(|name| !Catalog::knows(name)) {
        Some(name) => Err(sentence(CatalogError::Unknown { name: name.clone(), known: Catalog::names().join(", ") })),
        None => Ok(()),
    }
}

fn list(catalog: &Catalog) {
    let mut out = String::new();
    for e in catalog.entries() {
        let mib = e.bytes.div_ceil(1 << 20);
        let state = match e.state {
            EntryState::Ready => format!("fetched, {mib} MiB"),
            EntryState::Absent => format!("about {mib} MiB to fetch"),
            EntryState::Stale => format!("damaged or old, about {mib} MiB to fetch again"),
        };
        out += &format!("{:<17} {} ({state})\n", e.name, e.description);
    }
    out += &format!(
        "\nBoot one with: softmetal run busybox\nA run leaves them as they are; softmetal catalog copy debian FILE makes a disk that keeps changes.\n\
         They are kept in {}\n",
        catalog.cache.display()
    );
    terminal::print(&out);
}

/// Shows each step of `work` while it lasts: on a terminal with the time it takes, else as a line.
///
/// # Errors
/// As `work`'s.
pub fn with_progress<T>(work: impl FnOnce(&mut dyn FnMut(&str)) -> Result<T, CatalogError>) -> Result<T, UserError> {
    let mut bar = None;
    let mut progress = |step: &str| {
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("softmetal: {wide_msg} {elapsed} {spinner}").expect("the template is right");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_hidden() {
            terminal::say(&format!("softmetal: {step}"));
        } else {
            bar.set_message(step.to_string());
        }
    };
    let done = work(&mut progress);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    done.map_err(sentence)
}
