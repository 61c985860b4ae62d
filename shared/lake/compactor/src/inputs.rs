//! The inputs as one table: rows numbered through all of them, columns by their place in the output's schema.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use bytes::Bytes;
use bytes::buf::{Buf, Reader};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_schema};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy, RowGroupMetaData,
};
use parquet::file::reader::{ChunkReader, Length};

use crate::CompactError;

/// One Parquet file. A file is opened anew for each read, so that any number of inputs takes one descriptor.
#[derive(Debug, Clone)]
pub enum Input {
    Bytes(Bytes),
    File(PathBuf),
}

impl Input {
    fn length(&self) -> io::Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => Ok(std::fs::metadata(path)?.len()),
        }
    }
}

/// All inputs.
pub(crate) struct Inputs {
    /// The output's columns, text as views.
    pub(crate) schema: SchemaRef,
    /// The row groups of all inputs, in order.
    pub(crate) pieces: Vec<Piece>,
    sources: Vec<Source>,
}

struct Source {
    input: Input,
    length: u64,
    metadata: ArrowReaderMetadata,
    /// For each column of the output, the one of this input.
    leaves: Vec<Option<usize>>,
}

/// One row group of one input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    source: usize,
    row_group: usize,
    /// The number of its first row.
    pub(crate) first: u32,
    pub(crate) rows: u32,
}

impl Piece {
    pub(crate) fn range(self) -> Range<u32> {
        self.first..self.first + self.rows
    }
}

impl Inputs {
    /// Reads the footers.
    pub(crate) fn open(schema: &SchemaRef, inputs: &[Input]) -> Result<Self, CompactError> {
        let mut footers = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.iter().enumerate() {
            let length = input.length().map_err(|source| CompactError::Read { input: index, source })?;
            let footer = footer(input, length).map_err(|source| CompactError::Input { input: index, source })?;
            footers.push((input.clone(), length, footer));
        }
        let schema = union(schema, footers.iter().map(|(_, _, footer)| footer.schema()))?;

        let (mut sources, mut pieces, mut first) = (Vec::with_capacity(footers.len()), Vec::new(), 0_u64);
        for (index, (input, length, metadata)) in footers.into_iter().enumerate() {
            for (row_group, group) in metadata.metadata().row_groups().iter().enumerate() {
                let rows = u64::try_from(group.num_rows()).unwrap_or_default();
                if rows > 0 {
                    let piece = Piece { source: index, row_group, first: first as u32, rows: rows as u32 };
                    pieces.push(piece);
                }
                first += rows;
            }
            let place: HashMap<_, _> = metadata.schema().fields().iter().map(|field| field.name()).zip(0..).collect();
            let leaves = schema.fields().iter().map(|field| place.get(field.name()).copied()).collect();
            sources.push(Source { input, length, metadata, leaves });
        }
        if first >= 1 << 31 {
            return Err(CompactError::TooManyRows(first));
        }
        Ok(Self { schema, pieces, sources })
    }

    pub(crate) fn row_count(&self) -> u32 {
        self.pieces.last().map_or(0, |piece| piece.range().end)
    }

    /// The place of a column, if there is one of that name.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.schema.index_of(name).ok()
    }

    /// The bytes that a column takes once decoded, as its inputs' footers promise.
    pub(crate) fn decoded_bytes(&self, column: usize) -> u64 {
        let encoded = self.pieces.iter().filter_map(|piece| {
            let source = self.sources.get(piece.source)?;
            let leaf = (*source.leaves.get(column)?)?;
            let chunk = source.row_group(piece.row_group)?.columns().get(leaf)?;
            u64::try_from(chunk.uncompressed_size()).ok()
        });
        encoded.sum::<u64>() + 16 * u64::from(self.row_count())
    }

    /// Decodes columns of a piece, in the order of `columns`.
    pub(crate) fn read(&self, piece: Piece, columns: &[usize]) -> Result<Vec<ArrayRef>, CompactError> {
        self.read_selected(piece, columns, None)
    }

    /// The rows with these numbers, whole. `rows` rises.
    pub(crate) fn rows(&self, rows: &[u32]) -> Result<RecordBatch, CompactError> {
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        let mut batches = Vec::new();
        for piece in &self.pieces {
            let range = piece.range();
            let wanted = rows.partition_point(|row| *row < range.start)..rows.partition_point(|row| *row < range.end);
            let wanted = rows.get(wanted).unwrap_or_default();
            if !wanted.is_empty() {
                let ranges = wanted.iter().map(|row| (row - range.start) as usize);
                let selection =
                    RowSelection::from_consecutive_ranges(ranges.map(|row| row..row + 1), piece.rows as usize);
                let arrays = self.read_selected(*piece, &columns, Some((selection, wanted.len())))?;
                batches.push(RecordBatch::try_new(Arc::clone(&self.schema), arrays)?);
            }
        }
        Ok(concat_batches(&self.schema, &batches)?)
    }

    fn read_selected(
        &self,
        piece: Piece,
        columns: &[usize],
        selection: Option<(RowSelection, usize)>,
    ) -> Result<Vec<ArrayRef>, CompactError> {
        let rows = selection.as_ref().map_or(piece.rows as usize, |(_, rows)| *rows);
        let Some(source) = self.sources.get(piece.source) else {
            return Ok(Vec::new());
        };
        let leaves: Vec<Option<usize>> =
            columns.iter().map(|column| source.leaves.get(*column).copied().flatten()).collect();
        let mut present: Vec<usize> = leaves.iter().copied().flatten().collect();
        present.sort_unstable();
        let batch = match present.is_empty() {
            true => None,
            false => {
                let selection = selection.map(|(selection, _)| selection);
                Some(source.batch(piece, &present, selection)?)
            }
        };
        if let Some(found) = batch.as_ref().map(RecordBatch::num_rows).filter(|found| *found != rows) {
            return Err(CompactError::Rows {
                input: piece.source,
                row_group: piece.row_group,
                promised: piece.rows,
                found,
            });
        }
        let arrays = leaves.iter().zip(columns).map(|(leaf, column)| {
            let place = leaf.and_then(|leaf| present.binary_search(&leaf).ok());
            match (place, &batch) {
                (Some(place), Some(batch)) => Arc::clone(batch.column(place)),
                _ => new_null_array(self.schema.field(*column).data_type(), rows),
            }
        });
        Ok(arrays.collect())
    }
}

impl Source {
    fn row_group(&self, index: usize) -> Option<&RowGroupMetaData> {
        self.metadata.metadata().row_groups().get(index)
    }

    /// The columns `leaves` of a row group, in the input's order.
    fn batch(
        &self,
        piece: Piece,
        leaves: &[usize],
        selection: Option<RowSelection>,
    ) -> Result<RecordBatch, CompactError> {
        let window = self
            .window(piece.row_group, leaves)
            .map_err(|source| CompactError::Read { input: piece.source, source })?;
        let mask = ProjectionMask::leaves(self.metadata.parquet_schema(), leaves.iter().copied());
        let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(window, self.metadata.clone())
            .with_projection(mask)
            .with_row_groups(vec![piece.row_group])
            .with_batch_size(piece.rows as usize);
        if let Some(selection) = selection {
            reader = reader.with_row_selection(selection);
        }
        let failed = |source| CompactError::Input { input: piece.source, source };
        match reader.build().map_err(failed)?.next() {
            Some(batch) => Ok(batch.map_err(|fault| failed(fault.into()))?),
            None => Ok(RecordBatch::new_empty(Arc::new(self.metadata.schema().project(leaves)?))),
        }
    }

    /// Reads the chunks of a row group that are wanted, and nothing between them.
    fn window(&self, row_group: usize, leaves: &[usize]) -> io::Result<Window> {
        let chunks = leaves.iter().filter_map(|leaf| self.row_group(row_group)?.columns().get(*leaf));
        let mut ranges: Vec<Range<u64>> =
            chunks.map(|chunk| chunk.byte_range()).map(|(start, length)| start..start + length).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let reader = Open::new(&self.input)?;
        let parts = ranges.into_iter().map(|range| Ok((range.start, reader.bytes(range)?)));
        Ok(Window { length: self.length, parts: parts.collect::<io::Result<_>>()? })
    }
}

/// An input, open for reading.
enum Open<'a> {
    Bytes(&'a Bytes),
    File(File),
}

impl<'a> Open<'a> {
    fn new(input: &'a Input) -> io::Result<Self> {
        match input {
            Input::Bytes(bytes) => Ok(Self::Bytes(bytes)),
            Input::File(path) => Ok(Self::File(open(path)?)),
        }
    }

    fn bytes(&self, range: Range<u64>) -> io::Result<Bytes> {
        let outside = || io::Error::new(io::ErrorKind::UnexpectedEof, "a column chunk lies outside of its file");
        match self {
            Self::Bytes(bytes) => {
                let range = range.start as usize..range.end as usize;
                if range.end > bytes.len() || range.start > range.end { Err(outside()) } else { Ok(bytes.slice(range)) }
            }
            Self::File(file) => {
                let mut bytes = vec![0; range.end.checked_sub(range.start).ok_or_else(outside)? as usize];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.into())
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// The parts of a file that were read, at their places.
struct Window {
    length: u64,
    parts: Vec<(u64, Bytes)>,
}

impl Window {
    /// What was read from `start` on.
    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let after = self.parts.partition_point(|(first, _)| *first <= start);
        let part = after.checked_sub(1).and_then(|index| self.parts.get(index));
        let rest = part.and_then(|(first, bytes)| {
            let skipped = (start - first) as usize;
            (skipped <= bytes.len()).then(|| bytes.slice(skipped..))
        });
        rest.ok_or_else(|| ParquetError::EOF(format!("byte {start} is in no column chunk")))
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Window {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let mut bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("a page at byte {start} does not end in its column chunk")));
        }
        bytes.truncate(length);
        Ok(bytes)
    }
}

/// The footer, without statistics, and with text as views.
fn footer(input: &Input, length: u64) -> parquet::errors::Result<ArrowReaderMetadata> {
    let options = ParquetMetaDataOptions::new()
        .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    let mut reader = ParquetMetaDataReader::new().with_metadata_options(Some(options));
    let read = |from: u64| Open::new(input).and_then(|open| open.bytes(from..length));
    let mut tail = read(length.saturating_sub(16 << 10))?;
    let metadata = loop {
        match reader.try_parse_sized(&tail, length) {
            Ok(()) => break reader.finish()?,
            Err(ParquetError::NeedMoreData(needed)) if needed as u64 <= length && needed > tail.len() => {
                tail = read(length - needed as u64)?;
            }
            Err(fault) => return Err(fault),
        }
    };
    with_views(metadata)
}

fn with_views(metadata: ParquetMetaData) -> parquet::errors::Result<ArrowReaderMetadata> {
    // Not the schema that its writer may have attached: that says how the writer held a column, not what it is.
    let schema = parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None)?;
    let options = ArrowReaderOptions::new().with_schema(Arc::new(viewed(&schema)));
    ArrowReaderMetadata::try_new(Arc::new(metadata), options)
}

/// `schema` with text and bytes as views, each of which says where its value is.
fn viewed(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            other => other.clone(),
        };
        Field::new(field.name(), data_type, field.is_nullable())
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// The table's columns and behind them, by name, those that only inputs have.
fn union<'a>(table: &Schema, inputs: impl Iterator<Item = &'a SchemaRef>) -> Result<SchemaRef, CompactError> {
    let table = viewed(table);
    let mut fields: Vec<Field> =
        table.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let mut types: HashMap<String, DataType> =
        fields.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
    let mut unknown = Vec::new();
    for (input, schema) in inputs.enumerate() {
        for field in schema.fields() {
            let expected = types.entry(field.name().clone()).or_insert_with(|| {
                unknown.push(field.as_ref().clone().with_nullable(true));
                field.data_type().clone()
            });
            if expected != field.data_type() || field.data_type().is_nested() {
                return Err(CompactError::Column {
                    input,
                    column: field.name().clone(),
                    found: field.data_type().clone(),
                    expected: expected.clone(),
                });
            }
        }
    }
    unknown.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    fields.append(&mut unknown);
    Ok(Arc::new(Schema::new(fields)))
}
