//! Chunks that lie in the bucket as objects of their own become parts of one object: copied where S3 copies them, and joined with their
//! neighbours where they are too small for it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::upload::object::ChunkObject;
use crate::upload::plan::{MAX_PARTS, MIN_CHUNK_BYTES};

/// Under which the chunks of other systems are put.
pub const CHUNKS: &str = "import/";

/// Under which manifests are kept until their import has ended.
pub const MANIFESTS: &str = "manifest/";

/// S3 copies no more than this into one part.
const MAX_COPY_BYTES: u64 = 5 << 30;

/// The chunks of one file, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub chunks: Vec<ChunkObject>,
}

/// Bytes of one chunk, by its place in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub chunk: usize,
    pub range: Range<u64>,
}

impl Slice {
    fn length(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// How a part is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// By S3: no byte moves.
    Copied(Slice),
    /// By reading and sending the bytes; always less than [`JOINED_BYTES`].
    Joined(Vec<Slice>),
}

/// What a joined part is always smaller than.
pub const JOINED_BYTES: u64 = 2 * MIN_CHUNK_BYTES;

impl Piece {
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Copied(slice) => slice.length(),
            Self::Joined(slices) => slices.iter().map(Slice::length).sum(),
        }
    }
}

/// Why chunks cannot become one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmergeable {
    #[error("there is nothing to merge")]
    Empty,
    #[error("the chunks would become more than {MAX_PARTS} parts")]
    TooMany,
}

/// The parts that chunks of these sizes become, in order. The same sizes give the same parts, so that an import that was cut short goes on
/// where it was.
pub fn pieces(sizes: &[u64]) -> Result<Vec<Piece>, Unmergeable> {
    let (mut pieces, mut pending, mut held) = (Vec::new(), Vec::new(), 0);
    for (chunk, size) in sizes.iter().copied().enumerate() {
        let mut range = 0..size;
        if held > 0 {
            // As much as makes the pending ones a part; all of it, if the rest were too small to be one.
            let wanted = (MIN_CHUNK_BYTES - held).min(size);
            let taken = if size - wanted < MIN_CHUNK_BYTES { size } else { wanted };
            if taken > 0 {
                pending.push(Slice { chunk, range: 0..taken });
            }
            held += taken;
            range.start = taken;
        } else if size < MIN_CHUNK_BYTES {
            if size > 0 {
                pending.push(Slice { chunk, range: 0..size });
            }
            held = size;
            range.start = size;
        }
        if held >= MIN_CHUNK_BYTES {
            pieces.push(Piece::Joined(std::mem::take(&mut pending)));
            held = 0;
        }
        copy(&mut pieces, chunk, range);
    }
    if held > 0 {
        pieces.push(Piece::Joined(pending));
    }
    match pieces.len() {
        0 => Err(Unmergeable::Empty),
        1..=MAX_PARTS => Ok(pieces),
        _ => Err(Unmergeable::TooMany),
    }
}

/// A chunk that is larger than one copy takes becomes several parts, none of them small.
fn copy(pieces: &mut Vec<Piece>, chunk: usize, range: Range<u64>) {
    let length = range.end - range.start;
    if length == 0 {
        return;
    }
    let count = length.div_ceil(MAX_COPY_BYTES);
    let each = length.div_ceil(count);
    let mut start = range.start;
    while start < range.end {
        let end = (start + each).min(range.end);
        pieces.push(Piece::Copied(Slice { chunk, range: start..end }));
        start = end;
    }
}

/// Keys as people number them: `chunk-2` before `chunk-10`.
#[must_use]
pub fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (digits_a, digits_b) = (leading_digits(a), leading_digits(b));
        if !digits_a.is_empty() && !digits_b.is_empty() {
            let (plain_a, plain_b) = (digits_a.trim_start_matches('0'), digits_b.trim_start_matches('0'));
            let order = plain_a.len().cmp(&plain_b.len()).then_with(|| plain_a.cmp(plain_b));
            let order = order.then_with(|| digits_a.len().cmp(&digits_b.len()));
            if order.is_ne() {
                return order;
            }
            (a, b) = (a.get(digits_a.len()..).unwrap_or_default(), b.get(digits_b.len()..).unwrap_or_default());
            continue;
        }
        let (mut rest_a, mut rest_b) = (a.chars(), b.chars());
        match (rest_a.next(), rest_b.next()) {
            (None, None) => return std::cmp::Ordering::Equal,
            (one, other) if one != other => return one.cmp(&other),
            _ => (a, b) = (rest_a.as_str(), rest_b.as_str()),
        }
    }
}

fn leading_digits(text: &str) -> &str {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn lengths(sizes: &[u64]) -> Vec<(bool, u64)> {
        let pieces = pieces(sizes).unwrap();
        pieces.iter().map(|piece| (matches!(piece, Piece::Copied(_)), piece.length())).collect()
    }

    #[test]
    fn large_chunks_are_copied_and_small_ones_joined_with_their_neighbours() {
        assert_eq!(lengths(&[10 * MIB, 10 * MIB, 1]), [(true, 10 * MIB), (true, 10 * MIB), (false, 1)]);
        assert_eq!(lengths(&[MIB, MIB]), [(false, 2 * MIB)]);
        assert_eq!(lengths(&[3 * MIB, 3 * MIB, MIB]), [(false, 6 * MIB), (false, MIB)]);
        assert_eq!(lengths(&[MIB, 10 * MIB]), [(false, 5 * MIB), (true, 6 * MIB)]);
        assert_eq!(lengths(&[MIB, 8 * MIB]), [(false, 9 * MIB)], "what would be left is too small to be copied");
        assert_eq!(lengths(&[12 << 30]), [(true, 4 << 30), (true, 4 << 30), (true, 4 << 30)]);
        assert_eq!(pieces(&[]), Err(Unmergeable::Empty));
        assert_eq!(pieces(&[0, 0]), Err(Unmergeable::Empty));
        assert_eq!(pieces(&vec![5 * MIB; 10_001]), Err(Unmergeable::TooMany));
    }

    #[test]
    fn numbers_in_keys_count_as_numbers() {
        let mut keys = ["c/10", "c/9", "c/1", "c/010", "c/", "c/1a", "b/99", "c/块2", "c/块10"];
        keys.sort_by(|a, b| natural(a, b));
        assert_eq!(keys, ["b/99", "c/", "c/1", "c/1a", "c/9", "c/10", "c/010", "c/块2", "c/块10"]);
    }

    proptest! {
        #[test]
        fn every_byte_comes_once_in_order_and_every_part_is_one_that_s3_takes(
            sizes in prop::collection::vec(
                prop_oneof![
                    0..100_u64, 0..MIN_CHUNK_BYTES, MIN_CHUNK_BYTES - 1..MIN_CHUNK_BYTES + 2, 0..JOINED_BYTES + 1, 0..20 * MIB, 0..15_u64 << 30,
                ],
                1..60,
            ),
        ) {
            prop_assume!(sizes.iter().any(|size| *size > 0));
            let pieces = pieces(&sizes).unwrap();
            let slices = pieces.iter().flat_map(|piece| match piece {
                Piece::Copied(slice) => std::slice::from_ref(slice),
                Piece::Joined(slices) => slices,
            });
            let (mut chunk, mut offset) = (0, 0);
            for slice in slices {
                while offset == sizes[chunk] {
                    (chunk, offset) = (chunk + 1, 0);
                }
                prop_assert_eq!((slice.chunk, slice.range.start), (chunk, offset));
                prop_assert!(slice.range.end > slice.range.start && slice.range.end <= sizes[chunk]);
                offset = slice.range.end;
            }
            prop_assert_eq!(offset, sizes[chunk]);
            prop_assert!(sizes[chunk + 1..].iter().all(|size| *size == 0));
            let (_, others) = pieces.split_last().unwrap();
            prop_assert!(others.iter().all(|piece| piece.length() >= MIN_CHUNK_BYTES));
            for piece in &pieces {
                match piece {
                    Piece::Copied(slice) => prop_assert!(slice.length() <= MAX_COPY_BYTES && slice.length() >= MIN_CHUNK_BYTES),
                    Piece::Joined(_) => prop_assert!(piece.length() < JOINED_BYTES),
                }
            }
        }

        #[test]
        fn the_order_of_keys_is_one(keys in prop::collection::vec("[a0-9]{0,6}", 3)) {
            use std::cmp::Ordering::Greater;
            let [a, b, c] = keys.as_slice() else { unreachable!() };
            prop_assert_eq!(natural(a, b), natural(b, a).reverse());
            prop_assert_eq!(natural(a, b).is_eq(), a == b);
            if natural(a, b) != Greater && natural(b, c) != Greater {
                prop_assert!(natural(a, c) != Greater);
            }
        }
    }
}
