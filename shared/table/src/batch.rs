//! Many items at once.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::KeysAndAttributes;
use domain::fault::PortFault;
use futures_util::future::try_join_all;

use crate::Table;
use crate::item::{self, Item, fault};

/// The most that one call takes.
const BATCH: usize = 100;

impl Table {
    /// The items under these keys, with everything that was written before the call: one call for each hundred, all of them at once.
    pub(crate) async fn batch_get(&self, keys: Vec<Item>, operation: &'static str) -> Result<Vec<Item>, PortFault> {
        let batches = keys.chunks(BATCH).map(|keys| self.one_batch(keys.to_vec(), operation));
        Ok(try_join_all(batches).await?.into_iter().flatten().collect())
    }

    async fn one_batch(&self, mut keys: Vec<Item>, operation: &'static str) -> Result<Vec<Item>, PortFault> {
        let mut items = Vec::with_capacity(keys.len());
        while !keys.is_empty() {
            let request = KeysAndAttributes::builder().set_keys(Some(std::mem::take(&mut keys))).consistent_read(true);
            let request = request.build().map_err(|cause| item::broken(operation, &cause))?;
            let answer = self.client.batch_get_item().request_items(&self.name, request).send().await;
            let answer = answer.map_err(fault(operation))?;
            items.append(&mut answer.responses.unwrap_or_default().remove(&self.name).unwrap_or_default());
            let left: HashMap<_, _> = answer.unprocessed_keys.unwrap_or_default();
            keys = left.into_values().flat_map(|left| left.keys).collect();
        }
        Ok(items)
    }
}
