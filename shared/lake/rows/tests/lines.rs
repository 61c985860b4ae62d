//! What becomes of lines: each is a row, a duplicate or quarantined, whatever is in it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, HashSet};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, RecordBatch};
use domain::lake::source::Mapping;
use lake_rows::{Converted, Digester, Kind, Line, Options, Reason, convert, identify};
use lake_sample::{Plan, What};
use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

const RECEIVED: OffsetDateTime = datetime!(2026-11-25 12:00 UTC);

fn line<'a>(bytes: &'a [u8], feed: &'a Feed, at: u64) -> Line<'a> {
    Line {
        bytes,
        source: feed.0,
        mapping: &feed.1,
        mask: false,
        received_at: RECEIVED + time::Duration::seconds(i64::try_from(at).unwrap()),
        raw_object: "raw",
        raw_line: at + 1,
    }
}

/// A source and how it is read.
struct Feed(&'static str, Mapping);

const WECHAT: Feed = Feed("wechat", Mapping::Wechat);
const LARK: Feed = Feed("lark", Mapping::Wechat);
const CHAT: Feed = Feed("chat", Mapping::Wechat);

fn other(pointers: &[(&str, &str)]) -> Feed {
    let fields = pointers.iter().map(|(field, pointer)| ((*field).to_owned(), (*pointer).to_owned()));
    Feed("other", Mapping::Fields { fields: fields.collect() })
}

fn converted(feed: &Feed, lines: &[&[u8]]) -> Converted {
    let lines: Vec<Line<'_>> = (0..).zip(lines).map(|(at, bytes)| line(bytes, feed, at)).collect();
    let converted = convert(&lines, &Options::default()).unwrap();
    assert!(converted.counts().balance(), "{:?}", converted.counts());
    converted
}

/// The one row that there is.
fn row(converted: &Converted) -> BTreeMap<String, String> {
    assert_eq!(converted.rows(), 1, "{:?}", converted.quarantined);
    values(&converted.batches[0].rows, 0)
}

/// The row's values as text; nulls are left out.
fn values(rows: &RecordBatch, at: usize) -> BTreeMap<String, String> {
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).filter(|(_, column)| column.is_valid(at));
    let text = |column: &arrow_array::ArrayRef| {
        if let Some(column) = column.as_string_opt::<i32>() {
            column.value(at).to_owned()
        } else if let Some(column) = column.as_primitive_opt::<Int64Type>() {
            column.value(at).to_string()
        } else {
            column.as_primitive::<TimestampMicrosecondType>().value(at).to_string()
        }
    };
    columns.map(|(field, column)| (field.name().clone(), text(column))).collect()
}

fn assert_values(actual: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    let mut expected: BTreeMap<String, String> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let micros = RECEIVED.unix_timestamp() * 1_000_000;
    for (name, value) in [("received_at", micros.to_string()), ("raw_object", "raw".into()), ("raw_line", "1".into())] {
        expected.insert(name.to_owned(), value);
    }
    assert_eq!(*actual, expected);
}

const MESSAGE: &str = r#"{"guid":"g","notify_type":1010,"data":{"from_username":"room@chatroom","to_username":"me","chatroom":"room@chatroom",
 "chatroom_sender":"wxid_1","msg_id":7001,"msg_type":1,"create_time":1790000000,"is_chatroom_msg":1,"content":"你好\n😀 \"x\"",
 "desc":"","source":5,"new":{"a":[1, 2]},"nothing":null},"attempt":2}"#;

#[test]
fn an_event_is_unwrapped_and_nothing_of_it_is_lost() {
    let converted = converted(&WECHAT, &[MESSAGE.as_bytes()]);
    assert_eq!(converted.batches[0].partition.folder(), "year=2026/month=9/day=21");
    assert_values(
        &row(&converted),
        &[
            ("msg_id", "7001"),
            ("source", "wechat"),
            ("guid", "g"),
            ("notify_type", "1010"),
            ("from_username", "room@chatroom"),
            ("to_username", "me"),
            ("chatroom", "room@chatroom"),
            ("chatroom_sender", "wxid_1"),
            ("msg_type", "1"),
            ("create_time", "1790000000000000"),
            ("is_chatroom_msg", "1"),
            ("content", "你好\n😀 \"x\""),
            ("msg_desc", ""),
            ("msg_source", "5"),
            ("extras", r#"{"new":{"a":[1, 2]},"nothing":null,"event.attempt":2}"#),
        ],
    );
}

#[test]
fn data_without_its_event_is_read_the_same() {
    let bare = r#"{"msg_id":"7001","create_time":"1790000000","content":"hi","new":1}"#;
    let converted = converted(&WECHAT, &[bare.as_bytes()]);
    assert_values(
        &row(&converted),
        &[
            ("msg_id", "7001"),
            ("source", "wechat"),
            ("create_time", "1790000000000000"),
            ("content", "hi"),
            ("extras", r#"{"new":1}"#),
        ],
    );
}

const CONTACT: &str = r#"{"guid":"g","notify_type":1010,"data":{"username":"wxid_1","alias":"tom","encryptUserName":"v3_x","contactType":"3",
 "deleteFlag":0,"verifyFlag":0.0,"sex":1,"country":"CN","province":"浙江","city":"杭州","mobile":13812345678,"nickName":{"string":"汤姆🐱"},
 "remark":{},"pyinitial":{"string":"TM"},"quanPin":{"string":"tangmu"},"snsUserInfo":{"snsFlag": 1},"customInfo":{"detail":"{\"a\":1}"},
 "newChatroomData":{"memberCount":2},"bitMask":4294967295,"source":3}}"#;

#[test]
fn a_contact_is_told_by_its_fields_and_loses_none() {
    let contact = converted(&WECHAT, &[CONTACT.as_bytes()]);
    assert_eq!(contact.batches[0].table, Kind::Contacts);
    assert_eq!(contact.batches[0].partition.folder(), "year=2026/month=11/day=25");
    let expected = [
        ("username", "wxid_1"),
        ("source", "wechat"),
        ("guid", "g"),
        ("notify_type", "1010"),
        ("alias", "tom"),
        ("encrypt_user_name", "v3_x"),
        ("contact_type", "3"),
        ("delete_flag", "0"),
        ("verify_flag", "0"),
        ("sex", "1"),
        ("country", "CN"),
        ("province", "浙江"),
        ("city", "杭州"),
        ("mobile", "13812345678"),
        ("nick_name", "汤姆🐱"),
        ("pyinitial", "TM"),
        ("quan_pin", "tangmu"),
        ("sns_user_info", r#"{"snsFlag": 1}"#),
        ("custom_info", r#"{"detail":"{\"a\":1}"}"#),
        ("new_chatroom_data", r#"{"memberCount":2}"#),
        ("extras", r#"{"source":3,"bitMask":4294967295}"#),
    ];
    assert_values(&row(&contact), &expected);

    let masked = Line { mask: true, ..line(CONTACT.as_bytes(), &WECHAT, 0) };
    let masked = row(&convert(&[masked], &Options::default()).unwrap());
    assert_eq!(masked["mobile"], "138****5678");
    assert_eq!(masked["custom_info"], r#"{"detail":"***"}"#);
}

#[test]
fn a_message_of_lark_is_a_message_in_either_form_and_its_token_is_dropped() {
    let vendor = r#"{"schema":"2.0","header":{"event_id":"e1","event_type":"im.message.receive_v1","create_time":"1790000000999",
        "token":"secret","app_id":"cli_1","tenant_key":"t"},"event":{"sender":{"sender_id":{"open_id":"ou_1"},"sender_type":"user"},
        "message":{"message_id":"om_1","create_time":"1790000000123","chat_id":"oc_1","chat_type":"group","message_type":"text",
        "content":"{\"text\":\"你好 @_user_1\"}","mentions":[{"key":"@_user_1"}]}}}"#;
    let inbox = r#"{"id":"e1","event_type":"im.message.receive_v1","app_id":"cli_1","tenant_key":"t","created_at_ms":1790000000999,
        "body":{"sender":{"sender_id":{"open_id":"ou_1"},"sender_type":"user"},
        "message":{"message_id":"om_1","create_time":"1790000000123","chat_id":"oc_1","chat_type":"group","message_type":"text",
        "content":"{\"text\":\"你好 @_user_1\"}","mentions":[{"key":"@_user_1"}]}}}"#;
    for (form, beside) in [(vendor, r#","event.schema":"2.0""#), (inbox, "")] {
        let converted = converted(&LARK, &[form.as_bytes()]);
        let extras = format!(
            "{{\"chat_type\":\"group\",\"message_type\":\"text\",\"mentions\":[{{\"key\":\"@_user_1\"}}],\"sender\":\
             {{\"sender_id\":{{\"open_id\":\"ou_1\"}},\"sender_type\":\"user\"}}{beside},\"event.event_type\":\
             \"im.message.receive_v1\",\"event.tenant_key\":\"t\"}}"
        );
        assert_values(
            &row(&converted),
            &[
                ("msg_id", "om_1"),
                ("source", "lark"),
                ("guid", "cli_1"),
                ("from_username", "ou_1"),
                ("chatroom", "oc_1"),
                ("chatroom_sender", "ou_1"),
                ("msg_type", "1"),
                ("create_time", "1790000000123000"),
                ("is_chatroom_msg", "1"),
                ("content", "你好 @_user_1"),
                ("extras", &extras),
            ],
        );
        assert!(!format!("{converted:?}").contains("secret"));
    }
}

#[test]
fn another_event_of_lark_is_a_row_with_the_event_as_content() {
    let event = r#"{"uuid":"u1","token":"secret","ts":"1790000000.123","type":"event_callback","event":{"type":"user.left","id":1}}"#;
    let converted = converted(&LARK, &[event.as_bytes()]);
    assert_values(
        &row(&converted),
        &[
            ("msg_id", "u1"),
            ("source", "lark"),
            ("create_time", "1790000000000000"),
            ("content", r#"{"type":"user.left","id":1}"#),
            ("extras", r#"{"type":"event_callback"}"#),
        ],
    );
}

#[test]
fn a_message_of_a_conversation_is_a_message() {
    let text = r#"{"message_id":"m1","conversation_id":"c1","seq":7,"from":"alice","payload":{"type":"text","text":"hi 👋"},
        "created_at":"2026-09-21T14:13:20.123456Z","tenant_id":"t1"}"#;
    let expected = [
        ("msg_id", "m1"),
        ("source", "chat"),
        ("guid", "t1"),
        ("from_username", "alice"),
        ("chatroom", "c1"),
        ("chatroom_sender", "alice"),
        ("msg_type", "1"),
        ("create_time", "1790000000123456"),
        ("content", "hi 👋"),
        ("extras", r#"{"seq":7}"#),
    ];
    assert_values(&row(&converted(&CHAT, &[text.as_bytes()])), &expected);
    let frame = format!("{{\"type\":\"message.created\",\"data\":{text}}}");
    let framed = row(&converted(&CHAT, &[frame.as_bytes()]));
    assert_eq!(framed["extras"], r#"{"seq":7,"event.type":"message.created"}"#);
    let file = text.replace(r#"{"type":"text","text":"hi 👋"}"#, r#"{"type":"file","file_id":"f1"}"#);
    let file = row(&converted(&CHAT, &[file.as_bytes()]));
    assert_eq!((file["msg_type"].as_str(), file["content"].as_str()), ("49", r#"{"type":"file","file_id":"f1"}"#));
}

#[test]
fn a_feed_of_another_form_is_read_by_pointers() {
    let feed = other(&[
        ("msg_id", "/id"),
        ("from_username", "/user/name"),
        ("create_time", "/at"),
        ("content", "/body"),
        ("msg_type", "/a~1b"),
        ("desc", "/not/there"),
        ("guid", "/account"),
    ]);
    let event =
        r#"{"id":9,"user":{"name":"bob","age":3},"at":1790000000123,"body":"hi","a/b":1,"more":true,"account":"g"}"#;
    assert_values(
        &row(&converted(&feed, &[event.as_bytes()])),
        &[
            ("msg_id", "9"),
            ("source", "other"),
            ("guid", "g"),
            ("from_username", "bob"),
            ("msg_type", "1"),
            ("create_time", "1790000000123000"),
            ("content", "hi"),
            ("extras", r#"{"user":{"name":"bob","age":3},"more":true}"#),
        ],
    );
}

#[test]
fn what_cannot_be_a_row_is_kept_with_its_reason_and_its_bytes() {
    let long = vec![b' '; lake_rows::MAX_LINE_BYTES + 1];
    let deep = "[".repeat(200_000);
    let long_id = format!("{{\"data\":{{\"msg_id\":\"{}\",\"create_time\":1790000000}}}}", "1".repeat(513));
    let nested = format!("{{\"x\":{deep}");
    for (bytes, reason) in [
        (&b""[..], Reason::Empty),
        (b" \r", Reason::Empty),
        (b"\xef\xbb\xbf", Reason::Empty),
        (&long, Reason::TooLong),
        (b"{\"data\":{\"content\":\"\xff\"}}", Reason::NotUtf8),
        (b"{\"data\":{\"msg_id\":1,", Reason::NotJson),
        (b"<xml/>", Reason::NotJson),
        (b"{} {}", Reason::NotJson),
        (nested.as_bytes(), Reason::NotJson),
        (b"[]", Reason::Unrecognised),
        (b"\"text\"", Reason::Unrecognised),
        (b"{}", Reason::Unrecognised),
        (b"{\"data\":[]}", Reason::Unrecognised),
        (b"{\"data\":{\"weather\":\"rain\"}}", Reason::Unrecognised),
        (b"{\"data\":{\"from_username\":\"a\",\"create_time\":1790000000}}", Reason::NoId),
        (b"{\"data\":{\"msg_id\":null,\"create_time\":1790000000}}", Reason::NoId),
        (b"{\"data\":{\"msg_id\":\"\",\"create_time\":1790000000}}", Reason::NoId),
        (b"{\"data\":{\"msg_id\":{\"a\":1},\"create_time\":1790000000}}", Reason::NoId),
        (b"{\"data\":{\"msg_id\":true,\"create_time\":1790000000}}", Reason::NoId),
        (long_id.as_bytes(), Reason::BadField),
        (b"{\"data\":{\"msg_id\":1}}", Reason::BadTime),
        (b"{\"data\":{\"msg_id\":1,\"create_time\":\"soon\"}}", Reason::BadTime),
        (b"{\"data\":{\"msg_id\":1,\"create_time\":-62135596800}}", Reason::BadTime),
        (b"{\"data\":{\"msg_id\":1,\"create_time\":253402300799}}", Reason::BadTime),
        (b"{\"data\":{\"msg_id\":1,\"create_time\":9223372036854775807}}", Reason::BadTime),
        (b"{\"data\":{\"msg_id\":1,\"create_time\":1790000000,\"msg_type\":\"text\"}}", Reason::BadField),
        (b"{\"data\":{\"username\":\"a\",\"sex\":[1]}}", Reason::BadField),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let converted = converted(&WECHAT, &[bytes]);
        let [quarantined] = converted.quarantined.as_slice() else { panic!("a row of {shown}") };
        assert_eq!(
            (quarantined.reason, quarantined.bytes.as_slice()),
            (reason, bytes),
            "{shown}: {}",
            quarantined.detail
        );
        assert_eq!(identify(&line(bytes, &WECHAT, 0), &Options::default()), None);
        assert!(!quarantined.detail.is_empty() && quarantined.detail.chars().count() <= 200);
    }
}

#[test]
fn quarantined_bytes_come_back_from_their_document() {
    let kept = |bytes: &[u8]| serde_json::to_value(&converted(&WECHAT, &[bytes]).quarantined[0]).unwrap();
    let text = kept("坏".as_bytes());
    assert_eq!((&text["reason"], &text["text"]), (&"not_json".into(), &"坏".into()));
    assert_eq!((&text["raw_line"], &text["received_at"]), (&1.into(), &"2026-11-25T12:00:00Z".into()));
    assert_eq!(kept(b"\xff\x00")["base64"], "/wA=");
}

fn said(msg_id: u32, content: &str) -> String {
    format!("{{\"data\":{{\"msg_id\":{msg_id},\"create_time\":1790000000,\"content\":\"{content}\"}}}}")
}

#[test]
fn of_one_message_that_came_twice_the_earlier_stays_and_another_of_its_id_is_a_conflict() {
    let (first, again, other) = (said(1, "a"), said(1, "a"), said(1, "b"));
    // The one that was received last is handed over first.
    let lines =
        [line(other.as_bytes(), &WECHAT, 9), line(again.as_bytes(), &WECHAT, 5), line(first.as_bytes(), &WECHAT, 2)];
    let converted = convert(&lines, &Options::default()).unwrap();
    assert_eq!((converted.rows(), converted.duplicates, converted.quarantined.len()), (1, 1, 1));
    assert_eq!(row(&converted)["raw_line"], "3");
    assert_eq!(converted.quarantined[0].reason, Reason::Conflict);
    assert_eq!(converted.quarantined[0].raw_line, 10);
}

#[test]
fn who_saw_a_message_and_where_it_came_from_makes_no_other_message() {
    let seen = |guid: &str| format!("{{\"guid\":\"{guid}\",\"data\":{{\"msg_id\":1,\"create_time\":1790000000}}}}");
    let converted = converted(&WECHAT, &[seen("a").as_bytes(), seen("b").as_bytes()]);
    assert_eq!((converted.rows(), converted.duplicates), (1, 1));
}

#[test]
fn a_line_says_the_same_whoever_saw_it_and_however_it_is_written() {
    let says = |body: &str| identify(&line(body.as_bytes(), &WECHAT, 0), &Options::default()).unwrap().says;
    let one = says(r#"{"guid":"a","data":{"msg_id":1,"create_time":1790000000,"content":"好"}}"#);
    assert_eq!(one, says(r#"{"guid":"b","data":{"content":"\u597d","create_time":"1790000000","msg_id":"1"}}"#));
    for other in [
        r#"{"data":{"msg_id":1,"create_time":1790000001,"content":"好"}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"坏"}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"desc":"好"}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"好","new":1}}"#,
    ] {
        assert_ne!(one, says(other), "{other}");
    }
    // It is stored, so it must not change.
    assert_eq!(one, "c4cb7b5b9ed7ee151d7a03c60519b6b83315cf70a2e9cc986af070cb89a30115");
}

/// Whether two rows have one key, and whether they say the same.
fn same(table: Kind, rows: [&RecordBatch; 2]) -> (bool, bool) {
    let digester = Digester::default();
    let [one, other] = rows.map(|rows| digester.digests(table, rows)[0]);
    (one.key == other.key, one.says == other.says)
}

#[test]
fn digests_tell_rows_apart_as_conversion_does() {
    let bodies = [
        r#"{"guid":"a","data":{"msg_id":1,"create_time":1790000000,"content":"好"}}"#,
        r#"{"guid":"b","data":{"content":"\u597d","create_time":"1790000000","msg_id":"1"}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000001,"content":"好"}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"坏"}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"desc":"好"}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"好","desc":""}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"好","new":1}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"好","msg_type":1}}"#,
        r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"好","is_chatroom_msg":1}}"#,
        r#"{"data":{"msg_id":12,"create_time":1790000000,"content":"好"}}"#,
    ];
    let of = |body: &str| {
        let identity = identify(&line(body.as_bytes(), &WECHAT, 0), &Options::default()).unwrap();
        (converted(&WECHAT, &[body.as_bytes()]).batches.remove(0).rows, identity)
    };
    for (a, first) in bodies.map(of).iter() {
        for (b, second) in bodies.map(of).iter() {
            let expected = (first.key == second.key, first.says == second.says);
            assert_eq!(same(Kind::Messages, [a, b]), expected, "{first:?} {second:?}");
        }
    }
}

#[test]
fn a_row_says_the_same_in_a_file_that_lacks_columns_which_are_null() {
    for body in [said(1, "a"), r#"{"data":{"username":"u","nickName":{"string":"n"}}}"#.to_owned()] {
        let batch = converted(&WECHAT, &[body.as_bytes()]).batches.remove(0);
        let filled: Vec<usize> =
            (0..batch.rows.num_columns()).filter(|at| batch.rows.column(*at).is_valid(0)).collect();
        let lacking = batch.rows.project(&filled).unwrap();
        assert_eq!(same(batch.table, [&batch.rows, &lacking]), (true, true));
        let less = batch.rows.project(&filled[..filled.len() - 4]).unwrap();
        assert_eq!(same(batch.table, [&batch.rows, &less]), (true, false), "a value is content, here or not");
    }
}

#[test]
fn of_one_contact_the_last_stays() {
    let told = |name: &str| format!("{{\"data\":{{\"username\":\"u\",\"nickName\":{{\"string\":\"{name}\"}}}}}}");
    let lines = ["old", "older", "new"].map(told);
    let converted = converted(&WECHAT, &lines.each_ref().map(|line| line.as_bytes()));
    assert_eq!((converted.rows(), converted.duplicates), (1, 2));
    assert_eq!(row(&converted)["nick_name"], "new");
}

#[test]
fn a_message_and_a_contact_of_one_name_are_two_rows() {
    let lines = [r#"{"data":{"msg_id":"x","create_time":1790000000}}"#, r#"{"data":{"username":"x"}}"#];
    let converted = converted(&WECHAT, &lines.map(str::as_bytes));
    assert_eq!((converted.rows(), converted.duplicates), (2, 0));
}

#[test]
fn rows_that_an_earlier_batch_held_are_dropped_as_duplicates() {
    let lines = [said(1, "a"), said(2, "b"), said(3, "c")];
    let mut converted = converted(&WECHAT, &lines.each_ref().map(|line| line.as_bytes()));
    assert_eq!(converted.keys(Kind::Messages).collect::<Vec<_>>(), ["1", "2", "3"]);
    converted.keep(Kind::Messages, |id| id == "2").unwrap();
    assert_eq!(converted.keys(Kind::Messages).collect::<Vec<_>>(), ["2"]);
    assert_eq!((converted.rows(), converted.duplicates), (1, 2));
    converted.keep(Kind::Messages, |_| false).unwrap();
    assert!(converted.batches.is_empty() && converted.counts().balance());
}

#[test]
fn the_first_lake_is_accounted_for_to_the_last_event() {
    let events: Vec<_> = Plan::first_lake(1, 1_790_000_000).events().collect();
    let bodies: Vec<&[u8]> = events.iter().map(|event| event.body.as_slice()).collect();
    let converted = converted(&WECHAT, &bodies);
    let (mut messages, mut contacts, mut malformed) = (HashSet::new(), HashSet::new(), 0);
    for event in &events {
        match &event.what {
            What::Message { msg_id, .. } => assert!(messages.insert(msg_id.as_str())),
            What::Repetition { msg_id } => assert!(messages.contains(msg_id.as_str())),
            What::Contact { username } => _ = contacts.insert(username.as_str()),
            What::Malformed => malformed += 1,
        }
    }
    assert_eq!(converted.keys(Kind::Messages).collect::<HashSet<_>>(), messages);
    assert_eq!(converted.keys(Kind::Contacts).collect::<HashSet<_>>(), contacts);
    assert_eq!(converted.rows(), (messages.len() + contacts.len()) as u64);
    assert_eq!(converted.quarantined.len(), malformed);
    let days: HashSet<_> =
        converted.batches.iter().filter(|batch| batch.table == Kind::Messages).map(|batch| batch.partition).collect();
    assert_eq!(days.len(), converted.batches.iter().filter(|batch| batch.table == Kind::Messages).count());
    let reasons: HashSet<Reason> = converted.quarantined.iter().map(|quarantined| quarantined.reason).collect();
    assert!(reasons.is_superset(&HashSet::from([
        Reason::Empty,
        Reason::NotUtf8,
        Reason::NotJson,
        Reason::NoId,
        Reason::BadTime,
        Reason::BadField
    ])));
}

/// JSON that is nearly an event, and bytes that are nothing.
fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|it| it.to_string()),
        any::<i64>().prop_map(|it| it.to_string()),
        any::<f64>().prop_filter("finite", |it| it.is_finite()).prop_map(|it| it.to_string()),
        (1_780_000_000_i64..1_790_000_000).prop_map(|it| it.to_string()),
        ".{0,12}".prop_map(|it| serde_json::Value::from(it).to_string()),
        "[0-3]".prop_map(|it| format!("\"{it}\"")),
        Just(r#""\ud83d""#.to_owned()),
        Just(r#"{"string":"a\u0062"}"#.to_owned()),
        Just("{}".to_owned()),
        Just("[1,{\"a\":\"]\"}]".to_owned()),
    ];
    let name = prop_oneof![
        4 => prop::sample::select(vec![
            "msg_id", "from_username", "chatroom", "msg_type", "create_time", "content", "desc", "source", "username", "userName", "sex",
            "nickName", "mobile", "customInfo", "message_id", "created_at", "event", "body", "header", "payload", "data", "token", "id",
        ]).prop_map(str::to_owned),
        1 => "[a-z\"\\\\é]{0,4}",
    ];
    let fields = prop::collection::vec((name, scalar), 0..8).prop_map(|fields| {
        let fields: Vec<String> =
            fields.into_iter().map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name))).collect();
        format!("{{{}}}", fields.join(","))
    });
    prop_oneof![
        4 => fields.clone().prop_map(String::into_bytes),
        4 => fields.prop_map(|data| format!("{{\"guid\":\"g\",\"data\":{data},\"x\":1}}").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => ".{0,40}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn every_line_is_accounted_for_once(lines in prop::collection::vec(any_line(), 0..40), form in 0..4_usize) {
        let other = other(&[("msg_id", "/msg_id"), ("create_time", "/create_time"), ("content", "/data/content")]);
        let feed = [&WECHAT, &LARK, &CHAT, &other][form];
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let converted = converted(feed, &lines);
        prop_assert_eq!(converted.lines_in, lines.len() as u64);

        let mut ids = HashSet::new();
        for batch in &converted.batches {
            prop_assert_eq!(batch.rows.schema(), lake_rows::schema(batch.table));
            for at in 0..batch.rows.num_rows() {
                let row = values(&batch.rows, at);
                prop_assert!(ids.insert((batch.table, row[lake_rows::key(batch.table)].clone())), "two rows of one id");
                // What is kept as JSON is JSON.
                for column in ["extras", "sns_user_info"] {
                    let json = row.get(column).is_none_or(|json| serde_json::from_str::<serde_json::Value>(json).is_ok());
                    prop_assert!(json || column != "extras", "{column}: {row:?}");
                }
            }
        }
        // Where each line came from is told by its row or by its quarantine, and no line is in both.
        let mut told = HashSet::new();
        for batch in &converted.batches {
            for at in 0..batch.rows.num_rows() {
                prop_assert!(told.insert(values(&batch.rows, at)["raw_line"].parse::<u64>().unwrap()));
            }
        }
        for quarantined in &converted.quarantined {
            prop_assert!(told.insert(quarantined.raw_line));
            prop_assert_eq!(&quarantined.bytes, lines[usize::try_from(quarantined.raw_line).unwrap() - 1]);
        }
        prop_assert_eq!(told.len() as u64 + converted.duplicates, converted.lines_in);
        // A line is identified as what it becomes.
        for (at, bytes) in (0..).zip(&lines) {
            if let Some(identity) = identify(&line(bytes, feed, at), &Options::default()) {
                prop_assert!(ids.contains(&(identity.table, identity.key)));
            }
        }
    }

    #[test]
    fn lines_that_come_again_add_nothing(lines in prop::collection::vec(any_line(), 0..20)) {
        let once: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let twice: Vec<&[u8]> = once.iter().chain(&once).copied().collect();
        let (first, both) = (converted(&WECHAT, &once), converted(&WECHAT, &twice));
        prop_assert_eq!(first.rows(), both.rows());
    }
}
