//! The lake's queue: batches of accepted events become raw objects and rows, each event once.

mod config;
mod handler;

use std::sync::Arc;

use domain::lake::source::SourceDirectory;
use lake::append::Appender;
use lake::{Lake, Settings};
use lambda_kit::{Error, aws, clock, env, queue as trigger};
use queue::{SqsCompactQueue, SqsIntakeQueue, SqsParkedQueue};
use table::Table;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let settings = Settings::bucket(&config.lake_bucket, &env::process)?.with_roots(aws::AMAZON_ROOTS);
    let lake = Arc::new(Lake::open(&settings)?);
    let table = Arc::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), config.lake_table));
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let intakes = SqsIntakeQueue::new(sqs.clone(), config.lake_queue_url);
    let merges = Arc::new(SqsCompactQueue::new(sqs.clone(), config.compact_queue_url));
    let parked = SqsParkedQueue::new(sqs, config.parked_queue_url);
    let appender = Appender::new(lake.clone(), table.clone(), SourceDirectory::new(table), merges);
    let exits = trigger::Exits { parked: &parked, again: &intakes };
    trigger::run_batch(|records| handler::append(&lake, &appender, records, clock::now()), exits).await
}
