//! Lines -> rows: what is taken in, and what becomes of every line of it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use arrow_array::cast::AsArray as _;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use domain::lake::source::Mapping;
use domain::lake::{Counts, Kind, Partition};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use time::OffsetDateTime;

use crate::columns::{Columns, Row};
use crate::event;
use crate::quarantine::{Quarantined, Reason, Refusal};

/// One event as it came, and where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Without the line break.
    pub bytes: &'a [u8],
    /// The feed: `wechat`, `lark`, `chat`, or the name of another source.
    pub source: &'a str,
    /// How the feed's events are read, unless it is one of Skylark's own.
    pub mapping: &'a Mapping,
    /// Whether numbers of mobile phones lose their middle and `customInfo.detail` its text.
    pub mask: bool,
    pub received_at: OffsetDateTime,
    /// The raw object that keeps it, and the line there, from 1.
    pub raw_object: &'a str,
    pub raw_line: u64,
}

/// Twice what a webhook takes.
pub const MAX_LINE_BYTES: usize = 2 * 1024 * 1024;

/// What a conversion may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// A longer line is quarantined.
    pub max_line_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_line_bytes: MAX_LINE_BYTES }
    }
}

/// Rows of one day of one table: a file to be.
#[derive(Debug, Clone)]
pub struct Batch {
    pub table: Kind,
    pub partition: Partition,
    pub rows: RecordBatch,
}

impl Batch {
    /// Drops the rows that are not `kept`; returns how many.
    pub fn retain(&mut self, kept: &BooleanArray) -> Result<u64, ArrowError> {
        let dropped = kept.len() - kept.true_count();
        if dropped > 0 {
            self.rows = filter_record_batch(&self.rows, kept)?;
        }
        Ok(dropped as u64)
    }
}

/// What became of some lines: `lines_in = rows + duplicates + quarantined`.
#[derive(Debug, Default)]
pub struct Converted {
    pub lines_in: u64,
    pub duplicates: u64,
    /// By table, then by day. No two rows of messages have one `msg_id`, no two of contacts one `username`.
    pub batches: Vec<Batch>,
    pub quarantined: Vec<Quarantined>,
}

impl Converted {
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.rows.num_rows() as u64).sum()
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let quarantined = self.quarantined.len() as u64;
        Counts { lines_in: self.lines_in, rows: self.rows(), duplicates: self.duplicates, quarantined }
    }

    /// What the table's rows are recognised by, in the order of the batches.
    pub fn keys(&self, table: Kind) -> impl Iterator<Item = &str> {
        let batches = self.batches.iter().filter(move |batch| batch.table == table);
        batches
            .filter_map(|batch| batch.rows.columns().first())
            .flat_map(|keys| keys.as_string::<i32>().iter().flatten())
    }

    /// Drops the table's rows whose key is not `new`, as duplicates: for who remembers what earlier batches held.
    pub fn keep(&mut self, table: Kind, mut new: impl FnMut(&str) -> bool) -> Result<(), ArrowError> {
        for batch in self.batches.iter_mut().filter(|batch| batch.table == table) {
            let Some(keys) = batch.rows.columns().first() else { continue };
            let kept: BooleanArray = keys.as_string::<i32>().iter().map(|key| Some(key.is_none_or(&mut new))).collect();
            self.duplicates += batch.retain(&kept)?;
        }
        self.batches.retain(|batch| batch.rows.num_rows() > 0);
        Ok(())
    }
}

/// Turns lines into rows. Of two messages with one `msg_id` the one that was received first stays; of two contacts with one `username` the
/// one that was received last.
pub fn convert<'a>(lines: &[Line<'a>], options: &Options) -> Result<Converted, ArrowError> {
    let mut converter = Converter::new(*options).expecting(lines.iter().map(|line| line.bytes.len()).sum());
    if lines.is_sorted_by_key(|line| line.received_at) {
        lines.iter().for_each(|line| converter.push(line));
    } else {
        let mut lines: Vec<&Line<'a>> = lines.iter().collect();
        lines.sort_by_key(|line| line.received_at);
        lines.into_iter().for_each(|line| converter.push(line));
    }
    converter.finish()
}

/// What a line is by itself, whatever else came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub table: Kind,
    /// Its `msg_id` or `username`.
    pub key: String,
    /// A hash of what it says, the same wherever and whenever it says it: see [`crate::is_content`].
    pub says: String,
}

/// What the line's row is known by; nothing if it will be quarantined for itself.
#[must_use]
pub fn identify(line: &Line<'_>, options: &Options) -> Option<Identity> {
    let mut row = Row::default();
    let place = event::read(line, options, &mut row).ok()?;
    Some(Identity { table: place.table, key: row.key().to_owned(), says: hex::encode(row.says(place.table)) })
}

/// A conversion that takes line by line, in the order in which they were received.
#[derive(Debug)]
pub struct Converter {
    options: Options,
    chunks: Vec<Chunk>,
    /// The chunk of each day that takes rows now.
    open: HashMap<(Kind, Partition), usize>,
    /// The chunk that took the last row: mostly it takes the next one, too.
    last: usize,
    hasher: RandomState,
    /// Where each key is: the key itself is in the columns.
    known: HashTable<At>,
    row: Row,
    /// The bytes of all lines that are to come, if that is known, and of those that came.
    expected_bytes: usize,
    seen_bytes: usize,
    lines_in: u64,
    duplicates: u64,
    quarantined: Vec<Quarantined>,
}

#[derive(Debug)]
struct Chunk {
    table: Kind,
    partition: Partition,
    columns: Columns,
    /// Rows that a later one took the place of.
    superseded: Vec<usize>,
}

/// A chunk that holds so much text takes no more: the offsets of a column have 31 bits.
const CHUNK_BYTES: usize = 512 * 1024 * 1024;

/// After so many rows a chunk guesses how large it will be.
const SAMPLE_ROWS: usize = 64;

impl Converter {
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            chunks: Vec::new(),
            open: HashMap::new(),
            last: 0,
            hasher: RandomState::new(),
            known: HashTable::new(),
            row: Row::default(),
            expected_bytes: 0,
            seen_bytes: 0,
            lines_in: 0,
            duplicates: 0,
            quarantined: Vec::new(),
        }
    }

    /// Tells of how many bytes of lines there will be, so that columns need not grow.
    #[must_use]
    pub fn expecting(mut self, bytes: usize) -> Self {
        self.expected_bytes = bytes;
        self
    }

    /// About what the rows hold in memory.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.columns.text_bytes()).sum()
    }

    pub fn push(&mut self, line: &Line<'_>) {
        self.lines_in += 1;
        self.seen_bytes += line.bytes.len();
        if let Err(refusal) = event::read(line, &self.options, &mut self.row).and_then(|place| self.take(place)) {
            self.quarantined.push(Quarantined::of(line, refusal));
        }
    }

    /// Takes the row that was read, unless it is known.
    fn take(&mut self, place: event::Place) -> Result<(), Refusal> {
        self.last = self.chunk_for(place);
        let (chunks, key) = (&mut self.chunks, self.row.key());
        let new = At {
            hash: self.hasher.hash_one(key),
            chunk: self.last,
            row: chunks.get(self.last).map_or(0, |chunk| chunk.columns.rows()),
        };
        let holds = |at: &At| chunks.get(at.chunk).is_some_and(|chunk| chunk.is(place.table, at.row, key));
        match self.known.entry(new.hash, holds, |at| at.hash) {
            Entry::Vacant(free) => _ = free.insert(new),
            Entry::Occupied(mut known) => {
                let at = *known.get();
                let chunk = chunks.get_mut(at.chunk);
                if place.table == Kind::Messages && chunk.as_ref().is_some_and(|it| !it.columns.says(at.row, &self.row))
                {
                    let detail = format!("another message has the id `{key}` and says something else");
                    return Err(Refusal::new(Reason::Conflict, detail));
                }
                self.duplicates += 1;
                if place.table == Kind::Messages {
                    return Ok(());
                }
                *known.get_mut() = new;
                chunk.into_iter().for_each(|chunk| chunk.superseded.push(at.row));
            }
        }
        if let Some(Chunk { columns, .. }) = chunks.get_mut(new.chunk) {
            columns.append(&self.row);
            if columns.rows() == SAMPLE_ROWS && self.seen_bytes < self.expected_bytes {
                columns.reserve(self.expected_bytes as f64 / self.seen_bytes as f64);
            }
        }
        Ok(())
    }

    fn chunk_for(&mut self, place: event::Place) -> usize {
        let day = (place.table, place.partition);
        let takes = |at: &usize| {
            let chunk = self.chunks.get(*at).filter(|chunk| (chunk.table, chunk.partition) == day);
            chunk.is_some_and(|chunk| chunk.columns.text_bytes() < CHUNK_BYTES)
        };
        let last = Some(self.last).filter(takes);
        if let Some(at) = last.or_else(|| self.open.get(&day).copied().filter(takes)) {
            return at;
        }
        let columns = Columns::new(place.table);
        self.chunks.push(Chunk { table: place.table, partition: place.partition, columns, superseded: Vec::new() });
        let at = self.chunks.len() - 1;
        self.open.insert(day, at);
        at
    }

    pub fn finish(mut self) -> Result<Converted, ArrowError> {
        self.chunks.sort_by_key(|chunk| (chunk.table, chunk.partition));
        let mut batches = Vec::with_capacity(self.chunks.len());
        for chunk in self.chunks {
            let (table, partition, superseded) = (chunk.table, chunk.partition, chunk.superseded);
            let mut rows = chunk.columns.finish()?;
            if !superseded.is_empty() {
                let mut kept = vec![true; rows.num_rows()];
                superseded.into_iter().filter_map(|at| kept.get_mut(at).map(|kept| *kept = false)).for_each(drop);
                rows = filter_record_batch(&rows, &BooleanArray::from(kept))?;
            }
            if rows.num_rows() > 0 {
                batches.push(Batch { table, partition, rows });
            }
        }
        Ok(Converted { lines_in: self.lines_in, duplicates: self.duplicates, batches, quarantined: self.quarantined })
    }
}

impl Chunk {
    fn is(&self, table: Kind, row: usize, key: &str) -> bool {
        self.table == table && self.columns.has_key(row, key)
    }
}

/// A row that is known by its key.
#[derive(Debug, Clone, Copy)]
struct At {
    /// The key's.
    hash: u64,
    chunk: usize,
    row: usize,
}
