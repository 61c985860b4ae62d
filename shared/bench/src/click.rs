//! A card click through the whole local bundle: HTTP API, function, tables and queues of the emulators, and the AWS requests it costs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use lark::callback::Keys;

use crate::case;
use crate::report::Spread;
use crate::stack::{Stack, StackError};

/// The AWS requests that one click may cost; looking its app up again, every ten seconds, hardly shows.
const REQUESTS: f64 = 2.01;

/// The function that clicks go to, as the bundle names it.
const CLICKED: &str = "skylark-LarkCallbackFunction";

/// Clicks that nobody measures: they start the function's processes and look the app up.
const WARM_UP: u32 = 50;

/// What was measured.
pub(crate) struct Clicks {
    /// One after another, then so many at a time.
    runs: Vec<(usize, Spread<Duration>, f64)>,
    requests: BTreeMap<String, u64>,
    clicks: u32,
}

/// Sends `clicks` clicks one after another, and as many again eight at a time.
pub(crate) async fn measure(binaries: Option<PathBuf>, clicks: u32) -> Result<Clicks, StackError> {
    let stack = Stack::start(binaries).await?;
    let mut numbers = 0..u32::MAX;
    let _ = send(&stack, 8, numbers.by_ref().take(WARM_UP as usize).collect()).await?;
    let before = stack.requests(CLICKED).await?;
    let mut runs = Vec::new();
    for at_a_time in [1, 8] {
        let begun = Instant::now();
        let latencies = send(&stack, at_a_time, numbers.by_ref().take(clicks as usize).collect()).await?;
        runs.push((at_a_time, Spread::of(latencies), f64::from(clicks) / begun.elapsed().as_secs_f64()));
    }
    let mut requests = stack.requests(CLICKED).await?;
    for (operation, count) in &mut requests {
        *count -= before.get(operation).copied().unwrap_or_default();
    }
    Ok(Clicks { runs, requests, clicks: 2 * clicks })
}

async fn send(stack: &Stack, at_a_time: usize, numbers: Vec<u32>) -> Result<Vec<Duration>, StackError> {
    let keys = Keys {
        app_id: stack.setting("/lark/app_id")?.to_owned(),
        encrypt_key: Some(stack.setting("/lark/encrypt_key")?.into()),
        verification_token: stack.setting("/lark/verification_token")?.into(),
    };
    let url = format!("{}/lark/{}/callback", stack.setting("/http")?, keys.app_id);
    let click = |number: u32| {
        let push = case::push_of(&keys, number);
        let request = stack.http.post(&url).header("content-type", "application/json");
        let request = request.header("x-lark-request-timestamp", push.timestamp);
        let request = request.header("x-lark-request-nonce", push.nonce).header("x-lark-signature", push.signature);
        async move {
            let begun = Instant::now();
            request.body(push.body).send().await?.error_for_status()?.bytes().await?;
            Ok::<_, StackError>(begun.elapsed())
        }
    };
    stream::iter(numbers).map(click).buffer_unordered(at_a_time).try_collect().await
}

impl Clicks {
    fn per_click(&self) -> f64 {
        self.requests.values().sum::<u64>() as f64 / f64::from(self.clicks)
    }

    pub(crate) fn holds(&self) -> bool {
        self.per_click() <= REQUESTS
    }
}

impl fmt::Display for Clicks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        for (at_a_time, spread, rate) in &self.runs {
            let [p50, p95, p99] = [50, 95, 99].map(|percent| ms(spread.percentile(percent)));
            writeln!(
                f,
                "card click through the bundle, {at_a_time} at a time: p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms, {rate:.0}/s"
            )?;
        }
        for (operation, count) in &self.requests {
            writeln!(f, "  {operation}: {count} requests for {} clicks", self.clicks)?;
        }
        let verdict = if self.holds() { "holds" } else { "DOES NOT HOLD" };
        write!(f, "AWS requests for a card click: at most {REQUESTS}: {verdict} ({:.3})", self.per_click())
    }
}
