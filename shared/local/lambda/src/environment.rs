//! One execution environment: a process of a function, its Runtime API and its log.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{self, Path};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::FunctionConfig;
use crate::failure::Failure;
use crate::log::{EnvironmentLog, FunctionLog};
use crate::origin;
use crate::process::{Process, ProcessTable};
use crate::runtime_api::{Answer, Invocation, RESPONSE_LIMIT, RuntimeApi};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);
/// A process that is being written cannot be started: a compiler at work is given so many pauses to finish.
const BUSY_RETRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How long an answer is held back for the process to ask for the next event, so that the caller's next call finds it idle.
const SETTLE: Duration = Duration::from_millis(100);

const LOG_STREAM_DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]/[month]/[day]");

pub(crate) struct Environment {
    pub(crate) binary: Option<BinaryVersion>,
    pub(crate) generation: u64,
    pub(crate) id: String,
    pub(crate) log: Arc<EnvironmentLog>,
    api: RuntimeApi,
    process: Process,
    /// In bytes.
    peak_memory: AtomicU64,
}

/// Tells whether the file on disk is still the one a process was started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BinaryVersion {
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

impl BinaryVersion {
    /// `None` while there is no such file, as between the two steps of a build that replaces it.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { modified: (metadata.mtime(), metadata.mtime_nsec()), size: metadata.size(), inode: metadata.ino() })
    }
}

/// How one invocation ended.
pub(crate) enum Outcome {
    Answered(Bytes),
    /// The handler failed and the process goes on.
    Failed(Bytes),
    /// The handler's answer was too large, and the process goes on.
    TooLarge,
    /// The process is of no further use.
    Broken(Failure),
    /// The process ended before it took the event.
    NotTaken(Failure),
}

/// Whether the process can be used again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Idle,
    Ended,
    /// It still works on something after its answer.
    Busy,
}

impl Environment {
    /// Starts the process; it is not ready yet. `variables` win over the configuration's.
    pub(crate) async fn start(
        config: &FunctionConfig,
        variables: &BTreeMap<String, String>,
        region: &str,
        processes: &Arc<ProcessTable>,
        log: &Arc<FunctionLog>,
        generation: u64,
    ) -> io::Result<Self> {
        let id = origin::new_id().simple().to_string();
        let api = RuntimeApi::serve().await?;
        let binary = BinaryVersion::of(&config.binary);
        let (log, stdout, stderr) = EnvironmentLog::new(Arc::clone(log), &id)?;
        let mut command = command(config, variables, region, &id, &api)?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut tries = 0;
        let process = loop {
            match processes.spawn(&mut command) {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_RETRIES => {
                    tries += 1;
                    sleep(BUSY_PAUSE).await;
                }
                started => break started?,
            }
        };
        Ok(Self { binary, generation, id, log, api, process, peak_memory: AtomicU64::new(0) })
    }

    /// Waits until the process asks for its first event. After a failure it is dead.
    pub(crate) async fn initialise(&self, limit: Duration, memory_mb: u32) -> Result<(), Failure> {
        let failure = tokio::select! {
            biased;
            () = self.api.ready() => {
                self.sample_memory();
                return Ok(());
            }
            status = self.process.exited() => self.api.init_error().map_or(Failure::Exited(status), Failure::Init),
            () = sleep(limit) => Failure::TimedOut(limit),
            () = self.out_of_memory(memory_mb) => Failure::OutOfMemory,
        };
        self.end().await;
        Err(failure)
    }

    /// Hands the event to the process and waits for the end of the invocation, at `deadline` at the latest.
    pub(crate) async fn invoke(
        &self,
        config: &FunctionConfig,
        request_id: &str,
        payload: Bytes,
        deadline: Instant,
    ) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let remaining = deadline.saturating_duration_since(Instant::now());
        self.api.send(Invocation {
            request_id: request_id.to_owned(),
            function_arn: config.arn.clone(),
            deadline_ms: origin::now_ms().saturating_add(i64::try_from(remaining.as_millis()).unwrap_or(i64::MAX)),
            trace_id: trace_id(),
            payload,
            answer,
        });
        let failure = tokio::select! {
            biased;
            // The channel closes with the event still in it when the process ends: then the next branch has the reason.
            Ok(answer) = answered => {
                self.sample_memory();
                return match answer {
                    Answer::Response(body) => Outcome::Answered(body),
                    Answer::Error(body) => Outcome::Failed(body),
                    Answer::TooLarge => Outcome::TooLarge,
                };
            }
            status = self.process.exited() => {
                self.log.drain_to_end();
                let failure = Failure::Exited(status);
                return if self.api.took(request_id) { Outcome::Broken(failure) } else { Outcome::NotTaken(failure) };
            }
            () = sleep_until(deadline) => Failure::TimedOut(config.timeout),
            () = self.out_of_memory(config.memory_mb) => Failure::OutOfMemory,
        };
        self.end().await;
        Outcome::Broken(failure)
    }

    /// Waits a moment for the process to be ready for the next event.
    pub(crate) async fn settle(&self) -> Settled {
        tokio::select! {
            biased;
            () = self.api.ready() => Settled::Idle,
            _ = self.process.exited() => Settled::Ended,
            () = sleep(SETTLE) => Settled::Busy,
        }
    }

    /// As [`settle`](Self::settle), until `deadline`; a process that is not ready by then is killed.
    pub(crate) async fn settle_until(&self, deadline: Instant) -> Settled {
        tokio::select! {
            biased;
            () = self.api.ready() => Settled::Idle,
            _ = self.process.exited() => Settled::Ended,
            () = sleep_until(deadline) => {
                self.end().await;
                Settled::Ended
            }
        }
    }

    /// Ends an idle process. Nothing is lost: it holds no event.
    pub(crate) async fn retire(self, grace: Duration) {
        self.process.terminate();
        if tokio::time::timeout(grace, self.process.exited()).await.is_err() {
            self.process.kill().await;
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.process.has_exited()
    }

    /// The most memory the process was seen to use, in MB rounded up.
    pub(crate) fn peak_memory_mb(&self) -> u64 {
        self.peak_memory.load(Ordering::Relaxed).div_ceil(1024 * 1024)
    }

    async fn end(&self) {
        self.sample_memory();
        self.process.kill().await;
        self.log.drain_to_end();
    }

    /// What the process uses now, in bytes; 0 once it is gone.
    fn sample_memory(&self) -> u64 {
        let Some(memory) = self.process.memory() else { return 0 };
        self.peak_memory.fetch_max(memory.peak, Ordering::Relaxed);
        memory.resident
    }

    /// Returns when the process uses more than it may.
    async fn out_of_memory(&self, memory_mb: u32) {
        let limit = u64::from(memory_mb) * 1024 * 1024;
        loop {
            sleep(SAMPLE_INTERVAL).await;
            if self.sample_memory() > limit {
                return;
            }
        }
    }
}

pub(crate) fn response_too_large() -> Failure {
    Failure::ResponseTooLarge(RESPONSE_LIMIT)
}

/// The command with the variables of the Lambda execution environment and no others. `AWS_EXECUTION_ENV` is not among them:
/// Lambda does not set it for OS-only runtimes.
fn command(
    config: &FunctionConfig,
    variables: &BTreeMap<String, String>,
    region: &str,
    id: &str,
    api: &RuntimeApi,
) -> io::Result<Command> {
    let binary = path::absolute(&config.binary)?;
    let root = binary.parent().unwrap_or(Path::new("/"));
    let day = origin::now().format(LOG_STREAM_DAY).unwrap_or_default();
    let mut command = Command::new(&binary);
    command
        .current_dir(root)
        .env_clear()
        // What a function may set itself.
        .env("LANG", "en_US.UTF-8")
        .env("PATH", "/usr/local/bin:/usr/bin/:/bin:/opt/bin")
        .env("AWS_LAMBDA_LOG_FORMAT", "Text")
        .envs(&config.environment)
        .envs(variables)
        // What Lambda reserves.
        .env("_HANDLER", "bootstrap")
        .env("TZ", ":UTC")
        .env("LAMBDA_TASK_ROOT", root)
        .env("LAMBDA_RUNTIME_DIR", "/var/runtime")
        .env("AWS_REGION", region)
        .env("AWS_DEFAULT_REGION", region)
        .env("AWS_LAMBDA_FUNCTION_NAME", &config.name)
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", config.memory_mb.to_string())
        .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
        .env("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", config.name))
        .env("AWS_LAMBDA_LOG_STREAM_NAME", format!("{day}/[$LATEST]{id}"))
        .env("AWS_LAMBDA_RUNTIME_API", api.address.to_string());
    Ok(command)
}

/// An X-Ray trace that is not sampled.
fn trace_id() -> String {
    let (root, parent) = (origin::new_id().as_u128() >> 32, origin::new_id().as_u64_pair().1);
    format!("Root=1-{:08x}-{root:024x};Parent={parent:016x};Sampled=0", origin::now().unix_timestamp())
}
