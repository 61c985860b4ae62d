//! `skylark upload import`: chunks of another system become one file where they lie.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use domain::chat::{Conversation, Memberships as _};
use domain::id::{ConversationId, FileId, TenantId, UploadId, UserId};
use domain::upload::checksum::{Crc64, Sha256, Sha256Sum};
use domain::upload::import::{self, Manifest};
use domain::upload::merge::{MergeJob, MergeQueue as _};
use domain::upload::object::{ChunkObject, ChunkObjects as _, Multipart as _, Objects as _};
use domain::upload::{Origin, Status, Upload, UploadStore as _, media, name};
use serde_json::json;
use uuid::Uuid;

use crate::args::Place;
use crate::fault::{CliFault, say};
use crate::stack::{Files, Stack};

/// How long an import is waited for.
const PATIENCE: Duration = Duration::from_secs(1_800);

#[derive(Debug, Args)]
#[command(
    after_help = "The chunks lie in the bucket of the output FilesBucket below import/; `aws s3 sync` puts them there without downloading \
    them. Their order is that of their keys, numbers in them counting as numbers, or that of --list. Repeated, the command looks after \
    the same import."
)]
pub(crate) struct ImportArgs {
    /// Where the chunks are, such as `import/report/`.
    #[arg(long)]
    prefix: String,
    /// A file with the keys of the chunks, one a line, in order; instead of everything below the prefix.
    #[arg(long)]
    list: Option<PathBuf>,
    /// The conversation that the file is for.
    #[arg(long)]
    conversation: String,
    /// Who sends it: a member of the conversation.
    #[arg(long)]
    user: String,
    /// The tenant of the conversation.
    #[arg(long, default_value = "default")]
    tenant: String,
    /// What the file is called.
    #[arg(long)]
    filename: String,
    #[arg(long, default_value = "application/octet-stream")]
    mime_type: String,
    /// What the whole file's CRC64NVME must be, in Base64.
    #[arg(long)]
    crc64nvme: Option<String>,
    /// What the whole file's SHA-256 must be; it is proved by reading the file.
    #[arg(long)]
    sha256: Option<String>,
    /// Only queue it.
    #[arg(long)]
    no_wait: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(place: &Place, args: ImportArgs) -> Result<(), CliFault> {
    let stack = Stack::find(place).await?;
    let files = &Files::find(place).await?;
    let manifest = Manifest { chunks: chunks(files, &args).await? };
    let sizes: Vec<u64> = manifest.chunks.iter().map(|chunk| chunk.size).collect();
    let pieces = import::pieces(&sizes).map_err(|fault| CliFault::Argument(fault.to_string()))?;
    let text = serde_json::to_vec(&manifest).map_err(|cause| CliFault::storage("the list cannot be written", cause))?;
    let upload = described(&stack, files, &args, (&text, sizes.iter().sum(), pieces.len())).await?;
    let begun = begin(&stack, files, upload, text).await?;
    files.queue.send(&MergeJob::import(&begun, stack.now().await?)).await?;
    if args.no_wait {
        say(format!("upload_id  {}", begun.upload_id));
        return Ok(());
    }
    wait(files, &begun.upload_id, args.json).await
}

/// The chunks in their order.
async fn chunks(files: &Files, args: &ImportArgs) -> Result<Vec<ChunkObject>, CliFault> {
    if !args.prefix.starts_with(import::CHUNKS) {
        return Err(CliFault::Argument(format!("chunks to import lie below {}", import::CHUNKS)));
    }
    let mut there = files.bucket.list(&args.prefix).await?;
    let Some(list) = &args.list else {
        there.sort_by(|one, other| import::natural(&one.key, &other.key));
        return if there.is_empty() {
            Err(CliFault::Argument(format!("nothing lies below {}", args.prefix)))
        } else {
            Ok(there)
        };
    };
    let text = std::fs::read_to_string(list)
        .map_err(|cause| CliFault::Argument(format!("`{}` cannot be read: {cause}", list.display())))?;
    let keys = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let find = |key: &str| {
        let found = there.iter().find(|chunk| chunk.key == key).cloned();
        found.ok_or_else(|| CliFault::Argument(format!("there is no chunk `{key}` below {}", args.prefix)))
    };
    keys.map(find).collect()
}

/// What the import is to become. Its id is made of what it is, so that the same command means the same import.
async fn described(
    stack: &Stack,
    files: &Files,
    args: &ImportArgs,
    (manifest, file_size, parts): (&[u8], u64, usize),
) -> Result<Upload, CliFault> {
    if let Some(fault) = name::fault(&args.filename) {
        return Err(CliFault::Argument(format!("--filename {fault}")));
    }
    let checksum = |what: &str| CliFault::Argument(format!("{what} is no checksum of its kind"));
    let (tenant_id, user_id) = (TenantId::parse(&*args.tenant)?, UserId::parse(&*args.user)?);
    let conversation_id = ConversationId::parse(&*args.conversation)?;
    let found = files.chat.conversation(&conversation_id).await?;
    Conversation::of_member(found, &tenant_id, &user_id).map_err(|fault| CliFault::Argument(fault.to_string()))?;
    let id = |what: &str| {
        let mut sum = Sha256Sum::default();
        sum.add(format!("{what}\n{tenant_id}\n{user_id}\n{conversation_id}\n{}\n", args.filename).as_bytes());
        sum.add(manifest);
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(sum.finish().as_bytes()).for_each(|(to, from)| *to = *from);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    };
    let (upload_id, file_id): (Uuid, Uuid) = (id("upload"), id("file"));
    let now = stack.now().await?;
    Ok(Upload {
        upload_id: UploadId::from(upload_id),
        file_id: FileId::from(file_id),
        tenant_id,
        user_id,
        conversation_id,
        filename: args.filename.clone(),
        mime_type: media::essence(&args.mime_type)
            .ok_or_else(|| CliFault::Argument("--mime-type is none".to_owned()))?,
        file_size,
        origin: Origin::Import { manifest: String::new() },
        total_chunks: u32::try_from(parts).unwrap_or(u32::MAX),
        checksum_crc64nvme: args
            .crc64nvme
            .as_deref()
            .map(Crc64::parse)
            .transpose()
            .map_err(|_| checksum("--crc64nvme"))?,
        checksum_sha256: args.sha256.as_deref().map(Sha256::parse).transpose().map_err(|_| checksum("--sha256"))?,
        multipart_id: String::new(),
        status: Status::Merging,
        failure: None,
        created_at: now,
        touched_at: now,
        version: 1,
    })
}

/// Records the import, or finds it recorded. One that failed begins again.
async fn begin(stack: &Stack, files: &Files, upload: Upload, manifest: Vec<u8>) -> Result<Upload, CliFault> {
    let before = files.table.upload(&upload.upload_id).await?;
    if let Some(before) = &before
        && matches!(before.status, Status::Merging | Status::Completed)
    {
        return Ok(before.clone());
    }
    let version = before.map_or(1, |before| before.version + 1);
    // Of its own, because the one before may be deleted at this moment.
    let key = format!("{}{}.{version}.json", import::MANIFESTS, upload.upload_id);
    files.bucket.put(&key, manifest).await?;
    let multipart_id = files.bucket.begin(&upload.key(), &upload.mime_type).await?;
    let begun = Upload { multipart_id, version, origin: Origin::Import { manifest: key }, ..upload };
    match version {
        1 => files.table.open(&begun, None).await?,
        _ => files.table.change(&Upload { touched_at: stack.now().await?, ..begun.clone() }).await?,
    }
    Ok(begun)
}

async fn wait(files: &Files, upload_id: &UploadId, as_json: bool) -> Result<(), CliFault> {
    let begun = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(50);
    while begun.elapsed() < PATIENCE {
        let upload = files.table.upload(upload_id).await?;
        let Some(upload) = upload else { return Err(CliFault::Failed("the import is no longer recorded".to_owned())) };
        match upload.status {
            Status::Completed if as_json => {
                say(json!({ "file_id": upload.file_id, "upload_id": upload_id, "file_size": upload.file_size })
                    .to_string());
                return Ok(());
            }
            Status::Completed => {
                say(format!("file_id  {}", upload.file_id));
                say(format!("merged   {} bytes of {} parts", upload.file_size, upload.total_chunks));
                return Ok(());
            }
            Status::Merging => {}
            _ => {
                let message = upload.failure.map_or_else(|| "it has ended".to_owned(), |failure| failure.message);
                return Err(CliFault::Failed(format!("the import failed: {message}")));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    Err(CliFault::Failed("the import takes long; the same command looks again".to_owned()))
}
