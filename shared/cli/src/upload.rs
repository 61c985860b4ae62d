//! `skylark upload`: a file goes to a conversation in chunks, several at once. What was sent is not sent again, whatever interrupted it.

mod import;
mod source;
mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use domain::upload::plan::{CHUNK_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::api::{Api, Credentials, at};
use crate::args::Place;
use crate::fault::{CliFault, say};
use crate::upload::source::Source;
use crate::upload::state::State;

/// How often a chunk is sent until it arrives.
const TRIES: u32 = 5;

/// How many URLs are asked for at once. More would expire on a bad line.
const URLS: usize = 40;

/// How often chunks that the API still misses are sent.
const ROUNDS: u32 = 5;

/// How soon a merge is asked for again: whoever was at it may have died.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How long a merge is waited for.
const MERGE: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    after_help = "Examples:\n  skylark upload report.pdf --conversation 6f9619ff-8b86-4d01-b42d-00cf4fc964ff\n  \
    skylark upload import --prefix import/report/ --conversation 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --user ann --filename report.pdf"
)]
pub(crate) struct UploadArgs {
    #[command(subcommand)]
    command: Option<UploadCommand>,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, Subcommand)]
enum UploadCommand {
    /// Make one file of chunks that lie in the files bucket as objects of their own; without moving them, and deleting them at the end.
    Import(import::ImportArgs),
}

#[derive(Debug, Args)]
struct FileArgs {
    /// What to upload.
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// The conversation that it is for.
    #[arg(long, required = true)]
    conversation: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    credentials: Credentials,
}

/// How a file is to be sent.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// What it is; told by its first bytes if not given.
    #[arg(long)]
    mime_type: Option<String>,
    /// What it is called there; its own name if not given.
    #[arg(long)]
    name: Option<String>,
    /// Bytes of a chunk; what a bad line loses at once.
    #[arg(long, default_value_t = CHUNK_BYTES, value_parser = clap::value_parser!(u64).range(MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES))]
    chunk_size: u64,
    /// Chunks on their way at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    parallel: u16,
    /// An upload to go on with, if the file that remembers it is gone.
    #[arg(long)]
    resume: Option<String>,
    /// Have the whole file's SHA-256 proved as well.
    #[arg(long)]
    sha256: bool,
}

impl Wanted {
    /// In chunks of this size, one after the other.
    pub(crate) fn one_by_one(chunk_size: u64) -> Self {
        Self { mime_type: None, name: None, chunk_size, parallel: 1, resume: None, sha256: false }
    }
}

pub(crate) async fn run(place: &Place, args: UploadArgs) -> Result<(), CliFault> {
    let UploadArgs { command, mut file } = args;
    match (command, file.file.take(), file.conversation.take()) {
        (Some(UploadCommand::Import(args)), ..) => import::run(place, args).await,
        (None, Some(path), Some(conversation)) => {
            let interrupted = async {
                // Without a handler the process ends at once, which is what was asked for.
                let _ = tokio::signal::ctrl_c().await;
            };
            tokio::select! {
                result = upload(place, (&path, &conversation), file) => result,
                () = interrupted => Err(CliFault::Failed("interrupted; the same command goes on where it was".to_owned())),
            }
        }
        (None, ..) => Err(CliFault::Argument("name a file and a conversation".to_owned())),
    }
}

/// An upload that is under way.
struct Sending {
    api: Arc<Api>,
    source: Arc<Source>,
    upload_id: String,
    parallel: usize,
    bar: ProgressBar,
    sent: usize,
}

async fn upload(place: &Place, (path, conversation): (&Path, &str), args: FileArgs) -> Result<(), CliFault> {
    let api = Arc::new(Api::of(place, &args.credentials, "files").await?);
    let upload = Upload::begin(api, &place.data, (path, conversation), &args.wanted, bar()).await?;
    let (there, total) = (upload.there(), upload.total());
    let Sent { file, chunks } = upload.finish().await?;
    if args.json {
        let mut told = file;
        if let Some(fields) = told.as_object_mut() {
            fields.insert("sent_chunks".to_owned(), json!(chunks));
        }
        say(told.to_string());
    } else {
        say(format!("file_id  {}", at(&file, "file_id").as_str().unwrap_or_default()));
        say(format!("sent     {chunks} chunks; {there} of {total} were there"));
    }
    Ok(())
}

/// An upload that was begun, or is gone on with.
pub(crate) struct Upload {
    sending: Sending,
    state: State,
    /// The chunks that the API does not have.
    missing: Vec<u32>,
}

/// What an upload came to.
pub(crate) struct Sent {
    /// What the API tells of the file.
    pub(crate) file: Value,
    /// How many chunks were sent, those of earlier runs not among them.
    pub(crate) chunks: usize,
}

impl Upload {
    pub(crate) async fn begin(
        api: Arc<Api>,
        data: &Path,
        (path, conversation): (&Path, &str),
        wanted: &Wanted,
        bar: ProgressBar,
    ) -> Result<Self, CliFault> {
        let state = State::at(data, path, conversation, &api.base)?;
        let known = wanted.resume.clone().or_else(|| state.upload_id());
        let status = match &known {
            Some(upload_id) => Some(status(&api, upload_id).await?).filter(is_ours),
            None => None,
        };
        if wanted.resume.is_some() && status.is_none() {
            return Err(CliFault::Argument("the upload has ended, or is not this client's".to_owned()));
        }
        let chunk_size =
            status.as_ref().and_then(|status| at(status, "chunk_size").as_u64()).unwrap_or(wanted.chunk_size);
        let source = Arc::new(Source::read(path.to_owned(), chunk_size, wanted.sha256, &bar).await?);
        let resumed = status.filter(|status| *at(status, "file_size") == source.size);
        if wanted.resume.is_some() && resumed.is_none() {
            return Err(CliFault::Argument("the upload is of a file of another size".to_owned()));
        }
        // Of another file under this name nothing is left to go on with.
        let resumed = resumed.filter(|_| wanted.resume.is_some() || state.is_of(&source));
        let (upload_id, missing) = match (known, resumed) {
            (Some(upload_id), Some(status)) => (upload_id, numbers(at(&status, "missing_chunks"))),
            _ => {
                let upload_id = initiate(&api, &source, (path, conversation), wanted).await?;
                (upload_id, (1..=source.total()).collect())
            }
        };
        state.keep(&upload_id, &source)?;
        let sending = Sending { api, source, upload_id, parallel: wanted.parallel.into(), bar, sent: 0 };
        sending.begin(&missing);
        Ok(Self { sending, state, missing })
    }

    pub(crate) fn total(&self) -> usize {
        self.sending.source.total() as usize
    }

    /// How many chunks were there from the start.
    pub(crate) fn there(&self) -> usize {
        self.total() - self.missing.len()
    }

    /// Sends the first of what is missing, and no more.
    pub(crate) async fn send_first(mut self, count: usize) -> Result<(), CliFault> {
        self.missing.truncate(count);
        self.sending.send(&self.missing).await
    }

    /// Sends what is missing and waits for the file.
    pub(crate) async fn finish(mut self) -> Result<Sent, CliFault> {
        self.sending.send_all(self.missing).await?;
        let file = self.sending.merged().await?;
        self.state.forget();
        self.sending.bar.finish_and_clear();
        Ok(Sent { file, chunks: self.sending.sent })
    }
}

/// Whether there is something to go on with.
fn is_ours(status: &Value) -> bool {
    matches!(at(status, "status").as_str(), Some("uploading" | "merging" | "completed"))
}

async fn status(api: &Api, upload_id: &str) -> Result<Value, CliFault> {
    let path = format!("/v1/files/{upload_id}/status");
    Ok(api.call(Method::GET, &path, None, &[StatusCode::NOT_FOUND]).await?.1)
}

fn numbers(list: &Value) -> Vec<u32> {
    let numbers = list.as_array().into_iter().flatten();
    numbers.filter_map(|number| number.as_u64().and_then(|number| u32::try_from(number).ok())).collect()
}

fn bar() -> ProgressBar {
    // Nothing is drawn where nobody looks.
    let bar = ProgressBar::no_length();
    let style =
        ProgressStyle::with_template("{msg:10} {bar:40} {bytes:>11} of {total_bytes} {bytes_per_sec:>13} {eta:>5}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

async fn initiate(
    api: &Api,
    source: &Source,
    (path, conversation): (&Path, &str),
    wanted: &Wanted,
) -> Result<String, CliFault> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let body = json!({
        "conversation_id": conversation,
        "filename": wanted.name.as_ref().unwrap_or(&name),
        "file_size": source.size,
        "mime_type": wanted.mime_type.as_deref().unwrap_or(&source.mime_type),
        "chunk_size": source.chunk_size,
        "checksum_crc64nvme": source.checksum,
        "checksum_sha256": source.sha256,
    });
    let (_, begun) = api.call(Method::POST, "/v1/files/initiate", Some(&body), &[]).await?;
    let upload_id = at(&begun, "upload_id").as_str().map(str::to_owned);
    upload_id.ok_or_else(|| CliFault::Failed("the API began no upload".to_owned()))
}

impl Sending {
    fn begin(&self, missing: &[u32]) {
        let left: u64 = missing.iter().filter_map(|number| self.source.length(*number)).sum();
        self.bar.reset();
        self.bar.set_length(self.source.size);
        self.bar.set_message("sending");
        self.bar.set_position(self.source.size - left);
    }

    /// Sends chunks and asks for the merge, until nothing is missing.
    async fn send_all(&mut self, mut missing: Vec<u32>) -> Result<(), CliFault> {
        for _ in 0..ROUNDS {
            for wanted in missing.chunks(URLS) {
                self.send(wanted).await?;
            }
            let path = format!("/v1/files/{}/complete", self.upload_id);
            let (status, answer) = self.api.call(Method::POST, &path, None, &[StatusCode::CONFLICT]).await?;
            if status != StatusCode::CONFLICT {
                return Ok(());
            }
            missing = numbers(at(at(&answer, "details"), "missing_chunks"));
            if missing.is_empty() {
                let message = at(&answer, "message").as_str().unwrap_or("it cannot be merged");
                return Err(CliFault::Failed(message.to_owned()));
            }
        }
        Err(CliFault::Failed("chunks go missing again and again; the same command goes on where it was".to_owned()))
    }

    /// Sends these chunks, several at once.
    async fn send(&mut self, wanted: &[u32]) -> Result<(), CliFault> {
        let mut waiting = self.urls(wanted).await?.into_iter();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < self.parallel
                && let Some(chunk) = waiting.next()
            {
                let (api, source, upload_id) = (self.api.clone(), self.source.clone(), self.upload_id.clone());
                under_way.spawn(async move { send_one(&api, &source, &upload_id, chunk).await });
            }
            let Some(done) = under_way.join_next().await else { return Ok(()) };
            let length = done.map_err(|cause| CliFault::storage("a chunk was dropped", cause))??;
            self.sent += 1;
            self.bar.inc(length);
        }
    }

    async fn urls(&self, numbers: &[u32]) -> Result<Vec<Value>, CliFault> {
        urls(&self.api, &self.source, &self.upload_id, numbers).await
    }

    /// Waits until the file is there, or told not to be what it was said to be.
    async fn merged(&self) -> Result<Value, CliFault> {
        self.bar.set_message("merging");
        let begun = tokio::time::Instant::now();
        let (mut pause, mut asked) = (Duration::from_millis(50), ASK_AGAIN);
        while begun.elapsed() < MERGE {
            let status = status(&self.api, &self.upload_id).await?;
            match at(&status, "status").as_str() {
                Some("completed") => {
                    let path = format!("/v1/files/{}", at(&status, "file_id").as_str().unwrap_or_default());
                    return Ok(self.api.call(Method::GET, &path, None, &[]).await?.1);
                }
                Some("merging" | "uploading") if begun.elapsed() > asked => {
                    asked = begun.elapsed() + ASK_AGAIN;
                    let path = format!("/v1/files/{}/complete", self.upload_id);
                    self.api.call(Method::POST, &path, None, &[StatusCode::CONFLICT]).await?;
                }
                Some("merging" | "uploading") => {}
                _ => {
                    let message = at(at(&status, "failure"), "message").as_str().unwrap_or("the upload has ended");
                    return Err(CliFault::Failed(format!("the file was refused: {message}")));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        Err(CliFault::Failed("the merge takes long; the same command looks again".to_owned()))
    }
}

async fn urls(api: &Api, source: &Source, upload_id: &str, numbers: &[u32]) -> Result<Vec<Value>, CliFault> {
    let checksums: Vec<Option<String>> = numbers.iter().map(|number| source.checksum_of(*number)).collect();
    let body = json!({ "chunk_numbers": numbers, "checksums": checksums });
    let (_, answer) = api.call(Method::POST, &format!("/v1/files/{upload_id}/chunks"), Some(&body), &[]).await?;
    match at(&answer, "chunks").as_array() {
        Some(chunks) if chunks.len() == numbers.len() => Ok(chunks.clone()),
        _ => Err(CliFault::Failed("the API did not sign every chunk".to_owned())),
    }
}

/// Sends one chunk until it arrives; its length. A URL that is no longer good is asked for again.
async fn send_one(api: &Api, source: &Source, upload_id: &str, mut chunk: Value) -> Result<u64, CliFault> {
    let number = at(&chunk, "chunk_number").as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    let mut pause = Duration::from_millis(500);
    let mut problem = String::new();
    for attempt in 1..=TRIES {
        let bytes = source.chunk(number).await?;
        let length = bytes.len() as u64;
        let mut request = api.http.put(at(&chunk, "url").as_str().unwrap_or_default()).body(bytes);
        let headers = at(&chunk, "headers").as_object().into_iter().flatten();
        // The client writes this one itself.
        for (name, value) in headers.filter(|(name, _)| *name != "content-length") {
            request = request.header(name, value.as_str().unwrap_or_default());
        }
        problem = match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(length),
            Ok(answer) => {
                let status = answer.status();
                if matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) {
                    chunk = urls(api, source, upload_id, &[number]).await?.pop().unwrap_or_default();
                }
                format!("{status}: {}", answer.text().await.unwrap_or_default())
            }
            Err(cause) => domain::fault::chain(&cause),
        };
        if attempt < TRIES {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
    Err(CliFault::storage(format!("chunk {number} did not arrive; the same command goes on where it was"), problem))
}
