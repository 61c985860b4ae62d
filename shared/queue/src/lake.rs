//! The lake's queues: events that wait to be appended, and partitions that wait to be merged.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use domain::fault::PortFault;
use domain::lake::batch::{BatchJob, BatchQueue};
use domain::lake::compaction::{CompactJob, CompactQueue};
use domain::lake::intake::IntakeQueue;
use domain::work::Redelivery;

use crate::sqs::{again_in, broken, fault};

/// The most entries that one call takes.
const ENTRIES: usize = 10;

/// Intakes on a standard queue.
#[derive(Debug, Clone)]
pub struct SqsIntakeQueue {
    client: Client,
    url: String,
}

impl SqsIntakeQueue {
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }
}

#[async_trait]
impl IntakeQueue for SqsIntakeQueue {
    async fn send(&self, message: String) -> Result<(), PortFault> {
        self.client.send_message().queue_url(&self.url).message_body(message).send().await.map_err(fault)?;
        Ok(())
    }
}

#[async_trait]
impl BatchQueue for SqsIntakeQueue {
    async fn ask_again(&self, job: &BatchJob) -> Result<(), PortFault> {
        self.send(serde_json::to_string(job).map_err(|cause| broken(&cause))?).await
    }
}

#[async_trait]
impl Redelivery for SqsIntakeQueue {
    async fn again_in(&self, receipt_handle: &str, delay: Duration) -> Result<(), PortFault> {
        again_in(&self.client, &self.url, receipt_handle, delay).await
    }
}

/// Partitions to merge, on a FIFO queue: group and deduplication id are the job's own.
#[derive(Debug, Clone)]
pub struct SqsCompactQueue {
    client: Client,
    url: String,
}

impl SqsCompactQueue {
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }
}

#[async_trait]
impl Redelivery for SqsCompactQueue {
    async fn again_in(&self, receipt_handle: &str, delay: Duration) -> Result<(), PortFault> {
        again_in(&self.client, &self.url, receipt_handle, delay).await
    }
}

#[async_trait]
impl CompactQueue for SqsCompactQueue {
    async fn ask(&self, jobs: &[CompactJob]) -> Result<(), PortFault> {
        const OPERATION: &str = "SendMessageBatch";
        for jobs in jobs.chunks(ENTRIES) {
            let mut request = self.client.send_message_batch().queue_url(&self.url);
            for (place, job) in jobs.iter().enumerate() {
                let entry = SendMessageBatchRequestEntry::builder()
                    .id(place.to_string())
                    .message_body(serde_json::to_string(job).map_err(|cause| broken(&cause))?)
                    .message_group_id(job.group())
                    .message_deduplication_id(job.deduplication_id())
                    .build();
                request = request.entries(
                    entry.map_err(|cause| PortFault::Broken { operation: OPERATION, detail: cause.to_string() })?,
                );
            }
            let answer = request.send().await;
            let answer =
                answer.map_err(|cause| PortFault::Unavailable { operation: OPERATION, cause: cause.into() })?;
            if let Some(failed) = answer.failed().first() {
                let cause = format!("{}: {}", failed.code(), failed.message().unwrap_or_default());
                return Err(PortFault::Unavailable { operation: OPERATION, cause: cause.into() });
            }
        }
        Ok(())
    }
}
