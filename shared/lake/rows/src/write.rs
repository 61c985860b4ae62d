//! Columns -> Parquet, and how each column is written at each stage of a file's life.

use std::io::{self, Write};

use arrow_array::RecordBatch;
use bytes::Bytes;
use domain::fault::{Fault, Remedy};
use domain::lake::{Kind, Partition};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::schema::{Storage, definitions, key, schema};
use crate::stats::Stats;

/// The most rows of a row group: what a reader decodes at once, and 16 of its pages.
pub const ROW_GROUP_ROWS: usize = 131_072;

/// The most rows of a page: what a reader that looks for one row decodes.
const PAGE_ROWS: usize = 8_192;

/// Bounds of text are cut to so many bytes.
const BOUND_BYTES: usize = 32;

/// One in so many look-ups of an absent id reads a row group for nothing.
const BLOOM_FALSE_POSITIVES: f64 = 0.001;

/// A stage in a file's life. Later ones take more work to write and less to store and to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A batch as it came: small, soon compacted.
    L0,
    /// Small files together: deduplicated and sorted.
    L1,
    /// A day that is over, whole.
    L2,
    /// An old day: its long text compressed as hard as can be.
    Archive,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::L0, Self::L1, Self::L2, Self::Archive];

    /// What names of files of this level begin with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::Archive => "L3",
        }
    }

    /// The level of the file, by its name.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next()?;
        Self::ALL.into_iter().find(|level| name.strip_prefix(level.prefix()).is_some_and(|rest| rest.starts_with('-')))
    }

    fn zstd(self, storage: Storage) -> i32 {
        match (self, storage) {
            (Self::L0, _) => 1,
            (Self::Archive, Storage::Long) => 19,
            (Self::L1 | Self::L2 | Self::Archive, _) => 3,
        }
    }
}

/// How a file of this table is written at this level. `rows` is how many it will have at most, for the size of its Bloom filters.
pub fn properties(table: Kind, level: Level, rows: usize) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("skylark ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_truncate_length(Some(BOUND_BYTES))
        .set_column_index_truncate_length(Some(BOUND_BYTES))
        .set_dictionary_enabled(false)
        .set_offset_index_disabled(level == Level::L0);
    for column in definitions(table) {
        let path = ColumnPath::from(column.name);
        let zstd = Compression::ZSTD(ZstdLevel::try_new(level.zstd(column.storage))?);
        properties = properties.set_column_compression(path.clone(), zstd);
        let by_page = if level == Level::L0 { EnabledStatistics::Chunk } else { EnabledStatistics::Page };
        properties = match column.storage {
            Storage::Repeating => properties
                .set_column_dictionary_enabled(path.clone(), true)
                .set_column_statistics_enabled(path, by_page),
            Storage::Key => properties.set_column_statistics_enabled(path, by_page),
            Storage::Growing => properties
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                .set_column_statistics_enabled(path, by_page),
            // Counts of nulls are worth having; the bounds that come with them are not written to the log.
            Storage::Long => properties.set_column_statistics_enabled(path, EnabledStatistics::Chunk),
        };
    }
    if level > Level::L0 {
        let ids = u64::try_from(rows.clamp(1, ROW_GROUP_ROWS)).unwrap_or(u64::MAX);
        let path = ColumnPath::from(key(table));
        properties = properties
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_fpp(path.clone(), BLOOM_FALSE_POSITIVES)
            .set_column_bloom_filter_max_ndv(path, ids);
    }
    Ok(properties.build())
}

/// A Parquet file and what the log has to say of it.
#[derive(Debug, Clone)]
pub struct Written {
    pub bytes: Bytes,
    pub rows: u64,
    pub stats: Stats,
}

/// A data file of a table, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Under the table's folder.
    pub path: String,
    pub partition: Partition,
    pub bytes: u64,
    pub rows: u64,
    pub stats: Stats,
}

/// A Parquet file that grows by batches. Its memory is that of one row group, compressed but for the last pages.
#[derive(Debug)]
pub struct Writer<W: Write + Send> {
    table: Kind,
    parquet: ArrowWriter<Sink<W>>,
}

/// Gives the sink back once the file is finished, which the Parquet writer does not.
#[derive(Debug)]
struct Sink<W>(Option<W>);

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Err(io::ErrorKind::BrokenPipe.into()), |sink| sink.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl<W: Write + Send> Writer<W> {
    /// `rows` is how many it will have at most, as far as is known.
    pub fn new(table: Kind, level: Level, rows: usize, sink: W) -> Result<Self, WriteError> {
        Self::with_properties(table, properties(table, level, rows)?, sink)
    }

    /// For who needs it otherwise than at any level.
    pub fn with_properties(table: Kind, properties: WriterProperties, sink: W) -> Result<Self, WriteError> {
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        Ok(Self { table, parquet: ArrowWriter::try_new_with_options(Sink(Some(sink)), schema(table), options)? })
    }

    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), WriteError> {
        Ok(self.parquet.write(rows)?)
    }

    /// What it holds in memory, beside the sink.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.parquet.memory_size()
    }

    /// About how large the file would be if it ended here.
    #[must_use]
    pub fn file_bytes(&self) -> usize {
        self.parquet.bytes_written() + self.parquet.in_progress_size()
    }

    /// Writes what is left and the footer. The sink is flushed, and is the caller's again.
    pub fn finish(mut self) -> Result<(W, Stats), WriteError> {
        let stats = Stats::of(self.table, &self.parquet.finish()?);
        self.parquet.sync()?;
        let sink = self.parquet.inner_mut().0.take().ok_or(io::ErrorKind::BrokenPipe);
        Ok((sink.map_err(io::Error::from)?, stats))
    }
}

/// The rows as one file in memory.
pub fn write_parquet(table: Kind, rows: &RecordBatch, level: Level) -> Result<Written, WriteError> {
    let mut writer = Writer::new(table, level, rows.num_rows(), Vec::new())?;
    writer.write(rows)?;
    let (bytes, stats) = writer.finish()?;
    Ok(Written { bytes: bytes.into(), rows: stats.num_records, stats })
}

/// Rows that do not become a file.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the rows are not written as Parquet")]
    Parquet(#[from] ParquetError),
    #[error("the file cannot be written")]
    Sink(#[from] io::Error),
}

impl Fault for WriteError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Parquet(_) => Remedy::Bug,
            Self::Sink(_) => Remedy::Retry,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Parquet(_) => "internal_error",
            Self::Sink(_) => "unavailable",
        }
    }
}
