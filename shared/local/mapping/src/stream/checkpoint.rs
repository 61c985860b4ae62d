//! How far each mapping got in each shard, in a SQLite file.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::random_uuid;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA busy_timeout = 5000;
CREATE TABLE IF NOT EXISTS mappings (
    function TEXT NOT NULL,
    stream_arn TEXT NOT NULL,
    uuid TEXT NOT NULL UNIQUE,
    PRIMARY KEY (function, stream_arn)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoints (
    mapping TEXT NOT NULL REFERENCES mappings (uuid),
    shard TEXT NOT NULL,
    sequence_number TEXT NOT NULL, -- of the last record that is done, and all before it
    PRIMARY KEY (mapping, shard)
) WITHOUT ROWID;
";

/// The checkpoints of all stream mappings of one data folder. Cheap to clone. A killed process loses none that was saved.
#[derive(Debug, Clone)]
pub struct Checkpoints(Arc<Mutex<Connection>>);

/// The checkpoint file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint file failed")]
pub struct CheckpointError(#[from] rusqlite::Error);

impl Checkpoints {
    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let connection = Connection::open(path)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Returns the id of a mapping; one that is new gets an id and begins after `starts`, both or neither.
    pub(super) fn register(
        &self,
        function: &str,
        stream_arn: &str,
        starts: &[(String, String)],
    ) -> Result<String, CheckpointError> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let known = transaction
            .query_row(
                "SELECT uuid FROM mappings WHERE function = ?1 AND stream_arn = ?2",
                [function, stream_arn],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(uuid) = known {
            return Ok(uuid);
        }
        let uuid = random_uuid();
        transaction.execute(
            "INSERT INTO mappings (function, stream_arn, uuid) VALUES (?1, ?2, ?3)",
            [function, stream_arn, &uuid],
        )?;
        for (shard, sequence_number) in starts {
            transaction.execute(
                "INSERT INTO checkpoints (mapping, shard, sequence_number) VALUES (?1, ?2, ?3)",
                [&uuid, shard, sequence_number],
            )?;
        }
        transaction.commit()?;
        Ok(uuid)
    }

    pub(super) fn load(&self, mapping: &str, shard: &str) -> Result<Option<String>, CheckpointError> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(connection
            .query_row(
                "SELECT sequence_number FROM checkpoints WHERE mapping = ?1 AND shard = ?2",
                [mapping, shard],
                |row| row.get(0),
            )
            .optional()?)
    }

    pub(super) fn save(&self, mapping: &str, shard: &str, sequence_number: &str) -> Result<(), CheckpointError> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connection
            .prepare_cached(
                "INSERT INTO checkpoints (mapping, shard, sequence_number) VALUES (?1, ?2, ?3)
                 ON CONFLICT (mapping, shard) DO UPDATE SET sequence_number = excluded.sequence_number",
            )?
            .execute(params![mapping, shard, sequence_number])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_keeps_its_id_and_its_first_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints.db");
        let starts = |sequence: &str| [("shard".to_owned(), sequence.to_owned())];
        let uuid = Checkpoints::open(&path).unwrap().register("f", "arn:1", &starts("10")).unwrap();

        let reopened = Checkpoints::open(&path).unwrap();
        assert_eq!(reopened.register("f", "arn:1", &starts("99")).unwrap(), uuid);
        assert_eq!(reopened.load(&uuid, "shard").unwrap().as_deref(), Some("10"));
        let other = reopened.register("f", "arn:2", &[]).unwrap();
        assert_ne!(other, uuid);
        assert_eq!(reopened.load(&other, "shard").unwrap(), None);
    }

    #[test]
    fn the_last_save_is_what_the_next_process_loads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints.db");
        let first = Checkpoints::open(&path).unwrap();
        let uuid = first.register("f", "arn", &[]).unwrap();
        first.save(&uuid, "shard", "1").unwrap();
        first.save(&uuid, "shard", "2").unwrap();
        // Not closed: a killed process closes nothing.
        std::mem::forget(first);
        assert_eq!(Checkpoints::open(&path).unwrap().load(&uuid, "shard").unwrap().as_deref(), Some("2"));
    }
}
