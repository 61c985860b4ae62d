//! Parking: what can never succeed is kept with its reason and then acknowledged, so that it blocks nobody.

use domain::fault::{Fault, PortFault, Remedy, chain};
use domain::work::{Parked, ParkedQueue};
use serde_json::Value;

/// What became of one record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Done, or parked: it need not come again.
    Done,
    /// It must come again.
    Again,
}

/// Carries out the remedy of a failed record.
pub(crate) async fn settle<E: Fault>(
    result: Result<(), E>,
    payload: impl FnOnce() -> Value,
    parked: &dyn ParkedQueue,
) -> Settled {
    let Err(fault) = result else { return Settled::Done };
    match fault.remedy() {
        Remedy::Reject(_) | Remedy::Deny(_) => match park(&fault, payload(), parked).await {
            Ok(()) => Settled::Done,
            Err(error) => {
                tracing::error!(error = %chain(&error), "A record could not be parked");
                Settled::Again
            }
        },
        Remedy::Retry => {
            tracing::warn!(error = %chain(&fault), "A record will be tried again");
            Settled::Again
        }
        Remedy::Bug => {
            tracing::error!(error = %chain(&fault), "A record hit a broken invariant");
            Settled::Again
        }
    }
}

/// Keeps what can never succeed, with every cause and the name under which Lambda runs this function.
pub async fn park<E: Fault>(fault: &E, payload: Value, parked: &dyn ParkedQueue) -> Result<(), PortFault> {
    let reason = chain(fault);
    tracing::warn!(error = %reason, error.code = fault.code(), "A record is parked");
    let function = crate::env::process("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    parked.park(&Parked { function, reason, payload }).await
}
