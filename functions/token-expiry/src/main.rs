//! Scheduled jobs over sessions, tokens and the inbox.

mod config;
mod handler;

use lambda_kit::{Error, aws, clock, env, schedule};
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
    schedule::run(|job| handler::run(&table, &work, job, clock::now())).await
}
