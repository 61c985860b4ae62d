//! A signing service on AWS KMS: the private keys never leave it.

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{MessageType, SigningAlgorithmSpec};
use domain::fault::PortFault;

use crate::access::SigningService;

/// RSA keys in KMS; the first signs.
#[derive(Debug)]
pub struct KmsSigner {
    client: Client,
    key_ids: Vec<String>,
}

impl KmsSigner {
    #[must_use]
    pub fn new(client: Client, key_ids: Vec<String>) -> Self {
        Self { client, key_ids }
    }
}

fn broken(operation: &'static str, detail: &str) -> PortFault {
    PortFault::Broken { operation, detail: detail.to_owned() }
}

#[async_trait]
impl SigningService for KmsSigner {
    async fn public_keys(&self) -> Result<Vec<Vec<u8>>, PortFault> {
        const OPERATION: &str = "GetPublicKey";
        let mut keys = Vec::new();
        for key_id in &self.key_ids {
            let answer = self.client.get_public_key().key_id(key_id).send().await;
            let answer =
                answer.map_err(|cause| PortFault::Unavailable { operation: OPERATION, cause: cause.into() })?;
            let key = answer.public_key.ok_or_else(|| broken(OPERATION, "the answer holds no key"))?;
            keys.push(key.into_inner());
        }
        Ok(keys)
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PortFault> {
        const OPERATION: &str = "Sign";
        let key_id = self.key_ids.first().ok_or_else(|| broken(OPERATION, "there is no key"))?;
        let request = self
            .client
            .sign()
            .key_id(key_id)
            .message_type(MessageType::Digest)
            .message(Blob::new(digest(&SHA256, message).as_ref()))
            .signing_algorithm(SigningAlgorithmSpec::RsassaPkcs1V15Sha256);
        let answer = request.send().await;
        let answer = answer.map_err(|cause| PortFault::Unavailable { operation: OPERATION, cause: cause.into() })?;
        let signature = answer.signature.ok_or_else(|| broken(OPERATION, "the answer holds no signature"))?;
        Ok(signature.into_inner())
    }
}
