//! Scheduled jobs over sessions and tokens.

mod config;
mod handler;

use lambda_kit::{Error, aws, clock, env, schedule};
use table::Table;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let table = Table::new(aws_sdk_dynamodb::Client::new(&aws::config()), config.lark_table);
    schedule::run(|job| handler::run(&table, job, clock::now())).await
}
