//! The run: every binary is started in turns, then each handles its events, alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use vault::{AccessTokens, KeyFile, KeyFileError, SigningKeyFiles};

use crate::aws::Aws;
use crate::build::{BuildError, HELLO, Workspace};
use crate::case::{self, Case, CaseError};
use crate::process::{Environment, Process, Vault};
use crate::report::{Figures, Report, Spread};
use crate::runtime_api::{Record, RuntimeApi};
use crate::server::Server;

/// A function that takes longer for a start, or for all its events, is stuck.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a zip adds to the deflated bytes of its one file, `bootstrap`: local header, central directory and its end.
const ZIP_FRAME: u64 = 30 + 46 + 22 + 2 * "bootstrap".len() as u64;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) names: Vec<String>,
    pub(crate) binaries: Option<PathBuf>,
    pub(crate) runs: u32,
    pub(crate) events: u32,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Case(#[from] CaseError),
    #[error("binary `{}` cannot be read", .0.display())]
    Binary(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error("this machine refused something")]
    Io(#[from] io::Error),
    #[error("`{name}` failed: {failure}; it logged: {log}")]
    Function { name: String, failure: String, log: String },
}

/// A binary under test and what is known of it so far.
struct Subject {
    name: String,
    binary: PathBuf,
    case: Case,
    starts: Vec<Start>,
}

/// One start, at its first request for an event.
struct Start {
    init: Duration,
    cpu: Duration,
    memory: u64,
}

/// Measures the functions and the hello-world.
pub(crate) async fn measure(plan: &Plan) -> Result<Report, BenchError> {
    let workspace = Workspace::find()?;
    let names = if plan.names.is_empty() { workspace.functions()? } else { plan.names.clone() };
    let folder = tempfile::tempdir()?;
    let key_file = folder.path().join("vault.key");
    KeyFile::create_if_missing(&key_file)?;
    let signing_key = Environment::signing_key_file_in(folder.path());
    SigningKeyFiles::create_if_missing(&signing_key)?;
    let signer = AccessTokens::new(Box::new(SigningKeyFiles::read(&[signing_key])?), None);
    let token = case::access_token(&signer, case::USER).await?;
    let mut cases = Vec::new();
    for name in [HELLO.1].into_iter().chain(names.iter().map(String::as_str)) {
        cases.push((name, Case::of(name, &token)?));
    }
    let binaries = match &plan.binaries {
        Some(folder) => folder.clone(),
        None => workspace.build(&names)?,
    };
    let mut subjects: Vec<Subject> = cases
        .into_iter()
        .map(|(name, case)| Subject { name: name.to_owned(), binary: binaries.join(name), case, starts: Vec::new() })
        .collect();

    let app = case::app(KeyFile::read(&key_file)?).await?;
    let aws = Arc::new(Aws { app, client: case::client()?, source: case::source()?, requests: AtomicU64::new(0) });
    let server = Server::start(aws.clone()).await?;
    let environment = Environment { aws: server.address, folder: folder.path().to_owned() };

    // The first round only brings the binaries into the page cache.
    for round in 0..=plan.runs {
        for subject in &mut subjects {
            let start = subject.start(&environment).await?;
            if round > 0 {
                subject.starts.push(start);
            }
        }
    }
    let mut all = Vec::new();
    for subject in &subjects {
        all.push(subject.figures(&environment, plan.events, &aws.requests).await?);
    }
    Ok(Report::new(all, plan.runs, plan.events))
}

impl Subject {
    /// Starts it once, until it asks for an event.
    async fn start(&self, environment: &Environment) -> Result<Start, BenchError> {
        let (process, record) = self.run(environment, 0).await?;
        let start = Start {
            init: record.ready.map_or(Duration::ZERO, |ready| ready - process.started),
            cpu: process.cpu()?,
            memory: process.memory()?,
        };
        process.stop().await?;
        Ok(start)
    }

    /// Starts it and hands it its events; adds what its file weighs.
    async fn figures(
        &self,
        environment: &Environment,
        events: u32,
        requests: &AtomicU64,
    ) -> Result<Figures, BenchError> {
        let before = requests.load(Ordering::Relaxed);
        let (process, record) = self.run(environment, events).await?;
        let requests = requests.load(Ordering::Relaxed) - before;
        let memory_after = process.memory()?;
        process.stop().await?;
        let weight = |cause| BenchError::Binary(self.binary.clone(), cause);
        Ok(Figures {
            name: self.name.clone(),
            init: Spread::of(self.starts.iter().map(|start| start.init).collect()),
            init_cpu: Spread::of(self.starts.iter().map(|start| start.cpu).collect()),
            memory_at_init: Spread::of(self.starts.iter().map(|start| start.memory).collect()),
            memory_after,
            handler: Spread::of(record.latencies),
            requests_per_event: requests as f64 / f64::from(events),
            binary_bytes: fs::metadata(&self.binary).map_err(weight)?.len(),
            zip_bytes: zipped(&self.binary).map_err(weight)?,
        })
    }

    async fn run(&self, environment: &Environment, events: u32) -> Result<(Process, Record), BenchError> {
        let api = Arc::new(RuntimeApi::new(&self.case, events));
        let server = Server::start(api.clone()).await?;
        let vault = if events == 0 { Vault::Kms } else { Vault::KeyFile };
        let process = Process::start(&self.binary, &self.name, environment, vault, server.address);
        let mut process = process.map_err(|cause| BenchError::Binary(self.binary.clone(), cause))?;
        let failure = tokio::select! {
            record = api.done() => match record.failure {
                None => return Ok((process, record)),
                Some(failure) => failure,
            },
            end = process.ended() => end,
            () = tokio::time::sleep(PATIENCE) => format!("it is stuck after {} s", PATIENCE.as_secs()),
        };
        let log = fs::read_to_string(environment.log())?;
        Err(BenchError::Function { name: self.name.clone(), failure, log })
    }
}

/// The size of a zip (deflate, level 9) with the file as `bootstrap`.
fn zipped(binary: &Path) -> io::Result<u64> {
    let mut encoder = DeflateEncoder::new(Count(0), Compression::best());
    io::copy(&mut File::open(binary)?, &mut encoder)?;
    Ok(encoder.finish()?.0 + ZIP_FRAME)
}

/// Counts what is written.
struct Count(u64);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
