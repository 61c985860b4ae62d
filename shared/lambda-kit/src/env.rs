//! Settings: read once, at start; a missing or bad variable stops the function and names itself.

/// A setting that is missing or bad.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    #[error("environment variable `{0}` is not set")]
    Missing(&'static str),
    #[error("environment variable `{name}` must be {expected}")]
    Bad { name: &'static str, expected: &'static str },
}

/// The variables of this process. An empty one counts as not set.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the edge where the environment enters")]
pub fn process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable that must be there.
pub fn required(lookup: &dyn Fn(&str) -> Option<String>, name: &'static str) -> Result<String, EnvError> {
    lookup(name).ok_or(EnvError::Missing(name))
}
