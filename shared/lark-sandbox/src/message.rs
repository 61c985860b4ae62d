//! What happens to a message in a chat, whoever causes it, and the history of it.

use serde_json::Value;

use crate::clock::{random_hex, rfc3339};
use crate::model::{Change, Chat, Message, Sender};
use crate::store::{StoreError, Tx};

pub(crate) fn new(now: i64, app_id: String, sender: Sender, chat: &Chat, msg_type: String, content: String) -> Message {
    Message {
        message_id: format!("om_{}", random_hex::<16>()),
        app_id,
        chat_id: chat.chat_id.clone(),
        members: chat.members.clone(),
        sender,
        msg_type,
        content,
        personal: std::collections::BTreeMap::new(),
        root_id: None,
        parent_id: None,
        thread_id: None,
        created_at: now,
        updated_at: now,
        edits: 0,
        updated: false,
        deleted: false,
    }
}

/// Stores a message that has just been written.
pub(crate) fn store_new(tx: &Tx<'_>, message: &Message) -> Result<(), StoreError> {
    let by = match &message.sender {
        Sender::App(id) | Sender::User(id) => id,
    };
    tx.put(message)?;
    tx.put(&Change { content: Some(message.content.clone()), ..change(tx, &message.message_id, "sent", by) })
}

/// New content for a message.
pub(crate) struct Update<'u> {
    pub(crate) what: &'static str,
    pub(crate) by: &'u str,
    pub(crate) content: String,
    /// The people who see it; empty means everyone.
    pub(crate) only_for: &'u [String],
}

pub(crate) fn apply(tx: &Tx<'_>, message: &mut Message, update: Update<'_>) -> Result<(), StoreError> {
    let Update { what, by, content, only_for } = update;
    tx.put(&Change { content: Some(content.clone()), ..change(tx, &message.message_id, what, by) })?;
    if only_for.is_empty() {
        message.personal.clear();
        message.content = content;
    } else {
        for open_id in only_for {
            message.personal.insert(open_id.clone(), content.clone());
        }
    }
    message.updated = true;
    message.updated_at = tx.now;
    tx.put(message)
}

/// Adds to the history something that left the content as it was.
pub(crate) fn note(tx: &Tx<'_>, message_id: &str, what: &str, by: &str) -> Result<(), StoreError> {
    tx.put(&change(tx, message_id, what, by))
}

/// Adds a click and what the person saw of it.
pub(crate) fn note_click(
    tx: &Tx<'_>,
    message_id: &str,
    by: &str,
    toast: Option<Value>,
    error: Option<String>,
) -> Result<(), StoreError> {
    tx.put(&Change { toast, error, ..change(tx, message_id, "clicked", by) })
}

fn change(tx: &Tx<'_>, message_id: &str, what: &str, by: &str) -> Change {
    Change {
        message_id: message_id.to_owned(),
        change_id: random_hex::<12>(),
        at: rfc3339(tx.now),
        what: what.to_owned(),
        by: by.to_owned(),
        content: None,
        toast: None,
        error: None,
    }
}
