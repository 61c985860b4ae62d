//! Many small Parquet files -> few large ones: deduplicated, sorted, a column at a time, in bounded memory.
//!
//! 1. **Keys.** Of all inputs only the key columns are read: they decide which rows are kept, and in which order. Of the messages with one `msg_id`
//!    the one that was received first is kept, of the contacts with one `username` the last. Messages are ordered by chat room and time, contacts by
//!    name.
//! 2. **Columns.** A few columns at a time are decoded from all inputs, put in order and encoded, a row group after the other. A value is
//!    decoded and encoded once; rows are never put together.
//! 3. **Files.** The encoded chunks are spliced into files, no larger than asked for and divided by the order.
//!
//! **Memory** is what [`Options::memory_bytes`] allows for decoded columns and encoded pages, and up to 120 bytes per row for keys and order. Pages
//! that do not fit wait in a file. A column that does not fit is decoded again for each part of the output that does. A single value is held whole.
//!
//! **The same inputs give the same bytes**, whenever and wherever: the files depend on nothing but the inputs, their order and the options. Rows of one
//! order stay in the order of their ids, so that compacting an output again gives the same rows in the same order.

mod columns;
mod decode;
mod error;
mod inputs;
mod order;
mod output;
mod spill;

use std::path::PathBuf;

use arrow_array::RecordBatch;
use domain::lake::Kind;
use domain::lake::compaction::{MAX_FILE_BYTES, MAX_FILE_ROWS};
use lake_rows::{Level, ROW_GROUP_ROWS, Rule};

pub use error::CompactError;
pub use inputs::Input;
pub use output::Output;

/// How much room a compaction has.
#[derive(Debug, Clone)]
pub struct Options {
    /// A folder that exists, for the outputs and for pages that do not fit into memory. It must be this compaction's own.
    pub folder: PathBuf,
    /// How the outputs are written.
    pub level: Level,
    /// The memory for decoded columns and encoded pages.
    pub memory_bytes: usize,
    /// No output is larger than this, unless a single row group is.
    pub max_output_bytes: u64,
    /// No output has more rows than this, unless a single row group has.
    pub max_output_rows: u64,
    /// The rows of a row group; fewer if they are large.
    pub row_group_rows: usize,
}

impl Options {
    /// What Skylark compacts with: 224 MiB of memory, and the largest files and row groups that the lake's rules have.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            level: Level::L1,
            memory_bytes: 224 << 20,
            max_output_bytes: MAX_FILE_BYTES,
            max_output_rows: MAX_FILE_ROWS,
            row_group_rows: ROW_GROUP_ROWS,
        }
    }
}

/// What became of the inputs: `rows_in = rows + duplicates`, and each conflict is one of the duplicates.
#[derive(Debug)]
pub struct Compacted {
    /// In order: the rows of one come before the rows of the next. None if there are no rows.
    pub outputs: Vec<Output>,
    pub rows_in: u64,
    /// The rows of all outputs.
    pub rows: u64,
    /// The rows that are left out because another one with their id is kept.
    pub duplicates: u64,
    /// Of the duplicates, whole, those whose content differs from the row that is kept and from each other.
    pub conflicts: RecordBatch,
}

/// Compacts files of one table into fewer. The order of `inputs` decides only between rows that were received at the same instant.
///
/// An input of an older schema has nulls where it has no column. A column that this version does not know is kept, behind the others.
pub fn compact(table: Kind, inputs: &[Input], options: &Options) -> Result<Compacted, CompactError> {
    let inputs = inputs::Inputs::open(&lake_rows::schema(table), inputs)?;
    let order = order::Order::of(&inputs, &Rule::of(table))?;
    let encoded = columns::encode(table, &inputs, &order, options)?;
    let conflicts = inputs.rows(&encoded.conflicts)?;
    let outputs = output::write(table, encoded, options)?;
    Ok(Compacted {
        outputs,
        rows_in: u64::from(inputs.row_count()),
        rows: order.rows.len() as u64,
        duplicates: order.twins.len() as u64,
        conflicts,
    })
}
