//! Liveness, readiness with each dependency and its latency, and the description of the API.

mod config;
mod handler;

use lambda_kit::{Error, aws, env, http};
use queue::SqsWorkQueue;
use table::Table;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let table = Table::new(aws_sdk_dynamodb::Client::new(&aws), config.lark_table);
    let work = SqsWorkQueue::new(aws_sdk_sqs::Client::new(&aws), config.work_queue_url);
    http::run(|request| handler::check(&table, &work, request)).await
}
