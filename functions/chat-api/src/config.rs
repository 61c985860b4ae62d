//! Settings of `chat-api`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Conversations, messages, and how often people did something.
    pub(crate) chat_table: String,
    /// Which files are there, for messages that name one.
    pub(crate) files_table: String,
    /// Where the bell of conversations is.
    pub(crate) push_queue_url: String,
    /// What access tokens of the API are signed with.
    pub(crate) signing_key: String,
    /// Where clients reach this deployment, if not at the API's own endpoint.
    pub(crate) public_url: Option<String>,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            chat_table: required(lookup, "CHAT_TABLE")?,
            files_table: required(lookup, "FILES_TABLE")?,
            push_queue_url: required(lookup, "PUSH_QUEUE_URL")?,
            signing_key: required(lookup, "SIGNING_KEY")?,
            public_url: lookup("PUBLIC_URL"),
        })
    }
}
