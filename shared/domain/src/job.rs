//! Jobs that take more than one run.

use async_trait::async_trait;

use crate::fault::PortFault;

/// Where a job keeps the place that it has come to.
#[async_trait]
pub trait Bookmarks: Send + Sync {
    /// Nothing if the job begins at the beginning.
    async fn bookmark(&self, job: &str) -> Result<Option<String>, PortFault>;

    async fn set_bookmark(&self, job: &str, place: Option<&str>) -> Result<(), PortFault>;
}
