//! The clock and the random source, read in this one place, and the forms in which API Gateway writes them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// The common log format, `12/Mar/2020:19:03:58 +0000`.
const REQUEST_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

#[expect(clippy::disallowed_methods, reason = "the gateway is an edge: the time of a request starts here")]
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// A request, message or connection id: 11 random bytes, so 16 characters of which the last is `=`.
pub(crate) fn opaque_id() -> String {
    URL_SAFE.encode(rand::random::<[u8; 11]>())
}

pub(crate) fn is_opaque_id(text: &str) -> bool {
    URL_SAFE.decode(text).is_ok_and(|bytes| bytes.len() == 11)
}

/// The root of an X-Ray trace, `1-<seconds in hex>-<96 random bits>`.
pub(crate) fn trace_root(at: OffsetDateTime) -> String {
    let [high, middle, low] = rand::random::<[u32; 3]>();
    format!("1-{:08x}-{high:08x}{middle:08x}{low:08x}", at.unix_timestamp())
}

pub(crate) fn request_time(at: OffsetDateTime) -> String {
    // Every component of the format exists for every UTC time; an empty text is what is left of an impossible failure.
    at.format(REQUEST_TIME).unwrap_or_default()
}

pub(crate) fn epoch_ms(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1000 + i64::from(at.millisecond())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn ids_look_like_those_of_api_gateway() {
        let id = opaque_id();
        assert_eq!(id.len(), 16);
        assert!(id.ends_with('='));
        assert!(is_opaque_id(&id));
        assert!(!is_opaque_id("abc"));
        assert!(!is_opaque_id(""));
    }

    #[test]
    fn times_are_written_as_api_gateway_writes_them() {
        let at = datetime!(2020-03-12 19:03:58.390 UTC);
        assert_eq!(request_time(at), "12/Mar/2020:19:03:58 +0000");
        assert_eq!(epoch_ms(at), 1_584_039_838_390);
        assert!(trace_root(at).starts_with("1-5e6a879e-"));
        assert_eq!(trace_root(at).len(), 35);
    }
}
