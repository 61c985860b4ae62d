//! What remembers an upload between two runs of the command: a small file in the data folder, one for each file, conversation and API.

use std::fs;
use std::path::{Path, PathBuf};

use domain::upload::checksum::{Crc64, Sha256Sum};
use serde::{Deserialize, Serialize};

use crate::fault::CliFault;
use crate::upload::source::Source;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    upload_id: String,
    size: u64,
    checksum: Crc64,
}

#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    kept: Option<Kept>,
}

impl State {
    pub(crate) fn at(data: &Path, file: &Path, conversation: &str, api: &str) -> Result<Self, CliFault> {
        let file = fs::canonicalize(file)
            .map_err(|cause| CliFault::Argument(format!("`{}` cannot be read: {cause}", file.display())))?;
        let mut name = Sha256Sum::default();
        name.add(format!("{}\n{conversation}\n{api}", file.display()).as_bytes());
        let path = data.join("uploads").join(format!("{}.json", name.finish()));
        // One that does not read is as good as none: the upload begins anew.
        let kept = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Ok(Self { path, kept })
    }

    pub(crate) fn upload_id(&self) -> Option<String> {
        self.kept.as_ref().map(|kept| kept.upload_id.clone())
    }

    /// Whether the upload is of these bytes.
    pub(crate) fn is_of(&self, source: &Source) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.size == source.size && kept.checksum == source.checksum)
    }

    /// Remembers an upload. Whoever reads the file finds all of it or none.
    pub(crate) fn keep(&self, upload_id: &str, source: &Source) -> Result<(), CliFault> {
        let kept = Kept { upload_id: upload_id.to_owned(), size: source.size, checksum: source.checksum };
        let write = || {
            fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
            let aside = self.path.with_extension(format!("{}.tmp", std::process::id()));
            fs::write(&aside, serde_json::to_vec(&kept)?)?;
            fs::rename(&aside, &self.path)
        };
        write().map_err(|cause: std::io::Error| {
            CliFault::storage(format!("`{}` cannot be written", self.path.display()), cause)
        })
    }

    pub(crate) fn forget(&self) {
        // Left behind, it names an upload that has ended, which the next run finds out.
        let _ = fs::remove_file(&self.path);
    }
}
