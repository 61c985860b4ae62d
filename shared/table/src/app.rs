//! Apps.

use async_trait::async_trait;
use domain::app::{App, AppStore};
use domain::fault::PortFault;
use domain::id::AppId;

use crate::Table;
use crate::item::{self, Item, fault, instant, number, text};

/// How many index entries are read at a time.
const PAGE: i32 = 100;

pub(crate) fn pk(app_id: &AppId) -> String {
    format!("APP#{app_id}")
}

#[async_trait]
impl AppStore for Table {
    async fn get(&self, app_id: &AppId) -> Result<Option<App>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).key("pk", text(pk(app_id))).key("sk", text("APP"));
        let answer = request.consistent_read(true).send().await.map_err(fault("GetItem app"))?;
        answer.item.map(item::parse).transpose()
    }

    async fn put(&self, app: &App) -> Result<(), PortFault> {
        let mut item = item::item("app", pk(&app.app_id), app)?;
        item.insert("kind".to_owned(), text("app"));
        item.insert("at".to_owned(), instant(app.created_at));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        let request = if app.version <= 1 {
            request.condition_expression("attribute_not_exists(pk)")
        } else {
            request
                .condition_expression("#version = :before")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":before", number(app.version - 1))
        };
        request.send().await.map_err(fault("PutItem app"))?;
        Ok(())
    }

    async fn delete(&self, app_id: &AppId, version: u64) -> Result<(), PortFault> {
        let request =
            self.client.delete_item().table_name(&self.name).key("pk", text(pk(app_id))).key("sk", text("APP"));
        request
            .condition_expression("attribute_not_exists(pk) OR #version = :read")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":read", number(version))
            .send()
            .await
            .map_err(fault("DeleteItem app"))?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<App>, PortFault> {
        let mut apps = Vec::new();
        let mut start: Option<Item> = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.name)
                .index_name("by_time")
                .key_condition_expression("#kind = :app")
                .expression_attribute_names("#kind", "kind")
                .expression_attribute_values(":app", text("app"))
                .limit(PAGE)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(fault("Query apps"))?;
            for key in page.items.unwrap_or_default() {
                let id = key.get("pk").and_then(|pk| pk.as_s().ok()).and_then(|pk| pk.strip_prefix("APP#"));
                let id = id.map(AppId::parse).transpose().map_err(|cause| item::broken("Query apps", &cause))?;
                if let Some(id) = id {
                    apps.extend(AppStore::get(self, &id).await?);
                }
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        apps.sort_by(|a, b| a.app_id.cmp(&b.app_id));
        Ok(apps)
    }
}
