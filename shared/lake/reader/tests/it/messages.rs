//! Messages and contacts, as they are found.

use std::collections::{BTreeMap, BTreeSet};

use domain::fault::{Fault as _, Refusal, Remedy};
use domain::lake::Kind;
use fastrand::Rng;
use lake_reader::{END_BYTES, Filter, Query, ReadFault};
use lake_rows::Level;

use crate::support::{
    DAY, EXTRA, FIRST, Row, Table, day, ids, instant, message, micros, number, pages, random_filter, random_messages,
    row, rows,
};

const ALL: usize = 100_000;

fn query(limit: usize) -> Query {
    Query { limit, ..Query::default() }
}

/// A few days of small files, some of another release's, some merged, some sealed.
async fn random_table(random: &mut Rng) -> (Table, i64) {
    let (mut table, days) = (Table::new(), random.i64(1..4));
    for n in 0..days {
        // Days far apart as well.
        let n = n * n * 40;
        for _ in 0..random.usize(1..6) {
            let mut new = random_messages(random, n, 60, 150);
            match random.u8(..5) {
                0 => {
                    let columns = ["content", "chatroom", "msg_type", "source", "received_at", "raw_object"];
                    let unknown: BTreeSet<&str> = columns.into_iter().filter(|_| random.bool()).collect();
                    new.iter_mut().for_each(|row| drop(row.insert(EXTRA.to_owned(), "华东".to_owned())));
                    if unknown.contains("received_at") {
                        new.retain(|row| !table.messages.iter().any(|it| it["msg_id"] == row["msg_id"]));
                    }
                    table.append_other(day(n), &new, &unknown).await;
                }
                _ => table.append_messages(day(n), &new).await,
            }
            match random.u8(..4) {
                0 => table.merge_all(day(n), [Level::L1, Level::L2, Level::Archive][random.usize(..3)]).await,
                1 => table.merge(Kind::Messages, day(n), Level::L1, |_, _| random.bool()).await,
                _ => {}
            }
        }
    }
    (table, (days - 1) * (days - 1) * 40 + 1)
}

#[tokio::test]
async fn whatever_the_files_are_a_query_finds_what_a_look_at_every_row_finds() {
    for seed in 0..8 {
        let mut random = Rng::with_seed(seed);
        let (table, days) = random_table(&mut random).await;
        // Files whole, or in the smallest parts.
        let reader = table.reader().with_end_bytes([END_BYTES, 16][random.usize(..2)]);
        for _ in 0..20 {
            let filter = random_filter(&mut random, days);
            let expected = table.expected(&filter);
            let limit = [1, 2, 7, 50, ALL][random.usize(..5)];
            let asked =
                Query { filter: filter.clone(), ..query(if expected.len() > 200 { 50.max(limit) } else { limit }) };
            let pages = pages(&reader, &asked, async |_| {}).await;
            assert!(pages.iter().all(|page| page.len() <= asked.limit), "seed {seed}: {asked:?}");
            assert_eq!(pages.concat(), expected, "seed {seed}: {asked:?}");

            let column = ["chatroom", "msg_type", "source", "content", EXTRA][random.usize(..5)];
            let mut counts: BTreeMap<Option<String>, u64> = BTreeMap::new();
            expected.iter().for_each(|row| *counts.entry(row.get(column).cloned()).or_default() += 1);
            let mut counts: Vec<_> = counts.into_iter().collect();
            counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            match reader.count_by(&filter, column).await {
                Ok(found) => assert_eq!(found, counts, "seed {seed}: {filter:?} by {column}"),
                Err(ReadFault::UnknownColumn(unknown)) => assert_eq!((unknown.as_str(), column), (EXTRA, EXTRA)),
                Err(fault) => panic!("seed {seed}: {fault:?}"),
            }
        }
        for row in table.expected(&Filter::default()).iter().step_by(11) {
            let all = table.messages.iter().filter(|it| it["msg_id"] == row["msg_id"]);
            let first = all.min_by_key(|it| number(it, "received_at").unwrap_or(i64::MAX)).unwrap();
            let found = reader.message(&row["msg_id"]).await.unwrap().unwrap();
            assert_eq!(&rows(&found)[0], first, "seed {seed}");
        }
        assert!(reader.message("nobody").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn pages_go_on_where_they_ended_while_files_are_merged_and_rows_come() {
    for seed in 0..8 {
        let mut random = Rng::with_seed(seed);
        let mut table = Table::new();
        for _ in 0..6 {
            let new = random_messages(&mut random, 0, 80, 300);
            table.append_messages(day(0), &new).await;
        }
        let (expected, reader) = (table.expected(&Filter::default()), table.reader());
        let asked = query(20);
        let found = pages(&reader, &asked, async |page| match page {
            2 => table.merge(Kind::Messages, day(0), Level::L1, |at, _| at % 2 == 0).await,
            4 => table.merge_all(day(0), Level::L1).await,
            6 => table.merge_all(day(0), Level::L2).await,
            _ => {}
        });
        assert_eq!(found.await.concat(), expected, "seed {seed}");
    }
}

#[tokio::test]
async fn a_table_that_is_not_there_or_empty_has_no_rows_and_all_columns() {
    let mut table = Table::new();
    for there in [false, true] {
        if there {
            table.append_messages(day(0), &[message("1", 0)]).await;
        }
        let reader = table.reader();
        let before = Filter { end: Some(FIRST), ..Filter::default() };
        let found = reader.messages(&Query { filter: before.clone(), ..query(10) }).await.unwrap();
        assert_eq!((found.rows.num_rows(), found.next, found.version > 0), (0, None, there));
        assert_eq!(found.rows.schema().fields().len(), lake_rows::schema(Kind::Messages).fields().len());
        assert_eq!(reader.count_by(&before, "chatroom").await.unwrap(), []);
        assert!(reader.message("0").await.unwrap().is_none());
        assert!(reader.contact("0").await.unwrap().is_none());
        assert_eq!(reader.validate(Kind::Contacts, None).await.unwrap().partitions, []);
        assert_eq!(reader.duplicates(None, Some(day(-1))).await.unwrap().total, 0);
    }
}

#[tokio::test]
async fn only_the_columns_that_are_asked_for_come_in_the_order_in_which_they_are() {
    let mut table = Table::new();
    let mut new = message("1", 5);
    new.insert("content".into(), "大家好 👋".into());
    new.insert(EXTRA.into(), "华东".into());
    table.append_other(day(0), &[new], &BTreeSet::from(["source"])).await;
    table.append_messages(day(0), &[message("2", 6)]).await;
    let reader = table.reader();
    let columns = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let asked = Query { columns: columns(&["content", EXTRA, "source", "msg_id"]), ..query(10) };
    let found = reader.messages(&asked).await.unwrap().rows;
    let names: Vec<_> = found.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, asked.columns);
    assert_eq!(
        rows(&found),
        [
            row([("msg_id", "1"), ("content", "大家好 👋"), (EXTRA, "华东")]),
            row([("msg_id", "2"), ("source", "wechat")])
        ]
    );
    for unknown in ["nonsense", "year", ""] {
        let fault = reader.messages(&Query { columns: columns(&[unknown]), ..query(10) }).await.unwrap_err();
        assert_eq!(fault.remedy(), Remedy::Reject(Refusal::Invalid));
        assert!(matches!(fault, ReadFault::UnknownColumn(name) if name == unknown));
        assert!(reader.count_by(&Filter::default(), unknown).await.is_err());
    }
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_large_and_has_a_row_however_large_that_is() {
    let mut table = Table::new();
    let sized = |id: usize, bytes: usize| {
        let mut row = message(&id.to_string(), id as i64);
        row.insert("content".into(), "x".repeat(bytes));
        row
    };
    let sizes = [1 << 20, 1 << 20, 1 << 20, 5 << 20, 10, 10, 2 << 20, 2 << 20];
    let new: Vec<Row> = sizes.iter().enumerate().map(|(id, bytes)| sized(id, *bytes)).collect();
    table.append_messages(day(0), &new).await;
    let reader = table.reader();
    let counts =
        async |asked: Query| pages(&reader, &asked, async |_| {}).await.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(counts(query(10)).await, [2, 1, 1, 3, 1]);
    assert_eq!(counts(Query { columns: vec!["msg_id".into()], ..query(10) }).await, [8]);
}

#[tokio::test]
async fn what_would_have_to_be_scanned_is_bounded() {
    let mut table = Table::new();
    for n in 0..4 {
        table.append_messages(day(n), &random_messages(&mut Rng::with_seed(1), n, 200, 400)).await;
    }
    let bytes = table.lake.stats(Kind::Messages).await.unwrap().bytes;
    let reader = table.reader().with_scan_bytes(bytes * 2 / 3);
    let fault = reader.count_by(&Filter::default(), "chatroom").await.unwrap_err();
    assert_eq!((fault.code(), fault.remedy()), ("scan_too_large", Remedy::Reject(Refusal::Unprocessable)));
    assert!(matches!(fault, ReadFault::TooLarge { bytes: all, limit } if all == bytes && limit == bytes * 2 / 3));
    assert!(fault.public_message().contains(&bytes.to_string()));

    let two_days = Filter { start: Some(instant(micros(FIRST) + 2 * DAY)), ..Filter::default() };
    assert!(reader.count_by(&two_days, "chatroom").await.is_ok());
    assert!(matches!(reader.messages(&query(ALL)).await, Err(ReadFault::TooLarge { .. })));
}

#[tokio::test]
async fn of_a_contact_the_row_that_came_last_is_found() {
    for level in [None, Some(Level::L1), Some(Level::L2)] {
        let mut table = Table::new();
        let contact = |name: &str, nick: &str, received: i64| {
            let received = (micros(FIRST) + received).to_string();
            row([("username", name), ("nick_name", nick), ("received_at", &received)])
        };
        let (a, b) = (contact("wxid_a", "老王🐱", 7), contact("wxid_a", "小王", 8));
        table.append(Kind::Contacts, day(0), &[b.clone(), contact("wxid_b", "李雷", 9)]).await;
        table.append(Kind::Contacts, day(0), std::slice::from_ref(&a)).await;
        if let Some(level) = level {
            table.merge(Kind::Contacts, day(0), level, |_, _| true).await;
        }
        let reader = table.reader();
        assert_eq!(rows(&reader.contact("wxid_a").await.unwrap().unwrap()), [b], "{level:?}");
        let c = contact("wxid_a", "王", DAY + 1);
        table.append(Kind::Contacts, day(1), std::slice::from_ref(&c)).await;
        assert_eq!(rows(&reader.contact("wxid_a").await.unwrap().unwrap()), [c], "{level:?}");
        assert!(reader.contact("wxid_c").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_row_that_lacks_its_id_or_its_time_is_no_message() {
    let mut table = Table::new();
    let mut new = vec![message("1", 1), message("2", 2), message("3", 3)];
    new[0].remove("msg_id");
    new[1].remove("create_time");
    table.append_messages(day(0), &new).await;
    let reader = table.reader();
    assert_eq!(ids(&rows(&reader.messages(&query(10)).await.unwrap().rows)), ["3"]);
    let counts = reader.count_by(&Filter::default(), "source").await.unwrap();
    assert_eq!(counts, [(Some("wechat".to_owned()), 1)]);
}

/// A day that was merged by another release: sorted, in many row groups and pages.
async fn sorted_day(count: usize) -> Table {
    let mut table = Table::new();
    let mut new = random_messages(&mut Rng::with_seed(7), 0, count, count as u64 * 2);
    new.sort_by(|a, b| {
        let key = |row: &Row| (row.get("chatroom").cloned(), number(row, "create_time"), row["msg_id"].clone());
        key(a).cmp(&key(b))
    });
    table.append_as(Level::L2.prefix(), day(0), &new, &BTreeSet::new()).await;
    table
}

#[tokio::test]
async fn of_a_sorted_file_only_the_pages_that_can_hold_a_row_are_read() {
    let table = sorted_day(2_000).await;
    let bytes = table.lake.stats(Kind::Messages).await.unwrap().bytes;
    let reader = table.reader().with_end_bytes(16);
    let columns = vec!["msg_id".to_owned(), "chatroom".to_owned()];
    let mut random = Rng::with_seed(3);
    for room in 0..6 {
        let filter = Filter { chatroom: Some(format!("群{room}@chatroom")), ..random_filter(&mut random, 1) };
        let asked = Query { filter, columns: columns.clone(), ..query(ALL) };
        let expected = table.expected(&asked.filter);
        // What is known of the file after the first query is not read again.
        reader.messages(&asked).await.unwrap();
        let found = reader.messages(&asked).await.unwrap();
        assert_eq!(ids(&rows(&found.rows)), ids(&expected));
        assert!(found.scanned_bytes < bytes / 6, "{} of {bytes} bytes for room {room}", found.scanned_bytes);
    }
    let none = Query { filter: Filter { chatroom: Some("龙".into()), ..Filter::default() }, ..query(10) };
    let found = reader.messages(&none).await.unwrap();
    assert_eq!((found.rows.num_rows(), found.scanned_bytes), (0, 0));
}

#[tokio::test]
async fn a_file_that_is_gone_though_the_table_names_it_is_asked_for_later() {
    let mut table = Table::new();
    table.append_messages(day(0), &[message("1", 0)]).await;
    let files = table.lake.files(Kind::Messages, |_| true).await.unwrap();
    let key = table.lake.file_key(Kind::Messages, &files[0].path).await.unwrap();
    std::fs::remove_file(table.folder.path().join(key)).unwrap();
    let fault = table.reader().messages(&query(10)).await.unwrap_err();
    assert!(matches!(&fault, ReadFault::Missing(path) if path.ends_with(&files[0].path)), "{fault:?}");
    assert_eq!((fault.remedy(), fault.code()), (Remedy::Retry, "unavailable"));
}
