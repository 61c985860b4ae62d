//! The other engines: Python wheels in an environment of their own, driven by `peers.py`. It also starts our own process, because it can ask
//! the system what a child used.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::de::DeserializeOwned;

/// What is installed. The versions that were got are printed with the figures.
const WHEELS: [&str; 5] = ["duckdb", "polars", "pyarrow", "numpy", "deltalake"];

const SCRIPT: &str = include_str!("peers.py");

/// Why a measurement cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("`{0}` cannot be run")]
    Start(String, #[source] io::Error),
    #[error("`{command}` failed: {said}")]
    Failed { command: String, said: String },
    #[error("`{command}` answered `{said}`")]
    Answer { command: String, said: String, source: serde_json::Error },
    #[error("files cannot be made or read")]
    Files(#[from] io::Error),
    #[error("the data cannot be made")]
    Convert(#[from] arrow_schema::ArrowError),
    #[error("the data cannot be written")]
    Write(#[from] lake_rows::WriteError),
    #[error("the data does not become Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("the data has no time")]
    Time(#[from] time::error::ComponentRange),
    #[error("the data cannot be compacted")]
    Compact(#[from] lake_compactor::CompactError),
    #[error("the table cannot be made")]
    Lake(#[from] lake::LakeFault),
    #[error("the table does not answer")]
    Read(#[from] lake_reader::ReadFault),
    #[error("the data has nothing to ask about")]
    NoSubject,
}

/// A Python with the wheels.
pub(crate) struct Peers {
    python: PathBuf,
    script: PathBuf,
}

impl Peers {
    /// Makes the environment in `folder` unless it is there.
    pub(crate) fn install(folder: &Path) -> Result<Self, BenchError> {
        std::fs::create_dir_all(folder)?;
        let (python, script) = (folder.join("bin/python"), folder.join("peers.py"));
        if !folder.join("ready").exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
            run(Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .args(WHEELS))?;
            std::fs::write(folder.join("ready"), "")?;
        }
        std::fs::write(&script, SCRIPT)?;
        Ok(Self { python, script })
    }

    /// What one of the script's own commands uses, run in a process of its own.
    pub(crate) fn measure<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, BenchError> {
        let (python, script) = (self.python.to_string_lossy(), self.script.to_string_lossy());
        self.ask(&[&["measure", &python, &script], arguments].concat())
    }

    /// Names the engines with their versions.
    pub(crate) fn versions(&self) -> Result<String, BenchError> {
        self.ask(&["versions"])
    }

    /// Runs the script and reads the JSON that it prints last.
    pub(crate) fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, BenchError> {
        let mut command = Command::new(&self.python);
        let output = run(command.arg(&self.script).args(arguments))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.trim().lines().last().unwrap_or_default();
        serde_json::from_str(said).map_err(|source| BenchError::Answer {
            command: arguments.join(" "),
            said: said.to_owned(),
            source,
        })
    }
}

fn run(command: &mut Command) -> Result<Output, BenchError> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|fault| BenchError::Start(shown.clone(), fault))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(BenchError::Failed { command: shown, said: String::from_utf8_lossy(&output.stderr).into_owned() })
}
