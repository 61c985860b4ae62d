//! Settings of `token-expiry`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Apps, sessions, tokens and the inbox.
    pub(crate) lark_table: String,
    /// Connectors, whose secrets are sealed with the same keys.
    pub(crate) chat_table: String,
    /// Where the bell is.
    pub(crate) work_queue_url: String,
    /// What seals tokens and opens app secrets.
    pub(crate) vault_key: String,
    /// A host to use instead of the vendor's own.
    pub(crate) lark_base_url: Option<String>,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            lark_table: required(lookup, "LARK_TABLE")?,
            chat_table: required(lookup, "CHAT_TABLE")?,
            work_queue_url: required(lookup, "WORK_QUEUE_URL")?,
            vault_key: required(lookup, "VAULT_KEY")?,
            lark_base_url: lookup("LARK_BASE_URL"),
        })
    }
}
