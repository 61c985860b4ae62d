//! Function binaries: built with the same profile as this runner, or taken from a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// The Cargo profile of local binaries.
const PROFILE: &str = "local";

/// Why there is no binary for a function.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error("cargo cannot be run")]
    Cargo(#[source] std::io::Error),
    #[error("the functions do not build; cargo has said why")]
    Build,
    #[error("binary `{binary}` is not in `{}`", folder.display())]
    Missing { binary: String, folder: PathBuf },
    #[error("package `{package}` builds no binary `{binary}`")]
    NotBuilt { package: String, binary: String },
}

/// A package and the binary that is wanted of it.
pub(crate) type Wanted<'a> = (&'a str, &'a str);

/// Finds each wanted binary in `folder`.
pub(crate) fn find(folder: &Path, wanted: &[Wanted<'_>]) -> Result<BTreeMap<String, PathBuf>, BinaryError> {
    let folder = std::path::absolute(folder).map_err(BinaryError::Cargo)?;
    let find = |(_, binary): &Wanted<'_>| {
        // cargo-lambda puts each binary into a folder of its own, under the name that Lambda wants.
        let places = [folder.join(binary), folder.join(binary).join("bootstrap")];
        let found = places.into_iter().find(|path| path.is_file());
        let missing = || BinaryError::Missing { binary: (*binary).to_owned(), folder: folder.clone() };
        Ok(((*binary).to_owned(), found.ok_or_else(missing)?))
    };
    wanted.iter().map(find).collect()
}

#[derive(Deserialize)]
struct Artifact {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds each wanted binary in the workspace that holds the template. What is up to date takes cargo well under a second.
pub(crate) async fn build(
    workspace: &Path,
    runner: &str,
    wanted: &[Wanted<'_>],
) -> Result<BTreeMap<String, PathBuf>, BinaryError> {
    let packages: BTreeSet<&str> = wanted.iter().map(|(package, _)| *package).chain([runner]).collect();
    let mut command = Command::new("cargo");
    command.args(["build", "--profile", PROFILE, "--message-format", "json-render-diagnostics"]);
    for package in &packages {
        command.args(["--package", package]);
    }
    command.current_dir(workspace).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut cargo = command.spawn().map_err(BinaryError::Cargo)?;
    let mut built = BTreeMap::new();
    if let Some(stdout) = cargo.stdout.take() {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.map_err(BinaryError::Cargo)? {
            let Ok(artifact) = serde_json::from_str::<Artifact>(&line) else { continue };
            if let (true, Some(path), Some(target)) =
                (artifact.reason == "compiler-artifact", artifact.executable, artifact.target)
            {
                built.insert(target.name, path);
            }
        }
    }
    if !cargo.wait().await.map_err(BinaryError::Cargo)?.success() {
        return Err(BinaryError::Build);
    }
    let missing = wanted.iter().find(|(_, binary)| !built.contains_key(*binary));
    match missing {
        Some((package, binary)) => {
            Err(BinaryError::NotBuilt { package: (*package).to_owned(), binary: (*binary).to_owned() })
        }
        None => Ok(built),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_plain_binaries_and_those_of_cargo_lambda() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("one"), "").unwrap();
        std::fs::create_dir(folder.path().join("two")).unwrap();
        std::fs::write(folder.path().join("two/bootstrap"), "").unwrap();
        let found = find(folder.path(), &[("one", "one"), ("two", "two")]).unwrap();
        assert!(found["one"].ends_with("one") && found["two"].ends_with("two/bootstrap"));
        let error = find(folder.path(), &[("three", "three")]).unwrap_err();
        assert!(error.to_string().starts_with("binary `three` is not in"));
    }
}
