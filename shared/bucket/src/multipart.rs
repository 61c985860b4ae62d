//! Multipart uploads.

use async_trait::async_trait;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use domain::fault::PortFault;
use domain::upload::checksum::Crc64;
use domain::upload::object::{Completed, Completion, Multipart, OpenMultipart, OpenMultiparts, Part};
use time::OffsetDateTime;

use crate::Bucket;
use crate::fault::{code, fault, incomplete};

/// Between the key and the id in the place where a page begins; no key of ours holds it.
const SEPARATOR: char = '\n';

/// A checksum as S3 wrote it, if it did.
pub(crate) fn crc(text: Option<&str>) -> Option<Crc64> {
    text.and_then(|text| Crc64::parse(text).ok())
}

#[async_trait]
impl Multipart for Bucket {
    async fn begin(&self, key: &str, mime_type: &str) -> Result<String, PortFault> {
        const OPERATION: &str = "CreateMultipartUpload";
        let request = self.client.create_multipart_upload().bucket(&self.name).key(key).content_type(mime_type);
        let request = request.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).checksum_type(ChecksumType::FullObject);
        let answer = request.send().await.map_err(fault(OPERATION))?;
        answer.upload_id.ok_or_else(|| incomplete(OPERATION, "upload id"))
    }

    async fn parts(&self, key: &str, multipart_id: &str) -> Result<Option<Vec<Part>>, PortFault> {
        const OPERATION: &str = "ListParts";
        let (mut parts, mut after) = (Vec::new(), None);
        loop {
            let request = self.client.list_parts().bucket(&self.name).key(key).upload_id(multipart_id);
            let page = match request.set_part_number_marker(after).send().await {
                Ok(page) => page,
                Err(cause) if code(&cause) == Some("NoSuchUpload") => return Ok(None),
                Err(cause) => return Err(fault(OPERATION)(cause)),
            };
            for part in page.parts() {
                let number = part.part_number().and_then(|number| u32::try_from(number).ok());
                let size = part.size().and_then(|size| u64::try_from(size).ok());
                let (Some(number), Some(size), Some(etag)) = (number, size, part.e_tag()) else {
                    return Err(incomplete(OPERATION, "number, size or ETag of a part"));
                };
                let crc64nvme = crc(part.checksum_crc64_nvme());
                parts.push(Part { number, size, etag: etag.to_owned(), crc64nvme });
            }
            if page.is_truncated() != Some(true) {
                return Ok(Some(parts));
            }
            after = page.next_part_number_marker;
        }
    }

    async fn complete(&self, completion: Completion<'_>) -> Result<Completed, PortFault> {
        let parts = completion.parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .e_tag(&part.etag)
                .set_checksum_crc64_nvme(part.crc64nvme.map(|crc| crc.to_string()))
                .build()
        });
        let answer = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(completion.key)
            .upload_id(completion.multipart_id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build())
            .mpu_object_size(i64::try_from(completion.size).unwrap_or(i64::MAX))
            .checksum_type(ChecksumType::FullObject)
            .set_checksum_crc64_nvme(completion.crc64nvme.map(|crc| crc.to_string()))
            .if_none_match("*")
            .send()
            .await;
        let cause = match answer {
            Ok(answer) => return Ok(Completed::Done(crc(answer.checksum_crc64_nvme()))),
            Err(cause) => cause,
        };
        match code(&cause) {
            Some("NoSuchUpload" | "PreconditionFailed") => Ok(Completed::Ended),
            Some(code @ ("BadDigest" | "EntityTooSmall" | "InvalidPart" | "InvalidPartOrder" | "InvalidRequest")) => {
                let message = cause.as_service_error().and_then(|error| error.message()).unwrap_or_default();
                Ok(Completed::Refused { code: code.to_owned(), message: message.to_owned() })
            }
            _ => Err(fault("CompleteMultipartUpload")(cause)),
        }
    }

    async fn abort(&self, key: &str, multipart_id: &str) -> Result<(), PortFault> {
        let request = self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(multipart_id);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(cause) if code(&cause) == Some("NoSuchUpload") => Ok(()),
            Err(cause) => Err(fault("AbortMultipartUpload")(cause)),
        }
    }
}

#[async_trait]
impl OpenMultiparts for Bucket {
    async fn open(
        &self,
        prefix: &str,
        after: Option<String>,
    ) -> Result<(Vec<OpenMultipart>, Option<String>), PortFault> {
        const OPERATION: &str = "ListMultipartUploads";
        let (key, id) = after.as_deref().and_then(|after| after.split_once(SEPARATOR)).unzip();
        let request = self.client.list_multipart_uploads().bucket(&self.name).prefix(prefix);
        let request = request.set_key_marker(key.map(str::to_owned)).set_upload_id_marker(id.map(str::to_owned));
        let page = request.send().await.map_err(fault(OPERATION))?;
        let mut found = Vec::new();
        for upload in page.uploads() {
            let initiated = upload.initiated().map(|at| OffsetDateTime::from_unix_timestamp(at.secs()));
            let (Some(key), Some(id), Some(Ok(initiated_at))) = (upload.key(), upload.upload_id(), initiated) else {
                return Err(incomplete(OPERATION, "key, id or time of an upload"));
            };
            found.push(OpenMultipart { key: key.to_owned(), multipart_id: id.to_owned(), initiated_at });
        }
        let next = page.next_key_marker().zip(page.next_upload_id_marker());
        let next = next.filter(|_| page.is_truncated() == Some(true)).map(|(key, id)| format!("{key}{SEPARATOR}{id}"));
        Ok((found, next))
    }
}
