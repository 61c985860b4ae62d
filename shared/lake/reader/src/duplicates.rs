//! Ids that are in more than one row.

use std::collections::BTreeMap;

use domain::lake::{Kind, Partition};
use lake_rows::Digester;

use crate::fault::ReadFault;
use crate::twins::each_id;
use crate::{DayDuplicates, Duplicate, Duplicates, NAMED, Reader};

/// So many ids are compared at once, 16 bytes each; of a day that has more, parts of all ids after each other.
const IDS_AT_ONCE: u64 = 4 << 20;

pub(crate) async fn duplicates(
    reader: &Reader,
    start: Option<Partition>,
    end: Option<Partition>,
) -> Result<Duplicates, ReadFault> {
    let wanted = move |day| start.is_none_or(|start| day >= start) && end.is_none_or(|end| day <= end);
    let view = reader.view(Kind::Messages, wanted).await?;
    reader.allow(view.days.values().flatten().map(|file| file.bytes).sum())?;
    let (digester, mut days) = (Digester::default(), Vec::with_capacity(view.days.len()));
    for (partition, files) in &view.days {
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        let parts = u128::from(rows.div_ceil(IDS_AT_ONCE).max(1));
        let (mut ids, mut twice): (u64, Vec<u128>) = (0, Vec::new());
        for part in 0..parts {
            let mut hashes = Vec::new();
            each_id(&view, files, &[], |_, _, id, _| {
                let hash = digester.id(id);
                if hash % parts == part {
                    hashes.push(hash);
                }
            })
            .await?;
            hashes.sort_unstable();
            for same in hashes.chunk_by(|a, b| a == b) {
                ids += 1;
                twice.extend(same.first().filter(|_| same.len() > 1));
            }
        }
        twice.sort_unstable();
        // The first ids in order. One that was left out once comes after all of them, and stays out.
        let mut named: BTreeMap<String, u64> = BTreeMap::new();
        if !twice.is_empty() {
            each_id(&view, files, &[], |_, _, id, _| {
                if let Some(count) = named.get_mut(id) {
                    *count += 1;
                    return;
                }
                let is_late =
                    named.len() == NAMED && named.last_key_value().is_some_and(|(last, _)| id > last.as_str());
                if !is_late && twice.binary_search(&digester.id(id)).is_ok() {
                    named.insert(id.to_owned(), 1);
                    if named.len() > NAMED {
                        named.pop_last();
                    }
                }
            })
            .await?;
        }
        let duplicates = named.into_iter().map(|(msg_id, rows)| Duplicate { msg_id, rows }).collect();
        days.push(DayDuplicates { partition: *partition, rows, ids, total: twice.len() as u64, duplicates });
    }
    Ok(Duplicates { version: view.version, total: days.iter().map(|day| day.total).sum(), days })
}
