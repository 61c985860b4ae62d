//! The merge queue.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use domain::fault::PortFault;
use domain::upload::merge::{MergeJob, MergeQueue};
use domain::work::Redelivery;

use crate::sqs::{again_in, broken, fault};

/// Jobs on a FIFO queue, which drops what is asked for twice; group and deduplication id are the job's own.
#[derive(Debug, Clone)]
pub struct SqsMergeQueue {
    client: Client,
    url: String,
}

impl SqsMergeQueue {
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }
}

#[async_trait]
impl MergeQueue for SqsMergeQueue {
    async fn send(&self, job: &MergeJob) -> Result<(), PortFault> {
        let body = serde_json::to_string(job).map_err(|cause| broken(&cause))?;
        let request = self.client.send_message().queue_url(&self.url).message_body(body);
        let request = request.message_group_id(job.deduplication_id());
        let request = request.message_deduplication_id(job.deduplication_id());
        request.send().await.map_err(fault)?;
        Ok(())
    }
}

#[async_trait]
impl Redelivery for SqsMergeQueue {
    async fn again_in(&self, receipt_handle: &str, delay: Duration) -> Result<(), PortFault> {
        again_in(&self.client, &self.url, receipt_handle, delay).await
    }
}
