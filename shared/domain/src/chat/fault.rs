//! Why something cannot be said, or seen.

use super::TEXT_BYTES;
use crate::fault::{Denial, Fault, PortFault, Refusal, Remedy};

#[derive(Debug, thiserror::Error)]
pub enum ChatFault {
    #[error("some fields are not what they should be")]
    Fields(Vec<(&'static str, String)>),
    #[error("the text has {bytes} bytes as JSON; the limit is {TEXT_BYTES}")]
    TextTooLarge { bytes: usize },
    #[error("there is no such conversation")]
    NoConversation,
    #[error("the caller is not a member of the conversation")]
    NotAMember,
    #[error("who opens a conversation must be one of its members")]
    NotAmongMembers,
    #[error("`from` is not the caller")]
    ForeignSender,
    #[error("`message_id` was used for another message")]
    OtherMessage,
    #[error("there is no such file in this conversation, or its upload is not complete")]
    FileNotReady,
    #[error("a store failed")]
    Store(#[from] PortFault),
}

impl Fault for ChatFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Fields(_) => Remedy::Reject(Refusal::Invalid),
            Self::TextTooLarge { .. } => Remedy::Reject(Refusal::TooLarge),
            Self::NoConversation => Remedy::Reject(Refusal::Unknown),
            Self::NotAMember | Self::NotAmongMembers | Self::ForeignSender => Remedy::Deny(Denial::Forbidden),
            Self::OtherMessage => Remedy::Reject(Refusal::Unprocessable),
            Self::FileNotReady => Remedy::Reject(Refusal::Conflict),
            Self::Store(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Fields(_) => "invalid_request",
            Self::TextTooLarge { .. } => "text_too_large",
            Self::NoConversation => "conversation_not_found",
            Self::NotAMember => "not_a_member",
            Self::NotAmongMembers => "not_among_members",
            Self::ForeignSender => "foreign_sender",
            Self::OtherMessage => "message_id_reused",
            Self::FileNotReady => "file_not_ready",
            Self::Store(fault) => fault.code(),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Fields(fields) => fields.clone(),
            Self::TextTooLarge { .. } => {
                vec![("payload.text", format!("must have at most {TEXT_BYTES} bytes as JSON"))]
            }
            _ => Vec::new(),
        }
    }
}
