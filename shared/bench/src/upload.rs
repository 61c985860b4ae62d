//! Uploads through a whole local bundle by `skylark upload`: how many requests S3 sees, how long they and the merge take, how much memory
//! the functions need though files are large; and the import of a thousand chunks of another system.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use bucket::Bucket;
use domain::fault::PortFault;
use domain::upload::checksum::Crc64;
use domain::upload::object::{ChunkObjects as _, Objects as _};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::stack::{Stack, StackError};

const GIB: u64 = 1 << 30;

/// How many gibibytes, and the S3 requests that they may cost, give or take two of a hundred.
const UPLOADS: [(u64, u64); 2] = [(1, 105), (2, 207)];

/// What a function may hold. The one that joins the small chunks of an import has them in memory.
const MEMORY_MB: u64 = 40;
const IMPORT_MEMORY_MB: u64 = 512;

const FUNCTIONS: [&str; 2] = ["skylark-UploadApiFunction", "skylark-UploadMergeFunction"];
const MERGE: &str = "skylark-UploadMergeFunction";

/// The chunks of the import: so many, each of a size between these, small ones as likely as large ones.
const CHUNKS: u32 = 1_000;
const SMALLEST: f64 = 100_000.0;
const LARGEST: f64 = 20_000_000.0;

/// What was measured of one file.
struct Figures {
    what: String,
    bytes: u64,
    /// Requests to S3, by operation.
    requests: BTreeMap<String, u64>,
    /// How many there may be.
    budget: Option<u64>,
    wall: Duration,
    /// Of the function that merges, from its event to its answer.
    merge: Duration,
    /// Of each function, in MB.
    memory: Vec<(&'static str, u64)>,
    memory_budget: u64,
}

impl Figures {
    fn count(&self) -> u64 {
        self.requests.values().sum()
    }

    fn holds(&self) -> bool {
        let requests = self.budget.is_none_or(|budget| self.count().abs_diff(budget) * 50 <= budget);
        requests && self.memory.iter().all(|(_, megabytes)| *megabytes < self.memory_budget)
    }
}

/// The outcome of a run.
pub(crate) struct Report(Vec<Figures>);

impl Report {
    pub(crate) fn holds(&self) -> bool {
        self.0.iter().all(Figures::holds)
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error("this machine refused something")]
    Io(#[from] io::Error),
    #[error("the bundle does not answer")]
    Http(#[from] reqwest::Error),
    #[error("an answer does not parse")]
    Json(#[from] serde_json::Error),
    #[error("the bucket failed")]
    Bucket(#[from] PortFault),
    #[error("`skylark {command}` failed: {log}")]
    Command { command: String, log: String },
    #[error("the file that came is not the one that was sent")]
    Other,
}

/// What the bundle had counted at one moment.
struct Moment {
    at: Instant,
    status: Value,
}

impl Moment {
    async fn of(stack: &Stack) -> Result<Self, UploadError> {
        Ok(Self { at: Instant::now(), status: stack.status().await? })
    }

    /// What was counted since an earlier moment.
    fn since(&self, before: &Self, what: String, bytes: u64, budget: Option<u64>, memory_budget: u64) -> Figures {
        let counts = |moment: &Self| -> BTreeMap<String, u64> {
            serde_json::from_value(at(&moment.status, "s3").clone()).unwrap_or_default()
        };
        let earlier = counts(before);
        let left = |(name, count): (String, u64)| {
            let new = count - earlier.get(&name).copied().unwrap_or_default();
            (new > 0).then_some((name, new))
        };
        let busy = |moment: &Self| {
            at(at(at(&moment.status, "functions"), MERGE), "duration_total_ms").as_f64().unwrap_or_default()
        };
        let memory =
            |name| (name, at(at(at(&self.status, "functions"), name), "max_memory_mb").as_u64().unwrap_or_default());
        Figures {
            what,
            bytes,
            requests: counts(self).into_iter().filter_map(left).collect(),
            budget,
            wall: self.at - before.at,
            merge: Duration::from_secs_f64((busy(self) - busy(before)).max(0.0) / 1_000.0),
            memory: FUNCTIONS.map(memory).into(),
            memory_budget,
        }
    }
}

/// Bytes that differ everywhere, as fast as they can be written.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            for (byte, new) in word.iter_mut().zip(self.0.to_le_bytes()) {
                *byte = new;
            }
        }
    }

    fn file(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        let (mut piece, mut left) = (vec![0; 1 << 20], bytes);
        while left > 0 {
            self.fill(&mut piece);
            let length = left.min(1 << 20);
            out.write_all(piece.get(..usize::try_from(length).unwrap_or(piece.len())).unwrap_or_default())?;
            left -= length;
        }
        out.flush()
    }
}

pub(crate) async fn measure(binaries: Option<PathBuf>) -> Result<Report, UploadError> {
    let stack = Stack::start(binaries).await?;
    let conversation = conversation(&stack).await?;
    let mut all = Vec::new();
    for (gib, budget) in UPLOADS {
        let path = stack.folder().join(format!("{gib}.bin"));
        Noise(gib).file(&path, gib * GIB)?;
        let before = Moment::of(&stack).await?;
        let name = path.display().to_string();
        let file = skylark(&stack, &["upload", &name, "--conversation", &conversation, "--json"]).await?;
        let after = Moment::of(&stack).await?;
        all.push(after.since(&before, format!("{gib} GiB"), gib * GIB, Some(budget), MEMORY_MB));
        std::fs::remove_file(&path)?;
        // What was uploaded is not needed any more.
        let file: Value = serde_json::from_str(&file)?;
        let url = format!("{}/v1/files/{}", stack.setting("/http")?, at(&file, "file_id").as_str().unwrap_or_default());
        stack.http.delete(url).bearer_auth(token(&stack).await?).send().await?.error_for_status()?;
    }
    all.push(import(&stack, &conversation).await?);
    Ok(Report(all))
}

/// A thousand chunks become one file. That they do so byte for byte is proved by reading it.
async fn import(stack: &Stack, conversation: &str) -> Result<Figures, UploadError> {
    let bucket = files_bucket(stack)?;
    let (mut noise, mut whole, mut bytes) = (Noise(7), Crc64::empty(), 0);
    for n in 0..CHUNKS {
        // Between the smallest and the largest by a golden-section walk over their logarithms.
        let place = (f64::from(n) * 0.618_033_988_749_895).fract();
        let size = (SMALLEST.ln() + place * (LARGEST / SMALLEST).ln()).exp();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes are between the two above")]
        let mut chunk = vec![0; size as usize];
        noise.fill(&mut chunk);
        whole = whole.followed_by(Crc64::of(&chunk), chunk.len() as u64);
        bytes += chunk.len() as u64;
        bucket.put(&format!("import/bench/{n}"), chunk).await?;
    }
    let before = Moment::of(stack).await?;
    let whole = whole.to_string();
    let file = skylark(
        stack,
        &[
            "upload",
            "import",
            "--prefix",
            "import/bench/",
            "--conversation",
            conversation,
            "--user",
            "ann",
            "--filename",
            "bench.bin",
            "--crc64nvme",
            &whole,
            "--json",
        ],
    )
    .await?;
    while !bucket.list("import/").await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = Moment::of(stack).await?;
    let figures = after.since(&before, format!("import of {CHUNKS} chunks"), bytes, None, IMPORT_MEMORY_MB);
    let file: Value = serde_json::from_str(&file)?;
    let output = stack.folder().join("import.bin");
    let name = output.display().to_string();
    skylark(stack, &["download", at(&file, "file_id").as_str().unwrap_or_default(), "--output", &name]).await?;
    if std::fs::metadata(&output)?.len() == bytes { Ok(figures) } else { Err(UploadError::Other) }
}

fn files_bucket(stack: &Stack) -> Result<Bucket, UploadError> {
    let key = Credentials::new(
        stack.setting("/access_key_id")?,
        stack.setting("/secret_access_key")?,
        None,
        None,
        "local.json",
    );
    let aws = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(key)
        .endpoint_url(stack.setting("/aws_endpoint")?)
        .http_client(lambda_kit::aws::http_client());
    Ok(Bucket::new(aws, stack.setting("/buckets/FilesBucket")?))
}

fn at<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// Runs a command on the bundle; what it printed.
async fn skylark(stack: &Stack, arguments: &[&str]) -> Result<String, UploadError> {
    let run =
        Command::new(stack.binaries.join("skylark")).args(arguments).arg("--data").arg(stack.folder()).output().await?;
    if run.status.success() {
        return Ok(String::from_utf8_lossy(&run.stdout).into_owned());
    }
    let log = String::from_utf8_lossy(&run.stderr).into_owned();
    Err(UploadError::Command { command: arguments.join(" "), log })
}

async fn token(stack: &Stack) -> Result<String, UploadError> {
    let body = json!({
        "grant_type": "client_credentials", "client_id": stack.setting("/clients/0/client_id")?,
        "client_secret": stack.setting("/clients/0/client_secret")?, "scope": "files chat",
    });
    let answer = stack.http.post(format!("{}/auth/token", stack.setting("/http")?)).json(&body).send().await?;
    let answer: Value = answer.error_for_status()?.json().await?;
    Ok(at(&answer, "access_token").as_str().unwrap_or_default().to_owned())
}

async fn conversation(stack: &Stack) -> Result<String, UploadError> {
    let body = json!({ "type": "private", "members": ["ann", "bob"] });
    let request = stack.http.post(format!("{}/v1/conversations", stack.setting("/http")?));
    let answer = request.bearer_auth(token(stack).await?).json(&body).send().await?;
    let answer: Value = answer.error_for_status()?.json().await?;
    Ok(at(&answer, "conversation_id").as_str().unwrap_or_default().to_owned())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.0 {
            let megabytes = one.bytes / 1_000_000;
            writeln!(
                f,
                "{}: {megabytes} MB in {:.1} s, merged in {:.2} s; {} requests to S3",
                one.what,
                one.wall.as_secs_f64(),
                one.merge.as_secs_f64(),
                one.count()
            )?;
            for (operation, count) in &one.requests {
                writeln!(f, "    {count:>5} {operation}")?;
            }
            for (function, megabytes) in &one.memory {
                writeln!(f, "    {megabytes:>5} MB {function}")?;
            }
        }
        for one in &self.0 {
            let verdict = if one.holds() { "holds" } else { "DOES NOT HOLD" };
            let requests = one.budget.map_or(String::new(), |budget| format!("{budget} requests to S3, +-2 %, and "));
            write!(f, "\n{}: {requests}less than {} MB of memory: {verdict}", one.what, one.memory_budget)?;
        }
        Ok(())
    }
}
