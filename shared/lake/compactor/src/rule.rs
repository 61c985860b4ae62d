//! Which of several rows with one id is kept, and how rows are ordered.

use domain::lake::Kind;

/// Which of the rows with one id is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// What was received first; a later row that says something else is a conflict.
    Earliest,
    /// What was received last: it replaces what was known.
    Latest,
}

/// How the rows of a table are deduplicated and ordered. Columns are named; one that a file does not have is as if null.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// Text that identifies a row. Rows without it are all kept.
    pub(crate) id: &'static str,
    pub(crate) keep: Keep,
    /// When a row was received.
    pub(crate) received_at: &'static str,
    /// Rows are ordered by this text, byte by byte, ..
    pub(crate) group: Option<&'static str>,
    /// .. then by this number or time, and then by their id. Nulls come first.
    pub(crate) time: Option<&'static str>,
}

impl Rule {
    pub(crate) fn of(table: Kind) -> Self {
        let id = lake_rows::key(table);
        match table {
            Kind::Messages => Self {
                id,
                keep: Keep::Earliest,
                received_at: "received_at",
                group: Some("chatroom"),
                time: Some("create_time"),
            },
            Kind::Contacts => Self { id, keep: Keep::Latest, received_at: "received_at", group: None, time: None },
        }
    }

    /// The columns that rows are ordered by.
    pub(crate) fn order(&self) -> impl Iterator<Item = &'static str> {
        self.group.into_iter().chain(self.time).chain([self.id])
    }
}
