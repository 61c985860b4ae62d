//! Why an upload, or a request about one, does not go on.

use crate::chat::ChatFault;
use crate::fault::{Denial, Fault, PortFault, Refusal, Remedy};
use crate::upload::Status;
use crate::upload::plan::MAX_FILE_BYTES;
use crate::upload::quota::NoRoom;

/// How soon somebody with too many open uploads may find room: when one of them ends.
const ROOM_AGAIN_SECS: u32 = 60;

#[derive(Debug, thiserror::Error)]
pub enum UploadFault {
    #[error("the request is not valid")]
    Invalid(Vec<(&'static str, String)>),
    #[error("a file has at most {MAX_FILE_BYTES} bytes")]
    TooLarge,
    #[error("there is no such upload")]
    NoUpload,
    #[error("there is no such file")]
    NoFile,
    #[error("the caller may upload nothing there")]
    Chat(#[from] ChatFault),
    #[error("the upload is {}", .0.as_str())]
    Ended(Status),
    #[error("chunks are missing")]
    Incomplete(Vec<u32>),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error("the import goes on in another run")]
    Unfinished,
    #[error("a message is no job of the merge queue")]
    NotAJob(#[source] serde_json::Error),
    #[error("a manifest does not read")]
    Manifest(#[source] serde_json::Error),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl UploadFault {
    /// The chunks that are still to be sent.
    #[must_use]
    pub fn missing_chunks(&self) -> Option<&[u32]> {
        if let Self::Incomplete(missing) = self { Some(missing) } else { None }
    }
}

impl Fault for UploadFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Invalid(_) | Self::NotAJob(_) => Remedy::Reject(Refusal::Invalid),
            Self::TooLarge => Remedy::Reject(Refusal::TooLarge),
            Self::NoUpload | Self::NoFile => Remedy::Reject(Refusal::Unknown),
            Self::Chat(fault) => fault.remedy(),
            Self::Ended(Status::Aborted | Status::Expired) => Remedy::Reject(Refusal::Gone),
            Self::Ended(_) | Self::Incomplete(_) => Remedy::Reject(Refusal::Conflict),
            Self::NoRoom(NoRoom::Uploads) => Remedy::Deny(Denial::Throttled { retry_after_secs: ROOM_AGAIN_SECS }),
            Self::NoRoom(NoRoom::Bytes { retry_after_secs }) => {
                Remedy::Deny(Denial::Throttled { retry_after_secs: *retry_after_secs })
            }
            Self::Unfinished => Remedy::Retry,
            Self::Manifest(_) => Remedy::Bug,
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_request",
            Self::TooLarge => "file_too_large",
            Self::NoUpload => "upload_not_found",
            Self::NoFile => "file_not_found",
            Self::Chat(fault) => fault.code(),
            Self::Ended(Status::Uploading | Status::Merging) => "upload_merging",
            Self::Ended(Status::Completed) => "upload_completed",
            Self::Ended(Status::Failed) => "upload_failed",
            Self::Ended(Status::Aborted) => "upload_aborted",
            Self::Ended(Status::Expired) => "upload_expired",
            Self::Incomplete(_) => "incomplete_upload",
            Self::NoRoom(NoRoom::Uploads) => "too_many_uploads",
            Self::NoRoom(NoRoom::Bytes { .. }) => "daily_quota_exceeded",
            Self::Unfinished => "unfinished",
            Self::NotAJob(_) => "invalid_message",
            Self::Manifest(_) => "internal_error",
            Self::Port(fault) => fault.code(),
        }
    }

    fn public_message(&self) -> String {
        match (self, self.remedy()) {
            (Self::Chat(fault), _) => fault.public_message(),
            (_, Remedy::Retry) => "try again in a moment".to_owned(),
            (_, Remedy::Bug) => "internal error".to_owned(),
            _ => self.to_string(),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        if let Self::Invalid(fields) = self { fields.clone() } else { Vec::new() }
    }
}
