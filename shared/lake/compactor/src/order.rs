//! Which rows are kept, and in which order: decided by the key columns alone.

use std::cmp::Ordering;
use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, BinaryViewArray};
use arrow_schema::{DataType, TimeUnit};
use arrow_select::concat::concat;
use lake_rows::{Keep, Rule};
use twox_hash::XxHash64;

use crate::CompactError;
use crate::inputs::Inputs;

/// The rows of the output, as numbers of rows of the inputs.
pub(crate) struct Order {
    pub(crate) rows: Vec<u32>,
    /// The rows that are left out, each with the one that is kept instead; by the row that is left out.
    pub(crate) twins: Vec<Twin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Twin {
    pub(crate) lost: u32,
    pub(crate) kept: u32,
}

impl Order {
    pub(crate) fn of(inputs: &Inputs, rule: &Rule) -> Result<Self, CompactError> {
        let keys = Keys::read(inputs, rule)?;
        let mut twins = keys.twins(rule.keep);
        twins.sort_unstable();
        let mut lost = twins.iter().map(|twin| twin.lost).peekable();
        let mut kept: Vec<u128> = Vec::with_capacity(inputs.row_count() as usize - twins.len());
        for (row, place) in (0..).zip(&keys.places) {
            if lost.next_if_eq(&row).is_none() {
                kept.push(place << 32 | u128::from(row));
            }
        }
        kept.sort_unstable();
        let mut rows = Vec::with_capacity(kept.len());
        for tied in kept.chunk_by(|a, b| a >> 32 == b >> 32) {
            let start = rows.len();
            rows.extend(tied.iter().map(|key| *key as u32));
            if let Some(tied) = rows.get_mut(start..).filter(|tied| tied.len() > 1) {
                tied.sort_unstable_by(|a, b| keys.by_id(*a, *b).then(a.cmp(b)));
            }
        }
        Ok(Self { rows, twins })
    }
}

/// The key columns of all rows.
struct Keys {
    ids: BinaryViewArray,
    /// Larger is later; 0 is unknown.
    received: Vec<u64>,
    /// The rank of the group and the time, as one number of 96 bits.
    places: Vec<u128>,
}

impl Keys {
    fn read(inputs: &Inputs, rule: &Rule) -> Result<Self, CompactError> {
        let names = [Some(rule.id), Some(rule.received_at), rule.group, rule.time];
        let columns = names.map(|name| name.and_then(|name| inputs.column(name)));
        let present: Vec<usize> = columns.into_iter().flatten().collect();
        let rows = inputs.row_count() as usize;

        let (mut ids, mut received, mut places) = (Vec::new(), Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut groups = Groups::default();
        for piece in &inputs.pieces {
            let mut arrays = inputs.read(*piece, &present)?.into_iter();
            let [id, received_at, group, time] =
                columns.map(|column| column.and_then(|column| Some((column, arrays.next()?))));
            let rows = piece.rows as usize;
            ids.push(match id {
                Some((column, array)) => text(inputs, column, array)?,
                None => BinaryViewArray::new_null(rows),
            });
            received.extend(rising(inputs, received_at, rows)?);
            let times = rising(inputs, time, rows)?;
            let group = group.map(|(column, array)| text(inputs, column, array)).transpose()?;
            places.extend(times.into_iter().enumerate().map(|(row, time)| {
                let group = group
                    .as_ref()
                    .filter(|group| group.is_valid(row))
                    .map_or(0, |group| groups.number(group.value(row)));
                u128::from(group) << 64 | u128::from(time)
            }));
        }
        let ranks = groups.ranks();
        for place in &mut places {
            let rank = ranks.get((*place >> 64) as usize).copied().unwrap_or_default();
            *place = u128::from(rank) << 64 | (*place & u128::from(u64::MAX));
        }
        let ids: Vec<&dyn Array> = ids.iter().map(|ids| ids as &dyn Array).collect();
        let ids = match ids.is_empty() {
            true => BinaryViewArray::new_null(0),
            false => concat(&ids)?.as_binary_view().clone(),
        };
        Ok(Self { ids, received, places })
    }

    /// Of each id that several rows have, the rows that are not kept.
    fn twins(&self, keep: Keep) -> Vec<Twin> {
        let mut hashed: Vec<(u64, u32)> =
            (0..).zip(&self.ids).filter_map(|(row, id)| Some((XxHash64::oneshot(0, id?), row))).collect();
        hashed.sort_unstable();
        let mut twins = Vec::new();
        for alike in hashed.chunk_by_mut(|a, b| a.0 == b.0).filter(|alike| alike.len() > 1) {
            // Best first. The row's number decides last, so that nothing depends on the sort.
            alike.sort_unstable_by(|(_, a), (_, b)| self.by_id(*a, *b).then_with(|| self.better(keep, *a, *b)));
            for same in alike.chunk_by(|(_, a), (_, b)| self.by_id(*a, *b).is_eq()) {
                if let [(_, kept), lost @ ..] = same {
                    twins.extend(lost.iter().map(|(_, lost)| Twin { lost: *lost, kept: *kept }));
                }
            }
        }
        twins
    }

    fn by_id(&self, a: u32, b: u32) -> Ordering {
        let id = |row: u32| self.ids.is_valid(row as usize).then(|| self.ids.value(row as usize));
        id(a).cmp(&id(b))
    }

    fn better(&self, keep: Keep, a: u32, b: u32) -> Ordering {
        let received = |row: u32| self.received.get(row as usize).copied().filter(|at| *at > 0);
        keep.compare((received(a), a), (received(b), b))
    }
}

/// The texts that rows are grouped by, numbered from 1 as they are met. 0 is none.
#[derive(Default)]
struct Groups {
    numbers: HashMap<Box<[u8]>, u32>,
}

impl Groups {
    fn number(&mut self, name: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.numbers.len() as u32 + 1;
        self.numbers.insert(name.into(), number);
        number
    }

    /// For each number, the place of its text among all of them.
    fn ranks(&self) -> Vec<u32> {
        let mut names: Vec<(&[u8], u32)> = self.numbers.iter().map(|(name, number)| (name.as_ref(), *number)).collect();
        names.sort_unstable();
        let mut ranks = vec![0; names.len() + 1];
        for (rank, (_, number)) in (1..).zip(names) {
            if let Some(place) = ranks.get_mut(number as usize) {
                *place = rank;
            }
        }
        ranks
    }
}

fn text(inputs: &Inputs, column: usize, array: ArrayRef) -> Result<BinaryViewArray, CompactError> {
    match array.as_binary_view_opt() {
        Some(text) => Ok(text.clone()),
        None => Err(wrong_type(inputs, column, &array, DataType::Utf8View)),
    }
}

/// Numbers or times as numbers that rise with them; 0 is null, and so is a column that is not there.
fn rising(inputs: &Inputs, column: Option<(usize, ArrayRef)>, rows: usize) -> Result<Vec<u64>, CompactError> {
    let Some((column, array)) = column else {
        return Ok(vec![0; rows]);
    };
    // The least of all numbers shares its place with the one after it.
    let place = |value: i64| ((value as u64) ^ (1 << 63)).max(1);
    macro_rules! places {
        ($type:ty) => {
            array.as_primitive::<$type>().iter().map(|value| value.map_or(0, |value| place(i64::from(value)))).collect()
        };
    }
    Ok(match array.data_type() {
        DataType::Int32 => places!(Int32Type),
        DataType::Int64 => places!(Int64Type),
        DataType::Timestamp(TimeUnit::Second, _) => places!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => places!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => places!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => places!(TimestampNanosecondType),
        _ => return Err(wrong_type(inputs, column, &array, DataType::Int64)),
    })
}

fn wrong_type(inputs: &Inputs, column: usize, array: &ArrayRef, expected: DataType) -> CompactError {
    CompactError::Column {
        input: 0,
        column: inputs.schema.field(column).name().clone(),
        found: array.data_type().clone(),
        expected,
    }
}
