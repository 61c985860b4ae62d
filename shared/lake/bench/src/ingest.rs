//! A file of events -> columns -> one Parquet file, beside the other engines and beside arrow-json.

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
use lake_rows::{Converter, Digester, Level, Line, Options, ROW_GROUP_ROWS, Writer};
use lake_sample::Plan as Sample;
use memchr::{memchr_iter, memrchr};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use time::OffsetDateTime;

use crate::peers::{BenchError, Peers};
use crate::report::{Figures, OURS, Report};

const ARROW_JSON: &str = "arrow-json";

/// Ours, with the hashes by which an import knows what it has seen.
const WITH_DIGESTS: &str = "skylark, digests";

/// Ours, written as appending writes: soon to be merged, with the quickest compression.
const AS_APPENDED: &str = "skylark, append";

/// Rows for each second of CPU time.
const ROWS_PER_CPU_SEC: f64 = 170_000.0;

const PEAK_BYTES: f64 = 160e6;

/// What arrow-json may take of the CPU time from JSON to columns, at least, for each that we take.
const ARROW_JSON_RATIO: f64 = 1.5;

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

/// Makes the events, converts them with each engine in turn, and compares what came out.
pub(crate) fn measure(plan: &Plan) -> Result<Report, BenchError> {
    let scratch = tempfile::tempdir()?;
    let keep = plan.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    let peers = Peers::install(&keep.join("python"))?;
    let input = keep.join(format!("events-{}.jsonl", plan.rows));
    let input_bytes = events(&input, plan.rows)?;
    let ours = std::env::current_exe()?;
    let [input, ours] = [&input, &ours].map(|path| path.to_string_lossy());

    let columns = Figures::take(&[OURS, WITH_DIGESTS, ARROW_JSON], plan.runs, |engine| {
        peers.ask(&["measure", &ours, "ingest-once", engine, &input])
    })?;
    let engines: Vec<&str> = [OURS, AS_APPENDED].into_iter().chain(plan.beside.iter().map(String::as_str)).collect();
    let file = |engine: &str| scratch.path().join(format!("{engine}.parquet"));
    let mut files = Figures::take(&engines, plan.runs, |engine| {
        let output = file(engine);
        let output = output.to_string_lossy();
        match engine {
            OURS | AS_APPENDED | ARROW_JSON => peers.ask(&["measure", &ours, "ingest-once", engine, &input, &output]),
            peer => peers.measure(&["ingest", peer, &input, &output]),
        }
    })?;
    for figures in &mut files {
        let output = file(&figures.engine);
        let said = peers.ask(&["check_ingest", &output.to_string_lossy()])?;
        figures.output = Some((said, output.metadata()?.len()));
    }

    let mut report =
        Report::new(format!("{} events, {:.1} MB of JSON; {}", plan.rows, input_bytes as f64 / 1e6, peers.versions()?));
    let rows = f64::from(plan.rows);
    report.table(
        "JSON -> columns; ours takes wavering types, keeps fields that have no column and where each row came from, and drops repetitions",
        rows,
        &columns,
    );
    report.table(
        "JSON -> one file of zstd-3, of zstd-1 as appended; ours also has a page index and a Bloom filter; the others' CPU time includes the start of their interpreter",
        rows,
        &files,
    );
    report.usage(rows, ROWS_PER_CPU_SEC, PEAK_BYTES, &files);
    report.ratio("JSON -> columns", ARROW_JSON_RATIO, ARROW_JSON, &columns);
    report.ratio("JSON -> Parquet", 1.0, ARROW_JSON, &files);
    Ok(report)
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

/// Converts once, in this process, to a file or only to columns.
pub(crate) fn once(engine: &str, input: &Path, output: Option<&Path>) -> Result<String, BenchError> {
    let rows = match (engine, output) {
        (ARROW_JSON, None) => columns_of_arrow_json(input, |events| flattened(&events).map(drop))?,
        (ARROW_JSON, Some(output)) => {
            let zstd = Compression::ZSTD(ZstdLevel::try_new(3)?);
            let properties =
                WriterProperties::builder().set_compression(zstd).set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
            let mut writer = ArrowWriter::try_new(File::create(output)?, flat(), Some(properties.build()))?;
            let rows = columns_of_arrow_json(input, |events| Ok(writer.write(&flattened(&events)?)?))?;
            writer.close()?;
            rows
        }
        (WITH_DIGESTS, None) => {
            let digester = Digester::default();
            columns(input, |rows| {
                std::hint::black_box(digester.digests(Kind::Messages, &rows));
                Ok(())
            })?
        }
        (_, None) => columns(input, |_| Ok(()))?,
        // As compaction writes, with the others' codec and more than they write, or as appending does.
        (engine, Some(output)) => {
            let level = if engine == AS_APPENDED { Level::L0 } else { Level::L1 };
            let mut writer = Writer::new(Kind::Messages, level, ROW_GROUP_ROWS, File::create(output)?)?;
            let rows = columns(input, |rows| Ok(writer.write(&rows)?))?;
            writer.finish()?;
            rows
        }
    };
    Ok(format!("{rows} rows"))
}

/// Converts as appending does; each block's rows are given to `sink`.
fn columns(input: &Path, mut sink: impl FnMut(RecordBatch) -> Result<(), BenchError>) -> Result<usize, BenchError> {
    let mut input = File::open(input)?;
    let (mut block, mut held, mut raw_line, mut rows) = (vec![0; BLOCK_BYTES], 0, 0, 0);
    let received_at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(DAY + 86_400);
    loop {
        let read = input.read(block.get_mut(held..).unwrap_or_default())?;
        if read == 0 {
            return Ok(rows);
        }
        held += read;
        let filled = block.get(..held).unwrap_or_default();
        let whole = memrchr(b'\n', filled).map_or(0, |at| at + 1);
        let mut converter = Converter::new(Options::default()).expecting(whole);
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
            rows += batch.rows.num_rows();
            sink(batch.rows)?;
        }
        block.copy_within(whole..held, 0);
        held -= whole;
    }
}

/// The same with arrow-json, which reads into the types that it is told and knows nothing of what wavers.
fn columns_of_arrow_json(
    input: &Path,
    mut sink: impl FnMut(RecordBatch) -> Result<(), BenchError>,
) -> Result<usize, BenchError> {
    let events = Arc::new(Schema::new(event()));
    let mut decoder = arrow_json::ReaderBuilder::new(events).with_batch_size(8_192).build_decoder()?;
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
            sink(events)?;
        }
        if ended {
            return Ok(rows);
        }
    }
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn integer(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// An event as arrow-json reads it.
fn event() -> Fields {
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
    Fields::from(vec![text("guid"), integer("notify_type"), Field::new("data", DataType::Struct(data), true)])
}

/// The columns of its file.
fn flat() -> SchemaRef {
    let event = event();
    let flat = event.iter().flat_map(|field| match field.data_type() {
        DataType::Struct(data) => data.iter().map(|field| renamed(field)).collect(),
        _ => vec![field.as_ref().clone()],
    });
    Arc::new(Schema::new(flat.collect::<Vec<_>>()))
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

fn flattened(events: &RecordBatch) -> Result<RecordBatch, BenchError> {
    let flat = flat();
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
    Ok(RecordBatch::try_new(flat, columns)?)
}
