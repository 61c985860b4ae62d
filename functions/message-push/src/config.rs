//! Settings of `message-push`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Conversations, messages, and the places of sockets.
    pub(crate) chat_table: String,
    /// Where clients open sockets.
    pub(crate) socket_url: String,
    /// Where the bell is.
    pub(crate) push_queue_url: String,
    /// Where poison is kept.
    pub(crate) parked_queue_url: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            chat_table: required(lookup, "CHAT_TABLE")?,
            socket_url: required(lookup, "SOCKET_URL")?,
            push_queue_url: required(lookup, "PUSH_QUEUE_URL")?,
            parked_queue_url: required(lookup, "PARKED_QUEUE_URL")?,
        })
    }
}
