//! Scheduled jobs that keep the lake in order.

mod config;
mod handler;

use std::sync::Arc;

use lake::maintain::Maintenance;
use lake::{Lake, Settings};
use lambda_kit::{Error, aws, clock::SystemClock, env, schedule, scratch::Scratch};
use queue::{SqsCompactQueue, SqsIntakeQueue};
use table::Table;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = config::Config::from_env(&env::process)?;
    let aws = aws::config();
    let settings = Settings::bucket(&config.lake_bucket, &env::process)?.with_roots(aws::AMAZON_ROOTS);
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let scratch = Scratch::take("lake-maintain")?;
    let maintenance = Maintenance {
        lake: Arc::new(Lake::open(&settings)?),
        gate: Arc::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), config.lake_table)),
        merges: Arc::new(SqsCompactQueue::new(sqs.clone(), config.compact_queue_url)),
        batches: Arc::new(SqsIntakeQueue::new(sqs, config.lake_queue_url)),
        clock: Arc::new(SystemClock),
        scratch: scratch.path().to_owned(),
        memory_bytes: handler::MEMORY_BYTES,
    };
    schedule::run(|asked| handler::run(&maintenance, asked)).await
}
