//! A function that answers by script, and ways to wait for what it was asked.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use local_lambda::{InvokeError, Invoker, Reply};
use serde_json::{Value, json};
use tokio::sync::Notify;

pub type Answer = Result<Reply, InvokeError>;
type Rule = dyn Fn(usize, &Value) -> Answer + Send + Sync;

/// Answers each event as its script says and remembers the events.
pub struct Script {
    answer: Box<Rule>,
    events: Mutex<Vec<Value>>,
    sizes: Mutex<Vec<usize>>,
    called: Notify,
}

impl Script {
    /// `answer` gets the number of the call, from 0, and the event.
    pub fn new(answer: impl Fn(usize, &Value) -> Answer + Send + Sync + 'static) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            answer: Box::new(answer),
            events: Mutex::default(),
            sizes: Mutex::default(),
            called: Notify::new(),
        })
    }

    pub fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The records of each call, named by `name`.
    pub fn batches(&self, name: impl Fn(&Value) -> String) -> Vec<Vec<String>> {
        self.events().iter().map(|event| records(event).iter().map(&name).collect()).collect()
    }

    pub async fn calls(&self, count: usize) {
        within(async {
            loop {
                let called = self.called.notified();
                if self.events().len() >= count {
                    return;
                }
                called.await;
            }
        })
        .await;
    }
}

#[async_trait]
impl Invoker for Script {
    async fn invoke(&self, _function: &str, payload: Bytes) -> Answer {
        let event: Value = serde_json::from_slice(&payload).unwrap();
        let call = {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            events.push(event.clone());
            self.sizes.lock().unwrap_or_else(PoisonError::into_inner).push(payload.len());
            events.len() - 1
        };
        let answer = (self.answer)(call, &event);
        self.called.notify_waiters();
        answer
    }
}

pub fn records(event: &Value) -> &Vec<Value> {
    event["Records"].as_array().unwrap()
}

pub fn ok() -> Answer {
    Ok(Reply::Success(Bytes::from("null")))
}

pub fn function_error() -> Answer {
    Ok(Reply::FunctionError(Bytes::from(r#"{"errorType":"Boom","errorMessage":"no"}"#)))
}

pub fn failed_items<S: AsRef<str>>(ids: impl IntoIterator<Item = S>) -> Answer {
    let failures: Vec<_> = ids.into_iter().map(|id| json!({"itemIdentifier": id.as_ref()})).collect();
    Ok(Reply::Success(Bytes::from(json!({"batchItemFailures": failures}).to_string())))
}

/// Fails the test instead of hanging it.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it takes too long")
}

/// Waits for a condition that nothing announces.
pub async fn eventually(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
