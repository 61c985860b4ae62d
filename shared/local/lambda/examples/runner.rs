//! A runner for tests that kill it: `runner <state folder> <probe> <file>`. It prints the process ids of an idle and of a busy
//! function, while an event it has accepted adds to the file and hangs.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use local_lambda::{DeliveryError, Destinations, FunctionConfig, Functions, Invoker as _, LogLine, Reply, Settings};
use serde_json::json;

struct Nowhere;

#[async_trait]
impl Destinations for Nowhere {
    async fn deliver(&self, _: &str, _: Bytes) -> Result<(), DeliveryError> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, state_dir, probe, file] = <[String; 4]>::try_from(std::env::args().collect::<Vec<_>>())
        .map_err(|_| "usage: runner <state folder> <probe> <file>")?;
    let settings = Settings::new("eu-west-1", state_dir, Arc::new(|_: &LogLine<'_>| ()), Arc::new(Nowhere));
    let function = |name: &str| FunctionConfig {
        timeout: Duration::from_secs(600),
        ..FunctionConfig::new(name, format!("arn:aws:lambda:eu-west-1:000000000000:function:{name}"), &probe)
    };
    let functions = Functions::new(vec![function("idle"), function("busy"), function("event")], settings)?;
    let event = json!({"do": "attempt", "file": file, "failures": 1, "hang": true});
    functions.invoke_event("event", Bytes::from(event.to_string())).await?;
    while !std::fs::exists(&file)? {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut pids = Vec::new();
    for name in ["idle", "busy"] {
        let Reply::Success(body) = functions.invoke(name, Bytes::from_static(br#"{"do":"sleep","ms":0}"#)).await?
        else {
            return Err("the probe failed".into());
        };
        let body: serde_json::Value = serde_json::from_slice(&body)?;
        pids.push(body.get("pid").map(ToString::to_string).unwrap_or_default());
    }
    let busy = functions.clone();
    tokio::spawn(async move { busy.invoke("busy", Bytes::from_static(br#"{"do":"sleep","ms":600000}"#)).await });
    while functions.stats().get("busy").is_none_or(|stats| stats.idle_environments > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", pids.join(" "))?;
    stdout.flush()?;
    std::future::pending().await
}
