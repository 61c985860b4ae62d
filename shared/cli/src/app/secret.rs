//! Secrets on the command line: where they come from, and how little of them is shown.

use std::io;

use secrecy::{ExposeSecret as _, SecretString};

use crate::fault::CliFault;

/// What a secret is given as to have it read from stdin.
const FROM_STDIN: &str = "-";

/// No secret of the vendor's is nearly as long.
const MAX_BYTES: usize = 1024;

/// A secret this long has enough left to guess when its first four characters are known.
const LONG_CHARS: usize = 16;

/// Secrets as they were given; those given as `-` are lines of stdin.
pub(crate) struct Given<R> {
    next_line: R,
    terminal: bool,
}

impl<R: FnMut() -> io::Result<String>> Given<R> {
    pub(crate) fn new(next_line: R, terminal: bool) -> Self {
        Self { next_line, terminal }
    }

    /// The secret itself, in a form that the vendor could have given out.
    pub(crate) fn secret(&mut self, field: &'static str, given: SecretString) -> Result<SecretString, CliFault> {
        let secret = if given.expose_secret() == FROM_STDIN { self.line(field)? } else { given };
        let text = secret.expose_secret();
        let problem = if text.is_empty() {
            "is empty"
        } else if text.len() > MAX_BYTES {
            "is longer than 1024 bytes"
        } else if text.trim() != text || text.contains(char::is_control) {
            "begins or ends with white space, or holds a control character; copy it from the console again"
        } else {
            return Ok(secret);
        };
        Err(CliFault::Argument(format!("`{field}` {problem}")))
    }

    fn line(&mut self, field: &'static str) -> Result<SecretString, CliFault> {
        if self.terminal {
            return Err(CliFault::Argument(format!("`{field}` would be seen while it is typed; pipe it into stdin")));
        }
        let line = (self.next_line)().map_err(|cause| CliFault::storage("stdin cannot be read", cause))?;
        let line = line.strip_suffix('\n').unwrap_or(&line);
        Ok(line.strip_suffix('\r').unwrap_or(line).into())
    }
}

/// Enough to recognise a long secret by, nothing of a short one.
pub(crate) fn masked(secret: &SecretString) -> String {
    let secret = secret.expose_secret();
    let shown = if secret.chars().count() >= LONG_CHARS { 4 } else { 0 };
    let start: String = secret.chars().take(shown).collect();
    format!("{start}****")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_shows_four_characters_of_a_long_secret_and_none_of_a_short_one() {
        for (secret, mask) in [
            ("", "****"),
            ("abc", "****"),
            ("123456789012345", "****"),
            ("1234567890123456", "1234****"),
            ("密钥密钥密钥密钥密钥密钥密钥密🔑", "密钥密钥****"),
            ("密钥-键🔑", "****"),
        ] {
            assert_eq!(masked(&secret.into()), mask, "{secret}");
        }
    }

    fn given(lines: &str, terminal: bool) -> Given<impl FnMut() -> io::Result<String>> {
        let mut lines: Vec<String> = lines.split_inclusive('\n').rev().map(str::to_owned).collect();
        Given::new(move || Ok(lines.pop().unwrap_or_default()), terminal)
    }

    #[test]
    fn a_dash_takes_the_next_line_of_stdin_and_anything_else_is_the_secret() {
        let mut given = given("first\r\nsecond 键\n", false);
        let mut read = |text: &str| given.secret("app_secret", text.into()).map(|it| it.expose_secret().to_owned());
        assert_eq!(read("-").unwrap(), "first");
        assert_eq!(read("plain").unwrap(), "plain");
        assert_eq!(read("-").unwrap(), "second 键");
        assert_eq!(read("-").unwrap_err().to_string(), "`app_secret` is empty", "stdin has ended");
    }

    #[test]
    fn a_secret_that_was_copied_badly_is_refused_without_being_repeated() {
        for bad in ["", " canary", "canary\t", "can\u{7}ary", &"canary".repeat(200)] {
            let error = given("", false).secret("encrypt_key", bad.into()).unwrap_err().to_string();
            assert!(error.starts_with("`encrypt_key` ") && !error.contains("canary"), "{error}");
        }
        let typed = given("canary\n", true).secret("encrypt_key", "-".into()).unwrap_err().to_string();
        assert!(typed.contains("pipe it"), "{typed}");
    }
}
