//! What can go wrong with a table, and what helps.

use std::error::Error;

use domain::fault::{Fault, Refusal, Remedy};

type Cause = Box<dyn Error + Send + Sync>;

/// A failure of the lake.
#[derive(Debug, thiserror::Error)]
pub enum LakeFault {
    /// The store throttled, timed out, or was not reached.
    #[error("{operation} did not go through")]
    Unavailable {
        operation: &'static str,
        #[source]
        cause: Cause,
    },
    /// Every try met the commit of somebody else.
    #[error("{tries} tries to commit lost their race")]
    Contended { tries: u32 },
    /// A setting does not name a lake.
    #[error("`{name}` must be {expected}")]
    BadSetting { name: &'static str, expected: &'static str },
    /// There is no such version of the table, or no longer.
    #[error("the table has no version {0}")]
    NoVersion(u64),
    /// A column cannot be added as asked.
    #[error("column `{column}` cannot be added: {reason}")]
    BadColumn { column: String, reason: String },
    /// A commit would lose or make up rows.
    #[error("a commit does not balance: {0}")]
    Unbalanced(String),
    /// What the log or an object says makes no sense.
    #[error("{operation} is broken")]
    Broken {
        operation: &'static str,
        #[source]
        cause: Cause,
    },
}

impl LakeFault {
    pub(crate) fn broken(operation: &'static str, cause: impl Into<Cause>) -> Self {
        Self::Broken { operation, cause: cause.into() }
    }

    pub(crate) fn unavailable(operation: &'static str, cause: impl Into<Cause>) -> Self {
        Self::Unavailable { operation, cause: cause.into() }
    }
}

impl Fault for LakeFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable { .. } | Self::Contended { .. } => Remedy::Retry,
            Self::NoVersion(_) => Remedy::Reject(Refusal::Unknown),
            Self::BadColumn { .. } => Remedy::Reject(Refusal::Conflict),
            Self::BadSetting { .. } | Self::Unbalanced(_) | Self::Broken { .. } => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } | Self::Contended { .. } => "unavailable",
            Self::NoVersion(_) => "unknown_version",
            Self::BadColumn { .. } => "bad_column",
            Self::BadSetting { .. } | Self::Unbalanced(_) | Self::Broken { .. } => "internal_error",
        }
    }
}
