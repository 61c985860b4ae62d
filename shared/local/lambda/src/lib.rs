//! Lambda on one machine: functions as processes behind the Runtime API, with AWS's time-outs, concurrency and errors.
//!
//! [`Functions`] runs the functions of a template. Each execution environment is one process with a Runtime API of its own on
//! a loopback port; it handles one invocation at a time and is used again while its binary on disk stays the same.

mod config;
mod environment;
mod events;
mod failure;
mod function;
mod functions;
mod log;
mod origin;
mod process;
mod runtime_api;

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::config::{FunctionConfig, Settings};
pub use crate::events::{DeadLetter, DeliveryError, Destinations, EventError, StoreError};
pub use crate::function::FunctionStats;
pub use crate::functions::{Functions, InvokeOnceError, OpenError, invoke_once};
pub use crate::log::{LogLine, LogSink, LogSource};

/// Invokes a function and waits for what it answers.
#[async_trait]
pub trait Invoker: Send + Sync {
    /// Runs `function` once with `payload`, as `Invoke` with `RequestResponse` does.
    async fn invoke(&self, function: &str, payload: Bytes) -> Result<Reply, InvokeError>;
}

/// What came back from a function that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The handler's return value.
    Success(Bytes),
    /// `X-Amz-Function-Error: Unhandled`: the handler failed, panicked, exited or ran out of time; the body is Lambda's
    /// `{"errorType": .., "errorMessage": ..}`.
    FunctionError(Bytes),
}

/// Why a function was not started.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    #[error("function `{0}` is not in the template")]
    NotFound(String),
    /// Every environment that the reserved concurrency allows is busy (429 `TooManyRequestsException`); without reserved
    /// concurrency, none became free within the function's time-out. Also the answer once the runner shuts down.
    #[error("rate exceeded")]
    Throttled,
    /// More than 6 MB, or 1 MB for an asynchronous event (413 `RequestTooLargeException`).
    #[error("the payload has {size} bytes; the limit is {limit}")]
    TooLarge { size: usize, limit: usize },
}
