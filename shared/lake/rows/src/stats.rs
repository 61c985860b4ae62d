//! What the log says of a data file, so that readers need not open it: counts, and between which bounds each column lies.

use std::collections::BTreeMap;

use parquet::basic::Type as Physical;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

use domain::lake::Kind;

use crate::schema::{ColumnType, Storage, definitions};

/// A bound in the form of Delta's statistics: instants are text, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bound {
    Integer(i64),
    Text(String),
}

/// A data file's statistics. As JSON it is the `stats` of an `add` action, to the letter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    pub num_records: u64,
    /// No value of the column is less. Text may be cut short.
    pub min_values: BTreeMap<String, Bound>,
    /// No value of the column is greater. Text may be cut short and raised.
    pub max_values: BTreeMap<String, Bound>,
    pub null_count: BTreeMap<String, u64>,
}

impl Stats {
    /// From what the Parquet writer counted while it wrote. Long text has no bounds.
    #[must_use]
    pub fn of(table: Kind, file: &ParquetMetaData) -> Self {
        let rows = file.file_metadata().num_rows();
        let mut stats = Self { num_records: u64::try_from(rows).unwrap_or_default(), ..Self::default() };
        for (at, column) in definitions(table).iter().enumerate() {
            let groups = || file.row_groups().iter().filter_map(|group| group.columns().get(at)?.statistics());
            let nulls: Option<u64> = groups().map(Statistics::null_count_opt).sum();
            stats.null_count.insert(column.name.to_owned(), nulls.unwrap_or_default());
            if column.storage == Storage::Long {
                continue;
            }
            let bounds = |end: End| groups().filter_map(move |group| end.of(group));
            if let Some(min) = bounds(End::Min).reduce(Raw::min).and_then(|min| min.bound(column.kind, End::Min)) {
                stats.min_values.insert(column.name.to_owned(), min);
            }
            if let Some(max) = bounds(End::Max).reduce(Raw::max).and_then(|max| max.bound(column.kind, End::Max)) {
                stats.max_values.insert(column.name.to_owned(), max);
            }
        }
        stats
    }

    /// The `stats` of an `add` action.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    pub fn from_json(stats: &str) -> serde_json::Result<Self> {
        serde_json::from_str(stats)
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    Min,
    Max,
}

impl End {
    fn of(self, group: &Statistics) -> Option<Raw<'_>> {
        let bytes = match self {
            Self::Min => group.min_bytes_opt(),
            Self::Max => group.max_bytes_opt(),
        }?;
        match group.physical_type() {
            Physical::INT64 => Some(Raw::Integer(i64::from_le_bytes(bytes.try_into().ok()?))),
            Physical::BYTE_ARRAY => Some(Raw::Text(std::str::from_utf8(bytes).ok()?)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Raw<'a> {
    Integer(i64),
    Text(&'a str),
}

impl Raw<'_> {
    fn bound(self, kind: ColumnType, end: End) -> Option<Bound> {
        match (self, kind) {
            (Self::Integer(micros), ColumnType::Instant) => instant(micros, end).map(Bound::Text),
            (Self::Integer(number), _) => Some(Bound::Integer(number)),
            (Self::Text(text), _) => Some(Bound::Text(text.to_owned())),
        }
    }
}

/// Statistics are in milliseconds, files in microseconds: a maximum that is cut off would lie below values that it bounds.
fn instant(micros: i64, end: End) -> Option<String> {
    let millis = match end {
        End::Min => micros.div_euclid(1_000),
        End::Max => micros.checked_add(999)?.div_euclid(1_000),
    };
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?;
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    at.format(form).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_s_bounds_lie_around_it() {
        let at = 1_700_000_000_123_456;
        assert_eq!(instant(at, End::Min).unwrap(), "2023-11-14T22:13:20.123Z");
        assert_eq!(instant(at, End::Max).unwrap(), "2023-11-14T22:13:20.124Z");
        assert_eq!(instant(1_700_000_000_123_000, End::Max).unwrap(), "2023-11-14T22:13:20.123Z");
        assert_eq!(instant(-1, End::Min).unwrap(), "1969-12-31T23:59:59.999Z");
        assert_eq!(instant(-1, End::Max).unwrap(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn statistics_are_read_as_they_are_written_and_where_others_leave_some_out() {
        let mut stats = Stats { num_records: 3, ..Stats::default() };
        stats.min_values.insert("msg_type".into(), Bound::Integer(-1));
        stats.max_values.insert("chatroom".into(), Bound::Text("群".into()));
        stats.null_count.insert("extras".into(), 3);
        let json = stats.to_json().unwrap();
        assert_eq!(
            json,
            r#"{"numRecords":3,"minValues":{"msg_type":-1},"maxValues":{"chatroom":"群"},"nullCount":{"extras":3}}"#
        );
        assert_eq!(Stats::from_json(&json).unwrap(), stats);
        let scant = Stats::from_json(r#"{"numRecords":7,"tightBounds":true}"#).unwrap();
        assert_eq!(scant, Stats { num_records: 7, ..Stats::default() });
    }
}
