//! The WebSocket API: lets sockets in, hears their clients, and notes when they are gone.

mod config;
mod handler;

use std::sync::Arc;

use domain::socket::Reception;
use lambda_kit::{Error, aws, clock, env, socket as trigger};
use queue::SqsPushQueue;
use socket::ApiGatewaySockets;
use table::Table;
use vault::AccessTokens;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let table = Arc::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), config.chat_table));
    let kms = || aws_sdk_kms::Client::new(&aws);
    let verifier = Arc::new(AccessTokens::from_setting(&config.signing_key, config.public_url, kms)?);
    let sockets = Arc::new(ApiGatewaySockets::new(&aws, &config.socket_url)?);
    let queue = Arc::new(SqsPushQueue::new(aws_sdk_sqs::Client::new(&aws), config.push_queue_url));
    let reception = Reception::new(table, verifier, sockets, queue);
    trigger::run(|event| handler::receive(&reception, event, clock::now())).await
}
