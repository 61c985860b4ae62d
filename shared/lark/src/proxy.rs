//! A call that is made for somebody else: what its failure is called, and with which HTTP status it is passed on.

use serde_json::{Map, Value, json};

use crate::client::{ApiError, Refusal};
use crate::code::Class;

/// What a caller is told of a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub status: u16,
    /// A stable name in snake case.
    pub error: &'static str,
}

/// The table of failures. 4xx says that the same call will fail again (429: not before its time); 5xx that the vendor may take it later.
#[must_use]
pub fn verdict(error: &ApiError) -> Verdict {
    let (status, error) = match error {
        ApiError::Input { .. } => (400, "invalid_request"),
        ApiError::Setup(_) => (500, "internal_error"),
        ApiError::Timeout => (504, "vendor_timeout"),
        ApiError::Unreachable(_) => (502, "vendor_unreachable"),
        ApiError::NotJson { status: 404, .. } => (404, "unknown_api"),
        ApiError::NotJson { status: 429, .. } => (429, "vendor_throttled"),
        ApiError::NotJson { .. } | ApiError::Incomplete { .. } => (502, "vendor_answer_unreadable"),
        ApiError::Refused(refusal) => refused(refusal),
    };
    Verdict { status, error }
}

fn refused(refusal: &Refusal) -> (u16, &'static str) {
    match refusal.class {
        Class::RateLimited => (429, "vendor_throttled"),
        Class::Transient => (503, "vendor_unavailable"),
        Class::Reauthorize => (401, "authorization_required"),
        // A new one was tried before: the API does not take this kind of token.
        Class::TokenInvalid(_) => (403, "token_not_accepted"),
        Class::Config => (409, "app_misconfigured"),
        Class::Bug => match refusal.code {
            Some(99_992_351 | 99_992_354 | 1_254_045 | 1_310_211) => (404, "vendor_not_found"),
            _ => (400, "vendor_invalid_request"),
        },
        Class::Terminal | Class::Ok => terminal(refusal),
    }
}

/// The vendor answers almost everything with 400, so that the code decides where it is known to mean more.
fn terminal(refusal: &Refusal) -> (u16, &'static str) {
    const FORBIDDEN: (u16, &str) = (403, "vendor_forbidden");
    const NOT_FOUND: (u16, &str) = (404, "vendor_not_found");
    match (refusal.code.unwrap_or_default(), refusal.status) {
        (20_010 | 21_000 | 21_001 | 99_991_672 | 99_991_673 | 99_991_676, _) => FORBIDDEN,
        (230_013 | 230_018 | 230_027 | 230_035 | 230_071 | 232_002 | 232_014 | 232_016, _) => FORBIDDEN,
        (1_061_004 | 1_061_005 | 1_064_510 | 1_064_511, _) | (_, 401 | 403) => FORBIDDEN,
        (20_008 | 40_008 | 230_019 | 230_034 | 1_061_003 | 1_061_041, _) | (_, 404 | 410) => NOT_FOUND,
        _ => (409, "vendor_refused"),
    }
}

/// What helps to mend it: the advice, the scopes that are missing, the fields that the vendor did not like.
#[must_use]
pub fn details(error: &ApiError) -> Map<String, Value> {
    let mut details = Map::new();
    let ApiError::Refused(refusal) = error else { return details };
    details.insert("advice".to_owned(), refusal.advice.into());
    if !refusal.missing_scopes.is_empty() {
        details.insert("missing_scopes".to_owned(), json!(refusal.missing_scopes));
    }
    if !refusal.fields.is_empty() {
        let fields = refusal.fields.iter().map(|bad| (bad.field.clone(), bad.description.clone().into()));
        details.insert("fields".to_owned(), Value::Object(fields.collect()));
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::FieldViolation;
    use crate::code::classify;

    fn answered(code: i64, status: u16) -> ApiError {
        ApiError::Refused(Box::new(Refusal {
            status,
            code: Some(code),
            message: String::new(),
            class: classify(code, status),
            advice: crate::code::advice(code),
            log_id: None,
            retry_after: None,
            missing_scopes: Vec::new(),
            fields: Vec::new(),
        }))
    }

    fn check(status: u16, error: &'static str, answers: &[(i64, u16)]) {
        for &(code, vendors) in answers {
            let verdict = verdict(&answered(code, vendors));
            assert_eq!(verdict, Verdict { status, error }, "code {code} with status {vendors}");
        }
    }

    #[test]
    fn a_request_that_is_wrong_is_the_callers_to_mend() {
        check(400, "vendor_invalid_request", &[(230_001, 400), (9499, 400), (99_992_402, 400), (230_099, 400)]);
        check(404, "vendor_not_found", &[(99_992_354, 400), (1_061_003, 200), (40_008, 400), (123_456, 404)]);
    }

    #[test]
    fn what_the_app_or_person_may_not_do_is_forbidden() {
        check(403, "vendor_forbidden", &[(99_991_672, 400), (99_991_676, 400), (1_061_004, 403), (123_456, 403)]);
        check(403, "token_not_accepted", &[(99_991_663, 400), (99_991_668, 200), (99_991_677, 400), (123_456, 401)]);
        check(401, "authorization_required", &[(99_991_679, 400), (99_991_669, 400), (20_037, 400)]);
    }

    #[test]
    fn what_contradicts_the_present_state_is_a_conflict() {
        check(409, "vendor_refused", &[(230_002, 400), (230_011, 400), (230_031, 400), (123_456, 400), (123_456, 200)]);
        check(409, "app_misconfigured", &[(99_991_662, 400), (99_991_543, 400), (230_006, 400)]);
    }

    #[test]
    fn what_may_go_through_later_is_told_apart_by_who_is_in_the_way() {
        check(429, "vendor_throttled", &[(99_991_400, 429), (99_991_400, 400), (230_020, 400), (123_456, 429)]);
        check(503, "vendor_unavailable", &[(2200, 500), (20_072, 503), (123_456, 500), (230_049, 400)]);
        let gateway = |status| verdict(&ApiError::NotJson { status, log_id: None, retry_after: None }).status;
        assert_eq!([404, 429, 200, 500, 503].map(gateway), [404, 429, 502, 502, 502]);
        assert_eq!(verdict(&ApiError::Timeout), Verdict { status: 504, error: "vendor_timeout" });
        assert_eq!(verdict(&ApiError::Incomplete { field: "x", log_id: None }).status, 502);
        assert_eq!(verdict(&ApiError::Input { field: "path", problem: "is none" }).status, 400);
    }

    #[test]
    fn retrying_is_advised_exactly_where_the_status_says_so() {
        for code in 0..=300_100 {
            for status in [200, 400, 401, 403, 404, 429, 500, 503] {
                let error = answered(code, status);
                let later = matches!(verdict(&error).status, 429 | 502..=504);
                assert_eq!(later, error.retryable(), "code {code} with status {status}");
            }
        }
    }

    #[test]
    fn details_name_what_to_mend() {
        let ApiError::Refused(mut refusal) = answered(99_991_679, 400) else { unreachable!() };
        refusal.missing_scopes = vec!["task:task:read".to_owned()];
        refusal.fields = vec![FieldViolation { field: "receive_id".to_owned(), description: "无效 ❌".to_owned() }];
        let details = details(&ApiError::Refused(refusal));
        assert_eq!(details["missing_scopes"], json!(["task:task:read"]));
        assert_eq!(details["fields"], json!({ "receive_id": "无效 ❌" }));
        assert_eq!(details["advice"], "Ask the user to grant the missing scopes.");
        assert!(super::details(&ApiError::Timeout).is_empty());
    }
}
