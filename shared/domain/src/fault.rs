//! One error, one remedy: what a trigger does with a failure is decided here, once, for every function.

use std::error::Error;
use std::fmt::Write as _;

/// What to do with the input that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It can never succeed as it is: tell the caller, or park it with the reason.
    Reject(Refusal),
    /// It is forged, stale or not allowed: say so and nothing more, or park it.
    Deny(Denial),
    /// It may succeed later: 503, or leave it on the queue or stream.
    Retry,
    /// An invariant is broken: 500 without detail, retried and alarmed.
    Bug,
}

/// Why an input is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A field is missing, malformed or out of range.
    Invalid,
    /// What it names does not exist.
    Unknown,
    /// It contradicts the present state.
    Conflict,
    /// What it names existed and has ended.
    Gone,
    /// It is larger than the limit.
    TooLarge,
    /// Its media type is not one that the operation takes.
    UnsupportedType,
    /// It is well formed and cannot be carried out as it is.
    Unprocessable,
}

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// Nobody proved who is calling.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// The caller did this too often, and may again after so many seconds.
    Throttled { retry_after_secs: u32 },
}

/// An error that knows its remedy.
///
/// `Display` is for logs and states one level only; [`Fault::code`] and [`Fault::public_message`] are what a client may see.
pub trait Fault: Error {
    fn remedy(&self) -> Remedy;

    /// The `error` field of an answer: a stable name in snake case.
    fn code(&self) -> &'static str;

    /// Every bad field with what it should be, for `details.fields`.
    fn fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What proof would be taken instead: the `WWW-Authenticate` header of an answer.
    fn challenge(&self) -> Option<String> {
        None
    }

    /// The `message` field of an answer. Overridden where the error's own words help the caller and give nothing away.
    fn public_message(&self) -> String {
        match self.remedy() {
            Remedy::Retry => "try again in a moment".to_owned(),
            Remedy::Bug => "internal error".to_owned(),
            Remedy::Reject(_) | Remedy::Deny(_) => self.to_string(),
        }
    }
}

impl Fault for std::convert::Infallible {
    fn remedy(&self) -> Remedy {
        match *self {}
    }

    fn code(&self) -> &'static str {
        match *self {}
    }
}

/// An error and all its causes on one line, for logs.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a `String` cannot fail.
        let _ = write!(line, ": {cause}");
        source = cause.source();
    }
    line
}

/// A failure of a store, a queue, a bus or a key service, as its adapter saw it.
#[derive(Debug, thiserror::Error)]
pub enum PortFault {
    /// Throttled, timed out, unreachable, or lost a race that the next try may win.
    #[error("{operation} did not go through")]
    Unavailable {
        operation: &'static str,
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// Somebody else changed the record since it was read.
    #[error("{operation} lost a race")]
    Conflict { operation: &'static str },
    /// The adapter was used wrongly or what it read makes no sense.
    #[error("{operation} is broken: {detail}")]
    Broken { operation: &'static str, detail: String },
}

impl Fault for PortFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable { .. } | Self::Conflict { .. } => Remedy::Retry,
            Self::Broken { .. } => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } | Self::Conflict { .. } => "unavailable",
            Self::Broken { .. } => "internal_error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_every_cause_once() {
        let cause = std::io::Error::other("connection reset");
        let fault = PortFault::Unavailable { operation: "GetItem", cause: Box::new(cause) };
        assert_eq!(chain(&fault), "GetItem did not go through: connection reset");
    }

    #[test]
    fn what_is_wrong_inside_is_not_told_outside() {
        let fault = PortFault::Broken { operation: "GetItem", detail: "attribute `sealed` is missing".into() };
        assert_eq!(fault.public_message(), "internal error");
    }
}
