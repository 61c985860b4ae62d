//! Every call of the Delta kernel, and nothing else of ours: its interface changes every few weeks.
//!
//! All of it blocks. What the kernel does not do is elsewhere: version 0 in [`crate::create`], what to do about a lost race in
//! [`crate::table`], deleting in [`crate::vacuum`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use delta_kernel::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, StructArray,
};
use delta_kernel::arrow::array::{MapBuilder, MapFieldNames, StringBuilder};
use delta_kernel::arrow::datatypes::{DataType as ArrowType, Field, Fields, Int64Type, Schema as ArrowSchema};
use delta_kernel::arrow::json::ReaderBuilder;
use delta_kernel::arrow::json::reader::infer_json_schema_from_iterator;
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::engine::arrow_conversion::{TryFromArrow as _, TryFromKernel as _};
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::object_store::DynObjectStore;
use delta_kernel::schema::{DataType, MapType, StructField, StructType};
use delta_kernel::snapshot::SnapshotRef;
use delta_kernel::transaction::{CommitResult, Transaction, UpdateTableOperation};
use delta_kernel::{Engine, FilteredEngineData, KernelError, KernelResult, Snapshot};
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use serde_json::{Map, Value};
use url::Url;

use crate::fault::LakeFault;
use crate::objects::failed;
use crate::runtime::Runtime;

/// How the log names who wrote a commit.
const ENGINE: &str = concat!("skylark/", env!("CARGO_PKG_VERSION"));

/// The kernel over one store.
#[derive(Clone)]
pub(crate) struct Kernel {
    engine: Arc<DefaultEngine<TokioMultiThreadExecutor>>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kernel").finish_non_exhaustive()
    }
}

/// A file as an `add` action names it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogFile {
    /// Relative to the table, as a URL would have it.
    pub(crate) path: String,
    pub(crate) partition: BTreeMap<String, String>,
    pub(crate) bytes: u64,
    pub(crate) modified_ms: i64,
    /// The statistics, as JSON.
    pub(crate) stats: String,
}

/// What a table's log says of files.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) files: HashMap<String, LogFile>,
    pub(crate) removed: HashMap<String, i64>,
}

/// How a try to commit ended.
pub(crate) enum Attempt {
    Committed(SnapshotRef),
    /// Somebody wrote that version, or it may be that we did: a look at the log tells.
    Unsettled(Option<LakeFault>),
}

/// Fields of `commitInfo` beside the kernel's own.
pub(crate) type CommitInfo = Map<String, Value>;

impl Kernel {
    pub(crate) fn new(store: Arc<DynObjectStore>, runtime: &Runtime) -> Self {
        // The default executor, of one thread, would wait for itself in a checkpoint.
        let executor = Arc::new(TokioMultiThreadExecutor::new(runtime.handle().clone()));
        Self { engine: Arc::new(DefaultEngineBuilder::new(store).with_task_executor(executor).build()) }
    }

    fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// The table as it is now; `None` if there is none.
    pub(crate) fn load(&self, table: &Url) -> Result<Option<SnapshotRef>, LakeFault> {
        match Snapshot::builder_for(table.as_str()).build(self.engine()) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(fault) if is_absent(&fault) => Ok(None),
            Err(fault) => Err(sorted("loading the table", fault)),
        }
    }

    /// The table as it was.
    pub(crate) fn load_at(&self, table: &Url, version: u64) -> Result<SnapshotRef, LakeFault> {
        match Snapshot::builder_for(table.as_str()).at_version(version).build(self.engine()) {
            Ok(snapshot) => Ok(snapshot),
            Err(fault @ (KernelError::ObjectStore(_) | KernelError::IOError(_))) => {
                Err(sorted("loading the table", fault))
            }
            Err(_) => Err(LakeFault::NoVersion(version)),
        }
    }

    /// The table as it is now, given how it was: only what came after is read.
    pub(crate) fn refresh(&self, snapshot: &SnapshotRef) -> Result<SnapshotRef, LakeFault> {
        let refreshed = Snapshot::builder_from(snapshot.clone()).build(self.engine());
        refreshed.map_err(|fault| sorted("refreshing the table", fault))
    }

    /// The files of the table, and what was removed and is not forgotten, with the time in Unix milliseconds. One pass over the log.
    pub(crate) fn state(&self, snapshot: &SnapshotRef) -> Result<State, LakeFault> {
        self.read_state(snapshot).map_err(|fault| sorted("reading the table's log", fault))
    }

    fn read_state(&self, snapshot: &SnapshotRef) -> KernelResult<State> {
        let partition = MapType::new(DataType::STRING, DataType::STRING, true);
        let add = StructType::try_new([
            StructField::nullable("path", DataType::STRING),
            StructField::nullable("partitionValues", partition),
            StructField::nullable("size", DataType::LONG),
            StructField::nullable("modificationTime", DataType::LONG),
            StructField::nullable("stats", DataType::STRING),
        ])?;
        let remove = StructType::try_new([
            StructField::nullable("path", DataType::STRING),
            StructField::nullable("deletionTimestamp", DataType::LONG),
        ])?;
        let actions = [StructField::nullable("add", add), StructField::nullable("remove", remove)];
        let schema = Arc::new(StructType::try_new(actions)?);
        let mut state = State::default();
        for batch in snapshot.log_segment().read_actions(self.engine(), schema)? {
            let batch = batch?;
            let data = batch.actions().any_ref().downcast_ref::<ArrowEngineData>();
            let data = data.ok_or_else(|| KernelError::EngineDataType("ArrowEngineData".to_owned()))?.record_batch();
            state.take(data)?;
        }
        Ok(state)
    }

    fn scan(
        &self,
        snapshot: &SnapshotRef,
        mut each: impl FnMut(&RecordBatch, &[bool]) -> KernelResult<()>,
    ) -> KernelResult<()> {
        let scan = snapshot.clone().scan_builder().without_row_transforms().build()?;
        for metadata in scan.scan_metadata(self.engine())? {
            let (data, mut selected) = metadata?.scan_files.into_parts();
            selected.resize(data.len(), true);
            let batch = RecordBatch::from(ArrowEngineData::try_from_engine_data(data)?);
            each(&batch, &selected)?;
        }
        Ok(())
    }

    /// Adds files.
    pub(crate) fn append(&self, snapshot: &SnapshotRef, added: &[LogFile], info: &CommitInfo) -> Attempt {
        self.settle(self.try_commit(snapshot, UpdateTableOperation::Write, true, &HashSet::new(), added, info))
    }

    /// Puts files in the place of others, with the same rows. `None` if one of those is not in the table.
    pub(crate) fn replace(
        &self,
        snapshot: &SnapshotRef,
        removed: &HashSet<String>,
        added: &[LogFile],
        info: &CommitInfo,
    ) -> Option<Attempt> {
        match self.try_commit(snapshot, UpdateTableOperation::Optimize, false, removed, added, info) {
            Ok(None) => None,
            settled => Some(self.settle(settled)),
        }
    }

    fn try_commit(
        &self,
        snapshot: &SnapshotRef,
        operation: UpdateTableOperation,
        data_change: bool,
        removed: &HashSet<String>,
        added: &[LogFile],
        info: &CommitInfo,
    ) -> KernelResult<Option<CommitResult>> {
        let mut builder = snapshot.clone().update_table(operation, ENGINE, data_change);
        if removed.is_empty() {
            builder = builder.with_blind_append();
        }
        let committer = Box::new(FileSystemCommitter::new());
        let mut transaction = with_info(builder.build(self.engine(), committer)?, info)?;
        if !removed.is_empty() {
            let mut found = 0;
            self.scan(snapshot, |batch, selected| {
                let paths = batch.column_by_name("path").and_then(|column| column.as_string_opt::<i32>());
                let paths = paths.ok_or_else(|| KernelError::MissingColumn("path".to_owned()))?;
                let chosen = selected.iter().enumerate();
                let chosen: Vec<bool> = chosen.map(|(row, live)| *live && removed.contains(paths.value(row))).collect();
                found += chosen.iter().filter(|chosen| **chosen).count();
                if chosen.contains(&true) {
                    let data = Box::new(ArrowEngineData::new(batch.clone()));
                    transaction.remove_files(FilteredEngineData::try_new(data, chosen)?);
                }
                Ok(())
            })?;
            if found != removed.len() {
                return Ok(None);
            }
        }
        if !added.is_empty() {
            transaction.add_files(Box::new(ArrowEngineData::new(add_batch(added)?)));
        }
        transaction.commit(self.engine()).map(Some)
    }

    /// Adds a column that may be null.
    pub(crate) fn add_column(
        &self,
        snapshot: &SnapshotRef,
        name: &str,
        arrow: &ArrowType,
    ) -> Result<Attempt, LakeFault> {
        let bad = |reason: String| LakeFault::BadColumn { column: name.to_owned(), reason };
        let kind = DataType::try_from_arrow(arrow).map_err(|fault| bad(fault.to_string()))?;
        let builder = snapshot.clone().update_table(UpdateTableOperation::AlterTable, ENGINE, false);
        let builder = builder.add_column(StructField::nullable(name, kind));
        match builder.build(self.engine(), Box::new(FileSystemCommitter::new())) {
            Ok(transaction) => Ok(self.settle(transaction.commit(self.engine()).map(Some))),
            Err(fault) => Err(bad(fault.to_string())),
        }
    }

    fn settle(&self, committed: KernelResult<Option<CommitResult>>) -> Attempt {
        match committed {
            Ok(Some(CommitResult::Committed(committed))) => match committed.post_commit_snapshot() {
                Some(snapshot) => Attempt::Committed(snapshot.clone()),
                None => Attempt::Unsettled(None),
            },
            Ok(Some(CommitResult::Conflicted(_)) | None) => Attempt::Unsettled(None),
            Ok(Some(CommitResult::Retryable(retryable))) => {
                Attempt::Unsettled(Some(sorted("committing", retryable.error)))
            }
            Err(fault) => Attempt::Unsettled(Some(sorted("committing", fault))),
        }
    }

    /// Writes a checkpoint, so that readers need not read the commits before it. Whether there was none.
    pub(crate) fn checkpoint(&self, snapshot: &SnapshotRef) -> Result<(bool, SnapshotRef), LakeFault> {
        let written = snapshot.checkpoint(self.engine(), None);
        let (result, snapshot) = written.map_err(|fault| sorted("writing a checkpoint", fault))?;
        Ok((matches!(result, delta_kernel::snapshot::CheckpointWriteResult::Written), snapshot))
    }

    /// The version of the checkpoint that a snapshot was read from.
    pub(crate) fn checkpoint_version(snapshot: &SnapshotRef) -> Option<u64> {
        snapshot.log_segment().checkpoint_version
    }

    /// The columns of the table, those of the partition among them.
    pub(crate) fn columns(snapshot: &SnapshotRef) -> Result<ArrowSchema, LakeFault> {
        let schema = snapshot.schema();
        ArrowSchema::try_from_kernel(schema.as_ref())
            .map_err(|fault| LakeFault::broken("reading the table's schema", fault))
    }

    /// A schema as `metaData` has it.
    pub(crate) fn schema_string(schema: &ArrowSchema) -> Result<String, LakeFault> {
        let schema = StructType::try_from_arrow(schema);
        let schema = schema.map_err(|fault| LakeFault::broken("writing the table's schema", fault))?;
        serde_json::to_string(&schema).map_err(|fault| LakeFault::broken("writing the table's schema", fault))
    }
}

fn is_absent(fault: &KernelError) -> bool {
    match fault {
        // The last is what a folder is that does not exist.
        KernelError::EmptyLog | KernelError::FileNotFound(_) | KernelError::InvalidTableLocation(_) => true,
        KernelError::Backtraced { source, .. } => is_absent(source),
        _ => false,
    }
}

/// Sorts what the kernel says into what may pass and what will not.
fn sorted(operation: &'static str, fault: KernelError) -> LakeFault {
    match fault {
        KernelError::Backtraced { source, .. } => sorted(operation, *source),
        KernelError::ObjectStore(fault) => failed(operation, fault),
        // A file of the log that a clean-up took while it was being read: read again, it is not named any more.
        KernelError::FileNotFound(_)
        | KernelError::IOError(_)
        | KernelError::Reqwest(_)
        | KernelError::JoinFailure(_) => LakeFault::unavailable(operation, fault),
        other => LakeFault::broken(operation, other),
    }
}

fn text<'a>(columns: &'a StructArray, name: &str) -> Option<&'a StringArray> {
    columns.column_by_name(name)?.as_string_opt()
}

fn long<'a>(columns: &'a StructArray, name: &str) -> Option<&'a Int64Array> {
    columns.column_by_name(name)?.as_primitive_opt::<Int64Type>()
}

impl State {
    /// Takes in a batch of actions. The newest batch comes first, and what it says of a file is true.
    fn take(&mut self, batch: &RecordBatch) -> KernelResult<()> {
        let missing = |name: &str| KernelError::MissingColumn(name.to_owned());
        let column = |name: &str| batch.column_by_name(name).and_then(|column| column.as_struct_opt());
        let (adds, removes) =
            (column("add").ok_or_else(|| missing("add"))?, column("remove").ok_or_else(|| missing("remove"))?);
        let removed = text(removes, "path").ok_or_else(|| missing("remove.path"))?;
        let times = long(removes, "deletionTimestamp").ok_or_else(|| missing("remove.deletionTimestamp"))?;
        let added = text(adds, "path").ok_or_else(|| missing("add.path"))?;
        for row in 0..batch.num_rows() {
            if removes.is_valid(row) && removed.is_valid(row) {
                let path = removed.value(row);
                if !self.files.contains_key(path) {
                    let at = if times.is_valid(row) { times.value(row) } else { 0 };
                    self.removed.entry(path.to_owned()).or_insert(at);
                }
            }
            if adds.is_valid(row) && added.is_valid(row) {
                let path = added.value(row);
                if !self.files.contains_key(path) && !self.removed.contains_key(path) {
                    let file = read_file(adds, row).ok_or_else(|| missing("add"))?;
                    self.files.insert(path.to_owned(), file);
                }
            }
        }
        Ok(())
    }
}

/// An `add` action; `None` if a column of it is not there.
fn read_file(adds: &StructArray, row: usize) -> Option<LogFile> {
    let values = adds.column_by_name("partitionValues")?.as_map_opt()?.value(row);
    let (names, texts) = (values.column(0).as_string_opt::<i32>()?, values.column(1).as_string_opt::<i32>()?);
    let pairs = (0..values.len()).filter(|at| texts.is_valid(*at));
    let stats = text(adds, "stats")?;
    Some(LogFile {
        path: text(adds, "path")?.value(row).to_owned(),
        partition: pairs.map(|at| (names.value(at).to_owned(), texts.value(at).to_owned())).collect(),
        bytes: u64::try_from(long(adds, "size")?.value(row)).ok()?,
        modified_ms: long(adds, "modificationTime")?.value(row),
        stats: if stats.is_valid(row) { stats.value(row).to_owned() } else { "{}".to_owned() },
    })
}

/// Files as the kernel takes them: a row each. Their statistics pass through as they are, instants as text, so that nothing is rounded.
fn add_batch(added: &[LogFile]) -> KernelResult<RecordBatch> {
    let names = MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
    let mut partitions = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for file in added {
        for (name, value) in &file.partition {
            partitions.keys().append_value(name);
            partitions.values().append_value(value);
        }
        partitions.append(true)?;
    }
    let paths: StringArray = added.iter().map(|file| Some(file.path.as_str())).collect();
    let sizes: Int64Array = added.iter().map(|file| i64::try_from(file.bytes).unwrap_or(i64::MAX)).collect();
    let times: Int64Array = added.iter().map(|file| file.modified_ms).collect();
    let stats = parse_stats(added)?;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("path", Arc::new(paths)),
        ("partitionValues", Arc::new(partitions.finish())),
        ("size", Arc::new(sizes)),
        ("modificationTime", Arc::new(times)),
        ("stats", Arc::new(stats)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn parse_stats(added: &[LogFile]) -> KernelResult<StructArray> {
    let parsed = added.iter().map(|file| serde_json::from_str::<Value>(&file.stats));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(KernelError::from)?;
    let schema = infer_json_schema_from_iterator(parsed.iter().map(Ok))?;
    let mut decoder = ReaderBuilder::new(Arc::new(schema)).with_batch_size(parsed.len().max(1)).build_decoder()?;
    decoder.serialize(&parsed)?;
    let batch = decoder.flush()?.ok_or_else(|| KernelError::MissingData("statistics".to_owned()))?;
    Ok(StructArray::from(batch))
}

/// Tells a commit what to say of itself.
fn with_info(transaction: Transaction, info: &CommitInfo) -> KernelResult<Transaction> {
    if info.is_empty() {
        return Ok(transaction);
    }
    let columns = info.iter().map(|(name, value)| {
        let column: ArrayRef = match value {
            Value::Number(number) => Arc::new(Int64Array::from(vec![number.as_i64()])),
            Value::Bool(flag) => Arc::new(BooleanArray::from(vec![*flag])),
            Value::String(text) => Arc::new(StringArray::from(vec![text.as_str()])),
            other => Arc::new(StringArray::from(vec![other.to_string()])),
        };
        (Field::new(name, column.data_type().clone(), true), column)
    });
    let (fields, columns): (Vec<_>, Vec<_>) = columns.unzip();
    let schema = Arc::new(ArrowSchema::new(Fields::from(fields)));
    let kernel_schema = Arc::new(StructType::try_from_arrow(schema.as_ref())?);
    let batch = RecordBatch::try_new(schema, columns)?;
    Ok(transaction.with_commit_info(Box::new(ArrowEngineData::new(batch)), kernel_schema))
}
