//! What one writer may rely on.

use std::collections::BTreeSet;

use domain::fault::{Fault as _, Remedy};
use domain::lake::{Counts, Kind};
use lake::{CHECKPOINT_EVERY, Lake, LakeFault, Merged, Put, Replaced, Rewrite};
use lake_rows::{Level, write_parquet};
use serde_json::Value;

use crate::support::{append, batch_id, both, day, ids, ids_of, lake_in, merge, messages, sorted};

const TABLE: Kind = Kind::Messages;

/// The actions of a commit.
async fn commit(lake: &Lake, version: u64) -> Vec<Value> {
    let body = lake.read_object(&format!("lake/messages/_delta_log/{version:020}.json")).await.unwrap().unwrap();
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn action<'a>(actions: &'a [Value], name: &str) -> &'a Value {
    actions.iter().find_map(|action| action.get(name)).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn a_lake_that_nobody_wrote_to_is_empty() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        assert_eq!(lake.version(TABLE).await.unwrap(), None, "{place}");
        assert!(lake.files(TABLE, |_| true).await.unwrap().is_empty());
        assert_eq!(lake.stats(TABLE).await.unwrap().files, 0);
        assert_eq!(lake.checkpoint(TABLE, 1).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_batch_is_taken_once_and_says_what_became_of_its_lines() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        let first = append(&lake, "a", &[1, 2, 3]).await.unwrap();
        assert_eq!((first.version, first.already_there), (1, false), "{place}");
        assert_eq!((first.backlog[0].files, first.backlog[0].partition), (1, day()));

        let again = append(&lake, "a", &[1, 2, 3]).await.unwrap();
        assert_eq!((again.version, again.already_there, &again.backlog), (1, true, &first.backlog), "{place}");
        assert!(lake.has_batch(TABLE, &batch_id("a")).await.unwrap());
        assert!(!lake.has_batch(TABLE, &batch_id("b")).await.unwrap());
        assert_eq!(ids(&lake).await, [1, 2, 3]);

        let zero = commit(&lake, 0).await;
        assert_eq!(action(&zero, "protocol").to_string(), r#"{"minReaderVersion":1,"minWriterVersion":2}"#);
        let one = commit(&lake, 1).await;
        let info = action(&one, "commitInfo");
        let told = ["linesIn", "rows", "duplicates", "quarantined"].map(|name| info[name].as_u64().unwrap());
        assert_eq!((told, info["batch"].as_str().unwrap()), ([5, 3, 1, 1], batch_id("a").as_str()));
        let stats: Value = serde_json::from_str(action(&one, "add")["stats"].as_str().unwrap()).unwrap();
        assert_eq!((&stats["numRecords"], &stats["maxValues"]["msg_id"]), (&Value::from(3), &Value::from("3")));
        assert_eq!(stats["minValues"]["create_time"], "2026-11-05T12:00:01.000Z");
    }
}

#[tokio::test]
async fn another_process_knows_the_batch_even_after_its_file_was_merged_and_checkpointed() {
    let (server, folder, lakes) = both().await;
    for (place, lake) in lakes {
        for n in 0..4 {
            append(&lake, &format!("batch {n}"), &[n * 10, n * 10 + 1]).await.unwrap();
        }
        let Merged::Done(made) = merge(&lake, Level::L1).await else { panic!("{place}: stale") };
        assert_eq!((made.files_in, made.files_out, made.rows, made.duplicates), (4, 1, 8, 0), "{place}");
        for checkpointed in [false, true] {
            if checkpointed {
                assert_eq!(lake.checkpoint(TABLE, 1).await.unwrap(), Some(5));
                assert_eq!(lake.checkpoint(TABLE, 1).await.unwrap(), None, "there is nothing new in it");
            }
            let other = if place == "bucket" { server.lake() } else { lake_in(folder.path()) };
            for n in 0..4 {
                let again = append(&other, &format!("batch {n}"), &[n * 10, n * 10 + 1]).await.unwrap();
                assert!(again.already_there, "{place}, {n}, checkpoint: {checkpointed}");
            }
            assert_eq!(sorted(ids(&other).await), [0, 1, 10, 11, 20, 21, 30, 31], "{place}");
        }
    }
}

#[tokio::test]
async fn earlier_versions_stay_as_they_were() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        for n in 1..=3 {
            append(&lake, &format!("{n}"), &[n]).await.unwrap();
        }
        merge(&lake, Level::L1).await;
        lake.checkpoint(TABLE, 1).await.unwrap();
        append(&lake, "4", &[4]).await.unwrap();
        for (version, expected) in
            [(0, vec![]), (2, vec![1, 2]), (3, vec![1, 2, 3]), (4, vec![1, 2, 3]), (5, vec![1, 2, 3, 4])]
        {
            let files = lake.files_at(TABLE, version).await.unwrap();
            assert_eq!(sorted(ids_of(&lake, &files).await.unwrap()), expected, "{place} at {version}");
        }
        assert!(matches!(lake.files_at(TABLE, 6).await, Err(LakeFault::NoVersion(6))), "{place}");
    }
}

#[tokio::test]
async fn files_that_are_gone_are_not_replaced_and_the_outputs_are_cleared_away() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        for n in 1..=3 {
            append(&lake, &format!("{n}"), &[n]).await.unwrap();
        }
        let before = lake.files(TABLE, |_| true).await.unwrap();
        assert!(matches!(merge(&lake, Level::L1).await, Merged::Done(_)), "{place}");
        let late = crate::support::merge_files(&lake, Level::L1, &before).await.unwrap();
        assert_eq!(late, Merged::Stale, "{place}");
        let folder = format!("lake/messages/{}", day().folder());
        let merged: Vec<_> =
            lake.list_objects(&folder).await.unwrap().into_iter().filter(|it| it.key.contains("/L1-")).collect();
        assert_eq!(merged.len(), 1, "{place}: the loser's file is gone");
        assert_eq!(sorted(ids(&lake).await), [1, 2, 3]);
    }
}

#[tokio::test]
async fn a_merge_does_not_pass_over_a_file_that_the_table_names_and_nobody_can_read() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        for n in 1..=2 {
            append(&lake, &format!("{n}"), &[n]).await.unwrap();
        }
        let files = lake.files(TABLE, |_| true).await.unwrap();
        lake.delete_objects(&[lake.file_key(TABLE, &files[0].path).await.unwrap()]).await.unwrap();
        let fault = crate::support::merge_files(&lake, Level::L1, &files).await.unwrap_err();
        assert_eq!(fault.remedy(), Remedy::Bug, "{place}: {fault}");
    }
}

#[tokio::test]
async fn a_replacement_whose_answer_was_lost_is_recognised() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        append(&lake, "1", &[1]).await.unwrap();
        append(&lake, "2", &[2]).await.unwrap();
        let inputs = lake.files(TABLE, |_| true).await.unwrap();
        let written = write_parquet(TABLE, &messages(&[1, 2]), Level::L1).unwrap();
        let output = lake.write_merged_file(TABLE, day(), Level::L1, &written).await.unwrap();
        let rewrite = Rewrite { reason: "compact", duplicates: 0, conflicts: 0 };
        for _ in 0..2 {
            let replaced = lake.replace(TABLE, &inputs, std::slice::from_ref(&output), rewrite).await.unwrap();
            assert_eq!(replaced, Replaced::Committed { version: 3 }, "{place}");
        }
        let actions = commit(&lake, 3).await;
        let flags: BTreeSet<_> = actions
            .iter()
            .filter_map(|it| it.get("add").or(it.get("remove")))
            .map(|it| it["dataChange"].to_string())
            .collect();
        assert_eq!(flags, BTreeSet::from(["false".to_owned()]), "{place}: a stream of changes sees none");
    }
}

#[tokio::test]
async fn a_commit_that_loses_or_makes_up_a_row_is_refused() {
    let (_server, _folder, lakes) = both().await;
    for (_, lake) in lakes {
        append(&lake, "1", &[1, 2]).await.unwrap();
        let inputs = lake.files(TABLE, |_| true).await.unwrap();
        let written = write_parquet(TABLE, &messages(&[1]), Level::L1).unwrap();
        let output = lake.write_merged_file(TABLE, day(), Level::L1, &written).await.unwrap();
        for (outputs, duplicates) in [(std::slice::from_ref(&output), 0), (&[], 1), (&[], 3)] {
            let rewrite = Rewrite { reason: "compact", duplicates, conflicts: 0 };
            let fault = lake.replace(TABLE, &inputs, outputs, rewrite).await.unwrap_err();
            assert!(matches!(fault, LakeFault::Unbalanced(_)), "{fault}");
        }
        let file = lake.write_batch_file(TABLE, day(), &batch_id("2"), &written).await.unwrap();
        for counts in [
            Counts { lines_in: 2, rows: 1, duplicates: 0, quarantined: 0 },
            Counts { lines_in: 1, rows: 0, duplicates: 1, quarantined: 0 },
        ] {
            let fault = lake.append(TABLE, std::slice::from_ref(&file), &batch_id("2"), counts).await.unwrap_err();
            assert!(matches!(fault, LakeFault::Unbalanced(_)), "{fault}");
        }
        assert_eq!(ids(&lake).await, [1, 2]);
    }
}

#[tokio::test]
async fn a_batch_without_rows_is_no_commit() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        let counts = Counts { lines_in: 2, rows: 0, duplicates: 1, quarantined: 1 };
        let appended = lake.append(TABLE, &[], &batch_id("1"), counts).await.unwrap();
        assert_eq!((appended.version, appended.already_there), (0, false), "{place}");
    }
}

/// Rows of a day are dropped only if another one has their id; of two that differ the loser is kept aside.
#[tokio::test]
async fn a_merge_keeps_one_row_of_each_id_and_what_said_something_else_in_the_quarantine() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        append(&lake, "1", &[1, 2]).await.unwrap();
        append(&lake, "2", &[2, 3]).await.unwrap();
        let other = write_parquet(
            TABLE,
            &crate::support::messages_of(&[3], "something else", time::Duration::SECOND),
            Level::L0,
        )
        .unwrap();
        let file = lake.write_batch_file(TABLE, day(), &batch_id("3"), &other).await.unwrap();
        let counts = Counts { lines_in: 1, rows: 1, duplicates: 0, quarantined: 0 };
        lake.append(TABLE, &[file], &batch_id("3"), counts).await.unwrap();

        let Merged::Done(made) = merge(&lake, Level::L2).await else { panic!("{place}: stale") };
        assert_eq!((made.rows, made.duplicates, made.conflicts), (3, 2, 1), "{place}");
        assert_eq!(sorted(ids(&lake).await), [1, 2, 3], "{place}");
        let kept = lake.list_objects("quarantine").await.unwrap();
        assert_eq!(kept.len(), 1, "{place}");
        let kept: Value = serde_json::from_slice(&lake.read_object(&kept[0].key).await.unwrap().unwrap()).unwrap();
        assert_eq!((&kept["reason"], &kept["source"]), (&Value::from("conflict"), &Value::from("wechat")), "{place}");
        assert!(kept["text"].as_str().unwrap().contains("something else"), "{place}: {kept}");
    }
}

/// Text that no compression makes much smaller.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (state >> 33) as u8 % 64)
    };
    (0..length).map(|_| letter()).collect()
}

#[tokio::test]
async fn a_large_file_is_sent_in_parts_and_is_whole() {
    let (server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        for n in 0..2_u64 {
            let rows = crate::support::messages_of(&[n], &noise(n, 8 << 20), time::Duration::ZERO);
            let written = write_parquet(TABLE, &rows, Level::L0).unwrap();
            let file = lake.write_batch_file(TABLE, day(), &batch_id(&n.to_string()), &written).await.unwrap();
            let counts = Counts { lines_in: 1, rows: 1, duplicates: 0, quarantined: 0 };
            lake.append(TABLE, &[file], &batch_id(&n.to_string()), counts).await.unwrap();
        }
        let Merged::Done(made) = merge(&lake, Level::L1).await else { panic!("{place}: stale") };
        assert!(made.bytes_out > 10 << 20, "{place}: {made:?}");
        assert_eq!(sorted(ids(&lake).await), [0, 1], "{place}");
    }
    let asked = server.buckets.requests();
    assert_eq!((asked["CreateMultipartUpload"], asked["CompleteMultipartUpload"]), (1, 1), "{asked:?}");
    assert_eq!(asked["UploadPart"], 2, "{asked:?}");
}

#[tokio::test]
async fn a_warm_writer_asks_the_store_to_write_and_nothing_else() {
    let (server, _folder, [(_, lake), _]) = both().await;
    append(&lake, "cold", &[0]).await.unwrap();
    let before = server.buckets.requests();
    for n in 1..=10 {
        append(&lake, &format!("{n}"), &[n]).await.unwrap();
    }
    let after = server.buckets.requests();
    let asked: Vec<_> = after
        .iter()
        .map(|(name, count)| (name.as_str(), count - before.get(name).copied().unwrap_or_default()))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(asked, [("PutObject", 20)], "a file and a commit for each");
}

#[tokio::test]
async fn a_checkpoint_is_due_after_so_many_commits() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        for n in 0..CHECKPOINT_EVERY {
            assert_eq!(lake.checkpoint(TABLE, CHECKPOINT_EVERY).await.unwrap(), None, "{place} after {n}");
            append(&lake, &format!("{n}"), &[n]).await.unwrap();
        }
        assert_eq!(lake.checkpoint(TABLE, CHECKPOINT_EVERY).await.unwrap(), Some(CHECKPOINT_EVERY), "{place}");
        assert_eq!(lake.stats(TABLE).await.unwrap().commits_since_checkpoint, 0, "{place}");
        assert_eq!(ids(&lake).await.len() as u64, CHECKPOINT_EVERY, "{place}");
    }
}

#[tokio::test]
async fn an_object_is_new_once() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        assert_eq!(lake.write_new_object("raw/v1/a", "1".into()).await.unwrap(), Put::Written, "{place}");
        assert_eq!(lake.write_new_object("raw/v1/a", "2".into()).await.unwrap(), Put::AlreadyThere, "{place}");
        assert_eq!(lake.read_object("raw/v1/a").await.unwrap().unwrap(), "1", "{place}");
        assert_eq!(lake.read_object("raw/v1/b").await.unwrap(), None, "{place}");
        assert_eq!(lake.list_objects("raw").await.unwrap().len(), 1, "{place}");
        lake.delete_objects(&["raw/v1/a".to_owned(), "raw/v1/b".to_owned()]).await.unwrap();
        assert!(lake.list_objects("raw").await.unwrap().is_empty(), "{place}");
    }
}
