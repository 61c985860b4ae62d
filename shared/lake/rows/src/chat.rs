//! Messages of Skylark's own conversations: `{message_id, conversation_id, seq, from, payload, created_at, ..}`, or a frame with that as its
//! `data`.

use domain::lake::Kind;

use crate::columns::Row;
use crate::convert::Line;
use crate::event::{Place, arrival, id, said};
use crate::object::{Fields, extras, get, object, take};
use crate::quarantine::Refusal;
use crate::value::{self, Shape};

pub(crate) fn read(line: &Line<'_>, mut frame: Fields<'_>, row: &mut Row) -> Result<Place, Refusal> {
    let (mut message, beside) = match take(&mut frame, "data") {
        Some(data) => (object(Some(data)), frame),
        None => (frame, Fields::new()),
    };
    let from = take(&mut message, "from");
    let payload = object(get(&message, "payload"));
    let text = get(&payload, "text").filter(|_| payload.len() <= 2);

    id(row, "message_id", take(&mut message, "message_id"))?;
    row.text(line.source);
    value::text(row, take(&mut message, "tenant_id"));
    row.null();
    value::text(row, from);
    row.null();
    value::text(row, take(&mut message, "conversation_id"));
    value::text(row, from);
    row.integer(match get(&payload, "type").map(Shape::of) {
        Some(Shape::Text("text")) => Some(1),
        Some(_) => Some(49),
        None => None,
    });
    let partition = said(row, value::instant(take(&mut message, "created_at")))?;
    row.integer(match get(&message, "conversation_type").map(Shape::of) {
        Some(Shape::Text("private")) => Some(0),
        Some(_) => Some(1),
        None => None,
    });
    let whole = take(&mut message, "payload");
    value::text(row, text.or(whole));
    row.null();
    row.null();
    extras(row, message.iter(), &beside);
    arrival(row, line);
    Ok(Place { table: Kind::Messages, partition })
}
