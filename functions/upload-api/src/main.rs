//! Uploads and files for members of a conversation. No byte of a file comes through here: clients send and get them by signed URLs.

mod config;
mod handler;

use std::sync::Arc;

use bucket::Bucket;
use domain::upload::desk::Desk;
use lambda_kit::http::Gate;
use lambda_kit::{Error, aws, clock, env, http};
use queue::SqsMergeQueue;
use table::{Table, TableLimiter};
use vault::AccessTokens;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let kms = || aws_sdk_kms::Client::new(&aws);
    let verifier = Arc::new(AccessTokens::from_setting(&config.signing_key, config.public_url, kms)?);
    let dynamodb = aws_sdk_dynamodb::Client::new(&aws);
    let table = Arc::new(Table::new(dynamodb.clone(), config.files_table));
    let gate = Gate::new(verifier, Arc::new(TableLimiter::new(table.as_ref().clone())));
    let bucket = Arc::new(Bucket::new((&aws).into(), config.files_bucket));
    let desk = Desk {
        uploads: table.clone(),
        files: table,
        members: Arc::new(Table::new(dynamodb, config.chat_table)),
        multipart: bucket.clone(),
        objects: bucket.clone(),
        urls: bucket,
        queue: Arc::new(SqsMergeQueue::new(aws_sdk_sqs::Client::new(&aws), config.merge_queue_url)),
    };
    http::run(|request| handler::answer(&gate, &desk, request, clock::now())).await
}
