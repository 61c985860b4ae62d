//! Whole objects.

use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::types::{ChecksumMode, Delete, ObjectIdentifier};
use domain::fault::PortFault;
use domain::upload::object::{Facts, Objects};

use crate::Bucket;
use crate::fault::{broken, code, fault, incomplete};
use crate::multipart::crc;

/// One request deletes at most so many.
const DELETED_AT_ONCE: usize = 1_000;

/// The bytes of a range as a header.
pub(crate) fn bytes(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

/// What a GET brings; nothing if there is no object, or not the one that is meant.
pub(crate) async fn get(request: GetObjectFluentBuilder) -> Result<Option<Vec<u8>>, PortFault> {
    const OPERATION: &str = "GetObject";
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(cause) => {
            return match code(&cause) {
                Some("NoSuchKey" | "PreconditionFailed") => Ok(None),
                // The object ends before the range begins.
                Some("InvalidRange") => Ok(Some(Vec::new())),
                _ => Err(fault(OPERATION)(cause)),
            };
        }
    };
    let body = answer.body.collect().await;
    let body = body.map_err(|cause| PortFault::Unavailable { operation: OPERATION, cause: Box::new(cause) })?;
    Ok(Some(body.to_vec()))
}

#[async_trait]
impl Objects for Bucket {
    async fn facts(&self, key: &str) -> Result<Option<Facts>, PortFault> {
        const OPERATION: &str = "HeadObject";
        let request = self.client.head_object().bucket(&self.name).key(key).checksum_mode(ChecksumMode::Enabled);
        let head = match request.send().await {
            Ok(head) => head,
            Err(cause) if matches!(code(&cause), Some("NotFound" | "NoSuchKey")) => return Ok(None),
            Err(cause) => return Err(fault(OPERATION)(cause)),
        };
        let size = head.content_length().and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| incomplete(OPERATION, "length"))?;
        Ok(Some(Facts { size, crc64nvme: crc(head.checksum_crc64_nvme()) }))
    }

    async fn read(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, PortFault> {
        get(self.client.get_object().bucket(&self.name).key(key).range(bytes(&range))).await
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), PortFault> {
        let request = self.client.put_object().bucket(&self.name).key(key).body(bytes.into());
        request.send().await.map_err(fault("PutObject"))?;
        Ok(())
    }

    async fn delete(&self, keys: &[String]) -> Result<(), PortFault> {
        const OPERATION: &str = "DeleteObjects";
        if let [key] = keys {
            let request = self.client.delete_object().bucket(&self.name).key(key);
            request.send().await.map_err(fault("DeleteObject"))?;
            return Ok(());
        }
        for keys in keys.chunks(DELETED_AT_ONCE) {
            let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build());
            let objects: Result<Vec<_>, _> = objects.collect();
            let objects = objects.map_err(|cause| broken(OPERATION, &cause))?;
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build();
            let delete = delete.map_err(|cause| broken(OPERATION, &cause))?;
            let answer = self.client.delete_objects().bucket(&self.name).delete(delete).send().await;
            let answer = answer.map_err(fault(OPERATION))?;
            if let Some(failed) = answer.errors().first() {
                let (key, code) = (failed.key().unwrap_or_default(), failed.code().unwrap_or_default());
                let cause = format!("{} keys were not deleted, the first `{key}`: {code}", answer.errors().len());
                return Err(PortFault::Unavailable { operation: OPERATION, cause: cause.into() });
            }
        }
        Ok(())
    }
}
