//! Settings of `channel-deliver`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Conversations, messages, connectors, and how far each has come.
    pub(crate) chat_table: String,
    /// Lark apps and their tokens.
    pub(crate) lark_table: String,
    /// What is known of files that messages name.
    pub(crate) files_table: String,
    /// Where the bells are.
    pub(crate) channel_queue_url: String,
    /// Where statuses are told.
    pub(crate) push_queue_url: String,
    /// Where what was refused is kept.
    pub(crate) parked_queue_url: String,
    /// What opens the secrets of apps and webhooks, and seals tenant tokens.
    pub(crate) vault_key: String,
    /// A host to use instead of the vendor's own.
    pub(crate) lark_base_url: Option<String>,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            chat_table: required(lookup, "CHAT_TABLE")?,
            lark_table: required(lookup, "LARK_TABLE")?,
            files_table: required(lookup, "FILES_TABLE")?,
            channel_queue_url: required(lookup, "CHANNEL_QUEUE_URL")?,
            push_queue_url: required(lookup, "PUSH_QUEUE_URL")?,
            parked_queue_url: required(lookup, "PARKED_QUEUE_URL")?,
            vault_key: required(lookup, "VAULT_KEY")?,
            lark_base_url: lookup("LARK_BASE_URL"),
        })
    }
}
