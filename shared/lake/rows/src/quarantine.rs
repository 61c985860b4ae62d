//! Lines that are no rows, kept aside with the reason.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::convert::Line;

/// Why a line is no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is nothing in it.
    Empty,
    /// It is longer than is taken.
    TooLong,
    /// Its bytes are not UTF-8.
    NotUtf8,
    /// It is no JSON object.
    NotJson,
    /// It is neither a message nor a contact.
    Unrecognised,
    /// It is a message without an id.
    NoId,
    /// `create_time` is missing, no time, or one at which it cannot have been said.
    BadTime,
    /// A field holds what its column cannot.
    BadField,
    /// Another message has its id and says something else.
    Conflict,
    /// It is compressed, and does not unpack.
    Packed,
}

impl Reason {
    /// The word for programs, as it is in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::Unrecognised => "unrecognised",
            Self::NoId => "no_id",
            Self::BadTime => "bad_time",
            Self::BadField => "bad_field",
            Self::Conflict => "conflict",
            Self::Packed => "packed",
        }
    }
}

/// A line that is kept aside, with the reason. As JSON it holds the line as `text`, or as `base64` if it is no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    pub reason: Reason,
    /// For people: what exactly.
    pub detail: String,
    /// The line as it came.
    pub bytes: Vec<u8>,
    pub source: String,
    pub received_at: OffsetDateTime,
    pub raw_object: String,
    pub raw_line: u64,
}

impl Quarantined {
    /// Keeps a line aside.
    #[must_use]
    pub fn new(line: &Line<'_>, reason: Reason, detail: impl Into<String>) -> Self {
        Self::of(line, Refusal::new(reason, detail))
    }

    pub(crate) fn of(line: &Line<'_>, Refusal { reason, detail }: Refusal) -> Self {
        Self {
            reason,
            detail,
            bytes: line.bytes.to_vec(),
            source: line.source.to_owned(),
            received_at: line.received_at,
            raw_object: line.raw_object.to_owned(),
            raw_line: line.raw_line,
        }
    }
}

impl Serialize for Quarantined {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_struct("Quarantined", 7)?;
        document.serialize_field("reason", &self.reason)?;
        document.serialize_field("detail", &self.detail)?;
        document.serialize_field("source", &self.source)?;
        document.serialize_field("received_at", &self.received_at.format(&Rfc3339).ok())?;
        document.serialize_field("raw_object", &self.raw_object)?;
        document.serialize_field("raw_line", &self.raw_line)?;
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => document.serialize_field("text", text)?,
            Err(_) => document.serialize_field("base64", &STANDARD.encode(&self.bytes))?,
        }
        document.end()
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

/// A detail is a sentence, not the line once more.
const DETAIL_CHARS: usize = 200;

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if let Some((cut, _)) = detail.char_indices().nth(DETAIL_CHARS) {
            detail.truncate(cut);
        }
        Self { reason, detail }
    }
}
