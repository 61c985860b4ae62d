//! Webhooks: whatever a source sends is accepted as it is, durably, in one hop.

mod config;
mod handler;

use std::sync::Arc;

use bucket::Bucket;
use domain::lake::source::SourceDirectory;
use lambda_kit::{Error, aws, clock, env, http};
use queue::SqsIntakeQueue;
use table::Table;

use crate::config::Config;
use crate::handler::Webhooks;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let table = Table::new(aws_sdk_dynamodb::Client::new(&aws), config.lake_table);
    let queue = SqsIntakeQueue::new(aws_sdk_sqs::Client::new(&aws), config.lake_queue_url);
    let inbox = Bucket::new((&aws).into(), config.lake_bucket);
    let webhooks = Webhooks::new(SourceDirectory::new(Arc::new(table)), Arc::new(queue), Arc::new(inbox));
    http::run(|request| handler::accept(&webhooks, request, clock::now())).await
}
