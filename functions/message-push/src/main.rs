//! The push queue: what is to reach open sockets reaches them, each conversation in its own order.

mod config;
mod handler;

use std::sync::Arc;

use domain::push::Pusher;
use lambda_kit::{Error, aws, clock, env, queue as trigger};
use queue::{SqsParkedQueue, SqsPushQueue};
use socket::ApiGatewaySockets;
use table::Table;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let table = Arc::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), config.chat_table));
    let sockets = Arc::new(ApiGatewaySockets::new(&aws, &config.socket_url)?);
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let queue = Arc::new(SqsPushQueue::new(sqs.clone(), config.push_queue_url));
    let parked = SqsParkedQueue::new(sqs, config.parked_queue_url);
    let pusher = Pusher::new(table, sockets, queue.clone());
    let exits = trigger::Exits { parked: &parked, again: queue.as_ref() };
    trigger::run_fifo(|record| handler::push(&pusher, record.body, clock::now()), exits).await
}
