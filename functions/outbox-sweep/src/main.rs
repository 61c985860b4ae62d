//! Once a minute: rings again for conversations whose bells led to nothing.

mod config;
mod handler;

use lambda_kit::{Error, aws, clock, env, schedule};
use queue::SqsPushQueue;
use table::Table;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let table = Table::new(aws_sdk_dynamodb::Client::new(&aws), config.chat_table);
    let queue = SqsPushQueue::new(aws_sdk_sqs::Client::new(&aws), config.push_queue_url);
    schedule::run(|job| handler::run(&table, &queue, &table, job, clock::now())).await
}
