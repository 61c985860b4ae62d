//! Conversations and messages: opened, said, listed and read by their members.

mod config;
mod handler;

use std::sync::Arc;

use lambda_kit::http::Gate;
use lambda_kit::{Error, aws, clock, env, http};
use queue::SqsPushQueue;
use table::{Table, TableLimiter, TableMessages};
use vault::AccessTokens;

use crate::config::Config;
use crate::handler::Chat;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let kms = || aws_sdk_kms::Client::new(&aws);
    let verifier = Arc::new(AccessTokens::from_setting(&config.signing_key, config.public_url, kms)?);
    let dynamodb = aws_sdk_dynamodb::Client::new(&aws);
    let files = Arc::new(Table::new(dynamodb.clone(), config.files_table));
    let table = Table::new(dynamodb, config.chat_table);
    let gate = Gate::new(verifier, Arc::new(TableLimiter::new(table.clone())));
    let push = Arc::new(SqsPushQueue::new(aws_sdk_sqs::Client::new(&aws), config.push_queue_url));
    let messages = Arc::new(TableMessages::new(table.clone()));
    let table = Arc::new(table);
    let chat = Chat { conversations: table.clone(), messages, files, tickets: table, push };
    http::run(|request| handler::answer(&gate, &chat, request, clock::now())).await
}
