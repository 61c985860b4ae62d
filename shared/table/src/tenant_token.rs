//! Tenant tokens and the tickets of store apps.

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use domain::fault::PortFault;
use domain::id::AppId;
use domain::seal::Sealed;
use domain::tenant_token::{TenantToken, TenantTokenStore};
use domain::token::Lease;
use time::OffsetDateTime;

use crate::Table;
use crate::item::{self, Item, fault, instant, number, text};

fn pk(app_id: &AppId) -> String {
    format!("TENANT#{app_id}")
}

fn sk(tenant_key: &str) -> String {
    format!("TOKEN#{tenant_key}")
}

/// An item that only holds a lease is no token yet.
fn parse(item: Item) -> Result<Option<TenantToken>, PortFault> {
    if item.contains_key("version") { item::parse(item).map(Some) } else { Ok(None) }
}

#[async_trait]
impl TenantTokenStore for Table {
    async fn get(&self, app_id: &AppId, tenant_key: &str) -> Result<Option<TenantToken>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(app_id))).key("sk", text(sk(tenant_key)));
        let answer = request.send().await.map_err(fault("GetItem tenant token"))?;
        Ok(answer.item.map(parse).transpose()?.flatten())
    }

    async fn lease(
        &self,
        (app_id, tenant_key): (&AppId, &str),
        version: u64,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Lease<Option<TenantToken>>, PortFault> {
        let same = if version == 0 { "attribute_not_exists(#version)" } else { "#version = :version" };
        let mut request = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(pk(app_id)))
            .key("sk", text(sk(tenant_key)))
            .update_expression("SET lease_until = :until")
            .condition_expression(format!("{same} AND (attribute_not_exists(lease_until) OR lease_until <= :now)"))
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":now", instant(now))
            .expression_attribute_values(":until", instant(until))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if version > 0 {
            request = request.expression_attribute_values(":version", number(version));
        }
        let error = match request.send().await {
            Ok(_) => return Ok(Lease::Taken),
            Err(error) => error,
        };
        let Some(UpdateItemError::ConditionalCheckFailedException(refused)) = error.as_service_error() else {
            return Err(fault("UpdateItem tenant token lease")(error));
        };
        Ok(match refused.item() {
            Some(item) => Lease::Held(parse(item.clone())?),
            None => Lease::Gone,
        })
    }

    async fn keep(&self, token: &TenantToken) -> Result<(), PortFault> {
        let mut item: Item = item::item("tenant_token", pk(&token.app_id), token)?;
        item.insert("sk".to_owned(), text(sk(&token.tenant_key)));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        let request = request.expression_attribute_names("#version", "version");
        let request = if token.version <= 1 {
            request.condition_expression("attribute_not_exists(#version)")
        } else {
            let before = number(token.version - 1);
            request.condition_expression("#version = :before").expression_attribute_values(":before", before)
        };
        request.send().await.map_err(fault("PutItem tenant token"))?;
        Ok(())
    }

    async fn release(&self, app_id: &AppId, tenant_key: &str) -> Result<(), PortFault> {
        let request = self.client.update_item().table_name(&self.name).update_expression("REMOVE lease_until");
        let request = request.key("pk", text(pk(app_id))).key("sk", text(sk(tenant_key)));
        request.send().await.map_err(fault("UpdateItem tenant token"))?;
        Ok(())
    }

    async fn ticket(&self, app_id: &AppId) -> Result<Option<Sealed>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(app_id))).key("sk", text("TICKET"));
        let answer = request.send().await.map_err(fault("GetItem ticket"))?;
        let sealed = answer.item.and_then(|item| item.get("sealed")?.as_s().ok().cloned());
        Ok(sealed.map(Sealed))
    }

    async fn put_ticket(&self, app_id: &AppId, ticket: &Sealed, issued_at: OffsetDateTime) -> Result<(), PortFault> {
        let result = self
            .client
            .put_item()
            .table_name(&self.name)
            .item("pk", text(pk(app_id)))
            .item("sk", text("TICKET"))
            .item("entity", text("app_ticket"))
            .item("sealed", text(&ticket.0))
            .item("issued_at", instant(issued_at))
            .condition_expression("attribute_not_exists(issued_at) OR issued_at <= :issued")
            .expression_attribute_values(":issued", instant(issued_at))
            .send()
            .await
            .map_err(fault("PutItem ticket"));
        match result {
            Ok(_) | Err(PortFault::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
