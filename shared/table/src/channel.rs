//! Channels: connectors and how they do, how far conversations have come by them, and what the outside calls conversations and messages.

use async_trait::async_trait;
use domain::channel::{Breaker, ChannelMarks, Connector, ConnectorStore, ConnectorView, Link, Links, Mark, Outside};
use domain::fault::PortFault;
use domain::id::{AppId, ChannelName, ConversationId, MessageId, TenantId};

use crate::Table;
use crate::chat::conversation_pk;
use crate::item::{self, Item, fault, instant, number, text};

fn connector_pk(tenant_id: &TenantId, name: &ChannelName) -> String {
    format!("CONNECTOR#{tenant_id}#{name}")
}

/// What the sort keys of marks begin with.
pub(crate) const CHANNEL: &str = "CHANNEL#";

pub(crate) fn mark_key(conversation_id: &ConversationId, channel: &ChannelName) -> (String, String) {
    (conversation_pk(conversation_id), format!("{CHANNEL}{channel}"))
}

fn outside_pk(app_id: &AppId, message_id: &MessageId) -> String {
    format!("OUTSIDE#{app_id}#{message_id}")
}

fn link_pk(app_id: &AppId, address: &str) -> String {
    format!("LINK#{app_id}#{address}")
}

#[async_trait]
impl ConnectorStore for Table {
    async fn view(&self, tenant_id: &TenantId, name: &ChannelName) -> Result<Option<ConnectorView>, PortFault> {
        let request = self.client.query().table_name(&self.name).consistent_read(true);
        let request = request.key_condition_expression("pk = :pk");
        let request = request.expression_attribute_values(":pk", text(connector_pk(tenant_id, name)));
        let answer = request.send().await.map_err(fault("Query connector"))?;
        let (mut connector, mut breaker) = (None, Breaker::default());
        for item in answer.items.unwrap_or_default() {
            match item.get("sk").and_then(|sk| sk.as_s().ok()).map(String::as_str) {
                Some("BREAKER") => breaker = item::parse(item)?,
                _ => connector = Some(item::parse(item)?),
            }
        }
        Ok(connector.map(|connector| ConnectorView { connector, breaker }))
    }

    async fn list(&self, tenant_id: Option<&TenantId>) -> Result<Vec<Connector>, PortFault> {
        let mut connectors = Vec::new();
        for pk in self.keys_of("connector", "Query connectors").await? {
            let named = pk.strip_prefix("CONNECTOR#").and_then(|rest| rest.split_once('#')).unwrap_or_default();
            let broken = |cause| item::broken("Query connectors", &cause);
            let (tenant, name) =
                (TenantId::parse(named.0).map_err(broken)?, ChannelName::parse(named.1).map_err(broken)?);
            if tenant_id.is_none_or(|wanted| *wanted == tenant) {
                connectors.extend(self.view(&tenant, &name).await?.map(|view| view.connector));
            }
        }
        connectors.sort_by(|a, b| (&a.tenant_id, &a.name).cmp(&(&b.tenant_id, &b.name)));
        Ok(connectors)
    }

    async fn put(&self, connector: &Connector) -> Result<(), PortFault> {
        let mut item = item::item("connector", connector_pk(&connector.tenant_id, &connector.name), connector)?;
        item.insert("kind".to_owned(), text("connector"));
        item.insert("at".to_owned(), instant(connector.created_at));
        self.put_version(item, connector.version, "PutItem connector").await
    }

    async fn delete(&self, connector: &Connector) -> Result<(), PortFault> {
        let pk = connector_pk(&connector.tenant_id, &connector.name);
        let delete =
            |sk: &str| self.client.delete_item().table_name(&self.name).key("pk", text(&pk)).key("sk", text(sk));
        let request = delete("CONNECTOR")
            .condition_expression("attribute_not_exists(pk) OR #version = :read")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":read", number(connector.version));
        request.send().await.map_err(fault("DeleteItem connector"))?;
        delete("BREAKER").send().await.map_err(fault("DeleteItem breaker"))?;
        Ok(())
    }

    async fn note(&self, connector: &Connector, breaker: &Breaker) -> Result<(), PortFault> {
        let item = item::item("breaker", connector_pk(&connector.tenant_id, &connector.name), breaker)?;
        self.put_version(item, breaker.version, "PutItem breaker").await
    }
}

#[async_trait]
impl ChannelMarks for Table {
    async fn mark(&self, conversation_id: &ConversationId, channel: &ChannelName) -> Result<Option<Mark>, PortFault> {
        let (pk, sk) = mark_key(conversation_id, channel);
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let answer = request.key("pk", text(pk)).key("sk", text(sk)).send().await.map_err(fault("GetItem channel"))?;
        answer.item.map(item::parse).transpose()
    }

    async fn advance(
        &self,
        conversation_id: &ConversationId,
        channel: &ChannelName,
        from: u64,
        to: u64,
    ) -> Result<(), PortFault> {
        let (pk, sk) = mark_key(conversation_id, channel);
        let request = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(pk))
            .key("sk", text(sk))
            .update_expression("SET sent = :to, entity = :entity")
            .expression_attribute_values(":to", number(to))
            .expression_attribute_values(":from", number(from))
            .expression_attribute_values(":entity", text("channel"));
        let condition = if from == 0 { "attribute_not_exists(sent) OR sent = :from" } else { "sent = :from" };
        request.condition_expression(condition).send().await.map_err(fault("UpdateItem channel"))?;
        Ok(())
    }

    async fn read(&self, conversation_id: &ConversationId, channel: &ChannelName, seq: u64) -> Result<bool, PortFault> {
        let (pk, sk) = mark_key(conversation_id, channel);
        let request = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(pk))
            .key("sk", text(sk))
            .update_expression("SET #read = :seq")
            // Only what has left can be read.
            .condition_expression("attribute_exists(pk) AND (attribute_not_exists(#read) OR #read < :seq)")
            .expression_attribute_names("#read", "read")
            .expression_attribute_values(":seq", number(seq));
        match request.send().await.map_err(fault("UpdateItem channel")) {
            Ok(_) => Ok(true),
            Err(PortFault::Conflict { .. }) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn remember(&self, outside: &Outside, until: time::OffsetDateTime) -> Result<(), PortFault> {
        let mut item = item::item("outside", outside_pk(&outside.app_id, &outside.message_id), outside)?;
        item.insert("ttl".to_owned(), instant(until));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        request.send().await.map_err(fault("PutItem outside"))?;
        Ok(())
    }

    async fn outside(&self, app_id: &AppId, message_id: &MessageId) -> Result<Option<Outside>, PortFault> {
        self.one(outside_pk(app_id, message_id), "OUTSIDE", "GetItem outside").await?.map(item::parse).transpose()
    }
}

#[async_trait]
impl Links for Table {
    async fn link(&self, link: &Link) -> Result<bool, PortFault> {
        let item = item::item("link", link_pk(&link.app_id, &link.address), link)?;
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        let request = request
            .condition_expression(
                "attribute_not_exists(pk) OR (conversation_id = :conversation AND channel = :channel)",
            )
            .expression_attribute_values(":conversation", text(link.conversation_id.as_str()))
            .expression_attribute_values(":channel", text(link.channel.as_str()));
        match request.send().await.map_err(fault("PutItem link")) {
            Ok(_) => Ok(true),
            Err(PortFault::Conflict { .. }) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn linked(&self, app_id: &AppId, address: &str) -> Result<Option<Link>, PortFault> {
        self.one(link_pk(app_id, address), "LINK", "GetItem link").await?.map(item::parse).transpose()
    }
}

impl Table {
    async fn one(&self, pk: String, sk: &str, operation: &'static str) -> Result<Option<Item>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let answer = request.key("pk", text(pk)).key("sk", text(sk)).send().await.map_err(fault(operation))?;
        Ok(answer.item)
    }
}
