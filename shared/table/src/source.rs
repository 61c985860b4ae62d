//! Sources of events.

use async_trait::async_trait;
use domain::fault::PortFault;
use domain::lake::source::{Source, SourceName, SourceStore};

use crate::Table;
use crate::item::{self, fault, instant, text};

fn pk(name: &SourceName) -> String {
    format!("SOURCE#{name}")
}

#[async_trait]
impl SourceStore for Table {
    async fn get(&self, name: &SourceName) -> Result<Option<Source>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(name))).key("sk", text("SOURCE"));
        let answer = request.send().await.map_err(fault("GetItem source"))?;
        answer.item.map(item::parse).transpose()
    }

    async fn put(&self, source: &Source) -> Result<(), PortFault> {
        let mut item = item::item("source", pk(&source.name), source)?;
        item.insert("kind".to_owned(), text("source"));
        item.insert("at".to_owned(), instant(source.created_at));
        self.put_version(item, source.version, "PutItem source").await
    }

    async fn list(&self) -> Result<Vec<Source>, PortFault> {
        let mut sources = Vec::new();
        for pk in self.keys_of("source", "Query sources").await? {
            let name = SourceName::parse(pk.strip_prefix("SOURCE#").unwrap_or_default());
            let name = name.map_err(|cause| item::broken("Query sources", &cause))?;
            sources.extend(SourceStore::get(self, &name).await?);
        }
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sources)
    }
}
