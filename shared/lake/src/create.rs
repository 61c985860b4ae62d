//! Version 0 of a table, which the kernel would write in a protocol that fewer readers speak.

use std::sync::Arc;

use arrow_schema::Schema;
use bytes::Bytes;
use domain::lake::retention;
use serde_json::json;
use uuid::Uuid;

use crate::fault::LakeFault;
use crate::kernel::Kernel;
use crate::objects::{Objects, Put};

/// A checkpoint is due after so many commits.
pub const CHECKPOINT_EVERY: u64 = 64;

/// The log names a file that was merged away for longer than its batch can come again: no raw object is older than
/// [`retention::RAW_AT_MOST`], nor is a dead letter. The file itself is gone before.
const NAMED: time::Duration = time::Duration::days(retention::RAW_AT_MOST.whole_days() + 1);

/// Creates the table unless somebody has. Reader version 1 and writer version 2 are what every reader of Delta knows; they ask for nothing but
/// columns that may be null and instants in UTC.
pub(crate) async fn create(
    objects: &Objects,
    folder: &str,
    schema: &Arc<Schema>,
    partition_columns: &[&str],
    now_ms: i64,
) -> Result<Put, LakeFault> {
    let days = |age: time::Duration| format!("interval {} days", age.whole_days());
    let metadata = json!({
        "id": new_uuid().to_string(),
        "format": { "provider": "parquet", "options": {} },
        "schemaString": Kernel::schema_string(schema)?,
        "partitionColumns": partition_columns,
        "configuration": {
            "delta.checkpointInterval": CHECKPOINT_EVERY.to_string(),
            "delta.deletedFileRetentionDuration": days(NAMED),
            "delta.logRetentionDuration": days(retention::LOG),
        },
        "createdTime": now_ms,
    });
    let actions = [
        json!({ "commitInfo": { "timestamp": now_ms, "operation": "CREATE TABLE", "engineInfo": "skylark" } }),
        json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }),
        json!({ "metaData": metadata }),
    ];
    let lines: Vec<_> = actions.iter().map(serde_json::Value::to_string).collect();
    objects.put_new(&commit_key(folder, 0), Bytes::from(lines.join("\n"))).await
}

/// Where the commit of a version lies.
pub(crate) fn commit_key(folder: &str, version: u64) -> String {
    format!("{folder}/_delta_log/{version:020}.json")
}

/// A name that nothing has had or will have.
#[expect(clippy::disallowed_methods, reason = "the name of an object is of no meaning to anybody, but must be its own")]
pub(crate) fn new_uuid() -> Uuid {
    Uuid::new_v4()
}
