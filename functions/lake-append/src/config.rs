//! Settings of `lake-append`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// The lake.
    pub(crate) lake_bucket: String,
    /// Sources, and which line counts for which batch.
    pub(crate) lake_table: String,
    /// Where events come from, to be called back early.
    pub(crate) lake_queue_url: String,
    /// Where merging is asked for.
    pub(crate) compact_queue_url: String,
    /// Where poison is kept.
    pub(crate) parked_queue_url: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            lake_bucket: required(lookup, "LAKE_BUCKET")?,
            lake_table: required(lookup, "LAKE_TABLE")?,
            lake_queue_url: required(lookup, "LAKE_QUEUE_URL")?,
            compact_queue_url: required(lookup, "COMPACT_QUEUE_URL")?,
            parked_queue_url: required(lookup, "PARKED_QUEUE_URL")?,
        })
    }
}
