//! Whether files are what the log says they are.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch};
use domain::fault::chain;
use domain::lake::{Kind, Partition};
use lake::DataFile;
use lake_rows::{Level, Rule};
use time::Duration;

use crate::condition::micros;
use crate::fault::ReadFault;
use crate::file::{File, Form};
use crate::view::{View, same};
use crate::{NAMED, PartitionValidation, Problem, ProblemKind, Reader, Validation};

/// So many rows are decoded at once.
const BATCH_ROWS: usize = 4_096;

pub(crate) async fn validate(
    reader: &Reader,
    kind: Kind,
    partition: Option<Partition>,
) -> Result<Validation, ReadFault> {
    let view = reader.view(kind, move |day| partition.is_none_or(|partition| partition == day)).await?;
    reader.allow(view.days.values().flatten().map(|file| file.bytes).sum())?;
    let mut partitions = Vec::with_capacity(view.days.len());
    for (partition, files) in &view.days {
        let mut problems = Vec::new();
        for file in files {
            problems.extend(problems_of(&view, kind, file).await?);
        }
        let total = problems.len() as u64;
        problems.truncate(NAMED);
        partitions.push(PartitionValidation {
            partition: *partition,
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.bytes).sum(),
            rows: files.iter().map(|file| file.rows).sum(),
            total,
            problems,
        });
    }
    let sum = |of: fn(&PartitionValidation) -> u64| partitions.iter().map(of).sum();
    Ok(Validation {
        version: view.version,
        files: sum(|day| day.files),
        rows: sum(|day| day.rows),
        total: sum(|day| day.total),
        partitions,
    })
}

/// What is wrong with a file: each kind of problem once, with where it is met first.
async fn problems_of(view: &View<'_>, kind: Kind, data: &DataFile) -> Result<Vec<Problem>, ReadFault> {
    let mut problems: BTreeMap<ProblemKind, String> = BTreeMap::new();
    let key = view.key(data);
    match view.lake().object(&key).await? {
        None => drop(problems.insert(ProblemKind::Missing, "the store has no such object".to_owned())),
        Some(object) if object.bytes != data.bytes => {
            let detail = format!("it has {} bytes, and {} by the log", object.bytes, data.bytes);
            problems.insert(ProblemKind::Size, detail);
        }
        // Not from what is known: the file itself is looked at.
        Some(_) => match view.read_end(data).await {
            Ok(opened) => {
                let (opened, _) = opened.kept();
                match look(view, kind, &view.file(data, opened), &mut problems).await {
                    Err(fault) if is_about_the_store(&fault) => return Err(fault),
                    Err(fault) => drop(problems.insert(ProblemKind::Unreadable, chain(&fault))),
                    Ok(()) => {}
                }
            }
            Err(fault) if is_about_the_store(&fault) => return Err(fault),
            Err(fault) => drop(problems.insert(ProblemKind::Unreadable, chain(&fault))),
        },
    }
    let problem = |(problem, detail)| Problem { file: data.path.clone(), problem, detail };
    Ok(problems.into_iter().map(problem).collect())
}

fn is_about_the_store(fault: &ReadFault) -> bool {
    matches!(fault, ReadFault::Lake(_) | ReadFault::Missing(_))
}

/// Decodes all of a file.
async fn look(
    view: &View<'_>,
    kind: Kind,
    file: &File<'_>,
    problems: &mut BTreeMap<ProblemKind, String>,
) -> Result<(), ReadFault> {
    for field in file.opened.schema().fields() {
        let detail = match view.columns.field_with_name(field.name()) {
            Ok(column) if same(column.data_type(), field.data_type()) => continue,
            Ok(column) => {
                format!("`{}` is {}, and {} in the table", field.name(), field.data_type(), column.data_type())
            }
            Err(_) => format!("the table has no column `{}`", field.name()),
        };
        problems.entry(ProblemKind::Schema).or_insert(detail);
    }
    let columns: Vec<&str> = file.opened.schema().fields().iter().map(|field| field.name().as_str()).collect();
    let mut rows = Rows::new(kind, file.data);
    for group in 0..file.opened.groups() {
        let pages = file.pages(group, &columns, None).await?;
        for batch in file.batches(&pages, &columns, None, Form::Plain, BATCH_ROWS)? {
            rows.look(&batch?, problems);
        }
    }
    if rows.count != file.data.rows {
        problems.insert(ProblemKind::Rows, format!("it has {} rows, and {} by the log", rows.count, file.data.rows));
    }
    Ok(())
}

/// The rows of a file so far.
struct Rows {
    kind: Kind,
    partition: Partition,
    is_sorted: bool,
    count: u64,
    last: Option<Key>,
}

/// What rows are ordered by; null comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    group: Option<String>,
    time: Option<i64>,
    id: Option<String>,
}

impl Rows {
    fn new(kind: Kind, file: &DataFile) -> Self {
        let is_sorted = Level::of(&file.path).is_some_and(|level| level > Level::L0);
        Self { kind, partition: file.partition, is_sorted, count: 0, last: None }
    }

    fn look(&mut self, batch: &RecordBatch, problems: &mut BTreeMap<ProblemKind, String>) {
        let first = self.count;
        self.count += batch.num_rows() as u64;
        let Rule { id, group, time, day, .. } = Rule::of(self.kind);
        for column in [id, day] {
            let values = batch.column_by_name(column);
            let null = match values {
                Some(values) => (0..values.len()).find(|row| values.is_null(*row)),
                None => (batch.num_rows() > 0).then_some(0),
            };
            if let Some(row) = null {
                let detail = format!("row {} lacks `{column}`", first + row as u64);
                problems.entry(ProblemKind::NullKey).or_insert(detail);
            }
        }
        let instants =
            |name: &str| batch.column_by_name(name).and_then(|it| it.as_primitive_opt::<TimestampMicrosecondType>());
        let (from, until) = (micros(self.partition.ends_at() - Duration::DAY), micros(self.partition.ends_at()));
        let outside = instants(day)
            .and_then(|times| times.iter().position(|at| at.is_some_and(|at| !(from..until).contains(&at))));
        if let Some(row) = outside {
            let detail = format!("row {}'s `{day}` is not on {}", first + row as u64, self.partition);
            problems.entry(ProblemKind::Partition).or_insert(detail);
        }
        if self.is_sorted {
            let texts = |column: Option<&str>| column.and_then(|column| batch.column_by_name(column)).map(Arc::clone);
            let (groups, times, ids) = (texts(group), time.and_then(instants), texts(Some(id)));
            let text = |texts: &Option<ArrayRef>, row: usize| {
                let texts = texts.as_ref()?.as_string_opt::<i32>().filter(|texts| texts.is_valid(row))?;
                Some(texts.value(row).to_owned())
            };
            for row in 0..batch.num_rows() {
                let time = times.filter(|times| times.is_valid(row)).map(|times| times.value(row));
                let key = Key { group: text(&groups, row), time, id: text(&ids, row) };
                if self.last.as_ref().is_some_and(|last| last.cmp(&key) == Ordering::Greater) {
                    let detail = format!("row {} should stand before the one before it", first + row as u64);
                    problems.entry(ProblemKind::Order).or_insert(detail);
                }
                self.last = Some(key);
            }
        }
    }
}
