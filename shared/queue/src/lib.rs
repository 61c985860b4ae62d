//! SQS and EventBridge behind the domain's ports; a feature each.

#[cfg(feature = "sqs")]
mod channel;
#[cfg(feature = "events")]
mod events;
#[cfg(feature = "sqs")]
mod lake;
#[cfg(feature = "sqs")]
mod merge;
#[cfg(feature = "sqs")]
mod push;
#[cfg(feature = "sqs")]
mod sqs;

#[cfg(feature = "sqs")]
pub use channel::SqsChannelQueue;
#[cfg(feature = "events")]
pub use events::EventBridgeBus;
#[cfg(feature = "sqs")]
pub use lake::{SqsCompactQueue, SqsIntakeQueue};
#[cfg(feature = "sqs")]
pub use merge::SqsMergeQueue;
#[cfg(feature = "sqs")]
pub use push::SqsPushQueue;
#[cfg(feature = "sqs")]
pub use sqs::{SqsParkedQueue, SqsWorkQueue};
