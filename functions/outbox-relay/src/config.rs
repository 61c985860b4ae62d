//! Settings of `outbox-relay`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where the bell is.
    pub(crate) work_queue_url: String,
    /// Where the bell of conversations is.
    pub(crate) push_queue_url: String,
    /// Where messages go to become rows of the lake.
    pub(crate) lake_queue_url: String,
    /// Where the bell of channels is.
    pub(crate) channel_queue_url: String,
    /// Where poison is kept.
    pub(crate) parked_queue_url: String,
    /// Where outcomes are published.
    pub(crate) event_bus: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            work_queue_url: required(lookup, "WORK_QUEUE_URL")?,
            push_queue_url: required(lookup, "PUSH_QUEUE_URL")?,
            lake_queue_url: required(lookup, "LAKE_QUEUE_URL")?,
            channel_queue_url: required(lookup, "CHANNEL_QUEUE_URL")?,
            parked_queue_url: required(lookup, "PARKED_QUEUE_URL")?,
            event_bus: required(lookup, "EVENT_BUS")?,
        })
    }
}
