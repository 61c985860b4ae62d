//! Questions to the lake: messages by filter or by id, contacts, what the tables hold, and whether they are sound.

mod config;
mod handler;

use std::sync::Arc;

use lake::{Lake, Settings};
use lake_reader::Reader;
use lambda_kit::http::Gate;
use lambda_kit::{Error, aws, clock, env, http};
use table::{Table, TableLimiter};
use vault::AccessTokens;

use crate::config::Config;
use crate::handler::Desk;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let kms = || aws_sdk_kms::Client::new(&aws);
    let verifier = Arc::new(AccessTokens::from_setting(&config.signing_key, config.public_url, kms)?);
    let table = Table::new(aws_sdk_dynamodb::Client::new(&aws), config.lake_table);
    let gate = Gate::new(verifier, Arc::new(TableLimiter::new(table)));
    let settings = Settings::bucket(&config.lake_bucket, &env::process)?.with_roots(aws::AMAZON_ROOTS);
    let lake = Arc::new(Lake::open(&settings)?);
    let desk = Desk { reader: Reader::new(lake.clone()), lake, athena_database: config.athena_database };
    http::run(|request| handler::answer(&gate, &desk, request, clock::now())).await
}
