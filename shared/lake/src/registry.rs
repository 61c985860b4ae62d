//! The schema registry: which columns each version of a table's schema has, and in which folder the table is.
//!
//! An entry, `schema/<table>/v<n>.json`, is written once. A version that only adds columns is the same table, to which they are added; one that
//! does not is a table of its own beside the old one, whose rows stay where they are. Functions of two releases may run at the same time: each
//! finds the entry of its own version, and writes what that version has.

use bytes::Bytes;
use domain::lake::Kind;
use lake_rows::{PARTITION_COLUMNS, Version, table_schema};
use serde::{Deserialize, Serialize};

use crate::create::create;
use crate::fault::LakeFault;
use crate::objects::{Objects, Put};

/// An entry of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub schema: Version,
    /// The table's folder in the lake.
    pub folder: String,
}

/// What has to be done so that a version of a schema can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// It was, before.
    Nothing,
    /// The table takes more columns: those that it may lack.
    Extend(Vec<String>),
    /// A table of its own.
    Create,
}

fn prefix(kind: Kind) -> String {
    format!("schema/{kind}")
}

fn key(kind: Kind, version: u32) -> String {
    format!("{}/v{version}.json", prefix(kind))
}

/// Where a table is whose schema was never registered, and the first one that is.
fn first_folder(kind: Kind) -> String {
    format!("lake/{kind}")
}

/// Where a version of a schema belongs, given what is registered.
fn plan(entries: &[Entry], code: &Version) -> Result<(Entry, Step), LakeFault> {
    let entry = |folder: &str| Entry { schema: code.clone(), folder: folder.to_owned() };
    if let Some(own) = entries.iter().find(|entry| entry.schema.version == code.version) {
        return match own.schema.extended_by(code) {
            Ok(_) => Ok((own.clone(), Step::Nothing)),
            Err(why) => Err(LakeFault::broken("reading the schema registry", why)),
        };
    }
    let earlier = entries.iter().filter(|entry| entry.schema.version < code.version);
    match earlier.max_by_key(|entry| entry.schema.version) {
        None => Ok((entry(&first_folder(code.table)), Step::Create)),
        Some(earlier) => Ok(match earlier.schema.extended_by(code) {
            Ok(added) => {
                (entry(&earlier.folder), Step::Extend(added.into_iter().map(|column| column.name.clone()).collect()))
            }
            Err(_) => (entry(&format!("{}-v{}", first_folder(code.table), code.version)), Step::Create),
        }),
    }
}

/// Every entry, by version.
pub(crate) async fn entries(objects: &Objects, kind: Kind) -> Result<Vec<Entry>, LakeFault> {
    let mut entries = Vec::new();
    for object in objects.list(&prefix(kind)).await? {
        entries.extend(read(objects, &object.key).await?);
    }
    entries.sort_by_key(|entry: &Entry| entry.schema.version);
    Ok(entries)
}

async fn read(objects: &Objects, key: &str) -> Result<Option<Entry>, LakeFault> {
    let Some(body) = objects.get(key).await? else { return Ok(None) };
    let entry = serde_json::from_slice(&body);
    entry.map(Some).map_err(|fault| LakeFault::broken("reading the schema registry", fault))
}

/// The folder of the table that a reader of this version finds its rows in.
pub(crate) async fn find(objects: &Objects, code: &Version) -> Result<String, LakeFault> {
    if let Some(own) = read(objects, &key(code.table, code.version)).await? {
        return Ok(own.folder);
    }
    let entries = entries(objects, code.table).await?;
    // Nobody has written this version yet: the rows are where the one before it has them.
    let earlier = entries.into_iter().rev().find(|entry| entry.schema.version < code.version);
    Ok(earlier.map_or_else(|| first_folder(code.table), |entry| entry.folder))
}

/// Makes sure that there is a table for this version, and says where, and which columns it may still lack.
pub(crate) async fn ensure(objects: &Objects, code: &Version, now_ms: i64) -> Result<(Entry, Vec<String>), LakeFault> {
    let own = read(objects, &key(code.table, code.version)).await?;
    let entries = match own {
        Some(own) => vec![own],
        None => entries(objects, code.table).await?,
    };
    let (entry, step) = plan(&entries, code)?;
    let columns = match step {
        Step::Nothing => Vec::new(),
        Step::Extend(columns) => columns,
        Step::Create => {
            let created = create(objects, &entry.folder, &table_schema(code.table), &PARTITION_COLUMNS, now_ms).await?;
            // A table that somebody else created may have been created by an earlier release.
            let columns = code.columns.iter().map(|column| column.name.clone());
            if created == Put::AlreadyThere { columns.collect() } else { Vec::new() }
        }
    };
    Ok((entry, columns))
}

/// Says that the table is ready for this version. Only then others rely on it.
pub(crate) async fn register(objects: &Objects, entry: &Entry) -> Result<(), LakeFault> {
    let body =
        serde_json::to_vec_pretty(entry).map_err(|fault| LakeFault::broken("writing the schema registry", fault))?;
    objects.put_new(&key(entry.schema.table, entry.schema.version), Bytes::from(body)).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use lake_rows::{Column, ColumnType};

    use super::*;

    fn version(number: u32, columns: &[(&str, ColumnType)]) -> Version {
        let columns =
            columns.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind, meaning: String::new() });
        Version { table: Kind::Messages, version: number, columns: columns.collect() }
    }

    fn entry(schema: Version, folder: &str) -> Entry {
        Entry { schema, folder: folder.to_owned() }
    }

    use ColumnType::{Integer, Text};

    #[test]
    fn the_first_version_is_a_new_table() {
        let code = version(1, &[("msg_id", Text)]);
        assert_eq!(plan(&[], &code).unwrap(), (entry(code, "lake/messages"), Step::Create));
    }

    #[test]
    fn a_version_that_adds_columns_keeps_the_table_and_any_other_has_one_of_its_own() {
        let first = entry(version(1, &[("msg_id", Text)]), "lake/messages");
        let wider = version(2, &[("msg_id", Text), ("region", Text)]);
        let (second, step) = plan(std::slice::from_ref(&first), &wider).unwrap();
        assert_eq!((second.folder.as_str(), step), ("lake/messages", Step::Extend(vec!["region".into()])));

        let other = version(3, &[("msg_id", Integer), ("region", Text)]);
        let (third, step) = plan(&[first.clone(), second.clone()], &other).unwrap();
        assert_eq!((third.folder.as_str(), step), ("lake/messages-v3", Step::Create));

        let next = version(4, &[("msg_id", Integer), ("region", Text), ("city", Text)]);
        let (fourth, step) = plan(&[first, second, third], &next).unwrap();
        assert_eq!((fourth.folder.as_str(), step), ("lake/messages-v3", Step::Extend(vec!["city".into()])));
    }

    #[test]
    fn an_earlier_release_goes_on_writing_where_it_wrote() {
        let first = entry(version(1, &[("msg_id", Text)]), "lake/messages");
        let second = entry(version(2, &[("msg_id", Integer)]), "lake/messages-v2");
        assert_eq!(plan(&[first.clone(), second], &first.schema).unwrap(), (first, Step::Nothing));
    }

    #[test]
    fn a_version_that_means_two_things_is_refused() {
        let first = entry(version(1, &[("msg_id", Text)]), "lake/messages");
        for columns in [&[("msg_id", Integer)][..], &[("msg_id", Text), ("region", Text)]] {
            let fault = plan(std::slice::from_ref(&first), &version(1, columns)).unwrap_err();
            assert!(matches!(fault, LakeFault::Broken { .. }));
        }
    }
}
