//! The files of this workspace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folders that hold our code.
const CODE: [&str; 3] = ["functions", "shared", "tests"];

/// The folder of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).unwrap_or(Path::new("..")).to_path_buf()
}

/// The text of a file, by its path from the root.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    let path = root().join(path);
    fs::read_to_string(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The names of the function folders, in order.
pub fn functions() -> io::Result<Vec<String>> {
    names(&root().join("functions"))
}

/// What lies in a folder, in order; nothing if the folder is not there.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Every Rust file of ours, by its path from the root, in order.
pub fn rust_files() -> io::Result<Vec<PathBuf>> {
    let root = root();
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = CODE.map(|folder| root.join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(&root).unwrap_or(&path).to_path_buf());
            }
        }
    }
    files.sort();
    Ok(files)
}
