//! How a file is cut into chunks, within S3's limits.

/// The largest file that clients may upload.
pub const MAX_FILE_BYTES: u64 = 2 << 30;

/// S3 takes no part that is smaller, but for the last.
pub const MIN_CHUNK_BYTES: u64 = 5 << 20;

/// What a chunk is unless its sender chooses.
pub const CHUNK_BYTES: u64 = 10 << 20;

/// A chunk is sent again as a whole: a larger one would be lost too often on a bad line.
pub const MAX_CHUNK_BYTES: u64 = 100 << 20;

/// The most parts that S3 merges.
pub const MAX_PARTS: usize = 10_000;

/// The chunks of a file, numbered from 1. All have the same size, but for the last, which is the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlan {
    pub file_size: u64,
    pub chunk_size: u64,
}

impl ChunkPlan {
    #[must_use]
    pub fn total(self) -> u32 {
        u32::try_from(self.file_size.div_ceil(self.chunk_size.max(1))).unwrap_or(u32::MAX)
    }

    /// How long the chunk is; nothing if there is no such chunk.
    #[must_use]
    pub fn length(self, number: u32) -> Option<u64> {
        let before = u64::from(number.checked_sub(1)?) * self.chunk_size;
        self.file_size.checked_sub(before).filter(|left| *left > 0).map(|left| left.min(self.chunk_size))
    }

    /// Every chunk and its length, in order.
    pub fn chunks(self) -> impl Iterator<Item = (u32, u64)> {
        (1..=self.total()).filter_map(move |number| Some((number, self.length(number)?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(file_size: u64, chunk_size: u64) -> ChunkPlan {
        ChunkPlan { file_size, chunk_size }
    }

    #[test]
    fn the_edges_of_a_chunk_are_where_they_should_be() {
        let mib = 1 << 20;
        for (size, lengths) in [
            (1, vec![1]),
            (5 * mib - 1, vec![5 * mib - 1]),
            (10 * mib, vec![10 * mib]),
            (10 * mib + 1, vec![10 * mib, 1]),
        ] {
            let chunks: Vec<_> = plan(size, CHUNK_BYTES).chunks().map(|(_, length)| length).collect();
            assert_eq!(chunks, lengths);
        }
        assert_eq!((plan(1 << 30, CHUNK_BYTES).total(), plan(MAX_FILE_BYTES, CHUNK_BYTES).total()), (103, 205));
        assert_eq!(plan(10 * mib + 1, CHUNK_BYTES).length(0), None);
        assert_eq!(plan(10 * mib + 1, CHUNK_BYTES).length(3), None);
        assert_eq!(plan(10 * mib, CHUNK_BYTES).length(2), None);
    }

    proptest! {
        #[test]
        fn any_plan_stays_within_s3s_limits_and_sums_to_the_size(
            file_size in 1..=MAX_FILE_BYTES,
            chunk_size in MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES,
        ) {
            let plan = plan(file_size, chunk_size);
            let chunks: Vec<(u32, u64)> = plan.chunks().collect();
            prop_assert_eq!(chunks.len(), plan.total() as usize);
            prop_assert!((1..=MAX_PARTS).contains(&chunks.len()));
            prop_assert_eq!(chunks.iter().map(|(_, length)| length).sum::<u64>(), file_size);
            prop_assert!(chunks.iter().enumerate().all(|(index, (number, _))| *number as usize == index + 1));
            let (last, others) = chunks.split_last().unwrap();
            prop_assert!(others.iter().all(|(_, length)| *length == chunk_size && *length >= MIN_CHUNK_BYTES));
            prop_assert!((1..=chunk_size).contains(&last.1));
        }
    }
}
