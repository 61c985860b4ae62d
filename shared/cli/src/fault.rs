//! How a command fails: a message for people on stderr and an exit code for programs.

use std::io::{self, Write as _};
use std::process::ExitCode;

use domain::app::AppFault;
use domain::fault::{Fault, PortFault, Remedy, chain};
use domain::id::IdError;
use domain::lake::source::SourceFault;
use domain::oauth::ClientFault;
use domain::seal::SealFault;
use domain::session::SessionFault;
use lake::LakeFault;
use lake::maintain::MaintainFault;
use lake_formats::FormatFault;
use lake_reader::ReadFault;
use serde::Serialize;

/// What AWS and the operating system call it when the credentials do not allow something, or are none.
const DENIALS: [&str; 6] = [
    "AccessDenied",
    "ExpiredToken",
    "InvalidClientTokenId",
    "InvalidSignature",
    "UnrecognizedClient",
    "Permission denied",
];

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliFault {
    /// Exit code 1: an argument is wrong, or what it names is not there.
    #[error("{0}")]
    Argument(String),
    /// Exit code 2: a store, a queue or the bundle did not answer.
    #[error("{context}")]
    Storage {
        context: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Exit code 3: the credentials do not allow it.
    #[error("{context}")]
    Permission {
        context: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Exit code 1: the command ran and found something wrong, which it has said already.
    #[error("{0}")]
    Failed(String),
}

impl CliFault {
    /// A failed call, file or vault: [`CliFault::Permission`] where that is why.
    pub(crate) fn storage(
        context: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let (context, cause) = (context.into(), cause.into());
        let told = chain(cause.as_ref());
        if DENIALS.iter().any(|denial| told.contains(denial)) {
            Self::Permission { context, cause }
        } else {
            Self::Storage { context, cause }
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Argument(_) | Self::Failed(_) => 1,
            Self::Storage { .. } => 2,
            Self::Permission { .. } => 3,
        }
    }
}

impl From<IdError> for CliFault {
    fn from(error: IdError) -> Self {
        Self::Argument(error.to_string())
    }
}

impl From<SessionFault> for CliFault {
    fn from(fault: SessionFault) -> Self {
        Self::Argument(fault.to_string())
    }
}

impl From<ClientFault> for CliFault {
    fn from(fault: ClientFault) -> Self {
        Self::Argument(fault.to_string())
    }
}

impl From<SourceFault> for CliFault {
    fn from(fault: SourceFault) -> Self {
        Self::Argument(fault.to_string())
    }
}

impl From<MaintainFault> for CliFault {
    fn from(fault: MaintainFault) -> Self {
        match fault {
            MaintainFault::Lake(fault) => fault.into(),
            MaintainFault::Port(fault) => fault.into(),
            other @ MaintainFault::LeftBehind(_) => Self::storage("the lake is not as it should be", other),
        }
    }
}

impl From<LakeFault> for CliFault {
    fn from(fault: LakeFault) -> Self {
        match fault.remedy() {
            Remedy::Reject(_) | Remedy::Deny(_) => Self::Argument(fault.to_string()),
            Remedy::Retry | Remedy::Bug => Self::storage("the lake did not do it", fault),
        }
    }
}

impl From<ReadFault> for CliFault {
    fn from(fault: ReadFault) -> Self {
        match fault.remedy() {
            Remedy::Reject(_) | Remedy::Deny(_) => Self::Argument(chain(&fault)),
            Remedy::Retry | Remedy::Bug => Self::storage("the lake cannot be read", fault),
        }
    }
}

impl From<FormatFault> for CliFault {
    fn from(fault: FormatFault) -> Self {
        Self::storage("the rows cannot be written", fault)
    }
}

impl From<PortFault> for CliFault {
    fn from(fault: PortFault) -> Self {
        Self::storage("the bundle's stores did not do it", fault)
    }
}

impl From<SealFault> for CliFault {
    fn from(fault: SealFault) -> Self {
        Self::storage("the vault did not do it", fault)
    }
}

impl From<AppFault> for CliFault {
    fn from(fault: AppFault) -> Self {
        match fault.remedy() {
            Remedy::Reject(_) | Remedy::Deny(_) => Self::Argument(fault.to_string()),
            Remedy::Retry | Remedy::Bug => Self::storage("the app cannot be used", fault),
        }
    }
}

/// The exit code of a finished command; a failure is told on stderr.
pub(crate) fn report(result: Result<(), CliFault>) -> ExitCode {
    let Err(fault) = result else { return ExitCode::SUCCESS };
    // With stderr closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "error: {}", chain(&fault));
    ExitCode::from(fault.exit_code())
}

/// Help goes to stdout with 0, a usage error to stderr with 1.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

/// Prints a value as JSON that people can read.
pub(crate) fn say_json(value: &impl Serialize) -> Result<(), CliFault> {
    say(serde_json::to_string_pretty(value)
        .map_err(|cause| CliFault::storage("the answer cannot be written", cause))?);
    Ok(())
}

/// Prints one line on stdout. A reader that went away is no reason to fail.
pub(crate) fn say(line: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        let broken = |detail: &str| PortFault::Broken { operation: "PutItem app", detail: detail.to_owned() };
        for (fault, code) in [
            (CliFault::Argument("x".to_owned()), 1),
            (CliFault::Failed("x".to_owned()), 1),
            (AppFault::Store(PortFault::Conflict { operation: "x" }).into(), 2),
            (PortFault::Unavailable { operation: "x", cause: "connection refused".into() }.into(), 2),
            (SealFault::Damaged.into(), 2),
            (broken("service error: AccessDeniedException: no").into(), 3),
            (SealFault::KeyService(broken("unhandled error (AccessDeniedException)")).into(), 3),
            (CliFault::storage("x", io::Error::from_raw_os_error(13)), 3),
            (CliFault::storage("x", "UnrecognizedClientException"), 3),
        ] {
            assert_eq!(fault.exit_code(), code, "{fault:?}");
        }
    }
}
