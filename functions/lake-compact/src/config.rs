//! Settings of `lake-compact`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where the tables are.
    pub(crate) lake_bucket: String,
    /// Where merges are asked for.
    pub(crate) compact_queue_url: String,
    /// Where poison is kept.
    pub(crate) parked_queue_url: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            lake_bucket: required(lookup, "LAKE_BUCKET")?,
            compact_queue_url: required(lookup, "COMPACT_QUEUE_URL")?,
            parked_queue_url: required(lookup, "PARKED_QUEUE_URL")?,
        })
    }
}
