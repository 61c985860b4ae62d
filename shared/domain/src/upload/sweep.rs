//! What nobody waits for any more is given up; what was cut short is taken up again.

use std::fmt;
use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use crate::clock::Clock;
use crate::fault::{PortFault, chain};
use crate::upload::fault::UploadFault;
use crate::upload::file::FileStore;
use crate::upload::merge::{MergeJob, MergeQueue};
use crate::upload::object::{Multipart, Objects, OpenMultipart, OpenMultiparts};
use crate::upload::{PREFIX, Status, Upload, UploadStore};

const PAGE: u32 = 100;

/// When a run begins nothing new, well inside the function's time-out.
const RUN: Duration = Duration::seconds(240);

/// A multipart upload is begun before its record is written: a younger one may still get one.
const UNRECORDED: Duration = Duration::hours(1);

/// What sweeping needs.
pub struct Sweep {
    pub uploads: Arc<dyn UploadStore>,
    pub files: Arc<dyn FileStore>,
    pub multipart: Arc<dyn Multipart>,
    pub open: Arc<dyn OpenMultiparts>,
    pub objects: Arc<dyn Objects>,
    pub queue: Arc<dyn MergeQueue>,
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep").finish_non_exhaustive()
    }
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Uploads that expired.
    pub expired: usize,
    /// Merges that were asked for again.
    pub resumed: usize,
    /// Contents that no file referred to.
    pub forgotten: usize,
    /// Multipart uploads that no record needed.
    pub orphans: usize,
    /// Whether there was more than a run does.
    pub unfinished: bool,
}

/// Ends an upload that is past its time; whether it did.
pub(crate) async fn expire(
    uploads: &dyn UploadStore,
    multipart: &dyn Multipart,
    upload: &Upload,
    now: OffsetDateTime,
) -> Result<bool, PortFault> {
    if upload.status != Status::Uploading || upload.status_at(now) != Status::Expired {
        return Ok(false);
    }
    match uploads.change(&upload.moved(Status::Expired, now)).await {
        Ok(()) => {}
        // Its sender was heard of just now.
        Err(PortFault::Conflict { .. }) => return Ok(false),
        Err(fault) => return Err(fault),
    }
    // A part that was on its way may have arrived after the first; what comes later still is an orphan of tomorrow.
    for _ in 0..2 {
        multipart.abort(&upload.key(), &upload.multipart_id).await?;
    }
    Ok(true)
}

impl Sweep {
    /// Does what is due, each part although another failed. Run twice, the second finds nothing to do.
    pub async fn run(&self) -> Result<Swept, UploadFault> {
        let began = self.clock.now();
        let mut swept = Swept::default();
        let results = [
            self.expire(began, &mut swept).await,
            self.resume(began, &mut swept).await,
            self.forget(began, &mut swept).await,
            self.abort_orphans(began, &mut swept).await,
        ];
        tracing::info!(
            upload.expired = swept.expired,
            upload.resumed = swept.resumed,
            content.forgotten = swept.forgotten,
            multipart.orphans = swept.orphans,
            unfinished = swept.unfinished,
            "Uploads swept"
        );
        let mut failed = None;
        for fault in results.into_iter().filter_map(Result::err) {
            tracing::error!(error = %chain(&fault), "A part of the sweep failed");
            failed = Some(fault);
        }
        failed.map_or(Ok(swept), |fault| Err(fault.into()))
    }

    fn is_over(&self, began: OffsetDateTime, swept: &mut Swept) -> bool {
        let over = self.clock.now() >= began + RUN;
        swept.unfinished |= over;
        over
    }

    async fn expire(&self, now: OffsetDateTime, swept: &mut Swept) -> Result<(), PortFault> {
        while !self.is_over(now, swept) {
            let due = self.uploads.due(Status::Uploading, now, PAGE).await?;
            let before = swept.expired;
            for upload_id in &due {
                let Some(upload) = self.uploads.upload(upload_id).await? else { continue };
                swept.expired +=
                    usize::from(expire(self.uploads.as_ref(), self.multipart.as_ref(), &upload, now).await?);
            }
            // A page that changed nothing would only come again.
            if due.len() < PAGE as usize || swept.expired == before {
                break;
            }
        }
        Ok(())
    }

    /// A merge whose job failed to the end is asked for again.
    async fn resume(&self, now: OffsetDateTime, swept: &mut Swept) -> Result<(), PortFault> {
        for upload_id in self.uploads.due(Status::Merging, now, PAGE).await? {
            self.queue.send(&MergeJob::again(&upload_id, now)).await?;
            swept.resumed += 1;
        }
        Ok(())
    }

    async fn forget(&self, now: OffsetDateTime, swept: &mut Swept) -> Result<(), PortFault> {
        while !self.is_over(now, swept) {
            let unreferenced = self.files.unreferenced(now, PAGE).await?;
            for content in &unreferenced {
                self.objects.delete(std::slice::from_ref(&content.object_key)).await?;
                self.files.forget(content).await?;
                swept.forgotten += 1;
            }
            if unreferenced.len() < PAGE as usize {
                break;
            }
        }
        Ok(())
    }

    async fn abort_orphans(&self, now: OffsetDateTime, swept: &mut Swept) -> Result<(), PortFault> {
        let mut after = None;
        while !self.is_over(now, swept) {
            let (page, next) = self.open.open(PREFIX, after).await?;
            for open in page {
                if self.is_orphan(&open, now).await? {
                    self.multipart.abort(&open.key, &open.multipart_id).await?;
                    swept.orphans += 1;
                }
            }
            if next.is_none() {
                break;
            }
            after = next;
        }
        Ok(())
    }

    async fn is_orphan(&self, open: &OpenMultipart, now: OffsetDateTime) -> Result<bool, PortFault> {
        if open.initiated_at > now - UNRECORDED {
            return Ok(false);
        }
        let Some(upload_id) = Upload::of_key(&open.key) else { return Ok(true) };
        let upload = self.uploads.upload(&upload_id).await?;
        Ok(upload.is_none_or(|upload| !upload.status.is_open() || upload.multipart_id != open.multipart_id))
    }
}
