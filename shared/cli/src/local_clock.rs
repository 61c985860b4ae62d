//! `skylark local clock`: the time that a local bundle lives in.

use clap::Args;
use serde::Deserialize;
use serde_json::json;
use time::Duration;

use crate::args::Place;
use crate::fault::{CliFault, say};
use crate::stack::running;

#[derive(Debug, Args)]
#[command(after_help = "\
Functions and the Lark sandbox live in the bundle's time; schedules, queues and the tables' TTL keep this machine's. After moving time, \
fire the schedules that would have come due:
  skylark local clock --advance 11m
  skylark local trigger token-expiry --schedule Sessions")]
pub(crate) struct ClockArgs {
    /// Move time ahead by so much: 6d, 12h, 90m or 30s. It never runs back.
    #[arg(long, value_parser = span)]
    advance: Option<u32>,
}

/// What the bundle's endpoint tells of it.
#[derive(Debug, Deserialize)]
struct Reading {
    ahead_secs: i64,
    now: String,
}

/// Prints the bundle's time, after moving it if that is asked for.
pub(crate) async fn run(place: &Place, args: &ClockArgs) -> Result<(), CliFault> {
    let Reading { ahead_secs, now } = read(&running(place)?.aws_endpoint, args.advance).await?;
    say(format!("{now} ({ahead_secs} s ahead of this machine)"));
    Ok(())
}

/// How far ahead of this machine the bundle with this endpoint lives.
pub(crate) async fn ahead(aws_endpoint: &str) -> Result<Duration, CliFault> {
    Ok(Duration::seconds(read(aws_endpoint, None).await?.ahead_secs))
}

async fn read(aws_endpoint: &str, advance: Option<u32>) -> Result<Reading, CliFault> {
    let (client, url) = (reqwest::Client::new(), format!("{aws_endpoint}/_skylark/clock"));
    let request = match advance {
        Some(secs) => client.post(url).json(&json!({ "advance_secs": secs })),
        None => client.get(url),
    };
    let answer = request.send().await.map_err(|cause| CliFault::storage("the bundle does not answer", cause))?;
    if answer.status().is_client_error() {
        return Err(CliFault::Argument(answer.text().await.unwrap_or_default()));
    }
    let answer =
        answer.error_for_status().map_err(|cause| CliFault::storage("the bundle's time did not move", cause))?;
    answer.json().await.map_err(|cause| CliFault::storage("the bundle's answer is malformed", cause))
}

/// A number and its unit, in seconds.
fn span(text: &str) -> Result<u32, String> {
    let parsed = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)].into_iter().find_map(|(unit, secs)| {
        let count: u32 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(secs).filter(|secs| *secs > 0)
    });
    parsed.ok_or_else(|| "must be a span of time such as 6d, 12h, 90m or 30s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, secs) in [("6d", 518_400), ("12h", 43_200), ("90m", 5_400), ("1s", 1)] {
            assert_eq!(span(text), Ok(secs));
        }
        for text in ["", "d", "6", "0d", "-1h", "1.5h", "6 d", "6w", "99999999d", "6天"] {
            assert!(span(text).unwrap_err().contains("6d"), "{text}");
        }
    }
}
