//! The upkeep of a bundle's lake, on its schedules and by hand.
#![expect(clippy::unwrap_used, reason = "what does not run ends the test")]

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use domain::lake::{BatchId, Counts, Kind, Partition};
use lake::Lake;
use lake_rows::{Level, schema, write_parquet};
use lake_sample::{Event, Plan, What};
use serde_json::Value;
use skylark_tests::bundle::{Bundle, until, waiting};
use skylark_tests::lake::lake;
use time::{Duration, OffsetDateTime};

/// What template.yaml calls the schedules.
const SCHEDULES: [&str; 8] = ["Checkpoint", "Sweep", "Seal", "Archive", "Stats", "Reconcile", "Raw", "Vacuum"];

/// Messages that were said then.
fn messages(ids: std::ops::Range<u64>, said: OffsetDateTime) -> RecordBatch {
    let (schema, rows) = (schema(Kind::Messages), usize::try_from(ids.end - ids.start).unwrap());
    let micros = i64::try_from(said.unix_timestamp_nanos() / 1_000).unwrap();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "msg_id" => Arc::new(StringArray::from_iter_values(ids.clone().map(|id| id.to_string()))),
            "create_time" | "received_at" => {
                Arc::new(TimestampMicrosecondArray::from_value(micros, rows).with_timezone("UTC"))
            }
            _ => new_null_array(field.data_type(), rows),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

async fn append(lake: &Lake, number: u64, ids: std::ops::Range<u64>, said: OffsetDateTime) {
    let batch = BatchId::new(said, &format!("{number:064x}")).unwrap();
    let written = write_parquet(Kind::Messages, &messages(ids, said), Level::L0).unwrap();
    let day = Partition::of(said).unwrap();
    let file = lake.write_batch_file(Kind::Messages, day, &batch, &written).await.unwrap();
    let counts = Counts { lines_in: written.rows, rows: written.rows, duplicates: 0, quarantined: 0 };
    lake.append(Kind::Messages, &[file], &batch, counts).await.unwrap();
}

fn maintain(bundle: &Bundle, arguments: &[&str]) -> Value {
    let all = [&["lake", "maintain"], arguments, &["--json"]].concat();
    let (code, out, err) = bundle.skylark(&all);
    assert_eq!(code, 0, "{all:?}: {out}{err}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn a_bundle_keeps_its_lake_in_order() {
    let bundle = Bundle::start();
    let lake = lake(&bundle);
    let now = lambda_kit::clock::now();
    let old = now - Duration::days(3);
    for number in 0..4 {
        append(&lake, number, number * 10..number * 10 + 12, old).await;
    }
    append(&lake, 4, 100..101, now).await;

    let planned = maintain(&bundle, &["seal", "--dry-run"]);
    let planned = &planned["done"]["rewritten"];
    assert_eq!((planned.as_array().unwrap().len(), &planned[0]["files_in"]), (1, &Value::from(4)), "{planned}");
    assert_eq!(lake.version(Kind::Messages).await.unwrap(), Some(5), "a dry run changes nothing");

    for schedule in SCHEDULES {
        bundle.trigger("lake-maintain", schedule);
    }
    // 48 lines, 6 of them twice.
    until("the old day to be sealed", || async {
        let stats = lake.stats(Kind::Messages).await.unwrap();
        let days: Vec<_> = stats.days.iter().map(|day| (day.files, day.rows, day.sealed)).collect();
        (days == [(1, 42, true), (1, 1, false)]).then_some(())
    })
    .await;

    let sealed = maintain(&bundle, &["seal"]);
    assert_eq!(sealed["done"]["rewritten"], Value::from(Vec::<Value>::new()), "sealed is sealed");
    let vacuumed = maintain(&bundle, &["vacuum"]);
    let messages = &vacuumed["done"]["vacuumed"]["messages"];
    assert_eq!(messages[0]["removed"], Value::from(Vec::<Value>::new()), "nothing is old yet: {vacuumed}");

    // Few files are merged when somebody asks for it.
    append(&lake, 5, 101..103, now).await;
    let run = |arguments: &[&str]| {
        let (code, out, err) = bundle.skylark(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    };
    let asked = run(&["lake", "compact"]);
    assert_eq!(asked.lines().count(), 1, "sealed is sealed: {asked}");
    until("two small files to be one", || async {
        let stats = lake.stats(Kind::Messages).await.unwrap();
        let days: Vec<_> = stats.days.iter().map(|day| (day.files, day.rows, day.open_files)).collect();
        (days == [(1, 42, 0), (1, 3, 1)]).then_some(())
    })
    .await;
    assert!(run(&["lake", "compact"]).contains("nothing to merge"));

    // As old as the bundle says it is, which is not as old as its store says.
    bundle.advance("100d");
    // A day that is sealed while the archive is worked on waits for the next time.
    until("both days to be sealed and archived", || async {
        for schedule in SCHEDULES {
            bundle.trigger("lake-maintain", schedule);
        }
        let stats = lake.stats(Kind::Messages).await.unwrap();
        let days: Vec<_> = stats.days.iter().map(|day| (day.files, day.rows, day.sealed, day.archived)).collect();
        (days == [(1, 42, true, true), (1, 3, true, true)]).then_some(())
    })
    .await;

    let (code, _, err) = bundle.skylark(&["lake", "maintain", "full-vacuum"]);
    assert_eq!(code, 1);
    assert!(err.contains("checkpoint"), "it names the jobs: {err}");
}

#[tokio::test]
async fn files_are_imported_once_and_what_is_no_row_is_kept_beside_what_was_posted() {
    let bundle = Bundle::start();
    let from = lambda_kit::clock::now().unix_timestamp() - 3 * 86_400;
    let events: Vec<Event> = Plan { events: 400, ..Plan::first_lake(23, from) }.events().collect();
    let bad = events.iter().find(|event| event.what == What::Malformed).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("存档.jsonl");
    let lines: Vec<&[u8]> = events.iter().map(|event| event.body.as_slice()).collect();
    fs::write(&file, lines.join(&b'\n')).unwrap();
    let run = |arguments: &[&str]| {
        let (code, out, err) = bundle.skylark(&[&["lake"], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    };
    let out = run(&["import", file.to_str().unwrap()]);
    assert!(out.contains("400 lines = "), "{out}");
    let status = || serde_json::from_str::<Value>(&run(&["status", "--json"])).unwrap();
    let before = status();
    let ids: BTreeSet<&String> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Message { msg_id, .. } => Some(msg_id),
            _ => None,
        })
        .collect();
    let malformed = events.iter().filter(|event| event.what == What::Malformed).count();
    assert_eq!(
        (&before["messages"]["rows"], &before["quarantined"]),
        (&ids.len().into(), &malformed.into()),
        "{before}"
    );
    assert!(run(&["import", file.to_str().unwrap()]).contains("imported before"));
    assert_eq!(status(), before);

    let posted = reqwest::Client::new()
        .post(format!("{}/webhook/wechat", bundle.setting("/http")))
        .header("x-webhook-key", bundle.setting("/webhook_key"))
        .body("<posted/>");
    assert_eq!(posted.send().await.unwrap().status(), 200);
    until("what was posted to be kept aside", || async { (status()["quarantined"] == malformed + 1).then_some(()) })
        .await;
    let listed: Vec<Value> = serde_json::from_str(&run(&["quarantine", "list", "--json"])).unwrap();
    assert!(listed.iter().all(|one| one["reason"].is_string() && one["source"] == "wechat"), "{listed:?}");
    let bodies: BTreeSet<Vec<u8>> = listed
        .iter()
        .map(|one| run(&["quarantine", "show", one["key"].as_str().unwrap(), "--body"]).into_bytes())
        .collect();
    assert!(
        bodies.contains(&b"<posted/>"[..])
            && bodies.contains(&String::from_utf8_lossy(&bad.body).into_owned().into_bytes())
    );

    // What an import kept aside is in its file; what was posted is sent again.
    let out = run(&["quarantine", "replay", "--all"]);
    assert!(out.contains(&format!("1 events are sent again; {malformed} ")), "{out}");

    // What is imported with a claim is one row, though it is posted as well.
    let plan = Plan { seed: 29, events: 5, from, spread_secs: 60, mixed: false };
    let both: Vec<Event> = plan.events().collect();
    let lines: Vec<&[u8]> = both.iter().map(|event| event.body.as_slice()).collect();
    fs::write(&file, lines[..4].join(&b'\n')).unwrap();
    let out = run(&["import", "--claim", file.to_str().unwrap()]);
    assert!(out.contains("4 lines = 4 rows"), "{out}");
    for event in &both {
        let post = reqwest::Client::new()
            .post(format!("{}/webhook/wechat", bundle.setting("/http")))
            .header("x-webhook-key", bundle.setting("/webhook_key"))
            .body(event.body.clone());
        assert_eq!(post.send().await.unwrap().status(), 200);
    }
    until("what was posted to be worked on", || async { (waiting(&bundle, "LakeQueue").await == 0).then_some(()) })
        .await;
    assert_eq!(status()["messages"]["rows"], ids.len() + 5, "the fifth is new, and only that");
}
