//! The push queue.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use domain::fault::PortFault;
use domain::id::ConversationId;
use domain::push::{PushJob, PushQueue, bell_id};
use domain::work::Redelivery;

use crate::sqs::{again_in, broken, fault, fifo_id};

/// Jobs for sockets on a FIFO queue; the group is what must stay in order.
#[derive(Debug, Clone)]
pub struct SqsPushQueue {
    client: Client,
    url: String,
}

impl SqsPushQueue {
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }
}

#[async_trait]
impl PushQueue for SqsPushQueue {
    async fn ring(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault> {
        let bell = PushJob::Drain { conversation_id: conversation_id.clone(), seq };
        self.tell(&bell, &bell_id(conversation_id, seq)).await
    }

    async fn tell(&self, job: &PushJob, once: &str) -> Result<(), PortFault> {
        let body = serde_json::to_string(job).map_err(|cause| broken(&cause))?;
        let request = self.client.send_message().queue_url(&self.url).message_body(body);
        let request = request.message_group_id(fifo_id(job.group().to_owned()));
        let request = request.message_deduplication_id(fifo_id(once.to_owned()));
        request.send().await.map_err(fault)?;
        Ok(())
    }
}

#[async_trait]
impl Redelivery for SqsPushQueue {
    async fn again_in(&self, receipt_handle: &str, delay: Duration) -> Result<(), PortFault> {
        again_in(&self.client, &self.url, receipt_handle, delay).await
    }
}
