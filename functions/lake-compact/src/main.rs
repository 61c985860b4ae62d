//! The queue of partitions to merge: small files become large ones.

mod config;
mod handler;

use lake::{Lake, Settings};
use lambda_kit::{Error, aws, env, queue as trigger, scratch::Scratch};
use queue::{SqsCompactQueue, SqsParkedQueue};

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let sqs = aws_sdk_sqs::Client::new(&aws::config());
    let jobs = SqsCompactQueue::new(sqs.clone(), config.compact_queue_url);
    let parked = SqsParkedQueue::new(sqs, config.parked_queue_url);
    let settings = Settings::bucket(&config.lake_bucket, &env::process)?.with_roots(aws::AMAZON_ROOTS);
    let lake = Lake::open(&settings)?;
    let scratch = Scratch::take("lake-compact")?;
    let exits = trigger::Exits { parked: &parked, again: &jobs };
    trigger::run_fifo(|record| handler::carry_out(&lake, &jobs, scratch.path(), record.body), exits).await
}
