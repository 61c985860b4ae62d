//! Bells for channels -> messages of conversations to people elsewhere, in order.

mod config;
mod handler;

use std::sync::Arc;

use domain::channel::Outlet;
use lambda_kit::clock::SystemClock;
use lambda_kit::{Error, aws, env, queue as trigger};
use lark::vendor::LarkVendor;
use queue::{SqsChannelQueue, SqsParkedQueue, SqsPushQueue};
use table::{Table, TableMessages};

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let (aws, clock) = (aws::config(), Arc::new(SystemClock));
    let vault = Arc::new(vault::Vault::from_setting(&config.vault_key, || aws_sdk_kms::Client::new(&aws))?);
    let (dynamodb, sqs) = (aws_sdk_dynamodb::Client::new(&aws), aws_sdk_sqs::Client::new(&aws));
    let chat = Table::new(dynamodb.clone(), config.chat_table);
    let files = Arc::new(Table::new(dynamodb.clone(), config.files_table));
    let apps = Arc::new(Table::new(dynamodb, config.lark_table));
    let base = config.lark_base_url.as_deref();
    let vendor = Arc::new(LarkVendor::new(base, apps.clone(), vault.clone(), clock.clone())?);
    let webhook = Arc::new(webhook::WebhookOutlet::new(vault.clone(), clock.clone()));
    let lark = Arc::new(handler::lark(vendor, apps, vault, clock));
    let bells = Arc::new(SqsChannelQueue::new(sqs.clone(), config.channel_queue_url));
    let push = Arc::new(SqsPushQueue::new(sqs.clone(), config.push_queue_url));
    let parked = Arc::new(SqsParkedQueue::new(sqs, config.parked_queue_url));
    let messages = Arc::new(TableMessages::new(chat.clone()));
    let (chat, outlets) = (Arc::new(chat), [lark as Arc<dyn Outlet>, webhook]);
    let deliveries = handler::deliveries(chat, messages, files, outlets, parked.clone(), bells.clone(), push);
    let exits = trigger::Exits { parked: parked.as_ref(), again: bells.as_ref() };
    trigger::run_fifo(|record| handler::deliver(&deliveries, record.body), exits).await
}
