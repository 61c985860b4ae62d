//! Conversations and their messages: what may be said by whom, in which order it stands, and who has seen it.

mod conversation;
mod fault;
mod message;
mod store;

pub use conversation::{
    Channel, Conversation, ConversationKind, METADATA_BYTES, MessageStatus, NewConversation, Preview, Progress,
    Standing, standing,
};
pub use fault::ChatFault;
pub use message::{Draft, Message, Payload, Priority, TEXT_BYTES};
pub use store::{
    Committed, ConversationStore, Created, FileCatalog, Joined, Memberships, MessageStore, REPLAYED, ReadMark, Recent,
};
