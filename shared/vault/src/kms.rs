//! A key service on AWS KMS.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use domain::fault::PortFault;
use domain::seal::SealFault;
use secrecy::zeroize::Zeroizing;

use crate::envelope::{DataKey, KeyService};

/// Data keys from one KMS key; the context appears in CloudTrail and can be conditioned on in policies.
#[derive(Debug)]
pub struct Kms {
    client: Client,
    key_id: String,
}

impl Kms {
    #[must_use]
    pub fn new(client: Client, key_id: String) -> Self {
        Self { client, key_id }
    }
}

fn owned(context: &BTreeMap<&str, &str>) -> HashMap<String, String> {
    context.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[async_trait]
impl KeyService for Kms {
    /// Its id, whether the setting names that or the ARN, of whichever region; an alias stands for itself.
    fn id(&self) -> &str {
        self.key_id.rsplit_once("key/").map_or(self.key_id.as_str(), |(_, id)| id)
    }

    async fn generate(&self, context: &BTreeMap<&str, &str>) -> Result<DataKey, PortFault> {
        const OPERATION: &str = "GenerateDataKey";
        let made = self
            .client
            .generate_data_key()
            .key_id(&self.key_id)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(owned(context)))
            .send()
            .await
            .map_err(|cause| PortFault::Unavailable { operation: OPERATION, cause: cause.into() })?;
        match (made.plaintext, made.ciphertext_blob) {
            (Some(plain), Some(wrapped)) => {
                Ok(DataKey { plain: Zeroizing::new(plain.into_inner()), wrapped: wrapped.into_inner() })
            }
            _ => Err(PortFault::Broken { operation: OPERATION, detail: "the answer holds no key".to_owned() }),
        }
    }

    async fn unwrap(&self, context: &BTreeMap<&str, &str>, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        let request = self
            .client
            .decrypt()
            .key_id(&self.key_id)
            .ciphertext_blob(Blob::new(wrapped))
            .set_encryption_context(Some(owned(context)));
        let opened = request.send().await.map_err(|cause| match &cause {
            SdkError::ServiceError(error)
                if matches!(error.err().code(), Some("InvalidCiphertextException" | "IncorrectKeyException")) =>
            {
                SealFault::Damaged
            }
            _ => SealFault::KeyService(PortFault::Unavailable { operation: "Decrypt", cause: cause.into() }),
        })?;
        opened.plaintext.map(|plain| Zeroizing::new(plain.into_inner())).ok_or(SealFault::Damaged)
    }
}
