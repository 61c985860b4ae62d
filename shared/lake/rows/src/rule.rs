//! Which of several rows with one id is kept, how rows are ordered, and which day is theirs.

use std::cmp::Ordering;

use domain::lake::Kind;

use crate::schema::key;

/// Which of the rows with one id is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What was received first; a later row that says something else is a conflict.
    Earliest,
    /// What was received last: it replaces what was known.
    Latest,
}

impl Keep {
    /// Compares two rows of one id, each by when it was received, if that is known, and its place in the table: the one that is kept is less.
    pub fn compare<T: Ord, P: Ord>(self, a: (Option<T>, P), b: (Option<T>, P)) -> Ordering {
        // What came at an unknown time is not known to have come first, nor last.
        let known = b.0.is_some().cmp(&a.0.is_some());
        known.then_with(|| match self {
            Self::Earliest => a.cmp(&b),
            Self::Latest => b.cmp(&a),
        })
    }
}

/// How the rows of a table are deduplicated, ordered and divided. Columns are named; one that a file does not have is as if null.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Text that identifies a row. Rows without it are all kept.
    pub id: &'static str,
    pub keep: Keep,
    /// When a row was received.
    pub received_at: &'static str,
    /// Rows are ordered by this text, byte by byte, ..
    pub group: Option<&'static str>,
    /// .. then by this number or time, and then by their id. Nulls come first.
    pub time: Option<&'static str>,
    /// The instant whose day in UTC is the row's partition.
    pub day: &'static str,
}

impl Rule {
    #[must_use]
    pub const fn of(table: Kind) -> Self {
        let (id, received_at) = (key(table), "received_at");
        match table {
            Kind::Messages => Self {
                id,
                keep: Keep::Earliest,
                received_at,
                group: Some("chatroom"),
                time: Some("create_time"),
                day: "create_time",
            },
            Kind::Contacts => Self { id, keep: Keep::Latest, received_at, group: None, time: None, day: received_at },
        }
    }

    /// The columns that rows are ordered by.
    pub fn order(&self) -> impl Iterator<Item = &'static str> {
        self.group.into_iter().chain(self.time).chain([self.id])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_or_the_last_is_kept_and_an_unknown_time_is_neither() {
        let kept = |keep: Keep, rows: &[Option<i64>]| {
            let rows = rows.iter().copied().zip(0..);
            rows.min_by(|a, b| keep.compare(*a, *b)).map(|(_, place)| place)
        };
        for (rows, first, last) in [
            (&[Some(2), Some(1), Some(3)][..], 1, 2),
            (&[None, Some(i64::MAX), Some(i64::MIN), None], 2, 1),
            (&[Some(1), Some(1)], 0, 1),
            (&[None, None], 0, 1),
        ] {
            assert_eq!((kept(Keep::Earliest, rows), kept(Keep::Latest, rows)), (Some(first), Some(last)), "{rows:?}");
        }
    }
}
