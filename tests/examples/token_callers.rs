//! One process that asks for one person's token many times at once, through the same code as the functions do.
//!
//! `token_callers <local.json> <app_id> <open_id> <callers>`: waits for a line on stdin, asks, and prints a JSON array with one entry
//! for each caller: the SHA-256 of the token, or the error's code.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what does not run ends the test"
)]

use std::sync::Arc;

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use domain::fault::Fault as _;
use domain::id::{AppId, OpenId};
use domain::user_tokens::UserTokens;
use lambda_kit::clock::SystemClock;
use lambda_kit::random::{self, RandomIds};
use lark::vendor::LarkVendor;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use table::Table;
use vault::Vault;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let settings: Value = serde_json::from_slice(&std::fs::read(&arguments[1]).unwrap()).unwrap();
    let text = |pointer: &str| settings.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("lark-api", text("/secret_access_key"), None, None, "test"))
        .endpoint_url(text("/aws_endpoint"))
        .http_client(lambda_kit::aws::http_client())
        .build();
    let table = Arc::new(Table::new(aws_sdk_dynamodb::Client::from_conf(config), text("/tables/LarkTable")));
    let sealer =
        Arc::new(Vault::from_setting(&text("/vault_key"), || unreachable!("a local bundle has no KMS")).unwrap());
    let (clock, sandbox) = (Arc::new(SystemClock), text("/lark/sandbox"));
    let vendor = LarkVendor::new(Some(&sandbox), table.clone(), sealer.clone(), clock.clone()).unwrap();
    let tokens = Arc::new(UserTokens::new(table, sealer, Arc::new(vendor), clock, Arc::new(RandomIds)));
    let (app_id, open_id) = (AppId::parse(&*arguments[2]).unwrap(), OpenId::parse(&*arguments[3]).unwrap());

    std::io::stdin().read_line(&mut String::new()).unwrap();
    let callers: u32 = arguments[4].parse().unwrap();
    let asked: Vec<_> = (0..callers)
        .map(|_| {
            let (tokens, app_id, open_id) = (tokens.clone(), app_id.clone(), open_id.clone());
            tokio::spawn(async move { tokens.get(&app_id, &open_id, None).await })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(match answer.await.unwrap() {
            Ok(token) => random::hash(token.expose_secret()),
            Err(fault) => fault.code().to_owned(),
        });
    }
    println!("{}", Value::from(answers));
}
