//! What a function returned -> the HTTP answer, by the rules of payload format 2.0.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value};

/// Set by the server itself; a function's own would contradict the connection.
const NOT_FORWARDED: [HeaderName; 4] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE];

/// The client is told 500; this says why in the log.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MalformedAnswer {
    #[error("the answer is not JSON")]
    Json,
    #[error("`{0}` has a value of the wrong type or form")]
    Field(&'static str),
    #[error("header `{0}` cannot be sent")]
    Header(String),
}

pub(crate) fn from_function(payload: &[u8]) -> Result<Response<Full<Bytes>>, MalformedAnswer> {
    match serde_json::from_slice(payload).map_err(|_| MalformedAnswer::Json)? {
        Value::Object(fields) if fields.contains_key("statusCode") => structured(fields),
        // Without a status code the value itself is the body.
        Value::String(text) => Ok(inferred(text.into())),
        _ => Ok(inferred(Bytes::copy_from_slice(payload))),
    }
}

fn inferred(body: Bytes) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn structured(mut fields: Map<String, Value>) -> Result<Response<Full<Bytes>>, MalformedAnswer> {
    let mut field = |name| fields.remove(name).unwrap_or(Value::Null);
    let status = status(&field("statusCode"))?;
    let mut headers = headers(field("headers"))?;
    append_cookies(&mut headers, field("cookies"))?;
    let body = body(field("body"), &field("isBase64Encoded"))?;
    let has_body = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_body && !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
    }
    let mut answer = Response::new(Full::new(if has_body { body } else { Bytes::new() }));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

pub(crate) fn status(value: &Value) -> Result<StatusCode, MalformedAnswer> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| (200..=599).contains(number))
        .and_then(|number| StatusCode::from_u16(u16::try_from(number).ok()?).ok())
        .ok_or(MalformedAnswer::Field("statusCode"))
}

pub(crate) fn headers(value: Value) -> Result<HeaderMap, MalformedAnswer> {
    let fields = match value {
        Value::Null => return Ok(HeaderMap::new()),
        Value::Object(fields) => fields,
        _ => return Err(MalformedAnswer::Field("headers")),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return Err(MalformedAnswer::Field("headers")),
        };
        let (Ok(parsed), Ok(text)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(text.as_bytes()))
        else {
            return Err(MalformedAnswer::Header(name));
        };
        if !NOT_FORWARDED.contains(&parsed) {
            headers.append(parsed, text);
        }
    }
    Ok(headers)
}

fn append_cookies(headers: &mut HeaderMap, value: Value) -> Result<(), MalformedAnswer> {
    let cookies = match value {
        Value::Null => return Ok(()),
        Value::Array(cookies) => cookies,
        _ => return Err(MalformedAnswer::Field("cookies")),
    };
    for cookie in cookies {
        let cookie = cookie.as_str().ok_or(MalformedAnswer::Field("cookies"))?;
        let cookie =
            HeaderValue::from_bytes(cookie.as_bytes()).map_err(|_| MalformedAnswer::Header("set-cookie".to_owned()))?;
        headers.append(header::SET_COOKIE, cookie);
    }
    Ok(())
}

pub(crate) fn body(value: Value, is_base64_encoded: &Value) -> Result<Bytes, MalformedAnswer> {
    let text = match value {
        Value::Null => return Ok(Bytes::new()),
        Value::String(text) => text,
        _ => return Err(MalformedAnswer::Field("body")),
    };
    match is_base64_encoded {
        Value::Null | Value::Bool(false) => Ok(text.into()),
        Value::Bool(true) => STANDARD.decode(text).map(Bytes::from).map_err(|_| MalformedAnswer::Field("body")),
        _ => Err(MalformedAnswer::Field("isBase64Encoded")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bad_shapes_are_named() {
        let cases = [
            (json!({ "statusCode": "ok" }), MalformedAnswer::Field("statusCode")),
            (json!({ "statusCode": 101 }), MalformedAnswer::Field("statusCode")),
            (json!({ "statusCode": 65736 }), MalformedAnswer::Field("statusCode")),
            (json!({ "statusCode": 200, "body": { "a": 1 } }), MalformedAnswer::Field("body")),
            (json!({ "statusCode": 200, "body": "%", "isBase64Encoded": true }), MalformedAnswer::Field("body")),
            (
                json!({ "statusCode": 200, "body": "", "isBase64Encoded": "yes" }),
                MalformedAnswer::Field("isBase64Encoded"),
            ),
            (json!({ "statusCode": 200, "headers": { "a": ["b"] } }), MalformedAnswer::Field("headers")),
            (json!({ "statusCode": 200, "headers": { "a b": "c" } }), MalformedAnswer::Header("a b".to_owned())),
            (json!({ "statusCode": 200, "headers": { "a": "b\nc" } }), MalformedAnswer::Header("a".to_owned())),
            (json!({ "statusCode": 200, "cookies": "a=b" }), MalformedAnswer::Field("cookies")),
        ];
        for (answer, expected) in cases {
            assert_eq!(from_function(answer.to_string().as_bytes()).unwrap_err(), expected, "{answer}");
        }
        assert_eq!(from_function(b"<html>").unwrap_err(), MalformedAnswer::Json);
        assert_eq!(from_function(b"").unwrap_err(), MalformedAnswer::Json);
    }
}
