//! One message or contact by its id.

use std::cmp::Reverse;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use domain::lake::Kind;
use futures_util::stream::TryStreamExt as _;
use lake::DataFile;
use lake_rows::Rule;

use crate::fault::ReadFault;
use crate::file::Form;
use crate::view::{OPEN_AT_ONCE, Place, READ_AT_ONCE, View};
use crate::{Reader, few_at_once};

/// The message that was received first of those with the id. It may be of any day.
pub(crate) async fn message(reader: &Reader, msg_id: &str) -> Result<Option<RecordBatch>, ReadFault> {
    let view = reader.view(Kind::Messages, |_| true).await?;
    let files: Vec<&DataFile> = view.days.values().flatten().collect();
    let rows = with_id(&view, Kind::Messages, &files, msg_id).await?;
    Ok(kept(Kind::Messages, &rows))
}

/// The contact that was received last of those with the id: the day of a contact is the one on which it was received.
pub(crate) async fn contact(reader: &Reader, username: &str) -> Result<Option<RecordBatch>, ReadFault> {
    let view = reader.view(Kind::Contacts, |_| true).await?;
    let files: Vec<&DataFile> = view.days.values().flatten().collect();
    let mut with = groups_with(&view, Kind::Contacts, &files, username).await?;
    with.sort_by_key(|(file, _)| Reverse(files.get(*file).map(|file| file.partition)));
    for day in
        with.chunk_by(|(a, _), (b, _)| files.get(*a).map(|it| it.partition) == files.get(*b).map(|it| it.partition))
    {
        let rows = in_groups(&view, Kind::Contacts, &files, day, username).await?;
        if let Some(row) = kept(Kind::Contacts, &rows) {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Of the rows of one id the one that a merge would keep.
fn kept(kind: Kind, rows: &RecordBatch) -> Option<RecordBatch> {
    let rule = Rule::of(kind);
    let times = rows.column_by_name(rule.received_at).and_then(|it| it.as_primitive_opt::<TimestampMicrosecondType>());
    let received = |row: usize| times.filter(|it| it.is_valid(row)).map(|it| it.value(row));
    let kept = (0..rows.num_rows()).map(|row| (received(row), row)).min_by(|a, b| rule.keep.compare(*a, *b));
    kept.map(|(_, row)| rows.slice(row, 1))
}

async fn with_id(view: &View<'_>, kind: Kind, files: &[&DataFile], id: &str) -> Result<RecordBatch, ReadFault> {
    let with = groups_with(view, kind, files, id).await?;
    in_groups(view, kind, files, &with, id).await
}

/// The files, by their number, that may hold the id, each with the row groups that may.
async fn groups_with(
    view: &View<'_>,
    kind: Kind,
    files: &[&DataFile],
    id: &str,
) -> Result<Vec<(usize, Vec<usize>)>, ReadFault> {
    let column = lake_rows::key(kind);
    let groups = files.iter().enumerate().map(|(at, file)| async move {
        let outside = file.stats.min_values.get(column).zip(file.stats.max_values.get(column)).is_some_and(|bounds| {
            matches!(bounds, (lake_rows::Bound::Text(min), lake_rows::Bound::Text(max)) if id < min.as_str() || id > max.as_str())
        });
        if outside {
            return Ok((at, Vec::new()));
        }
        Ok::<_, ReadFault>((at, view.groups_with(file, column, id).await?))
    });
    let groups: Vec<_> = few_at_once(groups, OPEN_AT_ONCE).try_collect().await?;
    Ok(groups.into_iter().filter(|(_, groups)| !groups.is_empty()).collect())
}

/// The rows with the id in these row groups, with all columns.
async fn in_groups(
    view: &View<'_>,
    kind: Kind,
    files: &[&DataFile],
    groups: &[(usize, Vec<usize>)],
    id: &str,
) -> Result<RecordBatch, ReadFault> {
    let column = [lake_rows::key(kind)];
    let groups = groups.iter().flat_map(|(at, groups)| groups.iter().map(|group| (*at, *group)));
    let read = groups.map(|(at, group)| async move {
        let Some(data) = files.get(at) else { return Ok::<_, ReadFault>(Vec::new()) };
        let file = view.open(data).await?;
        let pages = file.pages(group, &column, None).await?;
        let batch = file.decode(&pages, &column, None, Form::Plain)?;
        let ids = batch.columns().first().and_then(|ids| ids.as_string_opt::<i32>());
        let rows = ids.into_iter().flatten().enumerate().filter(|(_, it)| *it == Some(id));
        Ok(rows.map(|(row, _)| Place { file: at, group, row }).collect())
    });
    let places: Vec<Vec<Place>> = few_at_once(read, READ_AT_ONCE * 2).try_collect().await?;
    view.rows(files, &places.concat(), &view.columns).await
}
