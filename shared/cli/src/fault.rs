//! How a command fails: a message for people on stderr and an exit code for programs.

use std::io::{self, Write as _};
use std::process::ExitCode;

use domain::app::AppFault;
use domain::fault::{Fault, PortFault, Remedy, chain};
use domain::id::IdError;
use domain::seal::SealFault;
use domain::session::SessionFault;

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
    pub(crate) fn storage(
        context: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Storage { context: context.into(), cause: cause.into() }
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

impl From<PortFault> for CliFault {
    fn from(fault: PortFault) -> Self {
        let context = "the bundle's stores did not do it".to_owned();
        let denied = chain(&fault).contains("AccessDenied");
        let cause = Box::new(fault);
        if denied { Self::Permission { context, cause } } else { Self::Storage { context, cause } }
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

/// Prints one line on stdout. A reader that went away is no reason to fail.
pub(crate) fn say(line: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush());
}
