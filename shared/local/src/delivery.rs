//! Delivery between the parts: whatever a rule, a notification, a schedule or a failed invocation sends, by ARN.

use std::sync::OnceLock;

use async_trait::async_trait;
use bytes::Bytes;
use local_bucket::{Buckets, Notifications, ObjectEvent};
use local_lambda::{DeadLetter, DeliveryError, Functions};
use local_mapping::stream::DestinationError;
use local_queue::events::{Buses, EventEntry, TargetError, TargetParameters, deliver_to_queue};
use local_queue::sqs::{MessageAttribute, Outgoing, Queues};
use serde_json::Value;

use crate::arn::Resource;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Knows every part. Functions and buses are told once they run: they deliver to one another, so neither can be first.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) queues: Queues,
    pub(crate) buckets: Buckets,
    pub(crate) functions: OnceLock<Functions>,
    pub(crate) buses: OnceLock<Buses>,
}

/// Why something was not delivered.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error("`{0}` names nothing that a local bundle delivers to")]
    Unknown(String),
    #[error("the part is still starting")]
    Starting,
}

impl Delivery {
    pub(crate) fn new(queues: Queues, buckets: Buckets) -> Self {
        Self { queues, buckets, functions: OnceLock::new(), buses: OnceLock::new() }
    }

    fn functions(&self) -> Result<&Functions, Undelivered> {
        self.functions.get().ok_or(Undelivered::Starting)
    }

    async fn send(&self, arn: &str, body: Bytes) -> Result<(), BoxError> {
        match Resource::parse(arn).ok_or_else(|| Undelivered::Unknown(arn.to_owned()))? {
            Resource::Queue(name) => {
                let message = Outgoing { body: String::from_utf8_lossy(&body).into_owned(), ..Outgoing::default() };
                self.queues.send(name, vec![message]).await?;
            }
            Resource::Function(name) => {
                self.functions()?.invoke_event(name, body).await?;
            }
            Resource::Bus(name) => {
                let entry = EventEntry {
                    source: Some("lambda".to_owned()),
                    detail_type: Some("Lambda Function Invocation Result".to_owned()),
                    detail: Some(String::from_utf8_lossy(&body).into_owned()),
                    event_bus_name: Some(name.to_owned()),
                    ..EventEntry::default()
                };
                let buses = self.buses.get().ok_or(Undelivered::Starting)?;
                for result in buses.put_events(vec![entry]).await? {
                    result?;
                }
            }
            Resource::Bucket(_) => return Err(Undelivered::Unknown(arn.to_owned()).into()),
        }
        Ok(())
    }
}

#[async_trait]
impl local_lambda::Destinations for Delivery {
    async fn deliver(&self, arn: &str, body: Bytes) -> Result<(), DeliveryError> {
        self.send(arn, body).await.map_err(|source| DeliveryError { arn: arn.to_owned(), source })
    }

    async fn dead_letter(&self, arn: &str, letter: DeadLetter) -> Result<(), DeliveryError> {
        let fault = |source: BoxError| DeliveryError { arn: arn.to_owned(), source };
        let Some(Resource::Queue(name)) = Resource::parse(arn) else {
            return Err(fault(Undelivered::Unknown(arn.to_owned()).into()));
        };
        let attributes = [
            ("RequestID", letter.request_id),
            ("ErrorCode", letter.error_code.to_string()),
            ("ErrorMessage", letter.error_message),
        ];
        let message = Outgoing {
            body: String::from_utf8_lossy(&letter.body).into_owned(),
            message_attributes: attributes.map(|(name, text)| (name.to_owned(), MessageAttribute::string(text))).into(),
            ..Outgoing::default()
        };
        self.queues.send(name, vec![message]).await.map_err(|cause| fault(cause.into()))?;
        Ok(())
    }
}

#[async_trait]
impl local_mapping::stream::Destinations for Delivery {
    async fn put_object(&self, bucket: &str, key: &str, body: Bytes) -> Result<(), DestinationError> {
        let fault = |cause: BoxError| DestinationError { destination: bucket.to_owned(), source: cause };
        self.buckets.put(bucket, key, body).await.map_err(|cause| fault(cause.into()))
    }

    async fn send_message(&self, queue_arn: &str, body: String) -> Result<(), DestinationError> {
        let sent = self.send(queue_arn, body.into()).await;
        sent.map_err(|source| DestinationError { destination: queue_arn.to_owned(), source })
    }
}

#[async_trait]
impl local_queue::events::Targets for Delivery {
    async fn deliver(&self, arn: &str, event: &Value, parameters: &TargetParameters) -> Result<(), TargetError> {
        match Resource::parse(arn) {
            Some(Resource::Queue(_)) => deliver_to_queue(&self.queues, arn, event, parameters).await,
            Some(Resource::Function(_) | Resource::Bus(_)) => {
                let sent = self.send(arn, event.to_string().into()).await;
                sent.map_err(|cause| TargetError::retry("INTERNAL_ERROR", cause.to_string()))
            }
            _ => Err(TargetError::permanent("NO_RESOURCE", format!("`{arn}` is not part of the bundle"))),
        }
    }
}

#[async_trait]
impl Notifications for Delivery {
    async fn object_event(&self, event: &ObjectEvent) -> Result<(), BoxError> {
        self.send(&event.target, event.message.to_string().into()).await
    }
}

#[async_trait]
impl local_mapping::AsyncInvoker for Delivery {
    async fn hand_over(&self, target: &str, event: Bytes) {
        if let Err(error) = self.send(target, event).await {
            tracing::error!(target, error = %error, "A scheduled event was not delivered");
        }
    }
}
