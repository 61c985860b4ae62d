//! Channels that lead to an address of HTTP: each message one POST, signed as Standard Webhooks has it, so that receivers can verify it with
//! the libraries they have.

mod signature;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use domain::channel::{ConnectorKind, Outlet, OutletFault, Parcel, Receipt};
use domain::clock::Clock;
use domain::seal::{SealContext, Sealer};
use reqwest::Client;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

pub use signature::{SECRET_PREFIX, Secret, SecretFault};

/// A receiver that takes longer counts as down.
const PATIENCE: Duration = Duration::from_secs(10);

/// HTTP, as a kind of connector.
pub struct WebhookOutlet {
    http: OnceLock<Client>,
    sealer: Arc<dyn Sealer>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for WebhookOutlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookOutlet").finish_non_exhaustive()
    }
}

/// A receiver that answers with a status that says nothing good.
#[derive(Debug, thiserror::Error)]
#[error("the receiver answers {0}")]
struct Status(u16);

impl WebhookOutlet {
    pub fn new(sealer: Arc<dyn Sealer>, clock: Arc<dyn Clock>) -> Self {
        Self { http: OnceLock::new(), sealer, clock }
    }

    /// Built with the first message: it loads the trust store, which where nobody has a webhook is never needed.
    fn http(&self) -> Result<&Client, OutletFault> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        // A redirect would take the message somewhere that nobody named.
        let http = Client::builder().timeout(PATIENCE).redirect(Policy::none()).user_agent("skylark").build();
        let http = http.map_err(|cause| OutletFault::Down(cause.into()))?;
        Ok(self.http.get_or_init(|| http))
    }
}

#[async_trait]
impl Outlet for WebhookOutlet {
    async fn send(&self, parcel: Parcel<'_>) -> Result<Receipt, OutletFault> {
        let connector = parcel.connector;
        let ConnectorKind::Webhook { url, secret } = &connector.connects else {
            return Err(OutletFault::Refused("the connector does not lead to an address of HTTP".to_owned()));
        };
        let place = SealContext::Connector { tenant_id: &connector.tenant_id, channel: &connector.name };
        let secret = self.sealer.open(place, secret).await.map_err(|fault| OutletFault::Down(fault.into()))?;
        let (now, id) = (self.clock.now(), parcel.message.message_id.as_str());
        let body = body(&parcel).to_string();
        let signature = Secret::of(&secret).sign(id, now.unix_timestamp(), body.as_bytes());
        let request =
            self.http()?.post(url.clone()).header("content-type", "application/json").header("webhook-id", id);
        let request = request.header("webhook-timestamp", now.unix_timestamp()).header("webhook-signature", signature);
        let answer = request.body(body).send().await.map_err(|cause| OutletFault::Down(cause.without_url().into()))?;
        match answer.status().as_u16() {
            200..=299 => Ok(Receipt::default()),
            status @ (400 | 413 | 415 | 422) => Err(OutletFault::Refused(format!("it answers {status}"))),
            status => Err(OutletFault::Down(Status(status).into())),
        }
    }
}

fn body(parcel: &Parcel<'_>) -> Value {
    let message = parcel.message;
    let created_at = message.created_at.format(&Rfc3339).ok();
    let file = parcel.file.map(|file| {
        json!({
            "filename": file.filename, "file_size": file.file_size, "mime_type": file.mime_type,
            "checksum_crc64nvme": file.checksum_crc64nvme,
        })
    });
    json!({
        "type": "message.created",
        "timestamp": created_at,
        "data": {
            "channel": parcel.connector.name, "address": parcel.address, "conversation_id": message.conversation_id,
            "message_id": message.message_id, "seq": message.seq, "from": message.from, "payload": message.payload,
            "file": file, "priority": message.priority, "created_at": created_at,
        },
    })
}
