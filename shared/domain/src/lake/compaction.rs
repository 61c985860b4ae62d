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

/// "Merge the small files of this partition." It says where to look, not what to do: a second one finds nothing left to merge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CompactJob {
    pub kind: Kind,
    pub partition: Partition,
    /// The version of the table that made it due; 0 if it was asked for.
    #[serde(default)]
    pub version: u64,
}

impl CompactJob {
    /// The FIFO message group: one partition is merged by one worker at a time.
    #[must_use]
    pub fn group(&self) -> String {
        format!("{}.{}", self.kind, self.partition)
    }

    /// The FIFO deduplication id. It names the version: what is appended while a merge runs must ask again.
    #[must_use]
    pub fn deduplication_id(&self) -> String {
        format!("{}.{}", self.group(), self.version)
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
    use super::*;

    #[test]
    fn many_small_files_or_much_in_them_are_due_and_one_file_never() {
        assert!(is_due(16, 1) && is_due(2, SMALL_BYTES));
        assert!(!is_due(15, SMALL_BYTES - 1) && !is_due(1, 10 * SMALL_BYTES) && !is_due(0, 0));
    }

    #[test]
    fn a_job_asks_again_for_each_version_and_keeps_to_its_partition() {
        let job = CompactJob { kind: Kind::Messages, partition: "2026-11-05".parse().unwrap(), version: 7 };
        assert_eq!(
            (job.group().as_str(), job.deduplication_id().as_str()),
            ("messages.2026-11-05", "messages.2026-11-05.7")
        );
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(text, r#"{"kind":"messages","partition":"2026-11-05","version":7}"#);
        assert_eq!(serde_json::from_str::<CompactJob>(&text).unwrap(), job);
    }
}
