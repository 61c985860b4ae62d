//! The queue of bells for channels.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use domain::channel::{ChannelBell, ChannelQueue};
use domain::fault::PortFault;
use domain::work::Redelivery;

use crate::SqsWorkQueue;
use crate::sqs::{broken, fault, fifo_id};

/// Bells on a FIFO queue; the group is a conversation's channel.
#[derive(Debug, Clone)]
pub struct SqsChannelQueue {
    client: Client,
    url: String,
}

impl SqsChannelQueue {
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }

    async fn send(&self, bell: &ChannelBell, once: String) -> Result<(), PortFault> {
        let body = serde_json::to_string(bell).map_err(|cause| broken(&cause))?;
        let request = self.client.send_message().queue_url(&self.url).message_body(body);
        let request = request.message_group_id(fifo_id(bell.group())).message_deduplication_id(fifo_id(once));
        request.send().await.map_err(fault)?;
        Ok(())
    }
}

#[async_trait]
impl ChannelQueue for SqsChannelQueue {
    async fn ring(&self, bell: &ChannelBell) -> Result<(), PortFault> {
        self.send(bell, bell.deduplication_id()).await
    }

    async fn ring_on(&self, bell: &ChannelBell, once: &str) -> Result<(), PortFault> {
        self.send(bell, format!("{}.{once}", bell.deduplication_id())).await
    }
}

#[async_trait]
impl Redelivery for SqsChannelQueue {
    async fn again_in(&self, receipt_handle: &str, delay: Duration) -> Result<(), PortFault> {
        SqsWorkQueue::new(self.client.clone(), self.url.clone()).again_in(receipt_handle, delay).await
    }
}
