//! Rows of a day that have one id: which of them is the message.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use domain::lake::Kind;
use futures_util::stream::TryStreamExt as _;
use lake::DataFile;
use lake_rows::{Digester, Level, Rule};

use crate::fault::ReadFault;
use crate::few_at_once;
use crate::file::{File, Form};
use crate::view::{OPEN_AT_ONCE, READ_AT_ONCE, View};

/// So many ids are compared at once; of a day that has more, parts of all ids after each other.
const IDS_AT_ONCE: u64 = 1 << 20;

const RULE: Rule = Rule::of(Kind::Messages);

/// The rows of a day's files that are not the message, because another row with their id was received before them.
#[derive(Debug, Default)]
pub(crate) struct Twins {
    /// For each file, numbers of rows in the file, rising.
    lost: Vec<Vec<u32>>,
}

struct Row {
    id: u128,
    received: Option<i64>,
    file: u32,
    row: u32,
}

impl Twins {
    /// Whether a day may hold an id twice. A merge leaves each once; that a batch does is not relied on.
    pub(crate) fn are_possible(day: &[DataFile]) -> bool {
        match day {
            [] => false,
            [file] => Level::of(&file.path).is_none_or(|level| level == Level::L0),
            _ => true,
        }
    }

    pub(crate) async fn of(view: &View<'_>, files: &[DataFile]) -> Result<Self, ReadFault> {
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        let parts = u128::from(rows.div_ceil(IDS_AT_ONCE).max(1));
        let (digester, mut lost) = (Digester::default(), vec![Vec::new(); files.len()]);
        for part in 0..parts {
            let mut ids = Vec::new();
            each_id(view, files, &[RULE.received_at], |file, row, text, received| {
                let id = digester.id(text);
                if id % parts == part {
                    ids.push(Row { id, received, file: file as u32, row: row as u32 });
                }
            })
            .await?;
            let place = |row: &Row| (row.received, (row.file, row.row));
            ids.sort_unstable_by(|a, b| a.id.cmp(&b.id).then_with(|| RULE.keep.compare(place(a), place(b))));
            for same in ids.chunk_by(|a, b| a.id == b.id) {
                for row in same.iter().skip(1) {
                    if let Some(lost) = lost.get_mut(row.file as usize) {
                        lost.push(row.row);
                    }
                }
            }
        }
        lost.iter_mut().for_each(|rows| rows.sort_unstable());
        Ok(Self { lost })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lost.iter().map(|rows| 24 + 4 * rows.len()).sum()
    }

    /// The rows of a file between these numbers that are not the message.
    pub(crate) fn lost(&self, file: usize, rows: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
        let lost = self.lost.get(file).map(Vec::as_slice).unwrap_or_default();
        let from = lost.partition_point(|row| (*row as usize) < rows.start);
        let lost = lost.get(from..).unwrap_or_default().iter().map(|row| *row as usize);
        lost.take_while(move |row| *row < rows.end)
    }
}

/// Tells of each row that has an id: the file, the row's number in it, the id, and when it was received if that column is one of `others`.
pub(crate) async fn each_id(
    view: &View<'_>,
    files: &[DataFile],
    others: &[&str],
    mut tell: impl FnMut(usize, usize, &str, Option<i64>),
) -> Result<(), ReadFault> {
    let columns = [&[RULE.id], others].concat();
    let columns = columns.as_slice();
    for (chunk, some) in files.chunks(OPEN_AT_ONCE).enumerate() {
        let open = few_at_once(some.iter().map(|file| view.open(file)), OPEN_AT_ONCE);
        let open: Vec<File<'_>> = open.try_collect().await?;
        let numbered = (chunk * OPEN_AT_ONCE..).zip(&open);
        let groups = numbered.flat_map(|(at, file)| {
            file.opened.first_rows().map(move |(group, first)| async move {
                let pages = file.pages(group, columns, None).await?;
                Ok::<_, ReadFault>((at, file, first, pages))
            })
        });
        let mut read = few_at_once(groups, READ_AT_ONCE);
        while let Some((at, file, first, pages)) = read.try_next().await? {
            let batch: RecordBatch = file.decode(&pages, columns, None, Form::Plain)?;
            let ids = batch.column_by_name(RULE.id).and_then(|ids| ids.as_string_opt::<i32>());
            let received = batch.column_by_name(RULE.received_at);
            let received = received.and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
            for (row, id) in ids.into_iter().flatten().enumerate() {
                if let Some(id) = id {
                    let received = received.filter(|times| times.is_valid(row)).map(|times| times.value(row));
                    tell(at, first + row, id, received);
                }
            }
        }
    }
    Ok(())
}
