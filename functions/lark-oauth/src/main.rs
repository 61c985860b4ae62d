//! The browser's part of an authorization: to the vendor's page and back.

mod config;
mod handler;

use std::sync::Arc;

use domain::app::AppDirectory;
use domain::authorize::Authorization;
use lambda_kit::clock::SystemClock;
use lambda_kit::{Error, aws, clock, env, http};
use lark::vendor::LarkVendor;
use table::Table;

use crate::config::Config;
use crate::handler::Oauth;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let sealer = Arc::new(vault::Vault::from_setting(&config.vault_key, || aws_sdk_kms::Client::new(&aws))?);
    let table = Arc::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), config.lark_table));
    let work = Arc::new(queue::SqsWorkQueue::new(aws_sdk_sqs::Client::new(&aws), config.work_queue_url));
    let apps = Arc::new(AppDirectory::new(table.clone(), sealer.clone()));
    let vendor = Arc::new(LarkVendor::new(
        config.lark_base_url.as_deref(),
        table.clone(),
        sealer.clone(),
        Arc::new(SystemClock),
    )?);
    let authorization = Authorization { apps, sessions: table.clone(), tokens: table, sealer, vendor, work };
    let oauth = Oauth { authorization, lark_base_url: config.lark_base_url, public_url: config.public_url };
    http::run(|request| handler::answer(&oauth, request, clock::now())).await
}
