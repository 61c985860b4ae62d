//! The event of payload format 2.0, as a Lambda function and a Lambda authorizer receive it.

use std::{collections::BTreeMap, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use url::form_urlencoded;

use crate::{http_api::HttpApiConfig, server, source};

/// Headers that end at the gateway. Cookies travel in a field of their own.
const NOT_FORWARDED: [HeaderName; 8] = [
    header::CONNECTION,
    header::COOKIE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What is the same for the authorizer and the integration.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestFields {
    pub(crate) route_key: String,
    /// Decoded, as HTTP APIs send it in spite of its name.
    raw_path: String,
    /// As the client sent it.
    raw_query_string: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) query_string_parameters: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    path_parameters: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stage_variables: BTreeMap<String, String>,
    pub(crate) request_context: RequestContext,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestContext {
    account_id: String,
    api_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) authorizer: Option<AuthorizerContext>,
    domain_name: String,
    domain_prefix: String,
    http: HttpDescription,
    request_id: String,
    route_key: String,
    stage: String,
    time: String,
    time_epoch: i64,
}

#[derive(Debug, Serialize)]
pub(crate) struct AuthorizerContext {
    pub(crate) lambda: Map<String, Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HttpDescription {
    method: String,
    path: String,
    protocol: String,
    source_ip: IpAddr,
    user_agent: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IntegrationEvent<'a> {
    version: &'static str,
    #[serde(flatten)]
    request: &'a RequestFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizerEvent<'a> {
    version: &'static str,
    r#type: &'static str,
    route_arn: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    identity_source: Vec<String>,
    #[serde(flatten)]
    request: &'a RequestFields,
}

/// What the gateway knows of a request that has found its route.
pub(crate) struct Routed<'a> {
    pub(crate) config: &'a HttpApiConfig,
    pub(crate) parts: &'a http::request::Parts,
    pub(crate) body_len: usize,
    pub(crate) route_key: &'a str,
    pub(crate) path_parameters: BTreeMap<String, String>,
    pub(crate) request_id: &'a str,
    pub(crate) at: OffsetDateTime,
}

impl RequestFields {
    pub(crate) fn new(routed: Routed<'_>) -> Self {
        let Routed { config, parts, body_len, route_key, path_parameters, request_id, at } = routed;
        let source_ip = server::source_ip(&parts.extensions);
        let path = super::route::decoded(parts.uri.path());
        let raw_query_string = parts.uri.query().unwrap_or_default().to_owned();
        Self {
            route_key: route_key.to_owned(),
            raw_path: path.clone(),
            cookies: cookies(&parts.headers),
            headers: headers(&parts.headers, source_ip, body_len, at),
            query_string_parameters: joined(form_urlencoded::parse(raw_query_string.as_bytes()).into_owned()),
            raw_query_string,
            path_parameters,
            stage_variables: config.stage_variables.clone(),
            request_context: RequestContext {
                account_id: config.account.clone(),
                api_id: config.id.clone(),
                authorizer: None,
                domain_name: config.domain.clone(),
                domain_prefix: config.domain.split('.').next().unwrap_or_default().to_owned(),
                http: HttpDescription {
                    method: parts.method.to_string(),
                    path,
                    protocol: format!("{:?}", parts.version),
                    source_ip,
                    user_agent: server::user_agent(&parts.headers).unwrap_or_default(),
                },
                request_id: request_id.to_owned(),
                route_key: route_key.to_owned(),
                stage: config.stage.clone(),
                time: source::request_time(at),
                time_epoch: source::epoch_ms(at),
            },
        }
    }

    pub(crate) fn integration_event(&self, body: &Bytes) -> serde_json::Result<Vec<u8>> {
        let content_type = self.headers.get("content-type").map(String::as_str);
        let (body, is_base64_encoded) = encoded(content_type, body);
        serde_json::to_vec(&IntegrationEvent { version: "2.0", request: self, body, is_base64_encoded })
    }

    pub(crate) fn authorizer_event(&self, route_arn: &str, identity: Vec<String>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&AuthorizerEvent {
            version: "2.0",
            r#type: "REQUEST",
            route_arn,
            identity_source: identity,
            request: self,
        })
    }
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .flat_map(|line| line.split(';').map(|cookie| cookie.trim().to_owned()).collect::<Vec<_>>())
        .filter(|cookie| !cookie.is_empty())
        .collect()
}

fn headers(received: &HeaderMap, source_ip: IpAddr, body_len: usize, at: OffsetDateTime) -> BTreeMap<String, String> {
    let forwarded = received.iter().filter(|(name, _)| !NOT_FORWARDED.contains(name));
    let text = |(name, value): (&HeaderName, &http::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut headers = joined(forwarded.map(text));
    headers.insert("content-length".to_owned(), body_len.to_string());
    headers.insert("x-amzn-trace-id".to_owned(), server::trace_id(received, &source::trace_root(at)));
    headers.insert("x-forwarded-for".to_owned(), server::forwarded_for(received, source_ip));
    headers.insert("x-forwarded-port".to_owned(), server::forwarded_port(received));
    headers.insert("x-forwarded-proto".to_owned(), "http".to_owned());
    headers
}

fn joined(pairs: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in pairs {
        all.entry(name)
            .and_modify(|so_far| {
                so_far.push(',');
                so_far.push_str(&value);
            })
            .or_insert(value);
    }
    all
}

/// HTTP APIs pass on as text only `text/*`, JSON, JavaScript and XML by exactly these names; forms, `+json` types and
/// bodies without a type arrive in base64. Text that is not UTF-8 cannot stand in JSON, so it does too.
fn encoded(content_type: Option<&str>, body: &Bytes) -> (Option<String>, bool) {
    if body.is_empty() {
        return (None, false);
    }
    let media_type = content_type.unwrap_or_default().split([';', ',']).next().unwrap_or_default().trim();
    let media_type = media_type.to_ascii_lowercase();
    let is_text = media_type.starts_with("text/")
        || matches!(media_type.as_str(), "application/json" | "application/javascript" | "application/xml");
    match std::str::from_utf8(body) {
        Ok(text) if is_text => (Some(text.to_owned()), false),
        _ => (Some(STANDARD.encode(body)), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_text_types_stay_text() {
        let cases = [
            (Some("text/plain"), "你好😀".as_bytes(), false),
            (Some("TEXT/HTML; charset=utf-8"), b"x", false),
            (Some("application/json"), b"{}", false),
            (Some("application/json; charset=UTF-8"), b"{}", false),
            (Some("application/xml"), b"<a/>", false),
            (Some("application/javascript"), b"1", false),
            (Some("application/x-www-form-urlencoded"), b"a=1", true),
            (Some("application/problem+json"), b"{}", true),
            (Some("multipart/form-data; boundary=x"), b"x", true),
            (Some("application/octet-stream"), b"x", true),
            (Some("image/png"), b"\x89PNG", true),
            (Some("text/plain"), b"\xff\xfe", true),
            (None, b"x", true),
        ];
        for (content_type, body, expected) in cases {
            let (text, base64) = encoded(content_type, &Bytes::from_static(body));
            assert_eq!(base64, expected, "{content_type:?}");
            let bytes = if base64 { STANDARD.decode(text.unwrap()).unwrap() } else { text.unwrap().into_bytes() };
            assert_eq!(bytes, body);
        }
        assert_eq!(encoded(Some("image/png"), &Bytes::new()), (None, false));
    }
}
