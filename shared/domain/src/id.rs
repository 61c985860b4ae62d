//! Identifiers, each a type of its own: a card token cannot be passed where a message id is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{field}` must be {expected}")]
pub struct IdError {
    pub field: &'static str,
    pub expected: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal, $expected:literal, $read:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the form; whether it exists is for a store to say.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let read: fn(String) -> Option<String> = $read;
                read(text.into()).map(Self).ok_or(IdError { field: $field, expected: $expected })
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $field:literal, $expected:literal, $valid:expr) => {
        id!($(#[$doc])* $name, $field, $expected, |text| {
            let valid: fn(&str) -> bool = $valid;
            valid(&text).then_some(text)
        });
    };
}

/// A UUID in any case, as people's devices write it (Swift's are in upper case), kept in its usual form.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        id!($(#[$doc])* $name, $field, "a UUID", |text| {
            let uuid = uuid::Uuid::try_parse(&text).ok().filter(|_| text.len() == 36)?;
            Some(uuid.as_hyphenated().to_string())
        });

        impl From<uuid::Uuid> for $name {
            fn from(uuid: uuid::Uuid) -> Self {
                Self(uuid.as_hyphenated().to_string())
            }
        }
    };
}

/// Characters that are safe inside a key, a URL path and a log line.
fn word(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

text_id!(
    /// A Lark app (`cli_..`).
    AppId, "app_id", "1 to 64 letters, digits, `_`, `-` or `.`", |t| word(t, 64)
);
text_id!(
    /// A person as one app sees them (`ou_..`).
    OpenId, "open_id", "1 to 128 letters, digits, `_`, `-` or `.`", |t| word(t, 128)
);
text_id!(
    /// A chat in Lark (`oc_..`).
    ChatId, "chat_id", "`oc_` and up to 125 letters, digits, `_`, `-` or `.`", |t| word(t, 128) && t.starts_with("oc_")
);
text_id!(
    /// A message in Lark (`om_..`).
    MessageId, "message_id", "1 to 128 letters, digits, `_`, `-` or `.`", |t| word(t, 128)
);
text_id!(
    /// An event or click as the vendor numbers it, the same on every retry.
    EventId, "event_id", "1 to 128 visible ASCII characters", |t| (1..=128).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic())
);
text_id!(
    /// An authorization session (a UUID).
    SessionId, "session_id", "a UUID", |t| uuid::Uuid::try_parse(t).is_ok_and(|u| u.as_hyphenated().to_string() == t)
);

text_id!(
    /// A client of Skylark's own API.
    ClientId, "client_id", "1 to 64 letters, digits, `_`, `-` or `.`", |t| word(t, 64)
);
text_id!(
    /// A user of Skylark's own API, whom clients act for.
    UserId, "user_id", "1 to 128 letters, digits, `_`, `-` or `.`", |t| word(t, 128)
);
text_id!(
    /// A tenant of Skylark's own API: its users and clients see one another, and no others.
    TenantId, "tenant_id", "1 to 64 letters, digits, `_`, `-` or `.`", |t| word(t, 64)
);
text_id!(
    /// A family of refresh tokens, which is what a login is (`sid`; a UUID).
    FamilyId, "sid", "a UUID", |t| uuid::Uuid::try_parse(t).is_ok_and(|u| u.as_hyphenated().to_string() == t)
);

uuid_id!(
    /// A conversation.
    ConversationId, "conversation_id"
);
uuid_id!(
    /// A message of a conversation, as its sender named it.
    ChatMessageId, "message_id"
);
uuid_id!(
    /// An uploaded file.
    FileId, "file_id"
);
uuid_id!(
    /// An upload, as its sender knows it.
    UploadId, "upload_id"
);
text_id!(
    /// A way out of a conversation to people elsewhere, as the deployment names it.
    ChannelName, "channel", "1 to 32 letters, digits, `_`, `-` or `.`", |t| word(t, 32)
);
text_id!(
    /// An open WebSocket, as API Gateway names it.
    ConnectionId, "connection_id", "1 to 64 visible ASCII characters", |t| (1..=64).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic())
);

/// Where new ids come from.
pub trait Ids: Send + Sync {
    /// One that was never given before.
    fn session_id(&self) -> SessionId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_smuggle_a_key_separator() {
        for bad in ["", "a#b", "a/b", "a b", "a\n", "é", &"x".repeat(65)] {
            assert!(AppId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(AppId::parse("cli_a1b2").unwrap().as_str(), "cli_a1b2");
    }

    #[test]
    fn a_devices_uuid_may_be_in_upper_case_and_is_the_same_one() {
        let id = ConversationId::parse("6F9619FF-8B86-4D01-B42D-00CF4FC964FF").unwrap();
        assert_eq!(id, ConversationId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap());
        for bad in ["6f9619ff8b864d01b42d00cf4fc964ff", "{6f9619ff-8b86-4d01-b42d-00cf4fc964ff}", "", "x"] {
            assert_eq!(ConversationId::parse(bad).unwrap_err().to_string(), "`conversation_id` must be a UUID");
        }
    }

    #[test]
    fn a_session_id_is_a_uuid_in_its_usual_form() {
        assert!(SessionId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").is_ok());
        for bad in ["6F9619FF-8B86-4D01-B42D-00CF4FC964FF", "6f9619ff8b864d01b42d00cf4fc964ff", "x"] {
            assert_eq!(SessionId::parse(bad).unwrap_err().to_string(), "`session_id` must be a UUID");
        }
    }
}
