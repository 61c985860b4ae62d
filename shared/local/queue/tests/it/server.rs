//! One HTTP endpoint for both services, as `X-Amz-Target` tells them apart.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use local_queue::events::{Buses, TargetError, TargetParameters, Targets, deliver_to_queue};
use local_queue::sqs::Queues;
use serde_json::Value;
use tokio::net::TcpListener;

/// Delivers every event to the queue its ARN names.
pub(crate) struct ToQueues(pub(crate) Queues);

#[async_trait]
impl Targets for ToQueues {
    async fn deliver(&self, arn: &str, event: &Value, parameters: &TargetParameters) -> Result<(), TargetError> {
        deliver_to_queue(&self.0, arn, event, parameters).await
    }
}

/// Serves queues and buses of the file `path` until the listener's task ends.
pub(crate) async fn serve(listener: TcpListener, path: &std::path::Path) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let queues = Queues::open(path, &format!("http://{address}"), "000000000000", "us-east-1").unwrap();
    let buses = Buses::open(path, "000000000000", "us-east-1", Arc::new(ToQueues(queues.clone()))).unwrap();
    let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state((queues, buses));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn answer(State((queues, buses)): State<(Queues, Buses)>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let response = match target.split_once('.') {
        Some(("AmazonSQS", operation)) => queues.handle(operation, body).await,
        Some(("AWSEvents", operation)) => buses.handle(operation, body).await,
        _ => return axum::http::StatusCode::NOT_FOUND.into_response(),
    };
    response.map(axum::body::Body::from)
}
