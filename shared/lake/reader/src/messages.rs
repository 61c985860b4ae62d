//! Pages of messages: first which rows they are, then their columns.

use std::collections::BinaryHeap;
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use arrow_select::concat::concat_batches;
use domain::lake::{Kind, Partition};
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use lake::DataFile;

use crate::condition::{Condition, ranges, selection, without};
use crate::cursor::Cursor;
use crate::fault::ReadFault;
use crate::file::{File, Form, Pages};
use crate::twins::Twins;
use crate::view::{OPEN_AT_ONCE, Place, READ_AT_ONCE, View};
use crate::{Found, PAGE_BYTES, Query, Reader, few_at_once};

/// The most days that are searched at once.
const DAYS_AT_ONCE: usize = 8;

/// So many rows are read at first, and then as many as those let hope for: it is not known before how large they are.
const FIRST_ROWS: usize = 256;
const MORE_ROWS: usize = 8;

/// Where rows are ordered and identified by.
const SAID: &str = "create_time";
const ID: &str = "msg_id";

/// A row that is on the page, or the first after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    at: Cursor,
    place: Place,
}

pub(crate) async fn messages(reader: &Reader, query: &Query) -> Result<Found, ReadFault> {
    let condition = Condition::new(&query.filter, query.after.as_ref());
    let view = reader.view(Kind::Messages, condition.days()).await?;
    let schema = view.schema_of(&query.columns)?;
    let limit = query.limit.max(1);
    let days: Vec<(Partition, &[DataFile])> = view.days.iter().map(|(day, files)| (*day, files.as_slice())).collect();
    reader.allow(to_scan(&days, &condition, limit))?;

    // A page is usually found in the first day. If not, in ever more days at once, so that few of many empty ones are waited for.
    let (mut found, mut at_once, mut rest): (Vec<Candidate>, _, _) = (Vec::new(), 1, days.as_slice());
    let mut files: Vec<&DataFile> = Vec::new();
    while let Some((days, after)) = rest.split_at_checked(at_once.min(rest.len())).filter(|(days, _)| !days.is_empty())
    {
        let wanted = limit + 1 - found.len();
        let search = days.iter().map(|(_, files)| search(&view, files, &condition, query.after.as_ref(), wanted));
        let mut searched = few_at_once(search, DAYS_AT_ONCE).zip(futures_util::stream::iter(days));
        while let Some((candidates, (_, of_day))) = searched.next().await {
            let first = files.len();
            files.extend(of_day.iter());
            found.extend(candidates?.into_iter().map(|mut one| {
                one.place.file += first;
                one
            }));
        }
        drop(searched);
        found.truncate(limit + 1);
        if found.len() > limit {
            break;
        }
        (rest, at_once) = (after, (at_once * 2).min(DAYS_AT_ONCE));
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let (rows, cut) = page(&view, &files, &found, &schema).await?;
    let last = rows.num_rows().checked_sub(1).and_then(|last| found.get(last)).filter(|_| more || cut);
    let next = last.map(|last| last.at.clone());
    Ok(Found { rows, next, version: view.version, scanned_bytes: view.scanned_bytes() })
}

/// The bytes that a page may have to scan. If only times are asked for, these are the days until there are rows enough, by the log's counts, of
/// which the first and the last may have none; otherwise every file that may hold a row, for it may be that none does.
fn to_scan(days: &[(Partition, &[DataFile])], condition: &Condition<'_>, limit: usize) -> u64 {
    let (mut bytes, mut rows) = (0, 0);
    for (day, files) in days {
        if !condition.is_about_more_than_time() && rows > limit as u64 {
            break;
        }
        let files = files.iter().filter(|file| condition.may_be_in(&file.stats));
        for file in files {
            bytes += file.bytes;
            if condition.has_all_of(*day) {
                rows += file.rows;
            }
        }
    }
    bytes
}

/// The first rows of a day, in order.
async fn search(
    view: &View<'_>,
    day: &[DataFile],
    condition: &Condition<'_>,
    after: Option<&Cursor>,
    wanted: usize,
) -> Result<Vec<Candidate>, ReadFault> {
    if !day.iter().any(|file| condition.may_be_in(&file.stats)) {
        return Ok(Vec::new());
    }
    let twins = view.twins(day).await?;
    let mut first = First { after, wanted, heap: BinaryHeap::new() };
    for_each_group(view, day, condition, &[SAID, ID], |group| {
        let rows = group.rows(condition, &twins)?;
        first.take(group, &rows)
    })
    .await?;
    Ok(first.heap.into_sorted_vec())
}

/// A row group of which pages were read.
pub(crate) struct Group<'a, 'b> {
    pub(crate) file: &'b File<'a>,
    /// The file's number in its day.
    at: usize,
    group: usize,
    /// The number in the file of the group's first row.
    first: usize,
    /// The rows of the group whose pages were read.
    read: Vec<Range<usize>>,
    pages: Pages,
}

impl Group<'_, '_> {
    /// The rows of the group that are messages and pass.
    pub(crate) fn rows(&self, condition: &Condition<'_>, twins: &Twins) -> Result<Vec<Range<usize>>, ReadFault> {
        let (file, all) = (&self.file.opened, self.file.opened.group_rows(self.group));
        let columns = condition.columns(file, self.group);
        let mut rows = self.read.clone();
        if !columns.is_empty() {
            let read = selection(&self.read, all);
            let batch = self.file.decode(&self.pages, &columns, read.as_ref(), Form::Keyed)?;
            let passed = condition.passed(file, self.group, &batch);
            let read = self.read.iter().cloned().flatten();
            rows = ranges(read.zip(passed).filter(|(_, passed)| *passed).map(|(row, _)| row));
        }
        let lost = twins.lost(self.at, self.first..self.first + all).map(|row| row - self.first);
        Ok(without(rows, lost))
    }

    /// Columns of some rows of the group.
    pub(crate) fn columns(
        &self,
        rows: &[Range<usize>],
        columns: &[&str],
        form: Form,
    ) -> Result<RecordBatch, ReadFault> {
        let selection = selection(rows, self.file.opened.group_rows(self.group));
        self.file.decode(&self.pages, columns, selection.as_ref(), form)
    }
}

/// Reads the columns of the condition, and others, of each row group of a day that may hold a row of it.
pub(crate) async fn for_each_group(
    view: &View<'_>,
    day: &[DataFile],
    condition: &Condition<'_>,
    others: &[&str],
    mut each: impl FnMut(&Group<'_, '_>) -> Result<(), ReadFault>,
) -> Result<(), ReadFault> {
    let numbered: Vec<_> = day.iter().enumerate().filter(|(_, file)| condition.may_be_in(&file.stats)).collect();
    for some in numbered.chunks(OPEN_AT_ONCE) {
        let open = some.iter().map(|(at, file)| async move { Ok::<_, ReadFault>((*at, view.open(file).await?)) });
        let files: Vec<(usize, File<'_>)> = few_at_once(open, OPEN_AT_ONCE).try_collect().await?;
        let mut groups = Vec::new();
        for (at, file) in &files {
            for (group, first) in file.opened.first_rows() {
                let read = condition.rows(&file.opened, group);
                if !read.is_empty() {
                    groups.push((*at, file, group, first, read));
                }
            }
        }
        let read = groups.into_iter().map(|(at, file, group, first, read)| async move {
            let columns = [&condition.columns(&file.opened, group)[..], others].concat();
            let selection = selection(&read, file.opened.group_rows(group));
            let pages = file.pages(group, &columns, selection.as_ref()).await?;
            Ok::<_, ReadFault>(Group { file, at, group, first, read, pages })
        });
        let mut read = few_at_once(read, READ_AT_ONCE);
        while let Some(group) = read.try_next().await? {
            each(&group)?;
        }
    }
    Ok(())
}

/// The first rows of those that were seen.
struct First<'a> {
    after: Option<&'a Cursor>,
    wanted: usize,
    /// The last of them on top.
    heap: BinaryHeap<Candidate>,
}

impl First<'_> {
    fn take(&mut self, group: &Group<'_, '_>, rows: &[Range<usize>]) -> Result<(), ReadFault> {
        if rows.is_empty() {
            return Ok(());
        }
        let batch = group.columns(rows, &[SAID, ID], Form::Plain)?;
        let said = batch.column_by_name(SAID).and_then(|it| it.as_primitive_opt::<TimestampMicrosecondType>());
        let ids = batch.column_by_name(ID).and_then(|it| it.as_string_opt::<i32>());
        let (Some(said), Some(ids)) = (said, ids) else { return Ok(()) };
        for (at, row) in rows.iter().cloned().flatten().enumerate() {
            if said.is_null(at) || ids.is_null(at) {
                continue;
            }
            let (micros, id) = (said.value(at), ids.value(at));
            let is_after = |other: &Cursor| (micros, id) > (other.micros, other.msg_id.as_str());
            if self.after.is_some_and(|after| !is_after(after)) {
                continue;
            }
            if self.heap.len() >= self.wanted {
                if self.heap.peek().is_some_and(|last| is_after(&last.at)) {
                    continue;
                }
                self.heap.pop();
            }
            let at = Cursor { micros, msg_id: id.to_owned() };
            self.heap.push(Candidate { at, place: Place { file: group.at, group: group.group, row } });
        }
        Ok(())
    }
}

/// The columns of the rows, as many rows as a page may hold, and whether that is fewer than there are.
async fn page(
    view: &View<'_>,
    files: &[&DataFile],
    found: &[Candidate],
    schema: &arrow_schema::SchemaRef,
) -> Result<(RecordBatch, bool), ReadFault> {
    let places: Vec<Place> = found.iter().map(|one| one.place).collect();
    let (mut batches, mut read, mut bytes, mut count): (Vec<RecordBatch>, _, _, _) = (Vec::new(), 0, 0, FIRST_ROWS);
    while let Some(next) = places.get(read..places.len().min(read + count)).filter(|next| !next.is_empty()) {
        let batch = view.rows(files, next, schema).await?;
        let sizes = row_bytes(&batch);
        let fitting = sizes.iter().take_while(|size| {
            bytes += **size;
            bytes <= PAGE_BYTES
        });
        let fitting = fitting.count();
        read += fitting;
        if fitting < batch.num_rows() {
            let kept = if read == 0 { 1 } else { fitting };
            batches.push(batch.slice(0, kept));
            let rows = concat_batches(schema, &batches)?;
            let cut = rows.num_rows() < places.len();
            return Ok((rows, cut));
        }
        batches.push(batch);
        let hoped = (PAGE_BYTES - bytes) / (bytes / read).max(1);
        count = hoped.clamp(1, count * MORE_ROWS);
    }
    Ok((concat_batches(schema, &batches)?, false))
}

/// What the values of each row hold.
fn row_bytes(batch: &RecordBatch) -> Vec<usize> {
    let mut bytes = vec![0; batch.num_rows()];
    for column in batch.columns() {
        match column.as_string_opt::<i32>() {
            Some(texts) => {
                let lengths = texts.value_offsets().iter().zip(texts.value_offsets().iter().skip(1));
                bytes.iter_mut().zip(lengths).for_each(|(bytes, (start, end))| *bytes += (end - start) as usize);
            }
            None => bytes.iter_mut().for_each(|bytes| *bytes += 8),
        }
    }
    bytes
}
