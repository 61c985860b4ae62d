//! Parts made of objects that lie in the bucket.

use std::error::Error;
use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use domain::fault::PortFault;
use domain::upload::checksum::Crc64;
use domain::upload::name::percent_encoded;
use domain::upload::object::{ChunkObject, ChunkObjects, Copied};

use crate::Bucket;
use crate::fault::{code, fault, incomplete};
use crate::object::{bytes, get};

/// What stays as it is in the name of a copy's source, beside letters and digits.
const IN_A_SOURCE: &[u8] = b"/-._~";

fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What a part that was not made means.
fn outcome<E>(cause: SdkError<E>, operation: &'static str) -> Result<Copied, PortFault>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match code(&cause) {
        Some("NoSuchUpload") => Ok(Copied::Ended),
        Some("NoSuchKey" | "PreconditionFailed") => Ok(Copied::Changed),
        _ => Err(fault(operation)(cause)),
    }
}

#[async_trait]
impl ChunkObjects for Bucket {
    async fn list(&self, prefix: &str) -> Result<Vec<ChunkObject>, PortFault> {
        const OPERATION: &str = "ListObjectsV2";
        let (mut chunks, mut next) = (Vec::new(), None);
        loop {
            let request = self.client.list_objects_v2().bucket(&self.name).prefix(prefix);
            let page = request.set_continuation_token(next).send().await.map_err(fault(OPERATION))?;
            for object in page.contents() {
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                let (Some(key), Some(size), Some(etag)) = (object.key(), size, object.e_tag()) else {
                    return Err(incomplete(OPERATION, "key, size or ETag of an object"));
                };
                chunks.push(ChunkObject { key: key.to_owned(), size, etag: etag.to_owned() });
            }
            match page.next_continuation_token {
                Some(token) if page.is_truncated == Some(true) => next = Some(token),
                _ => return Ok(chunks),
            }
        }
    }

    async fn copy_part(
        &self,
        (key, multipart_id, number): (&str, &str, u32),
        chunk: &ChunkObject,
        range: Range<u64>,
    ) -> Result<Copied, PortFault> {
        let source = format!("{}/{}", self.name, percent_encoded(&chunk.key, IN_A_SOURCE));
        let request = self.client.upload_part_copy().bucket(&self.name).key(key).upload_id(multipart_id);
        let request = request.part_number(part_number(number)).copy_source(source).copy_source_if_match(&chunk.etag);
        // S3 takes a range of large sources only.
        let request = if range == (0..chunk.size) { request } else { request.copy_source_range(bytes(&range)) };
        match request.send().await {
            Ok(_) => Ok(Copied::Done),
            Err(cause) => outcome(cause, "UploadPartCopy"),
        }
    }

    async fn read_chunk(&self, chunk: &ChunkObject, range: Range<u64>) -> Result<Option<Vec<u8>>, PortFault> {
        let request = self.client.get_object().bucket(&self.name).key(&chunk.key).if_match(&chunk.etag);
        get(request.range(bytes(&range))).await
    }

    async fn put_part(
        &self,
        (key, multipart_id, number): (&str, &str, u32),
        bytes: Vec<u8>,
    ) -> Result<Copied, PortFault> {
        let request = self.client.upload_part().bucket(&self.name).key(key).upload_id(multipart_id);
        let request = request.part_number(part_number(number)).checksum_crc64_nvme(Crc64::of(&bytes).to_string());
        match request.body(bytes.into()).send().await {
            Ok(_) => Ok(Copied::Done),
            Err(cause) => outcome(cause, "UploadPart"),
        }
    }
}
