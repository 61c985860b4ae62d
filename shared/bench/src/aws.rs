//! The AWS endpoint: every call succeeds at once, one app, one client and one source are in their tables, and buckets are empty.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::server::Api;

/// Answers DynamoDB, SQS, EventBridge and S3.
#[derive(Debug)]
pub(crate) struct Aws {
    /// The app's item, in DynamoDB's JSON.
    pub(crate) app: Map<String, Value>,
    /// The client's item, likewise.
    pub(crate) client: Map<String, Value>,
    /// The item of a source of events, likewise.
    pub(crate) source: Map<String, Value>,
    /// How many requests came, answered or not.
    pub(crate) requests: AtomicU64,
}

impl Api for Aws {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if !request.headers().contains_key("x-amz-target") {
            return empty_bucket(&request);
        }
        let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let wants = |entity: &str| {
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            body.pointer("/Key/sk/S").is_some_and(|sort_key| sort_key == entity)
        };
        let answer = match operation.as_str() {
            "GetItem" if wants("APP") => Ok(json!({ "Item": self.app })),
            "GetItem" if wants("SOURCE") => Ok(json!({ "Item": self.source })),
            "GetItem" if wants("CLIENT") => Ok(json!({ "Item": self.client })),
            "GetItem" | "PutItem" | "UpdateItem" => Ok(json!({})),
            "BatchGetItem" => Ok(json!({ "Responses": {}, "UnprocessedKeys": {} })),
            "Query" => Ok(json!({ "Count": 0, "Items": [], "ScannedCount": 0 })),
            "SendMessage" => Ok(json!({ "MessageId": "5fea7756-0ea4-451a-a703-a558b933e274" })),
            "PutEvents" => Ok(json!({ "FailedEntryCount": 0, "Entries": [] })),
            _ => Err(json!({ "__type": "UnknownOperationException" })),
        };
        let status = if answer.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        let (Ok(answer) | Err(answer)) = answer;
        let mut response = Response::new(Full::from(answer.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/x-amz-json-1.0"));
        response
    }
}

/// What S3 answers of a bucket without objects.
fn empty_bucket(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let (status, body) = match (request.method(), query.contains("list-type=2")) {
        (&Method::GET, false) if query.contains("uploads") => (
            StatusCode::OK,
            "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
        ),
        (&Method::GET, true) => (
            StatusCode::OK,
            "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>",
        ),
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>"),
        _ => (StatusCode::OK, ""),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert("etag", HeaderValue::from_static("\"d41d8cd98f00b204e9800998ecf8427e\""));
    response
}
