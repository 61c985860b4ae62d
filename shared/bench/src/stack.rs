//! A local bundle of a benchmark's own: `skylark local` with release binaries, on free ports and a temporary folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::build::{BuildError, Workspace};

/// A bundle that runs until this is dropped.
pub(crate) struct Stack {
    settings: Value,
    pub(crate) http: reqwest::Client,
    /// Where `skylark` and the functions are.
    pub(crate) binaries: PathBuf,
    _process: Child,
    folder: TempDir,
}

/// Why there is no bundle, or no answer of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StackError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the bundle does not start; it logged: {0}")]
    Start(String),
    #[error("`local.json` does not name `{0}`")]
    Setting(&'static str),
    #[error("this machine refused something")]
    Io(#[from] io::Error),
    #[error("the bundle does not answer")]
    Http(#[from] reqwest::Error),
    #[error("`local.json` does not parse")]
    Json(#[from] serde_json::Error),
}

impl Stack {
    /// Builds what is missing and starts it; `binaries` is where release binaries of `skylark` and every function lie already.
    pub(crate) async fn start(binaries: Option<PathBuf>) -> Result<Self, StackError> {
        let workspace = Workspace::find()?;
        let binaries = match binaries {
            Some(folder) => folder,
            None => workspace.build_bundle()?,
        };
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("stderr.log");
        let mut process = Command::new(binaries.join("skylark"))
            .args(["local", "--port", "0", "--template"])
            .arg(workspace.template())
            .arg("--binaries")
            .arg(&binaries)
            .arg("--data")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).await?;
        }
        if !line.starts_with("ready ") {
            return Err(StackError::Start(std::fs::read_to_string(&log)?));
        }
        let settings = serde_json::from_slice(&std::fs::read(Path::new(folder.path()).join("local.json"))?)?;
        Ok(Self { settings, http: reqwest::Client::new(), binaries, _process: process, folder })
    }

    /// A text of `local.json`, by JSON pointer.
    pub(crate) fn setting(&self, pointer: &'static str) -> Result<&str, StackError> {
        self.settings.pointer(pointer).and_then(Value::as_str).ok_or(StackError::Setting(pointer))
    }

    /// The data folder, which is gone with the bundle.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Everything that the bundle counts.
    pub(crate) async fn status(&self) -> Result<Value, StackError> {
        let url = format!("{}/_skylark/status", self.setting("/aws_endpoint")?);
        Ok(self.http.get(url).send().await?.json().await?)
    }

    /// The AWS requests that a caller made so far, by operation: a function by the name that it has in the bundle.
    pub(crate) async fn requests(&self, caller: &str) -> Result<BTreeMap<String, u64>, StackError> {
        let status = self.status().await?;
        let requests = status.get("requests").and_then(|requests| requests.get(caller)).cloned().unwrap_or_default();
        Ok(serde_json::from_value(requests).unwrap_or_default())
    }
}
