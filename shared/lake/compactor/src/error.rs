//! Why a compaction fails. Nothing is lost by that: the inputs stay as they are.

use std::io;
use std::path::PathBuf;

use arrow_schema::{ArrowError, DataType};
use domain::fault::{Fault, Refusal, Remedy};
use parquet::errors::ParquetError;

/// Why a compaction fails.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error("input {input} cannot be read")]
    Read { input: usize, source: io::Error },
    #[error("input {input} is not the Parquet that this compactor reads")]
    Input { input: usize, source: ParquetError },
    #[error("input {input} has `{column}` as {found}; it should be {expected}")]
    Column { input: usize, column: String, found: DataType, expected: DataType },
    #[error("row group {row_group} of input {input} promises {promised} rows and has {found}")]
    Rows { input: usize, row_group: usize, promised: usize, found: usize },
    #[error("the inputs have {0} rows; one compaction takes 2^31")]
    TooManyRows(u64),
    #[error("the columns cannot be put in order")]
    Arrow(#[from] ArrowError),
    #[error("the output cannot be encoded")]
    Encode(#[from] ParquetError),
    #[error("`{}` cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Fault for CompactError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Read { .. } | Self::Write { .. } => Remedy::Retry,
            Self::Input { .. } | Self::Column { .. } | Self::Rows { .. } => Remedy::Reject(Refusal::Unprocessable),
            Self::TooManyRows(_) => Remedy::Reject(Refusal::TooLarge),
            Self::Arrow(_) | Self::Encode(_) => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Write { .. } => "unavailable",
            Self::Input { .. } | Self::Column { .. } | Self::Rows { .. } => "broken_file",
            Self::TooManyRows(_) => "too_large",
            Self::Arrow(_) | Self::Encode(_) => "internal_error",
        }
    }
}
