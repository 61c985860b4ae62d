//! Which records of a shard are read but not done, and so where its checkpoint stands.

use std::collections::VecDeque;

/// Records read ahead of the checkpoint at most, so that one stuck item cannot make the reader hold the whole stream.
const MAX_RECORDS: usize = 10_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The records between the checkpoint and the reader, in stream order. A record is named by the number [`Progress::read`] gave it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    first: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    sequence_number: String,
    bytes: usize,
    done: bool,
}

impl Progress {
    /// Whether the reader has to wait until older records are done.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_RECORDS || self.bytes >= MAX_BYTES
    }

    pub(super) fn read(&mut self, sequence_number: String, bytes: usize) -> u64 {
        self.entries.push_back(Entry { sequence_number, bytes, done: false });
        self.bytes += bytes;
        self.first + self.entries.len() as u64 - 1
    }

    pub(super) fn done(&mut self, number: u64) {
        let entry = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = entry.and_then(|index| self.entries.get_mut(index)) {
            entry.done = true;
        }
    }

    /// Forgets the records that are done and have only done records before them; returns the last one's sequence number,
    /// the new checkpoint.
    pub(super) fn advance(&mut self) -> Option<String> {
        let mut checkpoint = None;
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.done) {
            self.first += 1;
            self.bytes -= entry.bytes;
            checkpoint = Some(entry.sequence_number);
        }
        checkpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_never_passes_a_record_that_is_not_done() {
        let mut progress = Progress::default();
        let numbers: Vec<_> = ["a", "b", "c", "d"].map(|name| progress.read(name.into(), 1)).into();
        progress.done(numbers[1]);
        progress.done(numbers[2]);
        assert_eq!(progress.advance(), None);
        progress.done(numbers[0]);
        assert_eq!(progress.advance().as_deref(), Some("c"));
        assert_eq!(progress.advance(), None);
        let last = progress.read("e".into(), 1);
        progress.done(last);
        progress.done(numbers[3]);
        assert_eq!(progress.advance().as_deref(), Some("e"));
        assert_eq!(progress.bytes, 0);
    }

    #[test]
    fn reading_ahead_is_bounded_by_records_and_bytes() {
        let mut progress = Progress::default();
        let large = progress.read("a".into(), MAX_BYTES);
        assert!(progress.is_full());
        progress.done(large);
        progress.advance();
        assert!(!progress.is_full());
        for _ in 0..MAX_RECORDS {
            progress.read("b".into(), 0);
        }
        assert!(progress.is_full());
    }
}
