//! 1,000 small files -> one, deduplicated and sorted, beside the other engines.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use domain::lake::Kind;
use lake_compactor::{Compacted, Input, Options};
use serde::Deserialize;

use crate::data;
use crate::peers::{BenchError, Peers};

const OURS: &str = "skylark";

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
    #[arg(long, value_delimiter = ',', default_value = "duckdb,polars,pyarrow")]
    beside: Vec<String>,
    /// Where data and the Python environment are kept for the next run; without it they are made anew and deleted
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Used {
    pub(crate) cpu_secs: f64,
    pub(crate) secs: f64,
    pub(crate) peak_bytes: f64,
}

impl Used {
    /// The median of something that several runs used.
    pub(crate) fn median(runs: &[Self], of: impl Fn(&Self) -> f64) -> f64 {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// What an output says, whatever its order is.
#[derive(Debug, PartialEq, Deserialize)]
struct Said {
    rows: u64,
    ids: u64,
    digest: String,
    disorder: u64,
}

#[derive(Debug)]
struct Figures {
    engine: String,
    runs: Vec<Used>,
    bytes: u64,
    said: Said,
}

impl Figures {
    fn median(&self, of: impl Fn(&Used) -> f64) -> f64 {
        Used::median(&self.runs, of)
    }
}

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Report {
    rows: u64,
    files: u32,
    input_bytes: u64,
    versions: BTreeMap<String, String>,
    figures: Vec<Figures>,
}

/// Makes the data, compacts it with each engine in turn, and compares what came out.
pub(crate) fn measure(plan: &Plan) -> Result<Report, BenchError> {
    let scratch = tempfile::tempdir()?;
    let keep = plan.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    let peers = Peers::install(&keep.join("python"))?;
    let inputs = keep.join(format!("small-{}-{}", plan.events, plan.files));
    let input_bytes = data::small_files(&inputs, plan.events, plan.files)?;

    let ours = std::env::current_exe()?;
    let engines = [OURS].into_iter().chain(plan.beside.iter().map(String::as_str));
    let mut figures: Vec<Figures> = Vec::new();
    for (at, engine) in engines.enumerate() {
        // What is measured reads from memory, each engine alike.
        data::read_all(&inputs)?;
        let mut runs = Vec::new();
        for _ in 0..plan.runs {
            let output = scratch.path().join(format!("{at}"));
            if output.exists() {
                std::fs::remove_dir_all(&output)?;
            }
            std::fs::create_dir(&output)?;
            let file = output.join("00000.parquet");
            let [inputs, output, file, ours] = [&inputs, &output, &file, &ours].map(|path| path.to_string_lossy());
            runs.push(match engine {
                OURS => peers.ask(&["measure", &ours, "compact-once", &inputs, &output])?,
                peer => peers.measure(&["compact", peer, &inputs, &file])?,
            });
        }
        let outputs = data::files(&scratch.path().join(format!("{at}")))?;
        let listed: Vec<_> = outputs.iter().map(|file| file.to_string_lossy()).collect();
        let said = peers.ask(&["check"].into_iter().chain(listed.iter().map(AsRef::as_ref)).collect::<Vec<_>>())?;
        let bytes = data::bytes(&outputs)?;
        figures.push(Figures { engine: engine.to_owned(), runs, bytes, said });
    }
    Ok(Report {
        rows: peers.ask(&["rows", &inputs.to_string_lossy()])?,
        files: plan.files,
        input_bytes,
        versions: peers.ask(&["versions"])?,
        figures,
    })
}

/// Compacts once, in this process, and says what became of the rows.
pub(crate) fn once(inputs: &Path, folder: &Path) -> Result<String, BenchError> {
    let inputs: Vec<Input> = data::files(inputs)?.into_iter().map(Input::File).collect();
    let Compacted { outputs, rows_in, rows, duplicates, conflicts } =
        lake_compactor::compact(Kind::Messages, &inputs, &Options::new(folder))?;
    Ok(format!(
        "{rows_in} rows in {} files -> {rows} rows in {} files; {duplicates} duplicates, {} conflicts",
        inputs.len(),
        outputs.len(),
        conflicts.num_rows()
    ))
}

impl Report {
    fn of(&self, engine: &str) -> Option<&Figures> {
        self.figures.iter().find(|figures| figures.engine == engine)
    }

    /// Each budget with what was measured, and whether it holds.
    fn budgets(&self) -> Vec<(String, bool)> {
        let Some(ours) = self.of(OURS) else {
            return Vec::new();
        };
        let cpu = ours.median(|run| run.cpu_secs);
        let (rate, peak) = (self.rows as f64 / cpu, ours.median(|run| run.peak_bytes));
        let mut budgets = vec![
            (
                format!("{:.0}k rows per CPU-second, at least {:.0}k", rate / 1e3, ROWS_PER_CPU_SEC / 1e3),
                rate >= ROWS_PER_CPU_SEC,
            ),
            (format!("{:.0} MB at most, below {:.0} MB", peak / 1e6, PEAK_BYTES / 1e6), peak < PEAK_BYTES),
            (
                "each engine's rows are ours, ours are in order".to_owned(),
                self.figures.iter().all(|other| {
                    (other.said.rows, other.said.ids, &other.said.digest)
                        == (ours.said.rows, ours.said.ids, &ours.said.digest)
                }) && ours.said.disorder == 0
                    && ours.said.rows == ours.said.ids,
            ),
        ];
        if let Some(duckdb) = self.of("duckdb") {
            let ratio = duckdb.median(|run| run.cpu_secs) / cpu;
            budgets.push((
                format!("{ratio:.2} times DuckDB's rows per CPU-second, at least {DUCKDB_RATIO}"),
                ratio >= DUCKDB_RATIO,
            ));
        }
        budgets
    }

    pub(crate) fn holds(&self) -> bool {
        self.budgets().iter().all(|(_, holds)| *holds)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<_> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        writeln!(
            f,
            "{} rows in {} files of {:.1} MB together; {}",
            self.rows,
            self.files,
            self.input_bytes as f64 / 1e6,
            versions.join(", ")
        )?;
        writeln!(
            f,
            "{:<10} {:>8} {:>16} {:>8} {:>8} {:>9} {:>9}",
            "engine", "CPU-s", "rows/CPU-s", "s", "peak MB", "output MB", "rows"
        )?;
        for figures in &self.figures {
            let cpu = figures.median(|run| run.cpu_secs);
            writeln!(
                f,
                "{:<10} {:>8.2} {:>15.0}k {:>8.2} {:>8.0} {:>9.1} {:>9}",
                figures.engine,
                cpu,
                self.rows as f64 / cpu / 1e3,
                figures.median(|run| run.secs),
                figures.median(|run| run.peak_bytes) / 1e6,
                figures.bytes as f64 / 1e6,
                figures.said.rows
            )?;
        }
        for (budget, holds) in self.budgets() {
            writeln!(f, "{} {budget}", if holds { "holds " } else { "BROKEN" })?;
        }
        Ok(())
    }
}
