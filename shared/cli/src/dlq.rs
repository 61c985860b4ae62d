//! `skylark dlq`: what failed to the end, in every dead-letter queue, in the parked queue and in the evidence bucket of a bundle.

mod boxes;
mod letter;
mod redrive;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::boxes::{Boxes, LetterBox};
use self::letter::Letter;
use crate::args::Place;
use crate::confirm::confirm;
use crate::fault::{CliFault, say, say_json};

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List the places where failures are kept, and how many each holds.
    #[command(
        after_help = "Examples:\n  skylark dlq list\n  skylark dlq list --json | jq -r '.[] | select(.messages > 0) | .name'\n\n\
        JSON: an array of {name, kind: dead_letters|parked|evidence, messages, in_flight, sources: [..]}."
    )]
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what failed: when, how often, why, and with which payload. Everything stays where it is.
    #[command(after_help = SHOW_HELP)]
    Show {
        /// Its name as `skylark dlq list` prints it; left out, all that hold something.
        name: Option<String>,
        /// The most messages of each place.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put what failed back to where it came from, oldest first.
    #[command(after_help = REDRIVE_HELP)]
    Redrive(ChosenArgs),
    /// Forget what failed. It is gone for good.
    #[command(
        after_help = "Examples:\n  skylark dlq drop ParkedQueue --message 6f0c..\n  skylark dlq drop LarkWorkDeadLetters --force\n\n\
        JSON: {name, dropped}."
    )]
    Drop(ChosenArgs),
}

const SHOW_HELP: &str = "Examples:
  skylark dlq show
  skylark dlq show ParkedQueue --limit 5
  skylark dlq show LarkWorkDeadLetters --json | jq '.[].payload'

Messages are looked at for a moment and released. Of a group of a FIFO queue SQS shows the first ten.

JSON: an array of {name, id, at, receives, group, function, reason, payload}; what is not known is null.";

const REDRIVE_HELP: &str = "Examples:
  skylark dlq redrive LarkWorkDeadLetters                 # all of them, to the queue they came from, in order
  skylark dlq redrive ParkedQueue --message 6f0c.. --force

A whole dead-letter queue is moved by SQS itself (StartMessageMoveTask). What was parked goes back to its queue; what came from a
table's stream or a schedule is handed to its function again, and stays if that fails. A command that is killed leaves what it had not
put back, and of that one message may come twice.

JSON: {name, redriven}.";

/// Which messages of a place.
#[derive(Debug, Args)]
pub(crate) struct ChosenArgs {
    /// Its name as `skylark dlq list` prints it.
    name: String,
    /// Only the messages with these ids; left out, all.
    #[arg(long = "message", value_name = "ID")]
    ids: Vec<String>,
    /// Do not ask; needed where stdin is no terminal.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(place: &Place, command: DlqCommand) -> Result<(), CliFault> {
    let boxes = Boxes::find(place).await?;
    match command {
        DlqCommand::List { json } => list(&boxes, json),
        DlqCommand::Show { name, limit, json } => show(&boxes, name.as_deref(), limit, json).await,
        DlqCommand::Redrive(args) => {
            let chosen = boxes.named(&args.name)?;
            let question = format!("Put {} of `{}` back to where it came from?", which(&args, chosen), chosen.name);
            confirm(&question, args.force)?;
            let redriven = redrive::run(&boxes, chosen, &args.ids).await?;
            told(&args, "redriven", redriven, "put back")
        }
        DlqCommand::Drop(args) => {
            let chosen = boxes.named(&args.name)?;
            confirm(&format!("Forget {} of `{}` for good?", which(&args, chosen), chosen.name), args.force)?;
            let dropped = redrive::drop(&boxes, chosen, &args.ids).await?;
            told(&args, "dropped", dropped, "forgotten")
        }
    }
}

fn which(args: &ChosenArgs, chosen: &LetterBox) -> String {
    match args.ids.len() {
        0 => format!("all {} messages", chosen.messages),
        n => format!("{n} of the {} messages", chosen.messages),
    }
}

fn told(args: &ChosenArgs, field: &str, count: u64, what: &str) -> Result<(), CliFault> {
    if args.json {
        return say_json(&json!({ "name": args.name, field: count }));
    }
    say(format!("{count} of `{}` {what}", args.name));
    Ok(())
}

fn list(boxes: &Boxes, as_json: bool) -> Result<(), CliFault> {
    if as_json {
        return say_json(&boxes.all);
    }
    say(table(&boxes.all));
    Ok(())
}

/// A line for each place.
fn table(boxes: &[LetterBox]) -> String {
    let width = boxes.iter().map(|one| one.name.len()).max().unwrap_or_default().max("NAME".len());
    let mut lines = vec![format!("{:<width$}  {:<12}  {:>8}  {:>9}  FROM", "NAME", "KIND", "MESSAGES", "IN FLIGHT")];
    lines.extend(boxes.iter().map(|one| {
        let (kind, sources) = (one.kind.word(), one.sources.join(", "));
        format!("{:<width$}  {kind:<12}  {:>8}  {:>9}  {sources}", one.name, one.messages, one.in_flight)
    }));
    lines.join("\n")
}

async fn show(boxes: &Boxes, name: Option<&str>, limit: u32, as_json: bool) -> Result<(), CliFault> {
    let chosen: Vec<&LetterBox> = match name {
        Some(name) => vec![boxes.named(name)?],
        None => boxes.all.iter().filter(|one| one.messages > 0).collect(),
    };
    let mut letters: Vec<(&LetterBox, Letter)> = Vec::new();
    for chosen in chosen {
        letters.extend(boxes.peek(chosen, limit).await?.into_iter().map(|letter| (chosen, letter)));
    }
    if as_json {
        let letters: Vec<Value> = letters.iter().map(|(chosen, letter)| letter.json(&chosen.name)).collect();
        return say_json(&letters);
    }
    if letters.is_empty() {
        say("nothing is there");
    }
    for (chosen, letter) in &letters {
        say(letter.lines(&chosen.name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::boxes::Kind;
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_place_and_the_columns_stand_under_one_another() {
        let queue = |name: &str, kind, messages, sources: &[&str]| LetterBox {
            name: name.to_owned(),
            kind,
            messages,
            in_flight: 0,
            sources: sources.iter().map(|source| (*source).to_owned()).collect(),
            source_urls: Vec::new(),
            place: String::new(),
        };
        let boxes = [
            queue("LarkWorkDeadLetters", Kind::DeadLetters, 12, &["LarkWorkQueue"]),
            queue("ParkedQueue", Kind::Parked, 0, &[]),
        ];
        assert_eq!(
            table(&boxes),
            "NAME                 KIND          MESSAGES  IN FLIGHT  FROM\n\
             LarkWorkDeadLetters  dead letters        12          0  LarkWorkQueue\n\
             ParkedQueue          parked               0          0  "
        );
    }
}
