//! Validation, and the search for ids that are there twice.

use std::collections::BTreeSet;
use std::fs;

use domain::lake::Kind;
use lake_reader::{Duplicate, ProblemKind};
use lake_rows::Level;

use crate::support::{DAY, Table, day, message, random_messages};

#[tokio::test]
async fn a_sound_table_has_no_problems() {
    let mut table = Table::new();
    let mut random = fastrand::Rng::with_seed(1);
    for n in 0..2 {
        for _ in 0..3 {
            table.append_messages(day(n), &random_messages(&mut random, n, 50, 100)).await;
        }
    }
    table.merge_all(day(0), Level::L2).await;
    let found = table.reader().validate(Kind::Messages, None).await.unwrap();
    assert_eq!((found.total, found.files, found.partitions.len()), (0, 4, 2), "{found:?}");
    let one = table.reader().validate(Kind::Messages, Some(day(1))).await.unwrap();
    assert_eq!((one.files, one.rows), (3, one.partitions[0].rows));
}

#[tokio::test]
async fn a_file_that_is_gone_cut_or_broken_is_named() {
    let mut table = Table::new();
    for n in 0..4 {
        table.append_messages(day(n), &random_messages(&mut fastrand::Rng::with_seed(1), n, 200, 400)).await;
    }
    let files = table.lake.files(Kind::Messages, |_| true).await.unwrap();
    let mut paths = Vec::new();
    for file in &files {
        paths.push(table.folder.path().join(table.lake.file_key(Kind::Messages, &file.path).await.unwrap()));
    }
    fs::remove_file(&paths[0]).unwrap();
    let bytes = fs::read(&paths[1]).unwrap();
    fs::write(&paths[1], &bytes[..bytes.len() / 2]).unwrap();
    let mut bytes = fs::read(&paths[2]).unwrap();
    let length = bytes.len();
    bytes[length - 20..].fill(0xff);
    fs::write(&paths[2], bytes).unwrap();

    let found = table.reader().validate(Kind::Messages, None).await.unwrap();
    let problems = found.partitions.iter().flat_map(|day| &day.problems);
    let problems: Vec<_> = problems.map(|it| (it.file.as_str(), it.problem)).collect();
    let expected = [ProblemKind::Missing, ProblemKind::Size, ProblemKind::Unreadable];
    let expected: Vec<_> = files.iter().map(|file| file.path.as_str()).zip(expected).collect();
    assert_eq!((problems, found.total), (expected, 3));
}

#[tokio::test]
async fn ids_that_are_there_twice_are_counted_and_the_first_are_named() {
    let mut table = Table::new();
    let many = |from: usize, to: usize| (from..to).map(|id| message(&format!("{id:04}"), 1)).collect::<Vec<_>>();
    table.append_messages(day(0), &many(0, 300)).await;
    table.append_messages(day(0), &many(150, 400)).await;
    table.append_messages(day(0), &many(299, 300)).await;
    table.append_messages(day(1), &[message("0001", DAY)]).await;
    let reader = table.reader();
    let found = reader.duplicates(None, None).await.unwrap();
    let [first, second] = &found.days[..] else { panic!("{found:?}") };
    assert_eq!((found.total, first.rows, first.ids, first.total), (150, 551, 400, 150));
    assert_eq!((first.duplicates.len(), &first.duplicates[0].msg_id[..], first.duplicates[0].rows), (100, "0150", 2));
    assert_eq!((second.rows, second.ids, second.total), (1, 1, 0));

    table.merge_all(day(0), Level::L1).await;
    assert_eq!(reader.duplicates(Some(day(0)), Some(day(0))).await.unwrap().total, 0);
    table.append_messages(day(0), &many(7, 8)).await;
    let found = reader.duplicates(Some(day(0)), None).await.unwrap();
    assert_eq!(found.days[0].duplicates, [Duplicate { msg_id: "0007".into(), rows: 2 }]);
}

#[tokio::test]
async fn rows_that_belong_elsewhere_lack_their_key_or_stand_in_disorder_are_found() {
    let mut table = Table::new();
    let no_columns = BTreeSet::new();
    let mut keyless = vec![message("1", 1), message("2", 2)];
    keyless[1].remove("create_time");
    table.append_messages(day(0), &keyless).await;
    table.append_messages(day(1), &[message("3", 3)]).await;
    table
        .append_as(Level::L1.prefix(), day(2), &[message("5", 2 * DAY + 5), message("4", 2 * DAY + 4)], &no_columns)
        .await;
    table.append_as(Level::L1.prefix(), day(3), &[message("4", 3 * DAY), message("5", 3 * DAY)], &no_columns).await;
    let found = table.reader().validate(Kind::Messages, None).await.unwrap();
    let problems: Vec<Vec<_>> =
        found.partitions.iter().map(|day| day.problems.iter().map(|it| it.problem).collect()).collect();
    assert_eq!(
        problems,
        [vec![ProblemKind::NullKey], vec![ProblemKind::Partition], vec![ProblemKind::Order], vec![]],
        "{found:?}"
    );
}
