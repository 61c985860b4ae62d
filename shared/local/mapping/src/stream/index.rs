//! An index for the stream records of the embedded database.

use std::path::Path;

use rusqlite::Connection;

/// The database finds both the next sequence number of a write and the records of a read by this expression, and without
/// an index scans all records it ever kept: at 100,000 of them some 50 ms for each write and each of four reads a second.
const INDEX: &str = "
PRAGMA busy_timeout = 5000;
CREATE INDEX IF NOT EXISTS skylark_stream_order ON _stream_records (table_name, CAST(sequence_number AS INTEGER));
";

/// The database file cannot be indexed.
#[derive(Debug, thiserror::Error)]
#[error("the stream records of the database cannot be indexed")]
pub struct IndexError(#[from] rusqlite::Error);

/// Keeps writes and reads of streams fast however many records there are. To be called once `Database::new` has opened
/// `file`; again does no harm. Blocks for as long as it takes to index what is there.
pub fn index_records(file: &Path) -> Result<(), IndexError> {
    Ok(Connection::open(file)?.execute_batch(INDEX)?)
}

#[cfg(test)]
mod tests {
    use dynoxide::Database;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_statements_of_the_database_use_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dynamodb.db");
        let database = Database::new(file.to_str().unwrap()).unwrap();
        index_records(&file).unwrap();
        index_records(&file).unwrap();

        let table = json!({
            "TableName": "Chat",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            "BillingMode": "PAY_PER_REQUEST",
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "KEYS_ONLY"}
        });
        database.create_table(serde_json::from_value(table).unwrap()).unwrap();
        let put = json!({"TableName": "Chat", "Item": {"pk": {"S": "a"}}});
        database.put_item(serde_json::from_value(put).unwrap()).unwrap();

        // As the database asks, in version 3.2.
        let connection = Connection::open(&file).unwrap();
        for (statement, rows) in [
            (
                "SELECT event_name FROM _stream_records WHERE table_name = 'Chat' AND shard_id LIKE 'shardId%'
                 AND CAST(sequence_number AS INTEGER) > 0 ORDER BY CAST(sequence_number AS INTEGER) ASC LIMIT 1000",
                1,
            ),
            (
                "SELECT COALESCE(MAX(CAST(sequence_number AS INTEGER)), 0) + 1 FROM _stream_records
                 WHERE table_name = 'Chat'",
                1,
            ),
        ] {
            let plan: String =
                connection.query_row(&format!("EXPLAIN QUERY PLAN {statement}"), [], |row| row.get("detail")).unwrap();
            assert!(plan.contains("INDEX skylark_stream_order"), "{plan}");
            let mut prepared = connection.prepare(statement).unwrap();
            assert_eq!(prepared.query_map([], |_| Ok(())).unwrap().count(), rows);
        }
    }
}
