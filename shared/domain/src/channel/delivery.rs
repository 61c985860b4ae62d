//! Bell -> the messages that a channel has not got, in order, each once as far as its receiver can tell.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use time::{Duration, OffsetDateTime};

use super::{
    Admission, Breaker, ChannelBell, ChannelMarks, ChannelQueue, Connector, ConnectorKind, ConnectorStore, Link, Links,
    Outside, TOLD_OF,
};
use crate::chat::{Channel, Conversation, Memberships, Message, MessageStore, Payload};
use crate::clock::Clock;
use crate::fault::{Fault, PortFault, Remedy, chain};
use crate::id::{AppId, ChannelName, MessageId, UserId};
use crate::push::{Audience, Frame, PushJob, PushQueue};
use crate::upload::file::{FileStore, StoredFile};

/// How many messages are read at once.
const BATCH: u32 = 50;

/// How long one worker goes on with one bell before it rings for what is left.
const PATIENCE: Duration = Duration::seconds(20);

/// One message on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Parcel<'a> {
    pub connector: &'a Connector,
    /// Whom to reach, in the connector's own words.
    pub address: &'a str,
    pub message: &'a Message,
    /// The file that the message names, if it is still there.
    pub file: Option<&'a StoredFile>,
}

/// What the receiver calls it, where it is asked or told about it later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    pub outside: Option<(AppId, MessageId)>,
}

/// A kind of connector at work.
#[async_trait]
pub trait Outlet: Send + Sync {
    /// Durable at the receiver when it returns. The message's id goes along: called again, a receiver that remembers it takes it once.
    async fn send(&self, parcel: Parcel<'_>) -> Result<Receipt, OutletFault>;
}

/// Why a message did not leave.
#[derive(Debug, thiserror::Error)]
pub enum OutletFault {
    /// Nobody answers, or nobody lets us in: the next message would fare no better.
    #[error("the connector does not work")]
    Down(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The receiver works, and will never take this one.
    #[error("the receiver refused the message: {0}")]
    Refused(String),
}

impl Fault for OutletFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Down(_) => Remedy::Retry,
            Self::Refused(_) => Remedy::Reject(crate::fault::Refusal::Unprocessable),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Down(_) => "connector_down",
            Self::Refused(_) => "message_refused",
        }
    }
}

/// Where what was refused is kept with its reason.
#[async_trait]
pub trait Refused: Send + Sync {
    /// Durable when it returns.
    async fn keep(&self, message: &Message, channel: &ChannelName, fault: &OutletFault) -> Result<(), PortFault>;
}

/// The use case over its ports.
pub struct Deliveries {
    pub conversations: Arc<dyn Memberships>,
    pub messages: Arc<dyn MessageStore>,
    pub files: Arc<dyn FileStore>,
    pub connectors: Arc<dyn ConnectorStore>,
    pub marks: Arc<dyn ChannelMarks>,
    pub links: Arc<dyn Links>,
    pub lark: Arc<dyn Outlet>,
    pub webhook: Arc<dyn Outlet>,
    pub refused: Arc<dyn Refused>,
    pub bells: Arc<dyn ChannelQueue>,
    pub push: Arc<dyn PushQueue>,
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").finish_non_exhaustive()
    }
}

/// One channel of one conversation, being drained.
struct Drain<'a> {
    conversation: &'a Conversation,
    channel: &'a Channel,
    connector: Connector,
    breaker: Breaker,
    /// Up to where the mark is, and up to where it may be.
    noted: u64,
    seen: u64,
    /// The last message that left, and who wrote those that did.
    delivered: u64,
    senders: BTreeSet<UserId>,
}

impl Deliveries {
    /// Sends what the channel has not got. A bell for what is sent, or never was, is answered by doing nothing.
    pub async fn drain(&self, bell: &ChannelBell) -> Result<(), DeliveryFault> {
        let Some(conversation) = self.conversations.conversation(&bell.conversation_id).await? else { return Ok(()) };
        let channel = conversation.channels.iter().find(|channel| channel.name == bell.channel);
        let Some(channel) = channel else { return Ok(()) };
        let view = self.connectors.view(&conversation.tenant_id, &channel.name).await?;
        let view = view.ok_or_else(|| DeliveryFault::NoConnector(channel.name.clone()))?;
        let mark = self.marks.mark(&conversation.conversation_id, &channel.name).await?;
        if mark.is_none() {
            self.link(&conversation, channel, &view.connector).await?;
        }
        let noted = mark.unwrap_or_default().sent;
        let mut drain = Drain {
            conversation: &conversation,
            channel,
            connector: view.connector,
            breaker: view.breaker,
            noted,
            seen: noted,
            delivered: 0,
            senders: BTreeSet::new(),
        };
        let sent = self.send_all(&mut drain, bell).await;
        // Whatever stopped it: what has left is told, and what it went past need not be read again.
        if drain.seen > drain.noted {
            self.advance(&mut drain).await?;
        }
        self.tell_delivered(&drain).await;
        sent
    }

    /// What is said in the place that the channel leads to is from now on said in the conversation.
    async fn link(
        &self,
        conversation: &Conversation,
        channel: &Channel,
        connector: &Connector,
    ) -> Result<(), DeliveryFault> {
        let ConnectorKind::Lark { app_id, .. } = &connector.connects else { return Ok(()) };
        let link = Link {
            app_id: app_id.clone(),
            address: channel.address.clone(),
            conversation_id: conversation.conversation_id.clone(),
            channel: channel.name.clone(),
        };
        if !self.links.link(&link).await? {
            tracing::warn!(
                conversation.id = %link.conversation_id, channel.name = %link.channel,
                "What is said there goes to another conversation, which was linked before"
            );
        }
        Ok(())
    }

    async fn send_all(&self, drain: &mut Drain<'_>, bell: &ChannelBell) -> Result<(), DeliveryFault> {
        let until = self.clock.now() + PATIENCE;
        loop {
            let batch = self.messages.range(&drain.conversation.conversation_id, drain.seen, BATCH).await?;
            if batch.is_empty() {
                return Ok(());
            }
            for message in &batch {
                if message.channels.contains(&drain.channel.name) {
                    if self.clock.now() >= until {
                        return Ok(self.bells.ring_on(bell, &drain.seen.to_string()).await?);
                    }
                    self.send(drain, message).await?;
                }
                drain.seen = message.seq;
                if drain.delivered == message.seq {
                    self.advance(drain).await?;
                }
            }
        }
    }

    async fn send(&self, drain: &mut Drain<'_>, message: &Message) -> Result<(), DeliveryFault> {
        self.admit(drain).await?;
        let outlet = match &drain.connector.connects {
            ConnectorKind::Lark { .. } => &self.lark,
            ConnectorKind::Webhook { .. } => &self.webhook,
        };
        let file = match &message.payload {
            Payload::File { file_id } => self.files.file(file_id).await?,
            Payload::Text { .. } => None,
        };
        let file = file.as_ref().filter(|file| file.conversation_id == message.conversation_id);
        let parcel = Parcel { connector: &drain.connector, address: &drain.channel.address, message, file };
        match outlet.send(parcel).await {
            Ok(receipt) => {
                if let Some((app_id, message_id)) = receipt.outside {
                    let (conversation_id, channel) = (message.conversation_id.clone(), drain.channel.name.clone());
                    let outside = Outside { app_id, message_id, conversation_id, channel, seq: message.seq };
                    self.marks.remember(&outside, self.clock.now() + TOLD_OF).await?;
                }
                drain.delivered = message.seq;
                drain.senders.insert(message.from.clone());
            }
            Err(refusal @ OutletFault::Refused(_)) => {
                self.refused.keep(message, &drain.channel.name, &refusal).await?;
                self.messages.refuse(&message.conversation_id, message.seq, &drain.channel.name).await?;
                self.tell(drain, [message.from.clone()].into(), "failed", message.seq).await;
            }
            Err(fault) => {
                let failed = drain.breaker.failed(self.clock.now());
                self.note(drain, failed).await;
                return Err(DeliveryFault::Outlet(fault));
            }
        }
        if let Some(mended) = drain.breaker.mended() {
            self.note(drain, mended).await;
        }
        Ok(())
    }

    /// Leaves a connector alone that is down; of those who may try it again, one does.
    async fn admit(&self, drain: &mut Drain<'_>) -> Result<(), DeliveryFault> {
        let now = self.clock.now();
        match drain.breaker.admission(now) {
            Admission::Free => Ok(()),
            Admission::Closed { until } => Err(DeliveryFault::Waiting { until }),
            Admission::ToTry => {
                let probed = drain.breaker.probed(now);
                match self.connectors.note(&drain.connector, &probed).await {
                    Ok(()) => {
                        drain.breaker = probed;
                        Ok(())
                    }
                    Err(PortFault::Conflict { .. }) => Err(DeliveryFault::Waiting { until: now }),
                    Err(fault) => Err(fault.into()),
                }
            }
        }
    }

    /// How a connector does is an estimate: what somebody else noted at the same time is as good.
    async fn note(&self, drain: &mut Drain<'_>, breaker: Breaker) {
        match self.connectors.note(&drain.connector, &breaker).await {
            Ok(()) => drain.breaker = breaker,
            Err(fault) => {
                tracing::info!(channel.name = %drain.channel.name, error = %chain(&fault), "A breaker was not noted");
                if let Ok(Some(view)) = self.connectors.view(&drain.connector.tenant_id, &drain.connector.name).await {
                    drain.breaker = view.breaker;
                }
            }
        }
    }

    async fn advance(&self, drain: &mut Drain<'_>) -> Result<(), DeliveryFault> {
        let conversation_id = &drain.conversation.conversation_id;
        self.marks.advance(conversation_id, &drain.channel.name, drain.noted, drain.seen).await?;
        drain.noted = drain.seen;
        Ok(())
    }

    async fn tell_delivered(&self, drain: &Drain<'_>) {
        if drain.delivered > 0 {
            self.tell(drain, drain.senders.clone(), "delivered", drain.delivered).await;
        }
    }

    /// A status that is not told is seen when somebody asks.
    async fn tell(&self, drain: &Drain<'_>, users: BTreeSet<UserId>, status: &'static str, seq: u64) {
        let (conversation_id, channel) = (&drain.conversation.conversation_id, &drain.channel.name);
        let frame = Frame::by_channel(conversation_id, channel, status, seq, self.clock.now());
        let job = PushJob::Tell { conversation_id: conversation_id.clone(), to: Audience::Users(users), frame };
        if let Err(fault) = self.push.tell(&job, &format!("{channel}.{status}.{seq}")).await {
            tracing::warn!(conversation.id = %conversation_id, error = %chain(&fault), "A status was not told");
        }
    }
}

/// Why a channel has not got everything.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryFault {
    /// Its messages wait until it is there.
    #[error("there is no connector `{0}`")]
    NoConnector(ChannelName),
    #[error("the connector is down and left alone until {until}")]
    Waiting { until: OffsetDateTime },
    #[error("a message did not leave")]
    Outlet(#[source] OutletFault),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for DeliveryFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::NoConnector(_) | Self::Waiting { .. } => Remedy::Retry,
            Self::Outlet(fault) => fault.remedy(),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoConnector(_) => "unknown_connector",
            Self::Waiting { .. } => "connector_down",
            Self::Outlet(fault) => fault.code(),
            Self::Port(fault) => fault.code(),
        }
    }
}
