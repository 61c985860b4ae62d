//! Clients.

use async_trait::async_trait;
use domain::fault::PortFault;
use domain::id::ClientId;
use domain::oauth::{Client, ClientStore};

use crate::Table;
use crate::item::{self, fault, instant, text};

fn pk(client_id: &ClientId) -> String {
    format!("CLIENT#{client_id}")
}

#[async_trait]
impl ClientStore for Table {
    async fn get(&self, client_id: &ClientId) -> Result<Option<Client>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(client_id))).key("sk", text("CLIENT"));
        let answer = request.send().await.map_err(fault("GetItem client"))?;
        answer.item.map(item::parse).transpose()
    }

    async fn put(&self, client: &Client) -> Result<(), PortFault> {
        let mut item = item::item("client", pk(&client.client_id), client)?;
        item.insert("kind".to_owned(), text("client"));
        item.insert("at".to_owned(), instant(client.created_at));
        self.put_version(item, client.version, "PutItem client").await
    }

    async fn list(&self) -> Result<Vec<Client>, PortFault> {
        let mut clients = Vec::new();
        for pk in self.keys_of("client", "Query clients").await? {
            let id = pk.strip_prefix("CLIENT#").unwrap_or_default();
            let id = ClientId::parse(id).map_err(|cause| item::broken("Query clients", &cause))?;
            clients.extend(ClientStore::get(self, &id).await?);
        }
        clients.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        Ok(clients)
    }
}
