//! Channels in memory, and receivers that are up or down as a test likes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use domain::channel::{
    Breaker, ChannelBell, ChannelMarks, ChannelQueue, Connector, ConnectorStore, ConnectorView, Link, Links, Mark,
    Outlet, OutletFault, Outside, Parcel, Receipt, Refused,
};
use domain::chat::Message;
use domain::fault::PortFault;
use domain::id::{AppId, ChannelName, ConversationId, MessageId, TenantId};
use time::OffsetDateTime;

type Place = (ConversationId, ChannelName);

#[derive(Debug, Default)]
struct Kept {
    connectors: BTreeMap<(TenantId, ChannelName), (Connector, Breaker)>,
    marks: HashMap<Place, Mark>,
    outside: HashMap<(AppId, MessageId), Outside>,
    links: HashMap<(AppId, String), Link>,
}

/// Connectors, marks and links.
#[derive(Debug, Default)]
pub struct MemoryChannels(Mutex<Kept>);

impl MemoryChannels {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }
}

fn conflict<T>(operation: &'static str) -> Result<T, PortFault> {
    Err(PortFault::Conflict { operation })
}

#[async_trait]
impl ConnectorStore for MemoryChannels {
    async fn view(&self, tenant_id: &TenantId, name: &ChannelName) -> Result<Option<ConnectorView>, PortFault> {
        let found = self.kept().connectors.get(&(tenant_id.clone(), name.clone())).cloned();
        Ok(found.map(|(connector, breaker)| ConnectorView { connector, breaker }))
    }

    async fn list(&self, tenant_id: Option<&TenantId>) -> Result<Vec<Connector>, PortFault> {
        let kept = self.kept();
        let all = kept.connectors.values().map(|(connector, _)| connector);
        Ok(all.filter(|one| tenant_id.is_none_or(|wanted| one.tenant_id == *wanted)).cloned().collect())
    }

    async fn put(&self, connector: &Connector) -> Result<(), PortFault> {
        let (key, mut kept) = ((connector.tenant_id.clone(), connector.name.clone()), self.kept());
        let before = kept.connectors.get(&key).cloned();
        if before.as_ref().map_or(0, |(before, _)| before.version) + 1 != connector.version {
            return conflict("put connector");
        }
        kept.connectors.insert(key, (connector.clone(), before.map(|(_, breaker)| breaker).unwrap_or_default()));
        Ok(())
    }

    async fn delete(&self, connector: &Connector) -> Result<(), PortFault> {
        let (key, mut kept) = ((connector.tenant_id.clone(), connector.name.clone()), self.kept());
        match kept.connectors.get(&key) {
            Some((stored, _)) if stored.version != connector.version => conflict("delete connector"),
            _ => {
                kept.connectors.remove(&key);
                Ok(())
            }
        }
    }

    async fn note(&self, connector: &Connector, breaker: &Breaker) -> Result<(), PortFault> {
        let key = (connector.tenant_id.clone(), connector.name.clone());
        match self.kept().connectors.get_mut(&key) {
            Some((_, stored)) if stored.version + 1 == breaker.version => {
                *stored = breaker.clone();
                Ok(())
            }
            _ => conflict("note breaker"),
        }
    }
}

#[async_trait]
impl ChannelMarks for MemoryChannels {
    async fn mark(&self, conversation_id: &ConversationId, channel: &ChannelName) -> Result<Option<Mark>, PortFault> {
        Ok(self.kept().marks.get(&(conversation_id.clone(), channel.clone())).copied())
    }

    async fn advance(
        &self,
        conversation_id: &ConversationId,
        channel: &ChannelName,
        from: u64,
        to: u64,
    ) -> Result<(), PortFault> {
        let mut kept = self.kept();
        let mark = kept.marks.get(&(conversation_id.clone(), channel.clone())).copied().unwrap_or_default();
        if mark.sent != from {
            return conflict("advance");
        }
        kept.marks.insert((conversation_id.clone(), channel.clone()), Mark { sent: to, ..mark });
        Ok(())
    }

    async fn read(&self, conversation_id: &ConversationId, channel: &ChannelName, seq: u64) -> Result<bool, PortFault> {
        match self.kept().marks.get_mut(&(conversation_id.clone(), channel.clone())) {
            Some(mark) if mark.read < seq => {
                mark.read = seq;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn remember(&self, outside: &Outside, _: OffsetDateTime) -> Result<(), PortFault> {
        let key = (outside.app_id.clone(), outside.message_id.clone());
        self.kept().outside.insert(key, outside.clone());
        Ok(())
    }

    async fn outside(&self, app_id: &AppId, message_id: &MessageId) -> Result<Option<Outside>, PortFault> {
        Ok(self.kept().outside.get(&(app_id.clone(), message_id.clone())).cloned())
    }
}

#[async_trait]
impl Links for MemoryChannels {
    async fn link(&self, link: &Link) -> Result<bool, PortFault> {
        let mut kept = self.kept();
        let kept = kept.links.entry((link.app_id.clone(), link.address.clone())).or_insert_with(|| link.clone());
        Ok(kept == link)
    }

    async fn linked(&self, app_id: &AppId, address: &str) -> Result<Option<Link>, PortFault> {
        Ok(self.kept().links.get(&(app_id.clone(), address.to_owned())).cloned())
    }
}

/// Every bell that was rung, and where each has been rung on to.
#[derive(Debug, Default)]
pub struct MemoryBells(Mutex<Vec<(ChannelBell, Option<String>)>>);

impl MemoryBells {
    pub fn rung(&self) -> Vec<(ChannelBell, Option<String>)> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl ChannelQueue for MemoryBells {
    async fn ring(&self, bell: &ChannelBell) -> Result<(), PortFault> {
        self.0.lock().unwrap().push((bell.clone(), None));
        Ok(())
    }

    async fn ring_on(&self, bell: &ChannelBell, once: &str) -> Result<(), PortFault> {
        self.0.lock().unwrap().push((bell.clone(), Some(once.to_owned())));
        Ok(())
    }
}

/// What a receiver does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Receiver {
    #[default]
    Takes,
    Refuses,
    IsDown,
    /// It takes the message, and its answer is lost.
    AnswersNobody,
}

/// A receiver that keeps what it took, and what was kept because it refused it.
#[derive(Debug, Default)]
pub struct MemoryOutlet {
    pub does: Mutex<Receiver>,
    taken: Mutex<Vec<Message>>,
    refused: Mutex<Vec<Message>>,
    files: Mutex<Vec<String>>,
    tried: Mutex<u32>,
}

impl MemoryOutlet {
    /// The numbers of the messages that it took, as it knows them by their ids: each once.
    pub fn taken(&self) -> Vec<u64> {
        let taken = self.taken.lock().unwrap();
        let mut seen = std::collections::HashSet::new();
        taken.iter().filter(|message| seen.insert(message.message_id.clone())).map(|message| message.seq).collect()
    }

    pub fn refused(&self) -> Vec<u64> {
        self.refused.lock().unwrap().iter().map(|message| message.seq).collect()
    }

    /// The names of the files that it took.
    pub fn files(&self) -> Vec<String> {
        self.files.lock().unwrap().clone()
    }

    /// How often it was tried.
    pub fn tried(&self) -> u32 {
        *self.tried.lock().unwrap()
    }

    pub fn turn(&self, does: Receiver) {
        *self.does.lock().unwrap() = does;
    }
}

#[async_trait]
impl Outlet for MemoryOutlet {
    async fn send(&self, parcel: Parcel<'_>) -> Result<Receipt, OutletFault> {
        *self.tried.lock().unwrap() += 1;
        let does = *self.does.lock().unwrap();
        if matches!(does, Receiver::Takes | Receiver::AnswersNobody) {
            self.taken.lock().unwrap().push(parcel.message.clone());
            self.files.lock().unwrap().extend(parcel.file.map(|file| file.filename.clone()));
        }
        match does {
            Receiver::Takes => {
                let app_id = AppId::parse("cli_a").unwrap();
                let message_id = MessageId::parse(format!("om_{}", parcel.message.message_id)).unwrap();
                Ok(Receipt { outside: Some((app_id, message_id)) })
            }
            Receiver::Refuses => Err(OutletFault::Refused("made to".to_owned())),
            Receiver::IsDown | Receiver::AnswersNobody => Err(OutletFault::Down("made to fail".into())),
        }
    }
}

#[async_trait]
impl Refused for MemoryOutlet {
    async fn keep(&self, message: &Message, _: &ChannelName, _: &OutletFault) -> Result<(), PortFault> {
        self.refused.lock().unwrap().push(message.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryChannels;
    use crate::contract_channels;

    #[tokio::test]
    async fn the_memory_keeps_the_contracts_of_channels() {
        contract_channels::connectors(&MemoryChannels::default()).await;
        contract_channels::marks(&MemoryChannels::default()).await;
        contract_channels::links(&MemoryChannels::default()).await;
    }
}
