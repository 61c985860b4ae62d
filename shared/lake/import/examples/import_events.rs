//! Imports made-up events into a lake in a folder, and prints what became of them, how long it took and how much memory.
//!
//! `cargo run --release -p lake-import --example import_events -- 1000000`
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::time::Instant;

use domain::lake::Kind;
use domain::lake::source::{Mapping, SourceName};
use lake::{Lake, Settings};
use lake_import::{Feed, Importer, Source};
use lake_sample::Plan;
use time::OffsetDateTime;
use time::macros::datetime;

/// What is imported is of three days.
const FROM: OffsetDateTime = datetime!(2026-11-20 00:00 UTC);
const RECEIVED: OffsetDateTime = datetime!(2026-11-23 00:00 UTC);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let events = std::env::args().nth(1).map_or(Ok(1_000_000), |count| count.parse())?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("events.jsonl");
    make(&path, events)?;

    let lake = Lake::open(&Settings::folder(folder.path().join("lake")))?;
    let feed = Feed { source: SourceName::parse("wechat")?, mapping: Mapping::Wechat, mask: false };
    let source = Source { path: path.clone(), received_at: RECEIVED };
    let start = Instant::now();
    let (imported, _) = Importer::new(&lake, feed).import(&source, RECEIVED, &mut |_| ()).await?;
    let secs = start.elapsed().as_secs_f64();

    let counts = imported.counts;
    println!(
        "{} lines = {} rows + {} duplicates + {} quarantined, balanced: {}",
        counts.lines_in,
        counts.rows,
        counts.duplicates,
        counts.quarantined,
        counts.balance()
    );
    let (mut files, mut rows, mut bytes) = (0, 0, 0);
    for table in Kind::ALL {
        for file in lake.files(table, |_| true).await? {
            files += 1;
            rows += file.rows;
            bytes += file.bytes;
        }
    }
    println!("in the tables: {rows} rows in {files} files, {bytes} bytes; as JSON {} bytes", imported.bytes);
    println!("{secs:.1} s; peak memory {}", peak_memory()?);
    Ok(())
}

fn make(path: &std::path::Path, events: u64) -> Result<(), Box<dyn Error>> {
    let plan = Plan { seed: 1, events, from: FROM.unix_timestamp(), spread_secs: 3 * 86_400, mixed: true };
    let mut output = BufWriter::new(File::create(path)?);
    for event in plan.events() {
        output.write_all(&event.body)?;
        output.write_all(b"\n")?;
    }
    Ok(output.flush()?)
}

fn peak_memory() -> std::io::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.unwrap_or("unknown").trim().to_owned())
}
