//! What rows say, as hashes: of a line, to be stored, and of the rows of a file, to be compared.

use std::hash::{BuildHasher as _, RandomState};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use domain::lake::Kind;
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash3_128;

use crate::schema::{definitions, is_content, key};

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

/// A row of a table in 32 bytes: what it is recognised by, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    pub key: [u8; 16],
    pub says: [u8; 16],
}

/// Digests rows. Only what one digester made can be compared: its seed is random, so that nobody can send rows that it takes for one another.
#[derive(Debug, Clone, Copy)]
pub struct Digester {
    seed: u64,
}

impl Default for Digester {
    fn default() -> Self {
        Self { seed: RandomState::new().hash_one(()) }
    }
}

impl Digester {
    /// Each row's digest. The rows may lack columns, which are null then.
    #[must_use]
    pub fn digests(&self, table: Kind, rows: &RecordBatch) -> Vec<Digest> {
        let columns = definitions(table).iter().zip(0_u8..).filter(|(column, _)| is_content(column.name));
        let columns: Vec<(u8, Values<'_>)> =
            columns.filter_map(|(column, at)| Some((at, Values::of(rows.column_by_name(column.name)?)?))).collect();
        let keys = rows.column_by_name(key(table)).and_then(|keys| keys.as_string_opt::<i32>());
        let mut said = Vec::new();
        let digest = |at: usize| {
            said.clear();
            for (column, values) in &columns {
                values.write(at, *column, &mut said);
            }
            let key = keys.filter(|keys| keys.is_valid(at)).map_or("", |keys| keys.value(at));
            Digest { key: self.id(key).to_le_bytes(), says: self.hash(&said).to_le_bytes() }
        };
        (0..rows.num_rows()).map(digest).collect()
    }

    /// What a row is recognised by, in 16 bytes.
    #[must_use]
    pub fn id(&self, id: &str) -> u128 {
        self.hash(id.as_bytes())
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        XxHash3_128::oneshot_with_seed(self.seed, bytes)
    }
}

/// A column.
enum Values<'a> {
    Text(&'a arrow_array::StringArray),
    /// Integers, or instants.
    Integers(&'a [i64], &'a ArrayRef),
}

impl<'a> Values<'a> {
    fn of(column: &'a ArrayRef) -> Option<Self> {
        let integers = || column.as_primitive_opt::<Int64Type>().map(|column| &column.values()[..]);
        let instants = || column.as_primitive_opt::<TimestampMicrosecondType>().map(|column| &column.values()[..]);
        match column.as_string_opt::<i32>() {
            Some(texts) => Some(Self::Text(texts)),
            None => integers().or_else(instants).map(|values| Self::Integers(values, column)),
        }
    }

    /// Appends the column's number and its value, unless that is null. With a text goes its length, so that no two rows are the same bytes.
    fn write(&self, at: usize, column: u8, to: &mut Vec<u8>) {
        match self {
            Self::Text(texts) if texts.is_valid(at) => {
                let text = texts.value(at);
                to.push(column);
                to.extend_from_slice(&text.len().to_le_bytes());
                to.extend_from_slice(text.as_bytes());
            }
            Self::Integers(values, of) if of.is_valid(at) => {
                to.push(column);
                to.extend(values.get(at).copied().unwrap_or_default().to_le_bytes());
            }
            _ => {}
        }
    }
}
