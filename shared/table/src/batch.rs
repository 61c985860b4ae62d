//! Many items at once.

use aws_sdk_dynamodb::types::KeysAndAttributes;
use domain::fault::PortFault;
use futures_util::future::try_join_all;

use crate::Table;
use crate::item::{self, Item, await_turn, fault};

/// The most that one call takes.
pub(crate) const BATCH: usize = 100;

/// How often what a call left out is asked for again.
const TRIES: u32 = 5;

impl Table {
    /// The items of these keys that are there, in no order, with everything that was written before. Batches are read side by side.
    pub(crate) async fn batch_get(&self, keys: Vec<Item>, operation: &'static str) -> Result<Vec<Item>, PortFault> {
        self.batch_get_part(keys, None, operation).await
    }

    /// The same of some attributes only.
    pub(crate) async fn batch_get_part(
        &self,
        keys: Vec<Item>,
        projection: Option<&str>,
        operation: &'static str,
    ) -> Result<Vec<Item>, PortFault> {
        let batches = keys.chunks(BATCH).map(|keys| self.one_batch(keys.to_vec(), projection, operation));
        Ok(try_join_all(batches).await?.into_iter().flatten().collect())
    }

    async fn one_batch(
        &self,
        mut keys: Vec<Item>,
        projection: Option<&str>,
        operation: &'static str,
    ) -> Result<Vec<Item>, PortFault> {
        let mut items = Vec::with_capacity(keys.len());
        for turn in 0..TRIES {
            await_turn(turn).await;
            let request = KeysAndAttributes::builder()
                .set_keys(Some(keys))
                .set_projection_expression(projection.map(str::to_owned))
                .consistent_read(true)
                .build();
            let request = request.map_err(|cause| item::broken(operation, &cause))?;
            let answer = self.client.batch_get_item().request_items(&self.name, request).send().await;
            let answer = answer.map_err(fault(operation))?;
            items.extend(answer.responses.unwrap_or_default().remove(&self.name).unwrap_or_default());
            let left = answer.unprocessed_keys.unwrap_or_default().remove(&self.name);
            keys = left.map(|left| left.keys).unwrap_or_default();
            if keys.is_empty() {
                return Ok(items);
            }
        }
        Err(PortFault::Unavailable { operation, cause: "the table is too busy to answer whole batches".into() })
    }
}
