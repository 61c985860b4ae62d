//! Scheduled jobs over sessions, tokens, people and the inbox.

mod config;
mod handler;

use std::sync::Arc;

use domain::user_tokens::UserTokens;
use lambda_kit::{Error, aws, clock::SystemClock, env, random::RandomIds, schedule};
use lark::vendor::LarkVendor;
use table::Table;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = config::Config::from_env(&env::process)?;
    let (aws, clock) = (aws::config(), Arc::new(SystemClock));
    let sealer = Arc::new(vault::Vault::from_setting(&config.vault_key, || aws_sdk_kms::Client::new(&aws))?);
    let dynamodb = aws_sdk_dynamodb::Client::new(&aws);
    let connectors = Arc::new(Table::new(dynamodb.clone(), config.chat_table));
    let table = Arc::new(Table::new(dynamodb, config.lark_table));
    let work = Arc::new(queue::SqsWorkQueue::new(aws_sdk_sqs::Client::new(&aws), config.work_queue_url));
    let base = config.lark_base_url.as_deref();
    let vendor = Arc::new(LarkVendor::new(base, table.clone(), sealer.clone(), clock.clone())?);
    let tokens = UserTokens::new(table.clone(), sealer, vendor, clock, Arc::new(RandomIds));
    let jobs = handler::Jobs::new(table, connectors, work, tokens);
    schedule::run(|job| jobs.run(job)).await
}
