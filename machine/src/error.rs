//! The one kind of error that the user can mend.

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
    pub fn file(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => "it does not exist; check the path".to_string(),
            std::io::ErrorKind::PermissionDenied => "permission denied; check its mode and owner".to_string(),
            _ => error.to_string(),
        };
        Self(format!("cannot open the {what} {}: {why}", path.display()))
    }
}
