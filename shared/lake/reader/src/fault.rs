//! Why a query has no answer, and what helps.

use arrow_schema::ArrowError;
use domain::fault::{Fault, Refusal, Remedy};
use lake::LakeFault;
use parquet::errors::ParquetError;

/// A query that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// A narrower filter helps, or an engine that reads the table with many machines.
    #[error("{bytes} bytes would have to be scanned, and a request may scan {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the table has no column `{0}`")]
    UnknownColumn(String),
    /// A column whose values nearly all differ is no group.
    #[error("`{column}` has more than {limit} values")]
    TooManyValues { column: String, limit: usize },
    /// The files that the table names were gone, and then those were gone that it named instead.
    #[error("`{0}` was gone, though the table names it")]
    Missing(String),
    #[error("the table cannot be looked at")]
    Lake(#[from] LakeFault),
    #[error("`{file}` cannot be read")]
    Parquet {
        file: String,
        #[source]
        cause: ParquetError,
    },
    /// A file has a column of a type that is not the table's.
    #[error("`{column}` of `{file}` is no {expected}")]
    Type { file: String, column: String, expected: String },
    #[error("the rows cannot be put together")]
    Arrow(#[from] ArrowError),
}

impl Fault for ReadFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::TooLarge { .. } => Remedy::Reject(Refusal::Unprocessable),
            Self::UnknownColumn(_) | Self::TooManyValues { .. } => Remedy::Reject(Refusal::Invalid),
            Self::Missing(_) => Remedy::Retry,
            Self::Lake(fault) => fault.remedy(),
            Self::Parquet { .. } | Self::Type { .. } | Self::Arrow(_) => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "scan_too_large",
            Self::UnknownColumn(_) | Self::TooManyValues { .. } => "validation",
            Self::Missing(_) => "unavailable",
            Self::Lake(fault) => fault.code(),
            Self::Parquet { .. } | Self::Type { .. } | Self::Arrow(_) => "internal_error",
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::UnknownColumn(_) => vec![("columns", self.to_string())],
            Self::TooManyValues { .. } => vec![("column", self.to_string())],
            _ => Vec::new(),
        }
    }
}
