//! The workspace: which functions it has, and their release binaries.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

/// The package and binary that functions are measured against.
pub(crate) const HELLO: (&str, &str) = ("bench", "hello");

/// What Cargo says of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// Why there are no binaries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("`cargo {0}` cannot be run")]
    Cargo(String, #[source] io::Error),
    #[error("`cargo {0}` failed")]
    Failed(String),
    #[error("`cargo metadata` does not parse")]
    Metadata(#[source] serde_json::Error),
    #[error("the functions cannot be listed")]
    List(#[source] io::Error),
}

impl Workspace {
    pub(crate) fn find() -> Result<Self, BuildError> {
        let arguments = ["metadata", "--format-version", "1", "--no-deps"];
        let output = Command::new("cargo").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let output = output.map_err(|cause| BuildError::Cargo(arguments.join(" "), cause))?;
        if !output.status.success() {
            return Err(BuildError::Failed(arguments.join(" ")));
        }
        serde_json::from_slice(&output.stdout).map_err(BuildError::Metadata)
    }

    /// Every function, by name.
    pub(crate) fn functions(&self) -> Result<Vec<String>, BuildError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.workspace_root.join("functions")).map_err(BuildError::List)? {
            names.push(entry.map_err(BuildError::List)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Builds the functions and the hello-world, and returns where they are. The functions are built at once, which compiles what
    /// they share once; the linker drops what only another of them needs.
    pub(crate) fn build(&self, functions: &[String]) -> Result<PathBuf, BuildError> {
        let packages = functions.iter().flat_map(|name| ["--package", name]);
        self.cargo(["build", "--release"].into_iter().chain(packages))?;
        self.cargo(["build", "--release", "--package", HELLO.0, "--bin", HELLO.1])?;
        Ok(self.target_directory.join("release"))
    }

    /// Builds what a local bundle runs, and returns where it is.
    pub(crate) fn build_bundle(&self) -> Result<PathBuf, BuildError> {
        let functions = self.functions()?;
        let packages = functions.iter().map(String::as_str).chain(["skylark"]).flat_map(|name| ["--package", name]);
        self.cargo(["build", "--release"].into_iter().chain(packages))?;
        Ok(self.target_directory.join("release"))
    }

    /// The template that a bundle runs.
    pub(crate) fn template(&self) -> PathBuf {
        self.workspace_root.join("template.yaml")
    }

    fn cargo<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<(), BuildError> {
        let arguments: Vec<&str> = arguments.into_iter().collect();
        let status = Command::new("cargo").args(&arguments).current_dir(&self.workspace_root).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(BuildError::Failed(arguments.join(" "))),
            Err(cause) => Err(BuildError::Cargo(arguments.join(" "), cause)),
        }
    }
}
