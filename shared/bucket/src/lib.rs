//! S3 behind the domain's ports.

mod chunk;
mod fault;
mod inbox;
mod multipart;
mod object;
mod url;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation, ResponseChecksumValidation};

/// A bucket, as every port that it implements. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    name: String,
}

impl Bucket {
    /// A bucket of this name, reached as `aws` says: `Bucket::new((&aws).into(), name)`.
    #[must_use]
    pub fn new(aws: Builder, name: impl Into<String>) -> Self {
        // By default the SDK adds the checksum of the body, which is empty when a URL is signed for somebody else to send one.
        let config = aws
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Self { client: Client::from_conf(config), name: name.into() }
    }
}
