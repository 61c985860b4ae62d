//! Scheduled jobs.

use std::future::Future;

use domain::fault::{Fault, chain};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Runs a function on schedules; what a job returns answers whoever invoked it. A failed job fails the invocation, so that Lambda's own retry and failure destination apply.
pub async fn run<T, H, F, R, E>(handle: H) -> Result<(), Error>
where
    T: DeserializeOwned,
    H: Fn(T) -> F + Sync,
    F: Future<Output = Result<R, E>> + Send,
    R: Serialize + Send,
    E: Fault + Send,
{
    lambda_runtime::run(service_fn(|event: LambdaEvent<T>| {
        let job = handle(event.payload);
        async move {
            job.await.map_err(|fault| {
                tracing::error!(error = %chain(&fault), "The job failed");
                Diagnostic { error_type: fault.code().to_owned(), error_message: chain(&fault) }
            })
        }
    }))
    .await
}
