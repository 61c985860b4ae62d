//! Channels that lead into Lark: messages of conversations, in an app's name, to chats and people.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::app::AppDirectory;
use domain::authorize::VendorFault;
use domain::channel::{ConnectorKind, Outlet, OutletFault, Parcel, Receipt};
use domain::chat::Payload;
use domain::clock::Clock;
use domain::id::MessageId;

use crate::client::{OutgoingMessage, Receiver};
use crate::vendor::LarkVendor;

/// How long one message may take, with its token and the vendor's retries.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lark, as a kind of connector.
pub struct LarkOutlet {
    vendor: Arc<LarkVendor>,
    apps: Arc<AppDirectory>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for LarkOutlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LarkOutlet").finish_non_exhaustive()
    }
}

impl LarkOutlet {
    pub fn new(vendor: Arc<LarkVendor>, apps: Arc<AppDirectory>, clock: Arc<dyn Clock>) -> Self {
        Self { vendor, apps, clock }
    }
}

#[async_trait]
impl Outlet for LarkOutlet {
    async fn send(&self, parcel: Parcel<'_>) -> Result<Receipt, OutletFault> {
        let ConnectorKind::Lark { app_id, tenant_key, .. } = &parcel.connector.connects else {
            return Err(OutletFault::Refused("the connector does not lead to Lark".to_owned()));
        };
        // Whoever manages the apps can mend it; until then messages wait.
        let app = self.apps.enabled(app_id, self.clock.now()).await.map_err(|fault| OutletFault::Down(fault.into()))?;
        let client = &self.vendor.client(&app).map_err(|fault| OutletFault::Down(fault.into()))?;
        let (message, receiver) = (&OutgoingMessage::text(&text(&parcel)), receiver(parcel.address));
        // The vendor knows the id for an hour.
        let key = parcel.message.message_id.as_str();
        let sent = self.vendor.as_tenant(&app, tenant_key.as_deref(), PATIENCE, async |token, deadline| {
            client.send_message(&token, receiver, message, key, deadline).await
        });
        let sent = sent.await.map_err(|error| match VendorFault::from(error) {
            VendorFault::Refused { code, message } => OutletFault::Refused(format!("code {code}: {message}")),
            fault => OutletFault::Down(fault.into()),
        })?;
        let outside = MessageId::parse(sent.message_id).ok().map(|message_id| (app_id.clone(), message_id));
        Ok(Receipt { outside })
    }
}

/// Whom an address means.
fn receiver(address: &str) -> Receiver<'_> {
    match address.split_once('_') {
        Some(("oc", _)) => Receiver::ChatId(address),
        Some(("ou", _)) => Receiver::OpenId(address),
        Some(("on", _)) => Receiver::UnionId(address),
        _ if address.contains('@') => Receiver::Email(address),
        _ => Receiver::UserId(address),
    }
}

/// The bot says it, so that who wrote it has to be said too. Of a file it says what a list would show: its bytes are for members.
fn text(parcel: &Parcel<'_>) -> String {
    let from = &parcel.message.from;
    match (&parcel.message.payload, parcel.file) {
        (Payload::Text { text }, _) => format!("{from}: {text}"),
        (Payload::File { .. }, Some(file)) => format!("{from}: 📎 {} ({})", file.filename, size(file.file_size)),
        (Payload::File { file_id }, None) => format!("{from}: 📎 {file_id}"),
    }
}

/// In decimal units, as the vendor's client shows sizes.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_said_in_the_unit_that_fits() {
        for (bytes, said) in
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 KB"), (12_345_678, "12.3 MB"), (2_147_483_648, "2.1 GB")]
        {
            assert_eq!(size(bytes), said);
        }
    }

    #[test]
    fn an_address_says_what_it_is() {
        assert_eq!(receiver("oc_1"), Receiver::ChatId("oc_1"));
        assert_eq!(receiver("ou_ann"), Receiver::OpenId("ou_ann"));
        assert_eq!(receiver("on_ann"), Receiver::UnionId("on_ann"));
        assert_eq!(receiver("ann_b@example.com"), Receiver::Email("ann_b@example.com"));
        assert_eq!(receiver("4d7a3c6g"), Receiver::UserId("4d7a3c6g"));
    }
}
