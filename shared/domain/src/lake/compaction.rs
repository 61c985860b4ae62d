//! When small files become a large one.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::fault::PortFault;
use crate::lake::{Kind, Partition};

/// So many small files of a partition are merged.
pub const SMALL_FILES: u64 = 16;

/// Small files of a partition that hold so many bytes together are merged.
pub const SMALL_BYTES: u64 = 32 * 1024 * 1024;

/// The largest file that merging makes.
pub const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// Whether a partition's small files, those that appending made, are due to be merged.
#[must_use]
pub fn is_due(small_files: u64, small_bytes: u64) -> bool {
    small_files >= SMALL_FILES || (small_files > 1 && small_bytes >= SMALL_BYTES)
}

/// What is merged at once, at most: it fits into the time, the memory and the disk that one run has.
pub const MAX_INPUT_BYTES: u64 = 2 * MAX_FILE_BYTES;
pub const MAX_INPUTS: usize = 1_000;

/// How far a file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// As appending made it.
    Small,
    /// Small files together.
    Merged,
    /// As large as files get.
    Whole,
}

/// One merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Places of files in the list that was asked about; at least two.
    pub inputs: Vec<usize>,
    /// What they become.
    pub to: Tier,
}

/// The next merge of a partition whose files are of these tiers and bytes; nothing if none is due.
///
/// Files of a tier are merged with each other and move up by it. So a row is written three times at most, the first time included, while it
/// waits for its day to be sealed; and small files stay few whatever the day holds.
#[must_use]
pub fn next_step(files: &[(Tier, u64)]) -> Option<Step> {
    let of =
        |tier| files.iter().enumerate().filter(move |(_, file)| file.0 == tier).map(|(place, file)| (place, file.1));
    let sum = |tier| of(tier).fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes));
    let (small, small_bytes) = sum(Tier::Small);
    let (merged, merged_bytes) = sum(Tier::Merged);
    let (from, to) = if is_due(small, small_bytes) {
        (Tier::Small, Tier::Merged)
    } else if merged > 1 && merged_bytes >= MAX_FILE_BYTES {
        (Tier::Merged, Tier::Whole)
    } else {
        return None;
    };
    Some(Step { inputs: fitting(of(from)).map(|(place, _)| place).collect(), to })
}

/// The next merge of a partition that somebody asked for by hand: whatever is not yet as large as files get, if it is more than one file.
#[must_use]
pub fn next_step_by_hand(files: &[(Tier, u64)]) -> Option<Step> {
    let open = files.iter().enumerate().filter(|(_, file)| file.0 != Tier::Whole).map(|(place, file)| (place, file.1));
    let (inputs, bytes): (Vec<usize>, Vec<u64>) = fitting(open).unzip();
    let to = if bytes.iter().sum::<u64>() >= MAX_FILE_BYTES { Tier::Whole } else { Tier::Merged };
    (inputs.len() > 1).then_some(Step { inputs, to })
}

/// Of files, by place and bytes, those that are merged at once: the first two at least.
fn fitting(files: impl Iterator<Item = (usize, u64)>) -> impl Iterator<Item = (usize, u64)> {
    let mut taken = 0;
    let numbered = files.take(MAX_INPUTS).enumerate().take_while(move |(count, (_, bytes))| {
        taken += bytes;
        *count < 2 || taken <= MAX_INPUT_BYTES
    });
    numbered.map(|(_, file)| file)
}

/// "Merge the small files of this partition." It says where to look, not what to do: a second one finds nothing left to merge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CompactJob {
    pub kind: Kind,
    pub partition: Partition,
    /// The version of the table that made it due.
    #[serde(default)]
    pub version: u64,
    /// Somebody wants them merged, though they may not be due.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
}

impl CompactJob {
    /// What appending leads to, at a version of the table.
    #[must_use]
    pub const fn due(kind: Kind, partition: Partition, version: u64) -> Self {
        Self { kind, partition, version, by_hand: false }
    }

    /// The FIFO message group: one partition is merged by one worker at a time.
    #[must_use]
    pub fn group(&self) -> String {
        format!("{}.{}", self.kind, self.partition)
    }

    /// The FIFO deduplication id. It names the version: what is appended while a merge runs must ask again.
    #[must_use]
    pub fn deduplication_id(&self) -> String {
        format!("{}.{}{}", self.group(), self.version, if self.by_hand { ".by-hand" } else { "" })
    }
}

/// The queue that merging is asked for on.
#[async_trait]
pub trait CompactQueue: Send + Sync {
    /// Asks; durable when it returns. Asking twice is harmless.
    async fn ask(&self, jobs: &[CompactJob]) -> Result<(), PortFault>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn many_small_files_or_much_in_them_are_due_and_one_file_never() {
        assert!(is_due(16, 1) && is_due(2, SMALL_BYTES));
        assert!(!is_due(15, SMALL_BYTES - 1) && !is_due(1, 10 * SMALL_BYTES) && !is_due(0, 0));
    }

    #[test]
    fn a_job_asks_again_for_each_version_and_keeps_to_its_partition() {
        let job = CompactJob::due(Kind::Messages, "2026-11-05".parse().unwrap(), 7);
        assert_eq!(
            (job.group().as_str(), job.deduplication_id().as_str()),
            ("messages.2026-11-05", "messages.2026-11-05.7")
        );
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(text, r#"{"kind":"messages","partition":"2026-11-05","version":7}"#);
        assert_eq!(serde_json::from_str::<CompactJob>(&text).unwrap(), job);
        let wanted = CompactJob { by_hand: true, ..job };
        assert_eq!(
            wanted.deduplication_id(),
            "messages.2026-11-05.7.by-hand",
            "it is no repetition of one that finds nothing due"
        );
        assert_eq!(serde_json::from_str::<CompactJob>(&serde_json::to_string(&wanted).unwrap()).unwrap(), wanted);
    }

    #[test]
    fn by_hand_whatever_is_not_whole_is_merged() {
        use Tier::{Merged, Small, Whole};
        let step = next_step_by_hand;
        assert_eq!(step(&[(Small, 1), (Whole, 1), (Merged, 1)]), Some(Step { inputs: vec![0, 2], to: Merged }));
        assert_eq!(step(&[(Merged, MAX_FILE_BYTES), (Small, 1)]), Some(Step { inputs: vec![0, 1], to: Whole }));
        assert_eq!(step(&[(Small, 1), (Whole, 1), (Whole, 1)]), None);
        assert_eq!(step(&[]), None);
        assert_eq!(step(&vec![(Small, 1); 5_000]).unwrap().inputs.len(), MAX_INPUTS);
    }

    #[test]
    fn small_files_come_first_and_what_was_merged_waits_until_it_fills_a_file() {
        use Tier::{Merged, Small, Whole};
        const MIB: u64 = 1 << 20;
        let mut files = vec![(Small, MIB); 16];
        files.insert(3, (Merged, 200 * MIB));
        let step = next_step(&files).unwrap();
        assert_eq!((step.inputs.len(), step.to), (16, Merged));
        assert!(!step.inputs.contains(&3));
        assert_eq!(next_step(&[(Merged, 200 * MIB), (Small, MIB), (Merged, 55 * MIB)]), None);
        let step = next_step(&[(Merged, 200 * MIB), (Small, MIB), (Merged, 56 * MIB), (Whole, 256 * MIB)]).unwrap();
        assert_eq!(step, Step { inputs: vec![0, 2], to: Whole });
        assert_eq!(next_step(&[(Merged, 300 * MIB), (Whole, 256 * MIB), (Whole, 256 * MIB)]), None);
    }

    #[test]
    fn a_merge_takes_what_fits_and_never_fewer_than_two() {
        let step = |files: &[(Tier, u64)]| next_step(files).unwrap().inputs.len();
        assert_eq!(step(&vec![(Tier::Small, 1); 5_000]), MAX_INPUTS);
        assert_eq!(step(&[(Tier::Small, MAX_FILE_BYTES); 5]), 2);
        assert_eq!(step(&[(Tier::Small, MAX_INPUT_BYTES); 3]), 2);
        assert_eq!(step(&[(Tier::Merged, MAX_FILE_BYTES / 2); 9]), 4);
    }

    proptest! {
        /// Whatever arrives, and in whatever portions: what is written is at most three times what came, and few files are left to read.
        #[test]
        fn rows_are_written_three_times_at_most(arrivals in proptest::collection::vec(1_u64..80 << 20, 1..300)) {
            let (came, mut written) = (arrivals.iter().sum::<u64>(), 0);
            let mut files: Vec<(Tier, u64)> = Vec::new();
            for bytes in arrivals {
                written += bytes;
                files.push((Tier::Small, bytes));
                while let Some(step) = next_step(&files) {
                    prop_assert!(step.inputs.len() >= 2);
                    let bytes: u64 = step.inputs.iter().map(|place| files[*place].1).sum();
                    written += bytes;
                    for place in step.inputs.iter().rev() {
                        files.remove(*place);
                    }
                    // An output that would be too large is divided.
                    files.extend((0..bytes.div_ceil(MAX_FILE_BYTES)).map(|_| (step.to, bytes / bytes.div_ceil(MAX_FILE_BYTES))));
                }
                let small = files.iter().filter(|file| file.0 == Tier::Small);
                prop_assert!(small.clone().count() < 16 && (small.clone().count() < 2 || small.map(|file| file.1).sum::<u64>() < SMALL_BYTES));
                prop_assert!(files.iter().filter(|file| file.0 == Tier::Merged).map(|file| file.1).sum::<u64>() < 2 * MAX_FILE_BYTES);
            }
            prop_assert!(written <= 3 * came);
        }
    }
}
