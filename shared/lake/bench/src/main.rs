//! Measures the lake's work beside DuckDB, Polars, pyarrow and delta-rs: the same files, one run, each engine in a process of its own.
//!
//! What counts is CPU time: it stays what it is when the machine is shared.

mod compact;
mod data;
mod ingest;
mod peers;
mod query;
mod report;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures the lake beside DuckDB, Polars and pyarrow; exit code 1 if a budget does not hold")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Many small files -> one: deduplicated by msg_id, sorted by chatroom and time
    Compact(compact::Plan),
    /// The part of `compact` that is ours, once
    #[command(hide = true)]
    CompactOnce {
        inputs: PathBuf,
        folder: PathBuf,
        /// As old days are written: long text compressed as hard as can be
        #[arg(long)]
        archive: bool,
    },
    /// A file of events -> one Parquet file, also beside arrow-json
    Ingest(ingest::Plan),
    /// The part of `ingest` that is one engine's, once; to columns if no output is named
    #[command(hide = true)]
    IngestOnce { engine: String, input: PathBuf, output: Option<PathBuf> },
    /// Questions to a month of messages: by id, by day and sender, how many by chat room
    Query(query::Plan),
    /// The part of `query` that is ours
    #[command(hide = true)]
    QueryOnce { folder: PathBuf, runs: u32 },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().benchmark {
        Benchmark::Compact(plan) => compact::measure(&plan).map(|report| (report.to_string(), report.holds())),
        Benchmark::CompactOnce { inputs, folder, archive } => {
            compact::once(&inputs, &folder, archive).map(|counts| (counts, true))
        }
        Benchmark::Ingest(plan) => ingest::measure(&plan).map(|report| (report.to_string(), report.holds())),
        Benchmark::IngestOnce { engine, input, output } => {
            ingest::once(&engine, &input, output.as_deref()).map(|rows| (rows, true))
        }
        Benchmark::Query(plan) => query::measure(&plan).map(|report| (report.to_string(), report.holds())),
        Benchmark::QueryOnce { folder, runs } => query::once(&folder, runs).map(|answers| (answers, true)),
    };
    let (printed, code) = match done {
        Ok((report, true)) => (writeln!(io::stdout(), "{report}"), ExitCode::SUCCESS),
        Ok((report, false)) => (writeln!(io::stdout(), "{report}"), ExitCode::FAILURE),
        Err(error) => (writeln!(io::stderr(), "error: {}", domain::fault::chain(&error)), ExitCode::from(2)),
    };
    if printed.is_ok() { code } else { ExitCode::from(2) }
}
