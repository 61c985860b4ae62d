//! `/v1/files/...`: uploads begin, get URLs, tell what is missing, are completed or given up; files are downloaded and removed.

use std::collections::{BTreeMap, BTreeSet};

use domain::access::{AccessFault, Caller, Scope};
use domain::fault::{Fault, Refusal, Remedy};
use domain::id::{ConversationId, FileId, UploadId};
use domain::limit::LimitFault;
use domain::upload::checksum::{Crc64, Sha256};
use domain::upload::desk::{Desk, Progress, SignedChunk};
use domain::upload::fault::UploadFault;
use domain::upload::merge::{public, rfc3339};
use domain::upload::object::URL_LIFE;
use domain::upload::plan::{CHUNK_BYTES, ChunkPlan, MAX_CHUNK_BYTES, MAX_FILE_BYTES, MIN_CHUNK_BYTES};
use domain::upload::request::{FIRST_URLS, Initiate, URLS_AT_ONCE, WantedChunk};
use domain::upload::{Origin, Status, media, name};
use lambda_kit::http::{self, BadRequest, Fields, Gate, Request, RequestExt as _, Response, StatusCode};
use lambda_kit::random;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// No request is larger: a name, checksums, a hundred numbers.
const MAX_BODY: usize = 64 * 1024;

const CHECKSUM: &str = "8 bytes in Base64, as S3 writes a CRC64NVME";

pub(crate) async fn answer(
    gate: &Gate,
    desk: &Desk,
    request: Request,
    now: OffsetDateTime,
) -> Result<Response, Stopped> {
    let caller = gate.enter::<Stopped>(&request, Scope::Files, "files", now).await?;
    let path = request.raw_http_path().to_owned();
    let segments: Vec<&str> = path.strip_prefix("/v1/files/").unwrap_or_default().split('/').collect();
    match (request.method().as_str(), segments.as_slice()) {
        ("POST", ["initiate"]) => initiate(desk, &caller, &request, now).await,
        ("POST", [id, "chunks"]) => chunks(desk, &caller, &upload_id(id)?, &request, now).await,
        ("GET", [id, "status"]) => Ok(status(&desk.status(&caller, &upload_id(id)?, now).await?)),
        ("POST", [id, "complete"]) => complete(desk, &caller, id, now).await,
        ("DELETE", [id]) => delete(desk, &caller, id, now).await,
        ("GET", [id]) => download(desk, &caller, id, now).await,
        _ => Err(Stopped::NoRoute),
    }
}

/// What is no id names nothing.
fn upload_id(text: &str) -> Result<UploadId, UploadFault> {
    UploadId::parse(text).map_err(|_| UploadFault::NoUpload)
}

async fn initiate(desk: &Desk, caller: &Caller, request: &Request, now: OffsetDateTime) -> Result<Response, Stopped> {
    let asked = read_initiate(Fields::of_body(request, MAX_BODY)?)?;
    let ids = (UploadId::from(random::uuid()), FileId::from(random::uuid()));
    let (upload, chunks) = desk.initiate(caller, asked, ids, now).await?;
    let Origin::Client { chunk_size } = upload.origin else { return Err(Stopped::NoRoute) };
    let answer = json!({
        "upload_id": upload.upload_id,
        "file_id": upload.file_id,
        "status": upload.status,
        "total_chunks": upload.total_chunks,
        "chunk_size": chunk_size,
        "expires_at": rfc3339(upload.expires_at()),
        "chunks": chunks_view(chunks, now),
    });
    Ok(http::json(StatusCode::CREATED, &answer))
}

async fn chunks(
    desk: &Desk,
    caller: &Caller,
    upload_id: &UploadId,
    request: &Request,
    now: OffsetDateTime,
) -> Result<Response, Stopped> {
    let wanted = read_wanted(Fields::of_body(request, MAX_BODY)?)?;
    let chunks = desk.chunks(caller, upload_id, wanted, now).await?;
    Ok(http::json(StatusCode::OK, &json!({ "chunks": chunks_view(chunks, now) })))
}

/// Chunks that are missing are named.
async fn complete(desk: &Desk, caller: &Caller, id: &str, now: OffsetDateTime) -> Result<Response, Stopped> {
    let fault = match desk.complete(caller, &upload_id(id)?, now).await {
        Ok(upload) => {
            let answer = json!({ "upload_id": upload.upload_id, "file_id": upload.file_id, "status": upload.status });
            return Ok(http::json(StatusCode::ACCEPTED, &answer));
        }
        Err(fault) => fault,
    };
    let Some(missing) = fault.missing_chunks() else { return Err(fault.into()) };
    let details = json!({ "missing_chunks": missing });
    let body = json!({ "error": fault.code(), "message": fault.public_message(), "details": details });
    Ok(http::refuse(&fault, &body))
}

/// An upload is given up; a file, which goes by another id, is removed.
async fn delete(desk: &Desk, caller: &Caller, id: &str, now: OffsetDateTime) -> Result<Response, Stopped> {
    match desk.abort(caller, &upload_id(id)?, now).await {
        Ok(upload) => {
            let answer = json!({ "upload_id": upload.upload_id, "status": upload.status });
            Ok(http::json(StatusCode::OK, &answer))
        }
        Err(UploadFault::NoUpload) => {
            let file_id = FileId::parse(id).map_err(|_| UploadFault::NoUpload)?;
            let file = desk.remove(caller, &file_id, now).await?;
            Ok(http::json(StatusCode::OK, &json!({ "file_id": file.file_id, "status": "removed" })))
        }
        Err(fault) => Err(fault.into()),
    }
}

async fn download(desk: &Desk, caller: &Caller, id: &str, now: OffsetDateTime) -> Result<Response, Stopped> {
    let file_id = FileId::parse(id).map_err(|_| UploadFault::NoFile)?;
    let (file, signed) = desk.download(caller, &file_id).await?;
    let mut answer = public(&file);
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("conversation_id".to_owned(), json!(file.conversation_id));
        fields.insert("completed_at".to_owned(), json!(rfc3339(file.completed_at)));
        fields.insert("download_url".to_owned(), json!(signed.url));
        fields.insert("expires_at".to_owned(), json!(rfc3339(now + URL_LIFE)));
    }
    Ok(http::json(StatusCode::OK, &answer))
}

fn chunks_view(chunks: Vec<SignedChunk>, now: OffsetDateTime) -> Vec<Value> {
    let expires_at = rfc3339(now + URL_LIFE);
    let view = |(number, signed): SignedChunk| json!({ "chunk_number": number, "url": signed.url, "headers": signed.headers, "expires_at": expires_at });
    chunks.into_iter().map(view).collect()
}

fn status(progress: &Progress) -> Response {
    let upload = &progress.upload;
    let hundredths = progress.received_bytes.saturating_mul(10_000) / upload.file_size.max(1);
    let answer = json!({
        "upload_id": upload.upload_id,
        "status": progress.status,
        "filename": upload.filename,
        "file_size": upload.file_size,
        "chunk_size": if let Origin::Client { chunk_size } = upload.origin { Some(chunk_size) } else { None },
        "uploaded_chunks": progress.uploaded_chunks,
        "total_chunks": upload.total_chunks,
        "percentage": hundredths as f64 / 100.0,
        "missing_chunks": progress.missing_chunks,
        "received_bytes": progress.received_bytes,
        "expires_at": rfc3339(upload.expires_at()),
        "file_id": (progress.status == Status::Completed).then_some(&upload.file_id),
        "failure": upload.failure,
    });
    http::json(StatusCode::OK, &answer)
}

fn crc(value: &Value) -> Option<Crc64> {
    Crc64::parse(value.as_str()?).ok()
}

fn read_initiate(mut fields: Fields) -> Result<Initiate, Stopped> {
    let conversation_id = fields.need("conversation_id", "a UUID", |value| ConversationId::parse(value.as_str()?).ok());
    let filename = fields.need("filename", "a text", |value| value.as_str().map(str::to_owned));
    if let Some(fault) = filename.as_deref().and_then(name::fault) {
        fields.refuse("filename", fault);
    }
    let mime_type =
        fields.need("mime_type", "a media type such as `image/png`", |value| media::essence(value.as_str()?));
    let file_size = fields
        .need("file_size", "a whole number of bytes, at least 1", |value| value.as_u64().filter(|size| *size > 0));
    let chunk_size = fields.take("chunk_size", "a number of bytes from 5 MiB to 100 MiB", |value| {
        value.as_u64().filter(|size| (MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(size))
    });
    let checksum_crc64nvme = fields.take("checksum_crc64nvme", CHECKSUM, crc);
    let checksum_sha256 = fields
        .take("checksum_sha256", "a SHA-256 in hexadecimal or Base64", |value| Sha256::parse(value.as_str()?).ok());
    let first: Vec<u32> = (1..=FIRST_URLS).collect();
    let checksums = checksums(&mut fields, &first);
    fields.done()?;
    let (Some(conversation_id), Some(filename), Some(mime_type), Some(file_size)) =
        (conversation_id, filename, mime_type, file_size)
    else {
        return Err(BadRequest::field("body", "lacks a field").into());
    };
    if file_size > MAX_FILE_BYTES {
        return Err(UploadFault::TooLarge.into());
    }
    let chunks = ChunkPlan { file_size, chunk_size: chunk_size.unwrap_or(CHUNK_BYTES) };
    Ok(Initiate { conversation_id, filename, mime_type, chunks, checksum_crc64nvme, checksum_sha256, checksums })
}

fn read_wanted(mut fields: Fields) -> Result<Vec<WantedChunk>, Stopped> {
    let expected = format!("a list of 1 to {URLS_AT_ONCE} different chunk numbers");
    let numbers = fields.need("chunk_numbers", &expected, |value| {
        let numbers = value.as_array()?.iter().map(|number| u32::try_from(number.as_u64()?).ok());
        let numbers: Vec<u32> = numbers.collect::<Option<_>>()?;
        let different = numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len();
        ((1..=URLS_AT_ONCE).contains(&numbers.len()) && different).then_some(numbers)
    });
    let numbers = numbers.unwrap_or_default();
    let checksums = checksums(&mut fields, &numbers);
    fields.done()?;
    Ok(numbers.into_iter().map(|number| (number, checksums.get(&number).copied())).collect())
}

/// `checksums` as a list beside the chunk numbers, or as an object by number. An entry may be null.
fn checksums(fields: &mut Fields, numbers: &[u32]) -> BTreeMap<u32, Crc64> {
    let expected = format!("a list beside the chunk numbers, or an object by chunk number; each {CHECKSUM}");
    let checksums = fields.take("checksums", &expected, |value| {
        let pairs: Vec<(u32, &Value)> = match value {
            Value::Array(list) if list.len() <= numbers.len() => numbers.iter().copied().zip(list).collect(),
            Value::Object(object) => {
                object.iter().map(|(number, value)| Some((number.parse().ok()?, value))).collect::<Option<_>>()?
            }
            _ => return None,
        };
        let told = pairs.into_iter().filter(|(_, value)| !value.is_null());
        told.map(|(number, value)| Some((number, crc(value)?))).collect::<Option<BTreeMap<_, _>>>()
    });
    checksums.unwrap_or_default()
}

/// Why a request is not answered as it hoped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    #[error("there is nothing here")]
    NoRoute,
    #[error(transparent)]
    Access(#[from] AccessFault),
    #[error(transparent)]
    Limit(#[from] LimitFault),
    #[error(transparent)]
    Request(#[from] BadRequest),
    #[error(transparent)]
    Upload(#[from] UploadFault),
}

impl Stopped {
    fn cause(&self) -> Option<&dyn Fault> {
        match self {
            Self::NoRoute => None,
            Self::Access(fault) => Some(fault),
            Self::Limit(fault) => Some(fault),
            Self::Request(fault) => Some(fault),
            Self::Upload(fault) => Some(fault),
        }
    }
}

impl Fault for Stopped {
    fn remedy(&self) -> Remedy {
        self.cause().map_or(Remedy::Reject(Refusal::Unknown), Fault::remedy)
    }

    fn code(&self) -> &'static str {
        self.cause().map_or("not_found", Fault::code)
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        self.cause().map(Fault::fields).unwrap_or_default()
    }

    fn challenge(&self) -> Option<String> {
        self.cause().and_then(Fault::challenge)
    }

    fn public_message(&self) -> String {
        self.cause().map_or_else(|| self.to_string(), Fault::public_message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::access::AccessTokenVerifier;
    use domain::id::{ClientId, FamilyId, TenantId};
    use domain::upload::object::ChunkObjects as _;
    use lambda_kit::http::{Method, header};
    use testkit::sample::{NOW, conversation, user_id};
    use testkit::{MemoryBucket, MemoryChat, MemoryLimiter, MemoryMergeQueue, MemoryUploads};

    use super::*;

    /// Knows everybody by their name.
    struct Door;

    #[async_trait::async_trait]
    impl AccessTokenVerifier for Door {
        async fn verify(&self, token: &str, _: OffsetDateTime) -> Result<Caller, AccessFault> {
            Ok(Caller {
                client_id: ClientId::parse("client").unwrap(),
                user_id: user_id(token),
                tenant_id: TenantId::parse("acme").unwrap(),
                scopes: [Scope::Files].into(),
                session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
                expires_at: NOW,
                rate: None,
            })
        }
    }

    struct World {
        bucket: Arc<MemoryBucket>,
        gate: Gate,
        desk: Desk,
    }

    /// Ann and Bob have a conversation.
    async fn world() -> World {
        let (uploads, bucket) = (Arc::<MemoryUploads>::default(), Arc::<MemoryBucket>::default());
        let chat = Arc::<MemoryChat>::default();
        domain::chat::ConversationStore::create(chat.as_ref(), &conversation(1, &["ann", "bob"])).await.unwrap();
        let desk = Desk {
            uploads: uploads.clone(),
            files: uploads,
            members: chat,
            multipart: bucket.clone(),
            objects: bucket.clone(),
            urls: bucket.clone(),
            queue: Arc::<MemoryMergeQueue>::default(),
        };
        World { bucket, gate: Gate::new(Arc::new(Door), Arc::<MemoryLimiter>::default()), desk }
    }

    impl World {
        async fn ask(&self, user: &str, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
            let body = body.map(|body| body.to_string()).unwrap_or_default();
            let mut request = Request::new(body.into()).with_raw_http_path(path);
            *request.method_mut() = method;
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {user}").parse().unwrap());
            let response = match answer(&self.gate, &self.desk, request, NOW).await {
                Ok(response) => response,
                Err(stopped) => {
                    return (
                        http::status(&stopped).as_u16(),
                        json!({ "error": stopped.code(), "fields": stopped.fields() }),
                    );
                }
            };
            (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
        }

        async fn begun(&self) -> Value {
            let (status, begun) = self.ask("ann", Method::POST, "/v1/files/initiate", Some(whole())).await;
            assert_eq!(status, 201, "{begun}");
            begun
        }
    }

    fn whole() -> Value {
        json!({
            "conversation_id": conversation(1, &["ann", "bob"]).conversation_id, "filename": "周报 📄.pdf", "file_size": 10_485_761,
            "mime_type": "Application/PDF; a=b", "checksum_crc64nvme": "rosUhgp5mIg=", "checksums": { "2": "rosUhgp5mIg=" }, "strange": 1,
        })
    }

    #[tokio::test]
    async fn an_upload_begins_with_urls_and_tells_what_is_missing() {
        let world = world().await;
        let begun = world.begun().await;
        assert_eq!(
            (&begun["total_chunks"], &begun["chunk_size"], &begun["chunks"][1]["chunk_number"]),
            (&json!(2), &json!(10_485_760), &json!(2))
        );
        let headers = json!({ "content-length": "1", "x-amz-checksum-crc64nvme": "rosUhgp5mIg=" });
        assert_eq!(begun["chunks"][1]["headers"], headers);

        let id = begun["upload_id"].as_str().unwrap();
        let (status, refused) = world.ask("ann", Method::POST, &format!("/v1/files/{id}/complete"), None).await;
        assert_eq!((status, &refused["error"]), (409, &json!("incomplete_upload")));
        assert_eq!(refused["details"]["missing_chunks"], json!([1, 2]));
        let key = format!("u/acme/{id}");
        world.bucket.put_part((&key, "multipart-0", 2), vec![7]).await.unwrap();
        let (status, told) = world.ask("ann", Method::GET, &format!("/v1/files/{id}/status"), None).await;
        assert_eq!((status, &told["missing_chunks"], &told["received_bytes"]), (200, &json!([1]), &json!(1)));
        assert_eq!(
            (&told["status"], &told["percentage"], &told["file_id"]),
            (&json!("uploading"), &json!(0.0), &Value::Null)
        );
        let (status, gone) = world.ask("ann", Method::DELETE, &format!("/v1/files/{id}"), None).await;
        assert_eq!((status, &gone["status"]), (200, &json!("aborted")));
        assert_eq!(world.ask("ann", Method::POST, &format!("/v1/files/{id}/complete"), None).await.0, 410);
    }

    #[tokio::test]
    async fn chunks_are_asked_for_by_number_with_their_checksums_beside_or_by_number() {
        let world = world().await;
        let path = format!("/v1/files/{}/chunks", world.begun().await["upload_id"].as_str().unwrap());
        for checksums in [json!(["rosUhgp5mIg=", null]), json!(["rosUhgp5mIg="]), json!({ "2": "rosUhgp5mIg=" })] {
            let body = json!({ "chunk_numbers": [2, 1], "checksums": checksums });
            let (status, signed) = world.ask("ann", Method::POST, &path, Some(body)).await;
            let names: Vec<usize> =
                (0..2).map(|at| signed["chunks"][at]["headers"].as_object().map_or(0, |names| names.len())).collect();
            assert_eq!((status, names), (200, vec![2, 1]), "{signed}");
        }
        for bad in [
            json!({}),
            json!({ "chunk_numbers": [] }),
            json!({ "chunk_numbers": [0] }),
            json!({ "chunk_numbers": [3] }),
            json!({ "chunk_numbers": [1, 1] }),
            json!({ "chunk_numbers": (1..=101).collect::<Vec<_>>() }),
            json!({ "chunk_numbers": [1], "checksums": ["rosUhgp5mIg=", "rosUhgp5mIg="] }),
            json!({ "chunk_numbers": [1], "checksums": { "x": "rosUhgp5mIg=" } }),
            json!({ "chunk_numbers": [1], "checksums": ["x"] }),
        ] {
            assert_eq!(world.ask("ann", Method::POST, &path, Some(bad.clone())).await.0, 400, "{bad}");
        }
    }

    #[tokio::test]
    async fn every_bad_field_is_named_and_two_gibibytes_are_the_most() {
        let world = world().await;
        let ask = async |change: Value| {
            let mut body = whole();
            for (name, value) in change.as_object().unwrap() {
                body[name] = value.clone();
            }
            world.ask("ann", Method::POST, "/v1/files/initiate", Some(body)).await
        };
        let wrong = json!({
            "conversation_id": "x", "filename": "a\nb", "mime_type": "pdf", "file_size": 0, "chunk_size": 1, "checksum_crc64nvme": "x",
            "checksum_sha256": 1, "checksums": "x",
        });
        let (status, refused) = ask(wrong.clone()).await;
        let named: BTreeSet<&str> =
            refused["fields"].as_array().unwrap().iter().filter_map(|it| it[0].as_str()).collect();
        assert_eq!((status, named), (400, wrong.as_object().unwrap().keys().map(String::as_str).collect()));
        for size in [json!(-1), json!(1.5), json!("7"), json!(0), Value::Null] {
            assert_eq!(ask(json!({ "file_size": size })).await.0, 400);
        }
        assert_eq!(ask(json!({ "file_size": MAX_FILE_BYTES })).await.0, 201);
        let (status, refused) = ask(json!({ "file_size": MAX_FILE_BYTES + 1 })).await;
        assert_eq!((status, &refused["error"]), (413, &json!("file_too_large")));
    }

    #[tokio::test]
    async fn whoever_is_not_meant_finds_nothing() {
        let world = world().await;
        let begun = world.begun().await;
        let (id, file_id) = (begun["upload_id"].as_str().unwrap(), begun["file_id"].as_str().unwrap());
        for (method, path) in [
            (Method::GET, format!("/v1/files/{id}/status")),
            (Method::POST, format!("/v1/files/{id}/complete")),
            (Method::DELETE, format!("/v1/files/{id}")),
            (Method::GET, format!("/v1/files/{file_id}")),
            (Method::GET, "/v1/files/no-id/status".to_owned()),
            (Method::DELETE, "/v1/files/no-id".to_owned()),
            (Method::PUT, format!("/v1/files/{id}")),
        ] {
            assert_eq!(world.ask("bob", method, &path, None).await.0, 404, "{path}");
        }
        assert_eq!(world.ask("carol", Method::POST, "/v1/files/initiate", Some(whole())).await.0, 403);
    }
}
