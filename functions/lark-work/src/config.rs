//! Settings of `lark-work`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Apps, inbox, sessions and tokens.
    pub(crate) lark_table: String,
    /// Conversations, and the places outside that are linked to them.
    pub(crate) chat_table: String,
    /// Where the bell is.
    pub(crate) work_queue_url: String,
    /// Where the bell of conversations is.
    pub(crate) push_queue_url: String,
    /// Where poison is kept.
    pub(crate) parked_queue_url: String,
    /// Where inbound events are published.
    pub(crate) event_bus: String,
    /// Where events go to become rows of the lake.
    pub(crate) lake_queue_url: String,
    /// What seals tokens and opens app secrets.
    pub(crate) vault_key: String,
    /// A host to use instead of the vendor's own.
    pub(crate) lark_base_url: Option<String>,
    /// Where people's browsers reach this deployment.
    pub(crate) public_url: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            lark_table: required(lookup, "LARK_TABLE")?,
            chat_table: required(lookup, "CHAT_TABLE")?,
            push_queue_url: required(lookup, "PUSH_QUEUE_URL")?,
            work_queue_url: required(lookup, "WORK_QUEUE_URL")?,
            parked_queue_url: required(lookup, "PARKED_QUEUE_URL")?,
            event_bus: required(lookup, "EVENT_BUS")?,
            lake_queue_url: required(lookup, "LAKE_QUEUE_URL")?,
            vault_key: required(lookup, "VAULT_KEY")?,
            lark_base_url: lookup("LARK_BASE_URL"),
            public_url: required(lookup, "PUBLIC_URL")?,
        })
    }
}
