//! The invocation payload of a batch and its size limit.

use bytes::Bytes;

/// What `Invoke` accepts as `RequestResponse`, and so the most that a batch may come to.
pub(crate) const LIMIT_BYTES: usize = 6 * 1024 * 1024;

const HEAD: &str = r#"{"Records":["#;
const TAIL: &str = "]}";

/// The event of a batch from the JSON of its records.
pub(crate) fn join<'a>(records: impl ExactSizeIterator<Item = &'a str> + Clone) -> Bytes {
    let mut event = String::with_capacity(records.clone().map(|record| record.len() + 1).sum::<usize>() + 16);
    event.push_str(HEAD);
    for (index, record) in records.enumerate() {
        if index > 0 {
            event.push(',');
        }
        event.push_str(record);
    }
    event.push_str(TAIL);
    Bytes::from(event)
}

/// How many of the first records, given by their sizes, make one batch: at most `batch_size` of them and no more than
/// the payload limit; one record that alone exceeds the limit is a batch, which the invoker then refuses.
pub(crate) fn fitting(sizes: impl Iterator<Item = usize>, batch_size: usize) -> usize {
    let mut total = HEAD.len() + TAIL.len();
    let mut count = 0;
    for size in sizes.take(batch_size) {
        total += size + 1;
        if total > LIMIT_BYTES && count > 0 {
            break;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_by_count_and_by_bytes() {
        let mib = 1024 * 1024;
        for (sizes, batch_size, expected) in [
            (vec![], 10, 0),
            (vec![10; 20], 10, 10),
            (vec![10; 3], 10, 3),
            (vec![mib; 10], 10, 5),
            (vec![2 * mib; 10], 10, 2),
            (vec![7 * mib, 10], 10, 1),
            (vec![10, 7 * mib], 10, 1),
        ] {
            assert_eq!(fitting(sizes.iter().copied(), batch_size), expected, "{sizes:?}");
        }
    }

    #[test]
    fn a_full_batch_stays_within_the_limit() {
        let record = "x".repeat(1024);
        let count = fitting(std::iter::repeat(record.len()), usize::MAX);
        let records = vec![record.as_str(); count];
        assert!(join(records.iter().copied()).len() <= LIMIT_BYTES);
        assert!(join(records.iter().copied()).len() + record.len() + 1 > LIMIT_BYTES);
    }
}
