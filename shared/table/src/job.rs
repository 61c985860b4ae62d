//! Bookmarks of long jobs.

use async_trait::async_trait;
use domain::fault::PortFault;
use domain::job::Bookmarks;

use crate::Table;
use crate::item::{fault, text};

fn pk(job: &str) -> String {
    format!("JOB#{job}")
}

#[async_trait]
impl Bookmarks for Table {
    async fn bookmark(&self, job: &str) -> Result<Option<String>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let answer =
            request.key("pk", text(pk(job))).key("sk", text("JOB")).send().await.map_err(fault("GetItem job"))?;
        Ok(answer.item.and_then(|item| item.get("place")?.as_s().ok().cloned()))
    }

    async fn set_bookmark(&self, job: &str, place: Option<&str>) -> Result<(), PortFault> {
        let request = self.client.put_item().table_name(&self.name).item("pk", text(pk(job))).item("sk", text("JOB"));
        let request = request.item("entity", text("job"));
        let request = match place {
            Some(place) => request.item("place", text(place)),
            None => request,
        };
        request.send().await.map_err(fault("PutItem job"))?;
        Ok(())
    }
}
