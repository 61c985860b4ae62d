//! HTTP functions: one table turns a fault into a status, and every answer carries `x-request-id`.

mod gate;
mod json;
mod request;

use std::future::Future;

use domain::fault::{Denial, Fault, Refusal, Remedy, chain};
use lambda_http::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use lambda_http::{Body, Error, service_fn};
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use gate::Gate;
pub use json::{BadRequest, Fields, json_body};
pub use lambda_http::http::{HeaderMap, Method, StatusCode, header};
pub use lambda_http::{Request, RequestExt};
pub use request::{BadCredentials, BadFields, base_url, basic, caller, fields, source};

/// An answer.
pub type Response = lambda_http::Response<Body>;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The largest answer by [`weight`]: Lambda takes 6 MB, and headers need some of it.
pub const MAX_ANSWER: usize = 6 * 1024 * 1024 - 64 * 1024;

/// Runs an HTTP function.
pub async fn run<H, F, E>(handle: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Sync,
    F: Future<Output = Result<Response, E>> + Send,
    E: Fault + Send,
{
    lambda_http::run(service_fn(|request: Request| {
        let request_id = request.lambda_context().request_id.clone();
        let answer = handle(request);
        async move { Ok::<_, Error>(finish(answer.await, &request_id)) }
    }))
    .await
}

fn finish<E: Fault>(result: Result<Response, E>, request_id: &str) -> Response {
    let mut response = result.unwrap_or_else(|fault| refusal(&fault));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A JSON answer.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    json_text(status, serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned()))
}

/// An answer whose JSON is written already.
#[must_use]
pub fn json_text(status: StatusCode, text: String) -> Response {
    typed(status, "application/json", text)
}

/// An HTML page, which loads nothing and cannot be framed.
#[must_use]
pub fn page(status: StatusCode, html: String) -> Response {
    let mut response = typed(status, "text/html; charset=utf-8", html);
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
        ),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Sends the browser elsewhere (302), once: nothing may keep the answer.
pub fn redirect(location: &str) -> Result<Response, BadLocation> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::FOUND;
    let location = HeaderValue::from_str(location).map_err(|_| BadLocation)?;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

/// A location that no header can hold.
#[derive(Debug, thiserror::Error)]
#[error("the location is not a header value")]
pub struct BadLocation;

/// An answer of any media type: text as it is, bytes in Base64 on their way out of Lambda.
#[must_use]
pub fn typed(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The bytes that the body takes in what is handed to Lambda: text inside JSON, where some characters need more than one, or Base64.
#[must_use]
pub fn weight(response: &Response) -> usize {
    let of = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..0x20 => 6,
        _ => 1,
    };
    match response.body() {
        Body::Text(text) => text.as_bytes().iter().map(of).sum(),
        bytes => bytes.len().div_ceil(3) * 4,
    }
}

/// The status of a fault: the only place that chooses one.
#[must_use]
pub fn status(fault: &dyn Fault) -> StatusCode {
    match fault.remedy() {
        Remedy::Reject(Refusal::Invalid) => StatusCode::BAD_REQUEST,
        Remedy::Reject(Refusal::Unknown) => StatusCode::NOT_FOUND,
        Remedy::Reject(Refusal::Conflict) => StatusCode::CONFLICT,
        Remedy::Reject(Refusal::Gone) => StatusCode::GONE,
        Remedy::Reject(Refusal::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
        Remedy::Reject(Refusal::UnsupportedType) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Remedy::Reject(Refusal::Unprocessable) => StatusCode::UNPROCESSABLE_ENTITY,
        Remedy::Deny(Denial::Unauthenticated) => StatusCode::UNAUTHORIZED,
        Remedy::Deny(Denial::Forbidden) => StatusCode::FORBIDDEN,
        Remedy::Deny(Denial::Throttled { .. }) => StatusCode::TOO_MANY_REQUESTS,
        Remedy::Retry => StatusCode::SERVICE_UNAVAILABLE,
        Remedy::Bug => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(crate) fn refusal(fault: &dyn Fault) -> Response {
    let fields: Map<String, Value> =
        fault.fields().into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
    let details = if fields.is_empty() { json!({}) } else { json!({ "fields": fields }) };
    refuse(fault, &json!({ "error": fault.code(), "message": fault.public_message(), "details": details }))
}

/// The answer to a fault where a protocol gives the body a form of its own.
#[must_use]
pub fn refuse(fault: &dyn Fault, body: &Value) -> Response {
    let status = status(fault);
    // `Fault` is an `Error`; the log gets every cause, the caller only what is theirs to know.
    let causes = fault.source().map_or_else(|| fault.to_string(), |source| format!("{fault}: {}", chain(source)));
    if status.is_server_error() {
        tracing::error!(error = %causes, error.code = fault.code(), "The request failed");
    } else {
        tracing::info!(error = %causes, error.code = fault.code(), http.status = status.as_u16(), "The request was refused");
    }
    let mut response = json(status, body);
    let wait = match fault.remedy() {
        Remedy::Retry => Some(1),
        Remedy::Deny(Denial::Throttled { retry_after_secs }) => Some(retry_after_secs),
        _ => None,
    };
    if let Some(seconds) = wait {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(challenge) = fault.challenge().and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

#[cfg(test)]
mod tests {
    use domain::access::{AccessFault, Scope};
    use domain::fault::PortFault;
    use domain::limit::LimitFault;

    use super::*;

    fn answer(fault: impl Fault) -> (u16, Value, HeaderMap) {
        let response = finish(Err(fault), "req-1");
        let body = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), body, response.headers().clone())
    }

    #[test]
    fn a_passing_failure_is_503_with_retry_after_and_keeps_its_cause_to_itself() {
        let (status, body, headers) =
            answer(PortFault::Unavailable { operation: "GetItem", cause: "10.0.0.1 refused".into() });
        assert_eq!((status, &headers["retry-after"]), (503, &HeaderValue::from_static("1")));
        assert_eq!(headers["x-request-id"], "req-1");
        assert_eq!(body, json!({"error": "unavailable", "message": "try again in a moment", "details": {}}));
    }

    #[test]
    fn a_broken_invariant_is_an_opaque_500() {
        let (status, body, _) = answer(PortFault::Broken { operation: "GetItem", detail: "secret".into() });
        assert_eq!((status, body["message"].as_str()), (500, Some("internal error")));
    }

    #[test]
    fn who_calls_too_often_is_told_when_to_come_back() {
        let (status, body, headers) = answer(LimitFault::Exhausted { retry_after_secs: 42 });
        assert_eq!((status, &headers["retry-after"]), (429, &HeaderValue::from_static("42")));
        assert_eq!(body["error"], "rate_limited");
    }

    #[test]
    fn who_is_turned_away_is_told_what_proof_is_wanted() {
        let (status, body, headers) = answer(AccessFault::Expired);
        assert_eq!((status, body["error"].as_str()), (401, Some("invalid_token")));
        assert!(headers["www-authenticate"].to_str().unwrap().starts_with("Bearer "));
        let (status, _, headers) = answer(AccessFault::MissingScope(Scope::Lark));
        assert_eq!(status, 403);
        assert!(headers["www-authenticate"].to_str().unwrap().contains("insufficient_scope"));
    }

    #[test]
    fn an_answer_weighs_what_it_takes_inside_the_json_that_lambda_is_handed() {
        let text = "字\"\\\r\n\t\u{8}\u{c}\u{1}\u{7f}x".repeat(7);
        assert_eq!(
            weight(&typed(StatusCode::OK, "text/plain", text.clone())) + 2,
            serde_json::to_string(&text).unwrap().len()
        );
        for bytes in 0..5 {
            let response = typed(StatusCode::OK, "application/octet-stream", vec![7; bytes]);
            assert_eq!(weight(&response), bytes.div_ceil(3) * 4);
        }
    }

    #[test]
    fn a_location_with_a_line_break_is_no_redirect() {
        assert!(redirect("https://a.example/\r\nset-cookie: a=b").is_err());
    }
}
