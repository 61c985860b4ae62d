//! `skylark lake import`: files of events into the lake, in bulk, past queue and functions.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use domain::fault::{Fault as _, Remedy};
use domain::lake::source::{Mapping, SourceDirectory, SourceName, SourceStore};
use lake::Lake;
use lake::append::Appender;
use lake_import::{Feed, ImportFault, Importer, Progress, sources};
use lambda_kit::clock;
use queue::SqsCompactQueue;
use table::Table;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::fault::{CliFault, say};

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ImportArgs {
    /// Files with one event a line, or folders of `.jsonl` and `.json` files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The source that the events are of, which says how they are read.
    #[arg(long, default_value = "wechat")]
    source: String,
    /// When they were received (2026-11-21T09:00:00Z); if it is not said, when their file was last written.
    #[arg(long, value_parser = instant)]
    received_at: Option<OffsetDateTime>,
    /// Claim each event as if it was posted: for events that may be posted as well, now or in the next eight days.
    #[arg(long)]
    claim: bool,
}

const HELP: &str = "Examples:
  skylark lake import archive/2026-11-20.jsonl archive/2026-11-21.jsonl
  skylark lake import archive/ --source wechat --received-at 2026-11-21T00:00:00Z

A file is imported once, by the hash of its content. What was interrupted is carried on by the same command. Events that the lake has are
counted as duplicates, and lines that cannot become rows are kept aside: `skylark lake quarantine`. An event that is posted while it is
imported, or later, is a second row until its day is merged, and may stay one in a day of more than 128 MB that is sealed. With --claim
it is one row from the start; that is slower, a conditional write for each event.";

fn instant(text: &str) -> Result<OffsetDateTime, time::error::Parse> {
    OffsetDateTime::parse(text, &Rfc3339)
}

/// Imports file by file. Exit code 1 if a line is lost track of, which never happens.
pub(crate) async fn run(lake: Lake, gate: Table, merges: SqsCompactQueue, args: ImportArgs) -> Result<(), CliFault> {
    let (lake, gate) = (Arc::new(lake), Arc::new(gate));
    let feed = feed(gate.as_ref(), &args.source).await?;
    let sources_of = SourceDirectory::new(gate.clone());
    let appender = Appender::new(lake.clone(), gate, sources_of, Arc::new(merges));
    let importer = Importer::new(&lake, feed);
    let mut importer = if args.claim { importer.claiming(&appender) } else { importer };
    let (start, mut lines, mut rows) = (Instant::now(), 0, 0);
    for path in &args.paths {
        let found = sources(path).map_err(|cause| CliFault::Argument(format!("`{}`: {cause}", path.display())))?;
        for mut source in found {
            source.received_at = args.received_at.unwrap_or(source.received_at);
            let name = source.path.display().to_string();
            let (imported, new) =
                importer.import(&source, clock::now(), &mut |at| show(&name, at)).await.map_err(fault)?;
            let counts = imported.counts;
            if !counts.balance() {
                return Err(CliFault::Failed(format!("{name}: lines are lost track of: {counts:?}")));
            }
            say(format!(
                "{name}: {} lines = {} rows + {} duplicates + {} quarantined{}",
                counts.lines_in,
                counts.rows,
                counts.duplicates,
                counts.quarantined,
                if new { "" } else { ", imported before" }
            ));
            if new {
                lines += counts.lines_in;
                rows += counts.rows;
            }
        }
    }
    say(format!("{lines} lines and {rows} new rows in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// How the source's events are read. WeChat's are known without being set up, for an archive may come before the first webhook.
async fn feed(store: &dyn SourceStore, name: &str) -> Result<Feed, CliFault> {
    let name = SourceName::parse(name).map_err(|cause| CliFault::Argument(cause.to_string()))?;
    let known = store.get(&name).await.map_err(|cause| CliFault::storage("the sources cannot be read", cause))?;
    let (mapping, mask) = match known {
        Some(source) => (source.mapping, source.mask),
        None if name.is_own() || name.as_str() == "wechat" => (Mapping::default(), false),
        None => {
            return Err(CliFault::Argument(format!(
                "there is no source `{name}`; `skylark webhook-key add` makes one"
            )));
        }
    };
    Ok(Feed { source: name, mapping, mask })
}

fn fault(fault: ImportFault) -> CliFault {
    match fault.remedy() {
        Remedy::Reject(_) => CliFault::Argument(domain::fault::chain(&fault)),
        _ => CliFault::storage("the import stopped; the same command carries it on", fault),
    }
}

/// One line that is written again and again, where a person looks.
fn show(name: &str, Progress { bytes, of_bytes, counts }: Progress) {
    if io::stderr().is_terminal() {
        let percent = (bytes * 100).checked_div(of_bytes).unwrap_or(100);
        let end = if bytes == of_bytes { "\n" } else { "\r" };
        // What cannot be shown is not missed.
        let _ = write!(io::stderr(), "{name}: {percent} %, {} rows{end}", counts.rows);
    }
}
