//! The HTTP API as clients and functions see it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_lambda_events::apigw::{ApiGatewayV2CustomAuthorizerV2Request, ApiGatewayV2httpRequest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use local_lambda::{InvokeError, Reply};
use reqwest::{Client, Method, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use super::{Functions, Outcome, PATIENCE, Running, function_error, ok, recorder, success};
use crate::{Authorizer, Cors, HttpApi, HttpApiConfig, HttpRoute};

struct Stack {
    functions: Arc<Functions>,
    server: Running,
    client: Client,
}

fn config(routes: &[(&str, &str)]) -> HttpApiConfig {
    HttpApiConfig {
        id: "api1".to_owned(),
        stage: "$default".to_owned(),
        stage_variables: BTreeMap::new(),
        routes: routes.iter().map(|(key, function)| HttpRoute::new(*key, *function)).collect(),
        cors: None,
        region: "us-east-1".to_owned(),
        account: "123456789012".to_owned(),
        domain: "api1.execute-api.us-east-1.amazonaws.com".to_owned(),
        integration_timeout: HttpApi::INTEGRATION_TIMEOUT,
    }
}

impl Stack {
    async fn start(config: HttpApiConfig) -> Self {
        let functions = Arc::new(Functions::default());
        let api = HttpApi::new(config, functions.clone()).unwrap();
        let server = Running::start(|listener, shutdown| api.serve(listener, shutdown)).await;
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { functions, server, client }
    }

    /// One route for everything, answered with `answer`.
    async fn answering(answer: Value) -> Self {
        let stack = Self::start(config(&[("$default", "f")])).await;
        stack.functions.answer("f", answer);
        stack
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address)
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    fn only_event(&self) -> Value {
        let events = self.functions.calls("f");
        assert_eq!(events.len(), 1);
        events.into_iter().next().unwrap()
    }

    /// Sends bytes that no client library would, and reads the answer to its end.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

async fn expect_message(response: Response, status: u16, message: &str) {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    assert!(header(&response, "apigw-requestid").is_some());
    assert_eq!(response.json::<Value>().await.unwrap(), json!({ "message": message }));
}

#[tokio::test]
async fn a_plain_request_becomes_the_event_of_format_2_0_and_nothing_else() {
    let stack = Stack::answering(ok()).await;
    let host = &stack.server.address;
    let port = host.rsplit(':').next().unwrap();
    let answer =
        stack.raw(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: t\r\nConnection: close\r\n\r\n")).await;
    let mut event = stack.only_event();

    let context = event["requestContext"].as_object_mut().unwrap();
    let request_id = context.remove("requestId").unwrap();
    assert!(answer.contains(&format!("apigw-requestid: {}\r\n", request_id.as_str().unwrap())), "{answer}");
    assert!(context.remove("timeEpoch").unwrap().as_i64().unwrap() > 1_500_000_000_000);
    assert!(context.remove("time").unwrap().as_str().unwrap().ends_with(" +0000"));
    let trace = event["headers"].as_object_mut().unwrap().remove("x-amzn-trace-id").unwrap();
    assert!(trace.as_str().unwrap().starts_with("Root=1-"));
    assert_eq!(
        event,
        json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/",
            "rawQueryString": "",
            "headers": {
                "content-length": "0",
                "host": host,
                "user-agent": "t",
                "x-forwarded-for": "127.0.0.1",
                "x-forwarded-port": port,
                "x-forwarded-proto": "http",
            },
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "api1",
                "domainName": "api1.execute-api.us-east-1.amazonaws.com",
                "domainPrefix": "api1",
                "http": { "method": "GET", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "t" },
                "routeKey": "$default",
                "stage": "$default",
            },
            "isBase64Encoded": false,
        })
    );
}

#[tokio::test]
async fn repeated_headers_and_parameters_are_joined_and_cookies_are_listed() {
    let stack = Stack::start(config(&[("POST /files/{owner}/{path+}", "f")])).await;
    stack.functions.answer("f", ok());
    let path = "/files/%E4%BD%A0%20%2F/a/%F0%9F%98%80?x=1&y=%E4%BD%A0+%2B&x=%F0%9F%98%80&empty=&bare";
    let mut request = stack.request(Method::POST, path).body("{\"a\":\"你好😀\"}");
    for (name, value) in [
        ("X-Many", "one"),
        ("X-Many", "two, three"),
        ("Cookie", "a=1; b=\"2;\""),
        ("Cookie", "c=3"),
        ("Content-Type", "application/json"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678"),
    ] {
        request = request.header(name, value);
    }
    assert_eq!(request.send().await.unwrap().status(), 200);
    let event = stack.only_event();
    assert_eq!(event["routeKey"], "POST /files/{owner}/{path+}");
    assert_eq!(event["rawPath"], "/files/你 //a/😀");
    assert_eq!(event["requestContext"]["http"]["path"], "/files/你 //a/😀");
    assert_eq!(event["rawQueryString"], "x=1&y=%E4%BD%A0+%2B&x=%F0%9F%98%80&empty=&bare");
    assert_eq!(event["queryStringParameters"], json!({ "x": "1,😀", "y": "你 +", "empty": "", "bare": "" }));
    assert_eq!(event["pathParameters"], json!({ "owner": "你 /", "path": "a/😀" }));
    assert_eq!(event["headers"]["x-many"], "one,two, three");
    assert_eq!(event["headers"].get("cookie"), None);
    assert_eq!(event["cookies"], json!(["a=1", "b=\"2", "\"", "c=3"]));
    assert_eq!(event["headers"]["x-forwarded-for"], "203.0.113.9, 127.0.0.1");
    let trace = event["headers"]["x-amzn-trace-id"].as_str().unwrap();
    assert!(trace.starts_with("Self=1-") && trace.ends_with(";Root=1-67891233-abcdef012345678912345678"), "{trace}");
    assert_eq!(event["body"], "{\"a\":\"你好😀\"}");
    assert_eq!(event["isBase64Encoded"], false);
    assert_eq!(event["headers"]["content-length"], "18");
}

#[tokio::test]
async fn bytes_survive_the_way_to_the_function_and_back() {
    let stack = Stack::start(config(&[("$default", "f")])).await;
    stack.functions.on("f", |event| {
        assert_eq!(event["isBase64Encoded"], true);
        success(&json!({
            "statusCode": 200,
            "headers": { "Content-Type": "image/png" },
            "body": event["body"],
            "isBase64Encoded": true,
        }))
    });
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let response = stack.request(Method::POST, "/").body(bytes.clone()).send().await.unwrap();
    assert_eq!(header(&response, "content-type"), Some("image/png"));
    assert_eq!(response.bytes().await.unwrap(), bytes);
    assert_eq!(stack.only_event()["body"], STANDARD.encode(&bytes));
}

#[tokio::test]
async fn a_body_of_unknown_length_is_counted_and_not_called_chunked() {
    let stack = Stack::answering(ok()).await;
    let host = &stack.server.address;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    );
    assert!(stack.raw(&request).await.starts_with("HTTP/1.1 200"));
    let event = stack.only_event();
    assert_eq!(event["body"], "abcde");
    assert_eq!(event["headers"]["content-length"], "5");
    assert_eq!(event["headers"].get("transfer-encoding"), None);
}

#[tokio::test]
async fn answers_with_and_without_a_status_code_are_understood() {
    let cases = [
        (json!({ "statusCode": 201, "body": "你好" }), 201, Some("text/plain;charset=UTF-8"), "你好"),
        (json!({ "statusCode": "202", "body": null }), 202, Some("text/plain;charset=UTF-8"), ""),
        (
            json!({ "statusCode": 404, "headers": { "content-type": "text/html" }, "body": "x" }),
            404,
            Some("text/html"),
            "x",
        ),
        (json!({ "statusCode": 204 }), 204, None, ""),
        (
            json!({ "statusCode": 200, "body": "5L2g", "isBase64Encoded": true }),
            200,
            Some("text/plain;charset=UTF-8"),
            "你",
        ),
        (json!({ "hello": "😀" }), 200, Some("application/json"), "{\"hello\":\"😀\"}"),
        (json!("Hello from Lambda!"), 200, Some("application/json"), "Hello from Lambda!"),
        (json!([1, 2]), 200, Some("application/json"), "[1,2]"),
        (json!(null), 200, Some("application/json"), "null"),
    ];
    for (answer, status, content_type, body) in cases {
        let stack = Stack::answering(answer.clone()).await;
        let response = stack.get("/").await;
        assert_eq!(response.status().as_u16(), status, "{answer}");
        assert_eq!(header(&response, "content-type"), content_type, "{answer}");
        assert_eq!(response.text().await.unwrap(), body, "{answer}");
    }
}

#[tokio::test]
async fn each_cookie_of_an_answer_is_a_header_and_multi_value_headers_are_not_read() {
    let stack = Stack::answering(json!({
        "statusCode": 302,
        "headers": { "Location": "https://a.example/", "X-Number": 7, "X-Flag": true, "Content-Length": "99" },
        "multiValueHeaders": { "X-Many": ["a", "b"] },
        "cookies": ["a=1; Path=/", "b=2; HttpOnly"],
    }))
    .await;
    let response = stack.get("/").await;
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(header(&response, "location"), Some("https://a.example/"));
    assert_eq!((header(&response, "x-number"), header(&response, "x-flag")), (Some("7"), Some("true")));
    assert_eq!(header(&response, "x-many"), None);
    assert_eq!(header(&response, "content-length"), Some("0"));
    let cookies: Vec<_> = response.headers().get_all(header::SET_COOKIE).iter().collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2; HttpOnly"]);
}

#[tokio::test]
async fn failures_have_the_status_and_the_words_of_api_gateway() {
    type Case = (fn() -> Outcome, u16, &'static str);
    let cases: [Case; 6] = [
        (function_error, 500, "Internal Server Error"),
        (|| success(&json!({ "statusCode": "maybe" })), 500, "Internal Server Error"),
        (|| Ok(Reply::Success("<html>".into())), 500, "Internal Server Error"),
        (|| Err(InvokeError::NotFound("f".to_owned())), 500, "Internal Server Error"),
        (|| Err(InvokeError::Throttled), 503, "Service Unavailable"),
        (|| Err(InvokeError::TooLarge { size: 7, limit: 6 }), 413, "Request Entity Too Large"),
    ];
    for (outcome, status, message) in cases {
        let stack = Stack::start(config(&[("$default", "f")])).await;
        stack.functions.on("f", move |_| outcome());
        expect_message(stack.get("/").await, status, message).await;
    }
}

#[tokio::test]
async fn a_slow_function_is_answered_503_and_runs_to_its_end() {
    let stack =
        Stack::start(HttpApiConfig { integration_timeout: Duration::from_millis(50), ..config(&[("$default", "f")]) })
            .await;
    let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (go_inside, done_inside) = (go.clone(), done.clone());
    stack.functions.on_async("f", move |_| {
        let (go, done) = (go_inside.clone(), done_inside.clone());
        async move {
            go.notified().await;
            done.notify_one();
            success(&ok())
        }
    });
    expect_message(stack.get("/").await, 503, "Service Unavailable").await;
    go.notify_one();
    tokio::time::timeout(PATIENCE, done.notified()).await.unwrap();
}

#[tokio::test]
async fn a_function_runs_on_when_its_client_goes_away() {
    let stack = Stack::start(config(&[("$default", "f")])).await;
    let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (go_inside, done_inside) = (go.clone(), done.clone());
    stack.functions.on_async("f", move |_| {
        let (go, done) = (go_inside.clone(), done_inside.clone());
        async move {
            go.notified().await;
            done.notify_one();
            success(&ok())
        }
    });
    let mut stream = TcpStream::connect(&stack.server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    stack.functions.wait_for("f", 1).await;
    drop(stream);
    go.notify_one();
    tokio::time::timeout(PATIENCE, done.notified()).await.unwrap();
}

#[tokio::test]
async fn a_running_request_is_answered_after_the_stop() {
    let mut stack = Stack::start(config(&[("$default", "f")])).await;
    let go = Arc::new(Notify::new());
    let go_inside = go.clone();
    stack.functions.on_async("f", move |_| {
        let go = go_inside.clone();
        async move {
            go.notified().await;
            success(&ok())
        }
    });
    let request = tokio::spawn(stack.request(Method::GET, "/").send());
    stack.functions.wait_for("f", 1).await;
    stack.server.stop();
    go.notify_one();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    stack.server.stopped().await;
    assert!(TcpStream::connect(&stack.server.address).await.is_err());
}

#[tokio::test]
async fn without_a_route_the_answer_is_404() {
    let stack = Stack::start(config(&[("GET /a/{id}", "f")])).await;
    for (method, path) in
        [(Method::GET, "/"), (Method::POST, "/a/1"), (Method::GET, "/a/1/"), (Method::OPTIONS, "/a/1")]
    {
        expect_message(stack.request(method, path).send().await.unwrap(), 404, "Not Found").await;
    }
    assert!(stack.functions.calls("f").is_empty());
}

#[tokio::test]
async fn a_named_stage_is_a_part_of_the_path_and_brings_its_variables() {
    let variables = BTreeMap::from([("color".to_owned(), "blue".to_owned())]);
    let config = HttpApiConfig { stage: "dev".to_owned(), stage_variables: variables, ..config(&[("GET /a", "f")]) };
    let stack = Stack::start(config).await;
    stack.functions.answer("f", ok());
    for path in ["/a", "/developer/a", "/dev", "/dev/b"] {
        expect_message(stack.get(path).await, 404, "Not Found").await;
    }
    assert_eq!(stack.get("/dev/a").await.status(), 200);
    let event = stack.only_event();
    assert_eq!(event["rawPath"], "/dev/a");
    assert_eq!(event["requestContext"]["stage"], "dev");
    assert_eq!(event["stageVariables"], json!({ "color": "blue" }));
}

#[tokio::test]
async fn ten_megabytes_pass_and_one_byte_more_does_not() {
    let stack = Stack::answering(ok()).await;
    let limit = 10 * 1024 * 1024;
    let send = |size: usize| {
        stack.request(Method::POST, "/").header("content-type", "text/plain").body("a".repeat(size)).send()
    };
    assert_eq!(send(limit).await.unwrap().status(), 200);
    assert_eq!(stack.only_event()["body"].as_str().unwrap().len(), limit);
    expect_message(send(limit + 1).await.unwrap(), 413, "Request Entity Too Large").await;
    assert_eq!(stack.functions.calls("f").len(), 1);
}

#[tokio::test]
async fn headers_over_10240_bytes_are_refused() {
    let stack = Stack::answering(ok()).await;
    let send = |size: usize| stack.request(Method::GET, "/").header("x-long", "a".repeat(size)).send();
    assert_eq!(send(9_900).await.unwrap().status(), 200);
    expect_message(send(10_200).await.unwrap(), 431, "Request Header Fields Too Large").await;
    let long_query = format!("/?{}", "q".repeat(10_240));
    expect_message(stack.get(&long_query).await, 431, "Request Header Fields Too Large").await;
    assert_eq!(stack.functions.calls("f").len(), 1);
}

#[tokio::test]
async fn head_has_the_headers_and_no_body() {
    let stack = Stack::answering(json!({ "statusCode": 200, "body": "12345" })).await;
    let response = stack.request(Method::HEAD, "/").send().await.unwrap();
    assert_eq!(header(&response, "content-length"), Some("5"));
    assert_eq!(response.text().await.unwrap(), "");
    assert_eq!(stack.only_event()["requestContext"]["http"]["method"], "HEAD");
}

fn cors() -> Cors {
    Cors {
        allow_origins: vec!["https://app.example".to_owned()],
        allow_methods: vec!["GET".to_owned(), "POST".to_owned()],
        allow_headers: vec!["authorization".to_owned(), "content-type".to_owned()],
        expose_headers: vec!["x-request-id".to_owned()],
        allow_credentials: true,
        max_age: Some(Duration::from_secs(300)),
    }
}

fn cors_headers(response: &Response) -> BTreeMap<String, String> {
    let own = response.headers().iter().filter(|(name, _)| name.as_str().starts_with("access-control-"));
    own.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_gateway_itself() {
    let route = HttpRoute {
        authorizer: Some(Authorizer { function: "auth".to_owned(), identity_sources: vec![] }),
        ..HttpRoute::new("ANY /{proxy+}", "f")
    };
    let stack = Stack::start(HttpApiConfig { cors: Some(cors()), routes: vec![route], ..config(&[]) }).await;
    let preflight = |origin: &'static str| {
        let request = stack.request(Method::OPTIONS, "/any/where").header("origin", origin);
        request.header("access-control-request-method", "POST").send()
    };
    let response = preflight("https://app.example").await.unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let expected = [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-headers", "authorization,content-type"),
        ("access-control-allow-methods", "GET,POST"),
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-max-age", "300"),
    ];
    assert_eq!(cors_headers(&response), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert!(header(&response, "apigw-requestid").is_some());

    let response = preflight("https://evil.example").await.unwrap();
    assert_eq!((response.status(), cors_headers(&response).len()), (StatusCode::NO_CONTENT, 0));
    assert!(stack.functions.calls("f").is_empty() && stack.functions.calls("auth").is_empty());

    let bare = stack.request(Method::OPTIONS, "/").send().await.unwrap();
    assert_eq!((bare.status(), cors_headers(&bare).len()), (StatusCode::NO_CONTENT, 0), "no route, no preflight");
}

#[tokio::test]
async fn the_configured_cors_headers_replace_those_of_the_function() {
    let stack = Stack::start(HttpApiConfig { cors: Some(cors()), ..config(&[("GET /a", "f")]) }).await;
    stack.functions.answer(
        "f",
        json!({
            "statusCode": 200,
            "headers": { "Access-Control-Allow-Origin": "*", "access-control-max-age": "1", "x-request-id": "1" },
        }),
    );
    let get = |path: &str, origin: Option<&str>| {
        let request = stack.request(Method::GET, path);
        origin.iter().fold(request, |request, origin| request.header("origin", *origin)).send()
    };
    let expected = [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-expose-headers", "x-request-id"),
    ];
    let expected = BTreeMap::from(expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let response = get("/a", Some("https://app.example")).await.unwrap();
    assert_eq!(cors_headers(&response), expected);
    assert_eq!(header(&response, "x-request-id"), Some("1"));
    assert_eq!(cors_headers(&get("/nowhere", Some("https://app.example")).await.unwrap()), expected, "on 404 too");
    assert!(cors_headers(&get("/a", Some("https://evil.example")).await.unwrap()).is_empty());
    assert!(cors_headers(&get("/a", None).await.unwrap()).is_empty());

    let without =
        Stack::answering(json!({ "statusCode": 200, "headers": { "Access-Control-Allow-Origin": "*" } })).await;
    assert_eq!(cors_headers(&without.get("/").await).len(), 1, "without a configuration the function's own stay");
}

async fn guarded() -> Stack {
    let route = HttpRoute {
        authorizer: Some(Authorizer {
            function: "auth".to_owned(),
            identity_sources: vec!["$request.header.Authorization".to_owned(), "$request.querystring.key".to_owned()],
        }),
        ..HttpRoute::new("GET /a/{id}", "f")
    };
    let stack = Stack::start(HttpApiConfig { routes: vec![route], ..config(&[]) }).await;
    stack.functions.answer("f", ok());
    stack
}

fn with_identity(stack: &Stack) -> impl Future<Output = reqwest::Result<Response>> {
    stack.request(Method::GET, "/a/1?key=k").header("authorization", "Bearer t").send()
}

#[tokio::test]
async fn an_authorizer_sees_the_request_and_its_context_reaches_the_function() {
    let stack = guarded().await;
    stack
        .functions
        .answer("auth", json!({ "isAuthorized": true, "context": { "user": "u1", "roles": ["a"], "n": 1 } }));
    assert_eq!(with_identity(&stack).await.unwrap().status(), 200);
    let seen = &stack.functions.calls("auth")[0];
    assert_eq!(seen["version"], "2.0");
    assert_eq!(seen["type"], "REQUEST");
    assert_eq!(seen["routeArn"], "arn:aws:execute-api:us-east-1:123456789012:api1/$default/GET/a/1");
    assert_eq!(seen["identitySource"], json!(["Bearer t", "k"]));
    assert_eq!(seen["pathParameters"], json!({ "id": "1" }));
    assert_eq!(seen["requestContext"].get("authorizer"), None);
    assert_eq!((seen.get("body"), seen.get("isBase64Encoded")), (None, None));
    let authorizer = &stack.only_event()["requestContext"]["authorizer"];
    assert_eq!(*authorizer, json!({ "lambda": { "user": "u1", "roles": ["a"], "n": 1 } }));

    let parsed: ApiGatewayV2CustomAuthorizerV2Request = serde_json::from_value(seen.clone()).unwrap();
    assert_eq!(parsed.route_arn.unwrap(), seen["routeArn"].as_str().unwrap());
    let parsed: ApiGatewayV2httpRequest = serde_json::from_value(stack.only_event()).unwrap();
    assert_eq!(parsed.request_context.authorizer.unwrap().fields["user"], "u1");
    assert_eq!(parsed.path_parameters["id"], "1");
}

#[tokio::test]
async fn without_an_identity_nothing_is_invoked() {
    let stack = guarded().await;
    stack.functions.answer("auth", json!({ "isAuthorized": true }));
    let requests = [
        stack.request(Method::GET, "/a/1"),
        stack.request(Method::GET, "/a/1?key=k"),
        stack.request(Method::GET, "/a/1?key=").header("authorization", "Bearer t"),
    ];
    for request in requests {
        expect_message(request.send().await.unwrap(), 401, "Unauthorized").await;
    }
    assert!(stack.functions.calls("auth").is_empty() && stack.functions.calls("f").is_empty());
}

#[tokio::test]
async fn what_an_authorizer_does_not_allow_never_reaches_the_function() {
    let deny = json!({ "principalId": "u", "policyDocument": { "Statement": [
        { "Effect": "Deny", "Action": "execute-api:Invoke", "Resource": "*" },
    ] } });
    type Case = (Box<dyn Fn() -> Outcome + Send + Sync>, u16, &'static str);
    let cases: [Case; 5] = [
        (Box::new(|| success(&json!({ "isAuthorized": false }))), 403, "Forbidden"),
        (Box::new(move || success(&deny)), 403, "Forbidden"),
        (Box::new(|| success(&json!({ "statusCode": 200 }))), 500, "Internal Server Error"),
        (Box::new(function_error), 500, "Internal Server Error"),
        (Box::new(|| Err(InvokeError::Throttled)), 500, "Internal Server Error"),
    ];
    for (outcome, status, message) in cases {
        let stack = guarded().await;
        stack.functions.on("auth", move |_| outcome());
        expect_message(with_identity(&stack).await.unwrap(), status, message).await;
        assert!(stack.functions.calls("f").is_empty());
    }
}

#[tokio::test]
async fn every_answer_is_observed_once() {
    let functions = Arc::new(Functions::default());
    functions.answer("f", json!({ "statusCode": 201 }));
    let (observer, records) = recorder();
    let api = HttpApi::with_observer(config(&[("GET /a", "f")]), functions, Some(observer)).unwrap();
    for path in ["/a", "/b"] {
        let body = http_body_util::Full::new(bytes::Bytes::new());
        let response = api.handle(http::Request::get(path).body(body).unwrap()).await;
        assert_eq!(response.headers()["apigw-requestid"], records.lock().unwrap().last().unwrap().request_id.as_str());
    }
    let seen: Vec<_> = records.lock().unwrap().iter().map(|record| (record.route_key.clone(), record.status)).collect();
    assert_eq!(seen, [(Some("GET /a".to_owned()), 201), (None, 404)]);
}
