//! Every day: uploads that nobody touches any more are given up, merges that were cut short are asked for again.

mod config;
mod handler;

use std::sync::Arc;

use bucket::Bucket;
use domain::upload::sweep::Sweep;
use lambda_kit::clock::SystemClock;
use lambda_kit::{Error, aws, env, schedule};
use queue::SqsMergeQueue;
use table::Table;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let table = Arc::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), config.files_table));
    let bucket = Arc::new(Bucket::new((&aws).into(), config.files_bucket));
    let sweep = Sweep {
        uploads: table.clone(),
        files: table,
        multipart: bucket.clone(),
        open: bucket.clone(),
        objects: bucket,
        queue: Arc::new(SqsMergeQueue::new(aws_sdk_sqs::Client::new(&aws), config.merge_queue_url)),
        clock: Arc::new(SystemClock),
    };
    schedule::run(|job| handler::run(&sweep, job)).await
}
