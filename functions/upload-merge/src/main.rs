//! The merge queue: parts become an object, and the object a file that is proved to be what was sent.

mod config;
mod handler;

use std::sync::Arc;

use bucket::Bucket;
use domain::upload::merge::Merge;
use lambda_kit::clock::SystemClock;
use lambda_kit::{Error, aws, env, queue as trigger};
use queue::{EventBridgeBus, SqsMergeQueue, SqsParkedQueue, SqsPushQueue};
use table::Table;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let table = Arc::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), config.files_table));
    let bucket = Arc::new(Bucket::new((&aws).into(), config.files_bucket));
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let merge = Merge {
        uploads: table.clone(),
        files: table,
        multipart: bucket.clone(),
        objects: bucket.clone(),
        chunks: bucket,
        bus: Arc::new(EventBridgeBus::new(aws_sdk_eventbridge::Client::new(&aws), config.event_bus)),
        push: Arc::new(SqsPushQueue::new(sqs.clone(), config.push_queue_url)),
        clock: Arc::new(SystemClock),
    };
    let parked = SqsParkedQueue::new(sqs.clone(), config.parked_queue_url);
    let again = SqsMergeQueue::new(sqs, config.merge_queue_url);
    let exits = trigger::Exits { parked: &parked, again: &again };
    trigger::run_fifo(|record| handler::merge(&merge, record.body), exits).await
}
