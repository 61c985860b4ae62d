//! One version of a table, as a query sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use domain::lake::{Kind, Partition};
use futures_util::stream::TryStreamExt as _;
use lake::{DataFile, Lake, Snapshot};
use lake_rows::PARTITION_COLUMNS;
use parquet::bloom_filter::Sbbf;

use crate::condition::{ranges, selection};
use crate::fault::ReadFault;
use crate::file::{File, Form, Opened, parse_blooms};
use crate::twins::Twins;
use crate::{Reader, cache::Cache, few_at_once};

/// How many files are opened at once: most of that is waiting for the store.
pub(crate) const OPEN_AT_ONCE: usize = 32;

/// How many row groups are read at once: their columns are in memory meanwhile.
pub(crate) const READ_AT_ONCE: usize = 4;

/// What a reader knows of files, each part up to so many bytes.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) files: Cache<Opened>,
    pub(crate) blooms: Cache<Vec<Sbbf>>,
    pub(crate) twins: Cache<Twins>,
}

impl Default for Known {
    fn default() -> Self {
        Self { files: Cache::new(40 << 20), blooms: Cache::new(40 << 20), twins: Cache::new(4 << 20) }
    }
}

/// A row of a file: row n of a row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// In the order of the files that were asked for.
    pub(crate) file: usize,
    pub(crate) group: usize,
    pub(crate) row: usize,
}

pub(crate) struct View<'a> {
    lake: &'a Lake,
    known: &'a Known,
    end_bytes: u64,
    pub(crate) version: u64,
    folder: Arc<str>,
    /// The table's columns that files have.
    pub(crate) columns: SchemaRef,
    /// By day and path.
    pub(crate) days: BTreeMap<Partition, Vec<DataFile>>,
    pub(crate) scanned: AtomicU64,
}

impl Reader {
    /// The table as it is now; without files if there is none.
    pub(crate) async fn view(
        &self,
        kind: Kind,
        wanted: impl Fn(Partition) -> bool + Send + 'static,
    ) -> Result<View<'_>, ReadFault> {
        let snapshot = self.lake.snapshot(kind, wanted).await?.unwrap_or_else(|| Snapshot {
            version: 0,
            folder: "".into(),
            columns: lake_rows::schema(kind),
            files: Vec::new(),
        });
        let names = snapshot.columns.fields().iter();
        let columns = names.filter(|field| !PARTITION_COLUMNS.contains(&field.name().as_str()));
        let columns = columns.map(|field| Field::new(field.name(), field.data_type().clone(), true));
        let mut days: BTreeMap<Partition, Vec<DataFile>> = BTreeMap::new();
        for file in snapshot.files {
            days.entry(file.partition).or_default().push(file);
        }
        Ok(View {
            lake: &self.lake,
            known: &self.known,
            end_bytes: self.end_bytes,
            version: snapshot.version,
            folder: snapshot.folder,
            columns: Arc::new(Schema::new(columns.collect::<Vec<_>>())),
            days,
            scanned: AtomicU64::new(0),
        })
    }

    /// Refuses to scan more than one request may.
    pub(crate) fn allow(&self, bytes: u64) -> Result<(), ReadFault> {
        let limit = self.scan_bytes;
        if bytes > limit { Err(ReadFault::TooLarge { bytes, limit }) } else { Ok(()) }
    }
}

impl View<'_> {
    pub(crate) fn lake(&self) -> &Lake {
        self.lake
    }

    pub(crate) fn key(&self, file: &DataFile) -> Arc<str> {
        format!("{}/{}", self.folder, file.path).into()
    }

    pub(crate) fn scanned_bytes(&self) -> u64 {
        self.scanned.load(Ordering::Relaxed)
    }

    /// The table's columns of these names; all if none is named.
    pub(crate) fn schema_of(&self, columns: &[String]) -> Result<SchemaRef, ReadFault> {
        if columns.is_empty() {
            return Ok(Arc::clone(&self.columns));
        }
        let field = |name: &String| {
            let field = self.columns.field_with_name(name).cloned();
            field.map_err(|_| ReadFault::UnknownColumn(name.clone()))
        };
        Ok(Arc::new(Schema::new(columns.iter().map(field).collect::<Result<Vec<_>, _>>()?)))
    }

    /// Reads a file's end, whether that is known or not.
    pub(crate) async fn read_end(&self, data: &DataFile) -> Result<Opened, ReadFault> {
        Opened::read(self.lake, &self.key(data), data.bytes, self.end_bytes, &self.scanned).await
    }

    pub(crate) fn file<'b>(&'b self, data: &'b DataFile, opened: Arc<Opened>) -> File<'b> {
        File { lake: self.lake, key: self.key(data), data, opened, gap: self.end_bytes, scanned: &self.scanned }
    }

    /// Opens a file: no request if it was opened before, usually one if it was not.
    pub(crate) async fn open<'b>(&'b self, data: &'b DataFile) -> Result<File<'b>, ReadFault> {
        let key = self.key(data);
        let file = |opened| self.file(data, opened);
        if let Some(opened) = self.known.files.get(&key) {
            return Ok(file(opened));
        }
        let opened = self.read_end(data).await?;
        // What came with the file's end for nothing is worth keeping.
        for column in [lake_rows::key(Kind::Messages), lake_rows::key(Kind::Contacts)] {
            let parts = opened.bloom_ranges(column).and_then(|ranges| opened.blooms_at_end(&ranges));
            if let Some(Ok((blooms, bytes))) = parts.map(|parts| parse_blooms(&parts)) {
                self.known.blooms.put(&key, &blooms, bytes);
            }
        }
        let (opened, bytes) = opened.kept();
        self.known.files.put(&key, &opened, bytes);
        Ok(file(opened))
    }

    /// The row groups of a file that may hold a row with this id, by their Bloom filters: all of a file that has none.
    pub(crate) async fn groups_with(&self, data: &DataFile, column: &str, id: &str) -> Result<Vec<usize>, ReadFault> {
        let with = |blooms: &[Sbbf]| {
            let with = blooms.iter().enumerate().filter(|(_, bloom)| bloom.check(id));
            with.map(|(group, _)| group).collect()
        };
        let key = self.key(data);
        if let Some(blooms) = self.known.blooms.get(&key) {
            return Ok(with(&blooms));
        }
        let file = self.open(data).await?;
        if let Some(blooms) = self.known.blooms.get(&key) {
            return Ok(with(&blooms));
        }
        let Some(ranges) = file.opened.bloom_ranges(column) else { return Ok((0..file.opened.groups()).collect()) };
        self.scanned.fetch_add(ranges.iter().map(|range| range.end - range.start).sum(), Ordering::Relaxed);
        let parts = self.lake.read_ranges(&key, ranges).await?;
        let parts = parts.ok_or_else(|| ReadFault::Missing(data.path.clone()))?;
        let (blooms, bytes) = parse_blooms(&parts).map_err(|cause| file.unreadable(cause))?;
        self.known.blooms.put(&key, &blooms, bytes);
        Ok(with(&blooms))
    }

    /// What is known of the rows of one day that have one id; it is found out if it is not.
    pub(crate) async fn twins(&self, day: &[DataFile]) -> Result<Arc<Twins>, ReadFault> {
        if !Twins::are_possible(day) {
            return Ok(Arc::default());
        }
        let key = day.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join("\n");
        if let Some(twins) = self.known.twins.get(&key) {
            return Ok(twins);
        }
        let twins = Arc::new(Twins::of(self, day).await?);
        self.known.twins.put(&key, &twins, key.len() + twins.bytes());
        Ok(twins)
    }

    /// The rows at these places, in this order, with the columns of `schema`.
    pub(crate) async fn rows(
        &self,
        files: &[&DataFile],
        places: &[Place],
        schema: &SchemaRef,
    ) -> Result<RecordBatch, ReadFault> {
        let mut by_group: BTreeMap<(usize, usize), Vec<(usize, u32)>> = BTreeMap::new();
        for (at, place) in (0..).zip(places) {
            by_group.entry((place.file, place.group)).or_default().push((place.row, at));
        }
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let columns = columns.as_slice();
        let read = by_group.iter_mut().map(|((file, group), rows)| {
            rows.sort_unstable();
            let (group, rows) = (*group, &*rows);
            let data = files.get(*file).copied();
            async move {
                let Some(data) = data else { return Ok(RecordBatch::new_empty(Arc::clone(schema))) };
                let file = self.open(data).await?;
                let ranges = ranges(rows.iter().map(|(row, _)| *row));
                let selection = selection(&ranges, file.opened.group_rows(group));
                let pages = file.pages(group, columns, selection.as_ref()).await?;
                let batch = file.decode(&pages, columns, selection.as_ref(), Form::Plain)?;
                as_table(&file, &batch, rows.len(), schema)
            }
        });
        let batches: Vec<_> = few_at_once(read, READ_AT_ONCE * 2).try_collect().await?;
        let whole = concat_batches(schema, &batches)?;
        let mut order = vec![0; places.len()];
        for (from, (_, at)) in (0_u32..).zip(by_group.values().flatten()) {
            if let Some(place) = order.get_mut(*at as usize) {
                *place = from;
            }
        }
        Ok(take_record_batch(&whole, &arrow_array::UInt32Array::from(order))?)
    }
}

/// A file's columns as the table has them: a column that the file does not have is null.
fn as_table(file: &File<'_>, batch: &RecordBatch, rows: usize, schema: &SchemaRef) -> Result<RecordBatch, ReadFault> {
    let arrays = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(array) if array.data_type() == field.data_type() => Ok(Arc::clone(array)),
        Some(array) if same(array.data_type(), field.data_type()) => {
            Ok(arrow_array::make_array(array.to_data().into_builder().data_type(field.data_type().clone()).build()?))
        }
        Some(_) => Err(ReadFault::Type {
            file: file.data.path.clone(),
            column: field.name().clone(),
            expected: field.data_type().to_string(),
        }),
        None => Ok(new_null_array(field.data_type(), rows)),
    });
    let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
    let count = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &count)?)
}

/// Whether both are the same microseconds of UTC, by whatever name it goes.
pub(crate) fn same(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::Timestamp(a, Some(_)), DataType::Timestamp(b, Some(_))) => a == b,
        _ => a == b,
    }
}
