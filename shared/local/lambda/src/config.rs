//! What a function is, and how all functions of one machine are run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{Destinations, LogSink};

/// One function of the template, with the names CloudFormation gives its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionConfig {
    pub name: String,
    /// Unqualified: `arn:aws:lambda:<region>:<account>:function:<name>`.
    pub arn: String,
    /// An executable that speaks the Runtime API, such as a `lambda_runtime` program. Each replacement on disk is picked up.
    pub binary: PathBuf,
    /// Added to the variables Lambda sets. Those it reserves win, credentials excepted: they come from here.
    pub environment: BTreeMap<String, String>,
    pub timeout: Duration,
    pub memory_mb: u32,
    /// At most so many environments; one more concurrent invocation is throttled. `Some(0)` throttles all.
    pub reserved_concurrency: Option<u32>,
    /// `MaximumRetryAttempts` of asynchronous events, 0 to 2.
    pub async_retries: u8,
    /// `MaximumEventAgeInSeconds`, 60 s to 6 h on AWS.
    pub async_max_age: Duration,
    pub on_success: Option<String>,
    /// Receives the invocation record; `dead_letter` receives the event itself. When both are set both receive, as on AWS.
    pub on_failure: Option<String>,
    pub dead_letter: Option<String>,
}

impl FunctionConfig {
    /// A function with Lambda's defaults: 3 s, 128 MB, no reserved concurrency, two retries within six hours.
    pub fn new(name: impl Into<String>, arn: impl Into<String>, binary: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            arn: arn.into(),
            binary: binary.into(),
            environment: BTreeMap::new(),
            timeout: Duration::from_secs(3),
            memory_mb: 128,
            reserved_concurrency: None,
            async_retries: 2,
            async_max_age: Duration::from_secs(6 * 60 * 60),
            on_success: None,
            on_failure: None,
            dead_letter: None,
        }
    }
}

/// What all functions of one runner share.
#[derive(Clone)]
pub struct Settings {
    pub region: String,
    /// Holds accepted asynchronous events and the records of running processes. One runner at a time may use it.
    pub state_dir: PathBuf,
    /// `<function>.log` of each function is appended to here.
    pub log_dir: PathBuf,
    pub logs: Arc<dyn LogSink>,
    pub destinations: Arc<dyn Destinations>,
    /// Environments of a function without reserved concurrency; further callers wait in order.
    pub max_environments: usize,
    /// How long the first initialisation may take, from the start of the process to its first `/next`.
    pub init_timeout: Duration,
    /// Before the first and the second retry of an asynchronous event.
    pub retry_delays: [Duration; 2],
    /// Before an event that was throttled, or whose destination failed, is tried again; doubles up to 300 times itself.
    pub throttle_delay: Duration,
    /// Between SIGTERM and SIGKILL.
    pub shutdown_grace: Duration,
}

impl Settings {
    /// AWS's delays, ten environments a function, and logs in `<state_dir>/logs`.
    pub fn new(
        region: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        logs: Arc<dyn LogSink>,
        destinations: Arc<dyn Destinations>,
    ) -> Self {
        let state_dir = state_dir.into();
        Self {
            region: region.into(),
            log_dir: state_dir.join("logs"),
            state_dir,
            logs,
            destinations,
            max_environments: 10,
            init_timeout: Duration::from_secs(10),
            retry_delays: [Duration::from_secs(60), Duration::from_secs(120)],
            throttle_delay: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("region", &self.region)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}
