//! A file that is sent in chunks: the line breaks, the rest is sent, and what comes back is what was sent.

use std::path::Path;
use std::time::Instant;

use domain::upload::plan::MIN_CHUNK_BYTES;
use indicatif::ProgressBar;
use lambda_kit::random;

use crate::api::at;
use crate::demo::people::Person;
use crate::demo::{Wrong, note, step};
use crate::fault::{CliFault, say};
use crate::upload::{Upload, Wanted};

/// The file, in chunks as small as S3 takes them.
const FILE_BYTES: usize = 25 << 20;

const CHUNKS: usize = 5;

/// How many chunks have arrived when the line breaks.
const BEFORE: usize = 2;

pub(super) struct FileStory<'a> {
    pub(super) sender: &'a Person,
    pub(super) reader: &'a Person,
    pub(super) conversation: &'a str,
}

impl FileStory<'_> {
    pub(super) async fn tell(&self) -> Result<(), CliFault> {
        say("\nAnn sends Bob a file of 25 MiB");
        let folder = tempfile::tempdir().map_err(|cause| CliFault::storage("no temporary folder", cause))?;
        let (folder, file, bytes) = (folder.path(), folder.path().join("周报 📄.bin"), bytes());
        std::fs::write(&file, &bytes).map_err(|cause| CliFault::storage("the file cannot be written", cause))?;
        let title = format!("{BEFORE} of {CHUNKS} chunks have arrived when the line breaks");
        step(title, self.break_off(folder, &file)).await?;
        let upload = step(format!("the API tells which {} are missing", CHUNKS - BEFORE), self.go_on(folder, &file));
        let upload = upload.await?;
        let file_id = step("only those are sent, and the file is merged and checked", self.finish(upload)).await?;
        let begun = Instant::now();
        step("Bob downloads it, byte for byte the same", self.download(&file_id, &bytes)).await?;
        note(format!("{:.0} MiB/s", (FILE_BYTES >> 20) as f64 / begun.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn begin(&self, folder: &Path, file: &Path) -> Result<Upload, Wrong> {
        let (api, wanted) = (self.sender.api.clone(), Wanted::one_by_one(MIN_CHUNK_BYTES));
        Ok(Upload::begin(api, folder, (file, self.conversation), &wanted, ProgressBar::hidden()).await?)
    }

    async fn break_off(&self, folder: &Path, file: &Path) -> Result<(), Wrong> {
        let upload = self.begin(folder, file).await?;
        match (upload.there(), upload.total()) {
            (0, CHUNKS) => Ok(upload.send_first(BEFORE).await?),
            (there, total) => Err(format!("{there} of {total} chunks are there from the start").into()),
        }
    }

    async fn go_on(&self, folder: &Path, file: &Path) -> Result<Upload, Wrong> {
        let upload = self.begin(folder, file).await?;
        match upload.there() {
            BEFORE => Ok(upload),
            there => Err(format!("{there} chunks are there").into()),
        }
    }

    async fn finish(&self, upload: Upload) -> Result<String, Wrong> {
        let sent = upload.finish().await?;
        if sent.chunks != CHUNKS - BEFORE {
            return Err(format!("{} chunks were sent", sent.chunks).into());
        }
        let file_id = at(&sent.file, "file_id").as_str();
        Ok(file_id.ok_or_else(|| format!("there is no file: {}", sent.file))?.to_owned())
    }

    async fn download(&self, file_id: &str, bytes: &[u8]) -> Result<(), Wrong> {
        let (_, file) = self.reader.get(&format!("/v1/files/{file_id}")).await?;
        let url = at(&file, "download_url").as_str().ok_or_else(|| format!("it has no URL: {file}"))?;
        let came = self.reader.api.http.get(url).send().await?.error_for_status()?.bytes().await?;
        if came == bytes { Ok(()) } else { Err(format!("{} other bytes come", came.len()).into()) }
    }
}

/// Bytes that repeat nowhere.
fn bytes() -> Vec<u8> {
    let key = random::uuid().as_u128();
    (0..FILE_BYTES as u128 / 16).flat_map(|at| key.wrapping_mul(2 * at + 1).to_le_bytes()).collect()
}
