//! The file that is sent: read once for its checksums, and again chunk by chunk.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use domain::upload::checksum::{Crc64, Sha256, Sha256Sum};
use domain::upload::media;
use domain::upload::plan::{ChunkPlan, MAX_FILE_BYTES};
use indicatif::ProgressBar;

use crate::fault::CliFault;

/// A file and what it was when it was read.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    pub(crate) size: u64,
    pub(crate) chunk_size: u64,
    pub(crate) mime_type: String,
    /// Of the whole.
    pub(crate) checksum: Crc64,
    pub(crate) sha256: Option<Sha256>,
    checksums: Vec<Crc64>,
}

impl Source {
    /// Reads the whole file.
    pub(crate) async fn read(
        path: PathBuf,
        chunk_size: u64,
        sha256: bool,
        bar: &ProgressBar,
    ) -> Result<Self, CliFault> {
        let (bar, told) = (bar.clone(), path.display().to_string());
        let read = tokio::task::spawn_blocking(move || scan(path, chunk_size, sha256, &bar)).await;
        let source = read.map_err(io::Error::other).and_then(|read| read);
        let source = source.map_err(|cause| CliFault::storage(format!("`{told}` cannot be read"), cause))?;
        if source.size == 0 {
            return Err(CliFault::Argument(format!("`{told}` is empty")));
        }
        if source.size > MAX_FILE_BYTES {
            return Err(CliFault::Argument(format!(
                "`{told}` has {} bytes; the limit is {MAX_FILE_BYTES}",
                source.size
            )));
        }
        Ok(source)
    }

    fn plan(&self) -> ChunkPlan {
        ChunkPlan { file_size: self.size, chunk_size: self.chunk_size }
    }

    pub(crate) fn total(&self) -> u32 {
        self.plan().total()
    }

    pub(crate) fn length(&self, number: u32) -> Option<u64> {
        self.plan().length(number)
    }

    pub(crate) fn checksum_of(&self, number: u32) -> Option<String> {
        self.checksums.get(usize::try_from(number).ok()?.checked_sub(1)?).map(ToString::to_string)
    }

    /// The bytes of one chunk, as they are now: what has changed since, S3 refuses.
    pub(crate) async fn chunk(&self, number: u32) -> Result<Vec<u8>, CliFault> {
        let length = self.length(number).and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(|| CliFault::Failed(format!("there is no chunk {number}")))?;
        let start = u64::from(number - 1) * self.chunk_size;
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length];
            File::open(&path)?.read_exact_at(&mut bytes, start)?;
            Ok(bytes)
        });
        let read = read.await.map_err(io::Error::other).and_then(|read: io::Result<_>| read);
        read.map_err(|cause| CliFault::storage(format!("`{}` cannot be read", self.path.display()), cause))
    }
}

fn scan(path: PathBuf, chunk_size: u64, sha256: bool, bar: &ProgressBar) -> io::Result<Source> {
    let mut file = File::open(&path)?;
    bar.set_length(file.metadata()?.len());
    bar.set_message("reading");
    let (mut size, mut checksum, mut checksums) = (0, Crc64::empty(), Vec::new());
    let (mut mime_type, mut sha) = (None, sha256.then(Sha256Sum::default));
    loop {
        let mut chunk = Vec::new();
        (&mut file).take(chunk_size).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        mime_type.get_or_insert_with(|| media::guess(&chunk).to_owned());
        let (length, crc) = (chunk.len() as u64, Crc64::of(&chunk));
        checksum = checksum.followed_by(crc, length);
        checksums.push(crc);
        size += length;
        if let Some(sha) = &mut sha {
            sha.add(&chunk);
        }
        bar.inc(length);
    }
    let (mime_type, sha256) = (mime_type.unwrap_or_default(), sha.map(Sha256Sum::finish));
    Ok(Source { path, size, chunk_size, mime_type, checksum, sha256, checksums })
}
