//! What a client says over its socket.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::fault::{Fault, Refusal, Remedy};
use crate::id::ConversationId;

/// How many conversations a hello names at most.
pub const HELLO_CONVERSATIONS: usize = 200;

/// A client's frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// "Here I am, and so far I have come": the number of the last message that it has, by conversation.
    Hello { last_seq: BTreeMap<ConversationId, u64> },
    /// "I am still here."
    Ping,
}

#[derive(Deserialize)]
struct Outer {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    last_seq: Option<Map<String, Value>>,
}

impl ClientFrame {
    /// Unknown fields are ignored.
    pub fn read(text: &str) -> Result<Self, ClientFault> {
        let frame: Outer = serde_json::from_str(text).map_err(ClientFault::Malformed)?;
        match frame.kind.as_str() {
            "ping" => Ok(Self::Ping),
            "hello" => Ok(Self::Hello { last_seq: positions(frame.last_seq.unwrap_or_default())? }),
            _ => Err(ClientFault::UnknownType),
        }
    }
}

fn positions(named: Map<String, Value>) -> Result<BTreeMap<ConversationId, u64>, ClientFault> {
    if named.len() > HELLO_CONVERSATIONS {
        return Err(ClientFault::LastSeq(format!("must name at most {HELLO_CONVERSATIONS} conversations")));
    }
    let position = |(id, seq): (String, Value)| {
        let conversation = ConversationId::parse(id).map_err(|_| "must name conversations by their ids".to_owned())?;
        let seq = seq.as_u64().ok_or_else(|| format!("must have a whole number for `{conversation}`"))?;
        Ok((conversation, seq))
    };
    named.into_iter().map(position).collect::<Result<_, _>>().map_err(ClientFault::LastSeq)
}

/// Why a frame is not understood.
#[derive(Debug, thiserror::Error)]
pub enum ClientFault {
    #[error("a frame is a JSON object with a `type`")]
    Malformed(#[source] serde_json::Error),
    #[error("`type` must be `hello` or `ping`")]
    UnknownType,
    #[error("`last_seq` is not what it should be")]
    LastSeq(String),
}

impl Fault for ClientFault {
    fn remedy(&self) -> Remedy {
        Remedy::Reject(Refusal::Invalid)
    }

    fn code(&self) -> &'static str {
        "invalid_frame"
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Malformed(_) => Vec::new(),
            Self::UnknownType => vec![("type", "must be `hello` or `ping`".to_owned())],
            Self::LastSeq(expected) => vec![("last_seq", expected.clone())],
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";

    #[test]
    fn a_hello_may_name_no_conversation() {
        let nobody = ClientFrame::Hello { last_seq: BTreeMap::new() };
        for text in
            [r#"{"type":"hello"}"#, r#"{"type":"hello","last_seq":null}"#, r#"{"type":"hello","last_seq":{},"v":2}"#]
        {
            assert_eq!(ClientFrame::read(text).unwrap(), nobody, "{text}");
        }
        let one = json!({ "type": "hello", "last_seq": { ID: 7 } }).to_string();
        let expected = BTreeMap::from([(ConversationId::parse(ID).unwrap(), 7)]);
        assert_eq!(ClientFrame::read(&one).unwrap(), ClientFrame::Hello { last_seq: expected });
        assert_eq!(ClientFrame::read(r#"{"type":"ping","at":1}"#).unwrap(), ClientFrame::Ping);
    }

    #[test]
    fn what_is_not_understood_names_its_field() {
        let many: Map<String, Value> =
            (0..=HELLO_CONVERSATIONS).map(|n| (format!("00000000-0000-4000-8000-{n:012x}"), json!(1))).collect();
        for (frame, field) in [
            (json!({ "type": "hello", "last_seq": { "x": 1 } }), "last_seq"),
            (json!({ "type": "hello", "last_seq": { ID: -1 } }), "last_seq"),
            (json!({ "type": "hello", "last_seq": { ID: "1" } }), "last_seq"),
            (json!({ "type": "hello", "last_seq": { ID: 1.5 } }), "last_seq"),
            (json!({ "type": "hello", "last_seq": many }), "last_seq"),
            (json!({ "type": "subscribe" }), "type"),
        ] {
            let fault = ClientFrame::read(&frame.to_string()).unwrap_err();
            assert_eq!(fault.fields()[0].0, field, "{frame}");
        }
        for text in ["", "你好", "[]", "{}", "null", r#"{"type":1}"#, r#"{"type":"hello","last_seq":[]}"#] {
            assert!(matches!(ClientFrame::read(text), Err(ClientFault::Malformed(_))), "{text}");
        }
    }
}
