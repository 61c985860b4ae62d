//! A file of events -> one Parquet file, beside the other engines and beside arrow-json.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use clap::Args;
use domain::lake::Kind;
use domain::lake::source::Mapping;
use lake_rows::{Converter, Level, Line, Options, ROW_GROUP_ROWS, Writer};
use lake_sample::Plan as Sample;
use memchr::{memchr_iter, memrchr};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::Deserialize;
use time::OffsetDateTime;

use crate::compact::Used;
use crate::peers::{BenchError, Peers};

const OURS: &str = "skylark";
const ARROW_JSON: &str = "arrow-json";

/// Rows for each second of CPU time.
const ROWS_PER_CPU_SEC: f64 = 170_000.0;

const PEAK_BYTES: f64 = 160e6;

/// 2026-09-21 in Unix seconds.
const DAY: i64 = 1_789_948_800;

/// What is read at once, and becomes one batch of columns.
const BLOCK_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Events in the file
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Runs of each engine, taken in turns; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The engines that ours is beside
    #[arg(long, value_delimiter = ',', default_value = "arrow-json,duckdb,polars,pyarrow")]
    beside: Vec<String>,
    /// Where data and the Python environment are kept for the next run; without it they are made anew and deleted
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// What an output says, whatever its order is.
#[derive(Debug, PartialEq, Deserialize)]
struct Said {
    rows: u64,
    digest: String,
}

#[derive(Debug)]
struct Figures {
    engine: String,
    runs: Vec<Used>,
    bytes: u64,
    said: Said,
}

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Report {
    rows: u32,
    input_bytes: u64,
    versions: BTreeMap<String, String>,
    figures: Vec<Figures>,
}

/// Makes the events, converts them with each engine in turn, and compares what came out.
pub(crate) fn measure(plan: &Plan) -> Result<Report, BenchError> {
    let scratch = tempfile::tempdir()?;
    let keep = plan.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    let peers = Peers::install(&keep.join("python"))?;
    let input = keep.join(format!("events-{}.jsonl", plan.rows));
    let input_bytes = events(&input, plan.rows)?;

    let ours = std::env::current_exe()?;
    let engines: Vec<&str> = [OURS].into_iter().chain(plan.beside.iter().map(String::as_str)).collect();
    let outputs: Vec<PathBuf> = engines.iter().map(|engine| scratch.path().join(format!("{engine}.parquet"))).collect();
    let mut runs: Vec<Vec<Used>> = vec![Vec::new(); engines.len()];
    for _ in 0..plan.runs {
        for ((engine, output), runs) in engines.iter().zip(&outputs).zip(&mut runs) {
            let [input, output, ours] = [&input, output, &ours].map(|path| path.to_string_lossy());
            runs.push(match *engine {
                OURS => peers.ask(&["measure", &ours, "ingest-once", &input, &output])?,
                ARROW_JSON => peers.ask(&["measure", &ours, "ingest-arrow-json-once", &input, &output])?,
                peer => peers.measure(&["ingest", peer, &input, &output])?,
            });
        }
    }
    let mut figures = Vec::new();
    for ((engine, output), runs) in engines.into_iter().zip(outputs).zip(runs) {
        let said = peers.ask(&["check_ingest", &output.to_string_lossy()])?;
        figures.push(Figures { engine: engine.to_owned(), runs, bytes: output.metadata()?.len(), said });
    }
    Ok(Report { rows: plan.rows, input_bytes, versions: peers.ask(&["versions"])?, figures })
}

/// A day of messages, all of them good, ids and sources always text: the other engines take no others.
fn events(file: &Path, rows: u32) -> Result<u64, BenchError> {
    if !file.exists() {
        let half = file.with_extension("half");
        let mut output = BufWriter::new(File::create(&half)?);
        let sample = Sample { seed: 1, events: rows.into(), from: DAY, spread_secs: 86_400, mixed: false };
        for event in sample.events() {
            output.write_all(&event.body)?;
            output.write_all(b"\n")?;
        }
        output.flush()?;
        std::fs::rename(half, file)?;
    }
    // What is measured reads from memory, each engine alike.
    std::io::copy(&mut File::open(file)?, &mut std::io::sink())?;
    Ok(file.metadata()?.len())
}

/// Converts once, in this process, as appending does, and writes as compaction does: with the others' codec, and more than they write.
pub(crate) fn once(input: &Path, output: &Path) -> Result<String, BenchError> {
    let mut input = File::open(input)?;
    let mut writer = Writer::new(Kind::Messages, Level::L1, ROW_GROUP_ROWS, File::create(output)?)?;
    let (mut block, mut held, mut raw_line) = (vec![0; BLOCK_BYTES], 0, 0);
    let received_at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(DAY + 86_400);
    loop {
        let read = input.read(block.get_mut(held..).unwrap_or_default())?;
        if read == 0 {
            break;
        }
        held += read;
        let filled = block.get(..held).unwrap_or_default();
        let whole = memrchr(b'\n', filled).map_or(0, |at| at + 1);
        let mut converter = Converter::new(Options::default());
        let mut from = 0;
        for end in memchr_iter(b'\n', filled.get(..whole).unwrap_or_default()) {
            raw_line += 1;
            converter.push(&Line {
                bytes: filled.get(from..end).unwrap_or_default(),
                source: "wechat",
                mapping: &Mapping::Wechat,
                mask: false,
                received_at,
                raw_object: "raw/v1/dt=2026-09-22/hh=00/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.jsonl.zst",
                raw_line,
            });
            from = end + 1;
        }
        for batch in converter.finish()?.batches {
            writer.write(&batch.rows)?;
        }
        block.copy_within(whole..held, 0);
        held -= whole;
    }
    let (_, stats) = writer.finish()?;
    Ok(format!("{} rows", stats.num_records))
}

/// The same with arrow-json, which reads into the types that it is told and knows nothing of what wavers.
pub(crate) fn once_with_arrow_json(input: &Path, output: &Path) -> Result<String, BenchError> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let integer = |name: &str| Field::new(name, DataType::Int64, true);
    let data = Fields::from(vec![
        text("from_username"),
        text("to_username"),
        text("chatroom"),
        text("chatroom_sender"),
        text("msg_id"),
        integer("msg_type"),
        integer("create_time"),
        integer("is_chatroom_msg"),
        text("content"),
        text("desc"),
        text("source"),
    ]);
    let event = Fields::from(vec![
        text("guid"),
        integer("notify_type"),
        Field::new("data", DataType::Struct(data.clone()), true),
    ]);
    let flat: Vec<Field> =
        [text("guid"), integer("notify_type")].into_iter().chain(data.iter().map(|field| renamed(field))).collect();
    let flat: SchemaRef = Arc::new(Schema::new(flat));

    let zstd = Compression::ZSTD(ZstdLevel::try_new(3)?);
    let properties =
        WriterProperties::builder().set_compression(zstd).set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
    let mut writer = ArrowWriter::try_new(File::create(output)?, flat.clone(), Some(properties.build()))?;
    let mut decoder =
        arrow_json::ReaderBuilder::new(Arc::new(Schema::new(event))).with_batch_size(8_192).build_decoder()?;
    let mut input = BufReader::with_capacity(BLOCK_BYTES, File::open(input)?);
    let mut rows = 0;
    loop {
        let block = input.fill_buf()?;
        let ended = block.is_empty();
        let taken = decoder.decode(block)?;
        // It stops where a batch is full.
        let full = taken < block.len();
        input.consume(taken);
        if (ended || full)
            && let Some(events) = decoder.flush()?
        {
            rows += events.num_rows();
            writer.write(&flattened(&events, &flat)?)?;
        }
        if ended {
            break;
        }
    }
    writer.close()?;
    Ok(format!("{rows} rows"))
}

fn renamed(field: &Field) -> Field {
    match field.name().as_str() {
        "desc" => Field::new("msg_desc", DataType::Utf8, true),
        "source" => Field::new("msg_source", DataType::Utf8, true),
        "create_time" => {
            Field::new("create_time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)
        }
        _ => field.clone(),
    }
}

fn flattened(events: &RecordBatch, flat: &SchemaRef) -> Result<RecordBatch, BenchError> {
    let mut columns = events.columns().to_vec();
    let data = columns.pop().map(|data| data.as_struct().clone());
    columns.extend(data.iter().flat_map(|data| data.columns().iter().cloned()));
    for (column, field) in columns.iter_mut().zip(flat.fields()) {
        if field.name() == "create_time"
            && let Some(seconds) = column.as_any().downcast_ref::<Int64Array>()
        {
            let micros: TimestampMicrosecondArray = seconds.unary(|seconds| seconds * 1_000_000);
            *column = Arc::new(micros.with_timezone("UTC"));
        }
    }
    Ok(RecordBatch::try_new(flat.clone(), columns)?)
}

impl Figures {
    fn median(&self, of: impl Fn(&Used) -> f64) -> f64 {
        Used::median(&self.runs, of)
    }

    fn cpu_secs(&self) -> f64 {
        self.median(|run| run.cpu_secs)
    }
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
        let (rate, peak) = (f64::from(self.rows) / ours.cpu_secs(), ours.median(|run| run.peak_bytes));
        let same = self.figures.iter().all(|other| other.said == ours.said) && ours.said.rows == u64::from(self.rows);
        vec![
            (
                format!("{:.0}k rows per CPU-second, at least {:.0}k", rate / 1e3, ROWS_PER_CPU_SEC / 1e3),
                rate >= ROWS_PER_CPU_SEC,
            ),
            (format!("{:.0} MB at most, below {:.0} MB", peak / 1e6, PEAK_BYTES / 1e6), peak < PEAK_BYTES),
            ("each engine's rows are ours".to_owned(), same),
        ]
    }

    pub(crate) fn holds(&self) -> bool {
        self.budgets().iter().all(|(_, holds)| *holds)
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52 bytes")]
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<_> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        writeln!(
            f,
            "{} events, {:.1} MB of JSON, -> one file of zstd-3; {}\n\
             ours also writes extras and where each row came from, a page index and a Bloom filter, and drops repetitions within a block;\n\
             the others' CPU time includes the start of their interpreter",
            self.rows,
            self.input_bytes as f64 / 1e6,
            versions.join(", ")
        )?;
        writeln!(
            f,
            "{:<10} {:>8} {:>16} {:>8} {:>8} {:>9} {:>9}",
            "engine", "CPU-s", "rows/CPU-s", "s", "peak MB", "output MB", "rows"
        )?;
        for figures in &self.figures {
            writeln!(
                f,
                "{:<10} {:>8.2} {:>15.0}k {:>8.2} {:>8.0} {:>9.1} {:>9}",
                figures.engine,
                figures.cpu_secs(),
                f64::from(self.rows) / figures.cpu_secs() / 1e3,
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
