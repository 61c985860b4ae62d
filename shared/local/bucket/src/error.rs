//! Every way an operation can fail, and the S3 error each becomes.

use std::io;
use std::path::{Path, PathBuf};

use s3s::{S3Error, S3ErrorCode};

/// Why buckets could not be opened, or an operation on them failed.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("the folder `{}` is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("cannot use the file `{}`", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the bucket database failed")]
    Database(#[from] rusqlite::Error),
    #[error("a stored record cannot be read")]
    Record(#[from] serde_json::Error),
    #[error("the operation was cut short because the process is stopping")]
    Stopping(#[source] tokio::task::JoinError),
    #[error("the stored checksum of part {number} cannot be combined")]
    Checksum { number: i32 },
    #[error("`{0}` is not a valid bucket name")]
    InvalidBucketName(String),
    #[error("an object key has 1 to 1024 bytes, this one has {0}")]
    InvalidKey(usize),
    #[error("the bucket `{0}` does not exist")]
    NoSuchBucket(String),
    #[error("the bucket `{0}` still holds objects")]
    BucketNotEmpty(String),
    #[error("the key `{0}` does not exist")]
    NoSuchKey(String),
    #[error("the multipart upload `{0}` does not exist; it may have been completed or aborted")]
    NoSuchUpload(String),
    #[error("at least one of the preconditions did not hold")]
    PreconditionFailed,
    #[error("the {name} of the body does not match: declared `{declared}`, computed `{computed}`")]
    BadDigest { name: &'static str, declared: String, computed: String },
    #[error("the body ended after {received} of {declared} bytes")]
    IncompleteBody { declared: u64, received: u64 },
    #[error("the body could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("part {0} was not uploaded, or its ETag or checksum differs")]
    InvalidPart(i32),
    #[error("the parts are not listed in ascending order")]
    InvalidPartOrder,
    #[error("part {number} has {size} bytes; every part but the last needs 5 MiB")]
    PartTooSmall { number: i32, size: u64 },
    #[error("a single request carries at most 5 GiB")]
    EntityTooLarge,
    #[error("{0}")]
    InvalidRequest(String),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    NotImplemented(String),
}

impl BucketError {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

impl From<BucketError> for S3Error {
    fn from(error: BucketError) -> Self {
        let code = match &error {
            BucketError::InUse { .. }
            | BucketError::File { .. }
            | BucketError::Database(_)
            | BucketError::Record(_)
            | BucketError::Stopping(_)
            | BucketError::Checksum { .. } => {
                // The caller learns nothing of files and tables; the log keeps every cause.
                let causes = causes(&error);
                tracing::error!(error = %causes, "Bucket operation failed: {causes}");
                return Self::with_message(S3ErrorCode::InternalError, "We encountered an internal error.");
            }
            BucketError::InvalidBucketName(_) => S3ErrorCode::InvalidBucketName,
            BucketError::InvalidKey(0) => S3ErrorCode::InvalidRequest,
            BucketError::InvalidKey(_) => S3ErrorCode::KeyTooLongError,
            BucketError::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
            BucketError::BucketNotEmpty(_) => S3ErrorCode::BucketNotEmpty,
            BucketError::NoSuchKey(_) => S3ErrorCode::NoSuchKey,
            BucketError::NoSuchUpload(_) => S3ErrorCode::NoSuchUpload,
            BucketError::PreconditionFailed => S3ErrorCode::PreconditionFailed,
            BucketError::BadDigest { .. } => S3ErrorCode::BadDigest,
            BucketError::IncompleteBody { .. } => S3ErrorCode::IncompleteBody,
            BucketError::Body(cause) => body_error_code(cause.as_ref()),
            BucketError::InvalidPart(_) => S3ErrorCode::InvalidPart,
            BucketError::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
            BucketError::PartTooSmall { .. } => S3ErrorCode::EntityTooSmall,
            BucketError::EntityTooLarge => S3ErrorCode::EntityTooLarge,
            BucketError::InvalidRequest(_) => S3ErrorCode::InvalidRequest,
            BucketError::InvalidArgument(_) => S3ErrorCode::InvalidArgument,
            BucketError::NotImplemented(_) => S3ErrorCode::NotImplemented,
        };
        let status = matches!(code, S3ErrorCode::Custom(_)).then_some(http::StatusCode::BAD_REQUEST);
        let mut answer = Self::with_message(code, error.to_string());
        if let Some(status) = status {
            answer.set_status_code(status);
        }
        answer
    }
}

/// This error and all its sources on one line.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// `s3s` verifies signed payloads and chunks while the body is read; its error types are private, their texts are not.
fn body_error_code(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> S3ErrorCode {
    let text = cause.to_string();
    if text.contains("Sha256Mismatch") {
        S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into())
    } else if text.contains("SignatureMismatch") {
        S3ErrorCode::SignatureDoesNotMatch
    } else {
        S3ErrorCode::IncompleteBody
    }
}
