//! Readiness: the cheapest read that proves the table answers.

use domain::fault::PortFault;

use crate::Table;
use crate::item::{fault, text};

impl Table {
    /// Reads one key that does not exist.
    pub async fn probe(&self) -> Result<(), PortFault> {
        let request = self.client.get_item().table_name(&self.name).key("pk", text("HEALTH#probe"));
        request.key("sk", text("HEALTH")).send().await.map_err(fault("GetItem health"))?;
        Ok(())
    }
}
