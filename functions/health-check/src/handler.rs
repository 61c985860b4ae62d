//! `GET /health` and `GET /ready`.

use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, Instant};

use domain::fault::{PortFault, chain};
use futures_util::future::join;
use lambda_kit::http::{Request, Response, StatusCode, json};
use queue::SqsWorkQueue;
use serde_json::{Value, json};
use table::Table;

/// A dependency that takes longer does not count as ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// `/health` answers if the function runs at all; `/ready` is 503 unless every dependency answers in time.
pub(crate) async fn check(table: &Table, work: &SqsWorkQueue, request: Request) -> Result<Response, Infallible> {
    if request.uri().path().ends_with("/health") {
        return Ok(json(StatusCode::OK, &json!({ "status": "ok" })));
    }
    let (table, queue) = join(probe("table", table.probe()), probe("work_queue", work.probe())).await;
    let ready = [&table, &queue].iter().all(|state| state["status"] == "ok");
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if ready { "ready" } else { "unavailable" };
    Ok(json(status, &json!({ "status": word, "dependencies": { "table": table, "work_queue": queue } })))
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
