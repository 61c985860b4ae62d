//! What makes functions run by themselves: event source mappings, schedules and notifications.
//!
//! Each module keeps AWS's rules for one kind of trigger and calls functions through [`local_lambda::Invoker`]:
//! [`queue`] and [`stream`] wait for the answer, because it decides what happens to the batch; [`schedule`] and
//! [`notification`] only hand an event over ([`AsyncInvoker`]).

mod arn;
mod backoff;
mod clock;
mod counters;
mod error;
pub mod notification;
mod payload;
pub mod queue;
mod response;
pub mod schedule;
mod shutdown;
pub mod stream;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::backoff::Backoff;
pub use self::counters::{Counters, Snapshot};
pub use self::shutdown::{Shutdown, Stop};

/// Hands an event to a function without waiting for its answer, as `Invoke` with `InvocationType: Event` does.
#[async_trait]
pub trait AsyncInvoker: Send + Sync {
    /// Returns as soon as the event is accepted; retries and on-failure destinations are the receiver's affair.
    /// `target` is the function's name or ARN, as the schedule or notification names it.
    async fn hand_over(&self, target: &str, event: Bytes);
}
