//! The inputs as one table: rows numbered through all of them, columns by their place in the output's schema.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
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
use crate::decode::Decoder;

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
    decoder: RefCell<Decoder>,
}

struct Source {
    input: Input,
    length: u64,
    metadata: Arc<ParquetMetaData>,
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
        let mut footers: Vec<Footer> = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.iter().enumerate() {
            let length = input.length().map_err(|source| CompactError::Read { input: index, source })?;
            let footer = Footer::read(input, length, footers.last());
            footers.push(footer.map_err(|source| CompactError::Input { input: index, source })?);
        }
        let schema = union(schema, footers.iter().map(|footer| &footer.schema))?;

        let (mut sources, mut pieces, mut first) = (Vec::with_capacity(footers.len()), Vec::new(), 0_u64);
        for (index, (input, footer)) in inputs.iter().zip(footers).enumerate() {
            for (row_group, group) in footer.metadata.row_groups().iter().enumerate() {
                let rows = u64::try_from(group.num_rows()).unwrap_or_default();
                if rows > 0 {
                    let piece = Piece { source: index, row_group, first: first as u32, rows: rows as u32 };
                    pieces.push(piece);
                }
                first += rows;
            }
            let leaves = schema.fields().iter().map(|field| footer.schema.index_of(field.name()).ok()).collect();
            sources.push(Source { input: input.clone(), length: footer.length, metadata: footer.metadata, leaves });
        }
        if first >= 1 << 31 {
            return Err(CompactError::TooManyRows(first));
        }
        let decoder = Decoder::new().map_err(|fault| CompactError::Encode(fault.into()))?;
        Ok(Self { schema, pieces, sources, decoder: RefCell::new(decoder) })
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
        let encoded: u64 = self.pieces.iter().map(|piece| self.promised_bytes(*piece, column)).sum();
        encoded + 16 * u64::from(self.row_count())
    }

    /// The length of a column's value in each row: the average of the row's row group.
    pub(crate) fn promised_lengths(&self, column: usize) -> Vec<u32> {
        let lengths = self.pieces.iter().flat_map(|piece| {
            let length = self.promised_bytes(*piece, column) / u64::from(piece.rows);
            std::iter::repeat_n(u32::try_from(length).unwrap_or(u32::MAX), piece.rows as usize)
        });
        lengths.collect()
    }

    fn promised_bytes(&self, piece: Piece, column: usize) -> u64 {
        let source = self.sources.get(piece.source);
        let chunk = source.and_then(|source| source.row_group(piece.row_group)?.columns().get(source.leaf(column)?));
        chunk.and_then(|chunk| u64::try_from(chunk.uncompressed_size()).ok()).unwrap_or_default()
    }

    /// Decodes columns of a piece, in the order of `columns`. Text comes as bytes.
    pub(crate) fn read(&self, piece: Piece, columns: &[usize]) -> Result<Vec<ArrayRef>, CompactError> {
        let Some(source) = self.sources.get(piece.source) else { return Ok(Vec::new()) };
        let rows = piece.rows as usize;
        let leaves: Vec<Option<usize>> = columns.iter().map(|column| source.leaf(*column)).collect();
        let present: Vec<usize> = leaves.iter().copied().flatten().collect();
        let window = source.window(piece, &present)?;
        let mut decoder = self.decoder.borrow_mut();
        let arrays = leaves.iter().zip(columns).map(|(leaf, column)| {
            let data_type = held(self.schema.field(*column).data_type());
            let Some(leaf) = *leaf else { return Ok(new_null_array(&data_type, rows)) };
            let failed = |fault| CompactError::Input { input: piece.source, source: fault };
            let chunk = source.row_group(piece.row_group).and_then(|group| group.columns().get(leaf));
            let decoded = chunk.map(|chunk| decoder.decode(&window, chunk, rows, &data_type)).transpose();
            match decoded.map_err(failed)?.flatten() {
                Some(array) => Ok(array),
                None => Ok(bytes(source.batch(piece, &[leaf], window.clone(), None)?.column(0))),
            }
        });
        arrays.collect()
    }

    /// The rows with these numbers, whole. `rows` rises.
    pub(crate) fn rows(&self, rows: &[u32]) -> Result<RecordBatch, CompactError> {
        let mut batches = Vec::new();
        for piece in &self.pieces {
            let range = piece.range();
            let wanted = rows.partition_point(|row| *row < range.start)..rows.partition_point(|row| *row < range.end);
            let wanted = rows.get(wanted).unwrap_or_default();
            if let Some(source) = self.sources.get(piece.source).filter(|_| !wanted.is_empty()) {
                let ranges = wanted.iter().map(|row| (row - range.start) as usize);
                let ranges = ranges.map(|row| row..row + 1);
                let selection = RowSelection::from_consecutive_ranges(ranges, piece.rows as usize);
                let leaves: Vec<usize> = source.leaves.iter().copied().flatten().collect();
                let window = source.window(*piece, &leaves)?;
                let batch = source.batch(*piece, &leaves, window, Some((selection, wanted.len())))?;
                let arrays = self.schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
                    Some(array) => Arc::clone(array),
                    None => new_null_array(field.data_type(), wanted.len()),
                });
                batches.push(RecordBatch::try_new(Arc::clone(&self.schema), arrays.collect())?);
            }
        }
        Ok(concat_batches(&self.schema, &batches)?)
    }
}

/// The type in which values of `data_type` pass through.
pub(crate) fn held(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::BinaryView,
        other => other.clone(),
    }
}

/// Text as bytes.
fn bytes(array: &ArrayRef) -> ArrayRef {
    match array.as_string_view_opt() {
        Some(text) => Arc::new(text.clone().to_binary_view()),
        None => Arc::clone(array),
    }
}

impl Source {
    fn row_group(&self, index: usize) -> Option<&RowGroupMetaData> {
        self.metadata.row_groups().get(index)
    }

    fn leaf(&self, column: usize) -> Option<usize> {
        self.leaves.get(column).copied().flatten()
    }

    /// The columns `leaves` of a row group, by whatever it takes: all rows of it, or so many that are selected.
    fn batch(
        &self,
        piece: Piece,
        leaves: &[usize],
        window: Window,
        selection: Option<(RowSelection, usize)>,
    ) -> Result<RecordBatch, CompactError> {
        let failed = |source| CompactError::Input { input: piece.source, source };
        let metadata = with_views(Arc::clone(&self.metadata)).map_err(failed)?;
        let mask = ProjectionMask::leaves(metadata.parquet_schema(), leaves.iter().copied());
        let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(window, metadata)
            .with_projection(mask)
            .with_row_groups(vec![piece.row_group])
            .with_batch_size(piece.rows as usize);
        let mut promised = piece.rows as usize;
        if let Some((selection, rows)) = selection {
            reader = reader.with_row_selection(selection);
            promised = rows;
        }
        let batch = match reader.build().map_err(failed)?.next() {
            Some(batch) => batch.map_err(|fault| failed(fault.into()))?,
            None => {
                return Err(CompactError::Rows { input: piece.source, row_group: piece.row_group, promised, found: 0 });
            }
        };
        match batch.num_rows() {
            found if found == promised => Ok(batch),
            found => Err(CompactError::Rows { input: piece.source, row_group: piece.row_group, promised, found }),
        }
    }

    /// Reads the chunks of a row group that are wanted, and nothing between them.
    fn window(&self, piece: Piece, leaves: &[usize]) -> Result<Window, CompactError> {
        let chunks = leaves.iter().filter_map(|leaf| self.row_group(piece.row_group)?.columns().get(*leaf));
        let ranges = chunks.map(|chunk| chunk.byte_range()).map(|(start, length)| start..start + length);
        let mut ranges: Vec<Range<u64>> = ranges.collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let read = || {
            let reader = Open::new(&self.input)?;
            let parts = ranges.into_iter().map(|range| Ok((range.start, reader.bytes(range)?)));
            parts.collect::<io::Result<Vec<_>>>()
        };
        let parts = read().map_err(|source| CompactError::Read { input: piece.source, source })?;
        Ok(Window { length: self.length, parts: parts.into() })
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
#[derive(Clone)]
pub(crate) struct Window {
    length: u64,
    parts: Arc<[(u64, Bytes)]>,
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

/// What an input's footer says, but for statistics.
struct Footer {
    length: u64,
    metadata: Arc<ParquetMetaData>,
    /// Its columns, text as views.
    schema: SchemaRef,
}

impl Footer {
    /// Most inputs have the schema of the `previous` one: it is worked out once.
    fn read(input: &Input, length: u64, previous: Option<&Self>) -> parquet::errors::Result<Self> {
        let options = ParquetMetaDataOptions::new()
            .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
        let mut reader = ParquetMetaDataReader::new().with_metadata_options(Some(options));
        let read = |from: u64| Open::new(input).and_then(|open| open.bytes(from..length));
        let mut tail = read(length.saturating_sub(16 << 10))?;
        let metadata = loop {
            match reader.try_parse_sized(&tail, length) {
                Ok(()) => break Arc::new(reader.finish()?),
                Err(ParquetError::NeedMoreData(needed)) if needed as u64 <= length && needed > tail.len() => {
                    tail = read(length - needed as u64)?;
                }
                Err(fault) => return Err(fault),
            }
        };
        let columns = |metadata: &ParquetMetaData| metadata.file_metadata().schema_descr_ptr();
        let same = previous.filter(|it| columns(&it.metadata).root_schema() == columns(&metadata).root_schema());
        let schema = match same {
            Some(previous) => Arc::clone(&previous.schema),
            None => with_views(Arc::clone(&metadata))?.schema().clone(),
        };
        Ok(Self { length, metadata, schema })
    }
}

fn with_views(metadata: Arc<ParquetMetaData>) -> parquet::errors::Result<ArrowReaderMetadata> {
    // Not the schema that its writer may have attached: that says how the writer held a column, not what it is.
    let schema = parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None)?;
    ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new().with_schema(Arc::new(viewed(&schema))))
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
