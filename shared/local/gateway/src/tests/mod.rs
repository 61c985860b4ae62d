//! Both APIs over real sockets, with functions that live in the test.

mod http_api;
mod websocket;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use local_lambda::{InvokeError, Invoker, Reply};
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{AccessRecord, Observer};

const PATIENCE: Duration = Duration::from_secs(20);

type Outcome = Result<Reply, InvokeError>;
type Handler = Arc<dyn Fn(Value) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// The functions of one test, and every event they have received.
#[derive(Default)]
struct Functions {
    handlers: Mutex<HashMap<String, Handler>>,
    calls: watch::Sender<Vec<(String, Value)>>,
}

#[async_trait]
impl Invoker for Functions {
    async fn invoke(&self, function: &str, payload: Bytes) -> Outcome {
        let event: Value = serde_json::from_slice(&payload).unwrap();
        let handler = self.handlers.lock().unwrap().get(function).cloned();
        let handler = handler.ok_or_else(|| InvokeError::NotFound(function.to_owned()))?;
        self.calls.send_modify(|calls| calls.push((function.to_owned(), event.clone())));
        handler(event).await
    }
}

impl Functions {
    fn on_async<F>(&self, function: &str, handler: impl Fn(Value) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |event| handler(event).boxed());
        self.handlers.lock().unwrap().insert(function.to_owned(), handler);
    }

    fn on(&self, function: &str, handler: impl Fn(Value) -> Outcome + Send + Sync + 'static) {
        self.on_async(function, move |event| std::future::ready(handler(event)));
    }

    fn answer(&self, function: &str, answer: Value) {
        self.on(function, move |_| success(&answer));
    }

    fn calls(&self, function: &str) -> Vec<Value> {
        events_of(&self.calls.borrow(), function)
    }

    /// Waits until `function` has been called `count` times.
    async fn wait_for(&self, function: &str, count: usize) -> Vec<Value> {
        let mut calls = self.calls.subscribe();
        let enough = calls.wait_for(|calls| events_of(calls, function).len() >= count);
        let calls = timeout(PATIENCE, enough).await.unwrap().unwrap();
        events_of(&calls, function)
    }
}

fn events_of(calls: &[(String, Value)], function: &str) -> Vec<Value> {
    calls.iter().filter(|(name, _)| name == function).map(|(_, event)| event.clone()).collect()
}

fn success(answer: &Value) -> Outcome {
    Ok(Reply::Success(answer.to_string().into()))
}

fn function_error() -> Outcome {
    let body = json!({ "errorType": "panic", "errorMessage": "secret detail" });
    Ok(Reply::FunctionError(body.to_string().into()))
}

fn ok() -> Value {
    json!({ "statusCode": 200 })
}

/// A listener's task, told to stop by `stop` and ended at the latest with the test.
struct Running {
    address: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start<F>(serve: impl FnOnce(tokio::net::TcpListener, BoxFuture<'static, ()>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, stopped.map(|_| ()).boxed()));
        Self { address, stop: Some(stop), task }
    }

    fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits until the server has said goodbye to everybody.
    async fn stopped(&mut self) {
        timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn recorder() -> (Observer, Arc<Mutex<Vec<AccessRecord>>>) {
    let records = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&records);
    (Arc::new(move |record: &AccessRecord| seen.lock().unwrap().push(record.clone())), records)
}
