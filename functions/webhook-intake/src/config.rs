//! Settings of `webhook-intake`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Sources and their keys.
    pub(crate) lake_table: String,
    /// Where accepted events go.
    pub(crate) lake_queue_url: String,
    /// Where those go that are too large for a message.
    pub(crate) lake_bucket: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            lake_table: required(lookup, "LAKE_TABLE")?,
            lake_queue_url: required(lookup, "LAKE_QUEUE_URL")?,
            lake_bucket: required(lookup, "LAKE_BUCKET")?,
        })
    }
}
