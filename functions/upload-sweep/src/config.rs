//! Settings of `upload-sweep`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Uploads and files.
    pub(crate) files_table: String,
    /// Where the bytes are.
    pub(crate) files_bucket: String,
    /// Where merges are asked for.
    pub(crate) merge_queue_url: String,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            files_table: required(lookup, "FILES_TABLE")?,
            files_bucket: required(lookup, "FILES_BUCKET")?,
            merge_queue_url: required(lookup, "MERGE_QUEUE_URL")?,
        })
    }
}
