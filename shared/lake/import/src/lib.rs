//! Files of events -> the lake, in bulk, past queue and functions: what a company has when it comes, and what it brings back from an archive.
//!
//! A file is imported once: when it is done a document below `import/v1/`, named after the hash of its content, says so, and the file is passed
//! over from then on, whatever it is called. An import that was interrupted begins anew and changes nothing that is there: each of its batches
//! goes into a table once, and a row whose id the table has is a duplicate, or a conflict if it says something else. The same holds for what
//! came before through a webhook. What comes through one meanwhile or later does not ask the tables; an import that claims its events
//! ([`Importer::claiming`]) and the webhook ask each other.
//!
//! Memory is bounded by a batch ([`BATCH_BYTES`] of lines, their columns and files), by what is known of the days at hand
//! (four million rows of 40 bytes) and by the largest file of a day that is imported into.

mod batch;
mod known;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use arrow_schema::ArrowError;
use domain::fault::{Fault, Refusal, Remedy};
use domain::lake::batch::NotABatch;
use domain::lake::source::{Mapping, SourceName};
use domain::lake::{BatchId, Counts, Intake, Kind};
use lake::append::{AppendFault, Appender};
use lake::{Lake, LakeFault};
use lake_rows::{Converted, Converter, Level, Line, Options, Version, WriteError, write_parquet};
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::batch::Batches;
use crate::known::Known;

/// Where it is kept which files are in the lake.
pub const IMPORT_PREFIX: &str = "import/v1/";

/// How many bytes of lines become one batch: one file for each day that is in them.
pub const BATCH_BYTES: usize = 32 * 1024 * 1024;

/// How the files' events are read.
#[derive(Debug, Clone)]
pub struct Feed {
    /// The column `source` of their rows.
    pub source: SourceName,
    pub mapping: Mapping,
    pub mask: bool,
}

impl Feed {
    /// Everything on which it depends what a line becomes. An import that is carried on with lines read otherwise makes other batches: what the
    /// tables have already they do not get again, and what could not be read before they get now.
    fn reading(&self) -> Result<String, serde_json::Error> {
        let versions = Kind::ALL.map(|table| Version::current(table).version);
        serde_json::to_string(&(&self.source, &self.mapping, self.mask, versions))
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The hash of its content.
    pub sha256: String,
    pub name: String,
    pub bytes: u64,
    pub counts: Counts,
    #[serde(with = "time::serde::rfc3339")]
    pub imported_at: OffsetDateTime,
}

/// How far an import is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub bytes: u64,
    pub of_bytes: u64,
    pub counts: Counts,
}

/// A file and when its lines were received, as far as anybody knows: when it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    pub received_at: OffsetDateTime,
}

/// The files that a path names: itself, or every `.jsonl` and `.json` file in the folder and its folders, in order of their names.
pub fn sources(path: &Path) -> io::Result<Vec<Source>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(vec![Source { path: path.to_owned(), received_at: metadata.modified()?.into() }]);
    }
    let mut entries = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable();
    let mut found = Vec::new();
    for entry in entries {
        let of_events = entry.extension().is_some_and(|extension| extension == "jsonl" || extension == "json");
        if of_events || entry.is_dir() {
            found.append(&mut sources(&entry)?);
        }
    }
    Ok(found)
}

/// Imports into one lake.
#[derive(Debug)]
pub struct Importer<'a> {
    lake: &'a Lake,
    feed: Feed,
    known: Known<'a>,
    appender: Option<&'a Appender>,
}

impl<'a> Importer<'a> {
    #[must_use]
    pub fn new(lake: &'a Lake, feed: Feed) -> Self {
        Self { lake, feed, known: Known::new(lake), appender: None }
    }

    /// Claims each event that the tables do not have, as if it had been posted, for those that may be posted as well: whoever comes first, it is
    /// one row. That is a conditional write for each event, so it costs what posting costs, and is as slow.
    #[must_use]
    pub fn claiming(self, appender: &'a Appender) -> Self {
        Self { appender: Some(appender), ..self }
    }

    /// Imports a file, and says whether it did: one that was imported before is left alone. Called again after a failure it carries on.
    pub async fn import(
        &mut self,
        source: &Source,
        now: OffsetDateTime,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(Imported, bool), ImportFault> {
        let (sha256, of_bytes) = hash(&source.path)?;
        let done = format!("{IMPORT_PREFIX}{sha256}.json");
        if let Some(document) = self.lake.read_object(&done).await? {
            return Ok((serde_json::from_slice(&document)?, false));
        }
        let reading = self.feed.reading()?;
        let mut batches = Batches::of(File::open(&source.path)?, BATCH_BYTES);
        let (mut counts, mut bytes) = (Counts::default(), 0);
        while let Some(batch) = batches.next()? {
            let id = Sha256::digest(format!("{sha256} {} {reading}", batch.number));
            let id = BatchId::new(source.received_at, &hex::encode(id))?;
            let origin = Origin { object: &done, received_at: source.received_at };
            counts = sum(counts, self.append(&id, origin, &batch, now).await?);
            bytes += batch.bytes.len() as u64;
            progress(Progress { bytes, of_bytes, counts });
        }
        let name = source.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let imported = Imported { sha256, name, bytes: of_bytes, counts, imported_at: now };
        self.lake.write_object(&done, serde_json::to_vec(&imported)?.into()).await?;
        Ok((imported, true))
    }

    /// Puts the rows of a batch into their tables, each once.
    async fn append(
        &mut self,
        id: &BatchId,
        origin: Origin<'_>,
        batch: &batch::Batch<'_>,
        now: OffsetDateTime,
    ) -> Result<Counts, ImportFault> {
        let mut converted = self.convert(origin, batch)?;
        for rows in &mut converted.batches {
            let seen = self.known.judge(rows).await?;
            converted.duplicates += seen.duplicates;
            converted.quarantined.extend(seen.conflicts.iter().filter_map(|conflict| {
                let line = batch.line(conflict.line)?;
                Some(conflict.quarantined(&self.line(origin, conflict.line, line)))
            }));
        }
        converted.batches.retain(|batch| batch.rows.num_rows() > 0);
        self.lake.quarantine(&converted.quarantined).await?;
        let mut counts = converted.counts();
        if let Some(appender) = self.appender {
            let claimed = appender.append(self.intakes(origin, batch, &converted), now).await?;
            counts.rows = claimed.rows;
            counts.duplicates += claimed.duplicates;
            counts.quarantined += claimed.quarantined;
        } else {
            self.commit(id, &converted, counts).await?;
        }
        converted.batches.iter().for_each(|rows| self.known.learn(rows));
        Ok(counts)
    }

    async fn commit(&self, id: &BatchId, converted: &Converted, counts: Counts) -> Result<(), ImportFault> {
        for table in Kind::ALL {
            let rows = converted.batches.iter().filter(|batch| batch.table == table);
            let encoded = rows.map(|rows| Ok((rows.partition, write_parquet(table, &rows.rows, Level::L0)?)));
            let encoded: Vec<_> = encoded.collect::<Result<_, WriteError>>()?;
            let files = self.lake.write_batch_files(table, id, &encoded).await?;
            if !files.is_empty() && self.lake.append(table, &files, id, counts).await?.already_there {
                // Somebody else imports this file, too, and was quicker.
                self.lake.discard(table, &files).await?;
            }
        }
        Ok(())
    }

    /// The lines that became rows, as if they had been posted: each is the same delivery however often its file is imported.
    fn intakes(&self, origin: Origin<'_>, batch: &batch::Batch<'_>, converted: &Converted) -> Vec<Intake> {
        let lines = converted.batches.iter().flat_map(|rows| known::lines(&rows.rows));
        let intake = |number| {
            Some(Intake {
                source: self.feed.source.clone(),
                request_id: format!("{}.{number}", origin.object),
                received_at: origin.received_at,
                content_type: None,
                content_encoding: None,
                body: batch.line(number)?.to_vec(),
            })
        };
        lines.filter_map(intake).collect()
    }

    fn convert(&self, origin: Origin<'_>, batch: &batch::Batch<'_>) -> Result<Converted, ArrowError> {
        let mut converter = Converter::new(Options::default()).expecting(batch.bytes.len());
        for (number, line) in batch.lines() {
            converter.push(&self.line(origin, number, line));
        }
        converter.finish()
    }

    fn line<'l>(&'l self, origin: Origin<'l>, raw_line: u64, bytes: &'l [u8]) -> Line<'l> {
        let (Feed { source, mapping, mask }, Origin { object, received_at }) = (&self.feed, origin);
        Line { bytes, source: source.as_str(), mapping, mask: *mask, received_at, raw_object: object, raw_line }
    }
}

/// Where lines come from.
#[derive(Clone, Copy)]
struct Origin<'a> {
    /// The document that will say that their file was imported.
    object: &'a str,
    received_at: OffsetDateTime,
}

fn sum(a: Counts, b: Counts) -> Counts {
    Counts {
        lines_in: a.lines_in + b.lines_in,
        rows: a.rows + b.rows,
        duplicates: a.duplicates + b.duplicates,
        quarantined: a.quarantined + b.quarantined,
    }
}

/// The SHA-256 of a file's content, and its length.
fn hash(path: &Path) -> io::Result<(String, u64)> {
    let (mut file, mut hash, mut bytes) = (File::open(path)?, Sha256::new(), 0);
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hex::encode(hash.finalize()), bytes)),
            read => {
                hash.update(buffer.get(..read).unwrap_or_default());
                bytes += read as u64;
            }
        }
    }
}

/// Why an import stopped. What is in the lake by then stays there, and the next import carries on.
#[derive(Debug, thiserror::Error)]
pub enum ImportFault {
    #[error("a file cannot be read")]
    File(#[from] io::Error),
    #[error("the lake does not take a batch")]
    Lake(#[from] LakeFault),
    #[error("a batch does not become columns")]
    Columns(#[from] ArrowError),
    #[error("a batch does not become a file")]
    Write(#[from] WriteError),
    #[error("a file of the lake cannot be read")]
    Read(#[from] ParquetError),
    #[error("a document of the import is not JSON")]
    Document(#[from] serde_json::Error),
    #[error("the batch has no name")]
    Name(#[from] NotABatch),
    #[error("a batch cannot be claimed")]
    Claim(#[from] AppendFault),
}

impl Fault for ImportFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::File(_) => Remedy::Reject(Refusal::Unknown),
            Self::Lake(fault) => fault.remedy(),
            Self::Write(fault) => fault.remedy(),
            Self::Claim(fault) => fault.remedy(),
            Self::Columns(_) | Self::Read(_) | Self::Document(_) | Self::Name(_) => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::File(_) => "unreadable_file",
            Self::Lake(fault) => fault.code(),
            Self::Write(fault) => fault.code(),
            Self::Claim(fault) => fault.code(),
            Self::Columns(_) | Self::Read(_) | Self::Document(_) | Self::Name(_) => "internal_error",
        }
    }
}
