//! Job -> sockets.

use domain::fault::{Fault, PortFault, Refusal, Remedy};
use domain::push::Pusher;
use time::OffsetDateTime;

/// Does one job.
pub(crate) async fn push(pusher: &Pusher, job: String, now: OffsetDateTime) -> Result<(), PushFault> {
    let job = serde_json::from_str(&job).map_err(PushFault::NotAJob)?;
    Ok(pusher.carry_out(&job, now).await?)
}

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushFault {
    #[error("the message is not a job for sockets")]
    NotAJob(#[source] serde_json::Error),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for PushFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::NotAJob(_) => Remedy::Reject(Refusal::Invalid),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotAJob(_) => "invalid_message",
            Self::Port(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use domain::push::PushJob;
    use testkit::sample::NOW;
    use testkit::{MemoryPushQueue, MemoryRoom, MemorySockets};

    use super::*;

    fn pusher(room: &Arc<MemoryRoom>) -> Pusher {
        Pusher::new(room.clone(), Arc::new(MemorySockets::default()), Arc::new(MemoryPushQueue::default()))
    }

    #[tokio::test]
    async fn a_bell_moves_the_watermark() {
        let room = Arc::new(MemoryRoom::default());
        let conversation_id = room.converse(1, &["ann", "bob"]);
        let seq = room.say(&conversation_id, "ann", "你好 🙂", NOW);
        let bell = serde_json::to_string(&PushJob::Drain { conversation_id: conversation_id.clone(), seq }).unwrap();
        push(&pusher(&room), bell, NOW).await.unwrap();
        assert_eq!(room.pushed(&conversation_id), (1, false));
    }

    #[tokio::test]
    async fn what_is_no_job_is_parked_and_a_table_that_is_down_is_tried_again() {
        let room = Arc::new(MemoryRoom::default());
        let conversation_id = room.converse(1, &["ann", "bob"]);
        for bad in ["", "{}", r#"{"kind":"drain","conversation_id":"x","seq":1}"#] {
            let fault = push(&pusher(&room), bad.to_owned(), NOW).await.unwrap_err();
            assert_eq!(fault.remedy(), Remedy::Reject(Refusal::Invalid), "{bad}");
        }
        room.down.store(true, Ordering::SeqCst);
        let check = serde_json::to_string(&PushJob::Check { conversation_id }).unwrap();
        assert_eq!(push(&pusher(&room), check, NOW).await.unwrap_err().remedy(), Remedy::Retry);
    }
}
