//! What the tables hold of the days that are imported into: each row in 40 bytes.

use std::collections::HashMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{BooleanArray, RecordBatch};
use bytes::Bytes;
use domain::lake::{Kind, Partition};
use lake::Lake;
use lake_rows::{Batch, Digester, Line, Quarantined, Reason};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::ImportFault;

/// How many rows are known at a time. Beyond, the days that were not at hand lately are forgotten, and read again when they are.
pub(crate) const ROWS: usize = 4_000_000;

/// The rows of a day, by what they are recognised by. Of several the one that was received last, for that is how a contact is now.
#[derive(Debug, Default)]
struct Day(HashMap<[u8; 16], Said>);

#[derive(Debug, Clone, Copy)]
struct Said {
    received_at: i64,
    says: [u8; 16],
}

impl Day {
    fn learn(&mut self, digester: Digester, table: Kind, rows: &RecordBatch) {
        for (digest, received_at) in digester.digests(table, rows).into_iter().zip(received(rows)) {
            let said = Said { received_at, says: digest.says };
            let known = self.0.entry(digest.key).or_insert(said);
            if known.received_at <= received_at {
                *known = said;
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Known<'a> {
    lake: &'a Lake,
    digester: Digester,
    days: HashMap<(Kind, Partition), (u64, Day)>,
    /// How often days were asked for, which tells how lately each was.
    asked: u64,
}

/// What of a batch is known.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) duplicates: u64,
    pub(crate) conflicts: Vec<Conflict>,
}

/// A row whose id the table has, and that says something else.
#[derive(Debug)]
pub(crate) struct Conflict {
    pub(crate) line: u64,
}

impl Conflict {
    pub(crate) fn quarantined(&self, line: &Line<'_>) -> Quarantined {
        Quarantined::new(line, Reason::Conflict, "the table has a message of this id that says something else")
    }
}

impl<'a> Known<'a> {
    pub(crate) fn new(lake: &'a Lake) -> Self {
        Self { lake, digester: Digester::default(), days: HashMap::new(), asked: 0 }
    }

    /// Drops the rows that the table has. A contact that says something new is new.
    pub(crate) async fn judge(&mut self, batch: &mut Batch) -> Result<Seen, ImportFault> {
        let (digester, table) = (self.digester, batch.table);
        let day = self.day(table, batch.partition).await?;
        let mut seen = Seen::default();
        let mut kept = Vec::with_capacity(batch.rows.num_rows());
        let lines = lines(&batch.rows);
        for (at, digest) in digester.digests(table, &batch.rows).into_iter().enumerate() {
            let says_the_same = day.0.get(&digest.key).map(|said| said.says == digest.says);
            kept.push(match table {
                Kind::Messages => says_the_same.is_none(),
                Kind::Contacts => says_the_same != Some(true),
            });
            if table == Kind::Messages && says_the_same == Some(false) {
                seen.conflicts.extend(lines.get(at).map(|line| Conflict { line: *line }));
            }
        }
        seen.duplicates = batch.retain(&BooleanArray::from(kept))? - seen.conflicts.len() as u64;
        Ok(seen)
    }

    /// Knows the rows from now on: they are in the table.
    pub(crate) fn learn(&mut self, batch: &Batch) {
        if let Some((_, day)) = self.days.get_mut(&(batch.table, batch.partition)) {
            day.learn(self.digester, batch.table, &batch.rows);
        }
    }

    async fn day(&mut self, table: Kind, partition: Partition) -> Result<&Day, ImportFault> {
        self.asked += 1;
        if !self.days.contains_key(&(table, partition)) {
            self.forget();
            let mut day = Day::default();
            for file in self.lake.files(table, move |it| it == partition).await? {
                read(self.digester, table, self.lake.read_file(table, &file.path).await?, &mut day)?;
            }
            self.days.insert((table, partition), (0, day));
        }
        let (asked, day) = self.days.entry((table, partition)).or_default();
        *asked = self.asked;
        Ok(day)
    }

    /// Forgets days until there is room, the one that was asked for longest ago first.
    fn forget(&mut self) {
        while self.days.values().map(|(_, day)| day.0.len()).sum::<usize>() > ROWS {
            let oldest = self.days.iter().min_by_key(|(_, (asked, _))| *asked).map(|(at, _)| *at);
            oldest.map(|at| self.days.remove(&at));
        }
    }
}

/// Reads a file's digests, some rows at a time.
fn read(digester: Digester, table: Kind, file: Bytes, day: &mut Day) -> Result<(), ImportFault> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let content = builder.schema().fields().iter().map(|field| field.name().as_str());
    let content: Vec<&str> = content.filter(|name| lake_rows::is_content(name) || *name == "received_at").collect();
    let mask = ProjectionMask::columns(builder.parquet_schema(), content);
    for rows in builder.with_projection(mask).build()? {
        day.learn(digester, table, &rows?);
    }
    Ok(())
}

/// The line of each row.
pub(crate) fn lines(rows: &RecordBatch) -> Vec<u64> {
    let column = rows.column_by_name("raw_line").and_then(|column| column.as_primitive_opt::<Int64Type>());
    let lines = column.into_iter().flat_map(|lines| lines.values().iter());
    lines.map(|line| u64::try_from(*line).unwrap_or_default()).collect()
}

/// When each row was received, in microseconds.
fn received(rows: &RecordBatch) -> impl Iterator<Item = i64> {
    let column = rows.column_by_name("received_at");
    let times = column.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    (0..rows.num_rows()).map(move |at| times.and_then(|times| times.values().get(at).copied()).unwrap_or_default())
}
