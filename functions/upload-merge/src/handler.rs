//! Message -> job -> merge.

use domain::upload::fault::UploadFault;
use domain::upload::merge::Merge;

/// Does the job of one message.
pub(crate) async fn merge(merge: &Merge, body: String) -> Result<(), UploadFault> {
    let job = serde_json::from_str(&body).map_err(UploadFault::NotAJob)?;
    merge.run(&job).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::fault::{Fault as _, Refusal, Remedy};
    use domain::upload::UploadStore as _;
    use domain::upload::merge::MergeJob;
    use domain::upload::object::{ChunkObjects as _, Multipart as _};
    use domain::upload::{Status, Upload};
    use testkit::{ManualClock, MemoryBucket, MemoryBus, MemoryPushQueue, MemoryUploads, sample};

    use super::*;

    fn world() -> (Arc<MemoryUploads>, Arc<MemoryBucket>, Merge) {
        let (uploads, bucket) = (Arc::<MemoryUploads>::default(), Arc::<MemoryBucket>::default());
        let merge = Merge {
            uploads: uploads.clone(),
            files: uploads.clone(),
            multipart: bucket.clone(),
            objects: bucket.clone(),
            chunks: bucket.clone(),
            bus: Arc::<MemoryBus>::default(),
            push: Arc::<MemoryPushQueue>::default(),
            clock: Arc::<ManualClock>::default(),
        };
        (uploads, bucket, merge)
    }

    #[tokio::test]
    async fn a_job_as_it_is_queued_is_done() {
        let (uploads, bucket, merge_of) = world();
        let upload = Upload { mime_type: "text/plain".to_owned(), ..sample::upload(1) };
        let multipart_id = bucket.begin(&upload.key(), "text/plain").await.unwrap();
        bucket.put_part((&upload.key(), &multipart_id, 1), b"abc".to_vec()).await.unwrap();
        uploads.open(&Upload { multipart_id, ..upload.clone() }, None).await.unwrap();
        let job = MergeJob::first(&upload.upload_id, Vec::new());
        merge(&merge_of, serde_json::to_string(&job).unwrap()).await.unwrap();
        assert_eq!(uploads.upload(&upload.upload_id).await.unwrap().unwrap().status, Status::Completed);
    }

    #[tokio::test]
    async fn what_is_no_job_is_parked() {
        let fault = merge(&world().2, "{\"upload_id\": \"x\"}".to_owned()).await.unwrap_err();
        assert_eq!(fault.remedy(), Remedy::Reject(Refusal::Invalid));
    }
}
