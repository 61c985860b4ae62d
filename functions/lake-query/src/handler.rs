//! `/v1/lake/...`: pages of messages, one message, one contact, what the tables hold, and whether their files are sound.

use std::sync::Arc;

use domain::access::{AccessFault, Caller, Scope};
use domain::fault::{Fault, Refusal, Remedy};
use domain::lake::quarantine::QUARANTINE_PREFIX;
use domain::lake::query::{MAX_PAGE_ROWS, PAGE_ROWS, instant};
use domain::lake::{Kind, Partition};
use domain::limit::LimitFault;
use lake::{Lake, LakeFault};
use lake_formats::{FormatFault, Rows};
use lake_reader::{Filter, Found, Query, ReadFault, Reader};
use lambda_kit::http::{self, BadRequest, Fields, Gate, Request, RequestExt as _, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// No request is larger: two days.
const MAX_BODY: usize = 64 * 1024;

/// Where the next page begins, if the body is not JSON.
const NEXT_CURSOR: header::HeaderName = header::HeaderName::from_static("x-next-cursor");

/// What requests are answered with.
pub(crate) struct Desk {
    pub(crate) reader: Reader,
    pub(crate) lake: Arc<Lake>,
    /// Where the catalog has the tables, by their names.
    pub(crate) athena_database: String,
}

/// What a page is written as.
#[derive(Debug, Clone, Copy)]
enum Format {
    Json,
    Csv,
    Arrow,
}

pub(crate) async fn answer(
    gate: &Gate,
    desk: &Desk,
    request: Request,
    now: OffsetDateTime,
) -> Result<Response, Stopped> {
    // What is no GET changes nothing here, and counts because it reads whole files.
    let caller = gate.enter::<Stopped>(&request, Scope::LakeRead, "lake", now).await?;
    let path = request.raw_http_path().to_owned();
    let answered = desk.route(&request, path.strip_prefix("/v1/lake/").unwrap_or_default()).await;
    audit(&caller, &request, &path, &answered);
    answered
}

/// Who asked for what. The query is left out: it may hold names.
fn audit(caller: &Caller, request: &Request, path: &str, answered: &Result<Response, Stopped>) {
    let status = answered.as_ref().map_or_else(|stopped| http::status(stopped), Response::status).as_u16();
    let (client, user, method) = (&caller.client_id, &caller.user_id, request.method());
    tracing::info!(
        client.id = %client,
        user.id = %user,
        http.method = %method,
        http.path = path,
        http.status = status,
        "Audit: `{client}` {method} {path}: {status}"
    );
}

impl Desk {
    async fn route(&self, request: &Request, path: &str) -> Result<Response, Stopped> {
        let answered = match (request.method().as_str(), path.split_once('/').unwrap_or((path, ""))) {
            ("GET", ("messages", "")) => self.messages(request).await,
            ("GET", ("messages", msg_id)) => self.message(msg_id).await,
            ("GET", ("contacts", username)) if !username.is_empty() => self.contact(username).await,
            ("GET", ("partitions", "")) => self.partitions().await,
            ("GET", ("stats", "")) => self.stats().await,
            ("POST", ("validate", "")) => self.validate(request).await,
            ("POST", ("duplicates", "")) => self.duplicates(request).await,
            _ => Err(Stopped::NoRoute),
        };
        match answered {
            Ok(response) if http::weight(&response) > http::MAX_ANSWER => Err(Stopped::AnswerTooLarge),
            Err(Stopped::Read(table, fault @ ReadFault::TooLarge { bytes, limit })) => {
                Ok(self.elsewhere(table, &fault, bytes, limit))
            }
            answered => answered,
        }
    }

    /// As many rows as are asked for and as Lambda takes: a cursor says where the next begin.
    async fn messages(&self, request: &Request) -> Result<Response, Stopped> {
        let (mut query, format) = read_query(Fields::of_query(request))?;
        loop {
            let found = self.reader.messages(&query).await.map_err(of(Kind::Messages))?;
            let (response, rows) = (page(&found, format)?, found.rows.num_rows());
            let weight = http::weight(&response);
            if weight <= http::MAX_ANSWER || rows <= 1 {
                return Ok(response);
            }
            // Values that JSON writes longer than they are: so many are sure to be fewer.
            query.limit = (rows * http::MAX_ANSWER / weight).clamp(1, rows - 1);
        }
    }

    async fn message(&self, msg_id: &str) -> Result<Response, Stopped> {
        let found = self.reader.message(msg_id).await.map_err(of(Kind::Messages))?.ok_or(Stopped::NoMessage)?;
        let row = Rows::of(&found)?;
        Ok(http::json(StatusCode::OK, &json!({ "message": row.iter().next() })))
    }

    async fn contact(&self, username: &str) -> Result<Response, Stopped> {
        let found = self.reader.contact(username).await.map_err(of(Kind::Contacts))?.ok_or(Stopped::NoContact)?;
        let row = Rows::of(&found)?;
        Ok(http::json(StatusCode::OK, &json!({ "contact": row.iter().next() })))
    }

    async fn partitions(&self) -> Result<Response, Stopped> {
        let (messages, contacts) = (self.lake.stats(Kind::Messages).await?, self.lake.stats(Kind::Contacts).await?);
        Ok(http::json(StatusCode::OK, &json!({ "messages": messages.days, "contacts": contacts.days })))
    }

    async fn stats(&self) -> Result<Response, Stopped> {
        let (messages, contacts) = (self.lake.stats(Kind::Messages).await?, self.lake.stats(Kind::Contacts).await?);
        let quarantined = self.lake.list_objects(QUARANTINE_PREFIX).await?.len();
        let version = messages.version;
        let answer =
            json!({ "messages": messages, "contacts": contacts, "quarantined": quarantined, "version": version });
        Ok(http::json(StatusCode::OK, &answer))
    }

    async fn validate(&self, request: &Request) -> Result<Response, Stopped> {
        let partition = read_partition(Fields::of_body(request, MAX_BODY)?)?;
        let of_table = async |kind| self.reader.validate(kind, partition).await.map_err(of(kind));
        let (messages, contacts) = (of_table(Kind::Messages).await?, of_table(Kind::Contacts).await?);
        let valid = messages.total == 0 && contacts.total == 0;
        Ok(http::json(StatusCode::OK, &json!({ "valid": valid, "messages": messages, "contacts": contacts })))
    }

    async fn duplicates(&self, request: &Request) -> Result<Response, Stopped> {
        let (start, end) = read_days(Fields::of_body(request, MAX_BODY)?)?;
        let found = self.reader.duplicates(start, end).await.map_err(of(Kind::Messages))?;
        Ok(http::json(StatusCode::OK, &found))
    }

    /// The answer to a question for which this function is too small.
    fn elsewhere(&self, table: Kind, fault: &ReadFault, bytes: u64, limit: u64) -> Response {
        let database = &self.athena_database;
        let message = format!("{fault}; narrow the question, or ask the table `{database}.{table}` in Athena");
        let details =
            json!({ "bytes": bytes, "limit": limit, "athena_database": database, "athena_table": table.as_str() });
        http::refuse(fault, &json!({ "error": fault.code(), "message": message, "details": details }))
    }
}

#[derive(Serialize)]
struct Page<'r> {
    messages: &'r Rows<'r>,
    next_cursor: Option<String>,
    version: u64,
}

fn page(found: &Found, format: Format) -> Result<Response, Stopped> {
    let next_cursor = found.next.as_ref().map(ToString::to_string);
    let (rows, ok) = (Rows::of(&found.rows)?, StatusCode::OK);
    let mut response = match format {
        Format::Json => {
            return Ok(http::json(ok, &Page { messages: &rows, next_cursor, version: found.version }));
        }
        Format::Csv => http::typed(ok, "text/csv; charset=utf-8; header=present", rows.csv_header() + &rows.csv()),
        Format::Arrow => http::typed(ok, "application/vnd.apache.arrow.stream", lake_formats::arrow(&found.rows)?),
    };
    if let Some(cursor) = next_cursor.and_then(|cursor| cursor.parse().ok()) {
        response.headers_mut().insert(NEXT_CURSOR, cursor);
    }
    Ok(response)
}

fn read_query(mut fields: Fields) -> Result<(Query, Format), BadRequest> {
    let mut time =
        |name| fields.take(name, "a time (RFC 3339) or a day (2026-11-05)", |value| instant(value.as_str()?));
    let (start, end) = (time("start"), time("end"));
    if start.zip(end).is_some_and(|(start, end)| start >= end) {
        fields.refuse("end", "must be later than `start`");
    }
    let mut text = |name| fields.text(name);
    let (chatroom, from_username) = (text("chatroom"), text("from_username"));
    let (chatroom_sender, source) = (text("chatroom_sender"), text("source"));
    let msg_type = fields.take("msg_type", "a whole number", |value| value.as_str()?.parse().ok());
    let columns = fields.take("columns", "names of columns of messages, each once, with commas between", |value| {
        lake_rows::chosen(Kind::Messages, value.as_str()?)
    });
    let limit = fields.number("limit", 1..=MAX_PAGE_ROWS as u64);
    let after = fields.take("cursor", "the cursor of an earlier page, unchanged", |value| value.as_str()?.parse().ok());
    let format = fields.take("format", "`json`, `csv` or `arrow`", |value| match value.as_str()? {
        "json" => Some(Format::Json),
        "csv" => Some(Format::Csv),
        "arrow" => Some(Format::Arrow),
        _ => None,
    });
    fields.done()?;
    let filter = Filter { start, end, chatroom, from_username, chatroom_sender, msg_type, source };
    let limit = limit.map_or(PAGE_ROWS, |limit| limit as usize);
    Ok((Query { filter, columns: columns.unwrap_or_default(), limit, after }, format.unwrap_or(Format::Json)))
}

/// A day; nothing if all of them are meant.
fn read_partition(mut fields: Fields) -> Result<Option<Partition>, BadRequest> {
    let partition = fields.need("partition", "a day (2026-11-05) or `all`", |value| match value.as_str()? {
        "all" => Some(None),
        day => day.parse().ok().map(Some),
    });
    fields.done()?;
    Ok(partition.flatten())
}

fn read_days(mut fields: Fields) -> Result<(Option<Partition>, Option<Partition>), BadRequest> {
    let mut day =
        |name| fields.take(name, "a day (2026-11-05)", |value: &Value| value.as_str()?.parse::<Partition>().ok());
    let (start, end) = (day("start"), day("end"));
    if start.zip(end).is_some_and(|(start, end)| start > end) {
        fields.refuse("end", "must not be before `start`");
    }
    fields.done()?;
    Ok((start, end))
}

fn of(table: Kind) -> impl Fn(ReadFault) -> Stopped {
    move |fault| Stopped::Read(table, fault)
}

/// Why a request is not answered as it hoped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    #[error("there is nothing here")]
    NoRoute,
    #[error("there is no such message")]
    NoMessage,
    #[error("there is no such contact")]
    NoContact,
    #[error("the answer is larger than {} bytes; ask for less", http::MAX_ANSWER)]
    AnswerTooLarge,
    #[error(transparent)]
    Access(#[from] AccessFault),
    #[error(transparent)]
    Limit(#[from] LimitFault),
    #[error(transparent)]
    Request(#[from] BadRequest),
    #[error("the table `{0}` cannot be read")]
    Read(Kind, #[source] ReadFault),
    #[error("the lake cannot be looked at")]
    Lake(#[from] LakeFault),
    #[error("the rows cannot be written")]
    Format(#[from] FormatFault),
}

impl Stopped {
    fn cause(&self) -> Option<&dyn Fault> {
        match self {
            Self::NoRoute | Self::NoMessage | Self::NoContact | Self::AnswerTooLarge => None,
            Self::Access(fault) => Some(fault),
            Self::Limit(fault) => Some(fault),
            Self::Request(fault) => Some(fault),
            Self::Read(_, fault) => Some(fault),
            Self::Lake(fault) => Some(fault),
            Self::Format(fault) => Some(fault),
        }
    }
}

impl Fault for Stopped {
    fn remedy(&self) -> Remedy {
        match self {
            Self::AnswerTooLarge => Remedy::Reject(Refusal::Unprocessable),
            _ => self.cause().map_or(Remedy::Reject(Refusal::Unknown), Fault::remedy),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoMessage => "message_not_found",
            Self::NoContact => "contact_not_found",
            Self::AnswerTooLarge => "answer_too_large",
            _ => self.cause().map_or("not_found", Fault::code),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        self.cause().map(Fault::fields).unwrap_or_default()
    }

    fn challenge(&self) -> Option<String> {
        self.cause().and_then(Fault::challenge)
    }

    fn public_message(&self) -> String {
        self.cause().map_or_else(|| self.to_string(), Fault::public_message)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow_ipc::reader::StreamReader;
    use domain::access::AccessTokenVerifier;
    use domain::id::{ClientId, FamilyId, TenantId};
    use domain::lake::Intake;
    use domain::lake::source::{SourceDirectory, SourceName};
    use lake::Settings;
    use lake::append::Appender;
    use lambda_kit::http::Method;
    use tempfile::TempDir;
    use testkit::sample::{NOW, user_id};
    use testkit::{MemoryGate, MemoryIntakes, MemoryLimiter, MemorySources};
    use time::Duration;

    use super::*;

    /// Knows who may read the lake, and who may not.
    struct Door;

    #[async_trait::async_trait]
    impl AccessTokenVerifier for Door {
        async fn verify(&self, token: &str, _: OffsetDateTime) -> Result<Caller, AccessFault> {
            let scope = match token {
                "reader" => Scope::LakeRead,
                "writer" => Scope::LakeWrite,
                _ => return Err(AccessFault::Invalid),
            };
            Ok(Caller {
                client_id: ClientId::parse("client").unwrap(),
                user_id: user_id(token),
                tenant_id: TenantId::parse("acme").unwrap(),
                scopes: [scope].into(),
                session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
                expires_at: NOW,
                rate: None,
            })
        }
    }

    struct World {
        gate: Gate,
        desk: Desk,
        appender: Appender,
        _folder: TempDir,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let lake = Arc::new(Lake::open(&Settings::folder(folder.path())).unwrap());
        let sources = SourceDirectory::new(Arc::<MemorySources>::default());
        let (batches, merges) = (Arc::<MemoryGate>::default(), Arc::<MemoryIntakes>::default());
        World {
            gate: Gate::new(Arc::new(Door), Arc::<MemoryLimiter>::default()),
            appender: Appender::new(lake.clone(), batches, sources, merges),
            desk: Desk { reader: Reader::new(lake.clone()), lake, athena_database: "skylark_eu".to_owned() },
            _folder: folder,
        }
    }

    fn message(n: i64, change: Value) -> Value {
        let mut data = json!({
            "msg_id": format!("m-{n}"), "msg_type": 1, "create_time": NOW.unix_timestamp() + n, "chatroom": "", "content": "早 ☀️, \"n\"",
        });
        for (name, value) in change.as_object().unwrap() {
            data[name] = value.clone();
        }
        data
    }

    impl World {
        async fn append(&self, events: &[Value]) {
            let intake = |(n, data): (usize, &Value)| Intake {
                source: SourceName::parse("wechat").unwrap(),
                request_id: format!("{n}-{}", data["msg_id"].as_str().or(data["username"].as_str()).unwrap()),
                received_at: NOW + Duration::seconds(n as i64),
                content_type: None,
                content_encoding: None,
                body: json!({ "data": data }).to_string().into_bytes(),
            };
            let counts = self.appender.append(events.iter().enumerate().map(intake).collect(), NOW).await.unwrap();
            assert_eq!(counts.rows, events.len() as u64);
        }

        async fn response(&self, token: &str, method: Method, path: &str, body: &str) -> Result<Response, Stopped> {
            let uri = format!("https://api.example{path}").parse().unwrap();
            let raw = path.split('?').next().unwrap();
            let mut request = Request::new(body.to_owned().into()).with_raw_http_path(raw);
            (*request.method_mut(), *request.uri_mut()) = (method, uri);
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            answer(&self.gate, &self.desk, request, NOW).await
        }

        async fn ask(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
            match self.response("reader", method, path, body).await {
                Ok(response) => (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap()),
                Err(stopped) => {
                    let fields: serde_json::Map<_, _> =
                        stopped.fields().into_iter().map(|(name, why)| (name.to_owned(), why.into())).collect();
                    (http::status(&stopped).as_u16(), json!({ "error": stopped.code(), "fields": fields }))
                }
            }
        }

        async fn get(&self, path: &str) -> (u16, Value) {
            self.ask(Method::GET, path, "").await
        }
    }

    fn ids(page: &Value) -> Vec<&str> {
        page["messages"].as_array().unwrap().iter().map(|row| row["msg_id"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_page_has_the_same_rows_and_cursor_in_every_format() {
        let world = world();
        world.append(&(0..5).map(|n| message(n, json!({ "mood": { "n": n } }))).collect::<Vec<_>>()).await;
        let path = "/v1/lake/messages?limit=3&columns=content,%20msg_id,extras,create_time&strange=1&start=2000-01-01";
        let (status, json) = world.get(path).await;
        assert_eq!((status, ids(&json)), (200, vec!["m-0", "m-1", "m-2"]));
        assert_eq!(json["messages"][1]["extras"]["mood"], json!({ "n": 1 }));
        assert_eq!(json["messages"][1].as_object().unwrap().len(), 4);
        assert!(json["version"].as_u64() > Some(0));
        let cursor = json["next_cursor"].as_str().unwrap();

        let csv = world.response("reader", Method::GET, &format!("{path}&format=csv"), "").await.unwrap();
        assert_eq!(
            (&csv.headers()["x-next-cursor"], &csv.headers()["content-type"]),
            (&cursor.parse().unwrap(), &"text/csv; charset=utf-8; header=present".parse().unwrap())
        );
        let text = String::from_utf8(csv.body().to_vec()).unwrap();
        let line = "\"早 ☀️, \"\"n\"\"\",m-0,\"{\"\"mood\"\":{\"\"n\"\":0}}\",";
        assert!(text.starts_with(&format!("content,msg_id,extras,create_time\r\n{line}")), "{text}");

        let arrow = world.response("reader", Method::GET, &format!("{path}&format=arrow"), "").await.unwrap();
        assert_eq!(arrow.headers()["x-next-cursor"], cursor);
        assert_eq!(arrow.headers()["content-type"], "application/vnd.apache.arrow.stream");
        let rows: Vec<_> = StreamReader::try_new(arrow.body().as_ref(), None).unwrap().map(Result::unwrap).collect();
        let rows = serde_json::to_value(Rows::of(&rows[0]).unwrap()).unwrap();
        assert_eq!(rows, json["messages"]);

        let (_, rest) = world.get(&format!("/v1/lake/messages?cursor={cursor}")).await;
        assert_eq!((ids(&rest), &rest["next_cursor"]), (vec!["m-3", "m-4"], &Value::Null));
        assert_eq!(rest["messages"][0].as_object().unwrap().len(), lake_rows::schema(Kind::Messages).fields().len());
        let csv = world.response("reader", Method::GET, "/v1/lake/messages?format=csv", "").await.unwrap();
        assert!(csv.headers().get("x-next-cursor").is_none());
    }

    #[tokio::test]
    async fn filters_are_of_the_query_and_an_empty_chatroom_is_one() {
        let world = world();
        let events = [
            message(0, json!({})),
            message(1, json!({ "chatroom": "r@chatroom", "chatroom_sender": "ann", "from_username": "r@chatroom" })),
            message(2, json!({ "msg_type": 49, "from_username": "bob" })),
        ];
        world.append(&events).await;
        for (query, expected) in [
            ("chatroom=", vec!["m-0", "m-2"]),
            ("chatroom=r%40chatroom", vec!["m-1"]),
            ("chatroom_sender=ann&from_username=r%40chatroom", vec!["m-1"]),
            ("msg_type=49", vec!["m-2"]),
            ("source=lark", vec![]),
            ("end=2000-01-01", vec![]),
        ] {
            let (status, page) = world.get(&format!("/v1/lake/messages?{query}")).await;
            assert_eq!((status, ids(&page)), (200, expected), "{query}");
        }
        let second = (NOW + Duration::SECOND).format(&time::format_description::well_known::Rfc3339).unwrap();
        let (_, page) = world.get(&format!("/v1/lake/messages?end={second}")).await;
        assert_eq!(ids(&page), ["m-0"], "`end` itself is not meant");
    }

    #[tokio::test]
    async fn every_bad_field_is_named() {
        let world = world();
        let bad = [
            ("start", "yesterday"),
            ("end", "2026-13-01"),
            ("msg_type", "text"),
            ("columns", "msg_id,colour"),
            ("limit", "10001"),
            ("cursor", "*"),
            ("format", "xml"),
        ];
        let query: Vec<String> = bad.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (status, refused) = world.get(&format!("/v1/lake/messages?{}", query.join("&"))).await;
        let named: BTreeSet<&str> = refused["fields"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_request")));
        assert_eq!(named, bad.map(|(name, _)| name).into());
        for query in ["start=2026-11-05&end=2026-11-05", "columns=msg_id,msg_id", "columns=", "limit=0", "limit=-1"] {
            assert_eq!(world.get(&format!("/v1/lake/messages?{query}")).await.0, 400, "{query}");
        }
        for (path, body, field) in [
            ("validate", "{}", "partition"),
            ("validate", r#"{"partition": "2026-11-5"}"#, "partition"),
            ("validate", "[]", "body"),
            ("duplicates", r#"{"start": "2026"}"#, "start"),
            ("duplicates", r#"{"start": "2026-11-06", "end": "2026-11-05"}"#, "end"),
        ] {
            let (status, refused) = world.ask(Method::POST, &format!("/v1/lake/{path}"), body).await;
            assert_eq!(status, 400, "{path} {body}");
            assert!(refused["fields"][field].is_string(), "{path} {body}: {refused}");
        }
    }

    #[tokio::test]
    async fn one_message_and_one_contact_are_found_by_id_and_what_is_unknown_is_not() {
        let world = world();
        world.append(&[message(0, json!({ "msg_id": "a/b 你" })), message(1, json!({}))]).await;
        world.append(&[json!({ "username": "ann", "nickName": "Ann" })]).await;
        let (status, found) = world.get("/v1/lake/messages/a/b%20%E4%BD%A0").await;
        assert_eq!((status, &found["error"]), (404, &json!("message_not_found")), "the gateway decodes paths: {found}");
        let request = |path: &str| {
            let mut request = Request::default().with_raw_http_path(path);
            request.headers_mut().insert(header::AUTHORIZATION, "Bearer reader".parse().unwrap());
            request
        };
        let found = answer(&world.gate, &world.desk, request("/v1/lake/messages/a/b 你"), NOW).await.unwrap();
        let found: Value = serde_json::from_slice(found.body()).unwrap();
        assert_eq!((&found["message"]["msg_id"], &found["message"]["msg_type"]), (&json!("a/b 你"), &json!(1)));
        let (status, found) = world.get("/v1/lake/contacts/ann").await;
        assert_eq!(
            (status, &found["contact"]["username"], &found["contact"]["nick_name"]),
            (200, &json!("ann"), &json!("Ann"))
        );
        for (path, code) in [
            ("/v1/lake/messages/m-9", "message_not_found"),
            ("/v1/lake/contacts/bob", "contact_not_found"),
            ("/v1/lake/contacts", "not_found"),
            ("/v1/lake/stats/x", "not_found"),
            ("/v1/lake/", "not_found"),
        ] {
            let (status, refused) = world.get(path).await;
            assert_eq!((status, &refused["error"]), (404, &json!(code)), "{path}");
        }
        assert_eq!(world.ask(Method::PUT, "/v1/lake/messages/m-1", "").await.0, 404);
    }

    #[tokio::test]
    async fn the_tables_are_told_in_figures_even_if_there_are_none() {
        let world = world();
        let (_, empty) = world.get("/v1/lake/stats").await;
        assert_eq!(
            (&empty["messages"]["rows"], &empty["quarantined"], &empty["version"]),
            (&json!(0), &json!(0), &json!(0))
        );
        assert_eq!(world.get("/v1/lake/messages").await.1["messages"], json!([]));

        world.append(&[message(0, json!({})), message(86_400, json!({}))]).await;
        world.append(&[json!({ "username": "ann" })]).await;
        let (_, stats) = world.get("/v1/lake/stats").await;
        assert_eq!((&stats["messages"]["rows"], &stats["messages"]["small_files"]), (&json!(2), &json!(2)));
        assert_eq!((&stats["contacts"]["rows"], &stats["version"]), (&json!(1), &stats["messages"]["version"]));
        let (_, partitions) = world.get("/v1/lake/partitions").await;
        assert_eq!(
            (&partitions["messages"], &partitions["contacts"]),
            (&stats["messages"]["days"], &stats["contacts"]["days"])
        );
        let first = &partitions["messages"][0];
        assert_eq!((&first["rows"], &first["sealed"], &first["archived"]), (&json!(1), &json!(false), &json!(false)));
    }

    #[tokio::test]
    async fn files_are_validated_and_repeated_ids_counted() {
        let world = world();
        world.append(&[message(0, json!({})), message(1, json!({}))]).await;
        let (_, sound) = world.ask(Method::POST, "/v1/lake/validate", r#"{"partition": "all"}"#).await;
        assert_eq!(
            (&sound["valid"], &sound["messages"]["rows"], &sound["contacts"]["files"]),
            (&json!(true), &json!(2), &json!(0))
        );
        let (_, found) = world.ask(Method::POST, "/v1/lake/duplicates", "").await;
        assert_eq!((&found["total"], &found["days"][0]["ids"]), (&json!(0), &json!(2)));

        let file = world.desk.lake.files(Kind::Messages, |_| true).await.unwrap().remove(0);
        world.desk.lake.write_object(&format!("lake/messages/{}", file.path), "PAR1".into()).await.unwrap();
        let day = json!({ "partition": file.partition.to_string() }).to_string();
        let (status, unsound) = world.ask(Method::POST, "/v1/lake/validate", &day).await;
        assert_eq!((status, &unsound["valid"]), (200, &json!(false)));
        let problem = &unsound["messages"]["partitions"][0]["problems"][0];
        assert_eq!((&problem["file"], &problem["problem"]), (&json!(file.path), &json!("size")));
        let (_, other) = world.ask(Method::POST, "/v1/lake/validate", r#"{"partition": "2000-01-01"}"#).await;
        assert_eq!((&other["valid"], &other["messages"]["files"]), (&json!(true), &json!(0)));
    }

    #[tokio::test]
    async fn what_is_too_large_to_scan_is_sent_to_athena() {
        let mut world = world();
        world.append(&[message(0, json!({}))]).await;
        world.desk.reader = Reader::new(world.desk.lake.clone()).with_scan_bytes(1);
        let (status, refused) = world.get("/v1/lake/messages").await;
        assert_eq!((status, &refused["error"]), (422, &json!("scan_too_large")));
        let details = &refused["details"];
        assert_eq!((&details["limit"], &details["athena_table"]), (&json!(1), &json!("messages")));
        assert!(details["bytes"].as_u64() > Some(1) && details["athena_database"] == "skylark_eu", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("skylark_eu.messages"), "{refused}");
    }

    #[tokio::test]
    async fn an_answer_is_never_larger_than_lambda_takes_and_the_rest_follows() {
        let world = world();
        let long = |n| message(n, json!({ "content": "\"".repeat(900_000) }));
        world.append(&[long(0), long(1), long(2), message(3, json!({}))]).await;
        let (mut path, mut seen, mut pages) = ("/v1/lake/messages?limit=10000".to_owned(), Vec::new(), 0);
        loop {
            let response = world.response("reader", Method::GET, &path, "").await.unwrap();
            assert!(http::weight(&response) <= http::MAX_ANSWER);
            let page: Value = serde_json::from_slice(response.body()).unwrap();
            seen.extend(ids(&page).into_iter().map(str::to_owned));
            pages += 1;
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            path = format!("/v1/lake/messages?limit=10000&cursor={cursor}");
        }
        assert_eq!((seen.as_slice(), pages), (&["m-0", "m-1", "m-2", "m-3"].map(str::to_owned)[..], 3));
    }

    #[tokio::test]
    async fn a_token_with_the_scope_is_needed_and_reading_whole_files_is_counted() {
        let world = world();
        let status = async |token, method, path| {
            let answered = world.response(token, method, path, "").await;
            answered.map_or_else(|stopped| http::status(&stopped), |response| response.status()).as_u16()
        };
        assert_eq!(status("nobody", Method::GET, "/v1/lake/stats").await, 401);
        assert_eq!(status("writer", Method::GET, "/v1/lake/stats").await, 403);
        for n in 0..60 {
            assert_eq!(status("reader", Method::POST, "/v1/lake/duplicates").await, 200, "{n}");
        }
        assert_eq!(status("reader", Method::POST, "/v1/lake/duplicates").await, 429);
        assert_eq!(status("reader", Method::GET, "/v1/lake/stats").await, 200);
    }
}
