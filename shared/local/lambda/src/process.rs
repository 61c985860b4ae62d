//! The processes of all functions: started in groups of their own, ended whole, and recorded so that the next runner ends
//! what a killed one left behind.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// A running process and its group. Dropping it kills both.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    control: Control,
}

#[derive(Debug, Clone)]
struct Control {
    signals: mpsc::UnboundedSender<Signal>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Waits for the end of the process; at once if it has ended.
    pub(crate) async fn exited(&self) -> ExitStatus {
        self.control.exited().await
    }

    /// Whether the process has ended, even if this was not noticed yet.
    pub(crate) fn has_exited(&self) -> bool {
        self.control.exit.borrow().is_some() || stat(self.pid).is_some_and(|stat| stat.starts_with('Z'))
    }

    /// Kills the group and waits until the process is gone.
    pub(crate) async fn kill(&self) {
        self.control.signal(Signal::SIGKILL);
        self.control.exited().await;
    }

    pub(crate) fn terminate(&self) {
        self.control.signal(Signal::SIGTERM);
    }

    /// Memory in use now, and the most that was ever in use. `None` once the process is gone.
    pub(crate) fn memory(&self) -> Option<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let bytes = |field: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
        };
        Some(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.control.signal(Signal::SIGKILL);
    }
}

/// In bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Control {
    /// The task that reaps the process also signals it, so that no signal reaches a later process with the same id.
    fn signal(&self, signal: Signal) {
        let _ = self.signals.send(signal);
    }

    async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await.map(|status| *status) {
            Ok(Some(status)) => status,
            // The watching task is gone only when the whole runner is going, and kills its child as it goes.
            Ok(None) | Err(_) => ExitStatus::from_raw(Signal::SIGKILL as i32),
        }
    }
}

/// Starts processes and ends them all.
#[derive(Debug)]
pub(crate) struct ProcessTable {
    /// One file per running process, named by its id, holding its start time. `None` keeps no records.
    records: Option<PathBuf>,
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    closed: bool,
    processes: HashMap<Pid, Control>,
}

impl ProcessTable {
    /// Kills what an earlier runner recorded in `records` and did not end.
    pub(crate) fn open(records: PathBuf) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&records)?;
        for entry in fs::read_dir(&records)? {
            let path = entry?.path();
            kill_leftover(&path);
            fs::remove_file(&path)?;
        }
        Ok(Arc::new(Self { records: Some(records), live: Mutex::default() }))
    }

    pub(crate) fn unrecorded() -> Arc<Self> {
        Arc::new(Self { records: None, live: Mutex::default() })
    }

    /// Starts `command` as the leader of a new group. Fails once the table is shut down.
    pub(crate) fn spawn(self: &Arc<Self>, command: &mut Command) -> io::Result<Process> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.closed {
            return Err(io::Error::other("the runner is shutting down"));
        }
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
        let record = self.record(pid)?;
        let (signals, requested) = mpsc::unbounded_channel();
        let (ended, exit) = watch::channel(None);
        let control = Control { signals, exit };
        live.processes.insert(pid, control.clone());
        let table = Arc::clone(self);
        tokio::spawn(async move {
            let status = watch_over(child, pid, requested).await;
            if let Some(record) = record {
                let _ = fs::remove_file(record);
            }
            table.live.lock().unwrap_or_else(PoisonError::into_inner).processes.remove(&pid);
            ended.send_replace(Some(status));
        });
        Ok(Process { pid, control })
    }

    /// Sends SIGTERM to every group, SIGKILL to those that still run after `grace`, and returns when all are gone. No process
    /// starts afterwards.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        let running: Vec<Control> = {
            let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.closed = true;
            live.processes.values().cloned().collect()
        };
        let all_exited = async || {
            for control in &running {
                control.exited().await;
            }
        };
        running.iter().for_each(|control| control.signal(Signal::SIGTERM));
        if timeout(grace, all_exited()).await.is_err() {
            running.iter().for_each(|control| control.signal(Signal::SIGKILL));
            all_exited().await;
        }
    }

    fn record(&self, pid: Pid) -> io::Result<Option<PathBuf>> {
        // A process that has ended already has no start time and needs no record.
        let (Some(records), Some(started)) = (&self.records, start_time(pid)) else { return Ok(None) };
        let path = records.join(pid.to_string());
        fs::write(&path, started)?;
        Ok(Some(path))
    }
}

async fn watch_over(mut child: Child, pid: Pid, mut requested: mpsc::UnboundedReceiver<Signal>) -> ExitStatus {
    let status = loop {
        tokio::select! {
            biased;
            Some(signal) = requested.recv() => {
                // The group may be gone already: then the wait below says so.
                let _ = killpg(pid, signal);
            }
            status = child.wait() => break status,
        }
    };
    // What the process started does not outlive it.
    let _ = killpg(pid, Signal::SIGKILL);
    status.unwrap_or_else(|_| ExitStatus::from_raw(Signal::SIGKILL as i32))
}

/// Kills the group recorded at `path`, unless its id has passed to another process since.
fn kill_leftover(path: &Path) {
    let pid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).map(Pid::from_raw);
    if let Some(pid) = pid
        && let Some(running) = start_time(pid)
        && fs::read_to_string(path).is_ok_and(|recorded| recorded == running)
    {
        tracing::warn!(process.id = pid.as_raw(), "Killing process `{pid}` that an earlier run left behind");
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

/// When the process started, in clock ticks since boot: field 22.
fn start_time(pid: Pid) -> Option<String> {
    stat(pid)?.split_whitespace().nth(19).map(str::to_owned)
}

/// The kernel's status line of a process from field 3, its state, on. The field before that is a name and may hold anything.
fn stat(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')').map(|(_, fields)| fields.trim_start().to_owned())
}
