//! Deleting what no version within the retention names: files that were merged away, files that nobody committed, old parts of the log.
//!
//! What is deleted is older, by the store's clock, than anything may be that is still read or about to be committed. There is no way to ask for
//! less: a vacuum that takes what is an hour old takes what a slow writer is about to commit.

use bytes::Bytes;
use domain::lake::{Kind, retention};
use serde::Serialize;
use time::OffsetDateTime;

use crate::Lake;
use crate::fault::LakeFault;
use crate::objects::ObjectInfo;
use crate::table::Known;

/// An object that is written to be told the store's time.
const CLOCK: &str = "maintain/clock";

/// What a vacuum deleted, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Vacuumed {
    /// Files that the table had and merged away.
    pub removed: Vec<String>,
    /// Files that never were in the table.
    pub orphans: Vec<String>,
    pub bytes: u64,
}

/// What a clean-up of the log deleted, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// The oldest version that can still be read.
    pub oldest_version: u64,
    pub objects: Vec<String>,
}

impl Lake {
    /// Now, as the store would stamp an object, or `now` if that is earlier.
    ///
    /// Ages are differences to times that the store stamped: a clock that is ahead of it would make young things old.
    pub async fn as_of(&self, now: OffsetDateTime) -> Result<OffsetDateTime, LakeFault> {
        self.objects.put(CLOCK, Bytes::from_static(b"now")).await?;
        let stamped = self.objects.head(CLOCK).await?;
        Ok(stamped.map_or(now, |object| object.modified_at.min(now)))
    }

    /// Deletes the objects of a table's folder that are none of its files: those that it removed more than [`retention::TOMBSTONES`] ago, and
    /// those that it never had and are older than [`retention::ORPHANS`]. `as_of` is [`Lake::as_of`].
    pub async fn vacuum(&self, kind: Kind, as_of: OffsetDateTime, dry_run: bool) -> Result<Vacuumed, LakeFault> {
        let table = self.table(kind).await?;
        let folder = table.folder.clone();
        // What is listed was there before the log was read: what is in neither list by then was not committed meanwhile, because no name is
        // written to twice and a writer that started before the listing is not older than an orphan.
        let objects = self.objects.list(&folder).await?;
        let plan = table
            .with(move |session| match session.refresh()? {
                None => Ok(Vacuumed::default()),
                Some(known) => Ok(plan(known, &folder, &objects, as_of)),
            })
            .await?;
        if !dry_run {
            self.objects.delete(&plan.removed).await?;
            self.objects.delete(&plan.orphans).await?;
        }
        Ok(plan)
    }

    /// Deletes the part of a table's log that is older than [`retention::LOG`] and that a younger version is not read from.
    pub async fn clean_log(&self, kind: Kind, as_of: OffsetDateTime, dry_run: bool) -> Result<Cleaned, LakeFault> {
        let folder = format!("{}/_delta_log", self.table(kind).await?.folder);
        let cleaned = expired(&folder, &self.objects.list(&folder).await?, as_of);
        if !dry_run {
            self.objects.delete(&cleaned.objects).await?;
        }
        Ok(cleaned)
    }
}

fn plan(known: &Known, folder: &str, objects: &[ObjectInfo], as_of: OffsetDateTime) -> Vacuumed {
    let old_tombstones = unix_ms(as_of - retention::TOMBSTONES);
    let mut plan = Vacuumed::default();
    for object in objects {
        let Some(path) = object.key.strip_prefix(folder).and_then(|path| path.strip_prefix('/')) else { continue };
        // Names that begin so are not data, by the protocol.
        if path.starts_with('_') || path.starts_with('.') || known.files.contains_key(path) {
            continue;
        }
        let chosen = match known.gone.get(path) {
            Some(at_ms) => (*at_ms < old_tombstones).then_some(&mut plan.removed),
            None => (object.modified_at < as_of - retention::ORPHANS).then_some(&mut plan.orphans),
        };
        if let Some(chosen) = chosen {
            chosen.push(object.key.clone());
            plan.bytes += object.bytes;
        }
    }
    plan
}

/// Everything before the newest checkpoint that was written longer ago than the log is kept: younger versions are read from it.
fn expired(folder: &str, objects: &[ObjectInfo], as_of: OffsetDateTime) -> Cleaned {
    let version = |object: &ObjectInfo| -> Option<u64> {
        let name = object.key.strip_prefix(folder)?.strip_prefix('/')?;
        name.get(..20)?.parse().ok()
    };
    let is_checkpoint = |object: &&ObjectInfo| object.key.ends_with(".checkpoint.parquet");
    let old = |object: &&ObjectInfo| object.modified_at < as_of - retention::LOG;
    let base = objects.iter().filter(is_checkpoint).filter(old).filter_map(version).max();
    let Some(base) = base else {
        let oldest = objects.iter().filter_map(version).min();
        return Cleaned { oldest_version: oldest.unwrap_or_default(), objects: Vec::new() };
    };
    let before = objects.iter().filter(|object| version(object).is_some_and(|version| version < base));
    Cleaned { oldest_version: base, objects: before.map(|object| object.key.clone()).collect() }
}

pub(crate) fn unix_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
