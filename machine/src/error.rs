//! The one kind of error that the user can mend.

use std::io;
use std::path::Path;

/// Wrong input of the user: an option, a file, an image. One sentence that says what to do; exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UserError(pub String);

impl UserError {
    /// An error from the parts of a sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }

    /// A file that the host could not open or read.
    #[must_use]
    pub fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        Self(format!("cannot open the {what} {}: {}", path.display(), why(error)))
    }
}

/// Why the host refused a file, and what to do.
#[must_use]
pub fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist; check the path".into(),
        io::ErrorKind::PermissionDenied => "permission denied; check its mode and owner".into(),
        _ => words(error),
    }
}

/// The host's own words for an error, without the number that it has there.
#[must_use]
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().into()
}
