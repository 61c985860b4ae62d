//! `skylark download`: a file comes whole or not at all. What came before an interruption is not fetched again.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use domain::upload::checksum::Crc64;
use domain::upload::name;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, StatusCode, header};
use serde_json::Value;

use crate::api::{Api, Credentials, at};
use crate::args::Place;
use crate::fault::{CliFault, say};

/// How often a transfer that broke off is taken up again.
const TRIES: u32 = 5;

const PIECE: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    /// The file, as `skylark upload` printed it or a message names it.
    file_id: String,
    /// Where to; the file's own name in this folder if not given.
    #[arg(long, short)]
    output: Option<PathBuf>,
    #[command(flatten)]
    credentials: Credentials,
}

pub(crate) async fn run(place: &Place, args: DownloadArgs) -> Result<(), CliFault> {
    let api = Api::of(place, &args.credentials, "files").await?;
    let file = describe(&api, &args.file_id).await?;
    let wrong = || CliFault::Failed("the API does not tell what the file is".to_owned());
    let size = at(&file, "file_size").as_u64().ok_or_else(wrong)?;
    let checksum =
        at(&file, "checksum_crc64nvme").as_str().and_then(|text| Crc64::parse(text).ok()).ok_or_else(wrong)?;
    let output = args.output.unwrap_or_else(|| name::safe(at(&file, "filename").as_str().unwrap_or_default()).into());
    if output.exists() {
        return Err(CliFault::Argument(format!("`{}` is there already", output.display())));
    }
    let partial = beside(&output, &args.file_id);
    let fault = |cause| CliFault::storage(format!("`{}` cannot be written", partial.display()), cause);
    let (mut sum, mut here) = known(&partial).map_err(fault)?;
    let mut out = File::options().create(true).append(true).open(&partial).map_err(fault)?;
    let bar = ProgressBar::new(size);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {bytes:>11} of {total_bytes} {bytes_per_sec:>13} {eta:>5}")
    {
        bar.set_style(style);
    }
    let (mut pause, mut failures, mut url) = (Duration::from_millis(500), 0, file);
    while here < size {
        bar.set_position(here);
        let before = here;
        let problem =
            fetch(&api, at(&url, "download_url").as_str().unwrap_or_default(), &mut out, &mut sum, &mut here, &bar)
                .await;
        let Err(problem) = problem else { continue };
        // As long as something comes, it goes on.
        failures = if here > before { 1 } else { failures + 1 };
        if failures >= TRIES {
            return Err(CliFault::storage("the file does not come; the same command goes on where it was", problem));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(8));
        url = describe(&api, &args.file_id).await?;
    }
    out.sync_all().map_err(fault)?;
    if here != size || sum != checksum {
        // Nothing of it can be used: the next run begins anew.
        fs::remove_file(&partial).map_err(fault)?;
        return Err(CliFault::Failed("what came is not the file that was sent".to_owned()));
    }
    fs::rename(&partial, &output).map_err(fault)?;
    bar.finish_and_clear();
    say(format!("{}  {size} bytes, CRC64NVME {checksum}", output.display()));
    Ok(())
}

async fn describe(api: &Api, file_id: &str) -> Result<Value, CliFault> {
    Ok(api.call(Method::GET, &format!("/v1/files/{file_id}"), None, &[]).await?.1)
}

/// Where the bytes are until they are proved.
fn beside(output: &Path, file_id: &str) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{file_id}.part"));
    output.with_file_name(name)
}

/// What an earlier run left: its checksum and length.
fn known(partial: &Path) -> io::Result<(Crc64, u64)> {
    let (mut sum, mut here) = (Crc64::empty(), 0);
    let mut file = match File::open(partial) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok((sum, 0)),
        file => file?,
    };
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((sum, here));
        }
        sum = sum.followed_by(Crc64::of(piece.get(..read).unwrap_or_default()), read as u64);
        here += read as u64;
    }
}

/// Fetches what is not here yet, as far as it comes.
async fn fetch(
    api: &Api,
    url: &str,
    out: &mut File,
    sum: &mut Crc64,
    here: &mut u64,
    bar: &ProgressBar,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let request = api.http.get(url).header(header::RANGE, format!("bytes={here}-"));
    let mut answer = request.send().await?;
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Err(format!("{}: {}", answer.status(), answer.text().await?).into());
    }
    while let Some(bytes) = answer.chunk().await? {
        out.write_all(&bytes)?;
        *sum = sum.followed_by(Crc64::of(&bytes), bytes.len() as u64);
        *here += bytes.len() as u64;
        bar.set_position(*here);
    }
    Ok(())
}
