//! The work queue: carries out what a callback started, and makes each card show its session.

mod config;
mod handler;

use std::sync::Arc;

use lambda_kit::clock::SystemClock;
use lambda_kit::{Error, aws, clock, env, queue as trigger};
use lark::vendor::LarkVendor;
use queue::{EventBridgeBus, SqsIntakeQueue, SqsParkedQueue, SqsPushQueue, SqsWorkQueue};
use table::{Table, TableMessages};

use crate::config::Config;
use crate::handler::Work;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let sealer = Arc::new(vault::Vault::from_setting(&config.vault_key, || aws_sdk_kms::Client::new(&aws))?);
    let dynamodb = aws_sdk_dynamodb::Client::new(&aws);
    let chat = Table::new(dynamodb.clone(), config.chat_table);
    let table = Arc::new(Table::new(dynamodb, config.lark_table));
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let bell = Arc::new(SqsWorkQueue::new(sqs.clone(), config.work_queue_url));
    let lake = Arc::new(SqsIntakeQueue::new(sqs.clone(), config.lake_queue_url));
    let push = Arc::new(SqsPushQueue::new(sqs.clone(), config.push_queue_url));
    let parked = Arc::new(SqsParkedQueue::new(sqs, config.parked_queue_url));
    let bus = Arc::new(EventBridgeBus::new(aws_sdk_eventbridge::Client::new(&aws), config.event_bus));
    let vendor = Arc::new(LarkVendor::new(
        config.lark_base_url.as_deref(),
        table.clone(),
        sealer.clone(),
        Arc::new(SystemClock),
    )?);
    let inbound = handler::inbound(Arc::new(chat.clone()), Arc::new(TableMessages::new(chat)), push);
    let work =
        Work::new(table, sealer, vendor, bell.clone(), bus, lake, parked.clone(), config.public_url).with(inbound);
    let exits = trigger::Exits { parked: parked.as_ref(), again: bell.as_ref() };
    trigger::run_fifo(|record| handler::carry_out(&work, record.body, clock::now()), exits).await
}
