//! Families of refresh tokens.

use async_trait::async_trait;
use domain::fault::PortFault;
use domain::id::FamilyId;
use domain::oauth::{Family, FamilyStore};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::Table;
use crate::item::{self, Item, fault, instant, number, text};

fn pk(family_id: &FamilyId) -> String {
    format!("FAMILY#{family_id}")
}

/// Remembered a day longer than it lives.
fn item(family: &Family) -> Result<Item, PortFault> {
    let mut item = item::item("family", pk(&family.family_id), family)?;
    item.insert("ttl".to_owned(), instant(family.expires_at + Duration::days(1)));
    Ok(item)
}

#[async_trait]
impl FamilyStore for Table {
    async fn create(&self, family: &Family) -> Result<(), PortFault> {
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item(family)?));
        request.condition_expression("attribute_not_exists(pk)").send().await.map_err(fault("PutItem family"))?;
        Ok(())
    }

    async fn get(&self, family_id: &FamilyId) -> Result<Option<Family>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(family_id))).key("sk", text("FAMILY"));
        let answer = request.send().await.map_err(fault("GetItem family"))?;
        answer.item.map(item::parse).transpose()
    }

    async fn rotate(&self, family: &Family) -> Result<(), PortFault> {
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item(family)?));
        let request = request
            .condition_expression("#counter = :before AND attribute_not_exists(revoked_at)")
            .expression_attribute_names("#counter", "counter")
            .expression_attribute_values(":before", number(family.counter.saturating_sub(1)));
        request.send().await.map_err(fault("PutItem rotated family"))?;
        Ok(())
    }

    async fn revoke(&self, family_id: &FamilyId, now: OffsetDateTime) -> Result<(), PortFault> {
        let now = now.format(&Rfc3339).map_err(|cause| item::broken("UpdateItem family", &cause))?;
        let result = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(pk(family_id)))
            .key("sk", text("FAMILY"))
            .update_expression("SET revoked_at = :now")
            .condition_expression("attribute_exists(pk) AND attribute_not_exists(revoked_at)")
            .expression_attribute_values(":now", text(now))
            .send()
            .await
            .map_err(fault("UpdateItem family"));
        match result {
            Ok(_) | Err(PortFault::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
