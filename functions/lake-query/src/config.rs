//! Settings of `lake-query`.

use lambda_kit::env::{EnvError, required};

/// What the environment must name.
#[derive(Debug)]
pub(crate) struct Config {
    /// The lake.
    pub(crate) lake_bucket: String,
    /// Who asked how often.
    pub(crate) lake_table: String,
    /// The catalog's database, where what is too large is to be asked.
    pub(crate) athena_database: String,
    /// What access tokens of the API are signed with.
    pub(crate) signing_key: String,
    /// Where clients reach this deployment, if not at the API's own endpoint.
    pub(crate) public_url: Option<String>,
}

impl Config {
    pub(crate) fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        Ok(Self {
            lake_bucket: required(lookup, "LAKE_BUCKET")?,
            lake_table: required(lookup, "LAKE_TABLE")?,
            athena_database: required(lookup, "ATHENA_DATABASE")?,
            signing_key: required(lookup, "SIGNING_KEY")?,
            public_url: lookup("PUBLIC_URL"),
        })
    }
}
