//! Lark for a company's own services: cards that ask people, what they granted, and any Open API call with the right token.

mod config;
mod handler;

use std::sync::Arc;

use domain::app::AppDirectory;
use lambda_kit::clock::SystemClock;
use lambda_kit::http::Gate;
use lambda_kit::random::RandomIds;
use lambda_kit::{Error, aws, clock, env, http};
use lark::vendor::LarkVendor;
use queue::SqsWorkQueue;
use table::{Table, TableLimiter};
use vault::{AccessTokens, Vault};

use crate::config::Config;
use crate::handler::Api;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let kms = || aws_sdk_kms::Client::new(&aws);
    let sealer = Arc::new(Vault::from_setting(&config.vault_key, kms)?);
    let verifier = Arc::new(AccessTokens::from_setting(&config.signing_key, config.public_url.clone(), kms)?);
    let table = Table::new(aws_sdk_dynamodb::Client::new(&aws), config.lark_table);
    let limiter = Arc::new(TableLimiter::new(table.clone()));
    let work = Arc::new(SqsWorkQueue::new(aws_sdk_sqs::Client::new(&aws), config.work_queue_url));
    let (table, clock) = (Arc::new(table), Arc::new(SystemClock));
    let apps = Arc::new(AppDirectory::new(table.clone(), sealer.clone()));
    let base = config.lark_base_url.as_deref();
    let vendor = Arc::new(LarkVendor::new(base, table.clone(), sealer.clone(), clock.clone())?);
    let api = Api::new(apps, table, sealer, vendor, work, clock, Arc::new(RandomIds)).at(config.public_url);
    let gate = Gate::new(verifier, limiter);
    http::run(|request| handler::answer(&gate, &api, request, clock::now())).await
}
