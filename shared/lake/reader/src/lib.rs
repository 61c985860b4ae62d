//! Answers queries over the lake's tables, in little memory and few requests: the log says which files there are, nothing is listed.
//!
//! 1. **Files** are left out by their day and by the log's bounds of their columns. What is left decides whether the query is too large, before anything
//!    is read ([`SCAN_BYTES`]).
//! 2. **Footers**, page indexes and Bloom filters come with one request for a file's end, many files at once. Files never change, so what is known of one
//!    is kept, up to so many bytes. A small file is kept whole.
//! 3. **Pages**: row groups and pages are left out by their bounds; of the others first those columns are read that decide which rows are wanted, and
//!    then the columns that were asked for, of these rows alone. Pages that lie near each other are one request, and all requests are under way at once.
//!
//! **A message counts once**, merged or not: of a day's rows with one `msg_id` the one that was received first, which is what a merge keeps. Where a day is one
//! merged file nothing needs to be compared. Where it is not, all its ids are, once for each set of files.
//!
//! **A version stays readable** for days after its files were merged away. If a file is gone all the same, the query is done again with the table as it is
//! then; if that fails too, the caller should come again ([`ReadFault::Missing`]).
//!
//! **Requests** of a look-up by id in a table of `n` merged files, beside one that asks the log for news:
//!
//! | the process knows | round trips | requests |
//! |---|---|---|
//! | the files | 2: the ids of the row group that has it by its Bloom filter, then its row | 2, or a few more if the row's pages are far apart |
//! | the log alone | 3: before these the ends of all files, 32 at once | `n` more; another for each file whose Bloom filters are not at its end |
//!
//! Files that are not merged have no Bloom filter, but are small, and are known whole.

mod cache;
mod condition;
mod count;
mod cursor;
mod duplicates;
mod fault;
mod file;
mod lookup;
mod messages;
mod twins;
mod validate;
mod view;

use std::sync::Arc;
use std::vec::IntoIter;

use arrow_array::RecordBatch;
use domain::lake::{Kind, Partition};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{Buffered, Iter, StreamExt as _};
use lake::Lake;
use serde::Serialize;
use time::OffsetDateTime;

pub use crate::cursor::{Cursor, NotACursor};
pub use crate::fault::ReadFault;

/// What one request may have to scan, by the log's sizes of the files that are left after pruning.
pub const SCAN_BYTES: u64 = 2 << 30;

/// How much of a file's end is read first, which is all of a small file, and the footer, page index and Bloom filter of a day of 100,000 rows. Parts of
/// a file that are not farther apart are one request: while one waits for its first byte, so many bytes would have come.
pub const END_BYTES: u64 = 256 << 10;

/// A page ends before its rows hold more than so many bytes of values.
pub const PAGE_BYTES: usize = 3 << 20;

/// So many problems or duplicates of a day are named; all are counted.
pub const NAMED: usize = 100;

/// Which messages are asked for: those that agree in all that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Said at this time or later.
    pub start: Option<OffsetDateTime>,
    /// Said before this time.
    pub end: Option<OffsetDateTime>,
    pub chatroom: Option<String>,
    pub from_username: Option<String>,
    pub chatroom_sender: Option<String>,
    pub msg_type: Option<i64>,
    pub source: Option<String>,
}

/// A page of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pub filter: Filter,
    /// In the order of the answer; all of the table if none is named.
    pub columns: Vec<String>,
    /// The most rows; none is taken for one.
    pub limit: usize,
    /// Where the page before ended.
    pub after: Option<Cursor>,
}

/// A page of rows, ordered by `create_time` and `msg_id`.
#[derive(Debug, Clone)]
pub struct Found {
    /// Text is `Utf8`.
    pub rows: RecordBatch,
    /// Where the next page begins, if there is a row for it.
    pub next: Option<Cursor>,
    /// The version of the table that was read; 0 if there is no table.
    pub version: u64,
    /// The bytes of files that were read for it, whether from the store or from memory.
    pub scanned_bytes: u64,
}

/// How a table's files are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Validation {
    /// The version of the table that was looked at.
    pub version: u64,
    pub files: u64,
    pub rows: u64,
    /// How many problems there are, named or not.
    pub total: u64,
    pub partitions: Vec<PartitionValidation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionValidation {
    pub partition: Partition,
    pub files: u64,
    pub bytes: u64,
    /// The rows that the log promises.
    pub rows: u64,
    /// How many problems there are, named or not.
    pub total: u64,
    /// The first [`NAMED`] of them.
    pub problems: Vec<Problem>,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its path in the table.
    pub file: String,
    pub problem: ProblemKind,
    /// For people.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The log names it, and the store has no such object.
    Missing,
    /// It is not as large as the log says.
    Size,
    /// It is no Parquet, or a part of it cannot be decoded.
    Unreadable,
    /// It does not have the rows that the log says.
    Rows,
    /// A column is not of the table's type, or not in the table.
    Schema,
    /// A row lacks its id or its time.
    NullKey,
    /// A row's time is of another day.
    Partition,
    /// A merged file's row should stand before the one before it.
    Order,
}

/// Ids that more than one row has, day by day. Days without any are told of as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// The version of the table that was looked at.
    pub version: u64,
    /// How many ids are in more than one row.
    pub total: u64,
    pub days: Vec<DayDuplicates>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayDuplicates {
    pub partition: Partition,
    pub rows: u64,
    pub ids: u64,
    /// How many ids are in more than one row.
    pub total: u64,
    /// The first [`NAMED`] of them, by id.
    pub duplicates: Vec<Duplicate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    pub msg_id: String,
    pub rows: u64,
}

/// Reads the tables of a lake. Make one per process: it keeps what it knows of files.
#[derive(Debug)]
pub struct Reader {
    lake: Arc<Lake>,
    known: view::Known,
    scan_bytes: u64,
    end_bytes: u64,
}

impl Reader {
    #[must_use]
    pub fn new(lake: Arc<Lake>) -> Self {
        Self { lake, known: view::Known::default(), scan_bytes: SCAN_BYTES, end_bytes: END_BYTES }
    }

    /// The same with another limit than [`SCAN_BYTES`].
    #[must_use]
    pub fn with_scan_bytes(self, scan_bytes: u64) -> Self {
        Self { scan_bytes, ..self }
    }

    /// The same with another size than [`END_BYTES`].
    #[must_use]
    pub fn with_end_bytes(self, end_bytes: u64) -> Self {
        Self { end_bytes, ..self }
    }

    /// A page of messages, each once: of the rows with one `msg_id` the one that was received first, whether they are merged yet or not.
    ///
    /// Rows without `msg_id` or `create_time` are no messages; [`Reader::validate`] tells of them.
    pub async fn messages(&self, query: &Query) -> Result<Found, ReadFault> {
        again(|| messages::messages(self, query)).await
    }

    /// A message by its id, with all columns; of several rows the one that was received first.
    pub async fn message(&self, msg_id: &str) -> Result<Option<RecordBatch>, ReadFault> {
        again(|| lookup::message(self, msg_id)).await
    }

    /// A contact by its id, with all columns; of several rows the one that was received last.
    pub async fn contact(&self, username: &str) -> Result<Option<RecordBatch>, ReadFault> {
        again(|| lookup::contact(self, username)).await
    }

    /// How many messages have each value of a column, the most frequent first and then by value; each message counts once.
    pub async fn count_by(&self, filter: &Filter, column: &str) -> Result<Vec<(Option<String>, u64)>, ReadFault> {
        again(|| count::count_by(self, filter, column)).await
    }

    /// Looks at every file of a partition, or of the table, and says what is wrong with it.
    pub async fn validate(&self, kind: Kind, partition: Option<Partition>) -> Result<Validation, ReadFault> {
        validate::validate(self, kind, partition).await
    }

    /// Which ids are in more than one row, from day `start` to day `end`, both included.
    pub async fn duplicates(&self, start: Option<Partition>, end: Option<Partition>) -> Result<Duplicates, ReadFault> {
        again(|| duplicates::duplicates(self, start, end)).await
    }
}

/// Awaits a few of the futures at a time, in order.
///
/// They are boxed because a stream of closures' futures, which borrow, is more than the compiler proves to be `Send`, as a server's must be.
fn few_at_once<'a, T>(
    futures: impl Iterator<Item = impl Future<Output = T> + Send + 'a>,
    count: usize,
) -> Buffered<Iter<IntoIter<BoxFuture<'a, T>>>> {
    let futures: Vec<BoxFuture<'a, T>> = futures.map(|future| future.boxed()).collect();
    futures_util::stream::iter(futures).buffered(count)
}

/// Does it once more, with the table as it is then, if a file was gone: it was merged away, and that so long ago that it was deleted.
async fn again<T, F: Future<Output = Result<T, ReadFault>>>(query: impl Fn() -> F) -> Result<T, ReadFault> {
    match query().await {
        Err(ReadFault::Missing(_)) => query().await,
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server hands its futures from thread to thread: that this compiles is most of the test.
    #[tokio::test]
    async fn every_answer_may_be_awaited_on_any_thread() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(&lake::Settings::folder(folder.path())).unwrap();
        let (reader, query) = (Reader::new(Arc::new(lake)), Query::default());
        let answers: [BoxFuture<'_, bool>; 6] = [
            async { reader.messages(&query).await.is_ok() }.boxed(),
            async { reader.message("").await.is_ok() }.boxed(),
            async { reader.contact("").await.is_ok() }.boxed(),
            async { reader.count_by(&query.filter, "chatroom").await.is_ok() }.boxed(),
            async { reader.validate(Kind::Messages, None).await.is_ok() }.boxed(),
            async { reader.duplicates(None, None).await.is_ok() }.boxed(),
        ];
        for answer in answers {
            assert!(answer.await, "an empty lake is no fault");
        }
    }
}
