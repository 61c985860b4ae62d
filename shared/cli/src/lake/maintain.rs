//! `skylark lake maintain`: the jobs that run on schedules, by hand, or what each would do.

use std::sync::Arc;
use std::time::Duration as Pause;

use async_trait::async_trait;
use clap::Args;
use domain::clock::Clock;
use domain::lake::Partition;
use lake::maintain::{Done, Job, Maintenance, Report, Rewritten};
use lambda_kit::clock;
use time::{Duration, OffsetDateTime};

use super::Open;
use crate::fault::{CliFault, say, say_json};
use crate::stack::Stack;

/// Here nothing ends a run: a day that takes hours takes hours.
const RUN: Duration = Duration::days(365);

/// For the columns of a merge.
const MEMORY_BYTES: usize = 512 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Jobs:
  sweep       ask for merges that are due and that nobody asked for
  seal        make of each day that is over one sorted file, or a few if it is large
  archive     compress the long text of days older than 90 days as hard as can be
  raw         delete raw objects that are in the tables and older than 7 days
  reconcile   find raw objects that are in no table a day after they came, and have them carried out
  vacuum      delete files that no version names, and old parts of the log
  checkpoint  write checkpoints that are due
  stats       tell how large everything is

Example:
  skylark lake maintain vacuum --dry-run

JSON: {job, dry_run, unfinished, done: {<what was done>: ..}}.")]
pub(crate) struct MaintainArgs {
    /// What to do.
    job: Job,
    /// Only tell what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// This machine's clock, as far ahead as the bundle lives.
struct Ahead(Duration);

#[async_trait]
impl Clock for Ahead {
    fn now(&self) -> OffsetDateTime {
        clock::now() + self.0
    }

    async fn pause(&self, for_how_long: Pause) {
        tokio::time::sleep(for_how_long).await;
    }
}

pub(crate) async fn run(open: Open, stack: Stack, args: MaintainArgs) -> Result<(), CliFault> {
    let ahead = Ahead(stack.ahead().await?);
    let maintenance = Maintenance {
        lake: Arc::new(open.lake),
        gate: Arc::new(stack.lake),
        merges: Arc::new(open.merges),
        batches: Arc::new(open.intakes),
        clock: Arc::new(ahead),
        scratch: std::env::temp_dir(),
        memory_bytes: MEMORY_BYTES,
    };
    let end = maintenance.clock.now() + RUN;
    let report = maintenance.run(args.job, end, args.dry_run).await?;
    if args.json {
        return say_json(&report);
    }
    tell(&report);
    Ok(())
}

fn tell(report: &Report) {
    let would = if report.dry_run { "would be " } else { "" };
    match &report.done {
        Done::Asked(jobs) => {
            jobs.iter().for_each(|job| say(format!("{} {}", job.kind, job.partition)));
            say(format!("{} merges {would}asked for", jobs.len()));
        }
        Done::Rewritten(days) => {
            days.iter().for_each(rewritten);
            say(format!("{} days {would}rewritten", count(days)));
        }
        Done::Deleted(objects) => {
            objects.keys.iter().for_each(|key| say(key.clone()));
            say(format!("{} objects of {} bytes {would}deleted", objects.keys.len(), objects.bytes));
        }
        Done::Replayed(batches) => {
            batches.iter().for_each(|batch| say(batch.to_string()));
            say(format!("{} batches were in no table and {would}carried out", batches.len()));
        }
        Done::Vacuumed(tables) => {
            for (kind, (files, log)) in tables {
                let keys = files.removed.iter().chain(&files.orphans).chain(&log.objects);
                keys.for_each(|key| say(key.clone()));
                let (removed, orphans) = (files.removed.len(), files.orphans.len());
                say(format!(
                    "{kind}: {removed} files that were merged away, {orphans} that no version names, {} bytes, and {} objects of the \
                     log {would}deleted; version {} and later can be read",
                    files.bytes,
                    log.objects.len(),
                    log.oldest_version,
                ));
            }
        }
        Done::Checkpointed(versions) => {
            versions.iter().for_each(|(kind, version)| say(format!("{kind}: version {version}")));
            say(format!("{} checkpoints {would}written", versions.len()));
        }
        Done::Stats(tables) => {
            for (kind, table) in tables {
                say(format!(
                    "{kind}: {} rows in {} files of {} bytes, {} of them small; version {}, {} commits after its checkpoint",
                    table.rows,
                    table.files,
                    table.bytes,
                    table.small_files,
                    table.version,
                    table.commits_since_checkpoint,
                ));
            }
        }
    }
}

fn rewritten(day: &Rewritten) {
    let (kind, partition, files, bytes) = (day.kind, day.partition, day.files_in, day.bytes_in);
    let became = match day.made {
        Some(made) => format!(" -> {} files of {} bytes, {} rows", made.files_out, made.bytes_out, made.rows),
        None => String::new(),
    };
    say(format!("{kind} {partition}: {files} files of {bytes} bytes{became}"));
}

fn count(days: &[Rewritten]) -> usize {
    let mut named: Vec<(domain::lake::Kind, Partition)> = days.iter().map(|day| (day.kind, day.partition)).collect();
    named.dedup();
    named.len()
}
