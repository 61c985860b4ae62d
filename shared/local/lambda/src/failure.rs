//! How an invocation can end without an answer of its handler, in Lambda's words.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

#[derive(Debug)]
pub(crate) enum Failure {
    TimedOut(Duration),
    OutOfMemory,
    Exited(ExitStatus),
    /// The process posted this to `/runtime/init/error`.
    Init(Bytes),
    NotStarted(String, io::Error),
    ResponseTooLarge(usize),
}

impl Failure {
    /// The body of the function error.
    pub(crate) fn body(&self, request_id: &str) -> Bytes {
        if let Self::Init(body) = self {
            return body.clone();
        }
        let error_message = match self {
            Self::ResponseTooLarge(limit) => {
                format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).")
            }
            _ => format!("RequestId: {request_id} Error: {}", self.cause()),
        };
        Bytes::from(json!({ "errorType": self.error_type(), "errorMessage": error_message }).to_string())
    }

    pub(crate) fn error_type(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "Sandbox.Timedout",
            Self::OutOfMemory => "Runtime.OutOfMemory",
            Self::Exited(_) => "Runtime.ExitError",
            Self::Init(_) => "Runtime.InitError",
            Self::NotStarted(..) => "Runtime.InvalidEntrypoint",
            Self::ResponseTooLarge(_) => "Function.ResponseSizeTooLarge",
        }
    }

    /// The end of a REPORT or INIT_REPORT line.
    pub(crate) fn status(&self) -> String {
        match self {
            Self::TimedOut(_) => "Status: timeout".to_owned(),
            _ => format!("Status: error\tError Type: {}", self.error_type()),
        }
    }

    /// What Lambda writes to the log when the process itself did not, if anything.
    pub(crate) fn log_text(&self, request_id: &str) -> Option<String> {
        match self {
            Self::TimedOut(_) => Some(format!("{request_id} {}", self.cause())),
            Self::OutOfMemory | Self::Exited(_) | Self::NotStarted(..) => {
                Some(format!("RequestId: {request_id} Error: {} {}", self.cause(), self.error_type()))
            }
            Self::Init(_) | Self::ResponseTooLarge(_) => None,
        }
    }

    fn cause(&self) -> String {
        match self {
            Self::TimedOut(limit) => format!("Task timed out after {:.2} seconds", limit.as_secs_f64()),
            Self::OutOfMemory => "Runtime exited with error: signal: killed".to_owned(),
            Self::Exited(status) => match status.code() {
                Some(0) => "Runtime exited without providing a reason".to_owned(),
                Some(code) => format!("Runtime exited with error: exit status {code}"),
                None => format!("Runtime exited with error: signal: {}", signal_name(*status)),
            },
            Self::NotStarted(path, source) => {
                let reason = source.raw_os_error().map(|code| Errno::from_raw(code).desc().to_lowercase());
                format!("fork/exec {path}: {}", reason.unwrap_or_else(|| source.to_string()))
            }
            Self::Init(_) | Self::ResponseTooLarge(_) => self.error_type().to_owned(),
        }
    }
}

/// The name Lambda's supervisor, a Go program, has for the signal that ended a process.
fn signal_name(status: ExitStatus) -> String {
    let number = status.signal().unwrap_or_default();
    let name = match Signal::try_from(number) {
        Ok(Signal::SIGABRT) => "aborted",
        Ok(Signal::SIGBUS) => "bus error",
        Ok(Signal::SIGFPE) => "floating point exception",
        Ok(Signal::SIGHUP) => "hangup",
        Ok(Signal::SIGILL) => "illegal instruction",
        Ok(Signal::SIGINT) => "interrupt",
        Ok(Signal::SIGKILL) => "killed",
        Ok(Signal::SIGPIPE) => "broken pipe",
        Ok(Signal::SIGQUIT) => "quit",
        Ok(Signal::SIGSEGV) => "segmentation fault",
        Ok(Signal::SIGSYS) => "bad system call",
        Ok(Signal::SIGTERM) => "terminated",
        Ok(Signal::SIGTRAP) => "trace/breakpoint trap",
        _ => return format!("signal {number}"),
    };
    if status.core_dumped() { format!("{name} (core dumped)") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(failure: Failure) -> (String, String) {
        let body: serde_json::Value = serde_json::from_slice(&failure.body("r-1")).unwrap();
        (body["errorType"].as_str().unwrap().to_owned(), body["errorMessage"].as_str().unwrap().to_owned())
    }

    #[test]
    fn failures_are_worded_as_lambda_words_them() {
        let not_found = io::Error::from_raw_os_error(Errno::ENOENT as i32);
        let cases = [
            (
                Failure::TimedOut(Duration::from_secs(3)),
                "Sandbox.Timedout",
                "RequestId: r-1 Error: Task timed out after 3.00 seconds",
            ),
            (
                Failure::OutOfMemory,
                "Runtime.OutOfMemory",
                "RequestId: r-1 Error: Runtime exited with error: signal: killed",
            ),
            (
                Failure::Exited(ExitStatus::from_raw(3 << 8)),
                "Runtime.ExitError",
                "RequestId: r-1 Error: Runtime exited with error: exit status 3",
            ),
            (
                Failure::Exited(ExitStatus::from_raw(0)),
                "Runtime.ExitError",
                "RequestId: r-1 Error: Runtime exited without providing a reason",
            ),
            (
                Failure::Exited(ExitStatus::from_raw(11 | 0x80)),
                "Runtime.ExitError",
                "RequestId: r-1 Error: Runtime exited with error: signal: segmentation fault (core dumped)",
            ),
            (
                Failure::NotStarted("/var/task/bootstrap".into(), not_found),
                "Runtime.InvalidEntrypoint",
                "RequestId: r-1 Error: fork/exec /var/task/bootstrap: no such file or directory",
            ),
            (
                Failure::ResponseTooLarge(6_291_556),
                "Function.ResponseSizeTooLarge",
                "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
            ),
        ];
        for (failure, error_type, error_message) in cases {
            assert_eq!(message(failure), (error_type.to_owned(), error_message.to_owned()));
        }
    }
}
