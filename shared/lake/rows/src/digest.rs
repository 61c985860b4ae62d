//! What rows say, as hashes: of a line, and of the rows of a file, the same for the same message.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use domain::lake::Kind;
use sha2::{Digest as _, Sha256};

use crate::schema::{is_content, key};

/// A hash over the columns that are content. Nulls are left out, so that it stays the same when the table gets another column.
#[derive(Debug, Default)]
pub(crate) struct ContentHash(Sha256);

impl ContentHash {
    /// Adds a column's value, in the table's order of columns.
    pub(crate) fn add(&mut self, column: &str, value: &[u8]) {
        if is_content(column) {
            // With their lengths, so that no two rows are the same bytes.
            for part in [column.as_bytes(), value] {
                self.0.update((part.len() as u64).to_le_bytes());
                self.0.update(part);
            }
        }
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// A row of a table in 32 bytes: what it is recognised by, and what it says. Half a SHA-256 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    pub key: [u8; 16],
    pub says: [u8; 16],
}

/// Each row's digest. The rows may lack columns, which are null then.
#[must_use]
pub fn digests(table: Kind, rows: &RecordBatch) -> Vec<Digest> {
    let columns: Vec<(&str, &ArrayRef)> = crate::schema::definitions(table)
        .iter()
        .filter_map(|column| Some((column.name, rows.column_by_name(column.name)?)))
        .collect();
    let digest = |at: usize| {
        let (mut id, mut says) = ([0; 32], ContentHash::default());
        for (name, column) in columns.iter().filter(|(_, column)| column.is_valid(at)) {
            if let Some(texts) = column.as_string_opt::<i32>() {
                let text = texts.value(at);
                if *name == key(table) {
                    id = Sha256::digest(text).into();
                }
                says.add(name, text.as_bytes());
            } else if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
                says.add(name, &numbers.value(at).to_le_bytes());
            } else if let Some(instants) = column.as_primitive_opt::<TimestampMicrosecondType>() {
                says.add(name, &instants.value(at).to_le_bytes());
            }
        }
        Digest { key: half(id), says: half(says.finish()) }
    };
    (0..rows.num_rows()).map(digest).collect()
}

fn half(hash: [u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    half
}
