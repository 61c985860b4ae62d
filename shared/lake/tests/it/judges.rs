//! What others make of the tables: the `deltalake` wheel, Polars and DuckDB beside it, and a reader of the protocol in sixty lines of Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use domain::lake::Kind;
use lake::Lake;
use lake_rows::Level;
use serde_json::{Value, json};

use crate::support::{Faults, Server, append, lake_in, merge};

const TABLE: Kind = Kind::Messages;

/// What must be installed, with versions.
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/requirements-lake.txt");
const JUDGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/judge.py");

/// A Python that has them; `None` if they cannot be installed here.
fn python() -> Option<PathBuf> {
    testkit::python(Path::new(REQUIREMENTS), Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// What each judge sees: `{"<judge>": {"<version>": {"rows", "files", "ids"}}}`.
async fn judge(python: &Path, what: Value) -> Value {
    let mut command = Command::new(python);
    command.arg(JUDGE).arg(what.to_string());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Twelve versions: appends, a merge, a new column, a checkpoint in the middle.
async fn write_history(lake: &Lake) {
    for n in 0..5_u64 {
        append(lake, &format!("{n}"), &(n * 100..n * 100 + 50).collect::<Vec<_>>()).await.unwrap();
    }
    merge(lake, Level::L1).await;
    append(lake, "5", &[500, 501]).await.unwrap();
    assert_eq!(lake.checkpoint(TABLE, 1).await.unwrap(), Some(7));
    lake.add_column(TABLE, "region", arrow_schema::DataType::Utf8).await.unwrap();
    append(lake, "6", &[600]).await.unwrap();
    append(lake, "7", &[700]).await.unwrap();
    merge(lake, Level::L2).await;
    append(lake, "8", &[800]).await.unwrap();
}

const LAST: u64 = 12;

async fn expected(lake: &Lake, version: u64) -> Value {
    let files = lake.files_at(TABLE, version).await.unwrap();
    let mut ids = crate::support::ids_of(lake, &files).await.unwrap();
    ids.sort_unstable();
    json!({ "rows": ids.len(), "files": files.len(), "ids": ids })
}

#[tokio::test]
async fn every_judge_sees_the_same_rows_at_every_version() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let lake = lake_in(folder.path());
    write_history(&lake).await;
    let versions: Vec<_> = (0..=LAST).collect();
    let table = folder.path().join("lake/messages");
    let seen = judge(&python, json!({ "table": table, "versions": versions, "storage": {} })).await;
    for judge in ["deltalake", "polars", "duckdb", "protocol"] {
        for version in &versions {
            let seen = &seen[judge][version.to_string()];
            assert_eq!(*seen, expected(&lake, *version).await, "{judge} at version {version}");
        }
    }
    assert_eq!(seen["protocol_versions"], json!([1, 2]), "reader and writer versions that all readers know");
    let schema = lake.columns(TABLE).await.unwrap().unwrap();
    let columns: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(seen["columns"], json!(columns));
}

/// Over S3, with a row of theirs in between: what they write we read, and go on from.
#[tokio::test(flavor = "multi_thread")]
async fn others_may_write_to_the_table_too() {
    let Some(python) = python() else { return };
    let server = Server::start(Faults::default()).await;
    let lake = server.lake();
    write_history(&lake).await;
    let storage = json!({
        "AWS_ENDPOINT_URL": format!("http://{}", server.address),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    });
    let table = "s3://lake/lake/messages";
    let seen =
        judge(&python, json!({ "table": table, "versions": [LAST], "storage": storage, "append": "9000" })).await;
    assert_eq!(seen["deltalake"][LAST.to_string()], expected(&lake, LAST).await);

    append(&lake, "9", &[900]).await.unwrap();
    let rows = crate::support::sorted(crate::support::ids(&lake).await);
    assert_eq!((rows.len(), rows.last()), (257, Some(&9000)));
    assert!(append(&lake, "3", &[300]).await.unwrap().already_there);
    let latest = LAST + 2;
    let seen = judge(&python, json!({ "table": table, "versions": [latest], "storage": storage })).await;
    for judge in ["deltalake", "polars", "duckdb"] {
        assert_eq!(seen[judge][latest.to_string()], expected(&lake, latest).await, "{judge}");
    }
}
