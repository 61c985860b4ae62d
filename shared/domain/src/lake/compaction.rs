//! When small files become a large one.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::fault::PortFault;
use crate::lake::{Kind, Partition};

/// So many small files of a partition are merged.
pub const SMALL_FILES: u64 = 16;

/// Small files of a partition that hold so many bytes together are merged.
pub const SMALL_BYTES: u64 = 32 * 1024 * 1024;

/// The largest file that merging makes, in bytes and in rows; it is full when it has either.
pub const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
pub const MAX_FILE_ROWS: u64 = 2 * 1024 * 1024;

/// Whether a partition's small files, those that appending made, are due to be merged.
#[must_use]
pub fn is_due(small_files: u64, small_bytes: u64) -> bool {
    small_files >= SMALL_FILES || (small_files > 1 && small_bytes >= SMALL_BYTES)
}

/// What is merged at once, at most: it fits into the time, the memory and the disk that one run has. A merge holds the keys of all its rows, up to
/// 120 bytes each, however few bytes the rows have in their files. Two files that are not full always fit.
pub const MAX_INPUT_BYTES: u64 = 2 * MAX_FILE_BYTES;
pub const MAX_INPUT_ROWS: u64 = 2 * MAX_FILE_ROWS;
pub const MAX_INPUTS: usize = 1_000;

/// How large a file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub bytes: u64,
    pub rows: u64,
}

impl Size {
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, rows: self.rows + other.rows }
    }

    /// Whether it fills a file.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.bytes >= MAX_FILE_BYTES || self.rows >= MAX_FILE_ROWS
    }

    /// Whether so much is merged at once.
    #[must_use]
    pub const fn fits(self) -> bool {
        self.bytes <= MAX_INPUT_BYTES && self.rows <= MAX_INPUT_ROWS
    }

    /// Files of one class differ by less than a factor of [`SMALL_FILES`], so that as many of them become one of the next class.
    fn class(self) -> u32 {
        self.bytes.checked_ilog(SMALL_FILES).unwrap_or_default()
    }
}

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

/// The next merge of a partition whose files are of these tiers and sizes; nothing if none is due.
///
/// - **Small** files that are due become a merged one.
/// - **Merged** files that fill a file become whole ones. A file that has [`MAX_FILE_ROWS`] counts as whole, as it could be merged with nothing.
/// - Of the other merged files, [`SMALL_FILES`] of one class of size become one of the next class.
///
/// So few files are left while a day waits to be sealed, whatever it holds: fewer than 16 small ones and, as no file of Parquet has less than 4 KiB and
/// classes begin at 4 KiB, 64 KiB, 1 MiB and 16 MiB, fewer than 16 merged ones of each class. A row is written six times at most: when it is
/// appended, when it is merged, when its file leaves each of the first three classes, and into a whole file. Rows that come in files so large
/// that few of them make a class are written fewer times; duplicates that shrink a file may hold it in its class, at the price of their own bytes.
#[must_use]
pub fn next_step(files: &[(Tier, Size)]) -> Option<Step> {
    let of = |tier| open(files).filter(move |(_, of, _)| *of == tier).map(|(place, _, size)| (place, size));
    let step = |inputs: Vec<usize>, to| (inputs.len() > 1).then_some(Step { inputs, to });
    let small = sum(of(Tier::Small));
    if is_due(of(Tier::Small).count() as u64, small.bytes) {
        return step(fitting(of(Tier::Small)), Tier::Merged);
    }
    if sum(of(Tier::Merged)).is_full() {
        // One file alone that is large enough stays as it is.
        return step(fitting(of(Tier::Merged)), Tier::Whole);
    }
    let mut classes: BTreeMap<u32, Vec<(usize, Size)>> = BTreeMap::new();
    for (place, size) in of(Tier::Merged) {
        classes.entry(size.class()).or_default().push((place, size));
    }
    let many = classes.into_values().find(|files| files.len() as u64 >= SMALL_FILES)?;
    step(fitting(many.into_iter()), Tier::Merged)
}

/// The next merge of a partition that somebody asked for by hand: whatever is not yet as large as files get, if it is more than one file.
#[must_use]
pub fn next_step_by_hand(files: &[(Tier, Size)]) -> Option<Step> {
    let inputs = fitting(open(files).map(|(place, _, size)| (place, size)));
    let full =
        sum(open(files).filter(|(place, ..)| inputs.contains(place)).map(|(place, _, size)| (place, size))).is_full();
    (inputs.len() > 1).then_some(Step { inputs, to: if full { Tier::Whole } else { Tier::Merged } })
}

/// The files that can be merged, with their places.
fn open(files: &[(Tier, Size)]) -> impl Iterator<Item = (usize, Tier, Size)> {
    let files = files.iter().enumerate().map(|(place, (tier, size))| (place, *tier, *size));
    files.filter(|(_, tier, size)| *tier != Tier::Whole && size.rows < MAX_FILE_ROWS)
}

fn sum(files: impl Iterator<Item = (usize, Size)>) -> Size {
    files.fold(Size::default(), |sum, (_, size)| sum.plus(size))
}

/// The places of the files that are merged at once: the first two at least.
fn fitting(files: impl Iterator<Item = (usize, Size)>) -> Vec<usize> {
    let mut taken = Size::default();
    let numbered = files.take(MAX_INPUTS).enumerate().take_while(|(count, (_, size))| {
        taken = taken.plus(*size);
        *count < 2 || taken.fits()
    });
    numbered.map(|(_, (place, _))| place).collect()
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

    const MIB: u64 = 1 << 20;

    /// A file whose rows are of no account.
    fn file(tier: Tier, bytes: u64) -> (Tier, Size) {
        (tier, Size { bytes, rows: 1 })
    }

    fn of_rows(tier: Tier, rows: u64) -> (Tier, Size) {
        (tier, Size { bytes: 30 * rows, rows })
    }

    #[test]
    fn by_hand_whatever_is_not_whole_is_merged() {
        use Tier::{Merged, Small, Whole};
        let step = |files: &[(Tier, Size)]| next_step_by_hand(files);
        let three = [file(Small, 1), file(Whole, 1), file(Merged, 1)];
        assert_eq!(step(&three), Some(Step { inputs: vec![0, 2], to: Merged }));
        let two = [file(Merged, MAX_FILE_BYTES), file(Small, 1)];
        assert_eq!(step(&two), Some(Step { inputs: vec![0, 1], to: Whole }));
        let full = of_rows(Small, MAX_FILE_ROWS);
        let rows = [full, of_rows(Small, 1), of_rows(Merged, MAX_FILE_ROWS - 1)];
        assert_eq!(step(&rows), Some(Step { inputs: vec![1, 2], to: Whole }));
        assert_eq!(step(&[file(Small, 1), file(Whole, 1), file(Whole, 1), full]), None);
        assert_eq!(step(&[]), None);
        assert_eq!(step(&vec![file(Small, 1); 5_000]).unwrap().inputs.len(), MAX_INPUTS);
    }

    #[test]
    fn small_files_come_first_and_what_was_merged_waits_until_it_fills_a_file() {
        use Tier::{Merged, Small, Whole};
        let mut files = vec![file(Small, MIB); 16];
        files.insert(3, file(Merged, 200 * MIB));
        let step = next_step(&files).unwrap();
        assert_eq!((step.inputs.len(), step.to), (16, Merged));
        assert!(!step.inputs.contains(&3));
        assert_eq!(next_step(&[file(Merged, 200 * MIB), file(Small, MIB), file(Merged, 55 * MIB)]), None);
        let files = [file(Merged, 200 * MIB), file(Small, MIB), file(Merged, 56 * MIB), file(Whole, 256 * MIB)];
        assert_eq!(next_step(&files), Some(Step { inputs: vec![0, 2], to: Whole }));
        let whole = file(Whole, 256 * MIB);
        assert_eq!(next_step(&[file(Merged, 300 * MIB), whole, whole]), None);

        let half = of_rows(Merged, MAX_FILE_ROWS / 2);
        assert_eq!(next_step(&[half, half]), Some(Step { inputs: vec![0, 1], to: Whole }), "its rows fill a file, too");
        assert_eq!(next_step(&[half, of_rows(Merged, MAX_FILE_ROWS)]), None, "which is merged with nothing");
    }

    #[test]
    fn sixteen_merged_files_of_one_class_become_one() {
        use Tier::{Merged, Whole};
        let (tiny, little) = (file(Merged, 160 << 10), file(Merged, 3 * MIB));
        let mut files = vec![tiny; 15];
        files.extend([little; 15]);
        assert_eq!(next_step(&files), None, "a large file is not written again for a few tiny ones");
        files.push(tiny);
        let step = next_step(&files).unwrap();
        assert_eq!((step.inputs.len(), step.to), (16, Merged));
        assert!(step.inputs.iter().all(|place| files[*place] == tiny));
        assert_eq!(next_step(&[file(Merged, 16 * MIB); 16]).unwrap().to, Whole);
    }

    #[test]
    fn a_merge_takes_what_fits_and_never_fewer_than_two() {
        use Tier::{Merged, Small};
        let step = |files: &[(Tier, Size)]| next_step(files).unwrap().inputs.len();
        assert_eq!(step(&vec![file(Small, 1); 5_000]), MAX_INPUTS);
        assert_eq!(step(&[file(Small, MAX_FILE_BYTES); 5]), 2);
        assert_eq!(step(&[file(Small, MAX_INPUT_BYTES); 3]), 2);
        assert_eq!(step(&[file(Merged, MAX_FILE_BYTES / 2); 9]), 4);
        assert_eq!(step(&[of_rows(Small, MAX_FILE_ROWS / 4); 20]), 8);
        assert_eq!(step(&[of_rows(Small, MAX_FILE_ROWS - 1); 20]), 2);
        assert_eq!(
            next_step(&[of_rows(Small, MAX_FILE_ROWS); 20]),
            None,
            "full files are left until the day is sealed"
        );
    }

    /// What merging leaves of files that arrive one by one, and how many bytes it wrote for it. An output that would be too large is divided.
    fn merged(arrivals: impl IntoIterator<Item = Size>, mut see: impl FnMut(&[(Tier, Size)])) -> u64 {
        let (mut files, mut written) = (Vec::new(), 0);
        for arrival in arrivals {
            written += arrival.bytes;
            files.push((Tier::Small, arrival));
            while let Some(step) = next_step(&files) {
                assert!(step.inputs.len() >= 2);
                let size = sum(step.inputs.iter().map(|place| (*place, files[*place].1)));
                assert!(size.fits(), "{size:?}");
                written += size.bytes;
                for place in step.inputs.iter().rev() {
                    files.remove(*place);
                }
                let parts = size.bytes.div_ceil(MAX_FILE_BYTES).max(size.rows.div_ceil(MAX_FILE_ROWS));
                let part = Size { bytes: size.bytes / parts, rows: size.rows.div_ceil(parts) };
                files.extend((0..parts).map(|_| (step.to, part)));
            }
            see(&files);
        }
        written
    }

    fn few(files: &[(Tier, Size)]) {
        let open: Vec<(Tier, Size)> = open(files).map(|(_, tier, size)| (tier, size)).collect();
        let count = |tier| open.iter().filter(|file| file.0 == tier).count();
        assert!(count(Tier::Small) < 16 && count(Tier::Merged) <= 4 * 15, "{open:?}");
        assert!(sum(open.iter().map(|file| (0, file.1))).bytes < 2 * MAX_FILE_BYTES + SMALL_BYTES);
    }

    #[test]
    fn a_day_of_tiny_files_is_few_files_at_any_time() {
        let mut most = 0;
        let tiny = Size { bytes: 10_000, rows: 20 };
        let written = merged(vec![tiny; 20_000], |files| {
            few(files);
            most = most.max(files.len());
        });
        assert!(most <= 4 * 15, "{most}");
        assert!(written <= 6 * 20_000 * tiny.bytes);
    }

    proptest! {
        /// Whatever arrives, and in whatever portions: what is written is at most six times what came, and few files are left to read.
        #[test]
        fn rows_are_written_six_times_at_most_and_files_are_few(
            arrivals in proptest::collection::vec(
                (prop_oneof![4 << 10..64_u64 << 10, 4 << 10..80_u64 << 20], 10..2_000_u64), 1..600,
            ),
        ) {
            let sizes = arrivals.into_iter().map(|(bytes, row)| Size { bytes, rows: (bytes / row).min(MAX_FILE_ROWS - 1) });
            let sizes: Vec<Size> = sizes.collect();
            let came: u64 = sizes.iter().map(|size| size.bytes).sum();
            prop_assert!(merged(sizes, few) <= 6 * came);
        }
    }
}
