//! Questions to the lake through a local bundle, by HTTP and by command: what was posted is found, once, whatever is merged meanwhile.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_ipc::reader::StreamReader;
use domain::lake::{BatchId, Counts, Kind, Partition};
use futures_util::stream::{self, StreamExt as _};
use lake::Lake;
use lake_rows::{Level, write_parquet};
use lake_sample::{Event, Plan, What};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, until};
use skylark_tests::description;
use skylark_tests::lake::lake;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const DAY: i64 = 86_400;

/// How many posts are under way at once.
const POSTS: usize = 16;

/// Three days ago, so that nothing is from the future.
fn midnight() -> i64 {
    (lambda_kit::clock::now().unix_timestamp() / DAY - 3) * DAY
}

fn skylark(bundle: &Bundle, arguments: &[&str]) -> String {
    let (code, out, err) = bundle.skylark(arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

async fn post_all(bundle: &Bundle, events: &[Event]) {
    let (client, url) = (Client::new(), format!("{}/webhook/wechat", bundle.setting("/http")));
    let posts = events.iter().map(|event| async {
        let request = client.post(&url).header("x-webhook-key", bundle.setting("/webhook_key"));
        assert_eq!(request.body(event.body.clone()).send().await.unwrap().status(), 200);
    });
    stream::iter(posts).buffer_unordered(POSTS).collect::<Vec<_>>().await;
}

/// What a message says, and when: the events as the table has them, in its order.
fn said(events: &[Event]) -> BTreeMap<(i64, String), Value> {
    let messages = events.iter().filter_map(|event| match &event.what {
        What::Message { msg_id, .. } => {
            let event: Value = serde_json::from_slice(&event.body).unwrap();
            Some(((event["data"]["create_time"].as_i64().unwrap(), msg_id.clone()), event["data"].clone()))
        }
        _ => None,
    });
    messages.collect()
}

/// Waits until every event is a row, a repetition or kept aside.
async fn settles(lake: &Lake, events: &[Event]) {
    let (messages, mut usernames, mut malformed) = (said(events).len() as u64, BTreeSet::new(), 0);
    for event in events {
        match &event.what {
            What::Contact { username } => drop(usernames.insert(username.as_str())),
            What::Malformed => malformed += 1,
            _ => {}
        }
    }
    until("every event to be readable", || async {
        let rows = async |kind| lake.stats(kind).await.unwrap().rows;
        let aside = lake.list_objects("quarantine/v1/").await.unwrap().len();
        let contacts = rows(Kind::Contacts).await >= usernames.len() as u64;
        (rows(Kind::Messages).await == messages && contacts && aside == malformed).then_some(())
    })
    .await;
}

/// A client of the API with a token.
struct Asker {
    http: Client,
    base: String,
    token: String,
}

impl Asker {
    async fn with_scope(bundle: &Bundle, scope: &str) -> Self {
        let added = skylark(
            bundle,
            &["client", "add", "--json", "--name", "a", "--user-id", scope_user(scope), "--scope", scope],
        );
        let client: Value = serde_json::from_str(&added).unwrap();
        let (http, base) = (Client::new(), bundle.setting("/http").to_owned());
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client["client_id"].as_str().unwrap()),
            ("client_secret", client["client_secret"].as_str().unwrap()),
        ];
        let answer: Value =
            http.post(format!("{base}/auth/token")).form(&form).send().await.unwrap().json().await.unwrap();
        Self { http, base, token: answer["access_token"].as_str().unwrap().to_owned() }
    }

    async fn raw(&self, path: &str) -> (u16, HeaderMap, Vec<u8>) {
        let answer = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        assert!(headers.contains_key("x-request-id"), "{path}");
        (status, headers, answer.bytes().await.unwrap().to_vec())
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        assert!(answer.headers().contains_key("x-request-id"), "{path}");
        let answer: Value = answer.json().await.unwrap();
        description::check(method.as_str(), path, status, &answer);
        (status, answer)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None).await
    }

    /// The rows of a page, and where the next begins.
    async fn page(&self, query: &str) -> (Vec<Value>, Option<String>) {
        let (status, page) = self.get(&format!("/v1/lake/messages?{query}")).await;
        assert_eq!(status, 200, "{page}");
        (page["messages"].as_array().unwrap().clone(), page["next_cursor"].as_str().map(str::to_owned))
    }

    /// Every row, page by page; between the pages something may happen.
    async fn pages(&self, query: &str, mut between: impl AsyncFnMut(usize)) -> Vec<Value> {
        let (mut rows, mut next, mut pages) = (Vec::new(), None, 0);
        loop {
            let cursor = next.map(|next| format!("&cursor={next}")).unwrap_or_default();
            let (page, cursor) = self.page(&format!("{query}{cursor}")).await;
            assert!(!page.is_empty() || cursor.is_none());
            rows.extend(page);
            pages += 1;
            let Some(cursor) = cursor else { return rows };
            next = Some(cursor);
            between(pages).await;
        }
    }
}

/// Users are limited in how often they get a token: each has one of their own.
fn scope_user(scope: &str) -> &str {
    scope.split(':').next().unwrap()
}

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["msg_id"].as_str().unwrap()).collect()
}

fn rfc3339(secs: i64) -> String {
    OffsetDateTime::from_unix_timestamp(secs).unwrap().format(&Rfc3339).unwrap()
}

/// The records of a CSV (RFC 4180), with nothing where nothing is.
fn records(text: &str) -> Vec<Vec<Option<String>>> {
    let (mut records, mut record, mut value, mut quoted) = (Vec::new(), Vec::new(), None::<String>, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => value.as_mut().unwrap().push(chars.next().unwrap()),
            '"' => {
                quoted = !quoted;
                value.get_or_insert_default();
            }
            ',' if !quoted => record.push(value.take()),
            '\r' if !quoted => {
                assert_eq!(chars.next(), Some('\n'));
                record.push(value.take());
                records.push(std::mem::take(&mut record));
            }
            c => value.get_or_insert_default().push(c),
        }
    }
    assert!(!quoted && record.is_empty() && value.is_none(), "the last record ends as the others do");
    records
}

/// The rows of a day's file once more, as a writer leaves them that knows nothing of claims; returns how many.
async fn repeat_a_file(lake: &Lake, day: Partition) -> u64 {
    let file = lake.files(Kind::Messages, move |of| of == day).await.unwrap().remove(0);
    let bytes = lake.read_file(Kind::Messages, &file.path).await.unwrap();
    let batches: Vec<RecordBatch> =
        ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap().map(Result::unwrap).collect();
    let written = write_parquet(Kind::Messages, &batches[0], Level::L0).unwrap();
    let batch = BatchId::new(lambda_kit::clock::now(), &"7".repeat(64)).unwrap();
    let again = lake.write_batch_file(Kind::Messages, day, &batch, &written).await.unwrap();
    let counts = Counts { lines_in: written.rows, rows: written.rows, duplicates: 0, quarantined: 0 };
    lake.append(Kind::Messages, &[again], &batch, counts).await.unwrap();
    written.rows
}

#[tokio::test]
async fn what_was_posted_is_found_by_http_and_by_command() {
    let from = midnight();
    let plan = Plan { seed: 31, events: 500, from, spread_secs: 2 * DAY, mixed: true };
    let events: Vec<Event> = plan.events().collect();
    let bundle = Bundle::start();
    let lake = lake(&bundle);
    // In two goes, so that there are files to merge.
    let (first, _) = events.split_at(250);
    post_all(&bundle, first).await;
    settles(&lake, first).await;
    post_all(&bundle, &events[250..]).await;
    settles(&lake, &events).await;
    let expected = said(&events);
    let order: Vec<&str> = expected.keys().map(|(_, id)| id.as_str()).collect();
    let asker = Asker::with_scope(&bundle, "lake:read").await;

    // What the tables hold.
    let (status, stats) = asker.get("/v1/lake/stats").await;
    let told: Value = serde_json::from_str(&skylark(&bundle, &["lake", "status", "--json"])).unwrap();
    for field in ["messages", "contacts", "quarantined"] {
        assert_eq!((status, &stats[field]), (200, &told[field]), "{field}");
    }
    let (_, partitions) = asker.get("/v1/lake/partitions").await;
    assert_eq!(
        (&partitions["messages"], &partitions["contacts"]),
        (&told["messages"]["days"], &told["contacts"]["days"])
    );

    // All of them, in order, and one by one.
    let rows = asker.pages("limit=97", async |_| ()).await;
    assert_eq!(ids(&rows), order);
    let ((at, id), message) = expected.iter().nth(123).unwrap();
    let (status, found) = asker.get(&format!("/v1/lake/messages/{id}")).await;
    assert_eq!((status, &found["message"]), (200, &rows[123]));
    assert_eq!((&rows[123]["content"], &rows[123]["create_time"]), (&message["content"], &json!(rfc3339(*at))));
    assert_eq!(serde_json::from_str::<Value>(&skylark(&bundle, &["lake", "get", id])).unwrap(), rows[123]);
    let (status, missing) = asker.get("/v1/lake/messages/nobody-said-this").await;
    assert_eq!((status, &missing["error"]), (404, &json!("message_not_found")));

    // By filter.
    let day = rfc3339(from + DAY);
    let of_the_second_day: Vec<&str> =
        expected.keys().filter(|(at, _)| *at >= from + DAY).map(|(_, id)| id.as_str()).collect();
    let (start, end) = (&day[..10], &rfc3339(from + 2 * DAY)[..10]);
    let (page, _) = asker.page(&format!("start={start}&end={end}&limit=10000")).await;
    assert_eq!(ids(&page), of_the_second_day);
    let (chatroom, sender) = (message["chatroom"].as_str().unwrap(), message["chatroom_sender"].as_str().unwrap());
    for (name, value) in [("chatroom", chatroom), ("chatroom_sender", sender), ("msg_type", "49"), ("source", "wechat")]
    {
        let agrees = |said: &Value| match name {
            "msg_type" => said[name] == 49,
            "source" => true,
            _ => said[name] == value,
        };
        let wanted: Vec<&str> =
            expected.iter().filter(|(_, said)| agrees(said)).map(|((_, id), _)| id.as_str()).collect();
        let (page, _) = asker.page(&format!("{name}={value}&limit=10000")).await;
        assert_eq!(ids(&page), wanted, "{name}={value}");
        assert!(!wanted.is_empty(), "{name}={value}");
    }

    // By the values of a column, the most frequent first.
    let mut types = BTreeMap::<String, u64>::new();
    for said in expected.values() {
        *types.entry(said["msg_type"].to_string()).or_default() += 1;
    }
    let printed = skylark(&bundle, &["lake", "count", "--by", "msg_type", "--json"]);
    let counted: Vec<Value> = serde_json::from_str(&printed).unwrap();
    let of = |one: &Value| (one["value"].as_str().unwrap().to_owned(), one["messages"].as_u64().unwrap());
    assert_eq!(counted.iter().map(of).collect::<BTreeMap<_, _>>(), types);
    assert!(counted.is_sorted_by(|a, b| a["messages"].as_u64() >= b["messages"].as_u64()), "{printed}");

    formats_agree(&bundle, &asker, &rows).await;
    contacts_are_found(&bundle, &asker, &events).await;
    bad_questions_are_refused(&bundle, &asker).await;
}

/// The same rows as CSV, as Arrow, and from the command line.
async fn formats_agree(bundle: &Bundle, asker: &Asker, rows: &[Value]) {
    let query = "/v1/lake/messages?limit=60&columns=msg_id,create_time,content,chatroom,msg_type,extras";
    let (status, headers, csv) = asker.raw(&format!("{query}&format=csv")).await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "text/csv; charset=utf-8; header=present"));
    let records = records(std::str::from_utf8(&csv).unwrap());
    assert_eq!(
        records[0].iter().flatten().collect::<Vec<_>>(),
        ["msg_id", "create_time", "content", "chatroom", "msg_type", "extras"]
    );
    assert_eq!(records.len(), 61);
    for (record, row) in records[1..].iter().zip(rows) {
        let texts = [&row["msg_id"], &row["create_time"], &row["content"], &row["chatroom"]];
        assert_eq!(record[..4], texts.map(|text| text.as_str().map(str::to_owned)));
        assert_eq!(record[4].as_deref(), Some(row["msg_type"].to_string().as_str()));
    }
    let cursor = headers["x-next-cursor"].to_str().unwrap();
    let (next, _) = asker.page(&format!("limit=1&cursor={cursor}")).await;
    assert_eq!(next[0], rows[60]);

    let (status, headers, arrow) = asker.raw(&format!("{query}&format=arrow")).await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "application/vnd.apache.arrow.stream"));
    assert_eq!(headers["x-next-cursor"], cursor);
    let batches: Vec<RecordBatch> =
        StreamReader::try_new(arrow.as_slice(), None).unwrap().map(Result::unwrap).collect();
    let batch = &batches[0];
    let (msg_id, content) = (batch.column(0).as_string::<i32>(), batch.column(2).as_string::<i32>());
    let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    assert_eq!((batches.len(), batch.num_rows()), (1, 60));
    for (at, row) in rows.iter().take(60).enumerate() {
        assert_eq!(
            (json!(msg_id.value(at)), json!(content.value(at))),
            (row["msg_id"].clone(), row["content"].clone())
        );
        assert_eq!(json!(rfc3339(times.value(at) / 1_000_000)), row["create_time"]);
    }

    let printed = skylark(bundle, &["lake", "query", "--all", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&printed).unwrap(), rows);
    let file = bundle.folder().join("messages.csv");
    let columns = "msg_id,create_time,content,chatroom,msg_type,extras";
    let arguments = ["--columns", columns, "--limit", "60", "--format", "csv", "--output", file.to_str().unwrap()];
    assert_eq!(skylark(bundle, &[&["lake", "query"], &arguments[..]].concat()), "");
    assert_eq!(std::fs::read(file).unwrap(), csv);
    let (code, table, told) = bundle.skylark(&["lake", "query", "--limit", "3"]);
    assert_eq!((code, table.lines().count()), (0, 4), "{table}");
    assert!(table.contains(rows[2]["msg_id"].as_str().unwrap()) && told.contains("--all"), "{table}{told}");
}

async fn contacts_are_found(bundle: &Bundle, asker: &Asker, events: &[Event]) {
    let told = events.iter().rev().find_map(|event| match &event.what {
        What::Contact { username } => Some((username, serde_json::from_slice::<Value>(&event.body).unwrap())),
        _ => None,
    });
    let (username, event) = told.unwrap();
    let (status, found) = asker.get(&format!("/v1/lake/contacts/{username}")).await;
    assert_eq!((status, &found["contact"]["username"]), (200, &json!(username)), "{event}");
    assert!(found["contact"]["extras"].is_object() || found["contact"]["extras"].is_null(), "{found}");
    let printed = skylark(bundle, &["lake", "contact", username]);
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), found["contact"]);
    let (status, missing) = asker.get("/v1/lake/contacts/nobody").await;
    assert_eq!((status, &missing["error"]), (404, &json!("contact_not_found")));
    for missing in [["lake", "get", "nobody-said-this"], ["lake", "contact", "nobody"]] {
        let (code, _, err) = bundle.skylark(&missing);
        assert_eq!(code, 1);
        assert!(err.contains(missing[2]), "{err}");
    }
}

async fn bad_questions_are_refused(bundle: &Bundle, asker: &Asker) {
    let (status, refused) =
        asker.get("/v1/lake/messages?start=today&columns=colour&limit=0&format=xml&strange=1").await;
    let named: BTreeSet<&str> = refused["details"]["fields"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((status, named), (400, ["start", "columns", "limit", "format"].into()), "{refused}");
    let (status, refused) = asker.ask(Method::POST, "/v1/lake/validate", Some(json!({ "partition": "today" }))).await;
    assert_eq!((status, refused["details"]["fields"]["partition"].is_string()), (400, true));
    let (code, _, err) = bundle.skylark(&["lake", "query", "--columns", "colour"]);
    assert_eq!(code, 1);
    assert!(err.contains("colour"), "{err}");

    let other = Asker::with_scope(bundle, "chat").await;
    assert_eq!(other.get("/v1/lake/stats").await.0, 403);
    let nobody = Asker { token: "no-token".to_owned(), ..other };
    assert_eq!(nobody.get("/v1/lake/stats").await.0, 401);
}

#[tokio::test]
async fn pages_go_on_across_a_merge_and_what_is_broken_or_doubled_is_told() {
    let from = midnight();
    let plan = Plan { seed: 37, events: 240, from, spread_secs: DAY, mixed: false };
    let events: Vec<Event> = plan.events().collect();
    let bundle = Bundle::start();
    let lake = lake(&bundle);
    for end in [80, 160, 240] {
        post_all(&bundle, &events[end - 80..end]).await;
        settles(&lake, &events[..end]).await;
    }
    let expected = said(&events);
    let order: Vec<&str> = expected.keys().map(|(_, id)| id.as_str()).collect();
    let asker = Asker::with_scope(&bundle, "lake:read").await;
    let day: Partition = Partition::of_unix(from).unwrap();
    let post = async |path: &str, body: Value| {
        let (status, answer) = asker.ask(Method::POST, &format!("/v1/lake/{path}"), Some(body)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };

    // Rows that are there twice are told of, and shown once.
    assert_eq!(post("duplicates", json!({})).await["total"], 0);
    let doubled = repeat_a_file(&lake, day).await;
    let found = post("duplicates", json!({ "start": day.to_string(), "end": day.to_string() })).await;
    assert_eq!((&found["total"], &found["days"][0]["rows"]), (&json!(doubled), &json!(240 + doubled)));
    let told: Value = serde_json::from_str(&skylark(&bundle, &["lake", "duplicates", "--json"])).unwrap();
    assert_eq!(told, found);

    // The files of the pages before are gone when the later ones are read.
    let rows = asker
        .pages("limit=35", async |pages| {
            if pages == 3 {
                skylark(&bundle, &["lake", "compact"]);
                until("the day's files to be one", || async {
                    (lake.stats(Kind::Messages).await.unwrap().files == 1).then_some(())
                })
                .await;
            }
        })
        .await;
    assert_eq!(ids(&rows), order, "no message is missing, and none is there twice");
    assert_eq!(lake.stats(Kind::Messages).await.unwrap().files, 1, "the pages were read before and after the merge");
    assert_eq!(post("duplicates", json!({})).await["total"], 0);

    // A file that was cut short is found.
    let sound = post("validate", json!({ "partition": "all" })).await;
    assert_eq!((&sound["valid"], &sound["messages"]["rows"]), (&json!(true), &json!(240)));
    assert!(skylark(&bundle, &["lake", "validate", &day.to_string()]).contains("240 rows, sound"));
    let file = lake.files(Kind::Messages, |_| true).await.unwrap().remove(0);
    let dumped: Vec<Value> = serde_json::from_str(&skylark(&bundle, &["lake", "dump", &file.path])).unwrap();
    assert_eq!(ids(&dumped).into_iter().collect::<BTreeSet<_>>(), order.iter().copied().collect(), "as they lie there");
    let key = lake.file_key(Kind::Messages, &file.path).await.unwrap();
    let bytes = lake.read_object(&key).await.unwrap().unwrap();
    lake.write_object(&key, bytes.slice(..bytes.len() / 2)).await.unwrap();
    let broken = post("validate", json!({ "partition": day.to_string() })).await;
    assert_eq!(
        (&broken["valid"], &broken["messages"]["partitions"][0]["problems"][0]["file"]),
        (&json!(false), &json!(file.path))
    );
    let (code, out, _) = bundle.skylark(&["lake", "validate", "--all"]);
    assert_eq!(code, 1);
    assert!(out.contains(&file.path), "{out}");
    let (code, _, err) = bundle.skylark(&["lake", "dump", &file.path]);
    assert_eq!(code, 1);
    assert!(err.contains(&file.path), "{err}");
}

/// Texts that JSON and CSV write twice as long, and Lambda's envelope again.
#[tokio::test]
async fn whatever_rows_hold_an_answer_is_one_that_lambda_takes() {
    let from = midnight();
    let message = |n: i64| {
        let data = json!({
            "msg_id": format!("long-{n}"), "msg_type": 1, "create_time": from + n, "content": "\"".repeat(430_000),
        });
        let what = What::Message { msg_id: format!("long-{n}"), integer_source: false, large: true };
        Event { body: json!({ "data": data }).to_string().into_bytes(), what }
    };
    let events: Vec<Event> = (0..6).map(message).collect();
    let bundle = Bundle::start();
    post_all(&bundle, &events).await;
    settles(&lake(&bundle), &events).await;
    let expected: Vec<String> = (0..6).map(|n| format!("long-{n}")).collect();
    let asker = Asker::with_scope(&bundle, "lake:read").await;
    assert_eq!(ids(&asker.pages("limit=10000", async |_| ()).await), expected);
    for format in ["csv", "arrow"] {
        let (mut rows, mut cursor) = (0, String::new());
        loop {
            let path = format!("/v1/lake/messages?limit=10000&columns=msg_id,content&format={format}{cursor}");
            let (status, headers, body) = asker.raw(&path).await;
            assert_eq!(status, 200, "{format}");
            rows += match format {
                "csv" => records(std::str::from_utf8(&body).unwrap()).len() - 1,
                _ => StreamReader::try_new(body.as_slice(), None).unwrap().map(|batch| batch.unwrap().num_rows()).sum(),
            };
            let Some(next) = headers.get("x-next-cursor") else { break };
            cursor = format!("&cursor={}", next.to_str().unwrap());
        }
        assert_eq!(rows, 6, "{format}");
    }
}
