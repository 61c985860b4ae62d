//! The bundle's time: the machine's clock, which can be moved ahead and never back.
//!
//! Functions and the sandbox live in it. Schedules, queues, streams and the tables' TTL keep the machine's clock: a schedule is fired by
//! hand (`skylark local trigger`), and nothing that waits in a queue is due earlier.

use std::io;
use std::path::{Path, PathBuf};

use lark_sandbox::{Sandbox, SandboxError};
use local_lambda::Functions;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::settings::replace;

/// The variable that a function's process reads its offset from (`lambda_kit::clock`).
pub(crate) const VARIABLE: &str = "SKYLARK_CLOCK_AHEAD_SECS";

/// A hundred years; times stay within four digits of the year.
const FURTHEST: u64 = 100 * 366 * 86_400;

/// What is kept of it in the data folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offset {
    pub(crate) ahead_secs: u64,
}

impl Offset {
    fn path(data: &Path) -> PathBuf {
        data.join("clock.json")
    }

    pub(crate) fn read(data: &Path) -> io::Result<Self> {
        match std::fs::read(Self::path(data)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn advanced(self, secs: u32) -> Result<Self, ClockError> {
        let ahead_secs = self.ahead_secs.saturating_add(secs.into());
        match secs {
            0 => Err(ClockError::NotAhead),
            _ if ahead_secs > FURTHEST => Err(ClockError::TooFar),
            _ => Ok(Self { ahead_secs }),
        }
    }
}

/// Why time did not move.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClockError {
    #[error("`advance_secs` must be more than 0: time does not run backwards")]
    NotAhead,
    #[error("`advance_secs` would lead more than a hundred years ahead")]
    TooFar,
    #[error("the new time cannot be kept")]
    Io(#[from] io::Error),
    #[error("the sandbox's time did not move")]
    Sandbox(#[from] SandboxError),
}

/// Moves the time of one running bundle.
pub(crate) struct BundleClock {
    path: PathBuf,
    functions: Functions,
    sandbox: Option<Sandbox>,
    offset: Mutex<Offset>,
}

impl BundleClock {
    /// `offset` is what the functions were made with.
    pub(crate) fn new(data: &Path, offset: Offset, functions: Functions, sandbox: Option<Sandbox>) -> Self {
        Self { path: Offset::path(data), functions, sandbox, offset: Mutex::new(offset) }
    }

    pub(crate) async fn offset(&self) -> Offset {
        *self.offset.lock().await
    }

    /// Every invocation that begins after the return lives in the new time, and so does the sandbox; pushes of the sandbox that came due
    /// were attempted. The offset is durable before anything lives in it, so a bundle that is killed on the way starts in the new time.
    pub(crate) async fn advance(&self, secs: u32) -> Result<Offset, ClockError> {
        let mut offset = self.offset.lock().await;
        let next = offset.advanced(secs)?;
        replace(&self.path, &next)?;
        *offset = next;
        self.functions.set_variable(VARIABLE, &next.ahead_secs.to_string()).await;
        if let Some(sandbox) = &self.sandbox {
            sandbox.advance_clock(secs).await?;
        }
        Ok(next)
    }

    /// Lets a sandbox follow that a kill left behind. One whose own clock was moved further stays there.
    pub(crate) async fn catch_up(&self) -> Result<(), ClockError> {
        let (Some(sandbox), offset) = (&self.sandbox, self.offset().await) else { return Ok(()) };
        let behind = i64::try_from(offset.ahead_secs).unwrap_or(i64::MAX).saturating_sub(sandbox.ahead_secs());
        match u32::try_from(behind) {
            Ok(behind) if behind > 0 => sandbox.advance_clock(behind).await.map(drop).map_err(Into::into),
            _ => Ok(()),
        }
    }
}

/// The machine's clock.
#[expect(clippy::disallowed_methods, reason = "the edge where the clock enters")]
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_ahead_only_and_within_a_century() {
        let day = Offset { ahead_secs: 86_400 };
        assert_eq!(Offset::default().advanced(86_400).unwrap(), day);
        assert_eq!(day.advanced(60).unwrap().ahead_secs, 86_460);
        for (from, secs) in
            [(day, 0), (Offset { ahead_secs: FURTHEST }, 1), (Offset { ahead_secs: u64::MAX }, u32::MAX)]
        {
            let error = from.advanced(secs).unwrap_err().to_string();
            assert!(error.contains("`advance_secs`"), "{error}");
        }
    }

    #[test]
    fn an_offset_is_kept_in_the_data_folder() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(Offset::read(data.path()).unwrap(), Offset::default());
        replace(&Offset::path(data.path()), &Offset { ahead_secs: 660 }).unwrap();
        assert_eq!(Offset::read(data.path()).unwrap(), Offset { ahead_secs: 660 });
        std::fs::write(Offset::path(data.path()), "{").unwrap();
        Offset::read(data.path()).unwrap_err();
    }
}
