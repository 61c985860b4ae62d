//! One invocation on behalf of a client, with the gateway's own time limit.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use local_lambda::{InvokeError, Invoker, Reply};
use tokio::time::timeout;

/// Why a function gave no answer that could be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntegrationError {
    #[error("the function failed")]
    Function,
    #[error("the function was not started")]
    Invoke(#[source] InvokeError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the invocation was cut off")]
    CutOff,
}

/// Invokes `function`. The invocation goes on when the caller stops waiting, whether by the time limit or because the
/// client has gone: Lambda never hears of either.
pub(crate) async fn invoke(
    invoker: &Arc<dyn Invoker>,
    function: &str,
    event: Vec<u8>,
    limit: Duration,
) -> Result<Bytes, IntegrationError> {
    let invocation = tokio::spawn({
        let (invoker, function) = (Arc::clone(invoker), function.to_owned());
        async move { invoker.invoke(&function, event.into()).await }
    });
    let outcome = match timeout(limit, invocation).await {
        Err(_) => Err(IntegrationError::TimedOut(limit)),
        Ok(Err(_)) => Err(IntegrationError::CutOff),
        Ok(Ok(Err(error))) => Err(IntegrationError::Invoke(error)),
        Ok(Ok(Ok(Reply::FunctionError(_)))) => Err(IntegrationError::Function),
        Ok(Ok(Ok(Reply::Success(answer)))) => Ok(answer),
    };
    if let Err(error) = &outcome {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(function.name = %function, cause, "`{function}`: {error}");
    }
    outcome
}
