//! Settings of `auth-token`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// Clients, families of refresh tokens, and how often they come.
    pub(crate) auth_table: String,
    /// What signs access tokens: keys separated by commas, the first signs.
    pub(crate) signing_key: String,
    /// Where the sockets of a login that ends are closed.
    pub(crate) push_queue_url: String,
    /// Where clients reach this deployment, if not at the API's own endpoint.
    pub(crate) public_url: Option<String>,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            auth_table: required(lookup, "AUTH_TABLE")?,
            signing_key: required(lookup, "SIGNING_KEY")?,
            push_queue_url: required(lookup, "PUSH_QUEUE_URL")?,
            public_url: lookup("PUBLIC_URL"),
        })
    }
}
