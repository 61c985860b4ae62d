//! What a row must be to be taken, and which files, row groups and pages can hold such rows.

use std::iter;
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use domain::lake::Partition;
use lake_rows::{Bound, Stats};
use parquet::arrow::arrow_reader::RowSelection;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

use crate::Filter;
use crate::cursor::Cursor;
use crate::file::Opened;

/// Tests that a row has to pass, all of them.
#[derive(Debug, Clone)]
pub(crate) struct Condition<'a> {
    /// From this time on, and
    pub(crate) from: Option<i64>,
    /// before this one.
    until: Option<i64>,
    tests: Vec<(&'static str, Test<'a>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test<'a> {
    Text(&'a str),
    Integer(i64),
    /// From the first on, before the second.
    Within(i64, i64),
    Present,
}

pub(crate) fn micros(at: OffsetDateTime) -> i64 {
    let micros = at.unix_timestamp_nanos().div_euclid(1_000);
    i64::try_from(micros).unwrap_or(if micros < 0 { i64::MIN } else { i64::MAX })
}

/// The first microsecond at or after an instant, which may have nanoseconds.
fn micros_up(at: OffsetDateTime) -> i64 {
    let micros = -(-at.unix_timestamp_nanos()).div_euclid(1_000);
    i64::try_from(micros).unwrap_or(if micros < 0 { i64::MIN } else { i64::MAX })
}

impl<'a> Condition<'a> {
    /// What the filter takes of messages, after a place in their order.
    pub(crate) fn new(filter: &'a Filter, after: Option<&Cursor>) -> Self {
        let Filter { start, end, chatroom, from_username, chatroom_sender, msg_type, source } = filter;
        let from = start.map(micros_up).max(after.map(|after| after.micros));
        let until = end.map(micros_up);
        let texts = [
            ("chatroom", chatroom),
            ("from_username", from_username),
            ("chatroom_sender", chatroom_sender),
            ("source", source),
        ];
        let texts = texts.into_iter().filter_map(|(column, text)| Some((column, Test::Text(text.as_deref()?))));
        let mut tests: Vec<_> = texts.chain(msg_type.map(|number| ("msg_type", Test::Integer(number)))).collect();
        if from.is_some() || until.is_some() {
            tests.push(("create_time", Test::Within(from.unwrap_or(i64::MIN), until.unwrap_or(i64::MAX))));
        }
        // Without these it is no message.
        tests.extend([("create_time", Test::Present), ("msg_id", Test::Present)]);
        Self { from, until, tests }
    }

    /// The same for a day of which all is within the times that are asked for.
    pub(crate) fn without_time(&self) -> Self {
        let mut whole = self.clone();
        whole.tests.retain(|(_, test)| !matches!(test, Test::Within(..)));
        whole
    }

    /// Whether rows are chosen by anything but their time.
    pub(crate) fn is_about_more_than_time(&self) -> bool {
        self.tests.iter().any(|(_, test)| matches!(test, Test::Text(_) | Test::Integer(_)))
    }

    /// Whether a day can hold such rows.
    pub(crate) fn days(&self) -> impl Fn(Partition) -> bool + Send + 'static {
        let (from, until) = (self.from, self.until);
        move |day| {
            let ends_at = day.ends_at();
            from.is_none_or(|from| micros(ends_at) > from)
                && until.is_none_or(|until| micros(ends_at - Duration::DAY) < until)
        }
    }

    /// Whether all of a day is within the times that are asked for.
    pub(crate) fn has_all_of(&self, day: Partition) -> bool {
        let ends_at = day.ends_at();
        self.from.is_none_or(|from| micros(ends_at - Duration::DAY) >= from)
            && self.until.is_none_or(|until| micros(ends_at) <= until)
    }

    /// Whether a file can hold such rows, as the log says.
    pub(crate) fn may_be_in(&self, stats: &Stats) -> bool {
        self.tests.iter().all(|(column, test)| {
            let (min, max) = (stats.min_values.get(*column), stats.max_values.get(*column));
            match (test, min, max) {
                (Test::Text(text), Some(Bound::Text(min)), Some(Bound::Text(max))) => {
                    (min.as_str()..=max.as_str()).contains(text)
                }
                (Test::Integer(number), Some(Bound::Integer(min)), Some(Bound::Integer(max))) => {
                    (min..=max).contains(&number)
                }
                (Test::Within(from, until), Some(Bound::Text(min)), Some(Bound::Text(max))) => {
                    // Bounds are in milliseconds and lie around the values; all have one form, in which later is greater.
                    let from = log_form(*from, i64::div_euclid);
                    let until = log_form(*until, |micros, by| -(-micros).div_euclid(by));
                    from.is_none_or(|from| *max >= from) && until.is_none_or(|until| *min < until)
                }
                _ => true,
            }
        })
    }

    /// The columns that have to be read of a row group to know its rows; fewer if its statistics say that there are no nulls.
    pub(crate) fn columns(&self, file: &Opened, group: usize) -> Vec<&'static str> {
        let mut columns: Vec<_> = self.needed(file, group).map(|(column, _)| *column).collect();
        columns.dedup();
        columns
    }

    fn needed<'b>(&'b self, file: &'b Opened, group: usize) -> impl Iterator<Item = &'b (&'static str, Test<'a>)> {
        self.tests.iter().filter(move |(column, test)| {
            let chunk = file.leaf(column).and_then(|leaf| file.chunk(group, leaf));
            let nulls = chunk.and_then(|chunk| chunk.statistics()?.null_count_opt());
            *test != Test::Present || nulls != Some(0)
        })
    }

    /// The rows of a row group among which such rows are, by its statistics and its page index.
    pub(crate) fn rows(&self, file: &Opened, group: usize) -> Vec<Range<usize>> {
        let all = file.group_rows(group);
        let index = file.metadata.page_index_for_row_group(group);
        let mut rows: Vec<Range<usize>> = iter::once(0..all).collect();
        for (column, test) in &self.tests {
            let Some(leaf) = file.leaf(column) else { return Vec::new() };
            let statistics = file.chunk(group, leaf).and_then(|chunk| chunk.statistics());
            let bounds = statistics.and_then(|it| Some((it.min_bytes_opt()?, it.max_bytes_opt()?)));
            if bounds.is_some_and(|(min, max)| !test.may_be_between(min, max)) {
                return Vec::new();
            }
            let (Some(pages), Some(bounds)) = (index.page_locations(leaf), index.column_index(leaf)) else { continue };
            let starts: Vec<usize> =
                pages.iter().map(|page| usize::try_from(page.first_row_index).unwrap_or_default()).collect();
            let ends = starts.iter().skip(1).copied().chain([all]);
            let kept = starts.iter().zip(ends).enumerate().filter(|(page, _)| test.may_be_in_page(bounds, *page));
            rows = intersect(&rows, kept.map(|(_, (start, end))| *start..end));
        }
        rows
    }

    /// Which of the decoded rows pass, of a row group's columns that were asked for.
    pub(crate) fn passed(&self, file: &Opened, group: usize, rows: &RecordBatch) -> Vec<bool> {
        let mut passed = vec![true; rows.num_rows()];
        for (column, test) in self.needed(file, group) {
            match rows.column_by_name(column) {
                Some(values) => test.judge(values, &mut passed),
                None => passed.fill(false),
            }
            if !passed.contains(&true) {
                break;
            }
        }
        passed
    }
}

impl Test<'_> {
    fn may_be_between(&self, min: &[u8], max: &[u8]) -> bool {
        let number = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_le_bytes);
        match self {
            Self::Text(text) => min <= text.as_bytes() && text.as_bytes() <= max,
            Self::Integer(_) | Self::Within(..) => self.may_hold_numbers(number(min), number(max)),
            Self::Present => true,
        }
    }

    fn may_hold_numbers(&self, min: Option<i64>, max: Option<i64>) -> bool {
        let (Some(min), Some(max)) = (min, max) else { return true };
        match self {
            Self::Integer(number) => min <= *number && *number <= max,
            Self::Within(from, until) => max >= *from && min < *until,
            Self::Text(_) | Self::Present => true,
        }
    }

    fn may_be_in_page(&self, index: &ColumnIndexMetaData, page: usize) -> bool {
        match index {
            ColumnIndexMetaData::BYTE_ARRAY(index) if (page as u64) < index.num_pages() => {
                // Without bounds a page has nothing but nulls, which pass no test.
                index.min_value(page).zip(index.max_value(page)).is_some_and(|(min, max)| self.may_be_between(min, max))
            }
            ColumnIndexMetaData::INT64(index) if (page as u64) < index.num_pages() => {
                let bounds = index.min_value(page).zip(index.max_value(page));
                bounds.is_some_and(|(min, max)| self.may_hold_numbers(Some(*min), Some(*max)))
            }
            _ => true,
        }
    }

    fn judge(&self, values: &ArrayRef, passed: &mut [bool]) {
        match self {
            Self::Text(text) => {
                if let Some(keyed) = values.as_dictionary_opt::<Int32Type>() {
                    let texts = keyed.values().as_string_opt::<i32>();
                    let is: Vec<bool> =
                        texts.into_iter().flat_map(|texts| texts.iter().map(|it| it == Some(text))).collect();
                    let is = |key: Option<i32>| {
                        key.and_then(|key| is.get(usize::try_from(key).ok()?)).copied().unwrap_or(false)
                    };
                    passed.iter_mut().zip(keyed.keys()).for_each(|(passed, key)| *passed &= is(key));
                } else if let Some(texts) = values.as_string_opt::<i32>() {
                    passed.iter_mut().zip(texts).for_each(|(passed, it)| *passed &= it == Some(text));
                } else {
                    passed.fill(false);
                }
            }
            Self::Integer(number) => match values.as_primitive_opt::<Int64Type>() {
                Some(numbers) => {
                    passed.iter_mut().zip(numbers).for_each(|(passed, it)| *passed &= it == Some(*number));
                }
                None => passed.fill(false),
            },
            Self::Within(from, until) => match values.as_primitive_opt::<TimestampMicrosecondType>() {
                Some(times) => {
                    let within = |at: Option<i64>| at.is_some_and(|at| at >= *from && at < *until);
                    passed.iter_mut().zip(times).for_each(|(passed, at)| *passed &= within(at));
                }
                None => passed.fill(false),
            },
            Self::Present => {
                if values.null_count() > 0 {
                    passed.iter_mut().enumerate().for_each(|(row, passed)| *passed &= values.is_valid(row));
                }
            }
        }
    }
}

/// A time as the log's statistics have it; `None` if it is none of years that have four digits.
fn log_form(micros: i64, to_millis: impl Fn(i64, i64) -> i64) -> Option<String> {
    let nanos = i128::from(to_millis(micros.clamp(-1 << 62, 1 << 62), 1_000)) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().filter(|at| (0..=9_999).contains(&at.year()))?;
    at.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z")).ok()
}

fn intersect(rows: &[Range<usize>], kept: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut both: Vec<Range<usize>> = Vec::new();
    for kept in kept {
        for row in rows {
            let range = row.start.max(kept.start)..row.end.min(kept.end);
            match both.last_mut() {
                _ if range.is_empty() => {}
                Some(last) if last.end == range.start => last.end = range.end,
                _ => both.push(range),
            }
        }
    }
    both
}

/// Rows of a group as its reader wants them; `None` if they are all.
pub(crate) fn selection(rows: &[Range<usize>], of: usize) -> Option<RowSelection> {
    match rows {
        [all] if all.len() == of => None,
        rows => Some(RowSelection::from_consecutive_ranges(rows.iter().cloned(), of)),
    }
}

/// Rising row numbers as ranges.
pub(crate) fn ranges(rows: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for row in rows {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}

/// The rows of ranges but for some, which rise as they do.
pub(crate) fn without(rows: Vec<Range<usize>>, lost: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut lost = lost.peekable();
    if lost.peek().is_none() {
        return rows;
    }
    let mut kept = Vec::with_capacity(rows.len());
    for mut range in rows {
        while let Some(row) = lost.next_if(|row| *row < range.end) {
            if row >= range.start {
                kept.push(range.start..row);
                range.start = row + 1;
            }
        }
        kept.push(range);
    }
    kept.retain(|range| !range.is_empty());
    kept
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_in_both_are_kept_and_neighbours_are_one() {
        assert_eq!(intersect(&[0..10, 20..30], [5..25, 25..40].into_iter()), [5..10, 20..30]);
        assert!(intersect(&[0..10], [10..20].into_iter()).is_empty());
        assert_eq!(ranges([1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
        assert_eq!(without(vec![0..4, 6..8, 9..12], [0, 2, 4, 6, 7, 20].into_iter()), [1..2, 3..4, 9..12]);
        assert_eq!(without(vec![0..4, 6..8], [3, 5].into_iter()), [0..3, 6..8]);
    }

    #[test]
    fn the_log_s_bounds_leave_out_what_they_exclude_and_nothing_else() {
        let mut stats = Stats::default();
        let text = |text: &str| Bound::Text(text.to_owned());
        stats.min_values.insert("create_time".into(), text("2026-11-05T10:00:00.123Z"));
        stats.max_values.insert("create_time".into(), text("2026-11-05T11:00:00.124Z"));
        stats.min_values.insert("chatroom".into(), text("b"));
        stats.max_values.insert("chatroom".into(), text("群"));
        let at = |nanos| time::macros::datetime!(2026-11-05 10:00 UTC) + Duration::nanoseconds(nanos);
        let taken = |filter: Filter| Condition::new(&filter, None).may_be_in(&stats);
        let hour = 3_600_000_000_000;
        for (start, end, expected) in [
            (None, Some(at(123_000_000)), false),
            (None, Some(at(123_000_001)), true),
            (Some(at(hour + 124_000_000)), None, true),
            (Some(at(hour + 124_999_000)), None, true),
            (Some(at(hour + 125_000_000)), None, false),
        ] {
            assert_eq!(taken(Filter { start, end, ..Filter::default() }), expected, "{start:?} {end:?}");
        }
        for (room, expected) in [("a", false), ("b", true), ("好", true), ("龙", true), ("群", true), ("", false)] {
            let expected = expected && room <= "群";
            assert_eq!(taken(Filter { chatroom: Some(room.into()), ..Filter::default() }), expected, "{room}");
        }
        assert!(taken(Filter { msg_type: Some(1), ..Filter::default() }), "nothing is known of it");
    }
}
