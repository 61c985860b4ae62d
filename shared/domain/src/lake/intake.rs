//! What is accepted: an event with the bytes that came, on the lake's queue or, if it is too large for a message, in the bucket's inbox.

use std::borrow::Cow;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;

use crate::fault::PortFault;
use crate::lake::source::SourceName;

/// The largest body that is taken.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The largest message of a queue.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Where intakes lie that are too large for the queue. Their arrival is announced on it.
pub const INBOX_PREFIX: &str = "inbox/v1/";

/// One accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intake {
    pub source: SourceName,
    /// Of the request that brought it: the same however often a queue hands it out.
    pub request_id: String,
    pub received_at: OffsetDateTime,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    /// Byte for byte.
    pub body: Vec<u8>,
}

/// An intake on the wire, and as a line of a raw object.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    source: Cow<'a, SourceName>,
    request_id: Cow<'a, str>,
    #[serde(with = "time::serde::rfc3339")]
    received_at: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_encoding: Option<Cow<'a, str>>,
    /// One of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<Cow<'a, str>>,
}

impl Intake {
    /// The queue's message, which is one line.
    pub fn to_message(&self) -> Result<String, PortFault> {
        let broken =
            |cause: serde_json::Error| PortFault::Broken { operation: "write intake", detail: cause.to_string() };
        serde_json::to_string(self).map_err(broken)
    }

    /// Where it lies if its message is too large for the queue. What S3 announces it as is the same text: no character of it is escaped.
    #[must_use]
    pub fn inbox_key(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
        format!("{INBOX_PREFIX}{}/{}.json", self.source, self.request_id.chars().map(plain).collect::<String>())
    }
}

/// The body as text, where that is what it is, a queue takes it, and it is no longer than in Base64.
fn as_text(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    // SQS takes the characters of XML 1.0; JSON escapes the ones below a space, and these two are left.
    if text.contains(['\u{fffe}', '\u{ffff}']) {
        return None;
    }
    let escaped = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..0x20 => 6,
        _ => 1,
    };
    let length: usize = body.iter().map(escaped).sum();
    (length <= body.len().div_ceil(3) * 4).then_some(text)
}

impl Serialize for Intake {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = as_text(&self.body);
        let wire = Wire {
            source: Cow::Borrowed(&self.source),
            request_id: Cow::Borrowed(&self.request_id),
            received_at: self.received_at,
            content_type: self.content_type.as_deref().map(Cow::Borrowed),
            content_encoding: self.content_encoding.as_deref().map(Cow::Borrowed),
            body: text.map(Cow::Borrowed),
            body_base64: text.is_none().then(|| Cow::Owned(BASE64.encode(&self.body))),
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Intake {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let body = match (wire.body, wire.body_base64) {
            (Some(text), None) => text.into_owned().into_bytes(),
            (None, Some(encoded)) => BASE64.decode(encoded.as_bytes()).map_err(serde::de::Error::custom)?,
            _ => return Err(serde::de::Error::custom("an intake has either `body` or `body_base64`")),
        };
        Ok(Self {
            source: wire.source.into_owned(),
            request_id: wire.request_id.into_owned(),
            received_at: wire.received_at,
            content_type: wire.content_type.map(Cow::into_owned),
            content_encoding: wire.content_encoding.map(Cow::into_owned),
            body,
        })
    }
}

/// The lake's queue.
#[async_trait]
pub trait IntakeQueue: Send + Sync {
    /// Sends one message of at most [`MAX_MESSAGE_BYTES`]; durable when it returns. Sent twice, it is appended once.
    async fn send(&self, message: String) -> Result<(), PortFault>;
}

/// The bucket's inbox.
#[async_trait]
pub trait IntakeInbox: Send + Sync {
    /// Keeps a message under a key below [`INBOX_PREFIX`]; durable, and announced on the queue, when it returns.
    async fn keep(&self, key: &str, message: String) -> Result<(), PortFault>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn intake(body: &[u8]) -> Intake {
        Intake {
            source: SourceName::parse("wechat").unwrap(),
            request_id: "r-1".to_owned(),
            received_at: datetime!(2026-11-21 09:00:00.123 UTC),
            content_type: Some("text/plain; charset=\"a\"".to_owned()),
            content_encoding: None,
            body: body.to_vec(),
        }
    }

    #[test]
    fn text_stays_readable_and_everything_else_is_base64() {
        let message = |body: &[u8]| intake(body).to_message().unwrap();
        assert!(message("{\"a\": \"你好 🎉\"}".as_bytes()).contains(r#""body":"{\"a\": \"你好 🎉\"}""#));
        assert!(message(b"").contains(r#""body":"""#));
        for bytes in [&b"\xff\xfe"[..], b"\x1f\x8b\x08", "\u{ffff}".as_bytes(), "a\u{fffe}".as_bytes(), &[0; 100]] {
            assert!(message(bytes).contains("body_base64"), "{bytes:?}");
        }
    }

    #[test]
    fn a_message_with_two_bodies_or_none_is_no_intake() {
        let rest = r#""source":"wechat","request_id":"r","received_at":"2026-11-21T09:00:00Z""#;
        for bodies in ["", r#","body":"a","body_base64":"YQ==""#, r#","body_base64":"?""#] {
            assert!(serde_json::from_str::<Intake>(&format!("{{{rest}{bodies}}}")).is_err(), "{bodies}");
        }
    }

    proptest! {
        #[test]
        fn every_body_comes_back_byte_for_byte_on_one_line_that_a_queue_takes(
            body in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), any::<String>().prop_map(String::into_bytes)],
        ) {
            let intake = intake(&body);
            let message = intake.to_message().unwrap();
            let taken = message.chars().all(|c| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'));
            prop_assert!(taken, "a character that the queue refuses, or a line break");
            // No form of a body is longer than Base64.
            prop_assert!(message.len() <= 200 + body.len().div_ceil(3) * 4);
            prop_assert_eq!(serde_json::from_str::<Intake>(&message).unwrap(), intake);
        }
    }
}
