//! The WebSocket API as clients, functions and back ends see it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lambda_events::apigw::{ApiGatewayCustomAuthorizerRequestTypeRequest, ApiGatewayWebsocketProxyRequest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, future::join_all};
use local_lambda::InvokeError;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Mutex, Notify},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error as SocketError, Message,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
        protocol::frame::{
            CloseFrame, Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use super::{Functions, Outcome, PATIENCE, Running, function_error, ok, recorder, success};
use crate::{
    Authorizer, Connections, ConnectionsError, WebSocketApi, WebSocketConfig, WebSocketLimits, WebSocketRoute,
};

type Socket = WebSocketStream<TcpStream>;

struct Stack {
    functions: Arc<Functions>,
    connections: Connections,
    server: Running,
}

fn config() -> WebSocketConfig {
    let route = |key: &str, function: &str| (key.to_owned(), WebSocketRoute::new(function));
    WebSocketConfig {
        id: "ws1".to_owned(),
        stage: "prod".to_owned(),
        stage_variables: BTreeMap::new(),
        route_selection_expression: "$request.body.action".to_owned(),
        routes: [
            route("$connect", "connect"),
            route("$disconnect", "disconnect"),
            route("$default", "default"),
            route("special", "special"),
        ]
        .into(),
        connect_authorizer: None,
        region: "us-east-1".to_owned(),
        account: "123456789012".to_owned(),
        domain: "ws1.execute-api.us-east-1.amazonaws.com".to_owned(),
        limits: WebSocketLimits::default(),
    }
}

fn guarded() -> WebSocketConfig {
    let identity_sources = vec!["route.request.querystring.ticket".to_owned()];
    WebSocketConfig {
        connect_authorizer: Some(Authorizer { function: "auth".to_owned(), identity_sources }),
        ..config()
    }
}

fn allow(context: Value) -> Value {
    json!({
        "principalId": "user-1",
        "policyDocument": { "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Action": "execute-api:Invoke",
            "Resource": "arn:aws:execute-api:us-east-1:123456789012:ws1/prod/$connect",
        }] },
        "context": context,
    })
}

impl Stack {
    /// All functions answer 200 unless the test says otherwise.
    async fn start(config: WebSocketConfig) -> Self {
        let functions = Arc::new(Functions::default());
        for function in ["connect", "disconnect", "default", "special"] {
            functions.answer(function, ok());
        }
        let api = WebSocketApi::new(config, functions.clone()).unwrap();
        let connections = api.connections();
        let server = Running::start(|listener, shutdown| api.serve(listener, shutdown)).await;
        Self { functions, connections, server }
    }

    fn request(&self, path: &str) -> Request {
        format!("ws://{}{path}", self.server.address).into_client_request().unwrap()
    }

    async fn dial(&self, request: Request) -> Result<(Socket, Response), SocketError> {
        client_async(request, TcpStream::connect(&self.server.address).await.unwrap()).await
    }

    async fn connect(&self) -> Socket {
        self.dial(self.request("/prod")).await.unwrap().0
    }

    /// A socket and its connection id.
    async fn connect_with_id(&self) -> (Socket, String) {
        let before = self.functions.calls("connect").len();
        let socket = self.connect().await;
        let event = self.functions.wait_for("connect", before + 1).await.pop().unwrap();
        (socket, connection_id(&event))
    }

    /// The status and the body of a refused handshake.
    async fn refused(&self, path: &str) -> (u16, String) {
        match self.dial(self.request(path)).await {
            Err(SocketError::Http(response)) => {
                let status = response.status().as_u16();
                (status, String::from_utf8(response.into_body().unwrap_or_default()).unwrap())
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    fn management(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address)
    }
}

fn connection_id(event: &Value) -> String {
    event["requestContext"]["connectionId"].as_str().unwrap().to_owned()
}

async fn next(socket: &mut Socket) -> Message {
    timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap()
}

async fn next_text(socket: &mut Socket) -> String {
    next(socket).await.into_text().unwrap().to_string()
}

/// The code of the close frame that must come next.
async fn closed_with(socket: &mut Socket) -> (u16, String) {
    match next(socket).await {
        Message::Close(Some(CloseFrame { code, reason })) => (code.into(), reason.to_string()),
        other => panic!("not a close frame: {other:?}"),
    }
}

async fn send(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

/// Removes what differs from run to run, after checking its form.
fn settled(mut event: Value) -> Value {
    let context = event["requestContext"].as_object_mut().unwrap();
    let id = context.remove("connectionId").unwrap();
    assert!(id.as_str().unwrap().len() == 16 && id.as_str().unwrap().ends_with('='));
    let request_id = context.remove("requestId").unwrap();
    assert_eq!(context.remove("extendedRequestId").unwrap(), request_id);
    assert!(context.remove("requestTime").unwrap().as_str().unwrap().ends_with(" +0000"));
    let connected_at = context.remove("connectedAt").unwrap().as_i64().unwrap();
    assert!(context.remove("requestTimeEpoch").unwrap().as_i64().unwrap() >= connected_at);
    event
}

#[tokio::test]
async fn the_events_of_a_connection_have_aws_shape() {
    let stack = Stack::start(config()).await;
    let mut request = stack.request("/prod?a=1&a=%E4%BD%A0&b=");
    request.headers_mut().insert("user-agent", "t".parse().unwrap());
    request.headers_mut().append("x-many", "1".parse().unwrap());
    request.headers_mut().append("x-many", "2".parse().unwrap());
    let key = request.headers()["sec-websocket-key"].to_str().unwrap().to_owned();
    let (mut socket, _) = stack.dial(request).await.unwrap();
    send(&mut socket, r#"{"action":"special","text":"你好😀"}"#).await;
    socket.close(Some(CloseFrame { code: CloseCode::from(4001), reason: "bye".into() })).await.unwrap();
    let disconnect = stack.functions.wait_for("disconnect", 1).await.remove(0);

    let mut connect = settled(stack.functions.calls("connect").remove(0));
    let trace = connect["headers"].as_object_mut().unwrap().remove("X-Amzn-Trace-Id").unwrap();
    assert_eq!(
        connect["multiValueHeaders"].as_object_mut().unwrap().remove("X-Amzn-Trace-Id").unwrap(),
        json!([trace])
    );
    let address = &stack.server.address;
    let port = address.rsplit(':').next().unwrap();
    let identity = json!({ "sourceIp": "127.0.0.1", "userAgent": "t" });
    let domain = "ws1.execute-api.us-east-1.amazonaws.com";
    let context = |route_key: &str, event_type: &str| {
        json!({
            "routeKey": route_key, "eventType": event_type, "messageDirection": "IN", "stage": "prod",
            "identity": identity, "domainName": domain, "apiId": "ws1",
        })
    };
    assert_eq!(
        connect,
        json!({
            "headers": {
                "Host": address, "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13", "User-Agent": "t",
                "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Port": port, "X-Forwarded-Proto": "http", "X-Many": "2",
            },
            "multiValueHeaders": {
                "Host": [address], "Sec-WebSocket-Key": [key], "Sec-WebSocket-Version": ["13"], "User-Agent": ["t"],
                "X-Forwarded-For": ["127.0.0.1"], "X-Forwarded-Port": [port], "X-Forwarded-Proto": ["http"],
                "X-Many": ["1", "2"],
            },
            "queryStringParameters": { "a": "你", "b": "" },
            "multiValueQueryStringParameters": { "a": ["1", "你"], "b": [""] },
            "requestContext": context("$connect", "CONNECT"),
            "isBase64Encoded": false,
        })
    );
    let mut message = settled(stack.functions.calls("special").remove(0));
    let message_id = message["requestContext"].as_object_mut().unwrap().remove("messageId").unwrap();
    assert!(message_id.as_str().unwrap().ends_with('='));
    assert_eq!(
        message,
        json!({
            "requestContext": context("special", "MESSAGE"),
            "body": r#"{"action":"special","text":"你好😀"}"#,
            "isBase64Encoded": false,
        })
    );
    let mut disconnect = settled(disconnect);
    let left = disconnect["requestContext"].as_object_mut().unwrap();
    assert_eq!(left.remove("disconnectStatusCode").unwrap(), 4001);
    assert_eq!(left.remove("disconnectReason").unwrap(), "bye");
    assert_eq!(
        disconnect,
        json!({
            "headers": { "Host": domain, "x-api-key": "", "X-Forwarded-For": "", "x-restapi": "" },
            "multiValueHeaders": { "Host": [domain], "x-api-key": [""], "X-Forwarded-For": [""], "x-restapi": [""] },
            "requestContext": context("$disconnect", "DISCONNECT"),
            "isBase64Encoded": false,
        })
    );
}

#[tokio::test]
async fn a_refusal_of_connect_is_the_status_of_the_handshake() {
    type Case = (fn() -> Outcome, u16, Option<&'static str>);
    let cases: [Case; 7] = [
        (|| success(&json!({ "statusCode": 401, "body": "who?" })), 401, Some("who?")),
        (|| success(&json!({ "statusCode": 429, "headers": { "Retry-After": "1" } })), 429, Some("")),
        (|| success(&json!({ "statusCode": 302 })), 302, Some("")),
        (function_error, 502, None),
        (|| success(&json!(null)), 502, None),
        (|| success(&json!({ "ok": true })), 502, None),
        (|| Err(InvokeError::Throttled), 500, None),
    ];
    for (outcome, status, body) in cases {
        let stack = Stack::start(config()).await;
        stack.functions.on("connect", move |_| outcome());
        let (refused, text) = stack.refused("/prod").await;
        assert_eq!(refused, status);
        match body {
            Some(body) => assert_eq!(text, body),
            None => {
                let told: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(told["message"], "Internal server error");
                assert!(told["connectionId"].is_string() && told["requestId"].is_string());
            }
        }
        assert_eq!(stack.connections.count(), 0);
        assert!(stack.functions.calls("disconnect").is_empty(), "what never was connected is not disconnected");
    }
}

#[tokio::test]
async fn a_slow_connect_is_answered_504() {
    let limits = WebSocketLimits { integration_timeout: Duration::from_millis(50), ..WebSocketLimits::default() };
    let stack = Stack::start(WebSocketConfig { limits, ..config() }).await;
    stack.functions.on_async("connect", |_| std::future::pending());
    let (status, body) = stack.refused("/prod").await;
    assert_eq!(status, 504);
    assert!(body.contains("Endpoint request timed out"), "{body}");
}

#[tokio::test]
async fn only_upgrades_of_the_stage_are_taken() {
    let stack = Stack::start(config()).await;
    for path in ["/dev", "/prod/more", "/products"] {
        assert_eq!(stack.refused(path).await.0, 403, "{path}");
    }
    let plain = Client::builder().no_proxy().build().unwrap().get(stack.management("/prod")).send().await.unwrap();
    assert_eq!(plain.status(), 426);
    assert_eq!(plain.headers()["sec-websocket-version"], "13");
    assert!(stack.functions.calls("connect").is_empty());
    for path in ["/prod", "/prod/", "/"] {
        stack.dial(stack.request(path)).await.unwrap();
    }
}

#[tokio::test]
async fn an_authorizer_sees_the_handshake_and_its_context_goes_with_each_event() {
    let stack = Stack::start(guarded()).await;
    stack.functions.answer("auth", allow(json!({ "tenant": "甲", "level": 3, "admin": true })));
    let (mut socket, _) = stack.dial(stack.request("/prod?ticket=t1")).await.unwrap();
    send(&mut socket, "hello").await;
    stack.functions.wait_for("default", 1).await;
    drop(socket);
    stack.functions.wait_for("disconnect", 1).await;

    let mut seen = settled(stack.functions.calls("auth").remove(0));
    assert_eq!(seen["type"], "REQUEST");
    assert_eq!(seen["methodArn"], "arn:aws:execute-api:us-east-1:123456789012:ws1/prod/$connect");
    assert_eq!(seen["queryStringParameters"], json!({ "ticket": "t1" }));
    assert_eq!(seen["headers"]["Upgrade"], "websocket");
    assert_eq!(
        (&seen["multiValueQueryStringParameters"], &seen["stageVariables"]),
        (&json!({ "ticket": ["t1"] }), &json!({}))
    );
    let context = seen["requestContext"].as_object_mut().unwrap();
    assert_eq!((context["eventType"].as_str(), context.get("authorizer")), (Some("CONNECT"), None));
    let seen: ApiGatewayCustomAuthorizerRequestTypeRequest = serde_json::from_value(seen).unwrap();
    assert_eq!(seen.query_string_parameters.first("ticket"), Some("t1"));
    for function in ["connect", "default", "disconnect"] {
        let event = stack.functions.calls(function).remove(0);
        let parsed: ApiGatewayWebsocketProxyRequest = serde_json::from_value(event).unwrap();
        assert_eq!(parsed.request_context.authorizer.fields["tenant"], "甲");
        let mut event = stack.functions.calls(function).remove(0);
        let handed_on = event["requestContext"]["authorizer"].as_object_mut().unwrap();
        assert!(handed_on.remove("integrationLatency").unwrap().is_u64());
        let expected = json!({ "principalId": "user-1", "tenant": "甲", "level": "3", "admin": "true" });
        assert_eq!(Value::Object(handed_on.clone()), expected, "{function}");
    }
}

#[tokio::test]
async fn who_is_not_authorized_never_reaches_connect() {
    let deny = json!({ "principalId": "u", "policyDocument": { "Statement": [
        { "Effect": "Deny", "Action": "execute-api:Invoke", "Resource": "*" },
    ] } });
    let elsewhere = json!({ "principalId": "u", "policyDocument": { "Statement": [
        { "Effect": "Allow", "Action": "execute-api:Invoke", "Resource": "arn:aws:execute-api:us-east-1:123456789012:ws1/prod/*/*" },
    ] } });
    type Case = (Box<dyn Fn() -> Outcome + Send + Sync>, &'static str, u16, &'static str);
    let cases: [Case; 8] = [
        (Box::new(|| success(&allow(json!({})))), "/prod", 401, "Unauthorized"),
        (Box::new(|| success(&allow(json!({})))), "/prod?ticket=", 401, "Unauthorized"),
        (Box::new(move || success(&deny)), "/prod?ticket=t", 403, "Forbidden"),
        (Box::new(move || success(&elsewhere)), "/prod?ticket=t", 403, "Forbidden"),
        (Box::new(|| success(&json!({ "statusCode": 401 }))), "/prod?ticket=t", 500, "Internal server error"),
        (Box::new(|| success(&allow(json!({ "list": [1] })))), "/prod?ticket=t", 500, "Internal server error"),
        (Box::new(function_error), "/prod?ticket=t", 500, "Internal server error"),
        (Box::new(|| Err(InvokeError::Throttled)), "/prod?ticket=t", 500, "Internal server error"),
    ];
    for (outcome, path, status, message) in cases {
        let stack = Stack::start(guarded()).await;
        stack.functions.on("auth", move |_| outcome());
        let (refused, body) = stack.refused(path).await;
        assert_eq!(refused, status, "{message}");
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["message"], message);
        assert!(stack.functions.calls("connect").is_empty());
        assert_eq!(stack.functions.calls("auth").len(), usize::from(status != 401));
    }
}

#[tokio::test]
async fn a_subprotocol_is_chosen_by_the_function_alone() {
    let stack = Stack::start(config()).await;
    let offer = || {
        let mut request = stack.request("/prod");
        request.headers_mut().insert("sec-websocket-protocol", "bearer.abc, chat".parse().unwrap());
        stack.dial(request)
    };
    assert!(offer().await.is_err(), "a client that offered must be answered");
    let event = stack.functions.calls("connect").remove(0);
    assert_eq!(event["headers"]["Sec-WebSocket-Protocol"], "bearer.abc, chat");

    let chosen = json!({ "statusCode": 200, "headers": { "sec-websocket-protocol": "chat" } });
    stack.functions.answer("connect", chosen);
    let (_, response) = offer().await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
}

#[tokio::test]
async fn posts_are_refused_until_connect_has_returned() {
    let stack = Stack::start(config()).await;
    let early = Arc::new(Mutex::new(None));
    let (connections, result) = (stack.connections.clone(), early.clone());
    stack.functions.on_async("connect", move |event| {
        let (connections, result) = (connections.clone(), result.clone());
        async move {
            *result.lock().await = Some(connections.post(&connection_id(&event), "early".into()).await);
            success(&ok())
        }
    });
    let (mut socket, id) = stack.connect_with_id().await;
    assert_eq!(early.lock().await.take(), Some(Err(ConnectionsError::Gone)));
    stack.connections.post(&id, "later".into()).await.unwrap();
    assert_eq!(next_text(&mut socket).await, "later");
}

#[tokio::test]
async fn posts_of_another_task_arrive_in_order() {
    let stack = Stack::start(config()).await;
    let (mut socket, id) = stack.connect_with_id().await;
    let connections = stack.connections.clone();
    let poster = tokio::spawn(async move {
        for number in 0..2_000 {
            connections.post(&id, format!("{number} 你好😀").into()).await.unwrap();
        }
    });
    for number in 0..2_000 {
        assert_eq!(next_text(&mut socket).await, format!("{number} 你好😀"));
    }
    poster.await.unwrap();
}

#[tokio::test]
async fn two_hundred_sockets_hear_a_broadcast() {
    let stack = Stack::start(config()).await;
    let mut sockets = join_all((0..200).map(|_| stack.connect())).await;
    let ids: Vec<_> = stack.functions.wait_for("connect", 200).await.iter().map(connection_id).collect();
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 200);
    for round in ["one", "two"] {
        let posted = join_all(ids.iter().map(|id| stack.connections.post(id, round.into()))).await;
        assert!(posted.iter().all(Result::is_ok));
    }
    for socket in &mut sockets {
        assert_eq!((next_text(socket).await, next_text(socket).await), ("one".to_owned(), "two".to_owned()));
    }
    drop(sockets);
    let gone = stack.functions.wait_for("disconnect", 200).await;
    assert_eq!(gone.iter().map(connection_id).collect::<std::collections::HashSet<_>>().len(), 200);
    assert_eq!(stack.connections.count(), 0);
}

#[tokio::test]
async fn every_end_of_a_connection_is_one_disconnect() {
    let stack = Stack::start(config()).await;
    let ended = |events: &[Value]| {
        let context = &events.last().unwrap()["requestContext"];
        (context["disconnectStatusCode"].as_u64().unwrap(), context["disconnectReason"].as_str().unwrap().to_owned())
    };

    let (socket, id) = stack.connect_with_id().await;
    drop(socket);
    assert_eq!(ended(&stack.functions.wait_for("disconnect", 1).await).0, 1006, "an abrupt drop");
    assert_eq!(stack.connections.post(&id, "x".into()).await, Err(ConnectionsError::Gone));

    let (mut socket, id) = stack.connect_with_id().await;
    socket.close(None).await.unwrap();
    let expected = (1005, "Client-side close frame status not set".to_owned());
    assert_eq!(ended(&stack.functions.wait_for("disconnect", 2).await), expected);
    assert!(timeout(PATIENCE, socket.next()).await.unwrap().is_none_or(|last| last.is_ok_and(|last| last.is_close())));
    assert_eq!(stack.connections.get(&id), Err(ConnectionsError::Gone));

    let (mut socket, id) = stack.connect_with_id().await;
    stack.connections.post(&id, "last words".into()).await.unwrap();
    stack.connections.delete(&id).unwrap();
    assert_eq!(stack.connections.post(&id, "x".into()).await, Err(ConnectionsError::Gone), "gone at once");
    assert_eq!(stack.connections.delete(&id), Err(ConnectionsError::Gone));
    assert_eq!(next_text(&mut socket).await, "last words");
    assert_eq!(closed_with(&mut socket).await, (1000, "Connection Closed Normally".to_owned()));
    drop(socket);
    let expected = (1000, "Connection Closed Normally".to_owned());
    assert_eq!(ended(&stack.functions.wait_for("disconnect", 3).await), expected);

    assert_eq!(stack.functions.calls("disconnect").len(), 3);
    assert_eq!(stack.connections.count(), 0);
}

#[tokio::test]
async fn a_shutdown_closes_every_socket_and_disconnects_it() {
    let mut stack = Stack::start(config()).await;
    let mut sockets = [stack.connect().await, stack.connect().await];
    stack.server.stop();
    for socket in &mut sockets {
        assert_eq!(closed_with(socket).await, (1001, "Going away".to_owned()));
    }
    drop(sockets);
    stack.server.stopped().await;
    assert_eq!(stack.functions.calls("disconnect").len(), 2);
    assert_eq!(stack.connections.count(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_during_connect_is_disconnected_once() {
    let stack = Stack::start(config()).await;
    let go = Arc::new(Notify::new());
    let inside = go.clone();
    stack.functions.on_async("connect", move |_| {
        let go = inside.clone();
        async move {
            go.notified().await;
            success(&ok())
        }
    });
    let mut stream = TcpStream::connect(&stack.server.address).await.unwrap();
    let request = "GET /prod HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let event = stack.functions.wait_for("connect", 1).await.remove(0);
    drop(stream);
    go.notify_one();
    let gone = stack.functions.wait_for("disconnect", 1).await;
    assert_eq!(connection_id(&gone[0]), connection_id(&event));
    assert_eq!(gone[0]["requestContext"]["disconnectStatusCode"], 1006);
    assert_eq!(stack.connections.count(), 0);
}

#[tokio::test]
async fn messages_of_a_connection_are_handled_one_by_one_and_before_its_disconnect() {
    let stack = Stack::start(config()).await;
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (running_inside, most_inside) = (running.clone(), most.clone());
    stack.functions.on_async("default", move |_| {
        let (running, most) = (running_inside.clone(), most_inside.clone());
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            success(&ok())
        }
    });
    let mut socket = stack.connect().await;
    for number in 0..100 {
        send(&mut socket, &number.to_string()).await;
    }
    socket.close(None).await.unwrap();
    stack.functions.wait_for("disconnect", 1).await;
    let bodies: Vec<_> = stack.functions.calls("default").iter().map(|event| event["body"].clone()).collect();
    assert_eq!(bodies, (0..100).map(|number| json!(number.to_string())).collect::<Vec<_>>());
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert_eq!(stack.functions.calls.borrow().last().unwrap().0, "disconnect");
}

#[tokio::test]
async fn only_a_route_with_a_route_response_answers_its_client() {
    let mut config = config();
    config.routes.insert("echo".to_owned(), WebSocketRoute { function: "echo".to_owned(), route_response: true });
    let stack = Stack::start(config).await;
    stack.functions.answer("special", json!({ "statusCode": 200, "body": "never seen" }));
    stack.functions.on("echo", |event| success(&json!({ "statusCode": 200, "body": event["body"] })));
    let mut socket = stack.connect().await;
    send(&mut socket, r#"{"action":"special"}"#).await;
    send(&mut socket, r#"{"action":"echo","text":"😀"}"#).await;
    assert_eq!(next_text(&mut socket).await, r#"{"action":"echo","text":"😀"}"#);
    assert_eq!(stack.functions.calls("special").len(), 1);
}

#[tokio::test]
async fn a_message_that_cannot_be_handled_is_answered_with_its_ids() {
    let limits = WebSocketLimits { integration_timeout: Duration::from_secs(1), ..WebSocketLimits::default() };
    let mut config = WebSocketConfig { limits, ..config() };
    config.routes.remove("$default");
    for key in ["slow", "malformed", "missing"] {
        config.routes.insert(key.to_owned(), WebSocketRoute::new(key));
    }
    let stack = Stack::start(config).await;
    stack.functions.on("special", |_| function_error());
    stack.functions.on_async("slow", |_| std::future::pending());
    stack.functions.answer("malformed", json!("fine"));
    let (mut socket, id) = stack.connect_with_id().await;
    let cases = [
        ("special", "Internal server error"),
        ("malformed", "Internal server error"),
        ("missing", "Internal server error"),
        ("slow", "Endpoint request timed out"),
        ("unknown", "Forbidden"),
        ("$connect", "Forbidden"),
    ];
    for (action, message) in cases {
        send(&mut socket, &json!({ "action": action }).to_string()).await;
        let told: Value = serde_json::from_str(&next_text(&mut socket).await).unwrap();
        assert_eq!((&told["message"], &told["connectionId"]), (&json!(message), &json!(id)), "{action}");
        assert!(told["requestId"].is_string());
    }
    assert_eq!(stack.functions.calls("connect").len(), 1);
}

#[tokio::test]
async fn binary_messages_travel_in_base64_and_binary_posts_as_binary_frames() {
    let stack = Stack::start(config()).await;
    let (mut socket, id) = stack.connect_with_id().await;
    let bytes = vec![0, 159, 146, 150];
    socket.send(Message::binary(bytes.clone())).await.unwrap();
    let event = stack.functions.wait_for("default", 1).await.remove(0);
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!(STANDARD.encode(&bytes)), &json!(true)));
    stack.connections.post(&id, bytes.clone().into()).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::binary(bytes));
}

fn fragments(total: usize, frame: usize) -> Vec<Message> {
    let count = total.div_ceil(frame);
    (0..count)
        .map(|index| {
            let opcode = OpCode::Data(if index == 0 { Data::Text } else { Data::Continue });
            let size = frame.min(total - index * frame);
            Message::Frame(Frame::message("a".repeat(size), opcode, index + 1 == count))
        })
        .collect()
}

#[tokio::test]
async fn frames_of_32_kilobytes_and_messages_of_128_pass_and_larger_ones_close_the_socket() {
    let stack = Stack::start(config()).await;
    let mut socket = stack.connect().await;
    for frame in fragments(128 * 1024, 32 * 1024) {
        socket.send(frame).await.unwrap();
    }
    let event = stack.functions.wait_for("default", 1).await.remove(0);
    assert_eq!(event["body"].as_str().unwrap().len(), 128 * 1024);

    for (nth, (total, frame)) in
        [(32 * 1024 + 1, 64 * 1024), (128 * 1024 + 1, 32 * 1024), (300_000, 300_000)].into_iter().enumerate()
    {
        let mut socket = stack.connect().await;
        for frame in fragments(total, frame) {
            socket.send(frame).await.unwrap();
        }
        assert_eq!(closed_with(&mut socket).await.0, 1009, "{total} {frame}");
        drop(socket);
        let gone = stack.functions.wait_for("disconnect", nth + 1).await;
        assert_eq!(gone[nth]["requestContext"]["disconnectStatusCode"], 1009);
    }
    assert_eq!(stack.functions.calls("default").len(), 1);
}

#[tokio::test]
async fn idle_and_old_connections_go_away() {
    let short = Duration::from_millis(300);
    let limits = [
        WebSocketLimits { idle_timeout: short, ..WebSocketLimits::default() },
        WebSocketLimits { max_duration: short, ..WebSocketLimits::default() },
    ];
    for limits in limits {
        let stack = Stack::start(WebSocketConfig { limits, ..config() }).await;
        let mut socket = stack.connect().await;
        assert_eq!(closed_with(&mut socket).await, (1001, "Going away".to_owned()));
        drop(socket);
        let gone = stack.functions.wait_for("disconnect", 1).await.remove(0);
        assert_eq!(gone["requestContext"]["disconnectStatusCode"], 1001);
    }
}

#[tokio::test]
async fn a_connection_that_is_used_is_not_idle() {
    let limits = WebSocketLimits { idle_timeout: Duration::from_millis(1_500), ..WebSocketLimits::default() };
    let stack = Stack::start(WebSocketConfig { limits, ..config() }).await;
    let (mut socket, id) = stack.connect_with_id().await;
    let info = stack.connections.get(&id).unwrap();
    let mut turn = tokio::time::interval(Duration::from_millis(400));
    for number in 0..6 {
        turn.tick().await;
        if number % 2 == 0 {
            socket.send(Message::Ping(Bytes::new())).await.unwrap();
            assert!(next(&mut socket).await.is_pong());
        } else {
            stack.connections.post(&id, "x".into()).await.unwrap();
            assert_eq!(next_text(&mut socket).await, "x");
        }
    }
    let later = stack.connections.get(&id).unwrap();
    assert_eq!(later.connected_at, info.connected_at);
    assert!(later.last_active_at > info.last_active_at);
}

#[tokio::test]
async fn a_client_that_does_not_read_blocks_only_itself() {
    let limits = WebSocketLimits {
        post_wait: Duration::from_millis(100),
        outbound_buffer_bytes: 256 * 1024,
        ..WebSocketLimits::default()
    };
    let stack = Stack::start(WebSocketConfig { limits, ..config() }).await;
    let (slow_socket, slow) = stack.connect_with_id().await;
    let (mut socket, id) = stack.connect_with_id().await;
    let large = Bytes::from("a".repeat(128 * 1024));
    let mut accepted = 0;
    let refused = loop {
        match stack.connections.post(&slow, large.clone()).await {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1_000, "nothing bounds the buffer");
    };
    assert_eq!(refused, ConnectionsError::LimitExceeded);
    stack.connections.post(&id, "quick".into()).await.unwrap();
    assert_eq!(next_text(&mut socket).await, "quick");

    let waiting = stack.connections.post(&slow, large.clone());
    let (result, deleted) = tokio::join!(waiting, async { stack.connections.delete(&slow) });
    assert!(result.is_err() && deleted.is_ok());
    drop(slow_socket);
    let gone = stack.functions.wait_for("disconnect", 1).await;
    assert_eq!(connection_id(&gone[0]), slow);
}

#[tokio::test]
async fn the_management_api_speaks_rest_json() {
    let stack = Stack::start(config()).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let (mut socket, id) = stack.connect_with_id().await;
    let encoded = id.replace('=', "%3D");
    for (path, text) in
        [(format!("/@connections/{encoded}"), "bare 你"), (format!("/prod/%40connections/{id}"), "staged 😀")]
    {
        let posted = client.post(stack.management(&path)).body(text).send().await.unwrap();
        assert_eq!((posted.status().as_u16(), posted.text().await.unwrap()), (200, String::new()));
        assert_eq!(next_text(&mut socket).await, text);
    }
    let url = stack.management(&format!("/prod/@connections/{encoded}"));
    let info: Value = client.get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(info["identity"], json!({ "sourceIp": "127.0.0.1", "userAgent": "" }));
    for field in ["connectedAt", "lastActiveAt"] {
        let text = info[field].as_str().unwrap();
        assert!(text.starts_with("20") && text.ends_with('Z'), "{text}");
    }
    let limit = 128 * 1024;
    assert_eq!(client.post(&url).body("a".repeat(limit)).send().await.unwrap().status(), 200);
    assert_eq!(next(&mut socket).await.len(), limit);

    let expect = async |request: reqwest::RequestBuilder, status: u16, error: &str| {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{error}");
        assert_eq!(answer.headers()["x-amzn-errortype"], error);
        assert!(answer.headers().contains_key("x-amzn-requestid"));
        assert!(answer.json::<Value>().await.unwrap()["message"].is_string());
    };
    expect(client.post(&url).body("a".repeat(limit + 1)), 413, "PayloadTooLargeException").await;
    expect(client.post(stack.management("/@connections/nonsense")), 400, "BadRequestException").await;
    expect(client.get(stack.management("/@connections/AAAAAAAAAAAAAAA=")), 410, "GoneException").await;

    assert_eq!(client.delete(&url).send().await.unwrap().status(), 204);
    assert_eq!(closed_with(&mut socket).await.0, 1000);
    for request in [client.delete(&url), client.post(&url).body("x"), client.get(&url)] {
        expect(request, 410, "GoneException").await;
    }
}

#[tokio::test]
async fn management_requests_of_another_listener_are_answered() {
    let api = WebSocketApi::new(config(), Arc::new(Functions::default())).unwrap();
    let request = |path: &str| http::Request::get(path).body(http_body_util::Full::new(Bytes::new())).unwrap();
    assert_eq!(api.handle_management(request("/prod/@connections/AAAAAAAAAAAAAAA=")).await.status(), 410);
    assert_eq!(api.handle_management(request("/prod")).await.status(), 403);
}

#[tokio::test]
async fn an_api_without_routes_still_opens_sockets() {
    let config = WebSocketConfig { routes: BTreeMap::new(), ..config() };
    let functions = Arc::new(Functions::default());
    let (observer, records) = recorder();
    let api = WebSocketApi::with_observer(config, functions.clone(), Some(observer)).unwrap();
    let connections = api.connections();
    let server = Running::start(|listener, shutdown| api.serve(listener, shutdown)).await;
    let stack = Stack { functions, connections, server };
    let mut socket = stack.connect().await;
    assert_eq!(stack.connections.count(), 1);
    send(&mut socket, "x").await;
    assert!(next_text(&mut socket).await.contains("Forbidden"));
    let seen: Vec<_> = records.lock().unwrap().iter().map(|record| (record.route_key.clone(), record.status)).collect();
    assert_eq!(seen, [(Some("$connect".to_owned()), 101), (None, 403)]);
}
