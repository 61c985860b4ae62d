//! SQS and EventBridge on one machine: durable, and faithful where the bundle relies on it.

pub mod events;
pub mod pattern;
pub mod sqs;
