//! The event bus.

use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use domain::event::{EventBus, Fact};
use domain::fault::PortFault;

const OPERATION: &str = "PutEvents";

/// The most entries that one call takes.
const ENTRIES: usize = 10;

/// A bus on EventBridge.
#[derive(Debug, Clone)]
pub struct EventBridgeBus {
    client: Client,
    bus: String,
}

impl EventBridgeBus {
    #[must_use]
    pub fn new(client: Client, bus: String) -> Self {
        Self { client, bus }
    }
}

#[async_trait]
impl EventBus for EventBridgeBus {
    async fn publish(&self, facts: &[Fact]) -> Result<(), PortFault> {
        for batch in facts.chunks(ENTRIES) {
            let entries = batch.iter().map(|fact| {
                PutEventsRequestEntry::builder()
                    .event_bus_name(&self.bus)
                    .source(fact.source)
                    .detail_type(&fact.detail_type)
                    .detail(fact.detail.to_string())
                    .build()
            });
            let answer = self.client.put_events().set_entries(Some(entries.collect())).send().await;
            let answer =
                answer.map_err(|cause| PortFault::Unavailable { operation: OPERATION, cause: cause.into() })?;
            if let Some(failed) = answer.entries().iter().find(|entry| entry.error_code().is_some()) {
                let cause = format!(
                    "{}: {}",
                    failed.error_code().unwrap_or_default(),
                    failed.error_message().unwrap_or_default()
                );
                return Err(PortFault::Unavailable { operation: OPERATION, cause: cause.into() });
            }
        }
        Ok(())
    }
}
