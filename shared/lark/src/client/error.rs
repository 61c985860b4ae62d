//! The one error of all calls.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::code::{self, Class};

const MAX_MESSAGE_CHARS: usize = 500;

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The vendor said no, and why.
    #[error("Lark refused the call: {0}")]
    Refused(Box<Refusal>),
    /// A gateway or proxy answered in the vendor's place.
    #[error("Lark answered status {status} without a JSON object")]
    NotJson { status: u16, log_id: Option<String>, retry_after: Option<Duration> },
    /// A successful answer lacks what the call is for.
    #[error("Lark's answer lacks `{field}`")]
    Incomplete { field: &'static str, log_id: Option<String> },
    /// Whether the vendor did what was asked is unknown.
    #[error("Lark did not answer in time")]
    Timeout,
    /// Unless it could not connect, whether the vendor did what was asked is unknown.
    #[error("Lark cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// Found before anything was sent.
    #[error("`{field}` {problem}")]
    Input { field: &'static str, problem: &'static str },
    #[error("the HTTP client cannot be built")]
    Setup(#[source] reqwest::Error),
}

/// An answer with a code other than 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub status: u16,
    /// The vendor's code; a few OAuth failures have none.
    pub code: Option<i64>,
    /// The vendor's words, shortened.
    pub message: String,
    pub class: Class,
    /// What to fix.
    pub advice: &'static str,
    pub log_id: Option<String>,
    /// How long the vendor wants us to wait.
    pub retry_after: Option<Duration>,
    /// Scopes that are missing, when that is the reason.
    pub missing_scopes: Vec<String>,
    pub fields: Vec<FieldViolation>,
}

/// A request field the vendor did not like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    pub field: String,
    pub description: String,
}

impl Refusal {
    pub(super) fn new(
        body: &Map<String, Value>,
        status: u16,
        code: Option<i64>,
        class: Class,
        log_id: Option<String>,
        retry_after: Option<Duration>,
    ) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let list = |name: &str| {
            let items = body.get("error").and_then(|error| error.get(name)).and_then(Value::as_array);
            items.into_iter().flatten()
        };
        let message = ["msg", "error_description", "error", "message"]
            .into_iter()
            .map(|name| text(body.get(name)))
            .find(|message| !message.is_empty())
            .unwrap_or_default();
        Self {
            status,
            code,
            message: message.chars().take(MAX_MESSAGE_CHARS).collect(),
            class,
            advice: code::advice(code.unwrap_or(-1)),
            log_id: log_id.or_else(|| body.get("error")?.get("log_id")?.as_str().map(str::to_owned)),
            retry_after,
            missing_scopes: list("permission_violations")
                .map(|violation| text(violation.get("subject")))
                .filter(|scope| !scope.is_empty())
                .collect(),
            fields: list("field_violations")
                .map(|violation| FieldViolation {
                    field: text(violation.get("field")),
                    description: text(violation.get("description")),
                })
                .collect(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(formatter, "code `{code}`, `{}`", self.message),
            None => write!(formatter, "status `{}`, `{}`", self.status, self.message),
        }
    }
}

impl ApiError {
    pub(super) fn transport(error: reqwest::Error) -> Self {
        if error.is_timeout() { Self::Timeout } else { Self::Unreachable(error.without_url()) }
    }

    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused(refusal) => refusal.class,
            Self::NotJson { status, .. } => match code::of_status(*status) {
                Class::TokenInvalid(_) => Class::Terminal,
                class => class,
            },
            Self::Timeout | Self::Unreachable(_) => Class::Transient,
            Self::Incomplete { .. } | Self::Input { .. } | Self::Setup(_) => Class::Bug,
        }
    }

    /// Whether the same call may succeed later. After a lost answer it may also happen twice.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.class().is_retryable()
    }

    #[must_use]
    pub fn code(&self) -> Option<i64> {
        if let Self::Refused(refusal) = self { refusal.code } else { None }
    }

    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.log_id.as_deref(),
            Self::NotJson { log_id, .. } | Self::Incomplete { log_id, .. } => log_id.as_deref(),
            _ => None,
        }
    }

    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::NotJson { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
