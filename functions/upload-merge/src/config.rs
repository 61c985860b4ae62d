//! Settings of `upload-merge`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Uploads and files.
    pub(crate) files_table: String,
    /// Where the bytes are.
    pub(crate) files_bucket: String,
    /// Where jobs come from, for those that come again.
    pub(crate) merge_queue_url: String,
    /// Where sockets are told.
    pub(crate) push_queue_url: String,
    /// Where poison is kept.
    pub(crate) parked_queue_url: String,
    /// Where files are announced.
    pub(crate) event_bus: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            files_table: required(lookup, "FILES_TABLE")?,
            files_bucket: required(lookup, "FILES_BUCKET")?,
            merge_queue_url: required(lookup, "MERGE_QUEUE_URL")?,
            push_queue_url: required(lookup, "PUSH_QUEUE_URL")?,
            parked_queue_url: required(lookup, "PARKED_QUEUE_URL")?,
            event_bus: required(lookup, "EVENT_BUS")?,
        })
    }
}
