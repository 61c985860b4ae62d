//! WebSocket functions: the events of an API, and answers in the form of a proxy integration. Only the answer to a handshake reaches the
//! client: its status refuses the socket.

use std::collections::HashMap;
use std::future::Future;

use aws_lambda_events::event::apigw::ApiGatewayWebsocketProxyRequest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::fault::Fault;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Map, Value, json};

use crate::http::refusal;

/// What happened to a socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Connect(Handshake),
    Message { connection_id: String, text: String },
    Disconnect { connection_id: String },
}

/// Who knocks, and with what.
#[derive(Debug, PartialEq, Eq)]
pub struct Handshake {
    pub connection_id: String,
    /// Of a name that comes again, the last value.
    pub query: HashMap<String, String>,
    /// `Sec-WebSocket-Protocol`, in the client's order.
    pub protocols: Vec<String>,
}

/// Runs a function on a WebSocket API. The answer names the subprotocol of a socket that is let in.
pub async fn run<H, F, E>(handle: H) -> Result<(), Error>
where
    H: Fn(Event) -> F + Sync,
    F: Future<Output = Result<Option<String>, E>> + Send,
    E: Fault + Send,
{
    lambda_runtime::run(service_fn(|event: LambdaEvent<ApiGatewayWebsocketProxyRequest>| {
        let handled = read(event.payload).map(&handle);
        async move {
            match handled {
                Ok(handled) => Ok::<_, Error>(answer(handled.await)),
                Err(unknown) => Err(unknown),
            }
        }
    }))
    .await
}

fn read(request: ApiGatewayWebsocketProxyRequest) -> Result<Event, Error> {
    let connection_id = request.request_context.connection_id.ok_or("the event names no connection")?;
    match request.request_context.event_type.as_deref() {
        Some("CONNECT") => {
            let offered = request.headers.get_all("sec-websocket-protocol").iter();
            let offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
            let query = request.query_string_parameters.iter();
            Ok(Event::Connect(Handshake {
                connection_id,
                query: query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                protocols: offered.map(|protocol| protocol.trim().to_owned()).collect(),
            }))
        }
        Some("MESSAGE") => {
            let body = request.body.unwrap_or_default();
            // Bytes that are no text are no frame of ours; which one, the reader says.
            let text = if request.is_base64_encoded {
                let bytes = BASE64.decode(&body).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            } else {
                body
            };
            Ok(Event::Message { connection_id, text })
        }
        Some("DISCONNECT") => Ok(Event::Disconnect { connection_id }),
        other => Err(format!("the event is of no known type: {other:?}").into()),
    }
}

fn answer<E: Fault>(result: Result<Option<String>, E>) -> Value {
    let response = match result {
        Ok(None) => return json!({ "statusCode": 200 }),
        Ok(Some(protocol)) => return json!({ "statusCode": 200, "headers": { "Sec-WebSocket-Protocol": protocol } }),
        Err(fault) => refusal(&fault),
    };
    let header = |(name, value): (&crate::http::header::HeaderName, &crate::http::header::HeaderValue)| {
        Some((name.as_str().to_owned(), Value::from(value.to_str().ok()?)))
    };
    let headers: Map<String, Value> = response.headers().iter().filter_map(header).collect();
    let body = String::from_utf8_lossy(response.body()).into_owned();
    json!({ "statusCode": response.status().as_u16(), "headers": headers, "body": body })
}

#[cfg(test)]
mod tests {
    use domain::limit::LimitFault;

    use super::*;

    fn event(kind: &str, more: Value) -> Value {
        let mut event = json!({
            "requestContext": {
                "eventType": kind, "connectionId": "Zx1=", "routeKey": "$default", "connectedAt": 1, "requestTimeEpoch": 1,
            },
            "isBase64Encoded": false,
        });
        for (name, value) in more.as_object().unwrap() {
            event[name] = value.clone();
        }
        event
    }

    fn heard(kind: &str, more: Value) -> Event {
        read(serde_json::from_value(event(kind, more)).unwrap()).unwrap()
    }

    #[test]
    fn a_handshake_is_read_with_its_query_and_protocols() {
        let more = json!({
            "headers": { "Sec-WebSocket-Protocol": "bearer.a.b.c, chat" },
            "queryStringParameters": { "ticket": "t&1" },
        });
        let Event::Connect(handshake) = heard("CONNECT", more) else { panic!("a handshake") };
        assert_eq!(handshake.protocols, ["bearer.a.b.c", "chat"]);
        assert_eq!(handshake.query, HashMap::from([("ticket".to_owned(), "t&1".to_owned())]));
        assert!(
            matches!(heard("CONNECT", json!({})), Event::Connect(it) if it.query.is_empty() && it.protocols.is_empty())
        );
    }

    #[test]
    fn a_message_is_text_even_if_it_came_as_bytes() {
        let text = |more| match heard("MESSAGE", more) {
            Event::Message { text, .. } => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(json!({ "body": "你好 🙂" })), "你好 🙂");
        assert_eq!(text(json!({ "body": BASE64.encode("你好"), "isBase64Encoded": true })), "你好");
        assert_eq!(text(json!({ "body": "???", "isBase64Encoded": true })), "");
        assert_eq!(heard("DISCONNECT", json!({})), Event::Disconnect { connection_id: "Zx1=".to_owned() });
        assert!(read(serde_json::from_value(event("OTHER", json!({}))).unwrap()).is_err());
    }

    #[test]
    fn a_fault_refuses_the_handshake_with_its_status() {
        let refused = answer(Err(LimitFault::Exhausted { retry_after_secs: 60 }));
        assert_eq!((&refused["statusCode"], &refused["headers"]["retry-after"]), (&json!(429), &json!("60")));
        assert!(refused["body"].as_str().unwrap().contains("rate_limited"));
        let accepted = answer::<LimitFault>(Ok(Some("bearer.a".to_owned())));
        assert_eq!(accepted["headers"]["Sec-WebSocket-Protocol"], "bearer.a");
        assert_eq!(answer::<LimitFault>(Ok(None)), json!({ "statusCode": 200 }));
    }
}
