//! The parts of an Amazon resource name.

/// `arn:aws:sqs:eu-west-1:123456789012:name` has region `eu-west-1`; empty if there is none.
pub(crate) fn region(arn: &str) -> &str {
    arn.split(':').nth(3).unwrap_or_default()
}

pub(crate) fn account(arn: &str) -> &str {
    arn.split(':').nth(4).unwrap_or_default()
}
