//! The Lambda Runtime API as one function sees it: an event a number of times, then silence.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::Notify;

use crate::case::Case;
use crate::server::Api;

/// A deadline that no event reaches, in milliseconds since 1970.
const DEADLINE: &str = "4102444800000";

/// What the function did.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// When it first asked for an event: the end of its init.
    pub(crate) ready: Option<Instant>,
    /// From handing an event over until the answer came, for each event.
    pub(crate) latencies: Vec<Duration>,
    /// How much of it the function did not wait for AWS, for each event, where somebody takes AWS's time.
    pub(crate) own: Vec<Duration>,
    /// What it did that it should not have.
    pub(crate) failure: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    left: u32,
    sent: Option<Instant>,
    record: Record,
}

/// Feeds one function.
pub(crate) struct RuntimeApi {
    /// The event, given how many are still to come.
    event: Box<dyn Fn(u32) -> Bytes + Send + Sync>,
    /// How long AWS took to answer since the present event was handed over, in nanoseconds.
    aws_time: Arc<AtomicU64>,
    answer: &'static str,
    state: Mutex<State>,
    done: Notify,
}

impl RuntimeApi {
    /// Hands the case's event out `events` times.
    pub(crate) fn new(case: &Case, events: u32) -> Self {
        let event = case.event.clone();
        Self::making(move |_| event.clone(), case.answer, events, Arc::default())
    }

    /// Hands out an event of its own each time.
    pub(crate) fn making(
        event: impl Fn(u32) -> Bytes + Send + Sync + 'static,
        answer: &'static str,
        events: u32,
        aws_time: Arc<AtomicU64>,
    ) -> Self {
        let record = Record { latencies: Vec::with_capacity(events as usize), ..Record::default() };
        let state = Mutex::new(State { left: events, sent: None, record });
        Self { event: Box::new(event), aws_time, answer, state, done: Notify::new() }
    }

    /// Returns when the function waits for an event that will not come, or has failed.
    pub(crate) async fn done(&self) -> Record {
        self.done.notified().await;
        mem::take(&mut self.state().record)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next event, or `None` when all are handed out.
    fn next(&self) -> Option<Response<Full<Bytes>>> {
        let mut state = self.state();
        state.record.ready.get_or_insert_with(Instant::now);
        state.left = state.left.checked_sub(1)?;
        let mut response = Response::new(Full::new((self.event)(state.left)));
        for (name, value) in [
            ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
            ("lambda-runtime-deadline-ms", DEADLINE),
            ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:123456789012:function:bench"),
            ("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0"),
        ] {
            response.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        self.aws_time.store(0, Ordering::Relaxed);
        state.sent = Some(Instant::now());
        Some(response)
    }

    fn fail(&self, failure: String) {
        self.state().record.failure.get_or_insert(failure);
        self.done.notify_one();
    }
}

impl Api for RuntimeApi {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let received = Instant::now();
        if request.method() == Method::GET {
            if let Some(event) = self.next() {
                return event;
            }
            self.done.notify_one();
            return std::future::pending().await;
        }
        let answered = request.uri().path().ends_with("/response");
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if answered && contains(&body, self.answer.as_bytes()) {
            let mut state = self.state();
            if let Some(latency) = state.sent.take().map(|sent| received - sent) {
                let waited = Duration::from_nanos(self.aws_time.load(Ordering::Relaxed));
                state.record.latencies.push(latency);
                state.record.own.push(latency.saturating_sub(waited));
            }
        } else {
            self.fail(format!("it answered `{}`, without `{}`", String::from_utf8_lossy(&body), self.answer));
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::ACCEPTED;
        response
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
