//! What uploads need of an object store.

use std::collections::BTreeMap;
use std::ops::Range;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::fault::PortFault;
use crate::upload::checksum::Crc64;

/// A part that has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub number: u32,
    pub size: u64,
    pub etag: String,
    /// Unless the store computed none.
    pub crc64nvme: Option<Crc64>,
}

/// What a multipart upload is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion<'a> {
    pub key: &'a str,
    pub multipart_id: &'a str,
    /// In order.
    pub parts: &'a [Part],
    pub size: u64,
    /// Of the whole.
    pub crc64nvme: Option<Crc64>,
}

/// What became of a multipart upload that was to be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    /// The object is there, with this checksum if the store tells one.
    Done(Option<Crc64>),
    /// There is no such multipart upload, or the key is taken: an earlier call may have made the object.
    Ended,
    /// The store will never make this object of these parts.
    Refused { code: String, message: String },
}

/// Multipart uploads.
#[async_trait]
pub trait Multipart: Send + Sync {
    /// Begins one whose checksum is the CRC64NVME of the whole; the id that it has.
    async fn begin(&self, key: &str, mime_type: &str) -> Result<String, PortFault>;

    /// Every part that has arrived, in order; nothing if the multipart upload has ended.
    async fn parts(&self, key: &str, multipart_id: &str) -> Result<Option<Vec<Part>>, PortFault>;

    /// Makes the object if nothing is there under the key. If an answer was lost, the next call tells [`Completed::Ended`].
    async fn complete(&self, completion: Completion<'_>) -> Result<Completed, PortFault>;

    /// Gives it up with all its parts; one that has ended stays so. A part that is on its way may arrive afterwards, so that this is
    /// called again later.
    async fn abort(&self, key: &str, multipart_id: &str) -> Result<(), PortFault>;
}

/// A multipart upload as a listing names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenMultipart {
    pub key: String,
    pub multipart_id: String,
    pub initiated_at: OffsetDateTime,
}

/// Finds multipart uploads of which no record may know.
#[async_trait]
pub trait OpenMultiparts: Send + Sync {
    /// A page of those whose keys begin with the prefix, and where the next page begins.
    async fn open(
        &self,
        prefix: &str,
        after: Option<String>,
    ) -> Result<(Vec<OpenMultipart>, Option<String>), PortFault>;
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub size: u64,
    pub crc64nvme: Option<Crc64>,
}

/// Whole objects.
#[async_trait]
pub trait Objects: Send + Sync {
    async fn facts(&self, key: &str) -> Result<Option<Facts>, PortFault>;

    /// These bytes of the object, or as many of them as there are; nothing if there is no object.
    async fn read(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, PortFault>;

    async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), PortFault>;

    /// Deletes what is there of them.
    async fn delete(&self, keys: &[String]) -> Result<(), PortFault>;
}

/// An object that is to be a chunk of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkObject {
    pub key: String,
    pub size: u64,
    pub etag: String,
}

/// What became of a piece of a part that came from a chunk object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    Done,
    /// The chunk is not there, or no longer what it was.
    Changed,
    /// The multipart upload has ended.
    Ended,
}

/// Makes parts of objects.
#[async_trait]
pub trait ChunkObjects: Send + Sync {
    /// The objects whose keys begin with the prefix, by key.
    async fn list(&self, prefix: &str) -> Result<Vec<ChunkObject>, PortFault>;

    /// Makes these bytes of the chunk a part, without moving them, if it still is what it was. Called twice, the part is the same.
    async fn copy_part(
        &self,
        target: (&str, &str, u32),
        chunk: &ChunkObject,
        range: Range<u64>,
    ) -> Result<Copied, PortFault>;

    /// These bytes of the chunk; nothing if it is not what it was.
    async fn read_chunk(&self, chunk: &ChunkObject, range: Range<u64>) -> Result<Option<Vec<u8>>, PortFault>;

    /// Makes bytes a part.
    async fn put_part(&self, target: (&str, &str, u32), bytes: Vec<u8>) -> Result<Copied, PortFault>;
}

/// A request that somebody else may send, as it stands, until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedUrl {
    pub url: String,
    /// Headers that must be sent with exactly these values.
    pub headers: BTreeMap<String, String>,
}

/// A part whose URL is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedPart<'a> {
    pub key: &'a str,
    pub multipart_id: &'a str,
    pub number: u32,
    pub length: u64,
    pub crc64nvme: Option<Crc64>,
}

/// Signs requests for others. Nothing is sent anywhere.
#[async_trait]
pub trait UrlSigner: Send + Sync {
    /// Puts one part of exactly this length, and with this checksum if there is one.
    async fn part(&self, part: SignedPart<'_>) -> Result<SignedUrl, PortFault>;

    /// Gets the object with these headers on the answer.
    async fn download(&self, key: &str, content_type: &str, content_disposition: &str) -> Result<SignedUrl, PortFault>;
}

/// How long a signed URL is good for.
pub const URL_LIFE: time::Duration = time::Duration::minutes(15);
