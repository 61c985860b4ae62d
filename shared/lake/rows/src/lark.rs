//! Events of Lark: as the vendor sends them, schema 1.0 or 2.0, or as the inbox keeps them.

use domain::lake::{Kind, Partition};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::columns::Row;
use crate::convert::Line;
use crate::event::{Place, arrival, id, said};
use crate::object::{Fields, Object, extras, get, object, take};
use crate::quarantine::{Reason, Refusal};
use crate::value::{self, Shape};

const MESSAGE_RECEIVED: &str = "im.message.receive_v1";

/// Reads an event. A message becomes what a message of any feed is; every other event is a row of its own, with the event as its content.
pub(crate) fn read(line: &Line<'_>, mut event: Fields<'_>, row: &mut Row) -> Result<Place, Refusal> {
    let header = object(take(&mut event, "header"));
    event.extend(header);
    // It proves a callback and is nobody's business here.
    while take(&mut event, "token").is_some() {}
    let event_id = ["event_id", "id", "uuid"].iter().find_map(|name| take(&mut event, name));
    let app_id = take(&mut event, "app_id");
    let created_at = ["create_time", "created_at_ms", "ts"].iter().find_map(|name| take(&mut event, name));
    let body = ["event", "body"].iter().find_map(|name| take(&mut event, name));
    let body =
        body.ok_or_else(|| Refusal::new(Reason::Unrecognised, "no event of Lark: it has neither `event` nor `body`"))?;

    let is_message = get(&event, "event_type").map(Shape::of) == Some(Shape::Text(MESSAGE_RECEIVED));
    let partition = if is_message {
        message(line, app_id, created_at, object(Some(body)), &event, row)?
    } else {
        id(row, "event_id", event_id)?;
        row.text(line.source);
        value::text(row, app_id);
        // Nobody said it to anybody, and it is of no message's type.
        (0..6).for_each(|_| row.null());
        let partition = said(row, created_at.and_then(instant))?;
        row.null();
        value::json(row, Some(body));
        row.null();
        row.null();
        extras(row, event.iter(), &[]);
        arrival(row, line);
        partition
    };
    Ok(Place { table: Kind::Messages, partition })
}

fn message(
    line: &Line<'_>,
    app_id: Option<&RawValue>,
    created_at: Option<&RawValue>,
    mut body: Fields<'_>,
    beside: &Fields<'_>,
    row: &mut Row,
) -> Result<Partition, Refusal> {
    let mut message = object(take(&mut body, "message"));
    let sender = object(get(&body, "sender"));
    let sender = get(&object(get(&sender, "sender_id")), "open_id");
    let said_at = take(&mut message, "create_time").or(created_at);
    let in_a_group = get(&message, "chat_type").map(Shape::of) != Some(Shape::Text("p2p"));
    let (chat, of_the_group) = if in_a_group { (take(&mut message, "chat_id"), sender) } else { (None, None) };

    id(row, "message_id", take(&mut message, "message_id"))?;
    row.text(line.source);
    value::text(row, app_id);
    row.null();
    value::text(row, sender);
    row.null();
    match chat {
        Some(chat) => value::text(row, Some(chat)),
        None => row.text(""),
    }
    value::text(row, of_the_group);
    let kind = get(&message, "message_type").map(Shape::of);
    row.integer(kind.map(code));
    let partition = said(row, said_at.and_then(instant))?;
    row.integer(Some(i64::from(in_a_group)));
    let content = take(&mut message, "content");
    match (kind, content.map(Shape::of).and_then(Shape::to_text)) {
        (Some(Shape::Text("text")), Some(json)) => match plain(&json) {
            Some(text) => row.text(&text),
            None => row.text(&json),
        },
        (_, Some(json)) => row.text(&json),
        (_, None) => value::text(row, content),
    }
    row.null();
    row.null();
    message.append(&mut body);
    extras(row, message.iter(), beside);
    arrival(row, line);
    Ok(partition)
}

/// A text message's content is `{"text":".."}`; with more in it, it stays as it is.
fn plain(json: &str) -> Option<String> {
    match serde_json::from_str::<Object<'_>>(json).ok()?.0.as_slice() {
        [(name, text)] if name.0 == "text" => Shape::of(text).to_text(),
        _ => None,
    }
}

/// Lark's type as the number that WeChat has for the like.
fn code(kind: Shape<'_>) -> i64 {
    match kind {
        Shape::Text("text" | "post") => 1,
        Shape::Text("image") => 3,
        Shape::Text("audio") => 34,
        Shape::Text("share_chat" | "share_user") => 42,
        Shape::Text("media") => 43,
        Shape::Text("sticker") => 47,
        Shape::Text("location") => 48,
        Shape::Text("system") => 10_000,
        _ => 49,
    }
}

/// Schema 1.0 tells the time as a text of seconds with a fraction.
fn instant(value: &RawValue) -> Option<OffsetDateTime> {
    value::instant(Some(value)).or_else(|| {
        let text = Shape::of(value).to_text()?;
        OffsetDateTime::from_unix_timestamp(text.split('.').next()?.parse().ok()?).ok()
    })
}
