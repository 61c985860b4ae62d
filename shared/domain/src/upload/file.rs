//! Files that are there: what a message names and members download, and the content that equal files share.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::fault::PortFault;
use crate::id::{ConversationId, FileId, TenantId, UploadId, UserId};
use crate::upload::Upload;
use crate::upload::checksum::{Crc64, Sha256};

/// A file of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    pub file_id: FileId,
    pub upload_id: UploadId,
    pub tenant_id: TenantId,
    /// Who sent it.
    pub user_id: UserId,
    pub conversation_id: ConversationId,
    pub filename: String,
    pub mime_type: String,
    pub file_size: u64,
    /// As S3 computed it.
    pub checksum_crc64nvme: Crc64,
    /// Proved by reading the file.
    pub checksum_sha256: Option<Sha256>,
    /// The content that it refers to.
    pub content_id: String,
    /// Where its bytes are.
    pub object_key: String,
    #[serde(with = "time::serde::rfc3339")]
    pub completed_at: OffsetDateTime,
}

/// Bytes that are stored once in a tenant, however many files refer to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub tenant_id: TenantId,
    pub content_id: String,
    pub object_key: String,
    pub checksum_sha256: Option<Sha256>,
    /// With none left, the object is to be deleted and then this record.
    pub references: u64,
}

impl Content {
    /// What equal files have in common. It is only where to look: a checksum of 64 bits can be forged, so that the bytes are compared
    /// before anything is shared.
    #[must_use]
    pub fn id_of(checksum: Crc64, size: u64) -> String {
        // As a part of a key; Base64 has slashes.
        format!("{}-{size}", checksum.to_string().trim_end_matches('=').replace('/', "_").replace('+', "-"))
    }

    /// Content of an upload's own, although its checksum and size are those of other bytes.
    #[must_use]
    pub fn own_id(upload: &Upload) -> String {
        upload.upload_id.to_string()
    }
}

/// How a file comes to its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It brings it: there is none under this id.
    First,
    /// It shares it: there is some under this id with the file's object key, and files refer to it.
    Shared,
}

/// The records of files.
#[async_trait]
pub trait FileStore: Send + Sync {
    async fn file(&self, file_id: &FileId) -> Result<Option<StoredFile>, PortFault>;

    async fn content(&self, tenant_id: &TenantId, content_id: &str) -> Result<Option<Content>, PortFault>;

    /// Forgets the file and its reference to its content in one step, and tells what is left of the content; a conflict if somebody else
    /// removed it.
    async fn remove(&self, file: &StoredFile, now: OffsetDateTime) -> Result<Content, PortFault>;

    /// Forgets content that no file refers to, once its object is deleted. Called twice, or too late, it does nothing.
    async fn forget(&self, content: &Content) -> Result<(), PortFault>;

    /// Up to `limit` contents that no file has referred to since `before` or longer: whoever removed the last one died before the object.
    async fn unreferenced(&self, before: OffsetDateTime, limit: u32) -> Result<Vec<Content>, PortFault>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_content_holds_no_separator_of_keys() {
        for n in 0_u32..2_000 {
            let id = Content::id_of(Crc64::of(&n.to_le_bytes()), 4);
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{id}");
        }
        assert_ne!(Content::id_of(Crc64::of(b"a"), 1), Content::id_of(Crc64::of(b"a"), 2));
    }
}
