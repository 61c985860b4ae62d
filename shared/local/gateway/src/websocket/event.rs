//! The events of a WebSocket API: for the authorizer, `$connect`, messages and `$disconnect`.

use std::{collections::BTreeMap, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header, request::Parts};
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use url::form_urlencoded;

use crate::{
    server, source,
    websocket::{WebSocketConfig, connection::Connection},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event<'a> {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    request: Option<&'a Handshake>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stage_variables: &'a BTreeMap<String, String>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizerEvent<'a> {
    r#type: &'static str,
    method_arn: &'a str,
    // Unlike `$connect`, an authorizer gets empty maps too.
    headers: &'a BTreeMap<String, String>,
    multi_value_headers: &'a BTreeMap<String, Vec<String>>,
    query_string_parameters: &'a BTreeMap<String, String>,
    multi_value_query_string_parameters: &'a BTreeMap<String, Vec<String>>,
    stage_variables: &'a BTreeMap<String, String>,
    request_context: Context<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    route_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_reason: Option<&'a str>,
    event_type: &'static str,
    extended_request_id: &'a str,
    request_time: String,
    message_direction: &'static str,
    stage: &'a str,
    connected_at: i64,
    request_time_epoch: i64,
    identity: Identity<'a>,
    request_id: &'a str,
    domain_name: &'a str,
    connection_id: &'a str,
    api_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    source_ip: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

/// What the upgrade request said. Where a name came more than once, the single-value maps have the last value.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Handshake {
    pub(crate) headers: BTreeMap<String, String>,
    multi_value_headers: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) query_string_parameters: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    multi_value_query_string_parameters: BTreeMap<String, Vec<String>>,
}

impl Handshake {
    pub(crate) fn new(parts: &Parts, source_ip: IpAddr, at: OffsetDateTime) -> Self {
        let mut headers = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in &parts.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(conventional_case(name)).or_default().push(value);
        }
        let added = [
            ("X-Amzn-Trace-Id", server::trace_id(&parts.headers, &source::trace_root(at))),
            ("X-Forwarded-For", server::forwarded_for(&parts.headers, source_ip)),
            ("X-Forwarded-Port", server::forwarded_port(&parts.headers)),
            ("X-Forwarded-Proto", "http".to_owned()),
        ];
        headers.extend(added.map(|(name, value)| (name.to_owned(), vec![value])));
        let mut query = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            query.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        Self {
            headers: last_values(&headers),
            multi_value_headers: headers,
            query_string_parameters: last_values(&query),
            multi_value_query_string_parameters: query,
        }
    }

    /// The integration does not see the headers that make the request an upgrade; the authorizer does.
    fn without_upgrade(mut self) -> Self {
        for name in [header::CONNECTION, header::UPGRADE, header::CONTENT_LENGTH] {
            let name = conventional_case(&name);
            self.headers.remove(&name);
            self.multi_value_headers.remove(&name);
        }
        self
    }

    /// `$disconnect` comes with these headers and no others.
    fn of_disconnect(domain: &str) -> Self {
        let headers = [("Host", domain), ("x-api-key", ""), ("X-Forwarded-For", ""), ("x-restapi", "")];
        Self {
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            multi_value_headers: headers.map(|(name, value)| (name.to_owned(), vec![value.to_owned()])).into(),
            ..Self::default()
        }
    }
}

fn last_values(all: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, String> {
    all.iter().filter_map(|(name, values)| Some((name.clone(), values.last()?.clone()))).collect()
}

/// API Gateway keeps the case in which clients write header names; over HTTP/1.1 that is `Sec-WebSocket-Key`.
fn conventional_case(name: &HeaderName) -> String {
    let capitalised = |word: &str| match word {
        "websocket" => "WebSocket".to_owned(),
        word => {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_ascii_uppercase() + rest
        }
    };
    name.as_str().split('-').map(capitalised).collect::<Vec<_>>().join("-")
}

/// Writes the events of one connection of one API.
#[derive(Clone, Copy)]
pub(crate) struct Events<'a> {
    pub(crate) config: &'a WebSocketConfig,
    pub(crate) connection: &'a Connection,
    pub(crate) request_id: &'a str,
    pub(crate) at: OffsetDateTime,
}

impl<'a> Events<'a> {
    pub(crate) fn authorizer(self, method_arn: &str, handshake: &Handshake) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&AuthorizerEvent {
            r#type: "REQUEST",
            method_arn,
            headers: &handshake.headers,
            multi_value_headers: &handshake.multi_value_headers,
            query_string_parameters: &handshake.query_string_parameters,
            multi_value_query_string_parameters: &handshake.multi_value_query_string_parameters,
            stage_variables: &self.config.stage_variables,
            request_context: self.context("$connect", "CONNECT"),
        })
    }

    pub(crate) fn connect(self, handshake: Handshake) -> serde_json::Result<Vec<u8>> {
        let handshake = handshake.without_upgrade();
        serde_json::to_vec(&self.event(Some(&handshake), self.context("$connect", "CONNECT"), None))
    }

    pub(crate) fn message(self, route_key: &str, body: &Body) -> serde_json::Result<Vec<u8>> {
        let context = Context { message_id: Some(source::opaque_id()), ..self.context(route_key, "MESSAGE") };
        serde_json::to_vec(&self.event(None, context, Some(body)))
    }

    pub(crate) fn disconnect(self, code: u16, reason: &str) -> serde_json::Result<Vec<u8>> {
        let handshake = Handshake::of_disconnect(&self.config.domain);
        let context = Context {
            disconnect_status_code: Some(code),
            disconnect_reason: Some(reason),
            ..self.context("$disconnect", "DISCONNECT")
        };
        serde_json::to_vec(&self.event(Some(&handshake), context, None))
    }

    fn event<'e>(self, request: Option<&'e Handshake>, context: Context<'e>, body: Option<&Body>) -> Event<'e>
    where
        'a: 'e,
    {
        Event {
            request,
            stage_variables: &self.config.stage_variables,
            request_context: context,
            is_base64_encoded: matches!(body, Some(Body::Binary(_))),
            body: body.map(|body| match body {
                Body::Text(text) => text.clone(),
                Body::Binary(bytes) => STANDARD.encode(bytes),
            }),
        }
    }

    fn context<'e>(self, route_key: &'e str, event_type: &'static str) -> Context<'e>
    where
        'a: 'e,
    {
        let Self { config, connection, request_id, at } = self;
        Context {
            route_key,
            authorizer: connection.authorizer.as_ref(),
            message_id: None,
            disconnect_status_code: None,
            disconnect_reason: None,
            event_type,
            extended_request_id: request_id,
            request_time: source::request_time(at),
            message_direction: "IN",
            stage: &config.stage,
            connected_at: source::epoch_ms(connection.connected_at),
            request_time_epoch: source::epoch_ms(at),
            identity: Identity { source_ip: connection.source_ip, user_agent: connection.user_agent.as_deref() },
            request_id,
            domain_name: &config.domain,
            connection_id: &connection.id,
            api_id: &config.id,
        }
    }
}

/// One message of a client's.
#[derive(Debug)]
pub(crate) enum Body {
    Text(String),
    Binary(Bytes),
}

/// The value of an identity source in the upgrade request.
pub(crate) fn header_value(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_are_written_as_clients_write_them() {
        let cases = [
            ("sec-websocket-key", "Sec-WebSocket-Key"),
            ("x-forwarded-for", "X-Forwarded-For"),
            ("host", "Host"),
            ("a--b", "A--B"),
        ];
        for (name, expected) in cases {
            assert_eq!(conventional_case(&HeaderName::from_static(name)), expected);
        }
    }
}
