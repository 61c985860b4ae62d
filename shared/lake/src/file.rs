//! The names of data files, and what the log says of them.

use std::collections::BTreeMap;

use domain::lake::{BatchId, Partition};
use lake_rows::{DataFile, Level};

use crate::create::new_uuid;
use crate::fault::LakeFault;
use crate::kernel::LogFile;

/// The file as a commit adds it.
pub(crate) fn to_log(file: &DataFile, now_ms: i64) -> Result<LogFile, LakeFault> {
    let (year, month, day) = (file.partition.year(), file.partition.month(), file.partition.day());
    let values = [("year", year.to_string()), ("month", month.to_string()), ("day", day.to_string())];
    Ok(LogFile {
        path: file.path.clone(),
        partition: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        bytes: file.bytes,
        modified_ms: now_ms,
        stats: file.stats.to_json().map_err(|fault| LakeFault::broken("writing statistics", fault))?,
    })
}

/// A name for a file of a batch: it tells the batch, by which the table takes each once, and no other try has it, so that an object which nobody
/// committed will never be.
pub(crate) fn batch_path(partition: Partition, batch: &BatchId) -> String {
    format!("{}/{}-{}-{}.parquet", partition.folder(), Level::L0.prefix(), batch.sha256(), new_uuid().simple())
}

/// A name for a file that takes the place of others.
pub(crate) fn merged_path(partition: Partition, level: Level) -> String {
    format!("{}/{}-{}.parquet", partition.folder(), level.prefix(), new_uuid().simple())
}

/// The hash of the batch whose rows a file was first written for.
pub(crate) fn batch_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let (hash, _) = name.strip_prefix(Level::L0.prefix())?.strip_prefix('-')?.split_once('-')?;
    (hash.len() == 64).then_some(hash)
}

/// The partition from the values that the log keeps; `None` if it is not one of ours.
pub(crate) fn partition_of(values: &BTreeMap<String, String>) -> Option<Partition> {
    let value = |name| values.get(name).map(String::as_str);
    Partition::from_parts(value("year")?.parse().ok()?, value("month")?.parse().ok()?, value("day")?.parse().ok()?)
}
