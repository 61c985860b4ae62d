//! Apps.

use async_trait::async_trait;
use domain::app::{App, AppStore};
use domain::fault::PortFault;
use domain::id::AppId;

use crate::Table;
use crate::item::{self, fault, instant, number, text};

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
        self.put_version(item, app.version, "PutItem app").await
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
        for pk in self.keys_of("app", "Query apps").await? {
            let id = pk.strip_prefix("APP#").unwrap_or_default();
            let id = AppId::parse(id).map_err(|cause| item::broken("Query apps", &cause))?;
            apps.extend(AppStore::get(self, &id).await?);
        }
        apps.sort_by(|a, b| a.app_id.cmp(&b.app_id));
        Ok(apps)
    }
}
