//! Settings of `upload-api`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Uploads and files.
    pub(crate) files_table: String,
    /// Where the bytes are.
    pub(crate) files_bucket: String,
    /// Who is a member of which conversation.
    pub(crate) chat_table: String,
    /// Where merges are asked for.
    pub(crate) merge_queue_url: String,
    /// What access tokens of the API are signed with.
    pub(crate) signing_key: String,
    /// Where clients reach this deployment, if not at the API's own endpoint.
    pub(crate) public_url: Option<String>,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            files_table: required(lookup, "FILES_TABLE")?,
            files_bucket: required(lookup, "FILES_BUCKET")?,
            chat_table: required(lookup, "CHAT_TABLE")?,
            merge_queue_url: required(lookup, "MERGE_QUEUE_URL")?,
            signing_key: required(lookup, "SIGNING_KEY")?,
            public_url: lookup("PUBLIC_URL"),
        })
    }
}
