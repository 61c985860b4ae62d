//! How often the store is asked: that is what a query waits for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use domain::lake::Kind;
use fastrand::Rng;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lake::{Lake, Settings};
use lake_reader::{Filter, Query};
use lake_rows::Level;
use local_bucket::{BucketConfig, Buckets, Credentials};
use tokio::net::TcpListener;

use crate::support::{Row, Table, day, ids, random_messages, rows};

/// A file's end, for files that are smaller than those of a real day.
const END_BYTES: u64 = 64 << 10;

const DAYS: i64 = 3;

/// What the store was asked since somebody last looked: method and key.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    /// How many requests there were for data files, and how many others.
    fn take(&self) -> (usize, usize) {
        let asked = std::mem::take(&mut *self.0.lock().unwrap());
        let (files, others): (Vec<_>, Vec<_>) = asked.into_iter().partition(|it| it.contains("day"));
        (files.len(), others.len())
    }
}

/// Three sealed days in a bucket.
async fn sealed_days() -> (Table, Asked) {
    let root = tempfile::tempdir().unwrap();
    let keys = [Credentials { access_key_id: "test".to_owned(), secret_access_key: "test".to_owned() }];
    let buckets = Buckets::open(root.path(), "us-east-1", &keys).unwrap();
    buckets.create("lake", &BucketConfig::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (endpoint, asked) = (format!("http://{}", listener.local_addr().unwrap()), Asked::default());
    let seen = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (buckets, seen) = (buckets.clone(), seen.clone());
            tokio::spawn(async move {
                let answer = service_fn(async |request| {
                    seen.0.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
                    Ok::<_, Infallible>(buckets.handle(request).await)
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    let variables = BTreeMap::from([
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
    ]);
    let settings = Settings::bucket("lake", &|name| variables.get(name).map(|it| (*it).to_owned())).unwrap();
    let mut table = Table::of(Lake::open(&settings).unwrap(), root);
    for n in 0..DAYS {
        table.append_messages(day(n), &random_messages(&mut Rng::with_seed(5), n, 9_000, 30_000)).await;
        table.merge(Kind::Messages, day(n), Level::L2, |_, _| true).await;
    }
    let sizes: Vec<_> = table.lake.files(Kind::Messages, |_| true).await.unwrap().iter().map(|it| it.bytes).collect();
    assert!(sizes.iter().all(|bytes| *bytes > 2 * END_BYTES), "{sizes:?}");
    (table, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_looked_up_in_few_requests_and_a_known_file_is_not_opened_again() {
    let (table, asked) = sealed_days().await;
    let reader = table.reader().with_end_bytes(END_BYTES);
    let all: Vec<Row> = table.expected(&Filter::default());
    asked.take();
    let look_up = async |row: &Row| {
        let found = rows(&reader.message(&row["msg_id"]).await.unwrap().unwrap());
        assert_eq!(found[0]["msg_id"], row["msg_id"]);
        asked.take()
    };
    let (files, others) = look_up(&all[0]).await;
    assert_eq!(files, 3 + 2, "the ends of three files, the ids of one, and its row");
    assert_eq!(others, 1, "a look at the log");
    for row in all.iter().step_by(5_000) {
        let (files, others) = look_up(row).await;
        assert_eq!((files, others), (2, 1), "the ids of one file, and its row; a look at the log");
    }
    assert!(reader.message("nobody").await.unwrap().is_none());
    let (files, _) = asked.take();
    assert_eq!(files, 0, "the Bloom filters know that nobody is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_found_in_the_first_day_that_has_it() {
    let (table, asked) = sealed_days().await;
    let reader = table.reader().with_end_bytes(END_BYTES);
    let query = Query { limit: 10, columns: vec!["msg_id".to_owned()], ..Query::default() };
    asked.take();
    let found = reader.messages(&query).await.unwrap();
    let (files, _) = asked.take();
    assert_eq!(ids(&rows(&found.rows)), ids(&table.expected(&Filter::default())[..10]));
    assert_eq!(files, 3, "the end of one file, what decides, and what is asked for");
}
