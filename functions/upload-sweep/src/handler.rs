//! Schedule -> job.

use domain::upload::fault::UploadFault;
use domain::upload::sweep::Sweep;
use serde::Deserialize;

/// What a schedule asks for, as its `Input` in the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub(crate) enum Job {
    SweepUploads,
}

/// Runs the job. Run twice, or twice at once, the second run finds nothing to do.
pub(crate) async fn run(sweep: &Sweep, job: Job) -> Result<(), UploadFault> {
    match job {
        Job::SweepUploads => sweep.run().await.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::upload::object::Multipart as _;
    use domain::upload::{IDLE, Status, Upload, UploadStore as _};
    use serde_json::json;
    use testkit::{ManualClock, MemoryBucket, MemoryMergeQueue, MemoryUploads, sample};

    use super::*;

    #[tokio::test]
    async fn the_schedules_job_ends_what_nobody_touched_for_a_day() {
        let (uploads, bucket) = (Arc::<MemoryUploads>::default(), Arc::<MemoryBucket>::default());
        let clock = Arc::<ManualClock>::default();
        let sweep = Sweep {
            uploads: uploads.clone(),
            files: uploads.clone(),
            multipart: bucket.clone(),
            open: bucket.clone(),
            objects: bucket.clone(),
            queue: Arc::<MemoryMergeQueue>::default(),
            clock: clock.clone(),
        };
        let multipart_id = bucket.begin(&sample::upload(1).key(), "application/pdf").await.unwrap();
        uploads.open(&Upload { multipart_id, ..sample::upload(1) }, None).await.unwrap();
        let job = || serde_json::from_value(json!({ "job": "sweep_uploads" })).unwrap();
        run(&sweep, job()).await.unwrap();
        assert_eq!(bucket.multiparts(), 1);
        clock.advance(IDLE);
        run(&sweep, job()).await.unwrap();
        assert_eq!(bucket.multiparts(), 0);
        assert_eq!(uploads.upload(&sample::upload_id(1)).await.unwrap().unwrap().status, Status::Expired);
    }
}
