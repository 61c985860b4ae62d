//! `GET /health`, `GET /ready` and `GET /openapi.json`.

use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, Instant};

use domain::fault::{PortFault, chain};
use futures_util::future::join;
use lambda_kit::http::{Request, Response, StatusCode, header, json, json_text};
use queue::SqsWorkQueue;
use serde_json::{Value, json};
use table::Table;

/// A dependency that takes longer does not count as ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// `/health` answers if the function runs at all; `/ready` is 503 unless every dependency answers in time.
pub(crate) async fn check(table: &Table, work: &SqsWorkQueue, request: Request) -> Result<Response, Infallible> {
    match request.uri().path().rsplit('/').next().unwrap_or_default() {
        "health" => Ok(json(StatusCode::OK, &json!({ "status": "ok" }))),
        "openapi.json" => Ok(description()),
        _ => Ok(readiness(table, work).await),
    }
}

fn description() -> Response {
    let mut response = json_text(StatusCode::OK, openapi::DOCUMENT.to_owned());
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=300"));
    response
}

async fn readiness(table: &Table, work: &SqsWorkQueue) -> Response {
    let (table, queue) = join(probe("table", table.probe()), probe("work_queue", work.probe())).await;
    let ready = [&table, &queue].iter().all(|state| state["status"] == "ok");
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if ready { "ready" } else { "unavailable" };
    json(status, &json!({ "status": word, "dependencies": { "table": table, "work_queue": queue } }))
}

async fn probe(name: &str, answer: impl Future<Output = Result<(), PortFault>>) -> Value {
    let start = Instant::now();
    let status = match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(())) => "ok",
        Ok(Err(fault)) => {
            tracing::error!(dependency = name, error = %chain(&fault), "A dependency failed");
            "failed"
        }
        Err(_) => {
            tracing::error!(dependency = name, "A dependency did not answer in time");
            "timed_out"
        }
    };
    let latency_ms = (start.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
    json!({ "status": status, "latency_ms": latency_ms })
}
