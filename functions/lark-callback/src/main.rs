//! Card clicks and events of every Lark app: verified, answered, and accepted into the inbox in one round trip.

mod config;
mod handler;

use std::sync::Arc;

use domain::app::AppDirectory;
use lambda_kit::{Error, aws, clock, env, http};
use table::Table;

use crate::config::Config;
use crate::handler::Callbacks;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let vault = vault::Vault::from_setting(&config.vault_key, || aws_sdk_kms::Client::new(&aws))?;
    let table = Arc::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), config.lark_table));
    let work = queue::SqsWorkQueue::new(aws_sdk_sqs::Client::new(&aws), config.work_queue_url);
    let callbacks = Callbacks::new(AppDirectory::new(table.clone(), Arc::new(vault)), table, Arc::new(work));
    http::run(|request| handler::callback(&callbacks, request, clock::now())).await
}
