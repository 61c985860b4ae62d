//! The lake: Delta tables of Parquet on S3 or in a folder.
//!
//! ```text
//! lake/<table>/_delta_log/          what the table is: version after version, each written once
//! lake/<table>/year=/month=/day=/   its files, which never change
//! raw/v1/ quarantine/v1/ schema/    what came, what could not become a row, which columns there are
//! ```
//!
//! A reader sees one version: all of a commit or nothing of it. A writer wins a version or looks again ([`table`]). Nothing is deleted that a version
//! within the retention names, or that somebody may still be about to name ([`Lake::vacuum`]).
//!
//! The functions wait without blocking; they may be called from a runtime of one thread. A [`Lake`] keeps what it knows of the log: make one per
//! process, and a second append asks the store only to write.

pub mod append;
mod create;
mod fault;
mod file;
mod kernel;
pub mod maintain;
mod merge;
mod objects;
mod registry;
mod runtime;
mod settings;
mod stats;
mod table;
mod vacuum;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_schema::DataType;
use bytes::Bytes;
use domain::lake::quarantine::QUARANTINE_PREFIX;
use domain::lake::{BatchId, Counts, Kind, Partition};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use lake_rows::{Level, Quarantined, Version, Written, table_schema};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::sync::OnceCell;
use url::Url;

pub use crate::create::CHECKPOINT_EVERY;
pub use crate::fault::LakeFault;
pub use crate::merge::{Made, Merge, Merged};
pub use crate::objects::{ObjectInfo, Put};
pub use crate::registry::Entry as SchemaEntry;
pub use crate::settings::Settings;
pub use crate::stats::{DayStats, TableStats};
pub use crate::table::Replaced;
pub use crate::vacuum::{Cleaned, Vacuumed};
pub use lake_rows::DataFile;

use crate::kernel::{CommitInfo, Kernel, LogFile};
use crate::objects::Objects;
use crate::runtime::Runtime;
use crate::table::Table;

/// A lake.
#[derive(Debug)]
pub struct Lake {
    objects: Objects,
    kernel: Kernel,
    runtime: Runtime,
    root: Url,
    /// Each table as it is to be read,
    readable: [OnceCell<Table>; 2],
    /// and, once it is sure to be there, as it is to be written.
    writable: [OnceCell<Table>; 2],
}

/// The small files of a partition: what merging it would merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    pub partition: Partition,
    pub files: u64,
    pub bytes: u64,
}

/// One version of a table, or some partitions of it. Its files can be read for days after they were merged away.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub version: u64,
    /// What the keys of its files begin with, before a `/`.
    pub folder: Arc<str>,
    /// The columns as the log has them, those that the table is partitioned by included.
    pub columns: Arc<arrow_schema::Schema>,
    /// By path.
    pub files: Vec<DataFile>,
}

/// How an append ended: either way the batch is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The version of the table that is known to have it.
    pub version: u64,
    /// Whether it was there before, with other files: this is a repetition, and the files that were to be added are nobody's.
    pub already_there: bool,
    /// What the partitions of its files have to merge now.
    pub backlog: Vec<Backlog>,
}

/// Why files take the place of others, for the log and whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// `compact`, `seal` or `archive`.
    pub reason: &'static str,
    /// Rows of the old files that are not in the new ones, because others have their ids.
    pub duplicates: u64,
    /// Of the duplicates, those that say something else, and went to the quarantine.
    pub conflicts: u64,
}

impl Lake {
    /// Opens a lake. Nothing is asked of the store yet.
    pub fn open(settings: &Settings) -> Result<Self, LakeFault> {
        let (opened, runtime) = (settings.open()?, Runtime::start()?);
        let kernel = Kernel::new(opened.store.clone(), &runtime);
        let objects = Objects::new(opened.store, opened.prefix, runtime.clone());
        Ok(Self {
            objects,
            kernel,
            runtime,
            root: opened.url,
            readable: Default::default(),
            writable: Default::default(),
        })
    }

    /// The table as it is to be read. There may be nothing yet.
    async fn table(&self, kind: Kind) -> Result<&Table, LakeFault> {
        if let Some(table) = of(kind, &self.writable).get() {
            return Ok(table);
        }
        let find = || async {
            let folder = registry::find(&self.objects, &Version::current(kind)).await?;
            self.table_at(&folder)
        };
        of(kind, &self.readable).get_or_try_init(find).await
    }

    fn table_at(&self, folder: &str) -> Result<Table, LakeFault> {
        Table::new(folder, &self.root, self.kernel.clone(), self.objects.clone(), self.runtime.clone())
    }

    /// The table as it is to be written: it is there, and has every column. Asked of the store once per process.
    async fn writable(&self, kind: Kind) -> Result<&Table, LakeFault> {
        let ensure = || async {
            let code = Version::current(kind);
            let (entry, lacking) = registry::ensure(&self.objects, &code, self.now_ms()).await?;
            let table = self.table_at(&entry.folder)?;
            let columns = lacking.into_iter().filter_map(|name| {
                let field = table_schema(kind).field_with_name(&name).ok().cloned()?;
                Some((name, field.data_type().clone()))
            });
            let columns: Vec<_> = columns.collect();
            if !columns.is_empty() {
                table.with(move |session| session.add_columns(&columns)).await?;
            }
            registry::register(&self.objects, &entry).await?;
            Ok(table)
        };
        of(kind, &self.writable).get_or_try_init(ensure).await
    }

    /// The store's objects tell the time by its clock; what is written into a log tells it by this machine's.
    #[expect(clippy::disallowed_methods, reason = "the log's times are the machine's, as the kernel's own are")]
    fn now_ms(&self) -> i64 {
        i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
    }

    /// Writes a batch's rows of one partition as a file. It is in no table until [`Lake::append`] says so.
    pub async fn write_batch_file(
        &self,
        kind: Kind,
        partition: Partition,
        batch: &BatchId,
        written: &Written,
    ) -> Result<DataFile, LakeFault> {
        self.write_file(kind, file::batch_path(partition, batch), partition, written).await
    }

    /// The same for each day of a batch, several at once: what was said over years may come on one day.
    pub async fn write_batch_files(
        &self,
        kind: Kind,
        batch: &BatchId,
        written: &[(Partition, Written)],
    ) -> Result<Vec<DataFile>, LakeFault> {
        let writes: Vec<_> = written
            .iter()
            .map(|(partition, written)| self.write_batch_file(kind, *partition, batch, written))
            .collect();
        stream::iter(writes).buffered(objects::AT_ONCE).try_collect().await
    }

    /// Writes a file that is to take the place of others. It is in no table until [`Lake::replace`] says so.
    pub async fn write_merged_file(
        &self,
        kind: Kind,
        partition: Partition,
        level: Level,
        written: &Written,
    ) -> Result<DataFile, LakeFault> {
        self.write_file(kind, file::merged_path(partition, level), partition, written).await
    }

    async fn write_file(
        &self,
        kind: Kind,
        path: String,
        partition: Partition,
        written: &Written,
    ) -> Result<DataFile, LakeFault> {
        let folder = self.writable(kind).await?.folder.clone();
        self.objects.put(&format!("{folder}/{path}"), written.bytes.clone()).await?;
        let bytes = written.bytes.len() as u64;
        Ok(DataFile { path, partition, bytes, rows: written.rows, stats: written.stats.clone() })
    }

    fn to_log(&self, files: &[DataFile]) -> Result<Vec<LogFile>, LakeFault> {
        let now_ms = self.now_ms();
        files.iter().map(|file| file::to_log(file, now_ms)).collect()
    }

    /// The bytes of a file.
    pub async fn read_file(&self, kind: Kind, path: &str) -> Result<Bytes, LakeFault> {
        let key = self.file_key(kind, path).await?;
        let gone =
            || LakeFault::unavailable("reading a data file", format!("`{key}` is gone: look at the table again"));
        self.objects.get(&key).await?.ok_or_else(gone)
    }

    /// The key of a file's object.
    pub async fn file_key(&self, kind: Kind, path: &str) -> Result<String, LakeFault> {
        Ok(format!("{}/{path}", self.table(kind).await?.folder))
    }

    /// Adds the files of a batch to a table, once for all time that a batch may come again ([`domain::lake::retention`]).
    ///
    /// Whoever asks again is told that it is there; their files are orphans then, which the vacuum takes. No files, no commit.
    pub async fn append(
        &self,
        kind: Kind,
        files: &[DataFile],
        batch: &BatchId,
        counts: Counts,
    ) -> Result<Appended, LakeFault> {
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        if !counts.balance() || rows > counts.rows {
            return Err(LakeFault::Unbalanced(format!("{rows} rows in files, and {counts:?}")));
        }
        let log_files = self.to_log(files)?;
        let partitions: HashSet<Partition> = files.iter().map(|file| file.partition).collect();
        let (batch, info) = (batch.clone(), batch_info(batch, counts));
        let table = self.writable(kind).await?;
        table
            .with(move |session| {
                let already_there = !log_files.is_empty() && session.append(&batch, &log_files, &info)?.is_none();
                let known = session.known()?;
                let mut backlog: Vec<_> = partitions
                    .into_iter()
                    .map(|partition| {
                        let (files, bytes) = known.small_files(partition);
                        Backlog { partition, files, bytes }
                    })
                    .collect();
                backlog.sort_unstable_by_key(|one| one.partition);
                Ok(Appended { version: known.version(), already_there, backlog })
            })
            .await
    }

    /// The table's files now, of the partitions that `wanted` takes.
    pub async fn files(
        &self,
        kind: Kind,
        wanted: impl Fn(Partition) -> bool + Send + 'static,
    ) -> Result<Vec<DataFile>, LakeFault> {
        Ok(self.snapshot(kind, wanted).await?.map(|snapshot| snapshot.files).unwrap_or_default())
    }

    /// The table as it is now, with the files of the partitions that `wanted` takes; `None` if there is no table.
    pub async fn snapshot(
        &self,
        kind: Kind,
        wanted: impl Fn(Partition) -> bool + Send + 'static,
    ) -> Result<Option<Snapshot>, LakeFault> {
        let table = self.table(kind).await?;
        let folder = table.folder.clone();
        table
            .with(move |session| {
                let Some(known) = session.refresh()? else { return Ok(None) };
                let files = known.files.iter().filter(|(_, file)| file.partition.is_some_and(&wanted));
                let files = files.filter_map(|(path, _)| known.data_file(path)).collect();
                let columns = Arc::new(Kernel::columns(&known.snapshot)?);
                Ok(Some(Snapshot { version: known.version(), folder, columns, files }))
            })
            .await
    }

    /// The table's files as they were at a version.
    pub async fn files_at(&self, kind: Kind, version: u64) -> Result<Vec<DataFile>, LakeFault> {
        self.table(kind).await?.files_at(version).await
    }

    /// The table's version now; `None` if there is no table.
    pub async fn version(&self, kind: Kind) -> Result<Option<u64>, LakeFault> {
        let table = self.table(kind).await?;
        table.with(|session| Ok(session.refresh()?.map(|known| known.version()))).await
    }

    /// Whether the batch is in the table, or was before its files were merged.
    pub async fn has_batch(&self, kind: Kind, batch: &BatchId) -> Result<bool, LakeFault> {
        let (table, batch) = (self.table(kind).await?, batch.clone());
        table
            .with(move |session| Ok(session.refresh()?.is_some_and(|known| known.batches.contains(batch.sha256()))))
            .await
    }

    /// Puts files in the place of others of the same partition. A reader sees either.
    ///
    /// If it is [`Replaced::Stale`] the added files are nobody's: [`Lake::discard`] them.
    pub async fn replace(
        &self,
        kind: Kind,
        removed: &[DataFile],
        added: &[DataFile],
        rewrite: Rewrite,
    ) -> Result<Replaced, LakeFault> {
        let log_files = self.to_log(added)?;
        let removed: HashSet<String> = removed.iter().map(|file| file.path.clone()).collect();
        if removed.is_empty() {
            return Err(LakeFault::Unbalanced("nothing is to be replaced".to_owned()));
        }
        let info = info(json!({
            "rewrite": rewrite.reason,
            "duplicates": rewrite.duplicates,
            "conflicts": rewrite.conflicts,
        }));
        let table = self.writable(kind).await?;
        table.with(move |session| session.replace(&removed, &log_files, rewrite.duplicates, &info)).await
    }

    /// Deletes files that were written and are in no table. Only for who wrote them, and knows that they never will be.
    pub async fn discard(&self, kind: Kind, files: &[DataFile]) -> Result<(), LakeFault> {
        let folder = &self.table(kind).await?.folder;
        let keys: Vec<_> = files.iter().map(|file| format!("{folder}/{}", file.path)).collect();
        self.objects.delete(&keys).await
    }

    /// Adds a column that may be null. Rows that are there have a null in it.
    pub async fn add_column(&self, kind: Kind, name: &str, data_type: DataType) -> Result<(), LakeFault> {
        let (table, column) = (self.writable(kind).await?, (name.to_owned(), data_type));
        table.with(move |session| session.add_columns(&[column])).await.map(|_| ())
    }

    /// The columns of the table as its log has them.
    pub async fn columns(&self, kind: Kind) -> Result<Option<Arc<arrow_schema::Schema>>, LakeFault> {
        let table = self.table(kind).await?;
        let columns =
            table.with(|session| session.refresh()?.map(|known| Kernel::columns(&known.snapshot)).transpose());
        Ok(columns.await?.map(Arc::new))
    }

    /// The versions of the table's schema that somebody wrote with.
    pub async fn schema_versions(&self, kind: Kind) -> Result<Vec<SchemaEntry>, LakeFault> {
        registry::entries(&self.objects, kind).await
    }

    /// Writes a checkpoint if at least `commits` came after the last one, so that a reader reads it and not each of them. Returns its version.
    ///
    /// Two at once write the same; one at a time is cheaper.
    pub async fn checkpoint(&self, kind: Kind, commits: u64) -> Result<Option<u64>, LakeFault> {
        let table = self.table(kind).await?;
        table
            .with(move |session| {
                let kernel = session.kernel().clone();
                let Some(known) = session.refresh()? else { return Ok(None) };
                let since = known.version() - Kernel::checkpoint_version(&known.snapshot).unwrap_or_default();
                if since < commits.max(1) {
                    return Ok(None);
                }
                let (written, snapshot) = kernel.checkpoint(&known.snapshot)?;
                known.snapshot = snapshot;
                Ok(written.then(|| known.version()))
            })
            .await
    }

    /// Keeps lines aside. The name is the content's hash: a line that is kept already is kept once.
    pub async fn quarantine(&self, lines: &[Quarantined]) -> Result<(), LakeFault> {
        for line in lines {
            let body =
                serde_json::to_vec(line).map_err(|fault| LakeFault::broken("writing to the quarantine", fault))?;
            let (day, hash) =
                (line.received_at.to_offset(time::UtcOffset::UTC).date(), hex::encode(Sha256::digest(&body)));
            self.objects.put_new(&format!("{QUARANTINE_PREFIX}dt={day}/{hash}.json"), Bytes::from(body)).await?;
        }
        Ok(())
    }

    /// An object; `None` if there is none.
    pub async fn read_object(&self, key: &str) -> Result<Option<Bytes>, LakeFault> {
        self.objects.get(key).await
    }

    /// Ranges of an object, in their order; `None` if there is no object. Each is a request, and all are under way at once.
    pub async fn read_ranges(&self, key: &str, ranges: Vec<Range<u64>>) -> Result<Option<Vec<Bytes>>, LakeFault> {
        self.objects.get_ranges(key, ranges).await
    }

    /// What the store says of an object; `None` if there is none.
    pub async fn object(&self, key: &str) -> Result<Option<ObjectInfo>, LakeFault> {
        self.objects.head(key).await
    }

    /// Writes an object, whatever was there.
    pub async fn write_object(&self, key: &str, body: Bytes) -> Result<(), LakeFault> {
        self.objects.put(key, body).await
    }

    /// Writes an object unless there is one.
    pub async fn write_new_object(&self, key: &str, body: Bytes) -> Result<Put, LakeFault> {
        self.objects.put_new(key, body).await
    }

    /// The objects below a folder, by key.
    pub async fn list_objects(&self, folder: &str) -> Result<Vec<ObjectInfo>, LakeFault> {
        self.objects.list(folder).await
    }

    /// Deletes objects; those that are gone are no error. Not for the files of tables.
    pub async fn delete_objects(&self, keys: &[String]) -> Result<(), LakeFault> {
        self.objects.delete(keys).await
    }
}

fn of<T>(kind: Kind, [messages, contacts]: &[T; 2]) -> &T {
    match kind {
        Kind::Messages => messages,
        Kind::Contacts => contacts,
    }
}

/// What the commit of a batch says: every line of it is accounted for.
fn batch_info(batch: &BatchId, counts: Counts) -> CommitInfo {
    info(json!({
        "batch": batch.as_str(),
        "linesIn": counts.lines_in,
        "rows": counts.rows,
        "duplicates": counts.duplicates,
        "quarantined": counts.quarantined,
    }))
}

fn info(fields: Value) -> CommitInfo {
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
