//! DynamoDB: an embedded engine on a file, with the template's tables.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;

use dynoxide::{Database, DynoxideError};
use local_template::{AttributeType, Index, KeySchema, Projection, StreamView, Table};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Why a table is not as the template wants it.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the table file cannot be opened")]
    Open(#[source] DynoxideError),
    #[error("the stream records cannot be indexed")]
    Index(#[source] local_mapping::stream::IndexError),
    #[error("table `{table}` cannot be made")]
    Create {
        table: String,
        #[source]
        cause: DynoxideError,
    },
    #[error(
        "table `{table}` on disk has another {difference} than the template; move the data folder away to start anew"
    )]
    Differs { table: String, difference: &'static str },
    #[error("the request for table `{0}` is malformed")]
    Request(String),
    #[error("the engine cannot listen")]
    Listen(#[source] std::io::Error),
}

/// Opens the file and makes what is missing of the template's tables.
pub(crate) fn open(path: &Path, tables: &[Table]) -> Result<Database, TableError> {
    let database = Database::new(&path.to_string_lossy()).map_err(TableError::Open)?;
    local_mapping::stream::index_records(path).map_err(TableError::Index)?;
    for table in tables {
        make(&database, table)?;
    }
    Ok(database)
}

fn make(database: &Database, table: &Table) -> Result<(), TableError> {
    let fault = |cause| TableError::Create { table: table.name.clone(), cause };
    match database.describe_table(request(table, json!({ "TableName": table.name }))?) {
        Ok(found) => {
            let found = serde_json::to_value(found).unwrap_or_default();
            same(table, found.get("Table").unwrap_or(&Value::Null))?;
        }
        Err(DynoxideError::ResourceNotFoundException(_)) => {
            database.create_table(request(table, definition(table))?).map_err(fault)?;
        }
        Err(cause) => return Err(fault(cause)),
    }
    if let Some(attribute) = &table.ttl_attribute {
        let ttl = json!({
            "TableName": table.name,
            "TimeToLiveSpecification": { "AttributeName": attribute, "Enabled": true },
        });
        match database.update_time_to_live(request(table, ttl)?) {
            // Enabling what is enabled is an error on AWS too.
            Ok(_) | Err(DynoxideError::ValidationException(_)) => {}
            Err(cause) => return Err(fault(cause)),
        }
    }
    Ok(())
}

/// The engine's request types take AWS's own JSON.
fn request<T: DeserializeOwned>(table: &Table, value: Value) -> Result<T, TableError> {
    serde_json::from_value(value).map_err(|_| TableError::Request(table.name.clone()))
}

fn definition(table: &Table) -> Value {
    let attributes: Vec<Value> = table
        .attributes
        .iter()
        .map(|(name, kind)| json!({ "AttributeName": name, "AttributeType": attribute_type(*kind) }))
        .collect();
    let mut definition = json!({
        "TableName": table.name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": attributes,
        "KeySchema": key_schema(&table.key),
    });
    let mut set = |name: &str, value: Value| {
        if let Some(fields) = definition.as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
    };
    if !table.global_indexes.is_empty() {
        set("GlobalSecondaryIndexes", table.global_indexes.iter().map(index).collect());
    }
    if !table.local_indexes.is_empty() {
        set("LocalSecondaryIndexes", table.local_indexes.iter().map(index).collect());
    }
    if let Some(view) = table.stream {
        set("StreamSpecification", json!({ "StreamEnabled": true, "StreamViewType": stream_view(view) }));
    }
    definition
}

fn index(index: &Index) -> Value {
    let projection = match &index.projection {
        Projection::All => json!({ "ProjectionType": "ALL" }),
        Projection::KeysOnly => json!({ "ProjectionType": "KEYS_ONLY" }),
        Projection::Include(names) => json!({ "ProjectionType": "INCLUDE", "NonKeyAttributes": names }),
    };
    json!({ "IndexName": index.name, "KeySchema": key_schema(&index.key), "Projection": projection })
}

fn key_schema(key: &KeySchema) -> Value {
    let hash = json!({ "AttributeName": key.hash, "KeyType": "HASH" });
    let range = key.range.as_ref().map(|range| json!({ "AttributeName": range, "KeyType": "RANGE" }));
    std::iter::once(hash).chain(range).collect()
}

fn attribute_type(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::String => "S",
        AttributeType::Number => "N",
        AttributeType::Binary => "B",
    }
}

fn stream_view(view: StreamView) -> &'static str {
    match view {
        StreamView::KeysOnly => "KEYS_ONLY",
        StreamView::NewImage => "NEW_IMAGE",
        StreamView::OldImage => "OLD_IMAGE",
        StreamView::NewAndOldImages => "NEW_AND_OLD_IMAGES",
    }
}

/// What AWS would replace the table for, or refuse, is refused here: the data on disk is somebody's work.
fn same(table: &Table, found: &Value) -> Result<(), TableError> {
    let wanted = definition(table);
    let index_names = |value: &Value| -> Vec<String> {
        let names = value.as_array().into_iter().flatten().filter_map(|index| index.get("IndexName")?.as_str());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    };
    let differs = |difference| Err(TableError::Differs { table: table.name.clone(), difference });
    if found.get("KeySchema") != wanted.get("KeySchema") {
        return differs("key");
    }
    for list in ["GlobalSecondaryIndexes", "LocalSecondaryIndexes"] {
        let names = |value: &Value| value.get(list).map(index_names).unwrap_or_default();
        if names(found) != names(&wanted) {
            return differs("set of indexes");
        }
    }
    let view = |value: &Value| value.pointer("/StreamSpecification/StreamViewType").cloned();
    if view(found) != view(&wanted) {
        return differs("stream view");
    }
    Ok(())
}

/// Serves the engine's protocol on a port of its own, on threads of its own: its calls block while they write to disk.
pub(crate) fn serve(
    database: Database,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<SocketAddr, TableError> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(TableError::Listen)?;
    listener.set_nonblocking(true).map_err(TableError::Listen)?;
    let address = listener.local_addr().map_err(TableError::Listen)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .thread_name("table")
        .enable_all()
        .build()
        .map_err(TableError::Listen)?;
    std::thread::Builder::new()
        .name("tables".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                if let Err(error) = dynoxide::server::serve_with_shutdown(listener, database, stop).await {
                    tracing::error!(%error, "The table engine stopped");
                }
            });
        })
        .map_err(TableError::Listen)?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            logical_id: "LarkTable".into(),
            name: "lark".into(),
            arn: "arn:aws:dynamodb:us-east-1:000000000000:table/lark".into(),
            attributes: vec![("pk".into(), AttributeType::String), ("at".into(), AttributeType::Number)],
            key: KeySchema { hash: "pk".into(), range: None },
            global_indexes: vec![Index {
                name: "by_time".into(),
                key: KeySchema { hash: "pk".into(), range: Some("at".into()) },
                projection: Projection::KeysOnly,
            }],
            local_indexes: Vec::new(),
            stream: Some(StreamView::NewAndOldImages),
            ttl_attribute: Some("ttl".into()),
            line: 1,
        }
    }

    #[test]
    fn a_table_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.db");
        open(&path, &[table()]).unwrap();
        open(&path, &[table()]).unwrap();
    }

    #[test]
    fn a_table_that_would_have_to_be_replaced_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.db");
        open(&path, &[table()]).unwrap();
        let other = |change: fn(&mut Table)| {
            let mut table = table();
            change(&mut table);
            open(&path, &[table]).err().unwrap().to_string()
        };
        assert!(other(|t| t.key.range = Some("at".into())).contains("`lark` on disk has another key"));
        assert!(other(|t| t.global_indexes.clear()).contains("another set of indexes"));
        assert!(other(|t| t.stream = None).contains("another stream view"));
    }
}
