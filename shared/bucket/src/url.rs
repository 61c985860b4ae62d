//! Signed URLs.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use domain::fault::PortFault;
use domain::upload::object::{SignedPart, SignedUrl, URL_LIFE, UrlSigner};

use crate::Bucket;
use crate::fault::{broken, fault};

fn life() -> Result<PresigningConfig, PortFault> {
    PresigningConfig::expires_in(Duration::from_secs(URL_LIFE.whole_seconds().unsigned_abs()))
        .map_err(|cause| broken("signing a URL", &cause))
}

/// What others must send. In a function the SDK adds headers of its own, such as the trace's, which it does not sign.
fn signed(request: &PresignedRequest) -> SignedUrl {
    let url = request.uri().to_owned();
    let names = signed_headers(&url);
    let headers = request.headers().filter(|(name, _)| *name != "host" && names.contains(name));
    let headers: BTreeMap<_, _> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    SignedUrl { url, headers }
}

#[async_trait]
impl UrlSigner for Bucket {
    async fn part(&self, part: SignedPart<'_>) -> Result<SignedUrl, PortFault> {
        const OPERATION: &str = "signing a part";
        let request = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(part.key)
            .upload_id(part.multipart_id)
            .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
            .content_length(i64::try_from(part.length).unwrap_or(i64::MAX))
            .set_checksum_crc64_nvme(part.crc64nvme.map(|crc| crc.to_string()))
            .presigned(life()?)
            .await
            .map_err(fault(OPERATION))?;
        let signed = signed(&request);
        // A header that is not signed is one that S3 would ignore: better no URL than one that takes anything.
        let needed = part.crc64nvme.map(|_| "x-amz-checksum-crc64nvme").into_iter().chain(["content-length"]);
        for name in needed {
            if !signed.headers.contains_key(name) {
                return Err(PortFault::Broken { operation: OPERATION, detail: format!("`{name}` is not signed") });
            }
        }
        Ok(signed)
    }

    async fn download(&self, key: &str, content_type: &str, content_disposition: &str) -> Result<SignedUrl, PortFault> {
        let request = self.client.get_object().bucket(&self.name).key(key);
        let request = request.response_content_type(content_type).response_content_disposition(content_disposition);
        Ok(signed(&request.presigned(life()?).await.map_err(fault("signing a download"))?))
    }
}

/// The names that a URL's signature covers.
fn signed_headers(url: &str) -> Vec<&str> {
    let fields = url.split(['?', '&']);
    let names = fields.filter_map(|field| field.strip_prefix("X-Amz-SignedHeaders=")).next().unwrap_or_default();
    names.split("%3B").collect()
}
