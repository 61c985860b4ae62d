//! SQS and EventBridge on one machine: durable, and faithful where the bundle relies on it.

pub mod clock;
pub mod events;
pub mod pattern;
pub mod sqs;
mod store;
mod wire;

pub use store::StoreError;
