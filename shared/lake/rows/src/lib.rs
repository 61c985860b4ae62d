//! Lines of JSON -> columns -> Parquet: the tables' schemas, and how an event becomes a row of one of them or a quarantined line.
//!
//! [`convert`] takes what feeds sent and accounts for every line of it: `lines_in = rows + duplicates + quarantined`. [`write_parquet`] makes
//! a data file of rows, with what Delta's log says of it. Nothing here does I/O, knows a clock or fails on what somebody sent.

mod chat;
mod columns;
mod convert;
mod digest;
mod event;
mod lark;
mod mask;
mod message;
mod object;
mod pointer;
mod quarantine;
mod rule;
mod scan;
mod schema;
mod stats;
mod value;
mod write;

pub use domain::lake::{Counts, Kind, Partition};

pub use crate::convert::{Batch, Converted, Converter, Identity, Line, MAX_LINE_BYTES, Options, convert, identify};
pub use crate::digest::{Digest, Digester};
pub use crate::quarantine::{Quarantined, Reason};
pub use crate::rule::{Keep, Rule};
pub use crate::schema::{
    Column, ColumnType, Incompatible, PARTITION_COLUMNS, Version, chosen, is_content, is_json, key, schema,
    table_schema,
};
pub use crate::stats::{Bound, Stats};
pub use crate::write::{DataFile, Level, ROW_GROUP_ROWS, WriteError, Writer, Written, properties, write_parquet};
