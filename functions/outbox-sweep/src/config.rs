//! Settings of `outbox-sweep`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Conversations, and where the sweep keeps its place.
    pub(crate) chat_table: String,
    /// Where the bell is.
    pub(crate) push_queue_url: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self { chat_table: required(lookup, "CHAT_TABLE")?, push_queue_url: required(lookup, "PUSH_QUEUE_URL")? })
    }
}
