//! Files of a partition -> fewer, larger, sorted ones: down from the store, through [`lake_compactor`], up again, and one commit.

use std::collections::BTreeSet;
use std::path::Path;

use arrow_array::RecordBatch;
use delta_kernel::arrow::array::{Array, AsArray as _};
use delta_kernel::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use delta_kernel::arrow::json::LineDelimitedWriter;
use domain::fault::{Fault as _, Remedy};
use domain::lake::{Kind, Partition};
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use lake_compactor::{CompactError, Compacted, Input, compact};
use lake_rows::{DataFile, Level, Quarantined, Reason};
use serde::Serialize;
use time::OffsetDateTime;

use crate::fault::LakeFault;
use crate::file::merged_path;
use crate::objects::AT_ONCE;
use crate::{Lake, Replaced, Rewrite};

/// What a merge is to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    pub kind: Kind,
    pub partition: Partition,
    pub level: Level,
    /// For the log.
    pub reason: &'static str,
    /// For decoded columns and encoded pages.
    pub memory_bytes: usize,
}

/// What a merge made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Merged {
    /// The table has the new files.
    Done(Made),
    /// Somebody else merged the same files. Nothing was changed, and nothing is left behind.
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Made {
    pub version: u64,
    pub files_in: u64,
    pub files_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub rows: u64,
    pub duplicates: u64,
    pub conflicts: u64,
}

impl Lake {
    /// Merges `inputs`, files of one partition, in the empty folder `scratch`, which needs room for them twice.
    ///
    /// Conflicts are in the quarantine before the table loses them. If it is interrupted, the table is as it was, and what was written is an
    /// orphan. Nothing stands in the way of a second one.
    pub async fn merge(&self, merge: Merge, inputs: &[DataFile], scratch: &Path) -> Result<Merged, LakeFault> {
        let Merge { kind, partition, level, reason, .. } = merge;
        let Some(local) = self.download(kind, inputs, scratch).await? else { return self.missing(kind, inputs).await };
        let compacted = self.compact(merge, local, scratch).await?;
        self.quarantine(&conflicts(&compacted.conflicts)?).await?;

        let mut added = Vec::with_capacity(compacted.outputs.len());
        for output in &compacted.outputs {
            let path = merged_path(partition, level);
            self.objects.upload(&self.file_key(kind, &path).await?, &output.path).await?;
            let (bytes, stats) = (output.bytes, output.stats.clone());
            added.push(DataFile { path, partition, bytes, rows: output.rows, stats });
        }
        let rewrite =
            Rewrite { reason, duplicates: compacted.duplicates, conflicts: compacted.conflicts.num_rows() as u64 };
        match self.replace(kind, inputs, &added, rewrite).await? {
            Replaced::Stale => {
                self.discard(kind, &added).await?;
                Ok(Merged::Stale)
            }
            Replaced::Committed { version } => {
                let sum = |files: &[DataFile]| files.iter().map(|file| file.bytes).sum();
                Ok(Merged::Done(Made {
                    version,
                    files_in: inputs.len() as u64,
                    files_out: added.len() as u64,
                    bytes_in: sum(inputs),
                    bytes_out: sum(&added),
                    rows: compacted.rows,
                    duplicates: rewrite.duplicates,
                    conflicts: rewrite.conflicts,
                }))
            }
        }
    }

    /// An input was gone: somebody else merged it away. If the table names it all the same, nobody can read it, which somebody has to know.
    async fn missing(&self, kind: Kind, inputs: &[DataFile]) -> Result<Merged, LakeFault> {
        let live = self.files(kind, |_| true).await?;
        let named = |input: &DataFile| live.iter().any(|file| file.path == input.path);
        if inputs.iter().all(named) {
            let days: BTreeSet<_> = inputs.iter().map(|file| file.partition.to_string()).collect();
            return Err(LakeFault::broken("merging files", format!("the table names a file of {days:?} that is gone")));
        }
        Ok(Merged::Stale)
    }

    /// The files on this machine; `None` if one is gone.
    async fn download(&self, kind: Kind, files: &[DataFile], scratch: &Path) -> Result<Option<Vec<Input>>, LakeFault> {
        let download = async |(number, file): (usize, &DataFile)| {
            let target = scratch.join(format!("in-{number:05}.parquet"));
            let there = self.objects.download(&self.file_key(kind, &file.path).await?, &target).await?;
            Ok::<_, LakeFault>(there.then_some(Input::File(target)))
        };
        // In the table's order, on which it depends which of two rows that came at the same instant is kept.
        let downloads = futures_util::stream::iter(files.iter().enumerate().map(download)).buffered(AT_ONCE);
        downloads.try_collect::<Vec<_>>().await.map(|inputs| inputs.into_iter().collect())
    }

    async fn compact(&self, merge: Merge, inputs: Vec<Input>, scratch: &Path) -> Result<Compacted, LakeFault> {
        let mut options = lake_compactor::Options::new(scratch);
        (options.level, options.memory_bytes) = (merge.level, merge.memory_bytes);
        let compacted = self.runtime.blocking(move || compact(merge.kind, &inputs, &options)).await?;
        compacted.map_err(|fault: CompactError| match fault.remedy() {
            Remedy::Retry => LakeFault::unavailable("merging files", fault),
            _ => LakeFault::broken("merging files", fault),
        })
    }
}

/// Rows that say something else under an id that another row has, as lines that are kept aside.
fn conflicts(rows: &RecordBatch) -> Result<Vec<Quarantined>, LakeFault> {
    let broken = |fault| LakeFault::broken("keeping conflicts", fault);
    let mut lines = Vec::with_capacity(rows.num_rows());
    for at in 0..rows.num_rows() {
        let row = rows.slice(at, 1);
        let mut writer = LineDelimitedWriter::new(Vec::new());
        writer.write(&row).map_err(broken)?;
        writer.finish().map_err(broken)?;
        let mut bytes = writer.into_inner();
        bytes.truncate(bytes.trim_ascii_end().len());
        let received = row.column_by_name("received_at").and_then(|column| {
            let times = column.as_primitive_opt::<TimestampMicrosecondType>().filter(|times| times.is_valid(0))?;
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(times.value(0)) * 1_000).ok()
        });
        let number = row.column_by_name("raw_line").and_then(|column| column.as_primitive_opt::<Int64Type>());
        lines.push(Quarantined {
            reason: Reason::Conflict,
            detail: "another message has its id and says something else".to_owned(),
            bytes,
            source: text(&row, "source"),
            received_at: received.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            raw_object: text(&row, "raw_object"),
            raw_line: number.filter(|n| n.is_valid(0)).and_then(|n| n.value(0).try_into().ok()).unwrap_or_default(),
        });
    }
    Ok(lines)
}

/// The text of a column in the first row; empty if there is none.
fn text(row: &RecordBatch, column: &str) -> String {
    let Some(column) = row.column_by_name(column).filter(|column| column.is_valid(0)) else { return String::new() };
    let views = column.as_string_view_opt().map(|texts| texts.value(0).to_owned());
    views.or_else(|| column.as_string_opt::<i32>().map(|texts| texts.value(0).to_owned())).unwrap_or_default()
}
