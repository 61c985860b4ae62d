//! All functions of a template on one machine.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::config::{FunctionConfig, Settings};
use crate::events::{EventError, EventQueue, StoreError};
use crate::function::{Function, FunctionStats};
use crate::process::ProcessTable;
use crate::{InvokeError, Invoker, Reply, origin};

/// Runs functions as processes. Clones share everything.
///
/// Processes are started when they are first needed. [`shutdown`](Self::shutdown) ends them; if the runner is killed instead,
/// an idle process ends by itself because its Runtime API is gone, and the next runner kills what still works on an event.
#[derive(Clone)]
pub struct Functions {
    shared: Arc<Shared>,
}

struct Shared {
    functions: BTreeMap<String, Arc<Function>>,
    settings: Arc<Settings>,
    processes: Arc<ProcessTable>,
    events: Arc<EventQueue>,
    /// Held as long as the runner lives.
    _lock: File,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.events.close();
    }
}

/// Why functions cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another runner uses `{0}`")]
    InUse(PathBuf),
    #[error("could not prepare `{path}`")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Functions {
    /// Ends what a killed runner left behind and continues with the asynchronous events it had accepted. Must be called within
    /// a Tokio runtime.
    pub fn new(configs: Vec<FunctionConfig>, settings: Settings) -> Result<Self, OpenError> {
        let state_dir = settings.state_dir.clone();
        let failed = |source| OpenError::Io { path: state_dir.clone(), source };
        fs::create_dir_all(&state_dir).map_err(failed)?;
        let lock = File::create(state_dir.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse(state_dir.clone()),
            TryLockError::Error(source) => failed(source),
        })?;
        let processes = ProcessTable::open(state_dir.join("pids")).map_err(failed)?;
        let settings = Arc::new(settings);
        let mut functions = BTreeMap::new();
        for config in configs {
            let name = config.name.clone();
            let function = Function::new(config, Arc::clone(&settings), Arc::clone(&processes))
                .map_err(|source| OpenError::Io { path: settings.log_dir.clone(), source })?;
            functions.insert(name, function);
        }
        let events = EventQueue::open(&state_dir.join("events.sqlite"), &functions, Arc::clone(&settings))?;
        Ok(Self { shared: Arc::new(Shared { functions, settings, processes, events, _lock: lock }) })
    }

    /// Accepts an event as `Invoke` with `Event` does, and returns its request id. Once accepted it is run at least once, even
    /// if the runner is killed; a function error is retried, and in the end it goes to the function's destinations.
    pub async fn invoke_event(&self, function: &str, payload: Bytes) -> Result<String, EventError> {
        let function = self.find(function)?;
        self.shared.events.accept(&function.config.name, payload).await
    }

    /// Later invocations of `function` use new processes; invocations that run are completed.
    pub async fn restart(&self, function: &str) -> Result<(), InvokeError> {
        self.find(function)?.restart(BTreeMap::new()).await;
        Ok(())
    }

    /// Sets a variable for every function: any invocation that begins afterwards sees it. Idle processes are replaced at once, busy
    /// ones when their invocation has ended. What was set is forgotten when the runner stops.
    pub async fn set_variable(&self, name: &str, value: &str) {
        let mut restarts = JoinSet::new();
        for function in self.shared.functions.values() {
            let (function, set) = (Arc::clone(function), BTreeMap::from([(name.to_owned(), value.to_owned())]));
            restarts.spawn(async move { function.restart(set).await });
        }
        restarts.join_all().await;
    }

    /// What happened so far, by function name.
    pub fn stats(&self) -> BTreeMap<String, FunctionStats> {
        self.shared.functions.iter().map(|(name, function)| (name.clone(), function.snapshot())).collect()
    }

    /// Ends all processes: SIGTERM, then SIGKILL after the grace. Invocations that run fail with the exit of their process;
    /// asynchronous events among them are run again by the next runner. Calls made afterwards are throttled.
    pub async fn shutdown(&self) {
        self.shared.events.close();
        self.shared.functions.values().for_each(|function| function.close());
        self.shared.processes.shutdown(self.shared.settings.shutdown_grace).await;
        self.shared.functions.values().for_each(|function| function.drop_idle());
        self.shared.events.finished().await;
    }

    /// By name, or by unqualified or `$LATEST` ARN.
    fn find(&self, function: &str) -> Result<&Arc<Function>, InvokeError> {
        let unqualified = function.strip_suffix(":$LATEST").unwrap_or(function);
        let functions = &self.shared.functions;
        functions
            .get(unqualified)
            .or_else(|| functions.values().find(|candidate| candidate.config.arn == unqualified))
            .ok_or_else(|| InvokeError::NotFound(function.to_owned()))
    }
}

#[async_trait]
impl Invoker for Functions {
    async fn invoke(&self, function: &str, payload: Bytes) -> Result<Reply, InvokeError> {
        self.find(function)?.invoke(origin::new_id().to_string(), payload).await
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").field("names", &self.shared.functions.keys()).finish_non_exhaustive()
    }
}

/// Runs one function once in a process of its own and ends that, beside any runner that uses the same state folder.
pub async fn invoke_once(config: FunctionConfig, settings: Settings, payload: Bytes) -> Result<Reply, InvokeOnceError> {
    let processes = ProcessTable::unrecorded();
    let log_dir = settings.log_dir.clone();
    let grace = settings.shutdown_grace;
    let function = Function::new(config, Arc::new(settings), Arc::clone(&processes))
        .map_err(|source| OpenError::Io { path: log_dir, source })?;
    let reply = function.invoke(origin::new_id().to_string(), payload).await;
    function.close();
    processes.shutdown(grace).await;
    Ok(reply?)
}

/// Why a function was not run once.
#[derive(Debug, thiserror::Error)]
pub enum InvokeOnceError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Invoke(#[from] InvokeError),
}
