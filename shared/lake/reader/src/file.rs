//! A data file: its footer, which is kept, and the parts of its columns that are asked for.

use std::iter;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::concat::concat_batches;
use bytes::buf::{Buf, Reader as BytesReader};
use bytes::{Bytes, BytesMut};
use lake::{DataFile, Lake};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelectionPolicy,
};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_schema};
use parquet::bloom_filter::Sbbf;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::fault::ReadFault;

/// A range that is longer is several requests, for one connection is slow.
const PART_BYTES: u64 = 8 << 20;

/// What is known of a file that never changes.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) metadata: Arc<ParquetMetaData>,
    /// Text as `Utf8`,
    plain: ArrowReaderMetadata,
    /// and, where it is written with a dictionary, as keys of one.
    keyed: ArrowReaderMetadata,
    length: u64,
    /// All of it, if it is small; otherwise its end, for as long as nobody keeps it.
    tail: Bytes,
}

/// How text is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Keyed,
}

impl Opened {
    /// Reads the end of a file of `length` bytes: `end` of them at first, and more if that is too few. What is read is added to `scanned`.
    pub(crate) async fn read(
        lake: &Lake,
        key: &str,
        length: u64,
        end: u64,
        scanned: &AtomicU64,
    ) -> Result<Self, ReadFault> {
        let unreadable = |cause| ReadFault::Parquet { file: key.to_owned(), cause };
        let mut wanted = length.min(end);
        loop {
            let end = iter::once(length - wanted..length).collect();
            let parts = lake.read_ranges(key, end).await?.ok_or_else(|| ReadFault::Missing(key.to_owned()))?;
            scanned.fetch_add(wanted, Ordering::Relaxed);
            let tail = parts.into_iter().next().unwrap_or_default();
            let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
            match reader.try_parse_sized(&tail, length) {
                Ok(()) => {
                    let metadata = reader.finish().map_err(unreadable)?;
                    return Self::new(metadata, length, tail).map_err(unreadable);
                }
                Err(ParquetError::NeedMoreData(needed)) if needed as u64 <= length && needed as u64 > wanted => {
                    wanted = needed as u64;
                }
                Err(fault) => return Err(unreadable(fault)),
            }
        }
    }

    fn new(metadata: ParquetMetaData, length: u64, tail: Bytes) -> ParquetResult<Self> {
        let metadata = Arc::new(metadata);
        // Not the schema that its writer may have attached: that says how the writer held a column, not what it is.
        let schema = parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None)?;
        let keyed = schema.fields().iter().enumerate().map(|(leaf, field)| {
            let has_keys = |group: &parquet::file::metadata::RowGroupMetaData| {
                group.columns().get(leaf).is_some_and(|chunk| chunk.dictionary_page_offset().is_some())
            };
            match field.data_type() {
                DataType::Utf8 if metadata.row_groups().iter().all(has_keys) => {
                    let keys = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
                    Field::new(field.name(), keys, field.is_nullable())
                }
                other => Field::new(field.name(), other.clone(), field.is_nullable()),
            }
        });
        let keyed = Arc::new(Schema::new(keyed.collect::<Vec<_>>()));
        let reader =
            |schema| ArrowReaderMetadata::try_new(Arc::clone(&metadata), ArrowReaderOptions::new().with_schema(schema));
        Ok(Self { plain: reader(Arc::new(schema))?, keyed: reader(keyed)?, metadata, length, tail })
    }

    /// The file without its end, unless that is all of it.
    pub(crate) fn kept(self) -> (Arc<Self>, usize) {
        let tail = if self.tail.len() as u64 == self.length { self.tail } else { Bytes::new() };
        // Two schemas and what the readers make of them come on top of what the metadata says of itself.
        let bytes = self.metadata.memory_size() + tail.len() + (8 << 10);
        (Arc::new(Self { tail, ..self }), bytes)
    }

    pub(crate) fn schema(&self) -> &Schema {
        self.plain.schema()
    }

    pub(crate) fn groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    pub(crate) fn group_rows(&self, group: usize) -> usize {
        let rows = self.metadata.row_groups().get(group).map_or(0, |group| group.num_rows());
        usize::try_from(rows).unwrap_or_default()
    }

    /// Each row group with the number in the file of its first row.
    pub(crate) fn first_rows(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.groups()).scan(0, |next, group| {
            let first = *next;
            *next += self.group_rows(group);
            Some((group, first))
        })
    }

    pub(crate) fn leaf(&self, column: &str) -> Option<usize> {
        self.schema().index_of(column).ok()
    }

    pub(crate) fn chunk(&self, group: usize, leaf: usize) -> Option<&ColumnChunkMetaData> {
        self.metadata.row_groups().get(group)?.columns().get(leaf)
    }

    /// Where the Bloom filter of a column is, for each row group.
    pub(crate) fn bloom_ranges(&self, column: &str) -> Option<Vec<Range<u64>>> {
        let leaf = self.leaf(column)?;
        let range = |group: usize| {
            let chunk = self.chunk(group, leaf)?;
            let start = u64::try_from(chunk.bloom_filter_offset()?).ok()?;
            Some(start..start + u64::try_from(chunk.bloom_filter_length()?).ok()?)
        };
        (0..self.groups()).map(range).collect()
    }

    /// The Bloom filters that are in what was read of the file.
    pub(crate) fn blooms_at_end(&self, ranges: &[Range<u64>]) -> Option<Vec<Bytes>> {
        let first = self.length - self.tail.len() as u64;
        let slice = |range: &Range<u64>| {
            (range.start >= first && range.end <= self.length)
                .then(|| self.tail.slice((range.start - first) as usize..(range.end - first) as usize))
        };
        ranges.iter().map(slice).collect()
    }
}

/// Parses Bloom filters, and tells how many bytes they take.
pub(crate) fn parse_blooms(parts: &[Bytes]) -> ParquetResult<(Arc<Vec<Sbbf>>, usize)> {
    let blooms = parts.iter().map(|part| Sbbf::from_bytes(part)).collect::<ParquetResult<Vec<_>>>()?;
    Ok((Arc::new(blooms), parts.iter().map(Bytes::len).sum()))
}

/// A file of a table, open.
#[derive(Debug, Clone)]
pub(crate) struct File<'a> {
    pub(crate) lake: &'a Lake,
    pub(crate) key: Arc<str>,
    pub(crate) data: &'a DataFile,
    pub(crate) opened: Arc<Opened>,
    /// Ranges that are not farther apart are one request.
    pub(crate) gap: u64,
    pub(crate) scanned: &'a AtomicU64,
}

/// The pages of some columns of a row group.
#[derive(Debug)]
pub(crate) struct Pages {
    group: usize,
    window: Window,
}

impl File<'_> {
    pub(crate) fn unreadable(&self, cause: ParquetError) -> ReadFault {
        ReadFault::Parquet { file: self.data.path.clone(), cause }
    }

    /// Reads the pages of `columns` that hold `rows`; columns that the file does not have are left out.
    pub(crate) async fn pages(
        &self,
        group: usize,
        columns: &[&str],
        rows: Option<&RowSelection>,
    ) -> Result<Pages, ReadFault> {
        let index = self.opened.metadata.page_index_for_row_group(group);
        let mut wanted = Vec::new();
        for leaf in columns.iter().filter_map(|column| self.opened.leaf(column)) {
            let Some(chunk) = self.opened.chunk(group, leaf) else { continue };
            let (start, length) = chunk.byte_range();
            match (rows, index.page_locations(leaf)) {
                (Some(rows), Some(pages)) if !pages.is_empty() => {
                    let first = pages.first().and_then(|page| u64::try_from(page.offset).ok()).unwrap_or(start);
                    // The dictionary is before the first page.
                    wanted.extend((first > start).then_some(start..first));
                    wanted.extend(rows.scan_ranges(pages));
                }
                _ => wanted.push(start..start + length),
            }
        }
        Ok(Pages { group, window: self.window(wanted).await? })
    }

    async fn window(&self, wanted: Vec<Range<u64>>) -> Result<Window, ReadFault> {
        let length = self.opened.length;
        if self.opened.tail.len() as u64 == length {
            self.scanned.fetch_add(wanted.iter().map(|range| range.end - range.start).sum(), Ordering::Relaxed);
            return Ok(Window { length, parts: vec![(0, self.opened.tail.clone())] });
        }
        let ranges = coalesce(wanted, self.gap);
        if ranges.iter().any(|range| range.end > length) {
            return Err(self.unreadable(ParquetError::EOF("a column chunk lies outside of its file".to_owned())));
        }
        self.scanned.fetch_add(ranges.iter().map(|range| range.end - range.start).sum(), Ordering::Relaxed);
        let mut requests = Vec::new();
        for range in &ranges {
            let starts = (range.start..range.end).step_by(PART_BYTES as usize);
            requests.extend(starts.map(|start| start..range.end.min(start + PART_BYTES)));
        }
        let parts = match requests.is_empty() {
            true => Vec::new(),
            false => {
                let read = self.lake.read_ranges(&self.key, requests.clone()).await?;
                read.ok_or_else(|| ReadFault::Missing(self.data.path.clone()))?
            }
        };
        let mut parts = requests.into_iter().zip(parts);
        let joined = ranges.into_iter().map(|range| {
            let count = (range.end - range.start).div_ceil(PART_BYTES);
            let mut parts = parts.by_ref().take(count as usize).map(|(_, part)| part);
            let first = parts.next().unwrap_or_default();
            if count == 1 {
                return (range.start, first);
            }
            let mut whole = BytesMut::from(first);
            parts.for_each(|part| whole.extend_from_slice(&part));
            (range.start, whole.freeze())
        });
        Ok(Window { length, parts: joined.collect() })
    }

    /// Decodes columns of which pages were read. Without `rows` it is all rows of the group.
    pub(crate) fn decode(
        &self,
        pages: &Pages,
        columns: &[&str],
        rows: Option<&RowSelection>,
        form: Form,
    ) -> Result<RecordBatch, ReadFault> {
        let count = rows.map_or_else(|| self.opened.group_rows(pages.group), RowSelection::row_count);
        let mut batches = self.batches(pages, columns, rows, form, count)?.collect::<Result<Vec<_>, _>>()?;
        let found: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if found != count {
            let cause = format!("row group {} has {found} rows of {count}", pages.group);
            return Err(self.unreadable(ParquetError::General(cause)));
        }
        match (batches.pop(), batches.is_empty()) {
            (Some(batch), true) => Ok(batch),
            (Some(batch), false) => {
                let schema = batch.schema();
                batches.push(batch);
                Ok(concat_batches(&schema, &batches)?)
            }
            (None, _) => {
                let none = RecordBatchOptions::new().with_row_count(Some(0));
                Ok(RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &none)?)
            }
        }
    }

    /// The same in batches of at most so many rows.
    pub(crate) fn batches(
        &self,
        pages: &Pages,
        columns: &[&str],
        rows: Option<&RowSelection>,
        form: Form,
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader, ReadFault> {
        let metadata = match form {
            Form::Plain => self.opened.plain.clone(),
            Form::Keyed => self.opened.keyed.clone(),
        };
        let leaves = columns.iter().filter_map(|column| self.opened.leaf(column));
        let mask = ProjectionMask::leaves(metadata.parquet_schema(), leaves);
        let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(pages.window.clone(), metadata)
            .with_projection(mask)
            .with_row_groups(vec![pages.group])
            .with_batch_size(batch_rows.max(1))
            // A mask would have it decode pages that were not read.
            .with_row_selection_policy(RowSelectionPolicy::Selectors);
        if let Some(rows) = rows {
            reader = reader.with_row_selection(rows.clone());
        }
        reader.build().map_err(|cause| self.unreadable(cause))
    }
}

/// Ranges that are near each other as one, in order.
fn coalesce(mut ranges: Vec<Range<u64>>, gap: u64) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// The parts of a file that were read, at their places.
#[derive(Debug, Clone)]
struct Window {
    length: u64,
    parts: Vec<(u64, Bytes)>,
}

impl Window {
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let after = self.parts.partition_point(|(first, _)| *first <= start);
        let part = after.checked_sub(1).and_then(|at| self.parts.get(at));
        let rest = part.and_then(|(first, bytes)| {
            let skipped = (start - first) as usize;
            (skipped <= bytes.len()).then(|| bytes.slice(skipped..))
        });
        rest.ok_or_else(|| ParquetError::EOF(format!("byte {start} is in no page that was read")))
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Window {
    type T = BytesReader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let mut bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("a page at byte {start} was not read to its end")));
        }
        bytes.truncate(length);
        Ok(bytes)
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_one_request() {
        assert_eq!(coalesce(vec![20..30, 0..10, 5..8, 40..40], 10), [0..30]);
        assert_eq!(coalesce(vec![0..10, 21..22], 10), [0..10, 21..22]);
        assert_eq!(coalesce(vec![0..10, 20..22], 10), [0..22]);
        assert!(coalesce(vec![], 10).is_empty());
    }
}
