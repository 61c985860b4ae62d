//! The lake's rules: what is accepted, where a row belongs, which batch a line counts for, when files are merged and how long each thing
//! is kept. Pure and small, so that what only accepts events links no Arrow.
//!
//! An event is accepted as an [`intake::Intake`] on the lake's queue. A batch of intakes becomes one raw object, whose name is its
//! [`batch::BatchId`]; each of its lines counts for exactly one batch (see [`batch`]); its rows go to the [`Kind`]'s table, into the
//! [`partition::Partition`] of their time.

pub mod batch;
pub mod compaction;
pub mod intake;
pub mod partition;
pub mod quarantine;
pub mod query;
pub mod retention;
pub mod source;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use batch::{BatchId, Counts};
pub use compaction::CompactJob;
pub use intake::Intake;
pub use partition::Partition;

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Messages,
    Contacts,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Messages, Self::Contacts];

    /// Its name, and its folder below `lake/`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Contacts => "contacts",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
