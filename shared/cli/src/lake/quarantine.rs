//! `skylark lake quarantine`: events that could not become rows.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, Subcommand};
use domain::lake::Partition;
use domain::lake::intake::{IntakeQueue as _, MAX_MESSAGE_BYTES};
use domain::lake::quarantine::{Kept, QUARANTINE_PREFIX};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Open;
use crate::fault::{CliFault, say, say_json};

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List what was kept aside, with the reason.
    #[command(after_help = "JSON: an array of {key, reason, detail, source, request_id, received_at}.")]
    List {
        #[command(flatten)]
        chosen: Chosen,
        /// The most that are looked at.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one as it is kept; with --body only the bytes that came.
    Show {
        key: String,
        /// Print the body, byte for byte.
        #[arg(long)]
        body: bool,
    },
    /// Send events again, once their reason is gone. What becomes a row now is one row, however often it is sent.
    Replay {
        /// Their keys, as `list` prints them.
        keys: Vec<String>,
        #[command(flatten)]
        chosen: Chosen,
        /// All of them.
        #[arg(long, conflicts_with_all = ["keys", "day", "reason"])]
        all: bool,
    },
}

/// Which of them.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Received on this day (2026-11-21), in UTC.
    #[arg(long)]
    day: Option<Partition>,
    /// Kept aside for this reason: `not_json`, `no_id`, `bad_time`, `conflict`, ..
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn run(open: &Open, command: QuarantineCommand) -> Result<(), CliFault> {
    match command {
        QuarantineCommand::List { chosen, limit, json } => list(open, &chosen, limit, json).await,
        QuarantineCommand::Show { key, body } => show(open, &key, body).await,
        QuarantineCommand::Replay { keys, chosen, all } => replay(open, keys, &chosen, all).await,
    }
}

async fn keys(open: &Open, chosen: &Chosen) -> Result<Vec<String>, CliFault> {
    let day = chosen.day.map_or_else(String::new, |day| format!("dt={day}/"));
    let objects = open.lake.list_objects(&format!("{QUARANTINE_PREFIX}{day}")).await?;
    Ok(objects.into_iter().map(|object| object.key).collect())
}

async fn bytes(open: &Open, key: &str) -> Result<Bytes, CliFault> {
    let object = open.lake.read_object(key).await?;
    object.ok_or_else(|| CliFault::Argument(format!("nothing is kept under `{key}`")))
}

fn unreadable(key: &str) -> impl FnOnce(serde_json::Error) -> CliFault {
    let key = key.to_owned();
    move |cause| CliFault::storage(format!("`{key}` cannot be read"), cause)
}

/// What is kept: an event that was accepted, or a line of an import or of a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Came {
    Event(Box<Kept>),
    Text { text: String },
    Bytes { base64: String },
}

/// What is known of each, whether appending kept it aside, an import or merging.
async fn list(open: &Open, chosen: &Chosen, limit: usize, as_json: bool) -> Result<(), CliFault> {
    let mut found: Vec<Value> = Vec::new();
    for key in keys(open, chosen).await? {
        if found.len() == limit {
            break;
        }
        let kept: Value = serde_json::from_slice(&bytes(open, &key).await?).map_err(unreadable(&key))?;
        if chosen.reason.as_ref().is_none_or(|reason| kept.get("reason").is_some_and(|it| it == reason.as_str())) {
            found.push(public(&key, &kept));
        }
    }
    if as_json {
        return say_json(&found);
    }
    for one in &found {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        say(format!("{:<12} {:<10} {}  {}", text("reason"), text("source"), text("detail"), text("key")));
    }
    Ok(())
}

fn public(key: &str, kept: &Value) -> Value {
    let came = kept.get("intake").unwrap_or(kept);
    json!({
        "key": key, "reason": kept["reason"], "detail": kept["detail"], "source": came["source"],
        "request_id": came["request_id"], "received_at": came["received_at"],
    })
}

async fn show(open: &Open, key: &str, body: bool) -> Result<(), CliFault> {
    let object = bytes(open, key).await?;
    if !body {
        return say_json(&serde_json::from_slice::<Value>(&object).map_err(unreadable(key))?);
    }
    let came = match serde_json::from_slice(&object).map_err(unreadable(key))? {
        Came::Event(kept) => kept.intake.body,
        Came::Text { text } => text.into_bytes(),
        Came::Bytes { base64 } => {
            STANDARD.decode(base64).map_err(|cause| CliFault::storage(format!("`{key}` cannot be read"), cause))?
        }
    };
    let written = std::io::stdout().write_all(&came);
    written.map_err(|cause| CliFault::storage("the body cannot be written", cause))
}

async fn replay(open: &Open, named: Vec<String>, chosen: &Chosen, all: bool) -> Result<(), CliFault> {
    let some = chosen.day.is_some() || chosen.reason.is_some();
    let keys = match (named.is_empty(), some || all) {
        (false, false) => named,
        (true, true) => keys(open, chosen).await?,
        _ => return Err(CliFault::Argument("name keys, or --day, --reason or --all".to_owned())),
    };
    let (mut sent, mut left) = (0, 0);
    for key in keys {
        // What merging kept aside is a row that the table had, and what an import did is in its file: neither is an event that was accepted.
        let Ok(kept) = serde_json::from_slice::<Kept>(&bytes(open, &key).await?) else {
            left += 1;
            continue;
        };
        if chosen.reason.as_ref().is_some_and(|reason| *reason != kept.reason) {
            continue;
        }
        let again = kept.again();
        let message = again.to_message()?;
        if message.len() <= MAX_MESSAGE_BYTES {
            open.intakes.send(message).await?;
        } else {
            open.lake.write_object(&again.inbox_key(), message.into()).await?;
        }
        // Killed here, it is sent once more, as the same event.
        open.lake.delete_objects(std::slice::from_ref(&key)).await?;
        sent += 1;
    }
    say(format!("{sent} events are sent again; {left} that came by an import or a merge stay"));
    Ok(())
}
