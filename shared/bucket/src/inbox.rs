//! Events that are too large for a message.

use async_trait::async_trait;
use domain::fault::PortFault;
use domain::lake::intake::IntakeInbox;

use crate::Bucket;
use crate::fault::fault;

#[async_trait]
impl IntakeInbox for Bucket {
    async fn keep(&self, key: &str, message: String) -> Result<(), PortFault> {
        let request = self.client.put_object().bucket(&self.name).key(key).content_type("application/json");
        request.body(message.into_bytes().into()).send().await.map_err(fault("PutObject intake"))?;
        Ok(())
    }
}
