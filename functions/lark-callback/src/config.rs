//! Settings of `lark-callback`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Apps and the inbox.
    pub(crate) lark_table: String,
    /// Where the bell is.
    pub(crate) work_queue_url: String,
    /// What opens app secrets.
    pub(crate) vault_key: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            lark_table: required(lookup, "LARK_TABLE")?,
            work_queue_url: required(lookup, "WORK_QUEUE_URL")?,
            vault_key: required(lookup, "VAULT_KEY")?,
        })
    }
}
