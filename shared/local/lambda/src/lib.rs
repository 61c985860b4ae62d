//! Lambda on one machine: functions as processes behind the Runtime API, with AWS's time-outs, concurrency and errors.

use async_trait::async_trait;
use bytes::Bytes;

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
    /// Every environment that the reserved concurrency allows is busy (429 `TooManyRequestsException`).
    #[error("rate exceeded")]
    Throttled,
    /// More than 6 MB, or 256 KB for an asynchronous event (413 `RequestTooLargeException`).
    #[error("the payload has {size} bytes; the limit is {limit}")]
    TooLarge { size: usize, limit: usize },
}
