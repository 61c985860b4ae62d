//! What a request says: who sends it, from where, to which address, and the fields of its body.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::access::{AccessFault, AccessTokenVerifier, Caller};
use domain::fault::{Fault, Refusal, Remedy};
use lambda_http::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use lambda_http::request::RequestContext;
use lambda_http::{Request, RequestExt as _};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use url::form_urlencoded;

/// A form, or an object of texts, is never larger.
const FIELDS_BYTES: usize = 64 * 1024;

/// Who sent the request, proved by its `Authorization: Bearer` header.
pub async fn caller(
    verifier: &dyn AccessTokenVerifier,
    request: &Request,
    now: OffsetDateTime,
) -> Result<Caller, AccessFault> {
    let token = credentials(request, "bearer").ok_or(AccessFault::Missing)?;
    verifier.verify(token, now).await
}

/// The name and the password of an `Authorization: Basic` header, as RFC 6749 (2.3.1) has clients write them: form-encoded, so that a
/// name may hold a colon. A header that does not decode is no credentials.
#[must_use]
pub fn basic(request: &Request) -> Option<Result<(String, String), BadCredentials>> {
    let encoded = credentials(request, "basic")?;
    let decode = || {
        let pair = String::from_utf8(BASE64.decode(encoded).ok()?).ok()?;
        let (name, password) = pair.split_once(':')?;
        Some((form_decoded(name)?, form_decoded(password)?))
    };
    Some(decode().ok_or(BadCredentials))
}

/// A Basic header that does not decode.
#[derive(Debug, thiserror::Error)]
#[error("the `Authorization: Basic` header does not decode")]
pub struct BadCredentials;

fn form_decoded(text: &str) -> Option<String> {
    // As a value, so that neither `&` nor `=` in it means anything.
    let escaped = format!("v={}", text.replace('&', "%26"));
    form_urlencoded::parse(escaped.as_bytes()).next().map(|(_, value)| value.into_owned())
}

/// What follows the scheme in `Authorization`. Schemes are case-insensitive (RFC 9110).
fn credentials<'r>(request: &'r Request, scheme: &str) -> Option<&'r str> {
    let (found, rest) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// The fields of a form, or of a JSON object of texts. No field comes twice, and an empty one counts as not sent (RFC 6749, 3.1).
pub fn fields(request: &Request) -> Result<BTreeMap<String, String>, BadFields> {
    let body: &[u8] = request.body();
    if body.len() > FIELDS_BYTES {
        return Err(BadFields::TooLarge);
    }
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => json_fields(body),
        "application/x-www-form-urlencoded" => form_fields(body),
        _ => Err(BadFields::Type),
    }
}

fn json_fields(body: &[u8]) -> Result<BTreeMap<String, String>, BadFields> {
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(|_| BadFields::Malformed)?;
    let mut fields = BTreeMap::new();
    for (name, value) in object {
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => drop(fields.insert(name, text)),
            // Unknown fields are ignored, so only the reader can tell whether a number or a list does any harm.
            other => drop(fields.insert(name, other.to_string())),
        }
    }
    Ok(fields)
}

fn form_fields(body: &[u8]) -> Result<BTreeMap<String, String>, BadFields> {
    let mut fields = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(body).filter(|(_, value)| !value.is_empty()) {
        if fields.insert(name.to_string(), value.into_owned()).is_some() {
            return Err(BadFields::Repeated(name.into_owned()));
        }
    }
    Ok(fields)
}

/// Why a body has no fields.
#[derive(Debug, thiserror::Error)]
pub enum BadFields {
    #[error("the body is larger than {FIELDS_BYTES} bytes")]
    TooLarge,
    #[error("the body must be `application/json` or `application/x-www-form-urlencoded`")]
    Type,
    #[error("the body is not a JSON object")]
    Malformed,
    #[error("the field `{0}` comes twice")]
    Repeated(String),
}

impl Fault for BadFields {
    fn remedy(&self) -> Remedy {
        Remedy::Reject(match self {
            Self::TooLarge => Refusal::TooLarge,
            Self::Type => Refusal::UnsupportedType,
            Self::Malformed | Self::Repeated(_) => Refusal::Invalid,
        })
    }

    fn code(&self) -> &'static str {
        "invalid_request"
    }
}

/// Where this deployment is reached: its own name if it was given one, else the host that API Gateway routed by.
#[must_use]
pub fn base_url(request: &Request, public_url: Option<&str>) -> String {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    public_url.map(str::to_owned).unwrap_or_else(|| {
        let scheme = text("x-forwarded-proto").filter(|scheme| *scheme == "http").unwrap_or("https");
        format!("{scheme}://{}", text(HOST.as_str()).unwrap_or_default())
    })
}

/// Who counts as one caller when nothing else is known: the address that API Gateway saw, of IPv6 the network (/64), which is what one
/// household or machine is given.
#[must_use]
pub fn source(request: &Request) -> String {
    let Some(RequestContext::ApiGatewayV2(context)) = request.request_context_ref() else { return String::new() };
    let source = context.http.source_ip.as_deref().unwrap_or_default();
    match source.parse() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        _ => source.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lambda_http::http::Request as Plain;
    use lambda_http::{Body, http};

    use super::*;

    fn request(headers: &[(&'static str, &str)], body: &str) -> Request {
        let mut request = Plain::new(Body::from(body));
        for (name, value) in headers {
            request.headers_mut().insert(*name, http::HeaderValue::from_str(value).unwrap());
        }
        request
    }

    fn pair(header: &str) -> Option<(String, String)> {
        basic(&request(&[("authorization", header)], ""))?.ok()
    }

    #[test]
    fn basic_credentials_are_form_encoded_inside() {
        let header = |text: &str| format!("bAsIc {}", BASE64.encode(text));
        let pair_of = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(pair(&header("id:secret")), pair_of("id", "secret"));
        assert_eq!(pair(&header("a%3Ab:s+%25:&=x")), pair_of("a:b", "s %:&=x"));
        assert_eq!(pair(&header("id:")), pair_of("id", ""));
        for bad in ["Basic ???", "Basic aWQ=", "Basic /w==", "Basic"] {
            assert_eq!(pair(bad), None, "{bad}");
        }
        assert!(basic(&request(&[("authorization", "Bearer x")], "")).is_none());
    }

    #[test]
    fn fields_come_as_a_form_or_as_json_and_never_twice() {
        let read = |kind, body| fields(&request(&[("content-type", kind)], body));
        let form = read("application/x-www-form-urlencoded; charset=utf-8", "a=%E4%BD%A0+%F0%9F%94%91&b=&c=1").unwrap();
        let json = read("Application/JSON", r#"{"a": "你 🔑", "b": null, "c": 1}"#).unwrap();
        assert_eq!(form, json);
        assert_eq!(form.get("a").map(String::as_str), Some("你 🔑"));
        assert!(matches!(read("application/x-www-form-urlencoded", "a=1&a=2"), Err(BadFields::Repeated(_))));
        assert!(matches!(read("application/json", "[]"), Err(BadFields::Malformed)));
        assert!(matches!(read("text/plain", "a=1"), Err(BadFields::Type)));
        assert!(matches!(read("application/json", &" ".repeat(FIELDS_BYTES + 1)), Err(BadFields::TooLarge)));
    }

    #[test]
    fn the_base_is_the_given_name_or_the_host() {
        let request = request(&[("host", "a.example:3000"), ("x-forwarded-proto", "http")], "");
        assert_eq!(base_url(&request, None), "http://a.example:3000");
        assert_eq!(base_url(&request, Some("https://b.example")), "https://b.example");
    }
}
