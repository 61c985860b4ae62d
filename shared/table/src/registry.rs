//! What apps and clients have in common: few items, changed by people, listed whole.

use domain::fault::PortFault;

use crate::Table;
use crate::item::{Item, fault, number, text};

/// How many index entries are read at a time.
const PAGE: i32 = 100;

impl Table {
    /// Stores an item of this version over the version before it, or where there is none for the first.
    pub(crate) async fn put_version(&self, item: Item, version: u64, operation: &'static str) -> Result<(), PortFault> {
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        let request = if version <= 1 {
            request.condition_expression("attribute_not_exists(pk)")
        } else {
            request
                .condition_expression("#version = :before")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":before", number(version - 1))
        };
        request.send().await.map_err(fault(operation))?;
        Ok(())
    }

    /// The partition keys of every item of one kind.
    pub(crate) async fn keys_of(&self, kind: &str, operation: &'static str) -> Result<Vec<String>, PortFault> {
        let mut keys = Vec::new();
        let mut start: Option<Item> = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.name)
                .index_name("by_time")
                .key_condition_expression("#kind = :kind")
                .expression_attribute_names("#kind", "kind")
                .expression_attribute_values(":kind", text(kind))
                .limit(PAGE)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(fault(operation))?;
            let items = page.items.unwrap_or_default();
            keys.extend(items.iter().filter_map(|item| Some(item.get("pk")?.as_s().ok()?.clone())));
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(keys);
            }
        }
    }
}
