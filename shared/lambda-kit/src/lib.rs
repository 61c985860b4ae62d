//! What every function is started with: triggers, AWS clients, settings, logs, the clock and randomness. It knows nothing of the
//! business; a feature each keeps out of a function what it does not use.

#[cfg(feature = "aws")]
pub mod aws;
pub mod clock;
pub mod env;
#[cfg(feature = "http")]
pub mod http;
#[cfg(any(feature = "queue", feature = "stream"))]
pub mod parking;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "random")]
pub mod random;
pub mod schedule;
pub mod scratch;
#[cfg(feature = "socket")]
pub mod socket;
#[cfg(feature = "stream")]
pub mod stream;

pub use lambda_runtime::Error;

/// Starts logging as Lambda's own settings say: JSON or text, and the level.
pub fn init_tracing() {
    lambda_runtime::tracing::init_default_subscriber();
}
