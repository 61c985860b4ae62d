//! `skylark lake validate` and `duplicates`: whether the tables' files are sound, and which ids are in more than one row.

use clap::Args;
use domain::lake::{Kind, Partition};
use lake_reader::{Reader, Validation};
use serde_json::json;

use crate::fault::{CliFault, say, say_json};

#[derive(Debug, Args)]
#[command(
    after_help = "JSON: {valid, messages: {version, files, rows, total, partitions: [{partition, files, bytes, rows, total, \
                        problems: [{file, problem, detail}]}]}, contacts: {..}}."
)]
pub(crate) struct ValidateArgs {
    /// The day (2026-11-21), in UTC.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    partition: Option<Partition>,
    /// Every day.
    #[arg(long)]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "JSON: {version, total, days: [{partition, rows, ids, total, duplicates: [{msg_id, rows}]}]}.")]
pub(crate) struct DuplicatesArgs {
    /// The first day (2026-11-21), in UTC.
    #[arg(long)]
    start: Option<Partition>,
    /// The last day.
    #[arg(long)]
    end: Option<Partition>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn validate(reader: &Reader, args: &ValidateArgs) -> Result<(), CliFault> {
    let messages = reader.validate(Kind::Messages, args.partition).await?;
    let contacts = reader.validate(Kind::Contacts, args.partition).await?;
    let problems = messages.total + contacts.total;
    if args.json {
        say_json(&json!({ "valid": problems == 0, "messages": messages, "contacts": contacts }))?;
    } else {
        for (kind, table) in [(Kind::Messages, &messages), (Kind::Contacts, &contacts)] {
            show(kind, table);
        }
    }
    match problems {
        0 => Ok(()),
        problems => Err(CliFault::Failed(format!("{problems} problems were found"))),
    }
}

fn show(kind: Kind, table: &Validation) {
    for day in &table.partitions {
        let found = if day.total == 0 { "sound".to_owned() } else { format!("{} problems", day.total) };
        say(format!("{kind} {}: {} files, {} rows, {found}", day.partition, day.files, day.rows));
        for problem in &day.problems {
            // As it is in JSON.
            let name = json!(problem.problem);
            say(format!("  {}: {}: {}", problem.file, name.as_str().unwrap_or_default(), problem.detail));
        }
    }
    say(format!("{kind}: {} files, {} rows, {} problems", table.files, table.rows, table.total));
}

pub(crate) async fn duplicates(reader: &Reader, args: &DuplicatesArgs) -> Result<(), CliFault> {
    let found = reader.duplicates(args.start, args.end).await?;
    if args.json {
        return say_json(&found);
    }
    for day in &found.days {
        say(format!(
            "{}: {} rows, {} ids, {} of them in more than one row",
            day.partition, day.rows, day.ids, day.total
        ));
        day.duplicates.iter().for_each(|one| say(format!("  {}: {} rows", one.msg_id, one.rows)));
    }
    match found.total {
        0 => say("no id is in more than one row"),
        total => say(format!(
            "{total} ids are in more than one row; no query shows them twice, and the next merge leaves one row of each"
        )),
    }
    Ok(())
}
