//! The work queue and the parked queue.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_sqs::operation::send_message::SendMessageError;
use aws_sdk_sqs::types::QueueAttributeName;
use domain::fault::PortFault;
use domain::work::{Doorbell, Parked, ParkedQueue, Redelivery, WorkQueue};
use sha2::{Digest as _, Sha256};

/// The longest group or deduplication id.
const FIFO_ID: usize = 128;

/// Doorbells on a FIFO queue: group and deduplication id are the doorbell's own.
#[derive(Debug, Clone)]
pub struct SqsWorkQueue {
    client: Client,
    url: String,
}

impl SqsWorkQueue {
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }

    /// Asks for the queue's attributes, to see that it answers.
    pub async fn probe(&self) -> Result<(), PortFault> {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let request = request.attribute_names(QueueAttributeName::ApproximateNumberOfMessages);
        let answer = request.send().await;
        answer.map_err(|cause| PortFault::Unavailable { operation: "GetQueueAttributes", cause: cause.into() })?;
        Ok(())
    }
}

#[async_trait]
impl WorkQueue for SqsWorkQueue {
    async fn ring(&self, bell: &Doorbell) -> Result<(), PortFault> {
        let body = serde_json::to_string(bell).map_err(|cause| broken(&cause))?;
        let request = self.client.send_message().queue_url(&self.url).message_body(body);
        let request = request.message_group_id(fifo_id(bell.group()));
        let request = request.message_deduplication_id(fifo_id(bell.deduplication_id()));
        request.send().await.map_err(fault)?;
        Ok(())
    }
}

#[async_trait]
impl Redelivery for SqsWorkQueue {
    async fn again_in(&self, receipt_handle: &str, delay: Duration) -> Result<(), PortFault> {
        again_in(&self.client, &self.url, receipt_handle, delay).await
    }
}

/// Evidence on a standard queue.
#[derive(Debug, Clone)]
pub struct SqsParkedQueue {
    client: Client,
    url: String,
}

impl SqsParkedQueue {
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }
}

#[async_trait]
impl ParkedQueue for SqsParkedQueue {
    async fn park(&self, parked: &Parked) -> Result<(), PortFault> {
        let body = serde_json::to_string(parked).map_err(|cause| broken(&cause))?;
        self.client.send_message().queue_url(&self.url).message_body(body).send().await.map_err(fault)?;
        Ok(())
    }
}

/// Hides a message that failed for as long as it should wait.
pub(crate) async fn again_in(
    client: &Client,
    url: &str,
    receipt_handle: &str,
    delay: Duration,
) -> Result<(), PortFault> {
    let request = client.change_message_visibility().queue_url(url).receipt_handle(receipt_handle);
    let request = request.visibility_timeout(i32::try_from(delay.as_secs()).unwrap_or(i32::MAX));
    let answer = request.send().await;
    answer.map_err(|cause| PortFault::Unavailable { operation: "ChangeMessageVisibility", cause: cause.into() })?;
    Ok(())
}

/// An id that fits, the same for the same text.
pub(crate) fn fifo_id(text: String) -> String {
    if text.len() <= FIFO_ID { text } else { hex::encode(Sha256::digest(text.as_bytes())) }
}

pub(crate) fn broken(cause: &serde_json::Error) -> PortFault {
    PortFault::Broken { operation: "SendMessage", detail: cause.to_string() }
}

pub(crate) fn fault(cause: SdkError<SendMessageError>) -> PortFault {
    match cause.as_service_error().and_then(|error| error.code()) {
        Some("QueueDoesNotExist" | "AccessDenied" | "InvalidMessageContents" | "InvalidParameterValue") => {
            PortFault::Broken { operation: "SendMessage", detail: domain::fault::chain(&cause) }
        }
        _ => PortFault::Unavailable { operation: "SendMessage", cause: cause.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::fifo_id;

    #[test]
    fn a_long_id_is_shortened_to_one_of_its_own() {
        let long = |last: char| format!("{}{last}", "x".repeat(128));
        assert_eq!(fifo_id("short".into()), "short");
        assert_eq!(fifo_id(long('a')).len(), 64);
        assert_ne!(fifo_id(long('a')), fifo_id(long('b')));
    }
}
