//! Chat under load: what a message costs the function, what it costs AWS, and how long a list of a thousand conversations takes.
//!
//! Every client has a process of the function to itself, as on Lambda. AWS's answers are canned where the function is measured; where it
//! is measured with its table, DynamoDB is the embedded engine of `skylark local`, on disk, and its time is taken apart.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynoxide::{Database, DynoxideError};
use futures_util::future::try_join_all;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use local_mapping::stream::{IndexError, index_records};
use serde_json::{Value, json};
use vault::{AccessTokens, KeyFile, KeyFileError, SigningKeyFiles};

use crate::build::{BuildError, Workspace};
use crate::case::{self, CaseError};
use crate::process::{Environment, Process, Vault};
use crate::report::{Spread, milliseconds};
use crate::runtime_api::{Record, RuntimeApi};
use crate::server::{Api, Server};

const FUNCTION: &str = "chat-api";

/// How many clients send at once.
const CLIENTS: u32 = 8;

/// How many conversations a list has.
const CONVERSATIONS: u32 = 1_000;

/// Requests per second of processor time.
const PER_CPU_SECOND: f64 = 1_200.0;

/// What 99 of 100 messages take in the function itself.
const OWN_P99_MS: f64 = 10.0;

/// Messages per second, on the embedded table.
const PER_SECOND: f64 = 200.0;

/// AWS requests for a message.
const REQUESTS: f64 = 3.01;

/// What half of the lists take in the function itself. The emulated table, which does one thing at a time, takes longer for a thousand items.
const LIST_MS: f64 = 15.0;

/// DynamoDB requests for a list.
const LIST_REQUESTS: f64 = 12.0;

/// A run takes no longer.
const PATIENCE: Duration = Duration::from_secs(900);

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) binaries: Option<PathBuf>,
    /// Messages of each client while AWS's answers are canned; a tenth of them with the table.
    pub(crate) messages: u32,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChatError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    Case(#[from] CaseError),
    #[error("the embedded table cannot be made")]
    Table(#[from] DynoxideError),
    #[error("the embedded table's streams cannot be indexed")]
    Index(#[from] IndexError),
    #[error("the embedded table's definition is malformed")]
    Definition(#[from] serde_json::Error),
    #[error("this machine refused something")]
    Io(#[from] io::Error),
    #[error("`{FUNCTION}` failed: {failure}; it logged: {log}")]
    Function { failure: String, log: String },
}

/// The AWS of one process.
struct Aws {
    /// Where DynamoDB is; without one its answers are canned.
    table: Option<SocketAddr>,
    client: Client<HttpConnector, Full<Bytes>>,
    /// How long at least one call was under way, in nanoseconds; set to nothing for each event.
    time: Arc<AtomicU64>,
    /// How many calls are under way, and since when there are any.
    under_way: Mutex<(u32, Option<Instant>)>,
    calls: Mutex<Vec<(String, Duration)>>,
}

impl Aws {
    fn new(table: Option<SocketAddr>) -> Arc<Self> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Arc::new(Self { table, client, time: Arc::default(), under_way: Mutex::default(), calls: Mutex::default() })
    }

    fn begin(&self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.0 += 1;
        under_way.1.get_or_insert_with(Instant::now);
    }

    fn end(&self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.0 = under_way.0.saturating_sub(1);
        if under_way.0 == 0
            && let Some(since) = under_way.1.take()
        {
            let nanoseconds = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.time.fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }

    fn calls(&self) -> Vec<(String, Duration)> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn carry_out(&self, operation: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        match (operation, self.table) {
            ("SendMessage", _) => json_answer(&json!({ "MessageId": "5fea7756-0ea4-451a-a703-a558b933e274" })),
            (_, Some(table)) => self.pass_on(table, parts, body).await.unwrap_or_else(|| {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            }),
            ("GetItem", None) => json_answer(&json!({ "Item": conversation() })),
            (_, None) => json_answer(&json!({})),
        }
    }

    async fn pass_on(
        &self,
        table: SocketAddr,
        mut parts: http::request::Parts,
        body: Bytes,
    ) -> Option<Response<Full<Bytes>>> {
        parts.uri = format!("http://{table}/").parse().ok()?;
        let answer = self.client.request(Request::from_parts(parts, Full::new(body))).await.ok()?;
        let (parts, body) = answer.into_parts();
        Some(Response::from_parts(parts, Full::new(body.collect().await.ok()?.to_bytes())))
    }
}

impl Api for Aws {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let began = Instant::now();
        self.begin();
        let response = self.carry_out(&operation, request).await;
        self.end();
        let took = began.elapsed();
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push((operation, took));
        response
    }
}

fn json_answer(body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/x-amz-json-1.0"));
    response
}

const CONVERSATION: &str = "7c0e9bd2-4f0a-4f0b-9a51-0d0f1f2a3b4c";

/// A conversation of the caller and somebody else, as its item.
fn conversation() -> Value {
    json!({
        "pk": { "S": format!("CONV#{CONVERSATION}") }, "sk": { "S": "META" }, "entity": { "S": "conversation" },
        "conversation_id": { "S": CONVERSATION }, "tenant_id": { "S": "bench" }, "type": { "S": "private" },
        "members": { "SS": ["bench", "bob"] }, "metadata": { "S": "{}" }, "channels": { "L": [] },
        "created_by": { "S": "bench" }, "created_at": { "S": "2026-11-25T09:00:00Z" }, "seq": { "N": "0" },
        "sent": { "M": {} }, "last_message": { "NULL": true },
    })
}

/// A UUID that no other number gets.
fn uuid(group: u32, n: u32) -> String {
    format!("{group:08x}-0000-4000-8000-{n:012x}")
}

fn event(token: &str, method: &str, path: &str, body: Option<&Value>) -> Bytes {
    let headers = json!({
        "authorization": format!("Bearer {token}"), "content-type": "application/json",
        "host": "bench.execute-api.us-east-1.amazonaws.com",
    });
    let body = body.map(Value::to_string);
    case::http(method, path, &Value::Null, &headers, body.as_deref()).to_string().into()
}

/// The other one of a client's `n`th conversation. The first of each client is who sends.
fn person(client: u32, n: u32) -> String {
    format!("user-{client}-{n}")
}

fn message(token: &str, client: u32, conversation: &str, n: u32) -> Bytes {
    let body = json!({
        "message_id": uuid(client, n), "conversation_id": conversation,
        "payload": { "type": "text", "text": "周报已发，请查收附件，有问题随时找我 📎 — the weekly report is out" },
    });
    event(token, "POST", "/v1/messages", Some(&body))
}

/// What is asked of one process, again and again.
struct Task {
    event: Box<dyn Fn(u32) -> Bytes + Send + Sync>,
    answer: &'static str,
    times: u32,
}

/// What it did.
struct Done {
    record: Record,
    cpu: Duration,
    calls: Vec<(String, Duration)>,
}

/// The bench's place: binary, keys, and who calls.
struct Stage {
    binary: PathBuf,
    folder: tempfile::TempDir,
    keys: AccessTokens,
    token: String,
}

impl Stage {
    async fn set(plan: &Plan) -> Result<Self, ChatError> {
        let binaries = match &plan.binaries {
            Some(folder) => folder.clone(),
            None => Workspace::find()?.build(&[FUNCTION.to_owned()])?,
        };
        let folder = tempfile::tempdir()?;
        KeyFile::create_if_missing(&folder.path().join("vault.key"))?;
        let signing_key = Environment::signing_key_file_in(folder.path());
        SigningKeyFiles::create_if_missing(&signing_key)?;
        let keys = AccessTokens::new(Box::new(SigningKeyFiles::read(&[signing_key])?), None);
        let token = case::access_token(&keys, case::USER).await?;
        Ok(Self { binary: binaries.join(FUNCTION), folder, keys, token })
    }

    /// Starts a process and lets it do the task.
    async fn run(&self, aws: Arc<Aws>, task: Task) -> Result<Done, ChatError> {
        let aws_server = Server::start(aws.clone()).await?;
        let folder = self.folder.path().to_owned();
        let environment = Environment { aws: aws_server.address, folder };
        let api = Arc::new(RuntimeApi::making(task.event, task.answer, task.times, aws.time.clone()));
        let server = Server::start(api.clone()).await?;
        let mut process = Process::start(&self.binary, FUNCTION, &environment, Vault::KeyFile, server.address)?;
        let failure = tokio::select! {
            record = api.done() => match record.failure {
                None => {
                    let cpu = process.cpu()?;
                    process.stop().await?;
                    return Ok(Done { record, cpu, calls: aws.calls() });
                }
                Some(failure) => failure,
            },
            end = process.ended() => end,
            () = tokio::time::sleep(PATIENCE) => format!("it is stuck after {} s", PATIENCE.as_secs()),
        };
        Err(ChatError::Function { failure, log: fs::read_to_string(environment.log())? })
    }

    /// Lets as many processes as there are clients do a task each.
    async fn run_all(
        &self,
        table: Option<SocketAddr>,
        task: impl Fn(u32) -> Task,
    ) -> Result<(Vec<Done>, Duration), ChatError> {
        let began = Instant::now();
        let done = try_join_all((0..CLIENTS).map(|client| self.run(Aws::new(table), task(client)))).await?;
        Ok((done, began.elapsed()))
    }

    fn messages(&self, token: String, client: u32, conversation: String, times: u32) -> Task {
        let event = move |n| message(&token, client, &conversation, n);
        Task { event: Box::new(event), answer: r#""statusCode":202"#, times }
    }
}

/// The embedded engine with the table, on a port of its own, for as long as this program runs.
fn serve_table(path: &std::path::Path) -> Result<SocketAddr, ChatError> {
    let database = Database::new(&path.to_string_lossy())?;
    let attribute = |name: &str, kind: &str| json!({ "AttributeName": name, "AttributeType": kind });
    let key = |hash: &str, range: &str| json!([{ "AttributeName": hash, "KeyType": "HASH" }, { "AttributeName": range, "KeyType": "RANGE" }]);
    let definition = json!({
        "TableName": "chat", "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [attribute("pk", "S"), attribute("sk", "S"), attribute("kind", "S"), attribute("at", "N")],
        "KeySchema": key("pk", "sk"),
        "GlobalSecondaryIndexes": [
            { "IndexName": "by_time", "KeySchema": key("kind", "at"), "Projection": { "ProjectionType": "KEYS_ONLY" } },
        ],
        "StreamSpecification": { "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" },
    });
    database.create_table(serde_json::from_value(definition)?)?;
    // As a local bundle opens it.
    index_records(path)?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    std::thread::Builder::new().name("table".to_owned()).spawn(move || {
        runtime.block_on(async {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                // It ends with the program.
                let _ = dynoxide::server::serve_on(listener, database).await;
            }
        });
    })?;
    Ok(address)
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    canned: Messages,
    stored: Messages,
    lists: Vec<(u32, Lists)>,
}

#[derive(Debug)]
struct Messages {
    per_cpu_second: f64,
    per_second: f64,
    requests: f64,
    whole: Spread<Duration>,
    own: Spread<Duration>,
    transaction: Spread<Duration>,
    transactions: f64,
}

#[derive(Debug)]
struct Lists {
    whole: Spread<Duration>,
    own: Spread<Duration>,
    requests: f64,
}

impl Messages {
    fn of(done: Vec<Done>, elapsed: Duration) -> Self {
        let events: usize = done.iter().map(|it| it.record.latencies.len()).sum();
        let count = events as f64;
        let cpu: f64 = done.iter().map(|it| it.cpu.as_secs_f64()).sum();
        let calls: Vec<(String, Duration)> = done.iter().flat_map(|it| it.calls.iter().cloned()).collect();
        let times = |operation: &str| calls.iter().filter(|it| it.0 == operation).map(|it| it.1).collect::<Vec<_>>();
        Self {
            per_cpu_second: count / cpu,
            per_second: count / elapsed.as_secs_f64(),
            requests: calls.len() as f64 / count,
            whole: Spread::of(done.iter().flat_map(|it| it.record.latencies.iter().copied()).collect()),
            own: Spread::of(done.iter().flat_map(|it| it.record.own.iter().copied()).collect()),
            transactions: times("TransactWriteItems").len() as f64 / count,
            transaction: Spread::of(times("TransactWriteItems")),
        }
    }
}

/// Measures the function alone, then with its table, then its lists.
pub(crate) async fn measure(plan: &Plan) -> Result<Figures, ChatError> {
    let stage = Stage::set(plan).await?;
    let canned = |client| stage.messages(stage.token.clone(), client, CONVERSATION.to_owned(), plan.messages);
    let (done, elapsed) = stage.run_all(None, canned).await?;
    let canned = Messages::of(done, elapsed);

    let table = serve_table(&stage.folder.path().join("chat.db"))?;
    let each = CONVERSATIONS / CLIENTS;
    let open = |client: u32| {
        let token = stage.token.clone();
        let event = move |n: u32| {
            let members = [case::USER.to_owned(), person(client, n)];
            let body = json!({ "type": "private", "members": members, "metadata": { "title": "考勤 🕘" } });
            event(&token, "POST", "/v1/conversations", Some(&body))
        };
        Task { event: Box::new(event), answer: r#""statusCode":201"#, times: each }
    };
    stage.run_all(Some(table), open).await?;
    let mut lists = vec![(0, stage.list(table).await?)];

    let few = (plan.messages / 10).max(1);
    let senders = try_join_all((0..CLIENTS).map(|client| stage.sender(table, client))).await?;
    let sending = |client: u32| {
        let (token, conversation) = senders.get(client as usize).cloned().unwrap_or_default();
        stage.messages(token, client, conversation, few)
    };
    let (done, elapsed) = stage.run_all(Some(table), sending).await?;
    let stored = Messages::of(done, elapsed);
    lists.push((few * CLIENTS, stage.list(table).await?));
    Ok(Figures { canned, stored, lists })
}

impl Stage {
    /// The caller looks at their conversations.
    async fn list(&self, table: SocketAddr) -> Result<Lists, ChatError> {
        let token = self.token.clone();
        let event = move |_| event(&token, "GET", "/v1/conversations", None);
        let task = Task { event: Box::new(event), answer: r#""statusCode":200"#, times: 200 };
        let done = self.run(Aws::new(Some(table)), task).await?;
        let count = done.record.latencies.len() as f64;
        Ok(Lists {
            whole: Spread::of(done.record.latencies),
            own: Spread::of(done.record.own),
            requests: done.calls.len() as f64 / count,
        })
    }

    /// The token of a client's own person, and their conversation, read from the table itself.
    async fn sender(&self, table: SocketAddr, client: u32) -> Result<(String, String), ChatError> {
        let token = case::access_token(&self.keys, &person(client, 0)).await?;
        let http: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let query = json!({
            "TableName": "chat", "KeyConditionExpression": "pk = :user", "Limit": 1,
            "ExpressionAttributeValues": { ":user": { "S": format!("USER#bench#{}", person(client, 0)) } },
        });
        let request = Request::post(format!("http://{table}/"))
            .header("x-amz-target", "DynamoDB_20120810.Query")
            .header("content-type", "application/x-amz-json-1.0")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
            .header("x-amz-date", "20260101T000000Z")
            .body(Full::from(query.to_string()))
            .map_err(io::Error::other)?;
        let answer = http.request(request).await.map_err(io::Error::other)?;
        let answer = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let answer: Value = serde_json::from_slice(&answer)?;
        let conversation = answer.pointer("/Items/0/conversation_id/S").and_then(Value::as_str).unwrap_or_default();
        Ok((token, conversation.to_owned()))
    }
}

impl Figures {
    /// What is judged: a name, the figure, its limit, and whether the limit is a floor.
    fn budgets(&self) -> Vec<(&'static str, f64, f64, bool)> {
        let worst = |value: &dyn Fn(&Lists) -> f64| self.lists.iter().map(|(_, it)| value(it)).fold(0.0, f64::max);
        vec![
            ("messages per CPU-second of the function", self.canned.per_cpu_second, PER_CPU_SECOND, true),
            ("AWS requests for a message", self.canned.requests, REQUESTS, false),
            ("p99 ms that the function adds", milliseconds(self.stored.own.percentile(99)), OWN_P99_MS, false),
            ("messages per second with the table", self.stored.per_second, PER_SECOND, true),
            (
                "median ms that the function takes for a list",
                worst(&|it| milliseconds(it.own.median())),
                LIST_MS,
                false,
            ),
            ("DynamoDB requests for a list", worst(&|it| it.requests), LIST_REQUESTS, false),
        ]
    }

    pub(crate) fn holds(&self) -> bool {
        self.budgets().into_iter().all(|(_, value, limit, floor)| if floor { value >= limit } else { value <= limit })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spread = |spread: &Spread<Duration>| {
            let at = |percent| milliseconds(spread.percentile(percent));
            format!("p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms", at(50), at(95), at(99))
        };
        for (what, messages) in
            [("AWS's answers canned", &self.canned), ("DynamoDB embedded, on this machine's disk", &self.stored)]
        {
            writeln!(f, "POST /v1/messages, {CLIENTS} clients, each with a process of the function; {what}")?;
            writeln!(
                f,
                "  {:.0} messages/s; {:.0} per CPU-second of the function; {:.2} AWS requests each, {:.2} of them transactions",
                messages.per_second, messages.per_cpu_second, messages.requests, messages.transactions
            )?;
            writeln!(f, "  a message                       {}", spread(&messages.whole))?;
            writeln!(f, "  of it the transaction           {}", spread(&messages.transaction))?;
            writeln!(f, "  of it the function, without AWS {}", spread(&messages.own))?;
        }
        for (messages, list) in &self.lists {
            writeln!(f, "GET /v1/conversations, {CONVERSATIONS} of them with {messages} messages; DynamoDB embedded")?;
            writeln!(f, "  {:.1} DynamoDB requests each", list.requests)?;
            writeln!(f, "  a list                          {}", spread(&list.whole))?;
            writeln!(f, "  of it the function, without AWS {}", spread(&list.own))?;
        }
        for (what, value, limit, floor) in self.budgets() {
            let held = if floor { value >= limit } else { value <= limit };
            let (bound, verdict) =
                (if floor { "at least" } else { "at most" }, if held { "holds" } else { "DOES NOT HOLD" });
            write!(f, "\n{what}: {bound} {limit}: {verdict} ({value:.2})")?;
        }
        Ok(())
    }
}
