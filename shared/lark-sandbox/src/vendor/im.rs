//! im/v1 messages and the delayed card update: sending, replying, editing, updating, recalling, reading.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Failure, VendorCall, contact, refuse, refuse_with, success, text};
use crate::card;
use crate::clock::{DAY, HOUR, random_hex};
use crate::message::{self, Update};
use crate::model::{App, CardToken, Chat, ChatType, Message, Sender, SentUuid, TENANT_KEY, User, UserStatus};
use crate::store::{StoreError, Tx};

const MAX_TEXT_BYTES: usize = 150 * 1024;
const MAX_CARD_BYTES: usize = 30 * 1024;
const MAX_DELAYED_CARD_BYTES: usize = 100 * 1024;
const MAX_UUID_CHARS: usize = 50;
const MAX_EDITS: u32 = 20;
const UUID_LIFE: i64 = HOUR;
const UPDATABLE: i64 = 14 * DAY;
const RECALLABLE: i64 = 24 * HOUR;

/// Message types whose content is only a key, and that key.
const KEYED: &[(&str, &str)] = &[
    ("image", "image_key"),
    ("file", "file_key"),
    ("audio", "file_key"),
    ("media", "file_key"),
    ("sticker", "file_key"),
    ("share_chat", "chat_id"),
    ("share_user", "user_id"),
];

pub(super) fn send(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let caller = call.caller()?;
    let Some(id_type) = call.query("receive_id_type") else {
        return Err(field_missing("receive_id_type"));
    };
    let body = call.json()?;
    let receive_id = text(&body, "receive_id").ok_or_else(|| field_missing("receive_id"))?;
    let outgoing = Outgoing::read(call, &body)?;
    if let Some(sent) = outgoing.already_sent(tx, &caller.app)? {
        return Ok(success(view(&sent)));
    }
    let chat = receiver(tx, &caller.app, id_type, receive_id)?;
    call.count_message(tx, &caller.app, &chat.chat_id)?;
    let message = outgoing.into_message(tx, caller.app.app_id.clone(), caller.open_id.as_deref(), &chat);
    store_sent(tx, &body, &message)?;
    Ok(success(view(&message)))
}

pub(super) fn reply(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let caller = call.caller()?;
    let body = call.json()?;
    let outgoing = Outgoing::read(call, &body)?;
    if let Some(sent) = outgoing.already_sent(tx, &caller.app)? {
        return Ok(success(view(&sent)));
    }
    let parent = existing(tx, call.param())?;
    let chat = tx.get::<Chat>(&parent.chat_id)?.ok_or_else(|| refuse(232_009, "The chat is dissolved."))?;
    bot_in(&caller.app, &chat)?;
    if parent.deleted {
        return Err(refuse(230_011, "The message was recalled."));
    }
    call.count_message(tx, &caller.app, &chat.chat_id)?;
    let mut message = outgoing.into_message(tx, caller.app.app_id.clone(), caller.open_id.as_deref(), &chat);
    message.root_id = Some(parent.root_id.clone().unwrap_or_else(|| parent.message_id.clone()));
    message.parent_id = Some(parent.message_id.clone());
    if body.get("reply_in_thread").and_then(Value::as_bool) == Some(true) {
        message.thread_id = Some(parent.thread_id.clone().unwrap_or_else(|| format!("omt_{}", random_hex::<12>())));
    }
    store_sent(tx, &body, &message)?;
    Ok(success(view(&message)))
}

pub(super) fn get(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let caller = call.caller()?;
    let mut message = existing(tx, call.param())?;
    let chat = tx.get::<Chat>(&message.chat_id)?;
    match (&caller.open_id, chat) {
        (Some(open_id), _) if !message.members.contains(open_id) => {
            return Err(refuse(230_050, "The message is invisible to the operator."));
        }
        (None, Some(chat)) => bot_in(&caller.app, &chat)?,
        _ => {}
    }
    if message.deleted {
        message.content = json!({ "text": "This message was recalled" }).to_string();
    }
    Ok(success(json!({ "items": [view(&message)] })))
}

pub(super) fn edit(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let caller = call.caller()?;
    let body = call.json()?;
    let mut message = existing(tx, call.param())?;
    if message.deleted {
        return Err(refuse(230_011, "The message was recalled."));
    }
    if message.sender != Sender::App(caller.app.app_id.clone()) {
        return Err(refuse(230_071, "The operator is not the sender of the message."));
    }
    let outgoing = Outgoing::read(call, &body)?;
    if !matches!(message.msg_type.as_str(), "text" | "post") || !matches!(outgoing.msg_type.as_str(), "text" | "post") {
        return Err(refuse(230_054, "This operation is not supported for this type of message."));
    }
    if message.edits >= MAX_EDITS {
        return Err(refuse(230_072, "The message has reached the number of times it can be edited."));
    }
    message.edits += 1;
    message.msg_type = outgoing.msg_type;
    let update = Update { what: "edited", by: &caller.app.app_id, content: outgoing.content, only_for: &[] };
    message::apply(tx, &mut message, update)?;
    Ok(success(view(&message)))
}

pub(super) fn patch_card(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let caller = call.caller()?;
    if call.body.len() > MAX_CARD_BYTES {
        return Err(refuse(230_025, "The length of the message content reaches its limit."));
    }
    let body = call.json()?;
    let content = text(&body, "content").ok_or_else(|| field_missing("content"))?;
    let card = parse_card(content)?;
    let mut message = existing(tx, call.param())?;
    if message.deleted {
        return Err(refuse(230_011, "The message was recalled."));
    }
    let sender = caller.open_id.clone().map_or_else(|| Sender::App(caller.app.app_id.clone()), Sender::User);
    if message.sender != sender {
        return Err(refuse(230_027, "Lack of necessary permissions: only the sender can update a card."));
    }
    if !message.is_card() {
        return Err(refuse(230_001, "Your request contains an invalid request parameter: this message is not a card."));
    }
    if tx.now - message.created_at > UPDATABLE {
        return Err(refuse(230_031, "The message was sent more than 14 days ago and can no longer be updated."));
    }
    let was_shared = serde_json::from_str(&message.content).is_ok_and(|before| card::is_shared(&before));
    if !was_shared || !card::is_shared(&card) {
        return Err(refuse(
            230_001,
            "Your request contains an invalid request parameter: config.update_multi must be true to update a card.",
        ));
    }
    call.count_message(tx, &caller.app, &message.message_id)?;
    let by = caller.open_id.as_deref().unwrap_or(&caller.app.app_id);
    let update = Update { what: "patched", by, content: content.to_owned(), only_for: &[] };
    message::apply(tx, &mut message, update)?;
    Ok(json!({ "code": 0, "msg": "ok", "data": {} }))
}

pub(super) fn recall(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let caller = call.caller()?;
    let mut message = existing(tx, call.param())?;
    let by = caller.open_id.clone().map_or_else(|| Sender::App(caller.app.app_id.clone()), Sender::User);
    if message.sender != by {
        return Err(refuse(230_026, "No permission to recall this message."));
    }
    if message.deleted {
        return Err(refuse(230_011, "The message was recalled."));
    }
    if tx.now - message.created_at > RECALLABLE {
        return Err(refuse(230_009, "The message can no longer be recalled: it was sent more than 24 hours ago."));
    }
    message.deleted = true;
    message.updated_at = tx.now;
    tx.put(&message)?;
    message::note(tx, &message.message_id, "recalled", caller.open_id.as_deref().unwrap_or(&caller.app.app_id))?;
    Ok(success(json!({})))
}

/// `POST /interactive/v1/card/update`: what a clicked card's token allows.
pub(super) fn delayed_update(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let caller = call.caller()?;
    let Ok(body) = serde_json::from_slice::<Value>(call.body) else {
        return Err(refuse(100_030, "the request body is not JSON"));
    };
    let presented = text(&body, "token").filter(|token| token.starts_with("c-"));
    let presented = presented.ok_or_else(|| refuse(300_020, "the format of the token is wrong"))?;
    let card = body.get("card").filter(|card| card.is_object()).ok_or_else(|| refuse(10_002, "card param error"))?;
    if card.to_string().len() > MAX_DELAYED_CARD_BYTES {
        return Err(refuse(100_000, "the card is larger than 100 KB"));
    }
    let token = tx.get::<CardToken>(presented)?.ok_or_else(|| refuse(300_020, "the token is unknown"))?;
    if token.app_id != caller.app.app_id {
        return Err(refuse(200_310, "the card belongs to another app"));
    }
    if token.expires_at <= tx.now {
        return Err(refuse(300_030, "the token has expired"));
    }
    if token.uses_left == 0 {
        return Err(refuse(300_040, "the token has been used up"));
    }
    if !token.answered {
        return Err(refuse(10_002, "the callback of this token has not been answered with HTTP 200 yet"));
    }
    card::validate(card).map_err(|why| refuse(11_311, format!("bad card format: {why}")))?;
    let mut message = existing(tx, &token.message_id)?;
    if message.deleted {
        return Err(refuse(200_000, "the message was recalled"));
    }
    let mut card = card.clone();
    let open_ids = card.as_object_mut().and_then(|card| card.remove("open_ids"));
    let only_for = if serde_json::from_str(&message.content).is_ok_and(|before| card::is_shared(&before)) {
        Vec::new()
    } else {
        let open_ids =
            open_ids.ok_or_else(|| refuse(300_090, "open_ids is required: the card is not a shared card"))?;
        readers(&message, &open_ids).ok_or_else(|| refuse(200_320, "open_ids is wrong"))?
    };
    tx.put(&CardToken { uses_left: token.uses_left - 1, ..token })?;
    let update =
        Update { what: "delayed_update", by: &caller.app.app_id, content: card.to_string(), only_for: &only_for };
    message::apply(tx, &mut message, update)?;
    Ok(json!({ "code": 0, "msg": "ok" }))
}

/// The people named, all of whom must be able to see the message.
fn readers(message: &Message, open_ids: &Value) -> Option<Vec<String>> {
    let open_ids = open_ids.as_array().filter(|open_ids| !open_ids.is_empty())?;
    open_ids.iter().map(|open_id| message.members.iter().find(|member| open_id == member.as_str()).cloned()).collect()
}

/// The checked parts of a message on its way out.
struct Outgoing {
    msg_type: String,
    content: String,
    uuid: Option<String>,
}

impl Outgoing {
    fn read(call: &VendorCall<'_>, body: &Value) -> Result<Self, Failure> {
        let msg_type = text(body, "msg_type").ok_or_else(|| field_missing("msg_type"))?;
        let content = text(body, "content").ok_or_else(|| field_missing("content"))?;
        let uuid = text(body, "uuid");
        if uuid.is_some_and(|uuid| uuid.chars().count() > MAX_UUID_CHARS) {
            return Err(invalid("uuid is longer than 50 characters"));
        }
        let limit = if matches!(msg_type, "interactive" | "post") { MAX_CARD_BYTES } else { MAX_TEXT_BYTES };
        if call.body.len() > limit {
            return Err(refuse(230_025, "The length of the message content reaches its limit."));
        }
        check_content(msg_type, content)?;
        Ok(Self { msg_type: msg_type.to_owned(), content: content.to_owned(), uuid: uuid.map(str::to_owned) })
    }

    /// The message this `uuid` already sent within the hour.
    fn already_sent(&self, tx: &Tx<'_>, app: &App) -> Result<Option<Message>, StoreError> {
        let Some(uuid) = &self.uuid else { return Ok(None) };
        let sent = tx.get::<SentUuid>(&SentUuid::key(&app.app_id, uuid))?;
        match sent.filter(|sent| tx.now - sent.sent_at < UUID_LIFE) {
            Some(sent) => tx.get(&sent.message_id),
            None => Ok(None),
        }
    }

    fn into_message(self, tx: &Tx<'_>, app_id: String, open_id: Option<&str>, chat: &Chat) -> Message {
        let sender = match open_id {
            Some(open_id) => Sender::User(open_id.to_owned()),
            None => Sender::App(app_id.clone()),
        };
        message::new(tx.now, app_id, sender, chat, self.msg_type, self.content)
    }
}

fn check_content(msg_type: &str, content: &str) -> Result<(), Failure> {
    if msg_type == "interactive" {
        return parse_card(content).map(|_| ());
    }
    let Ok(Value::Object(content)) = serde_json::from_str(content) else {
        return Err(invalid("content is not a JSON object in a string"));
    };
    let non_empty = |key: &str| content.get(key).and_then(Value::as_str).is_some_and(|value| !value.is_empty());
    match msg_type {
        "text" if non_empty("text") => Ok(()),
        "text" => Err(invalid("text is empty")),
        "post" => {
            let paragraphs = |post: &Value| {
                post.get("content").and_then(Value::as_array).is_some_and(|lines| lines.iter().all(Value::is_array))
            };
            let mut languages =
                content.values().filter(|post| post.as_object().is_some_and(|post| !post.is_empty())).peekable();
            if languages.peek().is_some() && languages.all(paragraphs) {
                Ok(())
            } else {
                Err(invalid("a post needs content, an array of paragraphs, for each language"))
            }
        }
        _ => match KEYED.iter().find(|(name, _)| *name == msg_type) {
            Some((_, key)) if non_empty(key) => Ok(()),
            Some((_, key)) => Err(invalid(&format!("{key} is empty"))),
            None => Err(invalid(&format!("invalid msg_type {msg_type}"))),
        },
    }
}

fn parse_card(content: &str) -> Result<Value, Failure> {
    let failed = |why: &str| {
        refuse(230_099, format!("Failed to create card content, ext=ErrCode: 11311; ErrMsg: bad card format: {why}; "))
    };
    let card: Value = serde_json::from_str(content).map_err(|error| failed(&format!("not JSON: {error}")))?;
    card::validate(&card).map_err(|why| failed(&why))?;
    Ok(card)
}

/// The chat a message goes to, once the bot may write there.
fn receiver(tx: &Tx<'_>, app: &App, id_type: &str, receive_id: &str) -> Result<Chat, Failure> {
    match id_type {
        "chat_id" => {
            let chat = tx.get::<Chat>(receive_id)?.ok_or_else(|| refuse(230_034, "The receive_id is invalid."))?;
            bot_in(app, &chat)?;
            Ok(chat)
        }
        "open_id" | "union_id" | "user_id" | "email" => {
            let Some(user) = contact::find(tx, id_type, receive_id)? else {
                return Err(match id_type {
                    "email" => refuse(230_034, "The receive_id is invalid."),
                    _ => refuse_with(
                        99_992_351,
                        format!("not a valid {{{id_type}}} [{receive_id}]"),
                        violation("receive_id", receive_id, "the id does not exist"),
                    ),
                });
            };
            if user.status == UserStatus::Resigned {
                return Err(refuse(230_029, "The receiver has resigned."));
            }
            if !app.is_available_to(&user.open_id) {
                return Err(refuse(230_013, "Bot has NO availability to this user."));
            }
            Ok(p2p_chat(tx, app, &user)?)
        }
        _ => Err(invalid(&format!("invalid receive_id_type {receive_id}"))),
    }
}

fn bot_in(app: &App, chat: &Chat) -> Result<(), Failure> {
    if chat.app_ids.contains(&app.app_id) {
        Ok(())
    } else {
        Err(refuse(230_002, "The bot can not be outside the group."))
    }
}

/// The conversation between an app's bot and one person: always the same.
pub(crate) fn p2p_chat(tx: &Tx<'_>, app: &App, user: &User) -> Result<Chat, StoreError> {
    let name = hex::encode(Sha256::digest(format!("{}|{}", app.app_id, user.open_id)));
    let chat = Chat {
        chat_id: format!("oc_{}", name.get(..32).unwrap_or_default()),
        chat_type: ChatType::P2p,
        name: user.name.clone(),
        members: vec![user.open_id.clone()],
        app_ids: vec![app.app_id.clone()],
    };
    if tx.get::<Chat>(&chat.chat_id)?.is_none() {
        tx.put(&chat)?;
    }
    Ok(chat)
}

fn store_sent(tx: &Tx<'_>, body: &Value, message: &Message) -> Result<(), StoreError> {
    message::store_new(tx, message)?;
    if let Some(uuid) = text(body, "uuid") {
        tx.put(&SentUuid {
            app_id: message.app_id.clone(),
            uuid: uuid.to_owned(),
            message_id: message.message_id.clone(),
            sent_at: tx.now,
        })?;
    }
    Ok(())
}

fn existing(tx: &Tx<'_>, message_id: &str) -> Result<Message, Failure> {
    tx.get::<Message>(message_id)?.ok_or_else(|| {
        refuse_with(
            99_992_354,
            format!("not a valid {{open_message_id}} [{message_id}]"),
            violation("message_id", message_id, "the id does not exist"),
        )
    })
}

fn view(message: &Message) -> Value {
    let (id, id_type, sender_type) = match &message.sender {
        Sender::App(id) => (id, "app_id", "app"),
        Sender::User(id) => (id, "open_id", "user"),
    };
    let mut view = json!({
        "message_id": message.message_id,
        "msg_type": message.msg_type,
        "create_time": message.created_at.to_string(),
        "update_time": message.updated_at.to_string(),
        "deleted": message.deleted,
        "updated": message.updated,
        "chat_id": message.chat_id,
        "sender": { "id": id, "id_type": id_type, "sender_type": sender_type, "tenant_key": TENANT_KEY },
        "body": { "content": message.content },
    });
    let optional =
        [("root_id", &message.root_id), ("parent_id", &message.parent_id), ("thread_id", &message.thread_id)];
    for (name, value) in optional {
        if let (Some(view), Some(value)) = (view.as_object_mut(), value) {
            view.insert(name.to_owned(), value.clone().into());
        }
    }
    view
}

fn invalid(why: &str) -> Failure {
    refuse(230_001, format!("Your request contains an invalid request parameter, ext={why}"))
}

fn field_missing(field: &str) -> Failure {
    refuse_with(99_992_402, "field validation failed", violation(field, "", &format!("{field} is required")))
}

fn violation(field: &str, value: &str, description: &str) -> Value {
    json!({ "field_violations": [{ "field": field, "value": value, "description": description }] })
}
