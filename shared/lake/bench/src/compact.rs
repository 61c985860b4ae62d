//! 1,000 small files -> one, deduplicated and sorted, beside the other engines.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use domain::lake::Kind;
use lake_compactor::{Compacted, Input, Options};
use lake_rows::Level;
use serde::Deserialize;

use crate::data;
use crate::peers::{BenchError, Peers};
use crate::report::{Figures, KEEPS_REPETITIONS, OURS, Report};

/// Rows of the input for each second of CPU time.
const ROWS_PER_CPU_SEC: f64 = 230_000.0;

const PEAK_BYTES: f64 = 400e6;

/// What DuckDB may take of the CPU time, at least, for each that we take.
const DUCKDB_RATIO: f64 = 2.0;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Events that the rows are made of; three in a hundred are contacts and what is no message
    #[arg(long, default_value_t = 1_030_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// Small files
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    files: u32,
    /// Runs of each engine, taken in turns; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The engines that ours is beside
    #[arg(long, value_delimiter = ',', default_value = "duckdb,polars,pyarrow,deltalake")]
    beside: Vec<String>,
    /// Where data and the Python environment are kept for the next run; without it they are made anew and deleted
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// How an output is ordered.
#[derive(Debug, Deserialize)]
struct Order {
    /// Rows whose id another row has.
    repeated: u64,
    /// Rows that should stand before the one before them.
    disorder: u64,
}

/// Makes the data, compacts it with each engine in turn, and compares what came out.
pub(crate) fn measure(plan: &Plan) -> Result<Report, BenchError> {
    let scratch = tempfile::tempdir()?;
    let keep = plan.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    let peers = Peers::install(&keep.join("python"))?;
    let inputs = keep.join(format!("small-{}-{}", plan.events, plan.files));
    let input_bytes = data::small_files(&inputs, plan.events, plan.files)?;

    let ours = std::env::current_exe()?;
    let engines: Vec<&str> = [OURS].into_iter().chain(plan.beside.iter().map(String::as_str)).collect();
    // What is measured reads from memory, each engine alike.
    data::read_all(&inputs)?;
    let mut figures = Figures::take(&engines, plan.runs, |engine| {
        let output = scratch.path().join(engine);
        if output.exists() {
            std::fs::remove_dir_all(&output)?;
        }
        std::fs::create_dir(&output)?;
        let (file, table) = (output.join("00000.parquet"), scratch.path().join("table"));
        let [inputs, output, file, table, ours] =
            [&inputs, &output, &file, &table, &ours].map(|path| path.to_string_lossy());
        match engine {
            OURS => peers.ask(&["measure", &ours, "compact-once", &inputs, &output]),
            KEEPS_REPETITIONS => {
                std::fs::remove_dir_all(&*table).or_else(absent)?;
                let _: u32 = peers.ask(&["prepare", &inputs, &table])?;
                peers.measure(&["compact", engine, &table, &file])
            }
            peer => peers.measure(&["compact", peer, &inputs, &file]),
        }
    })?;
    for figures in &mut figures {
        let folder = scratch.path().join(&figures.engine);
        let said = peers.ask(&["check", &folder.to_string_lossy()])?;
        figures.output = Some((said, data::bytes(&data::files(&folder)?)?));
    }
    let rows: u32 = peers.ask(&["rows", &inputs.to_string_lossy()])?;
    let order: Order = peers.ask(&["order", &scratch.path().join(OURS).to_string_lossy()])?;

    let mut report = Report::new(format!(
        "{rows} rows in {} files of {:.1} MB together; {}",
        plan.files,
        input_bytes as f64 / 1e6,
        peers.versions()?
    ));
    let rows = f64::from(rows);
    report.table(
        "small files -> one, deduplicated and sorted; deltalake's z-order leaves repetitions in, and its table is made beforehand",
        rows,
        &figures,
    );
    report.usage(rows, ROWS_PER_CPU_SEC, PEAK_BYTES, &figures);
    report.budget("ours are in order, and no id is there twice", order.disorder == 0 && order.repeated == 0);
    report.ratio("compaction", DUCKDB_RATIO, "duckdb", &figures);
    Ok(report)
}

fn absent(fault: io::Error) -> io::Result<()> {
    if fault.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(fault) }
}

/// Compacts once, in this process, and says what became of the rows.
pub(crate) fn once(inputs: &Path, folder: &Path, archive: bool) -> Result<String, BenchError> {
    let inputs: Vec<Input> = data::files(inputs)?.into_iter().map(Input::File).collect();
    let mut options = Options::new(folder);
    if archive {
        options.level = Level::Archive;
    }
    let Compacted { outputs, rows_in, rows, duplicates, conflicts } =
        lake_compactor::compact(Kind::Messages, &inputs, &options)?;
    Ok(format!(
        "{rows_in} rows in {} files -> {rows} rows in {} files; {duplicates} duplicates, {} conflicts",
        inputs.len(),
        outputs.len(),
        conflicts.num_rows()
    ))
}
