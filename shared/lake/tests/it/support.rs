//! Lakes to test, a store that fails, rows, and a reader that takes no shortcut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use bytes::Bytes;
use delta_kernel::arrow::array::AsArray as _;
use delta_kernel::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use domain::lake::{BatchId, Counts, Kind, Partition};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lake::{Appended, DataFile, Lake, LakeFault, Settings};
use lake_rows::{Level, schema, write_parquet};
use local_bucket::{Body, BucketConfig, Buckets, Credentials};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpListener;

pub(crate) const BUCKET: &str = "lake";

/// When the first row was said.
pub(crate) const SAID: OffsetDateTime = datetime!(2026-11-05 12:00 UTC);

/// What the store does wrong, per thousand requests that change something.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// 409: another conditional write is under way. Nothing is written.
    pub(crate) conflict: u64,
    /// 412: somebody was first, says the store, and nobody was.
    pub(crate) precondition: u64,
    /// 503. Nothing is written.
    pub(crate) slow_down: u64,
    /// It is written, and the answer is 500.
    pub(crate) failed_after: u64,
    /// It is written, and the connection breaks before there is an answer.
    pub(crate) lost_answer: u64,
}

/// The local S3 behind a socket.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) buckets: Buckets,
    injected: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
    _root: TempDir,
}

impl Server {
    pub(crate) async fn start(faults: Faults) -> Self {
        let root = tempfile::tempdir().unwrap();
        let keys = [Credentials { access_key_id: "test".to_owned(), secret_access_key: "test".to_owned() }];
        let buckets = Buckets::open(root.path(), "us-east-1", &keys).unwrap();
        buckets.create(BUCKET, &BucketConfig::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, injected) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(serve(listener, buckets.clone(), faults, injected.clone()));
        Self { address, buckets, injected, task, _root: root }
    }

    pub(crate) fn settings(&self) -> Settings {
        settings(self.address)
    }

    pub(crate) fn lake(&self) -> Lake {
        Lake::open(&self.settings()).unwrap()
    }

    /// How many requests were failed on purpose.
    pub(crate) fn injected(&self) -> u64 {
        self.injected.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn settings(address: SocketAddr) -> Settings {
    let variables = BTreeMap::from([
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
    ]);
    Settings::bucket(BUCKET, &|name| variables.get(name).cloned()).unwrap()
}

async fn serve(listener: TcpListener, buckets: Buckets, faults: Faults, injected: Arc<AtomicU64>) {
    let dice = Arc::new(AtomicU64::new(1));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (buckets, injected, dice) = (buckets.clone(), injected.clone(), dice.clone());
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(&buckets, faults, &injected, &dice, request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// The connection is to be broken: hyper does so when its service fails.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost")]
struct Lost;

async fn answer(
    buckets: &Buckets,
    faults: Faults,
    injected: &AtomicU64,
    dice: &AtomicU64,
    request: Request<Incoming>,
) -> Result<Response<Body>, Lost> {
    let changes = request.method() == Method::PUT || request.method() == Method::DELETE;
    if !changes {
        return Ok(buckets.handle(request).await);
    }
    let conditional = request.headers().contains_key("if-none-match");
    let mut thrown = throw(dice) % 1_000;
    let mut falls = |chance: u64| {
        let hit = thrown < chance;
        thrown = thrown.wrapping_sub(chance);
        hit
    };
    let fault = if falls(faults.conflict) && conditional {
        Some((StatusCode::CONFLICT, "ConditionalRequestConflict"))
    } else if falls(faults.precondition) && conditional {
        Some((StatusCode::PRECONDITION_FAILED, "PreconditionFailed"))
    } else if falls(faults.slow_down) {
        Some((StatusCode::SERVICE_UNAVAILABLE, "SlowDown"))
    } else {
        None
    };
    if let Some((status, code)) = fault {
        injected.fetch_add(1, Ordering::SeqCst);
        return Ok(error(status, code));
    }
    let (fails_after, loses) = (falls(faults.failed_after), falls(faults.lost_answer));
    let answered = buckets.handle(request).await;
    if fails_after || loses {
        injected.fetch_add(1, Ordering::SeqCst);
    }
    match (fails_after, loses) {
        (true, _) => Ok(error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
        (_, true) => Err(Lost),
        _ => Ok(answered),
    }
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let body = format!("<Error><Code>{code}</Code><Message>on purpose</Message></Error>");
    Response::builder().status(status).body(Body::from(body)).unwrap()
}

/// The next number of a sequence that looks random and is the same in every run, but for who asks first.
fn throw(dice: &AtomicU64) -> u64 {
    let mut state = dice.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    state ^= state >> 31;
    state = state.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state ^ (state >> 29)
}

/// A lake in a folder, and one in a bucket that never fails: what holds for one must for the other.
pub(crate) async fn both() -> (Server, TempDir, [(&'static str, Lake); 2]) {
    let (server, folder) = (Server::start(Faults::default()).await, tempfile::tempdir().unwrap());
    let lakes = [("bucket", server.lake()), ("folder", lake_in(folder.path()))];
    (server, folder, lakes)
}

pub(crate) fn lake_in(folder: &Path) -> Lake {
    Lake::open(&Settings::folder(folder)).unwrap()
}

/// A batch: the lines of `ids`, under a name that only they have.
pub(crate) fn batch_id(name: &str) -> BatchId {
    BatchId::new(SAID, &hex::encode(Sha256::digest(name))).unwrap()
}

/// Messages, a row for each id: id n was said n seconds after [`SAID`].
pub(crate) fn messages(ids: &[u64]) -> RecordBatch {
    messages_of(ids, "大家好 👋", Duration::ZERO)
}

/// The same, received so much later than they were said.
pub(crate) fn messages_of(ids: &[u64], content: &str, later: Duration) -> RecordBatch {
    let schema = schema(Kind::Messages);
    let times = |later: Duration| -> ArrayRef {
        let at = |id: &u64| (SAID + later + Duration::seconds(*id as i64)).unix_timestamp_nanos() / 1_000;
        let micros = ids.iter().map(|id| i64::try_from(at(id)).unwrap());
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    };
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "msg_id" => Arc::new(StringArray::from_iter_values(ids.iter().map(u64::to_string))),
            "chatroom" => Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("room{}", id % 7)))),
            "content" => Arc::new(StringArray::from_iter_values(ids.iter().map(|_| content))),
            "source" => Arc::new(StringArray::from_iter_values(ids.iter().map(|_| "wechat"))),
            "raw_line" => Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| *id as i64))),
            "create_time" => times(Duration::ZERO),
            "received_at" => times(later),
            _ => new_null_array(field.data_type(), ids.len()),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

pub(crate) fn day() -> Partition {
    Partition::of(SAID).unwrap()
}

/// Appends the rows of `ids` as the batch `name`, as whoever carries out a batch does.
pub(crate) async fn append(lake: &Lake, name: &str, ids: &[u64]) -> Result<Appended, LakeFault> {
    append_to(lake, day(), name, ids).await
}

pub(crate) async fn append_to(lake: &Lake, day: Partition, name: &str, ids: &[u64]) -> Result<Appended, LakeFault> {
    let written = write_parquet(Kind::Messages, &messages(ids), Level::L0).unwrap();
    let batch = batch_id(name);
    let file = lake.write_batch_file(Kind::Messages, day, &batch, &written).await?;
    let lines = ids.len() as u64;
    let counts = Counts { lines_in: lines + 2, rows: lines, duplicates: 1, quarantined: 1 };
    let appended = lake.append(Kind::Messages, std::slice::from_ref(&file), &batch, counts).await?;
    if appended.already_there {
        lake.discard(Kind::Messages, &[file]).await?;
    }
    Ok(appended)
}

/// Appends somebody to the contacts.
pub(crate) async fn append_contact(lake: &Lake, day: Partition) {
    let schema = schema(Kind::Contacts);
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "username" => Arc::new(StringArray::from_iter_values(["wxid_a"])),
            _ => new_null_array(field.data_type(), 1),
        }
    });
    let rows = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    let written = write_parquet(Kind::Contacts, &rows, Level::L0).unwrap();
    let batch = batch_id("contacts");
    let file = lake.write_batch_file(Kind::Contacts, day, &batch, &written).await.unwrap();
    let counts = Counts { lines_in: 1, rows: 1, duplicates: 0, quarantined: 0 };
    lake.append(Kind::Contacts, &[file], &batch, counts).await.unwrap();
}

/// Every row's id, in the order of the files, as a reader finds them who opens each file of one version.
pub(crate) async fn ids(lake: &Lake) -> Vec<u64> {
    let files = lake.files(Kind::Messages, |_| true).await.unwrap();
    ids_of(lake, &files).await.unwrap()
}

/// The same of a list of files; `None` if one of them is gone.
pub(crate) async fn ids_of(lake: &Lake, files: &[DataFile]) -> Option<Vec<u64>> {
    let mut ids = Vec::new();
    for file in files {
        let key = lake.file_key(Kind::Messages, &file.path).await.unwrap();
        let bytes = lake.read_object(&key).await.unwrap()?;
        let rows = ids_in(bytes);
        assert_eq!(rows.len() as u64, file.rows, "{}", file.path);
        ids.extend(rows);
    }
    Some(ids)
}

fn ids_in(file: Bytes) -> Vec<u64> {
    let mut ids = Vec::new();
    for rows in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let rows = rows.unwrap();
        let column = rows.column_by_name("msg_id").unwrap().as_string::<i32>();
        ids.extend(column.iter().map(|id| id.unwrap().parse::<u64>().unwrap()));
    }
    ids
}

pub(crate) fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids
}

/// Merges all files of the day into one.
pub(crate) async fn merge(lake: &Lake, level: Level) -> lake::Merged {
    let files = lake.files(Kind::Messages, |partition| partition == day()).await.unwrap();
    merge_files(lake, level, &files).await.unwrap()
}

pub(crate) async fn merge_files(lake: &Lake, level: Level, files: &[DataFile]) -> Result<lake::Merged, LakeFault> {
    let scratch = tempfile::tempdir().unwrap();
    let merge =
        lake::Merge { kind: Kind::Messages, partition: day(), level, reason: "compact", memory_bytes: 64 << 20 };
    lake.merge(merge, files, scratch.path()).await
}
