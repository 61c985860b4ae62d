//! A function's process, started as Lambda starts one, and what the kernel says of it.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use crate::case::PUBLIC_URL;

/// What opens secrets: as deployed, which is what a start costs, or so that they do open, without KMS.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Vault {
    Kms,
    KeyFile,
}

/// What every function of a run is started with.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) aws: SocketAddr,
    /// Holds the key file, and what the last process logged.
    pub(crate) folder: PathBuf,
}

impl Environment {
    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.join("vault.key")
    }

    pub(crate) fn signing_key_file_in(folder: &Path) -> PathBuf {
        folder.join("signing.key")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn variables(&self, function: &str, vault: Vault, runtime_api: SocketAddr) -> Vec<(&'static str, String)> {
        let aws = format!("http://{}", self.aws);
        let queue = |name: &str| format!("{aws}/123456789012/{name}");
        let key = |id: &str, file: PathBuf| match vault {
            Vault::Kms => format!("arn:aws:kms:us-east-1:123456789012:key/{id}"),
            Vault::KeyFile => format!("{}{}", vault::KEY_FILE_PREFIX, file.display()),
        };
        vec![
            // Lambda's own.
            ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", function.to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
            ("AWS_LAMBDA_LOG_FORMAT", "JSON".to_owned()),
            ("AWS_LAMBDA_LOG_LEVEL", "INFO".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("TZ", ":UTC".to_owned()),
            // The template's.
            ("RUST_LOG", "info".to_owned()),
            ("LARK_TABLE", "lark".to_owned()),
            ("WORK_QUEUE_URL", queue("work.fifo")),
            ("PARKED_QUEUE_URL", queue("parked")),
            ("EVENT_BUS", "bus".to_owned()),
            ("VAULT_KEY", key("bench", self.key_file())),
            ("AUTH_TABLE", "auth".to_owned()),
            ("CHAT_TABLE", "chat".to_owned()),
            ("PUSH_QUEUE_URL", queue("push.fifo")),
            ("CHANNEL_QUEUE_URL", queue("channel.fifo")),
            ("ATHENA_DATABASE", "lake".to_owned()),
            ("LAKE_BUCKET", "lake".to_owned()),
            ("LAKE_TABLE", "lake".to_owned()),
            ("LAKE_QUEUE_URL", queue("lake")),
            ("COMPACT_QUEUE_URL", queue("compact.fifo")),
            ("FILES_TABLE", "files".to_owned()),
            ("FILES_BUCKET", "files".to_owned()),
            ("MERGE_QUEUE_URL", queue("merge.fifo")),
            ("SIGNING_KEY", key("bench-signing", Self::signing_key_file_in(&self.folder))),
            ("PUBLIC_URL", PUBLIC_URL.to_owned()),
            // What takes the place of AWS.
            ("SOCKET_URL", aws.replacen("http", "ws", 1)),
            ("AWS_ENDPOINT_URL", aws),
        ]
    }
}

/// A running function. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Just before it was started.
    pub(crate) started: Instant,
}

impl Process {
    pub(crate) fn start(
        binary: &Path,
        name: &str,
        environment: &Environment,
        vault: Vault,
        runtime_api: SocketAddr,
    ) -> io::Result<Self> {
        let log = File::create(environment.log())?;
        let mut command = Command::new(binary);
        command.env_clear().envs(environment.variables(name, vault, runtime_api)).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        Ok(Self { child: command.spawn()?, started })
    }

    /// How it ended, if it ends.
    pub(crate) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("it ended with {status}"),
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn stop(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// The memory it holds, in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|text| text.parse::<u64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1024).ok_or_else(|| io::Error::other("the kernel does not say `VmRSS`"))
    }

    /// The processor time of all its threads.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut total = Duration::ZERO;
        for thread in fs::read_dir(self.proc("task"))? {
            let schedule = fs::read_to_string(thread?.path().join("schedstat"))?;
            let nanoseconds = schedule.split(' ').next().and_then(|text| text.parse().ok());
            total += Duration::from_nanos(nanoseconds.ok_or_else(|| io::Error::other("`schedstat` does not parse"))?);
        }
        Ok(total)
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().unwrap_or_default().to_string()).join(file)
    }
}
