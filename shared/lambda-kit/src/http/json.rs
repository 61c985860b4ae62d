//! JSON that comes in: a body, or an object's fields with a note of every bad one.

use domain::fault::{Fault, Refusal, Remedy};
use lambda_http::Request;
use lambda_http::http::header::CONTENT_TYPE;
use serde_json::{Map, Value};
use url::form_urlencoded;

/// The body, if there is one.
pub fn json_body(request: &Request, limit: usize) -> Result<Option<Value>, BadRequest> {
    let body: &[u8] = request.body();
    if body.len() > limit {
        return Err(BadRequest::TooLarge { bytes: body.len(), limit });
    }
    if body.is_empty() {
        return Ok(None);
    }
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("application/json");
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" {
        return Err(BadRequest::MediaType(essence));
    }
    serde_json::from_slice(body).map(Some).map_err(|_| BadRequest::field("body", "must be JSON"))
}

/// Reads the fields of an object, each once, and notes every bad one. What nobody asks for is ignored.
#[derive(Debug)]
pub struct Fields {
    object: Map<String, Value>,
    bad: Vec<(&'static str, String)>,
}

impl Fields {
    /// Those of the body. No body is an object without fields.
    pub fn of_body(request: &Request, limit: usize) -> Result<Self, BadRequest> {
        Self::of(json_body(request, limit)?.unwrap_or_else(|| Value::Object(Map::new())))
    }

    pub fn of(value: Value) -> Result<Self, BadRequest> {
        match value {
            Value::Object(object) => Ok(Self { object, bad: Vec::new() }),
            _ => Err(BadRequest::field("body", "must be a JSON object")),
        }
    }

    /// Those of the query, all of them texts. Of one that comes twice the last counts.
    #[must_use]
    pub fn of_query(request: &Request) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        Self { object: pairs.map(|(name, value)| (name, value.into())).collect(), bad: Vec::new() }
    }

    /// A field that may be missing or null.
    pub fn take<T>(&mut self, name: &'static str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.object.get(name).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            self.refuse(name, format!("must be {expected}"));
        }
        read
    }

    /// A field that must be there.
    pub fn need<T>(&mut self, name: &'static str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        if self.object.get(name).is_none_or(Value::is_null) {
            self.refuse(name, "is required");
        }
        self.take(name, expected, read)
    }

    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.take(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A whole number, written as one or, as in a query, as a text.
    pub fn number(&mut self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let expected = match (*range.start(), *range.end()) {
            (least, u64::MAX) => format!("a whole number, at least {least}"),
            (least, most) => format!("a whole number from {least} to {most}"),
        };
        self.take(name, &expected, |value| {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
            number.filter(|number| range.contains(number))
        })
    }

    /// Notes what is wrong with a field.
    pub fn refuse(&mut self, name: &'static str, why: impl Into<String>) {
        self.bad.push((name, why.into()));
    }

    /// Everything that was noted.
    pub fn done(self) -> Result<(), BadRequest> {
        if self.bad.is_empty() { Ok(()) } else { Err(BadRequest::Fields(self.bad)) }
    }
}

/// What is wrong with a request before anybody looks at what it means.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    #[error("the body has {bytes} bytes; the limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("`content-type` is `{0}`, not `application/json`")]
    MediaType(String),
    #[error("some fields are not what they should be")]
    Fields(Vec<(&'static str, String)>),
}

impl BadRequest {
    #[must_use]
    pub fn field(name: &'static str, why: impl Into<String>) -> Self {
        Self::Fields(vec![(name, why.into())])
    }
}

impl Fault for BadRequest {
    fn remedy(&self) -> Remedy {
        Remedy::Reject(match self {
            Self::TooLarge { .. } => Refusal::TooLarge,
            Self::MediaType(_) => Refusal::UnsupportedType,
            Self::Fields(_) => Refusal::Invalid,
        })
    }

    fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "payload_too_large",
            Self::MediaType(_) => "unsupported_media_type",
            Self::Fields(_) => "invalid_request",
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        if let Self::Fields(fields) = self { fields.clone() } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use lambda_http::Body;

    use super::*;

    fn request(kind: Option<&str>, body: &str) -> Request {
        let mut request = Request::new(Body::from(body));
        if let Some(kind) = kind {
            request.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_body_is_json_of_a_size_or_there_is_none() {
        let read = |kind, body| json_body(&request(kind, body), 16);
        assert_eq!(read(None, "").unwrap(), None);
        assert_eq!(read(Some("Application/JSON; charset=utf-8"), "[1]").unwrap(), Some(serde_json::json!([1])));
        assert!(matches!(read(None, "[1"), Err(BadRequest::Fields(_))));
        assert!(matches!(read(Some("text/plain"), "[1]"), Err(BadRequest::MediaType(_))));
        assert!(matches!(read(None, &" ".repeat(17)), Err(BadRequest::TooLarge { bytes: 17, limit: 16 })));
    }

    #[test]
    fn every_bad_field_is_named_and_unknown_ones_are_ignored() {
        let body = r#"{"text": 7, "limit": 0, "seq": null, "unknown": [], "offset": "12"}"#;
        let mut fields = Fields::of_body(&request(None, body), 100).unwrap();
        assert_eq!(fields.text("text"), None);
        assert_eq!(fields.number("limit", 1..=100), None);
        assert_eq!(fields.number("seq", 1..=100), None);
        assert_eq!(fields.number("offset", 0..=u64::MAX), Some(12));
        assert_eq!(fields.need("name", "a name", |value| value.as_str().map(str::to_owned)), None);
        let bad = fields.done().unwrap_err().fields();
        let expected =
            [("text", "must be a text"), ("limit", "must be a whole number from 1 to 100"), ("name", "is required")];
        assert_eq!(bad, expected.map(|(name, why)| (name, why.to_owned())));
        assert!(Fields::of(Value::Null).is_err());
    }

    #[test]
    fn a_query_is_fields_that_are_texts() {
        let mut request = request(None, "");
        *request.uri_mut() = "http://x/y?limit=5&limit=6&name=%E4%BD%A0+%F0%9F%99%82&big=-1".parse().unwrap();
        let mut fields = Fields::of_query(&request);
        assert_eq!(fields.number("limit", 1..=100), Some(6));
        assert_eq!(fields.text("name").as_deref(), Some("你 🙂"));
        assert_eq!(fields.number("big", 0..=u64::MAX), None);
        assert_eq!(fields.done().unwrap_err().fields()[0].1, "must be a whole number, at least 0");
    }
}
