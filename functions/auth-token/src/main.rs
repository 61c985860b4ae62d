//! OAuth 2 for Skylark's own API: tokens, their end, and what others need to verify them.

mod config;
mod handler;

use std::sync::Arc;

use domain::oauth::AuthorizationServer;
use lambda_kit::{Error, aws, clock, env, http};
use queue::SqsPushQueue;
use table::{Table, TableLimiter};
use vault::{AccessTokens, RefreshKeys};

use crate::config::Config;
use crate::handler::Auth;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let table = Table::new(aws_sdk_dynamodb::Client::new(&aws), config.auth_table);
    let (clients, limiter) = (Arc::new(table.clone()), Arc::new(TableLimiter::new(table)));
    let kms = || aws_sdk_kms::Client::new(&aws);
    let tokens = Arc::new(AccessTokens::from_setting(&config.signing_key, config.public_url.clone(), kms)?);
    let push = Arc::new(SqsPushQueue::new(aws_sdk_sqs::Client::new(&aws), config.push_queue_url));
    let server = AuthorizationServer {
        clients: clients.clone(),
        families: clients,
        limiter,
        seal: Arc::new(RefreshKeys),
        signer: tokens.clone(),
        push,
        verifier: tokens,
    };
    let auth = Auth { server, public_url: config.public_url };
    http::run(|request| handler::answer(&auth, request, clock::now())).await
}
