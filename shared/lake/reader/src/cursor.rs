//! Where a page ended.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// The place of a message in the order of all messages, which no merge, append or other page changes: when it was said, and its id. As text it is
/// opaque and fits into a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// `create_time`, in microseconds of Unix time.
    pub(crate) micros: i64,
    pub(crate) msg_id: String,
}

/// A text that no page gave as its end.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("it must be the cursor of an earlier page, unchanged")]
pub struct NotACursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = [&self.micros.to_be_bytes(), self.msg_id.as_bytes()].concat();
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(place))
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let place = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| NotACursor)?;
        let (micros, msg_id) = place.split_first_chunk().ok_or(NotACursor)?;
        let msg_id = std::str::from_utf8(msg_id).map_err(|_| NotACursor)?.to_owned();
        Ok(Self { micros: i64::from_be_bytes(*micros), msg_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_is_one() {
        for (micros, msg_id) in [(0, ""), (1_793_880_000_123_456, "7428190284"), (-1, "消息"), (i64::MIN, "a b/+=")] {
            let cursor = Cursor { micros, msg_id: msg_id.to_owned() };
            let text = cursor.to_string();
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{text}");
            assert_eq!(text.parse(), Ok(cursor));
        }
        for text in ["", "AAAA", "not a cursor", "AAAAAAAAAAD_", "AAAAAAAAAAA="] {
            assert_eq!(text.parse::<Cursor>(), Err(NotACursor), "{text}");
        }
    }
}
