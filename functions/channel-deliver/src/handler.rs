//! Bell -> whatever the channel has not got.

use std::sync::Arc;

use async_trait::async_trait;
use domain::app::AppDirectory;
use domain::app::AppStore;
use domain::channel::{
    ChannelBell, ChannelMarks, ChannelQueue, ConnectorStore, Deliveries, DeliveryFault, Links, Outlet, OutletFault,
    Refused,
};
use domain::chat::{Memberships, Message, MessageStore};
use domain::clock::Clock;
use domain::fault::{Fault, PortFault, Refusal, Remedy};
use domain::id::ChannelName;
use domain::push::PushQueue;
use domain::seal::Sealer;
use domain::upload::file::FileStore;
use domain::work::ParkedQueue;
use lambda_kit::clock::SystemClock;
use lambda_kit::parking;
use lark::outlet::LarkOutlet;
use lark::vendor::LarkVendor;
use serde_json::json;

/// Answers one ring.
pub(crate) async fn deliver(deliveries: &Deliveries, bell: String) -> Result<(), Undelivered> {
    let bell: ChannelBell = serde_json::from_str(&bell).map_err(Undelivered::NotABell)?;
    Ok(deliveries.drain(&bell).await?)
}

/// Lark as an outlet, with the apps of its table.
pub(crate) fn lark<S: AppStore + 'static>(
    vendor: Arc<LarkVendor>,
    apps: Arc<S>,
    sealer: Arc<dyn Sealer>,
    clock: Arc<dyn Clock>,
) -> LarkOutlet {
    LarkOutlet::new(vendor, Arc::new(AppDirectory::new(apps, sealer)), clock)
}

/// The use case over its table; the outlets are Lark's and HTTP's.
pub(crate) fn deliveries<T>(
    chat: Arc<T>,
    messages: Arc<dyn MessageStore>,
    files: Arc<dyn FileStore>,
    [lark, webhook]: [Arc<dyn Outlet>; 2],
    parked: Arc<dyn ParkedQueue>,
    bells: Arc<dyn ChannelQueue>,
    push: Arc<dyn PushQueue>,
) -> Deliveries
where
    T: Memberships + ConnectorStore + ChannelMarks + Links + 'static,
{
    Deliveries {
        conversations: chat.clone(),
        messages,
        files,
        connectors: chat.clone(),
        marks: chat.clone(),
        links: chat,
        lark,
        webhook,
        refused: Arc::new(Parking(parked)),
        bells,
        push,
        clock: Arc::new(SystemClock),
    }
}

/// What a receiver refused is kept beside other evidence.
struct Parking(Arc<dyn ParkedQueue>);

#[async_trait]
impl Refused for Parking {
    async fn keep(&self, message: &Message, channel: &ChannelName, fault: &OutletFault) -> Result<(), PortFault> {
        let payload = json!({ "channel": channel, "message": message });
        parking::park(fault, payload, self.0.as_ref()).await
    }
}

/// Why a bell was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    #[error("the message is not a bell for a channel")]
    NotABell(#[source] serde_json::Error),
    #[error(transparent)]
    Delivery(#[from] DeliveryFault),
}

impl Fault for Undelivered {
    fn remedy(&self) -> Remedy {
        match self {
            Self::NotABell(_) => Remedy::Reject(Refusal::Invalid),
            Self::Delivery(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotABell(_) => "invalid_message",
            Self::Delivery(fault) => fault.code(),
        }
    }
}
