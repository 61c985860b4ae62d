//! Files into a lake in a folder: each event once, however often and in how many pieces they come.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use domain::lake::source::{Mapping, SourceDirectory, SourceName};
use domain::lake::{Counts, Intake, Kind};
use lake::append::Appender;
use lake::{Lake, Settings};
use lake_import::{Feed, IMPORT_PREFIX, Imported, Importer, Source};
use lake_sample::{Plan, What};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::{MemoryGate, MemoryIntakes, MemorySources};
use time::OffsetDateTime;
use time::macros::datetime;

const RECEIVED: OffsetDateTime = datetime!(2026-11-25 12:00 UTC);

fn feed() -> Feed {
    Feed { source: SourceName::parse("wechat").unwrap(), mapping: Mapping::Wechat, mask: false }
}

async fn import(lake: &Lake, path: &Path) -> (Imported, bool) {
    import_at(lake, path, RECEIVED).await
}

async fn import_at(lake: &Lake, path: &Path, received_at: OffsetDateTime) -> (Imported, bool) {
    let source = Source { path: path.to_owned(), received_at };
    let imported = Importer::new(lake, feed()).import(&source, RECEIVED, &mut |_| ()).await.unwrap();
    assert!(imported.0.counts.balance(), "{imported:?}");
    imported
}

/// What the table says, by key, and how many rows it has.
async fn content(lake: &Lake, table: Kind, column: &str) -> (BTreeMap<String, String>, u64) {
    let (mut content, mut count) = (BTreeMap::new(), 0);
    for file in lake.files(table, |_| true).await.unwrap() {
        let bytes = lake.read_file(table, &file.path).await.unwrap();
        for rows in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let rows = rows.unwrap();
            let keys = rows.column_by_name(lake_rows::key(table)).unwrap().as_string::<i32>();
            let values = rows.column_by_name(column).unwrap().as_string::<i32>();
            count += rows.num_rows() as u64;
            content.extend(
                keys.iter()
                    .zip(values)
                    .map(|(key, value)| (key.unwrap().to_owned(), value.unwrap_or_default().to_owned())),
            );
        }
    }
    (content, count)
}

#[tokio::test]
async fn the_first_lake_is_imported_once_however_often_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(&Settings::folder(folder.path().join("lake"))).unwrap();
    let (mut lines, mut messages, mut contacts, mut malformed) = (Vec::new(), BTreeSet::new(), BTreeSet::new(), 0);
    for event in Plan::first_lake(5, 1_790_000_000).events() {
        lines.extend(&event.body);
        lines.push(b'\n');
        match event.what {
            What::Message { msg_id, .. } => _ = messages.insert(msg_id),
            What::Repetition { .. } => {}
            What::Contact { username } => _ = contacts.insert(username),
            What::Malformed => malformed += 1,
        }
    }
    let file = folder.path().join("2026-09-21.jsonl");
    fs::write(&file, &lines).unwrap();

    let (imported, new) = import(&lake, &file).await;
    assert!(new);
    assert_eq!((imported.counts.lines_in, imported.counts.quarantined), (lake_sample::FIRST_LAKE, malformed));
    let (in_table, rows) = content(&lake, Kind::Messages, "content").await;
    assert_eq!(in_table.keys().cloned().collect::<BTreeSet<_>>(), messages);
    assert_eq!(rows, messages.len() as u64);
    let (in_table, _) = content(&lake, Kind::Contacts, "nick_name").await;
    assert_eq!(in_table.into_keys().collect::<BTreeSet<_>>(), contacts);
    assert_eq!(lake.list_objects("quarantine/v1/").await.unwrap().len() as u64, malformed);

    let versions = (lake.version(Kind::Messages).await.unwrap(), lake.version(Kind::Contacts).await.unwrap());
    // The same content under another name.
    let renamed = folder.path().join("again.jsonl");
    fs::write(&renamed, &lines).unwrap();
    assert_eq!(import(&lake, &renamed).await, (imported.clone(), false));
    assert_eq!((lake.version(Kind::Messages).await.unwrap(), lake.version(Kind::Contacts).await.unwrap()), versions);

    // An import that died before it could say that it was done.
    lake.delete_objects(&[format!("{IMPORT_PREFIX}{}.json", imported.sha256)]).await.unwrap();
    let (again, new) = import(&lake, &file).await;
    assert!(new && again.counts.quarantined == malformed);
    assert_eq!(content(&lake, Kind::Messages, "content").await.1, rows, "no row came twice");
    assert_eq!(lake.list_objects("quarantine/v1/").await.unwrap().len() as u64, malformed);
}

fn said(msg_id: u32, content: &str) -> String {
    format!("{{\"data\":{{\"msg_id\":{msg_id},\"create_time\":1790000000,\"content\":\"{content}\"}}}}\n")
}

#[tokio::test]
async fn what_the_table_has_is_a_duplicate_and_what_contradicts_it_a_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(&Settings::folder(folder.path().join("lake"))).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let first = file("first.jsonl", said(1, "a") + &said(2, "b"));
    let second = file("second.jsonl", said(2, "b") + &said(1, "other") + &said(3, "c"));
    import(&lake, &first).await;
    let (imported, _) = import(&lake, &second).await;
    assert_eq!(imported.counts, Counts { lines_in: 3, rows: 1, duplicates: 1, quarantined: 1 });
    let (content, rows) = content(&lake, Kind::Messages, "content").await;
    let expected = [("1", "a"), ("2", "b"), ("3", "c")].map(|(id, content)| (id.to_owned(), content.to_owned()));
    assert_eq!((content, rows), (expected.into(), 3));

    let kept = lake.list_objects("quarantine/v1/").await.unwrap();
    let [kept] = kept.as_slice() else { panic!("one line is kept aside") };
    let document = lake.read_object(&kept.key).await.unwrap().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert_eq!((&document["reason"], &document["text"]), (&"conflict".into(), &said(1, "other").trim_end().into()));
    assert_eq!(document["raw_line"], 2);
}

fn said_to_webhook(lines: &[String]) -> Vec<Intake> {
    let intake = |(number, line): (usize, &String)| Intake {
        source: SourceName::parse("wechat").unwrap(),
        request_id: format!("r-{number}"),
        received_at: RECEIVED,
        content_type: None,
        content_encoding: None,
        body: line.clone().into_bytes(),
    };
    lines.iter().enumerate().map(intake).collect()
}

/// An import dies when its batch is there, but for the lines that the mapping did not fit.
#[tokio::test]
async fn what_is_carried_on_with_a_better_mapping_has_all_rows_that_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(&Settings::folder(folder.path().join("lake"))).unwrap();
    let path = folder.path().join("both.jsonl");
    let event = |n: u32, at: &str| format!("{{\"id\":{n},\"{at}\":1790000000,\"text\":\"好\"}}\n");
    fs::write(&path, event(1, "said") + &event(2, "at")).unwrap();
    let read = |time: &str| {
        let fields = [("msg_id", "/id"), ("content", "/text"), ("create_time", time)];
        let fields = fields.map(|(field, pointer)| (field.to_owned(), pointer.to_owned()));
        let mapping = Mapping::Fields { fields: fields.into() };
        Feed { source: SourceName::parse("other").unwrap(), mapping, mask: false }
    };
    for (time, rows, duplicates, there) in [("/said", 1, 0, 1), ("/at", 1, 0, 2), ("/said", 0, 1, 2)] {
        let source = Source { path: path.clone(), received_at: RECEIVED };
        let (imported, _) = Importer::new(&lake, read(time)).import(&source, RECEIVED, &mut |_| ()).await.unwrap();
        let expected = Counts { lines_in: 2, rows, duplicates, quarantined: 1 };
        assert_eq!(imported.counts, expected, "{time}");
        assert_eq!(content(&lake, Kind::Messages, "content").await.1, there, "{time}");
        // It died before it could say that it was done.
        lake.delete_objects(&[format!("{IMPORT_PREFIX}{}.json", imported.sha256)]).await.unwrap();
    }
}

/// Of three messages that are posted a file has one, and says another otherwise.
#[tokio::test]
async fn what_is_imported_with_claims_and_posted_as_well_is_one_row_whoever_comes_first() {
    let first = Counts { lines_in: 3, rows: 3, duplicates: 0, quarantined: 0 };
    let second = Counts { lines_in: 3, rows: 1, duplicates: 1, quarantined: 1 };
    for (when, of_posts, of_import) in
        [("before", first, second), ("after", second, first), ("while the importer knows the day", first, second)]
    {
        let folder = tempfile::tempdir().unwrap();
        let lake = Arc::new(Lake::open(&Settings::folder(folder.path().join("lake"))).unwrap());
        let (gate, merges) = (Arc::new(MemoryGate::default()), Arc::new(MemoryIntakes::default()));
        let sources = SourceDirectory::new(Arc::new(MemorySources::default()));
        let appender = Appender::new(lake.clone(), gate, sources, merges);
        let post = async || {
            let posts = said_to_webhook(&[said(1, "a"), said(2, "b"), said(3, "c")]);
            assert_eq!(appender.append(posts, RECEIVED).await.unwrap(), of_posts, "posted {when}");
        };
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Source { path, received_at: RECEIVED }
        };
        let earlier = file("earlier.jsonl", said(9, "z"));
        let both = file("both.jsonl", said(1, "a") + &said(2, "other") + &said(4, "d"));
        let mut importer = Importer::new(&lake, feed()).claiming(&appender);
        if when == "before" {
            post().await;
        }
        importer.import(&earlier, RECEIVED, &mut |_| ()).await.unwrap();
        if when == "while the importer knows the day" {
            post().await;
        }
        let (imported, _) = importer.import(&both, RECEIVED, &mut |_| ()).await.unwrap();
        assert_eq!(imported.counts, of_import, "posted {when}");
        if when == "after" {
            post().await;
        }
        assert_eq!(content(&lake, Kind::Messages, "content").await.1, 5, "posted {when}");

        // An import that died before it could say that it was done.
        lake.delete_objects(&[format!("{IMPORT_PREFIX}{}.json", imported.sha256)]).await.unwrap();
        let mut importer = Importer::new(&lake, feed()).claiming(&appender);
        let (again, _) = importer.import(&both, RECEIVED, &mut |_| ()).await.unwrap();
        assert!(again.counts.balance() && again.counts.rows == 0, "posted {when}: {again:?}");
        assert_eq!(content(&lake, Kind::Messages, "content").await.1, 5, "posted {when}");
    }
}

#[tokio::test]
async fn of_a_contact_what_is_new_is_kept_and_what_is_not_is_a_duplicate() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(&Settings::folder(folder.path().join("lake"))).unwrap();
    let told = |file: &str, name: &str, more: &str| {
        let path = folder.path().join(file);
        fs::write(&path, format!("{{\"data\":{{\"username\":\"u\",\"nickName\":{{\"string\":\"{name}\"}}}}}}\n{more}"))
            .unwrap();
        path
    };
    let mut received_at = RECEIVED;
    for (name, rows, duplicates) in [("old", 1, 0), ("new", 1, 0), ("new", 0, 1), ("old", 1, 0)] {
        received_at += time::Duration::SECOND;
        // Blank lines make each file another one.
        let blank = "\n".repeat(usize::try_from((received_at - RECEIVED).whole_seconds()).unwrap());
        let counts = import_at(&lake, &told("contact.jsonl", name, &blank), received_at).await.0.counts;
        assert_eq!((counts.rows, counts.duplicates), (rows, duplicates), "{name}");
    }
}

#[tokio::test]
async fn a_folder_is_imported_file_by_file_and_only_what_holds_events() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("b")).unwrap();
    for name in ["c.jsonl", "a.json", "b/x.jsonl", "b/readme.txt", "notes.md"] {
        fs::write(folder.path().join(name), said(1, "a")).unwrap();
    }
    let found = lake_import::sources(folder.path()).unwrap();
    let names: Vec<_> =
        found.iter().map(|source| source.path.strip_prefix(folder.path()).unwrap().to_owned()).collect();
    assert_eq!(names, ["a.json", "b/x.jsonl", "c.jsonl"].map(Path::new));
    assert!(lake_import::sources(&folder.path().join("nothing")).is_err());
}
