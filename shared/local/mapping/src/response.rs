//! What a function's answer says about the records of a batch.

use local_lambda::{InvokeError, Reply};
use serde_json::Value;

/// The outcome of one invocation with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    /// The function ran and named these items; never empty.
    Partial(Vec<String>),
    /// Nothing of the batch counts as done.
    Failed(Failure),
    /// The function was not started, so nothing was tried.
    NotStarted(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The function failed: `functionError` is `Unhandled`.
    FunctionError,
    /// The function answered, but not in the form of a partial batch response.
    BadResponse,
    /// The batch is larger than an invocation may be.
    TooLarge,
}

/// Reads an answer; without `report_batch_item_failures` whatever the function returned is a success.
pub(crate) fn outcome(reply: Result<Reply, InvokeError>, report_batch_item_failures: bool) -> Outcome {
    match reply {
        Ok(Reply::Success(body)) if report_batch_item_failures => partial(&body),
        Ok(Reply::Success(_)) => Outcome::Succeeded,
        Ok(Reply::FunctionError(_)) => Outcome::Failed(Failure::FunctionError),
        Err(InvokeError::TooLarge { .. }) => Outcome::Failed(Failure::TooLarge),
        Err(error) => Outcome::NotStarted(error.to_string()),
    }
}

/// Success: nothing, `null`, `{}`, or a `batchItemFailures` that is `null` or empty. Failure of the whole batch: anything
/// else that is not a list of `{"itemIdentifier": "<not empty>"}`.
fn partial(body: &[u8]) -> Outcome {
    if body.is_empty() {
        return Outcome::Succeeded;
    }
    let failures = match serde_json::from_slice(body) {
        Ok(Value::Null) => return Outcome::Succeeded,
        Ok(Value::Object(mut response)) => response.remove("batchItemFailures").unwrap_or(Value::Null),
        _ => return Outcome::Failed(Failure::BadResponse),
    };
    let identifiers = match failures {
        Value::Null => return Outcome::Succeeded,
        Value::Array(failures) => failures.iter().map(identifier).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    match identifiers {
        Some(identifiers) if identifiers.is_empty() => Outcome::Succeeded,
        Some(identifiers) => Outcome::Partial(identifiers),
        None => Outcome::Failed(Failure::BadResponse),
    }
}

fn identifier(failure: &Value) -> Option<String> {
    failure.get("itemIdentifier")?.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn answers_are_read_as_lambda_reads_them() {
        let failed = Outcome::Failed(Failure::BadResponse);
        let named = |ids: &[&str]| Outcome::Partial(ids.iter().map(|&id| id.to_owned()).collect());
        for (body, expected) in [
            ("", Outcome::Succeeded),
            ("null", Outcome::Succeeded),
            ("{}", Outcome::Succeeded),
            (r#"{"other":1}"#, Outcome::Succeeded),
            (r#"{"batchItemFailures":null}"#, Outcome::Succeeded),
            (r#"{"batchItemFailures":[]}"#, Outcome::Succeeded),
            (r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"b"}]}"#, named(&["a", "b"])),
            (r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#, failed.clone()),
            (r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#, failed.clone()),
            (r#"{"batchItemFailures":[{"itemIdentifier":7}]}"#, failed.clone()),
            (r#"{"batchItemFailures":[{"identifier":"a"}]}"#, failed.clone()),
            (r#"{"batchItemFailures":["a"]}"#, failed.clone()),
            (r#"{"batchItemFailures":{"itemIdentifier":"a"}}"#, failed.clone()),
            (r#""done""#, failed.clone()),
            ("not json", failed.clone()),
        ] {
            let reply = || Ok(Reply::Success(Bytes::from(body)));
            assert_eq!(outcome(reply(), true), expected, "{body}");
            assert_eq!(outcome(reply(), false), Outcome::Succeeded, "{body}");
        }
    }

    #[test]
    fn a_function_that_was_not_started_is_no_failure_of_the_batch() {
        for error in [InvokeError::Throttled, InvokeError::NotFound("f".into())] {
            assert!(matches!(outcome(Err(error), true), Outcome::NotStarted(_)));
        }
        let error = Ok(Reply::FunctionError(Bytes::new()));
        assert_eq!(outcome(error, false), Outcome::Failed(Failure::FunctionError));
        let large = Err(InvokeError::TooLarge { size: 7, limit: 6 });
        assert_eq!(outcome(large, false), Outcome::Failed(Failure::TooLarge));
    }
}
