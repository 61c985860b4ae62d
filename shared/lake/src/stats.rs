//! What a table holds, from its log: no object is listed or opened.

use std::collections::BTreeMap;

use domain::lake::{Kind, Partition};
use lake_rows::Level;
use serde::Serialize;

use crate::fault::LakeFault;
use crate::kernel::Kernel;
use crate::{Lake, table::Known};

/// A table in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TableStats {
    pub version: u64,
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
    /// Files that appending made and nobody merged.
    pub small_files: u64,
    /// Commits that a reader reads one by one.
    pub commits_since_checkpoint: u64,
    /// Files that were removed, and are still named so that a batch which comes again is known.
    pub removed_files: u64,
    pub days: Vec<DayStats>,
}

/// A day of a table in figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayStats {
    pub partition: Partition,
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
    pub small_files: u64,
    pub small_bytes: u64,
    /// Files, small or merged, that a day is not sealed with.
    pub open_files: u64,
    /// All of it is in files that a day is sealed with.
    pub sealed: bool,
    /// Compressed for the archive.
    pub archived: bool,
}

impl Lake {
    /// The table in figures; all zero if there is none.
    pub async fn stats(&self, kind: Kind) -> Result<TableStats, LakeFault> {
        let table = self.table(kind).await?;
        table.with(|session| Ok(session.refresh()?.map(|known| stats(known)).unwrap_or_default())).await
    }
}

pub(crate) fn stats(known: &Known) -> TableStats {
    let mut days: BTreeMap<Partition, DayStats> = BTreeMap::new();
    for file in known.files.values() {
        let Some(partition) = file.partition else { continue };
        let day = days.entry(partition).or_insert(DayStats {
            partition,
            rows: 0,
            files: 0,
            bytes: 0,
            small_files: 0,
            small_bytes: 0,
            open_files: 0,
            sealed: true,
            archived: true,
        });
        day.rows += file.rows;
        day.files += 1;
        day.bytes += file.bytes;
        if file.level == Some(Level::L0) {
            day.small_files += 1;
            day.small_bytes += file.bytes;
        }
        if matches!(file.level, Some(Level::L0 | Level::L1)) {
            day.open_files += 1;
        }
        day.sealed &= matches!(file.level, Some(Level::L2 | Level::Archive));
        day.archived &= file.level == Some(Level::Archive);
    }
    let sum = |of: fn(&DayStats) -> u64| days.values().map(of).sum();
    TableStats {
        version: known.version(),
        rows: sum(|day| day.rows),
        files: sum(|day| day.files),
        bytes: sum(|day| day.bytes),
        small_files: sum(|day| day.small_files),
        commits_since_checkpoint: known.version() - Kernel::checkpoint_version(&known.snapshot).unwrap_or_default(),
        removed_files: known.gone.len() as u64,
        days: days.into_values().collect(),
    }
}
