//! Questions to a month of messages, beside the other engines, which read the same files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, RecordBatch};
use clap::Args;
use domain::lake::source::Mapping;
use domain::lake::{BatchId, Counts, Kind, Partition};
use lake::{Lake, Settings};
use lake_compactor::Input;
use lake_reader::{Filter, Query, Reader};
use lake_rows::{Level, Line, Options, Written, convert, write_parquet};
use lake_sample::Plan as Sample;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::peers::{BenchError, Peers};
use crate::report::{OURS, Report};

/// 2026-11-01 in Unix seconds.
const FIRST_DAY: i64 = 1_793_491_200;

/// What is asked, and the milliseconds that it may take us.
const QUESTIONS: [(&str, &str, f64); 3] = [
    ("by id", "a message by its id, of all days, with all columns", 12.0),
    ("day and sender", "what one sender said on one day, with all columns", 20.0),
    ("by chat room", "how many messages each chat room has in all days", 60.0),
];

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Days, each one sealed file
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=30))]
    days: u32,
    /// Messages of a day
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// How often each engine is asked each question, after it was asked once; the median counts
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The engines that ours is beside
    #[arg(long, value_delimiter = ',', default_value = "duckdb,polars,pyarrow")]
    beside: Vec<String>,
    /// Where data and the Python environment are kept for the next run; without it they are made anew and deleted
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// What the questions are about.
#[derive(Debug, Serialize, Deserialize)]
struct Subject {
    msg_id: String,
    day: Partition,
    sender: String,
}

/// How an engine answered a question.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    /// What it said the first time, in a form that all engines share.
    answer: String,
    first_ms: f64,
    ms: Vec<f64>,
    /// CPU time for each time that it was asked after the first.
    cpu_ms: f64,
}

impl Answered {
    fn median_ms(&self) -> f64 {
        let mut ms = self.ms.clone();
        ms.sort_by(f64::total_cmp);
        ms.get(ms.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Makes the table, asks each engine in a process of its own, and compares the answers.
pub(crate) fn measure(plan: &Plan) -> Result<Report, BenchError> {
    let scratch = tempfile::tempdir()?;
    let keep = plan.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    let peers = Peers::install(&keep.join("python"))?;
    let folder = keep.join(format!("month-{}-{}", plan.days, plan.rows));
    month(&folder, plan.days, plan.rows)?;
    let (ours, runs) = (std::env::current_exe()?, plan.runs.to_string());
    let [ours, folder] = [&ours, &folder].map(|path| path.to_string_lossy());

    let mut engines: Vec<(&str, BTreeMap<String, Answered>)> = Vec::new();
    engines.push((OURS, peers.ask(&["run", &ours, "query-once", &folder, &runs])?));
    for engine in &plan.beside {
        engines.push((engine, peers.ask(&["query", engine, &folder, &runs])?));
    }

    let heading = format!("{} days of {} messages, each one sealed file; {}", plan.days, plan.rows, peers.versions()?);
    let mut report = Report::new(heading);
    for (question, meaning, budget_ms) in QUESTIONS {
        let answers = engines.iter().filter_map(|(engine, answers)| Some((*engine, answers.get(question)?)));
        let answers: Vec<_> = answers.collect();
        report.lines(
            meaning,
            &["engine", "ms", "CPU ms", "first ms"],
            answers.iter().map(|(engine, it)| (*engine, vec![it.median_ms(), it.cpu_ms, it.first_ms])),
        );
        let Some((_, ours)) = answers.iter().find(|(engine, _)| *engine == OURS) else { continue };
        let ms = ours.median_ms();
        report.budget(format!("{question}: {ms:.1} ms, below {budget_ms} ms"), ms < budget_ms);
        let alike = answers.iter().all(|(_, other)| other.answer == ours.answer);
        report.budget(format!("{question}: each engine's answer is ours"), alike);
    }
    Ok(report)
}

fn runtime() -> Result<tokio::runtime::Runtime, BenchError> {
    // One thread, as a function has.
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Makes the table unless it is there.
fn month(folder: &Path, days: u32, rows: u32) -> Result<(), BenchError> {
    if folder.join("subject.json").exists() {
        return Ok(());
    }
    let lake = Lake::open(&Settings::folder(folder))?;
    let mut subject = None;
    for day in 0..days {
        let from = FIRST_DAY + i64::from(day) * 86_400;
        let batch = day_of(from, u64::from(day), rows)?;
        let partition = Partition::of_unix(from).ok_or(BenchError::NoSubject)?;
        if day == days / 2 {
            subject = about(&batch, partition);
        }
        let small = write_parquet(Kind::Messages, &batch, Level::L0)?;
        let scratch = tempfile::tempdir()?;
        let options =
            lake_compactor::Options { level: Level::L2, ..lake_compactor::Options::new(scratch.path().to_owned()) };
        let sealed = lake_compactor::compact(Kind::Messages, &[Input::Bytes(small.bytes)], &options)?;
        let id = BatchId::new(OffsetDateTime::from_unix_timestamp(from)?, &format!("{day:064x}"));
        let id = id.map_err(|_| BenchError::NoSubject)?;
        runtime()?.block_on(async {
            let mut files = Vec::new();
            for output in &sealed.outputs {
                let bytes = std::fs::read(&output.path)?.into();
                let written = Written { bytes, rows: output.rows, stats: output.stats.clone() };
                files.push(lake.write_merged_file(Kind::Messages, partition, Level::L2, &written).await?);
            }
            let counts = Counts { lines_in: sealed.rows, rows: sealed.rows, duplicates: 0, quarantined: 0 };
            lake.append(Kind::Messages, &files, &id, counts).await?;
            Ok::<_, BenchError>(())
        })?;
    }
    let subject = serde_json::to_vec(&subject.ok_or(BenchError::NoSubject)?);
    Ok(std::fs::write(folder.join("subject.json"), subject.map_err(|_| BenchError::NoSubject)?)?)
}

/// The messages of a day, in the order of arrival.
fn day_of(from: i64, seed: u64, rows: u32) -> Result<RecordBatch, BenchError> {
    let sample = Sample { seed, events: rows.into(), from, spread_secs: 86_400, mixed: false };
    let bodies: Vec<Vec<u8>> = sample.events().map(|event| event.body).collect();
    let (begin, mapping) = (OffsetDateTime::from_unix_timestamp(from)?, Mapping::Wechat);
    let lines = (1..).zip(&bodies).map(|(raw_line, body)| Line {
        bytes: body,
        source: "wechat",
        mapping: &mapping,
        mask: false,
        received_at: begin + Duration::milliseconds(raw_line as i64),
        raw_object: "dt=2026-11-05/hh=00/day",
        raw_line,
    });
    let converted = convert(&lines.collect::<Vec<_>>(), &Options::default())?;
    let batch = converted.batches.into_iter().find(|batch| batch.table == Kind::Messages);
    Ok(batch.ok_or(BenchError::NoSubject)?.rows)
}

/// A row of the middle of a day, and who said it.
fn about(rows: &RecordBatch, day: Partition) -> Option<Subject> {
    let ids = rows.column_by_name("msg_id")?.as_string_opt::<i32>()?;
    let senders = rows.column_by_name("chatroom_sender")?.as_string_opt::<i32>()?;
    let row =
        (rows.num_rows() / 2..rows.num_rows()).find(|row| senders.is_valid(*row) && !senders.value(*row).is_empty())?;
    Some(Subject { msg_id: ids.value(row).to_owned(), day, sender: senders.value(row).to_owned() })
}

/// Asks our reader each question so many times, in this process, and says how it went.
pub(crate) fn once(folder: &Path, runs: u32) -> Result<String, BenchError> {
    let subject = std::fs::read(folder.join("subject.json"))?;
    let subject: Subject = serde_json::from_slice(&subject).map_err(|_| BenchError::NoSubject)?;
    let reader = Reader::new(Arc::new(Lake::open(&Settings::folder(folder))?));
    let runtime = runtime()?;
    let end = subject.day.ends_at();
    let day_and_sender = Query {
        filter: Filter {
            start: Some(end - Duration::DAY),
            end: Some(end),
            chatroom_sender: Some(subject.sender.clone()),
            ..Filter::default()
        },
        limit: 10_000,
        ..Query::default()
    };
    let mut answers = BTreeMap::new();
    for (question, ..) in QUESTIONS {
        let ask = || {
            runtime.block_on(async {
                match question {
                    "by id" => {
                        let rows = reader.message(&subject.msg_id).await?;
                        Ok::<_, BenchError>(rows.map(|rows| said(&rows)).unwrap_or_default())
                    }
                    "day and sender" => Ok(said(&reader.messages(&day_and_sender).await?.rows)),
                    _ => {
                        let counts = reader.count_by(&Filter::default(), "chatroom").await?;
                        let first = counts.first().map(|(room, count)| format!("{room:?} {count}"));
                        Ok(format!("{} {}", counts.len(), first.unwrap_or_default().replace("Some", "")))
                    }
                }
            })
        };
        let start = Instant::now();
        let answer = ask()?;
        let first_ms = start.elapsed().as_secs_f64() * 1e3;
        let (mut ms, cpu) = (Vec::new(), cpu_ms()?);
        for _ in 0..runs {
            let start = Instant::now();
            ask()?;
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let cpu_ms = (cpu_ms()? - cpu) / f64::from(runs);
        answers.insert(question, Answered { answer, first_ms, ms, cpu_ms });
    }
    serde_json::to_string(&answers).map_err(|_| BenchError::NoSubject)
}

/// Rows in a form that all engines share: how many, and sums of a time and a number of each.
fn said(rows: &RecordBatch) -> String {
    let times = rows.column_by_name("create_time").and_then(|it| it.as_primitive_opt::<TimestampMicrosecondType>());
    let lines = rows.column_by_name("raw_line").and_then(|it| it.as_primitive_opt::<Int64Type>());
    let times: i64 = times.into_iter().flatten().flatten().map(|micros| micros / 1_000_000).sum();
    let lines: i64 = lines.into_iter().flatten().flatten().sum();
    format!("{} {times} {lines}", rows.num_rows())
}

/// The CPU time that this process has taken, as the system counts it: in hundredths of a second.
fn cpu_ms() -> Result<f64, BenchError> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks * 10.0)
}
