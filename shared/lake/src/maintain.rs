//! The jobs that keep a lake in order. Each can be run again, at the same time too, and finds what is left to do; each can be asked what it would do.
//!
//! A job stops when its time is up and says so. What it did is done: the log and the store are its memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use domain::clock::Clock;
use domain::fault::{Fault, PortFault, Remedy, chain};
use domain::lake::batch::{BatchId, BatchJob, BatchQueue, Gate, RAW_PREFIX};
use domain::lake::compaction::{self, CompactJob, CompactQueue, Size};
use domain::lake::{Kind, Partition, retention};
use futures_util::future::try_join_all;
use lake_rows::Level;
use serde::{Deserialize, Serialize};
use time::{Date, Duration, OffsetDateTime};

use crate::{
    CHECKPOINT_EVERY, Cleaned, DataFile, Lake, LakeFault, Made, Merge, Merged, ObjectInfo, TableStats, Vacuumed,
};

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Asks for merges that are due and that nobody asked for.
    Sweep,
    /// Makes of each day that is over one sorted file, or a few if it is large.
    Seal,
    /// Compresses the long text of old days as hard as can be.
    Archive,
    /// Deletes raw objects that are in the tables and old enough.
    Raw,
    /// Finds raw objects that are in no table, and has them carried out.
    Reconcile,
    /// Deletes files that no version within the retention names, and old parts of the log.
    Vacuum,
    /// Writes checkpoints.
    Checkpoint,
    /// Tells how large everything is.
    Stats,
}

impl Job {
    pub const ALL: [Self; 8] = [
        Self::Sweep,
        Self::Seal,
        Self::Archive,
        Self::Raw,
        Self::Reconcile,
        Self::Vacuum,
        Self::Checkpoint,
        Self::Stats,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
            Self::Seal => "seal",
            Self::Archive => "archive",
            Self::Raw => "raw",
            Self::Reconcile => "reconcile",
            Self::Vacuum => "vacuum",
            Self::Checkpoint => "checkpoint",
            Self::Stats => "stats",
        }
    }
}

impl FromStr for Job {
    type Err = UnknownJob;

    fn from_str(text: &str) -> Result<Self, UnknownJob> {
        Self::ALL.into_iter().find(|job| job.as_str() == text).ok_or(UnknownJob)
    }
}

/// A text that names no job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job is sweep, seal, archive, raw, reconcile, vacuum, checkpoint or stats")]
pub struct UnknownJob;

/// What a job did, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub job: Job,
    pub dry_run: bool,
    /// It stopped because its time was up; the next run goes on.
    pub unfinished: bool,
    pub done: Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    Asked(Vec<CompactJob>),
    Rewritten(Vec<Rewritten>),
    Deleted(Objects),
    /// Batches that were in no table and have been handed out again.
    Replayed(Vec<BatchId>),
    Vacuumed(BTreeMap<Kind, (Vacuumed, Cleaned)>),
    /// The version of each new checkpoint.
    Checkpointed(BTreeMap<Kind, u64>),
    Stats(BTreeMap<Kind, TableStats>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Objects {
    pub keys: Vec<String>,
    pub bytes: u64,
}

/// Files of a day that became others, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    pub kind: Kind,
    pub partition: Partition,
    pub files_in: u64,
    pub bytes_in: u64,
    /// `None` if it only would, or if somebody else was faster.
    pub made: Option<Made>,
}

/// What the jobs need beside the lake.
pub struct Maintenance {
    pub lake: Arc<Lake>,
    pub gate: Arc<dyn Gate>,
    pub merges: Arc<dyn CompactQueue>,
    pub batches: Arc<dyn BatchQueue>,
    pub clock: Arc<dyn Clock>,
    /// A folder that is this process's own.
    pub scratch: PathBuf,
    /// For the columns of a merge.
    pub memory_bytes: usize,
}

impl std::fmt::Debug for Maintenance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Maintenance").field("lake", &self.lake).finish_non_exhaustive()
    }
}

/// How many batches are asked about at once.
const AT_ONCE: usize = 16;

/// A raw object lies under the day on which its first event came. That event may have waited for as long as queues keep anything before the
/// object was written.
const OLDEST_RAW: Duration = Duration::days(retention::RAW_AT_MOST.whole_days() + retention::INBOX.whole_days());

/// How many bytes of a file are merged and compressed in a second, at least: what a run begins, it is to finish.
const SEAL_BYTES_PER_SEC: u64 = 4_000_000;
const ARCHIVE_BYTES_PER_SEC: u64 = 400_000;

impl Maintenance {
    /// Runs a job until `end`.
    pub async fn run(&self, job: Job, end: OffsetDateTime, dry_run: bool) -> Result<Report, MaintainFault> {
        let mut run = Run { work: self, now: self.clock.now(), end, dry_run, unfinished: false };
        let done = match job {
            Job::Sweep => Done::Asked(run.sweep().await?),
            Job::Seal => Done::Rewritten(run.seal().await?),
            Job::Archive => Done::Rewritten(run.archive().await?),
            Job::Raw => Done::Deleted(run.expire_raw().await?),
            Job::Reconcile => Done::Replayed(run.reconcile().await?),
            Job::Vacuum => Done::Vacuumed(run.vacuum().await?),
            Job::Checkpoint => Done::Checkpointed(run.checkpoint().await?),
            Job::Stats => Done::Stats(run.stats().await?),
        };
        Ok(Report { job, dry_run, unfinished: run.unfinished, done })
    }
}

/// One run of a job.
struct Run<'a> {
    work: &'a Maintenance,
    now: OffsetDateTime,
    end: OffsetDateTime,
    dry_run: bool,
    unfinished: bool,
}

impl Run<'_> {
    fn lake(&self) -> &Lake {
        &self.work.lake
    }

    /// Whether there is time for something that takes so long. What takes longer than any run is begun by one that has all its time before it.
    fn has_time(&mut self, takes: Duration, first: bool) -> bool {
        let fits = first || self.work.clock.now() + takes <= self.end;
        self.unfinished |= !fits;
        fits
    }

    async fn sweep(&mut self) -> Result<Vec<CompactJob>, MaintainFault> {
        let mut jobs = Vec::new();
        for kind in Kind::ALL {
            let stats = self.lake().stats(kind).await?;
            let due = stats.days.iter().filter(|day| compaction::is_due(day.small_files, day.small_bytes));
            jobs.extend(due.map(|day| CompactJob::due(kind, day.partition, stats.version)));
        }
        if !self.dry_run {
            self.work.merges.ask(&jobs).await?;
        }
        Ok(jobs)
    }

    async fn seal(&mut self) -> Result<Vec<Rewritten>, MaintainFault> {
        let over = self.now - retention::SEAL_AFTER;
        let plan = |kind, partition, files: Vec<DataFile>| {
            let inputs = to_seal(files);
            (!inputs.is_empty()).then_some((kind, partition, inputs)).into_iter().collect()
        };
        self.rewrite(move |day| day.ends_at() <= over, plan, Level::L2, "seal", SEAL_BYTES_PER_SEC).await
    }

    async fn archive(&mut self) -> Result<Vec<Rewritten>, MaintainFault> {
        let old = self.now - retention::ARCHIVE_AFTER;
        // A file at a time: it is sorted and deduplicated, and what is archived need not be done again.
        let plan = |kind, partition, files: Vec<DataFile>| {
            let inputs = files.into_iter().filter(|file| matches!(Level::of(&file.path), Some(Level::L2)));
            inputs.map(|file| (kind, partition, vec![file])).collect()
        };
        self.rewrite(move |day| day.ends_at() <= old, plan, Level::Archive, "archive", ARCHIVE_BYTES_PER_SEC).await
    }

    /// Merges what `plan` makes of each chosen day's files: newest day first, for it is what people ask for, and of each table in turn. Neither a failure
    /// nor a trickle of late rows to days of long ago keeps the others waiting.
    async fn rewrite(
        &mut self,
        chosen: impl Fn(Partition) -> bool + Clone + Send + 'static,
        plan: impl Fn(Kind, Partition, Vec<DataFile>) -> Vec<(Kind, Partition, Vec<DataFile>)>,
        level: Level,
        reason: &'static str,
        bytes_per_sec: u64,
    ) -> Result<Vec<Rewritten>, MaintainFault> {
        let mut planned = Vec::new();
        for kind in Kind::ALL {
            let mut days: BTreeMap<Partition, Vec<DataFile>> = BTreeMap::new();
            for file in self.lake().files(kind, chosen.clone()).await? {
                days.entry(file.partition).or_default().push(file);
            }
            let of_kind = days.into_iter().rev().flat_map(|(partition, files)| plan(kind, partition, files));
            planned.extend(of_kind.enumerate());
        }
        planned.sort_by_key(|(turn, _)| *turn);
        let (mut done, mut failed) = (Vec::new(), None);
        for (_, (kind, partition, inputs)) in planned {
            let bytes_in = inputs.iter().map(|file| file.bytes).sum::<u64>();
            let takes = Duration::seconds((bytes_in / bytes_per_sec).try_into().unwrap_or(i64::MAX));
            let mut rewritten = Rewritten { kind, partition, files_in: inputs.len() as u64, bytes_in, made: None };
            if !self.dry_run {
                if !self.has_time(takes, done.is_empty()) {
                    break;
                }
                let merge = Merge { kind, partition, level, reason, memory_bytes: self.work.memory_bytes };
                match self.merge(merge, &inputs).await {
                    Ok(Merged::Done(made)) => rewritten.made = Some(made),
                    Ok(Merged::Stale) => {}
                    Err(fault) => {
                        tracing::error!(lake.table = %kind, lake.day = %partition, error = %chain(&fault), "A day was not rewritten");
                        failed = Some(fault);
                        continue;
                    }
                }
            }
            done.push(rewritten);
        }
        failed.map_or(Ok(done), |fault| Err(fault.into()))
    }

    async fn merge(&self, merge: Merge, inputs: &[DataFile]) -> Result<Merged, LakeFault> {
        let scratch = Scratch::new(&self.work.scratch)?;
        self.lake().merge(merge, inputs, &scratch.0).await
    }

    /// The days, newest first, under which raw objects of this age or older lie.
    fn raw_days(&self, youngest: Duration) -> impl DoubleEndedIterator<Item = Date> + use<> {
        let (newest, oldest) = (self.now - youngest, OLDEST_RAW.whole_days() - youngest.whole_days());
        (0..=oldest).map(move |days| (newest - Duration::days(days)).date())
    }

    /// Of a day's raw objects those that are older than `age`, each with its batch and whether that is settled. `None` if there is no time left.
    async fn raw_objects(
        &mut self,
        day: Date,
        age: Duration,
        as_of: OffsetDateTime,
    ) -> Result<Option<Vec<(ObjectInfo, BatchId, bool)>>, MaintainFault> {
        let objects = self.lake().list_objects(&format!("{RAW_PREFIX}dt={day}")).await?;
        let old = objects.into_iter().filter(|object| object.modified_at < as_of - age);
        let named: Vec<_> = old.filter_map(|object| Some((BatchId::of_raw(&object.key).ok()?, object))).collect();
        let mut told = Vec::with_capacity(named.len());
        for chunk in named.chunks(AT_ONCE) {
            if !self.has_time(Duration::ZERO, false) {
                return Ok(None);
            }
            let settled = try_join_all(chunk.iter().map(|(batch, _)| self.work.gate.is_settled(batch))).await?;
            let objects = chunk.iter().cloned().zip(settled);
            told.extend(objects.map(|((batch, object), settled)| (object, batch, settled)));
        }
        Ok(Some(told))
    }

    async fn expire_raw(&mut self) -> Result<Objects, MaintainFault> {
        let as_of = self.as_of().await?;
        let mut expired = Objects::default();
        for day in self.raw_days(retention::RAW).rev() {
            let Some(objects) = self.raw_objects(day, retention::RAW, as_of).await? else { break };
            let of_day = objects.into_iter().filter(|(_, _, settled)| *settled).map(|(object, _, _)| object);
            let of_day: Vec<ObjectInfo> = of_day.collect();
            let keys: Vec<_> = of_day.iter().map(|object| object.key.clone()).collect();
            if !self.dry_run {
                self.lake().delete_objects(&keys).await?;
            }
            expired.bytes += of_day.iter().map(|object| object.bytes).sum::<u64>();
            expired.keys.extend(keys);
        }
        Ok(expired)
    }

    /// Newest first: what was left behind yesterday is found today, however much there is.
    async fn reconcile(&mut self) -> Result<Vec<BatchId>, MaintainFault> {
        let as_of = self.as_of().await?;
        let mut lost = Vec::new();
        for day in self.raw_days(retention::RECONCILE_AFTER) {
            let Some(objects) = self.raw_objects(day, retention::RECONCILE_AFTER, as_of).await? else { break };
            for (_, batch, _) in objects.into_iter().filter(|(_, _, settled)| !*settled) {
                tracing::error!(lake.batch = %batch, "A raw object is in no table: `{batch}`");
                if !self.dry_run {
                    self.work.batches.ask_again(&BatchJob { batch: batch.clone() }).await?;
                }
                lost.push(batch);
            }
        }
        Ok(lost)
    }

    async fn vacuum(&mut self) -> Result<BTreeMap<Kind, (Vacuumed, Cleaned)>, MaintainFault> {
        let as_of = self.as_of().await?;
        let mut done = BTreeMap::new();
        for kind in Kind::ALL {
            let vacuumed = self.lake().vacuum(kind, as_of, self.dry_run).await?;
            let cleaned = self.lake().clean_log(kind, as_of, self.dry_run).await?;
            done.insert(kind, (vacuumed, cleaned));
        }
        Ok(done)
    }

    async fn checkpoint(&mut self) -> Result<BTreeMap<Kind, u64>, MaintainFault> {
        let mut written = BTreeMap::new();
        for kind in Kind::ALL {
            if self.dry_run {
                let stats = self.lake().stats(kind).await?;
                if stats.commits_since_checkpoint >= CHECKPOINT_EVERY {
                    written.insert(kind, stats.version);
                }
            } else if let Some(version) = self.lake().checkpoint(kind, CHECKPOINT_EVERY).await? {
                written.insert(kind, version);
            }
        }
        Ok(written)
    }

    async fn stats(&mut self) -> Result<BTreeMap<Kind, TableStats>, MaintainFault> {
        let mut stats = BTreeMap::new();
        for kind in Kind::ALL {
            stats.insert(kind, self.lake().stats(kind).await?);
        }
        Ok(stats)
    }

    async fn as_of(&self) -> Result<OffsetDateTime, LakeFault> {
        self.lake().as_of(self.now).await
    }
}

/// What of a day's files has to be merged so that the day is sealed: what is not sorted, and with it the sorted files that are so small that a day of
/// many late rows would end in many of them. A large file is left alone for a few late rows; who wants to know of a row asks a day's files all.
fn to_seal(files: Vec<DataFile>) -> Vec<DataFile> {
    let sorted = |file: &DataFile| matches!(Level::of(&file.path), Some(Level::L2 | Level::Archive));
    if files.iter().all(sorted) {
        return Vec::new();
    }
    let size = |file: &DataFile| Size { bytes: file.bytes, rows: file.rows };
    let is_small = |file: &DataFile| !size(file).plus(size(file)).is_full();
    let mut inputs: Vec<_> = files.into_iter().filter(|file| !sorted(file) || is_small(file)).collect();
    // What is not sorted first: it is what has to be merged. The rest of a day that is too large for one run is left for the next.
    inputs.sort_by_key(|file| sorted(file));
    let mut taken = Size::default();
    let fitting = inputs.into_iter().take(compaction::MAX_INPUTS).enumerate().take_while(|(place, file)| {
        taken = taken.plus(size(file));
        *place == 0 || taken.fits()
    });
    fitting.map(|(_, file)| file).collect()
}

/// A folder for one merge, gone when it is done.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Result<Self, LakeFault> {
        let folder = parent.join(format!("merge-{}", crate::create::new_uuid().simple()));
        std::fs::create_dir_all(&folder).map_err(|fault| LakeFault::unavailable("making a folder", fault))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Why a job stopped.
#[derive(Debug, thiserror::Error)]
pub enum MaintainFault {
    #[error("the lake failed")]
    Lake(#[from] LakeFault),
    #[error("a store or a queue failed")]
    Port(#[from] PortFault),
    /// They are on their way now; that they were not is for somebody to look at.
    #[error("{0} raw objects were in no table")]
    LeftBehind(usize),
}

impl Fault for MaintainFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Lake(fault) => fault.remedy(),
            Self::Port(fault) => fault.remedy(),
            Self::LeftBehind(_) => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Lake(fault) => fault.code(),
            Self::Port(fault) => fault.code(),
            Self::LeftBehind(_) => "left_behind",
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::lake::compaction::{MAX_FILE_BYTES, MAX_FILE_ROWS};

    use super::*;

    fn file(level: Level, bytes: u64, rows: u64) -> DataFile {
        let partition: Partition = "2026-11-05".parse().unwrap();
        DataFile { path: crate::file::merged_path(partition, level), partition, bytes, rows, stats: Default::default() }
    }

    fn rows(files: &[DataFile]) -> Vec<u64> {
        to_seal(files.to_vec()).iter().map(|file| file.rows).collect()
    }

    #[test]
    fn a_day_is_sealed_in_steps_that_fit_by_bytes_and_by_rows() {
        const HALF: u64 = MAX_FILE_ROWS / 2;
        // 30 bytes a row: what would fit into a run by its bytes has four times the rows that do.
        let narrow = |level, rows| file(level, 30 * rows, rows);
        assert_eq!(rows(&vec![narrow(Level::L1, HALF); 16]), [HALF; 4]);
        assert_eq!(rows(&[narrow(Level::L1, 3 * MAX_FILE_ROWS), narrow(Level::L1, 1)]), [3 * MAX_FILE_ROWS]);
        assert_eq!(rows(&vec![file(Level::L1, MAX_FILE_BYTES, 1); 5]), [1, 1]);
        // What is sorted is merged with it only if it is small.
        let sorted = [narrow(Level::L2, HALF), narrow(Level::L2, HALF - 1), file(Level::L2, MAX_FILE_BYTES / 2, 3)];
        assert_eq!(rows(&sorted), [0; 0]);
        assert_eq!(rows(&[&sorted[..], &[narrow(Level::L0, 7)]].concat()), [7, HALF - 1]);
    }
}
