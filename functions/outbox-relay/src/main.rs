//! The tables' streams: ring for everything that was committed, bring messages to the lake, and publish how authorizations ended.

mod config;
mod handler;

use lambda_kit::{Error, aws, env, stream};
use queue::{EventBridgeBus, SqsChannelQueue, SqsIntakeQueue, SqsParkedQueue, SqsPushQueue, SqsWorkQueue};

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_kit::init_tracing();
    let config = Config::from_env(&env::process)?;
    let aws = aws::config();
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let work = SqsWorkQueue::new(sqs.clone(), config.work_queue_url);
    let push = SqsPushQueue::new(sqs.clone(), config.push_queue_url);
    let channels = SqsChannelQueue::new(sqs.clone(), config.channel_queue_url);
    let lake = SqsIntakeQueue::new(sqs.clone(), config.lake_queue_url);
    let parked = SqsParkedQueue::new(sqs, config.parked_queue_url);
    let bus = EventBridgeBus::new(aws_sdk_eventbridge::Client::new(&aws), config.event_bus);
    stream::run_in_order(|change| handler::relay(&work, &push, &channels, &lake, &bus, change), &parked).await
}
