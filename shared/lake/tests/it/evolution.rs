//! A table that outlives the release which made it.

use arrow_schema::DataType;
use domain::lake::Kind;
use lake::{Lake, LakeFault};
use serde_json::{Value, json};

use crate::support::{append, both, ids, sorted};

const TABLE: Kind = Kind::Messages;

/// What an earlier release left: a table of two columns, one of type `kind`, and its entry in the registry.
async fn earlier_release(lake: &Lake, kind: (&str, &str)) {
    let column = |name: &str, kind: &str| json!({ "name": name, "type": kind, "nullable": true, "metadata": {} });
    let fields = [
        column("msg_id", kind.0),
        column("content", "string"),
        column("year", "integer"),
        column("month", "integer"),
        column("day", "integer"),
    ];
    let schema = json!({ "type": "struct", "fields": fields });
    let metadata = json!({
        "id": "0d7ee2c0-9a1b-4b36-8ef7-0f2f9f0a4b11",
        "format": { "provider": "parquet", "options": {} },
        "schemaString": schema.to_string(),
        "partitionColumns": ["year", "month", "day"],
        "configuration": {},
        "createdTime": 0,
    });
    let lines =
        [json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }), json!({ "metaData": metadata })];
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    lake.write_object("lake/messages/_delta_log/00000000000000000000.json", lines.join("\n").into()).await.unwrap();
    let entry = json!({
        "table": "messages",
        "version": 0,
        "columns": [
            { "name": "msg_id", "type": kind.1, "meaning": "" },
            { "name": "content", "type": "text", "meaning": "" },
        ],
        "folder": "lake/messages",
    });
    lake.write_object("schema/messages/v0.json", entry.to_string().into()).await.unwrap();
}

async fn names(lake: &Lake) -> Vec<String> {
    let columns = lake.columns(TABLE).await.unwrap().unwrap();
    columns.fields().iter().map(|field| field.name().clone()).collect()
}

#[tokio::test]
async fn the_first_write_registers_what_it_wrote() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        append(&lake, "1", &[1]).await.unwrap();
        let [entry]: [_; 1] = lake.schema_versions(TABLE).await.unwrap().try_into().unwrap();
        assert_eq!((entry.folder.as_str(), entry.schema.version), ("lake/messages", 1), "{place}");
        let table = names(&lake).await;
        let registered: Vec<_> = entry.schema.columns.iter().map(|column| column.name.clone()).collect();
        assert_eq!(table, [registered, ["year", "month", "day"].map(str::to_owned).to_vec()].concat(), "{place}");
    }
}

#[tokio::test]
async fn a_table_of_an_earlier_release_takes_the_new_columns_and_keeps_its_rows() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        earlier_release(&lake, ("string", "text")).await;
        assert_eq!(lake.version(TABLE).await.unwrap(), Some(0), "{place}");
        append(&lake, "1", &[1]).await.unwrap();
        let columns = names(&lake).await;
        assert_eq!(&columns[..2], ["msg_id", "content"], "{place}: what was there stays where it was");
        assert!(columns.contains(&"chatroom".to_owned()), "{place}: {columns:?}");
        assert_eq!(ids(&lake).await, [1], "{place}");
        let versions: Vec<_> = lake.schema_versions(TABLE).await.unwrap();
        assert_eq!(versions.iter().map(|it| it.schema.version).collect::<Vec<_>>(), [0, 1], "{place}");
    }
}

#[tokio::test]
async fn what_does_not_fit_an_earlier_table_gets_one_beside_it() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        earlier_release(&lake, ("long", "integer")).await;
        append(&lake, "1", &[1]).await.unwrap();
        let folders: Vec<_> = lake.schema_versions(TABLE).await.unwrap().into_iter().map(|it| it.folder).collect();
        assert_eq!(folders, ["lake/messages", "lake/messages-v1"], "{place}");
        assert_eq!(ids(&lake).await, [1], "{place}");
        let old = lake.list_objects("lake/messages/_delta_log").await.unwrap();
        assert_eq!(old.len(), 1, "{place}: nobody touches the old table");
    }
}

#[tokio::test]
async fn a_column_is_added_once_and_only_with_its_type() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        append(&lake, "1", &[1]).await.unwrap();
        for _ in 0..2 {
            lake.add_column(TABLE, "region", DataType::Utf8).await.unwrap();
        }
        assert_eq!(lake.version(TABLE).await.unwrap(), Some(2), "{place}");
        append(&lake, "2", &[2]).await.unwrap();
        assert_eq!(sorted(ids(&lake).await), [1, 2], "{place}");
        assert_eq!(names(&lake).await.last().unwrap(), "region", "{place}");
        for (name, kind) in [("region", DataType::Int64), ("CONTENT", DataType::Utf8)] {
            let fault = lake.add_column(TABLE, name, kind).await.unwrap_err();
            assert!(matches!(fault, LakeFault::BadColumn { .. }), "{place}: {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_contradicts_the_code_stops_the_writer() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        let entry = json!({
            "table": "messages",
            "version": 1,
            "columns": [{ "name": "msg_id", "type": "integer", "meaning": "" }],
            "folder": "lake/messages",
        });
        lake.write_object("schema/messages/v1.json", entry.to_string().into()).await.unwrap();
        assert!(matches!(append(&lake, "1", &[1]).await, Err(LakeFault::Broken { .. })), "{place}");
    }
}
