//! What a feed sends, read into a row. Values are borrowed from the line until they are copied into their columns: nothing is parsed into a
//! tree, and what nobody asks for is only skipped over.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use domain::lake::source::{Mapping, SourceName};
use domain::lake::{Kind, Partition};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::columns::Row;
use crate::convert::{Line, Options};
use crate::object::{Fields, Name, Object, extras};
use crate::quarantine::{Reason, Refusal};
use crate::value::{self, Shape};
use crate::{chat, lark, mask, message, pointer};

/// Where a row belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) table: Kind,
    pub(crate) partition: Partition,
}

/// Reads a line into the row.
pub(crate) fn read(line: &Line<'_>, options: &Options, row: &mut Row) -> Result<Place, Refusal> {
    if line.bytes.len() > options.max_line_bytes {
        let (bytes, limit) = (line.bytes.len(), options.max_line_bytes);
        return Err(Refusal::new(Reason::TooLong, format!("{bytes} bytes; at most {limit} are taken")));
    }
    // The quick one does not say what is wrong.
    let text = simdutf8::basic::from_utf8(line.bytes).or_else(|_| std::str::from_utf8(line.bytes));
    let text = text.map_err(|error| Refusal::new(Reason::NotUtf8, error.to_string()))?;
    // Some programs begin a text with a mark of its byte order.
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Err(Refusal::new(Reason::Empty, "there is nothing in it"));
    }
    if !matches!(line.source, SourceName::LARK | SourceName::CHAT)
        && *line.mapping == Mapping::Wechat
        && let Some(place) = message::read(text, line, row)
    {
        return Ok(place);
    }
    read_any(text, line, row)
}

/// Reads whatever it is.
pub(crate) fn read_any(text: &str, line: &Line<'_>, row: &mut Row) -> Result<Place, Refusal> {
    row.clear();
    match (line.source, line.mapping) {
        (SourceName::LARK, _) => lark::read(line, parse::<Object<'_>>(text)?.0, row),
        (SourceName::CHAT, _) => chat::read(line, parse::<Object<'_>>(text)?.0, row),
        (_, Mapping::Wechat) => parse::<Event<'_>>(text)?.read(line, row),
        (_, Mapping::Fields { fields }) => Event::pointed_at(fields, parse::<Object<'_>>(text)?.0).read(line, row),
    }
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| {
        let reason = if error.is_data() { Reason::Unrecognised } else { Reason::NotJson };
        Refusal::new(reason, error.to_string())
    })
}

/// An event: `{guid, notify_type, data: {..}}`, or only what would be its `data`.
#[derive(Debug, Default)]
struct Event<'a> {
    guid: Option<&'a RawValue>,
    notify_type: Option<&'a RawValue>,
    data: Option<Data<'a>>,
    beside: Fields<'a>,
}

/// The fields of a message by name, and all the others: a contact has only such.
#[derive(Debug, Default)]
struct Data<'a> {
    msg_id: Option<&'a RawValue>,
    from_username: Option<&'a RawValue>,
    to_username: Option<&'a RawValue>,
    chatroom: Option<&'a RawValue>,
    chatroom_sender: Option<&'a RawValue>,
    msg_type: Option<&'a RawValue>,
    create_time: Option<&'a RawValue>,
    is_chatroom_msg: Option<&'a RawValue>,
    content: Option<&'a RawValue>,
    desc: Option<&'a RawValue>,
    source: Option<&'a RawValue>,
    others: Fields<'a>,
}

impl<'a> Data<'a> {
    fn put(&mut self, name: Name<'a>, value: &'a RawValue) {
        let field = match &*name.0 {
            "msg_id" => &mut self.msg_id,
            "from_username" => &mut self.from_username,
            "to_username" => &mut self.to_username,
            "chatroom" => &mut self.chatroom,
            "chatroom_sender" => &mut self.chatroom_sender,
            "msg_type" => &mut self.msg_type,
            "create_time" => &mut self.create_time,
            "is_chatroom_msg" => &mut self.is_chatroom_msg,
            "content" => &mut self.content,
            "desc" => &mut self.desc,
            "source" => &mut self.source,
            _ => return self.others.push((name, value)),
        };
        *field = Some(value);
    }

    /// The fields that are a message's, with their names: to a contact they mean nothing.
    fn of_a_message(&self) -> impl Iterator<Item = (Name<'a>, &'a RawValue)> {
        let fields = [
            ("msg_id", self.msg_id),
            ("from_username", self.from_username),
            ("to_username", self.to_username),
            ("chatroom", self.chatroom),
            ("chatroom_sender", self.chatroom_sender),
            ("msg_type", self.msg_type),
            ("create_time", self.create_time),
            ("is_chatroom_msg", self.is_chatroom_msg),
            ("content", self.content),
            ("desc", self.desc),
            ("source", self.source),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((Name(Cow::Borrowed(name)), value?)))
    }
}

impl<'de> Deserialize<'de> for Data<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DataVisitor;
        impl<'de> Visitor<'de> for DataVisitor {
            type Value = Data<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`data` to be an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut data = Data::default();
                while let Some(name) = map.next_key()? {
                    data.put(name, map.next_value()?);
                }
                Ok(data)
            }
        }
        deserializer.deserialize_map(DataVisitor)
    }
}

impl<'de> Deserialize<'de> for Event<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EventVisitor;
        impl<'de> Visitor<'de> for EventVisitor {
            type Value = Event<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut event = Event::default();
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    match &*name.0 {
                        "guid" => event.guid = Some(map.next_value()?),
                        "notify_type" => event.notify_type = Some(map.next_value()?),
                        "data" => event.data = Some(map.next_value()?),
                        _ => event.beside.push((name, map.next_value()?)),
                    }
                }
                Ok(event)
            }
        }
        deserializer.deserialize_map(EventVisitor)
    }
}

impl<'a> Event<'a> {
    /// An event of another form: for each field a pointer to where it is. What no pointer points at is kept as it is, of a field that one
    /// points into the whole.
    fn pointed_at(pointers: &BTreeMap<String, String>, fields: Fields<'a>) -> Self {
        let (mut event, mut data) = (Self::default(), Data::default());
        for (field, pointer) in pointers {
            match (field.as_str(), pointer::find(&fields, pointer)) {
                ("guid", value) => event.guid = value,
                ("notify_type", value) => event.notify_type = value,
                (_, Some(value)) => data.put(Name(Cow::Owned(field.clone())), value),
                (_, None) => {}
            }
        }
        let kept = |name: &Name<'_>| !pointers.values().any(|pointer| pointer::steps(pointer).eq([&*name.0]));
        data.others.extend(fields.into_iter().filter(|(name, _)| kept(name)));
        event.data = Some(data);
        event
    }

    fn read(mut self, line: &Line<'_>, row: &mut Row) -> Result<Place, Refusal> {
        let data = self.data.take().unwrap_or_else(|| {
            let mut data = Data::default();
            self.beside.drain(..).for_each(|(name, value)| data.put(name, value));
            data
        });
        let contact = |(name, _): &(Name<'_>, &RawValue)| ContactField::of(&name.0) == Some(ContactField::Username);
        if data.msg_id.is_some() {
            self.message(&data, line, row)
        } else if data.others.iter().any(contact) {
            self.contact(data, line, row)
        } else if data.of_a_message().next().is_some() {
            Err(Refusal::new(Reason::NoId, "a message without `msg_id`"))
        } else {
            Err(Refusal::new(Reason::Unrecognised, "neither a message, with `msg_id`, nor a contact, with `username`"))
        }
    }

    fn message(&self, data: &Data<'a>, line: &Line<'_>, row: &mut Row) -> Result<Place, Refusal> {
        id(row, "msg_id", data.msg_id)?;
        row.text(line.source);
        value::text(row, self.guid);
        row.integer(value::integer("notify_type", self.notify_type)?);
        value::text(row, data.from_username);
        value::text(row, data.to_username);
        value::text(row, data.chatroom);
        value::text(row, data.chatroom_sender);
        row.integer(value::integer("msg_type", data.msg_type)?);
        let partition = said(row, value::instant(data.create_time))?;
        row.integer(value::integer("is_chatroom_msg", data.is_chatroom_msg)?);
        value::text(row, data.content);
        value::text(row, data.desc);
        value::text(row, data.source);
        extras(row, data.others.iter(), &self.beside);
        arrival(row, line);
        Ok(Place { table: Kind::Messages, partition })
    }

    fn contact(&self, data: Data<'a>, line: &Line<'_>, row: &mut Row) -> Result<Place, Refusal> {
        let mut fields = [None; ContactField::COUNT];
        let mut others: Fields<'a> = data.of_a_message().collect();
        for (name, value) in data.others {
            match ContactField::of(&name.0).and_then(|field| fields.get_mut(field as usize)) {
                Some(field) => *field = Some(value),
                None => others.push((name, value)),
            }
        }
        let field = |field: ContactField| fields.get(field as usize).copied().flatten();
        let integer = |name: &str, it: ContactField| value::integer(name, field(it));

        id(row, "username", field(ContactField::Username))?;
        row.text(line.source);
        value::text(row, self.guid);
        row.integer(value::integer("notify_type", self.notify_type)?);
        value::text(row, field(ContactField::Alias));
        value::text(row, field(ContactField::EncryptUserName));
        row.integer(integer("contactType", ContactField::ContactType)?);
        row.integer(integer("deleteFlag", ContactField::DeleteFlag)?);
        row.integer(integer("verifyFlag", ContactField::VerifyFlag)?);
        row.integer(integer("sex", ContactField::Sex)?);
        value::text(row, field(ContactField::Country));
        value::text(row, field(ContactField::Province));
        value::text(row, field(ContactField::City));
        match field(ContactField::Mobile) {
            Some(mobile) if line.mask => mask::mobile(row, mobile),
            mobile => value::text(row, mobile),
        }
        value::text(row, field(ContactField::NickName));
        value::text(row, field(ContactField::Remark));
        value::text(row, field(ContactField::Pyinitial));
        value::text(row, field(ContactField::QuanPin));
        value::json(row, field(ContactField::SnsUserInfo));
        match field(ContactField::CustomInfo) {
            Some(info) if line.mask => mask::custom_info(row, info),
            info => value::json(row, info),
        }
        value::json(row, field(ContactField::NewChatroomData));
        extras(row, others.iter(), &self.beside);
        arrival(row, line);
        let partition = Partition::of(line.received_at);
        let partition = partition.ok_or_else(|| Refusal::new(Reason::BadTime, "received in no year that is taken"))?;
        Ok(Place { table: Kind::Contacts, partition })
    }
}

/// The fields of a contact that have a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContactField {
    Username,
    Alias,
    EncryptUserName,
    ContactType,
    DeleteFlag,
    VerifyFlag,
    Sex,
    Country,
    Province,
    City,
    Mobile,
    NickName,
    Remark,
    Pyinitial,
    QuanPin,
    SnsUserInfo,
    CustomInfo,
    NewChatroomData,
}

impl ContactField {
    const COUNT: usize = Self::NewChatroomData as usize + 1;

    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "username" | "userName" => Self::Username,
            "alias" => Self::Alias,
            "encryptUserName" => Self::EncryptUserName,
            "contactType" => Self::ContactType,
            "deleteFlag" => Self::DeleteFlag,
            "verifyFlag" => Self::VerifyFlag,
            "sex" => Self::Sex,
            "country" => Self::Country,
            "province" => Self::Province,
            "city" => Self::City,
            "mobile" => Self::Mobile,
            "nickName" => Self::NickName,
            "remark" => Self::Remark,
            "pyinitial" => Self::Pyinitial,
            "quanPin" => Self::QuanPin,
            "snsUserInfo" => Self::SnsUserInfo,
            "customInfo" => Self::CustomInfo,
            "newChatroomData" => Self::NewChatroomData,
            _ => return None,
        })
    }
}

/// No feed's ids are longer; what remembers them takes none that are.
pub(crate) const ID_BYTES: usize = 512;

/// Appends what the row is recognised by: a text or a number.
pub(crate) fn id(row: &mut Row, field: &str, value: Option<&RawValue>) -> Result<(), Refusal> {
    value::text(row, value);
    let bytes = match value.map(|value| Shape::of(value).unwrapped()) {
        Some(Shape::Text(_) | Shape::Number(_)) => row.key().len(),
        _ => 0,
    };
    match bytes {
        0 => Err(Refusal::new(Reason::NoId, format!("`{field}` is no text and no number"))),
        1..=ID_BYTES => Ok(()),
        _ => {
            Err(Refusal::new(Reason::BadField, format!("`{field}` is of {bytes} bytes; at most {ID_BYTES} are taken")))
        }
    }
}

/// Appends when a message was said, and tells its day.
pub(crate) fn said(row: &mut Row, at: Option<OffsetDateTime>) -> Result<Partition, Refusal> {
    let wrong = || Refusal::new(Reason::BadTime, "when it was said is missing, no time, or in no year that is taken");
    let at = at.ok_or_else(wrong)?;
    let partition = Partition::of(at).ok_or_else(wrong)?;
    row.integer(Some(micros(at)));
    Ok(partition)
}

/// Appends when and where the line came in: the last columns of either table.
pub(crate) fn arrival(row: &mut Row, line: &Line<'_>) {
    row.integer(Some(micros(line.received_at)));
    row.text(line.raw_object);
    row.integer(i64::try_from(line.raw_line).ok());
}

/// Microseconds since 1970, rounded down. Every time that a calendar to the year 9999 has fits.
pub(crate) fn micros(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1_000_000 + i64::from(at.microsecond())
}
