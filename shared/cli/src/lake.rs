//! `skylark lake`: what is in the lake, what was kept out of it, and asking again for what is due.

mod check;
mod import;
mod maintain;
mod quarantine;
mod query;

use std::sync::Arc;

use aws_credential_types::provider::ProvideCredentials as _;
use clap::Subcommand;
use domain::lake::batch::{BatchId, BatchJob, BatchQueue as _, RAW_PREFIX};
use domain::lake::compaction::{CompactJob, CompactQueue as _};
use domain::lake::quarantine::QUARANTINE_PREFIX;
use domain::lake::{Kind, Partition};
use lake::{DayStats, Lake, Settings, TableStats};
use lake_reader::Reader;
use lambda_kit::aws::AMAZON_ROOTS;
use queue::{SqsCompactQueue, SqsIntakeQueue};
use serde_json::json;

use self::check::{DuplicatesArgs, ValidateArgs};
use self::import::ImportArgs;
use self::maintain::MaintainArgs;
use self::quarantine::QuarantineCommand;
use self::query::{CountArgs, DumpArgs, QueryArgs};
use crate::args::Place;
use crate::fault::{CliFault, say, say_json};
use crate::stack::{LakePlace, Stack};

#[derive(Debug, Subcommand)]
pub(crate) enum LakeCommand {
    /// Tell what the tables hold, day by day, and how much was kept aside.
    #[command(
        alias = "stats",
        after_help = "JSON: {messages: {version, rows, files, bytes, small_files, days: [..]}, contacts: {..}, quarantined}."
    )]
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print messages, by filter and in order.
    Query(QueryArgs),
    /// Count messages by the values of a column.
    Count(CountArgs),
    /// Print one message, as JSON.
    Get { msg_id: String },
    /// Print one contact as it was told of last, as JSON.
    Contact { username: String },
    /// Read every file of a day and tell what is wrong with it; exit code 1 if anything is.
    Validate(ValidateArgs),
    /// Tell which ids of messages are in more than one row.
    Duplicates(DuplicatesArgs),
    /// Print the rows of one file of a table as they are.
    Dump(DumpArgs),
    /// Look at events that could not become rows, and send them again.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Carry out the batches of a day once more: what is in its tables stays as it is, what was left behind comes.
    ReplayRaw {
        /// The day on which the events were received (2026-11-21), in UTC.
        #[arg(long)]
        day: Partition,
    },
    /// Ask for files of the tables to be merged now, few or many; days that are sealed stay as they are.
    Compact {
        /// Only this day (2026-11-21), in UTC.
        #[arg(long)]
        day: Option<Partition>,
    },
    /// Bring files of events into the lake, in bulk.
    Import(ImportArgs),
    /// Run one of the jobs that keep the lake in order, or tell what it would do.
    Maintain(MaintainArgs),
}

/// An open lake and its queues.
struct Open {
    lake: Lake,
    intakes: SqsIntakeQueue,
    merges: SqsCompactQueue,
}

impl Open {
    async fn at(place: &Place) -> Result<Self, CliFault> {
        let found = LakePlace::find(place).await?;
        let sqs = aws_sdk_sqs::Client::new(&found.aws);
        Ok(Self {
            lake: open(&found).await?,
            intakes: SqsIntakeQueue::new(sqs.clone(), found.queue),
            merges: SqsCompactQueue::new(sqs, found.merges),
        })
    }
}

/// The lake of a bundle.
pub(crate) async fn open(place: &LakePlace) -> Result<Lake, CliFault> {
    let provider = place.aws.credentials_provider();
    let provider = provider.ok_or_else(|| CliFault::Argument("there are no AWS credentials".to_owned()))?;
    let keys = provider.provide_credentials().await;
    let keys = keys.map_err(|cause| CliFault::storage("there are no AWS credentials", cause))?;
    let setting = |name: &str| match name {
        "AWS_ACCESS_KEY_ID" => Some(keys.access_key_id().to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some(keys.secret_access_key().to_owned()),
        "AWS_SESSION_TOKEN" => keys.session_token().map(str::to_owned),
        "AWS_REGION" => place.aws.region().map(ToString::to_string),
        "AWS_ENDPOINT_URL" => place.aws.endpoint_url().map(str::to_owned),
        _ => None,
    };
    Ok(Lake::open(&Settings::bucket(&place.bucket, &setting)?.with_roots(AMAZON_ROOTS))?)
}

pub(crate) async fn run(place: &Place, command: LakeCommand) -> Result<(), CliFault> {
    let open = Open::at(place).await?;
    match command {
        LakeCommand::Status { json } => status(&open, json).await,
        LakeCommand::Query(args) => query::run(&reader(open), args).await,
        LakeCommand::Count(args) => query::count(&reader(open), args).await,
        LakeCommand::Dump(args) => query::dump(&open.lake, args).await,
        LakeCommand::Get { msg_id } => query::message(&reader(open), &msg_id).await,
        LakeCommand::Contact { username } => query::contact(&reader(open), &username).await,
        LakeCommand::Validate(args) => check::validate(&reader(open), &args).await,
        LakeCommand::Duplicates(args) => check::duplicates(&reader(open), &args).await,
        LakeCommand::Quarantine(command) => quarantine::run(&open, command).await,
        LakeCommand::ReplayRaw { day } => replay_raw(&open, day).await,
        LakeCommand::Compact { day } => compact(&open, day).await,
        LakeCommand::Import(args) => import::run(open.lake, Stack::find(place).await?.lake, open.merges, args).await,
        LakeCommand::Maintain(args) => maintain::run(open, Stack::find(place).await?, args).await,
    }
}

/// Here nobody waits for an answer within seconds: a question takes as long as it takes.
fn reader(open: Open) -> Reader {
    Reader::new(Arc::new(open.lake)).with_scan_bytes(u64::MAX)
}

async fn status(open: &Open, as_json: bool) -> Result<(), CliFault> {
    let (messages, contacts) = (open.lake.stats(Kind::Messages).await?, open.lake.stats(Kind::Contacts).await?);
    let quarantined = open.lake.list_objects(QUARANTINE_PREFIX).await?.len();
    if as_json {
        return say_json(&json!({ "messages": messages, "contacts": contacts, "quarantined": quarantined }));
    }
    say(format!("{:<22} {:>10} {:>7} {:>14} {:>12}", "TABLE, DAY", "ROWS", "FILES", "BYTES", "SMALL FILES"));
    for (kind, table) in [(Kind::Messages, &messages), (Kind::Contacts, &contacts)] {
        show(kind, table);
    }
    say(format!("quarantined: {quarantined}"));
    Ok(())
}

fn show(kind: Kind, table: &TableStats) {
    let line = |name: String, rows: u64, files: u64, bytes: u64, small: u64| {
        say(format!("{name:<22} {rows:>10} {files:>7} {bytes:>14} {small:>12}"));
    };
    line(kind.to_string(), table.rows, table.files, table.bytes, table.small_files);
    for day in &table.days {
        line(format!("  {}", day.partition), day.rows, day.files, day.bytes, day.small_files);
    }
}

async fn replay_raw(open: &Open, day: Partition) -> Result<(), CliFault> {
    let objects = open.lake.list_objects(&format!("{RAW_PREFIX}dt={day}/")).await?;
    let batches: Vec<BatchId> = objects.iter().filter_map(|object| BatchId::of_raw(&object.key).ok()).collect();
    for batch in &batches {
        open.intakes.ask_again(&BatchJob { batch: batch.clone() }).await?;
    }
    say(format!("{} batches of {day} are carried out once more", batches.len()));
    Ok(())
}

async fn compact(open: &Open, day: Option<Partition>) -> Result<(), CliFault> {
    let mut jobs = Vec::new();
    for kind in Kind::ALL {
        let table = open.lake.stats(kind).await?;
        let wanted = table.days.iter().filter(|of| of.open_files > 1 && day.is_none_or(|day| day == of.partition));
        let job = |of: &DayStats| CompactJob { by_hand: true, ..CompactJob::due(kind, of.partition, table.version) };
        jobs.extend(wanted.map(job));
    }
    open.merges.ask(&jobs).await?;
    match jobs.as_slice() {
        [] => say("there is nothing to merge: no day has two files that are not sealed"),
        jobs => jobs.iter().for_each(|job| say(format!("{} {} is to be merged", job.kind, job.partition))),
    }
    Ok(())
}
