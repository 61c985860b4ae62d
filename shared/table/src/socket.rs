//! Tickets, the places of sockets, and the connections that hold them.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use domain::fault::PortFault;
use domain::id::{ConnectionId, ConversationId, FamilyId, TenantId, UserId};
use domain::socket::{
    Connection, Holder, LONGEST, Place, SLOTS, Slot, SlotStore, Slots, Ticket, TicketStore, lives_until,
};
use time::{Duration, OffsetDateTime};

use crate::Table;
use crate::item::{self, Item, fault, instant, text};

/// A try fails when another connection took the same place in between. Each shows what is taken by now, so that after one for every place
/// there is none; more are for places that came back meanwhile.
const TRIES: usize = 2 * SLOTS;

fn slots_pk(tenant_id: &TenantId, user_id: &UserId) -> String {
    format!("SOCKETS#{tenant_id}#{user_id}")
}

fn connection_pk(connection_id: &ConnectionId) -> String {
    format!("CONN#{connection_id}")
}

fn ticket_pk(hash: &str) -> String {
    format!("TICKET#{hash}")
}

fn barred_pk(session_id: &FamilyId) -> String {
    format!("BARRED#{session_id}")
}

/// The attribute of a place.
fn slot_name(slot: usize) -> String {
    format!("s{slot}")
}

fn slots(item: Item) -> Result<Slots, PortFault> {
    let mut item = item;
    let mut slots = Slots::default();
    for (number, slot) in slots.0.iter_mut().enumerate() {
        if let Some(value) = item.remove(&slot_name(number)) {
            *slot =
                Some(serde_dynamo::from_attribute_value(value).map_err(|cause| item::broken("reading slots", &cause))?);
        }
    }
    Ok(slots)
}

fn value(slot: &Slot) -> Result<AttributeValue, PortFault> {
    serde_dynamo::to_attribute_value(slot).map_err(|cause| item::broken("writing a slot", &cause))
}

#[async_trait]
impl TicketStore for Table {
    async fn keep(&self, ticket: &Ticket) -> Result<(), PortFault> {
        let mut item = item::item("ticket", ticket_pk(&ticket.hash), ticket)?;
        item.insert("ttl".to_owned(), instant(ticket.expires_at + Duration::hours(1)));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        request.send().await.map_err(fault("PutItem ticket"))?;
        Ok(())
    }

    async fn take(&self, hash: &str, now: OffsetDateTime) -> Result<Option<Ticket>, PortFault> {
        let request = self.client.delete_item().table_name(&self.name);
        let request = request.key("pk", text(ticket_pk(hash))).key("sk", text("TICKET"));
        let request = request.condition_expression("attribute_exists(pk)").return_values(ReturnValue::AllOld);
        let item = match request.send().await.map_err(fault("DeleteItem ticket")) {
            Ok(answer) => answer.attributes,
            Err(PortFault::Conflict { .. }) => None,
            Err(error) => return Err(error),
        };
        let ticket: Option<Ticket> = item.map(item::parse).transpose()?;
        Ok(ticket.filter(|ticket| ticket.expires_at > now))
    }
}

#[async_trait]
impl SlotStore for Table {
    async fn claim(
        &self,
        holder: &Holder,
        connection_id: &ConnectionId,
        now: OffsetDateTime,
    ) -> Result<Option<Connection>, PortFault> {
        let mut seen = Slots::default();
        for _ in 0..TRIES {
            let Some(place) = seen.place_for(connection_id, now) else { return Ok(None) };
            match self.take_place(holder, connection_id, place, now).await? {
                None => return self.keep_connection(holder, connection_id, place, now).await.map(Some),
                Some(found) => seen = found,
            }
        }
        Err(PortFault::Conflict { operation: "UpdateItem slots" })
    }

    async fn connection(&self, connection_id: &ConnectionId) -> Result<Option<Connection>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(connection_pk(connection_id))).key("sk", text("CONN"));
        let answer = request.send().await.map_err(fault("GetItem connection"))?;
        answer.item.map(item::parse).transpose()
    }

    async fn of(&self, tenant_id: &TenantId, users: &[&UserId]) -> Result<Vec<Slots>, PortFault> {
        let keys: Vec<Item> = users
            .iter()
            .map(|user| {
                let pk = text(slots_pk(tenant_id, user));
                HashMap::from([("pk".to_owned(), pk), ("sk".to_owned(), text("SLOTS"))])
            })
            .collect();
        let of_whom = |item: &Item| item.get("pk").and_then(|pk| pk.as_s().ok().cloned()).unwrap_or_default();
        let found = self.batch_get(keys, "BatchGetItem slots").await?;
        let mut found: HashMap<String, Item> = found.into_iter().map(|item| (of_whom(&item), item)).collect();
        users.iter().map(|user| slots(found.remove(&slots_pk(tenant_id, user)).unwrap_or_default())).collect()
    }

    async fn renew(&self, place: &Place, slot: &Slot) -> Result<bool, PortFault> {
        let update = self.place(place).update_expression("SET #slot = :slot");
        held(update.expression_attribute_values(":slot", value(slot)?)).await
    }

    async fn extend(&self, place: &Place, expires_at: OffsetDateTime) -> Result<bool, PortFault> {
        let update = self.place(place).update_expression("SET #slot.expires_at = :until");
        held(update.expression_attribute_values(":until", instant(expires_at))).await
    }

    async fn arrived(&self, place: &Place, conversation_id: &ConversationId) -> Result<bool, PortFault> {
        let update = self.place(place).update_expression("REMOVE #slot.positions.#conversation");
        held(update.expression_attribute_names("#conversation", conversation_id.as_str())).await
    }

    async fn release(&self, place: &Place) -> Result<bool, PortFault> {
        let was_held = held(self.place(place).update_expression("REMOVE #slot")).await?;
        let request = self.client.delete_item().table_name(&self.name);
        let request = request.key("pk", text(connection_pk(&place.connection_id))).key("sk", text("CONN"));
        request.send().await.map_err(fault("DeleteItem connection"))?;
        Ok(was_held)
    }

    async fn bar(&self, session_id: &FamilyId, until: OffsetDateTime) -> Result<(), PortFault> {
        let mut item = item::item("barred", barred_pk(session_id), &HashMap::<String, String>::new())?;
        item.insert("until".to_owned(), instant(until));
        item.insert("ttl".to_owned(), instant(until + Duration::hours(1)));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        request.send().await.map_err(fault("PutItem barred"))?;
        Ok(())
    }

    async fn is_barred(&self, session_id: &FamilyId, now: OffsetDateTime) -> Result<bool, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(barred_pk(session_id))).key("sk", text("BARRED"));
        let item = request.send().await.map_err(fault("GetItem barred"))?.item.unwrap_or_default();
        let until = item.get("until").and_then(|until| until.as_n().ok()?.parse().ok());
        Ok(until.is_some_and(|until: i64| until > now.unix_timestamp()))
    }
}

impl Table {
    /// Takes one place if nobody holds it, or the same connection does; otherwise what is there.
    async fn take_place(
        &self,
        holder: &Holder,
        connection_id: &ConnectionId,
        place: usize,
        now: OffsetDateTime,
    ) -> Result<Option<Slots>, PortFault> {
        let slot = Slot {
            connection_id: connection_id.clone(),
            session_id: holder.session_id.clone(),
            expires_at: lives_until(now, now),
            live: false,
            positions: Default::default(),
        };
        let update = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(slots_pk(&holder.tenant_id, &holder.user_id)))
            .key("sk", text("SLOTS"))
            .update_expression("SET #slot = :slot, entity = :slots, #ttl = :ttl")
            .condition_expression(
                "attribute_not_exists(#slot) OR #slot.expires_at <= :now OR #slot.connection_id = :own",
            )
            .expression_attribute_names("#slot", slot_name(place))
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":slot", value(&slot)?)
            .expression_attribute_values(":slots", text("slots"))
            .expression_attribute_values(":now", instant(now))
            .expression_attribute_values(":own", text(connection_id.as_str()))
            .expression_attribute_values(":ttl", instant(now + LONGEST + Duration::hours(1)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = update.send().await else { return Ok(None) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                slots(refused.item().cloned().unwrap_or_default()).map(Some)
            }
            _ => Err(fault("UpdateItem slots")(error)),
        }
    }

    async fn keep_connection(
        &self,
        holder: &Holder,
        connection_id: &ConnectionId,
        slot: usize,
        now: OffsetDateTime,
    ) -> Result<Connection, PortFault> {
        let place = Place {
            tenant_id: holder.tenant_id.clone(),
            user_id: holder.user_id.clone(),
            slot,
            connection_id: connection_id.clone(),
        };
        let connection = Connection { place, session_id: holder.session_id.clone(), connected_at: now };
        let mut item = item::item("conn", connection_pk(connection_id), &connection)?;
        item.insert("ttl".to_owned(), instant(now + LONGEST + Duration::hours(1)));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        request.send().await.map_err(fault("PutItem connection"))?;
        Ok(connection)
    }

    /// An update of a place that holds only for the connection that has it.
    fn place(&self, place: &Place) -> UpdateItemFluentBuilder {
        let update = self.client.update_item().table_name(&self.name);
        update
            .key("pk", text(slots_pk(&place.tenant_id, &place.user_id)))
            .key("sk", text("SLOTS"))
            .condition_expression("#slot.connection_id = :own")
            .expression_attribute_names("#slot", slot_name(place.slot))
            .expression_attribute_values(":own", text(place.connection_id.as_str()))
    }
}

/// Whether the place was still the connection's.
async fn held(update: UpdateItemFluentBuilder) -> Result<bool, PortFault> {
    match update.send().await.map_err(fault("UpdateItem slot")) {
        Ok(_) => Ok(true),
        Err(PortFault::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
