//! One function: its environments, who gets one, and what its invocations add up to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::config::{FunctionConfig, Settings};
use crate::environment::{BinaryVersion, Environment, Outcome, Settled, response_too_large};
use crate::failure::Failure;
use crate::log::FunctionLog;
use crate::process::ProcessTable;
use crate::{InvokeError, Reply};

const PAYLOAD_LIMIT: usize = 6 * 1024 * 1024;

/// What happened to a function since the runner started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct FunctionStats {
    /// Invocations that ended, whatever their result.
    pub invocations: u64,
    /// Of these, function errors.
    pub errors: u64,
    /// Calls that found no environment; they are no invocations.
    pub throttles: u64,
    /// Environments that were initialised.
    pub cold_starts: u64,
    /// Sum over invocations, without initialisation.
    pub duration_total_ms: f64,
    pub duration_max_ms: f64,
    /// The most that one environment used.
    pub max_memory_mb: u64,
    /// Environments that wait for an event now.
    pub idle_environments: usize,
}

pub(crate) struct Function {
    pub(crate) config: FunctionConfig,
    settings: Arc<Settings>,
    processes: Arc<ProcessTable>,
    log: Arc<FunctionLog>,
    /// How many invocations may run at once.
    pub(crate) concurrency: usize,
    /// One permit for each environment that may exist beside the idle ones; handed out in the order of asking.
    permits: Arc<Semaphore>,
    pool: Mutex<Pool>,
    stats: Mutex<FunctionStats>,
}

#[derive(Default)]
struct Pool {
    /// The most recently used last.
    idle: Vec<Environment>,
    /// Environments of an earlier generation are not used again.
    generation: u64,
    /// What was set since the runner started; it wins over the configuration.
    variables: BTreeMap<String, String>,
}

/// An environment that may take an event, and what its start took.
struct Ready {
    environment: Environment,
    init: Option<Duration>,
    /// Set when the initialisation ran on the invocation's time.
    deadline: Option<Instant>,
}

/// What one invocation adds to the log and to the counters.
struct Summary<'a> {
    duration: Duration,
    init: Option<Duration>,
    max_memory_mb: u64,
    failure: Option<&'a Failure>,
    is_error: bool,
}

/// An environment that did not become ready.
struct Unstarted {
    failure: Failure,
    environment: String,
    max_memory_mb: u64,
}

impl Function {
    pub(crate) fn new(
        config: FunctionConfig,
        settings: Arc<Settings>,
        processes: Arc<ProcessTable>,
    ) -> std::io::Result<Arc<Self>> {
        let log = FunctionLog::open(&settings.log_dir, &config.name, Arc::clone(&settings.logs))?;
        let concurrency = match config.reserved_concurrency {
            Some(reserved) => usize::try_from(reserved).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS),
            None => settings.max_environments.clamp(1, Semaphore::MAX_PERMITS),
        };
        Ok(Arc::new(Self {
            config,
            settings,
            processes,
            log,
            concurrency,
            permits: Arc::new(Semaphore::new(concurrency)),
            pool: Mutex::default(),
            stats: Mutex::default(),
        }))
    }

    /// Runs the function once. An invocation that has begun is completed even if the caller goes away.
    pub(crate) async fn invoke(self: &Arc<Self>, request_id: String, payload: Bytes) -> Result<Reply, InvokeError> {
        if payload.len() > PAYLOAD_LIMIT {
            return Err(InvokeError::TooLarge { size: payload.len(), limit: PAYLOAD_LIMIT });
        }
        let payload = if payload.is_empty() { Bytes::from_static(b"{}") } else { payload };
        let permits = Arc::clone(&self.permits);
        let permit = match self.config.reserved_concurrency {
            Some(_) => permits.try_acquire_owned().ok(),
            None => timeout(self.config.timeout, permits.acquire_owned()).await.ok().and_then(Result::ok),
        };
        let Some(permit) = permit else {
            self.stats().throttles += 1;
            return Err(InvokeError::Throttled);
        };
        let function = Arc::clone(self);
        let run = tokio::spawn(async move { function.run(permit, &request_id, payload).await });
        // Cancelled only when the whole runner is going.
        run.await.map_err(|_| InvokeError::Throttled)
    }

    /// Later invocations use new environments, which see these variables too; those that run are completed.
    pub(crate) async fn restart(&self, variables: BTreeMap<String, String>) {
        let idle = {
            let mut pool = self.pool();
            pool.generation += 1;
            pool.variables.extend(variables);
            std::mem::take(&mut pool.idle)
        };
        for environment in idle {
            environment.retire(self.settings.shutdown_grace).await;
        }
    }

    /// No invocation starts afterwards.
    pub(crate) fn close(&self) {
        self.permits.close();
    }

    pub(crate) fn drop_idle(&self) {
        self.pool().idle.clear();
    }

    pub(crate) fn snapshot(&self) -> FunctionStats {
        let idle_environments = self.pool().idle.len();
        FunctionStats { idle_environments, ..*self.stats() }
    }

    async fn run(self: Arc<Self>, permit: OwnedSemaphorePermit, request_id: &str, payload: Bytes) -> Reply {
        loop {
            let Ready { environment, init, deadline } = match self.environment(request_id).await {
                Ok(ready) => ready,
                Err(failure) => return Reply::FunctionError(failure.body(request_id)),
            };
            environment.log.attribute_to(Some(request_id));
            self.start_line(&environment.id, request_id);
            let began = Instant::now();
            let deadline = deadline.unwrap_or(began + self.config.timeout);
            let outcome = environment.invoke(&self.config, request_id, payload.clone(), deadline).await;
            let (reply, failure) = match outcome {
                // An idle process that died unseen costs the caller nothing: another one takes the event.
                Outcome::NotTaken(_) if init.is_none() => continue,
                Outcome::Answered(body) => (Reply::Success(body), None),
                Outcome::Failed(body) => (Reply::FunctionError(body), None),
                Outcome::TooLarge => {
                    let failure = response_too_large();
                    (Reply::FunctionError(failure.body(request_id)), Some(failure))
                }
                Outcome::Broken(failure) | Outcome::NotTaken(failure) => {
                    (Reply::FunctionError(failure.body(request_id)), Some(failure))
                }
            };
            let duration = began.elapsed();
            let settled = environment.settle().await;
            environment.log.drain();
            let is_error = matches!(reply, Reply::FunctionError(_));
            let max_memory_mb = environment.peak_memory_mb();
            let summary = Summary { duration, init, max_memory_mb, failure: failure.as_ref(), is_error };
            self.conclude(&environment.id, request_id, &summary);
            match settled {
                Settled::Idle => self.put_back(environment),
                Settled::Ended => {}
                Settled::Busy => {
                    let function = Arc::clone(&self);
                    tokio::spawn(async move {
                        if environment.settle_until(deadline).await == Settled::Idle {
                            function.put_back(environment);
                        }
                        drop(permit);
                    });
                }
            }
            return reply;
        }
    }

    /// An idle environment, or a new one. Initialisation that fails is tried once more, on the invocation's time.
    async fn environment(&self, request_id: &str) -> Result<Ready, Failure> {
        if let Some(environment) = self.idle_environment() {
            return Ok(Ready { environment, init: None, deadline: None });
        }
        if let Ok((environment, took)) = self.start("init", None, self.settings.init_timeout).await {
            return Ok(Ready { environment, init: Some(took), deadline: None });
        }
        let began = Instant::now();
        match self.start("invoke", Some(request_id), self.config.timeout).await {
            Ok((environment, took)) => {
                Ok(Ready { environment, init: Some(took), deadline: Some(began + self.config.timeout) })
            }
            Err(Unstarted { failure, environment, max_memory_mb }) => {
                self.start_line(&environment, request_id);
                let duration = began.elapsed();
                let summary = Summary { duration, init: None, max_memory_mb, failure: Some(&failure), is_error: true };
                self.conclude(&environment, request_id, &summary);
                Err(failure)
            }
        }
    }

    fn idle_environment(&self) -> Option<Environment> {
        let on_disk = BinaryVersion::of(&self.config.binary);
        let mut pool = self.pool();
        while let Some(environment) = pool.idle.pop() {
            let outdated = on_disk.is_some() && environment.binary != on_disk;
            if !outdated && !environment.has_ended() {
                return Some(environment);
            }
            tokio::spawn(environment.retire(self.settings.shutdown_grace));
        }
        None
    }

    fn put_back(&self, environment: Environment) {
        environment.log.attribute_to(None);
        let mut pool = self.pool();
        if environment.generation == pool.generation && !self.permits.is_closed() {
            pool.idle.push(environment);
        } else {
            tokio::spawn(environment.retire(self.settings.shutdown_grace));
        }
    }

    async fn start(
        &self,
        phase: &str,
        request_id: Option<&str>,
        limit: Duration,
    ) -> Result<(Environment, Duration), Unstarted> {
        let began = Instant::now();
        let (generation, variables) = {
            let pool = self.pool();
            (pool.generation, pool.variables.clone())
        };
        let region = &self.settings.region;
        let started =
            Environment::start(&self.config, &variables, region, &self.processes, &self.log, generation).await;
        let unstarted = match started {
            Ok(environment) => {
                environment.log.attribute_to(request_id);
                match environment.initialise(limit, self.config.memory_mb).await {
                    Ok(()) => {
                        self.stats().cold_starts += 1;
                        return Ok((environment, began.elapsed()));
                    }
                    Err(failure) => {
                        let max_memory_mb = environment.peak_memory_mb();
                        Unstarted { failure, environment: environment.id.clone(), max_memory_mb }
                    }
                }
            }
            Err(error) => {
                let failure = Failure::NotStarted(self.config.binary.display().to_string(), error);
                Unstarted { failure, environment: "-".to_owned(), max_memory_mb: 0 }
            }
        };
        let took = millis(began.elapsed());
        let status = unstarted.failure.status();
        let line = format!("INIT_REPORT Init Duration: {took:.2} ms\tPhase: {phase}\t{status}");
        self.log.platform(&unstarted.environment, request_id, &line);
        Err(unstarted)
    }

    fn start_line(&self, environment: &str, request_id: &str) {
        self.log.platform(environment, Some(request_id), &format!("START RequestId: {request_id} Version: $LATEST"));
    }

    /// Writes the last lines of an invocation and counts it.
    fn conclude(&self, environment: &str, request_id: &str, summary: &Summary<'_>) {
        let line = |text: &str| self.log.platform(environment, Some(request_id), text);
        if let Some(text) = summary.failure.and_then(|failure| failure.log_text(request_id)) {
            line(&text);
        }
        line(&format!("END RequestId: {request_id}"));
        let billed = summary.duration + summary.init.unwrap_or_default();
        let mut report = format!(
            "REPORT RequestId: {request_id}\tDuration: {:.2} ms\tBilled Duration: {:.0} ms\tMemory Size: {} MB\tMax Memory Used: {} MB",
            millis(summary.duration),
            millis(billed).ceil(),
            self.config.memory_mb,
            summary.max_memory_mb,
        );
        if let Some(init) = summary.init {
            report.push_str(&format!("\tInit Duration: {:.2} ms", millis(init)));
        }
        if let Some(failure) = summary.failure {
            report.push_str(&format!("\t{}", failure.status()));
        }
        line(&report);
        let mut stats = self.stats();
        stats.invocations += 1;
        stats.errors += u64::from(summary.is_error);
        stats.duration_total_ms += millis(summary.duration);
        stats.duration_max_ms = stats.duration_max_ms.max(millis(summary.duration));
        stats.max_memory_mb = stats.max_memory_mb.max(summary.max_memory_mb);
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> MutexGuard<'_, FunctionStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
