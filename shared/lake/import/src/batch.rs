//! A file in batches of whole lines. Where one ends depends on the file alone, so that each try cuts the same.

use std::io::{self, Read};
use std::ops::Range;

use memchr::{memchr, memrchr};

/// Some lines of a file.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    /// Which of the file's batches this is, from 0.
    pub(crate) number: u64,
    pub(crate) bytes: &'a [u8],
    /// The number of the first line, from 1.
    first_line: u64,
    lines: &'a [Range<usize>],
}

impl Batch<'_> {
    /// The lines and their numbers in the file. An empty one counts, for it was a line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (self.first_line..).zip(self.lines.iter().filter_map(|range| self.bytes.get(range.clone())))
    }

    /// The line of this number.
    pub(crate) fn line(&self, number: u64) -> Option<&[u8]> {
        let at = usize::try_from(number.checked_sub(self.first_line)?).ok()?;
        self.bytes.get(self.lines.get(at)?.clone())
    }
}

/// The batches of a file, one at a time.
#[derive(Debug)]
pub(crate) struct Batches<R> {
    input: R,
    limit: usize,
    buffer: Vec<u8>,
    /// How much of the buffer the last batch was.
    taken: usize,
    lines: Vec<Range<usize>>,
    number: u64,
    next_line: u64,
    ended: bool,
}

impl<R: Read> Batches<R> {
    /// Batches of about `limit` bytes; one line may be longer.
    pub(crate) fn of(input: R, limit: usize) -> Self {
        let (buffer, lines) = (Vec::new(), Vec::new());
        Self { input, limit: limit.max(1), buffer, taken: 0, lines, number: 0, next_line: 1, ended: false }
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Batch<'_>>> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let end = loop {
            let wanted = self.limit.saturating_sub(self.buffer.len());
            if !self.ended && wanted > 0 {
                let read = self.input.by_ref().take(wanted as u64).read_to_end(&mut self.buffer)?;
                self.ended = read < wanted;
            }
            // The last line of a file may have no end.
            match memrchr(b'\n', &self.buffer) {
                _ if self.ended => break self.buffer.len(),
                Some(at) => break at + 1,
                None => self.limit += self.limit,
            }
        };
        if end == 0 {
            return Ok(None);
        }
        self.lines.clear();
        let (mut from, bytes) = (0, self.buffer.get(..end).unwrap_or_default());
        while from < end {
            let rest = bytes.get(from..).unwrap_or_default();
            let length = memchr(b'\n', rest);
            self.lines.push(from..from + length.unwrap_or(rest.len()));
            from += length.map_or(rest.len(), |length| length + 1);
        }
        let (number, first_line) = (self.number, self.next_line);
        self.taken = end;
        self.number += 1;
        self.next_line += self.lines.len() as u64;
        Ok(Some(Batch { number, bytes, first_line, lines: &self.lines }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines with their numbers, and how many batches they came in.
    fn read(text: &str, limit: usize) -> (Vec<(u64, String)>, u64) {
        let mut batches = Batches::of(text.as_bytes(), limit);
        let (mut lines, mut count) = (Vec::new(), 0);
        while let Some(batch) = batches.next().unwrap() {
            assert_eq!(batch.number, count);
            count += 1;
            for (number, line) in batch.lines() {
                assert_eq!(batch.line(number), Some(line));
                lines.push((number, String::from_utf8(line.to_vec()).unwrap()));
            }
        }
        (lines, count)
    }

    #[test]
    fn every_line_is_in_one_batch_whatever_their_size() {
        for text in ["", "a", "a\n", "a\nb", "\n\n", "long line\n\nb\r\nc", "好\n😀"] {
            let expected: Vec<(u64, String)> =
                (1..).zip(text.split_inclusive('\n').map(|line| line.trim_end_matches('\n').to_owned())).collect();
            for limit in 1..=text.len() + 2 {
                assert_eq!(read(text, limit).0, expected, "{text:?} in batches of {limit}");
            }
        }
    }

    #[test]
    fn batches_are_as_large_as_is_said() {
        let text = "123456789\n".repeat(10);
        assert_eq!(read(&text, 20).1, 5);
        assert_eq!(read(&text, 25).1, 5);
        assert_eq!(read(&text, 1_000).1, 1);
    }
}
