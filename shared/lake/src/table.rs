//! One table: what this process knows of its log, and how a commit gets into it.
//!
//! A commit is version n+1 written once by whoever is first ([`Kernel`]). Who is not first, or does not know, looks at what the log says now and
//! decides again: an append whose batch is there is done; a replacement whose outputs are there is done, one whose inputs are gone is given up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use delta_kernel::snapshot::SnapshotRef;
use domain::fault::{Fault as _, Remedy};
use domain::lake::{BatchId, Partition};
use futures_util::future::try_join_all;
use lake_rows::{DataFile, Level, Stats};
use rand::Rng as _;
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use url::Url;

use crate::create::commit_key;
use crate::fault::LakeFault;
use crate::file::{batch_of, partition_of};
use crate::kernel::{Attempt, CommitInfo, Kernel, LogFile};
use crate::objects::Objects;
use crate::runtime::Runtime;

/// So often a commit is tried. Eight writers that never rest meet each other a few times; nobody loses so many races.
const TRIES: u32 = 40;

/// Between tries, a random part of this times two to the number of tries, up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A table of the lake, and what this process knows of it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) folder: Arc<str>,
    url: Url,
    kernel: Kernel,
    objects: Objects,
    runtime: Runtime,
    known: Arc<Mutex<Option<Known>>>,
}

/// The log as it was read last.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) snapshot: SnapshotRef,
    pub(crate) files: BTreeMap<String, Live>,
    /// What was removed and is not forgotten, and when, in Unix milliseconds.
    pub(crate) gone: HashMap<String, i64>,
    /// The hash of every batch that is in the table, or was before its files were merged.
    pub(crate) batches: HashSet<String>,
}

/// A file of the table. Its statistics stay text until somebody asks.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) partition: Option<Partition>,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) level: Option<Level>,
    stats: String,
}

/// Just the row count of a file's statistics.
#[derive(Deserialize)]
struct Rows {
    #[serde(rename = "numRecords", default)]
    rows: u64,
}

impl Live {
    fn new(file: &LogFile) -> Self {
        Self {
            partition: partition_of(&file.partition),
            bytes: file.bytes,
            rows: serde_json::from_str::<Rows>(&file.stats).map_or(0, |stats| stats.rows),
            level: Level::of(&file.path),
            stats: file.stats.clone(),
        }
    }
}

impl Known {
    fn new(kernel: &Kernel, snapshot: SnapshotRef) -> Result<Self, LakeFault> {
        let state = kernel.state(&snapshot)?;
        let batches = state.removed.keys().filter_map(|path| batch_of(path)).map(str::to_owned).collect();
        let mut known = Self { snapshot, files: BTreeMap::new(), gone: state.removed, batches };
        state.files.values().for_each(|file| known.add(file));
        Ok(known)
    }

    pub(crate) fn version(&self) -> u64 {
        self.snapshot.version()
    }

    /// Whether one of the files is in the table or was. No name is used twice, so that they were committed by who asks.
    fn has_any(&self, files: &[LogFile]) -> bool {
        files.iter().any(|file| self.files.contains_key(&file.path) || self.gone.contains_key(&file.path))
    }

    fn add(&mut self, file: &LogFile) {
        self.gone.remove(&file.path);
        self.batches.extend(batch_of(&file.path).map(str::to_owned));
        self.files.insert(file.path.clone(), Live::new(file));
    }

    fn apply(&mut self, action: Action) {
        if let Some(add) = action.add {
            let values = add.partition_values.into_iter();
            self.add(&LogFile {
                path: add.path,
                partition: values.filter_map(|(name, value)| Some((name, value?))).collect(),
                bytes: add.size,
                modified_ms: add.modification_time,
                stats: add.stats.unwrap_or_else(|| "{}".to_owned()),
            });
        }
        if let Some(remove) = action.remove {
            self.files.remove(&remove.path);
            self.gone.insert(remove.path, remove.deletion_timestamp.unwrap_or_default());
        }
    }

    /// The file as people may have it; `None` if its folder is not one of our days.
    pub(crate) fn data_file(&self, path: &str) -> Option<DataFile> {
        let live = self.files.get(path)?;
        Some(DataFile {
            path: path.to_owned(),
            partition: live.partition?,
            bytes: live.bytes,
            rows: live.rows,
            stats: Stats::from_json(&live.stats).unwrap_or_default(),
        })
    }

    /// How many files that appending made a partition has, and their bytes.
    pub(crate) fn small_files(&self, partition: Partition) -> (u64, u64) {
        let small =
            self.files.values().filter(|file| file.partition == Some(partition) && file.level == Some(Level::L0));
        small.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.bytes))
    }
}

/// A line of a commit, as far as files go.
#[derive(Deserialize)]
struct Action {
    add: Option<Add>,
    remove: Option<Remove>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Add {
    path: String,
    partition_values: BTreeMap<String, Option<String>>,
    size: u64,
    modification_time: i64,
    #[serde(default)]
    stats: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Remove {
    path: String,
    #[serde(default)]
    deletion_timestamp: Option<i64>,
}

/// How a replacement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// The new files are in the table and the old ones are not.
    Committed { version: u64 },
    /// An input is no longer in the table: somebody merged it. The outputs are nobody's.
    Stale,
}

impl Table {
    pub(crate) fn new(
        folder: &str,
        root: &Url,
        kernel: Kernel,
        objects: Objects,
        runtime: Runtime,
    ) -> Result<Self, LakeFault> {
        let url = root.join(&format!("{folder}/"));
        let url = url.map_err(|fault| LakeFault::broken("naming the table", fault))?;
        Ok(Self { folder: folder.into(), url, kernel, objects, runtime, known: Arc::default() })
    }

    /// Does something with the table that blocks, one caller of this process at a time.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Session) -> Result<T, LakeFault> + Send + 'static,
    ) -> Result<T, LakeFault> {
        let known = self.known.clone().lock_owned().await;
        let mut session = Session { table: self.clone(), known };
        self.runtime.blocking(move || step(&mut session)).await?
    }

    /// The table's files at a version that is not the present one.
    pub(crate) async fn files_at(&self, version: u64) -> Result<Vec<DataFile>, LakeFault> {
        let (kernel, url) = (self.kernel.clone(), self.url.clone());
        let known = self.runtime.blocking(move || Known::new(&kernel, kernel.load_at(&url, version)?));
        let known = known.await??;
        Ok(known.files.keys().filter_map(|path| known.data_file(path)).collect())
    }
}

/// A table while one caller has it.
#[derive(Debug)]
pub(crate) struct Session {
    table: Table,
    known: OwnedMutexGuard<Option<Known>>,
}

impl Session {
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.table.kernel
    }

    /// What the log says now; `None` if there is no table. One request if nothing is new. If it fails, what was known is known.
    pub(crate) fn refresh(&mut self) -> Result<Option<&mut Known>, LakeFault> {
        let news = self.known.as_ref().map(|known| self.news(known)).transpose()?.flatten();
        match (self.known.as_mut(), news) {
            (Some(known), Some((snapshot, actions))) => {
                actions.into_iter().for_each(|action| known.apply(action));
                known.snapshot = snapshot;
            }
            _ => {
                let kernel = &self.table.kernel;
                let loaded = kernel.load(&self.table.url)?;
                *self.known = loaded.map(|snapshot| Known::new(kernel, snapshot)).transpose()?;
            }
        }
        Ok(self.known.as_mut())
    }

    /// What was committed since; `None` if that is not all there any more.
    fn news(&self, known: &Known) -> Result<Option<(SnapshotRef, Vec<Action>)>, LakeFault> {
        let snapshot = match self.table.kernel.refresh(&known.snapshot) {
            Ok(snapshot) => snapshot,
            Err(fault) if fault.remedy() == Remedy::Retry => return Err(fault),
            // What it was based on is gone.
            Err(_) => return Ok(None),
        };
        let versions = known.version() + 1..=snapshot.version();
        let read = versions.map(|version| self.commit(version));
        let commits = self.table.runtime.handle().block_on(try_join_all(read))?;
        let Some(commits) = commits.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let lines = commits.iter().flat_map(|commit| commit.split(|byte| *byte == b'\n'));
        let actions = lines.filter(|line| !line.is_empty()).map(serde_json::from_slice);
        let actions =
            actions.collect::<Result<_, _>>().map_err(|fault| LakeFault::broken("reading a commit", fault))?;
        Ok(Some((snapshot, actions)))
    }

    async fn commit(&self, version: u64) -> Result<Option<Bytes>, LakeFault> {
        self.table.objects.get(&commit_key(&self.table.folder, version)).await
    }

    /// What the log said when it was read last; it is read if it never was.
    pub(crate) fn known(&mut self) -> Result<&mut Known, LakeFault> {
        if self.known.is_none() {
            self.refresh()?;
        }
        self.known.as_mut().ok_or_else(|| LakeFault::broken("looking at the table", "there is none"))
    }

    fn refreshed(&mut self) -> Result<&mut Known, LakeFault> {
        let missing = || LakeFault::broken("looking at the table", "there is none");
        self.refresh()?.ok_or_else(missing)
    }

    /// Adds the files of a batch, once. `None` if the batch is in the table with other files: these are nobody's then.
    pub(crate) fn append(
        &mut self,
        batch: &BatchId,
        files: &[LogFile],
        info: &CommitInfo,
    ) -> Result<Option<u64>, LakeFault> {
        let kernel = self.table.kernel.clone();
        let mut tries = Tries::default();
        loop {
            // What is known need not be the present: if it is not, the version is taken and the commit is refused.
            let known = self.known()?;
            // An earlier try went through, and its answer was lost.
            if known.has_any(files) {
                return Ok(Some(known.version()));
            }
            if known.batches.contains(batch.sha256()) {
                return Ok(None);
            }
            tries.next()?;
            match kernel.append(&known.snapshot, files, info) {
                Attempt::Committed(snapshot) => {
                    known.snapshot = snapshot;
                    files.iter().for_each(|file| known.add(file));
                    return Ok(Some(known.version()));
                }
                Attempt::Unsettled(fault) => tries.unsettled(fault),
            }
            self.refreshed()?;
        }
    }

    /// Puts `added` in the place of `removed`, with the same rows but for `dropped`.
    pub(crate) fn replace(
        &mut self,
        removed: &HashSet<String>,
        added: &[LogFile],
        dropped: u64,
        info: &CommitInfo,
    ) -> Result<Replaced, LakeFault> {
        let kernel = self.table.kernel.clone();
        let mut tries = Tries::default();
        loop {
            let known = self.refreshed()?;
            if known.has_any(added) {
                return Ok(Replaced::Committed { version: known.version() });
            }
            if !removed.iter().all(|path| known.files.contains_key(path)) {
                return Ok(Replaced::Stale);
            }
            let before: u64 = removed.iter().filter_map(|path| known.files.get(path)).map(|file| file.rows).sum();
            let after: u64 = added.iter().map(|file| Live::new(file).rows).sum();
            if before != after + dropped {
                return Err(LakeFault::Unbalanced(format!("{before} rows become {after}, {dropped} left out")));
            }
            tries.next()?;
            match kernel.replace(&known.snapshot, removed, added, info) {
                Some(Attempt::Committed(snapshot)) => return Ok(Replaced::Committed { version: snapshot.version() }),
                Some(Attempt::Unsettled(fault)) => tries.unsettled(fault),
                None => tries.unsettled(None),
            }
        }
    }

    /// Adds the columns that the table does not have. Returns their names.
    pub(crate) fn add_columns(
        &mut self,
        columns: &[(String, arrow_schema::DataType)],
    ) -> Result<Vec<String>, LakeFault> {
        let kernel = self.table.kernel.clone();
        let (mut tries, mut added) = (Tries::default(), Vec::new());
        for (name, kind) in columns {
            loop {
                let known = self.refreshed()?;
                let present = Kernel::columns(&known.snapshot)?;
                if let Some((_, field)) = present.fields().find(name) {
                    if field.data_type() != kind {
                        let reason = format!("it is there and is {}", field.data_type());
                        return Err(LakeFault::BadColumn { column: name.clone(), reason });
                    }
                    break;
                }
                tries.next()?;
                match kernel.add_column(&known.snapshot, name, kind)? {
                    Attempt::Committed(_) => added.push(name.clone()),
                    Attempt::Unsettled(fault) => tries.unsettled(fault),
                }
            }
        }
        Ok(added)
    }
}

/// How often something was tried, and how long to wait before it is tried again.
#[derive(Default)]
struct Tries {
    count: u32,
    fault: Option<LakeFault>,
}

impl Tries {
    /// Waits before another try, unless there have been enough or the last one said that no other can help.
    fn next(&mut self) -> Result<(), LakeFault> {
        let hopeless = self.fault.as_ref().is_some_and(|fault| fault.remedy() != Remedy::Retry);
        if hopeless || self.count >= TRIES {
            return Err(self.fault.take().unwrap_or(LakeFault::Contended { tries: self.count }));
        }
        if self.count > 0 {
            let longest = FIRST_PAUSE.saturating_mul(1 << self.count.min(10)).min(LONGEST_PAUSE);
            std::thread::sleep(longest.mul_f64(rand::rng().random::<f64>()));
        }
        self.count += 1;
        Ok(())
    }

    fn unsettled(&mut self, fault: Option<LakeFault>) {
        if let Some(fault) = &fault {
            tracing::warn!(error = %domain::fault::chain(fault), "A commit may or may not have gone through");
        }
        self.fault = fault;
    }
}
