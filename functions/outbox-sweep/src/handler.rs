//! Schedule -> bells.

use domain::fault::PortFault;
use domain::job::Bookmarks;
use domain::push::{PushQueue, Unpushed, sweep};
use serde::Deserialize;
use time::OffsetDateTime;

/// What a schedule asks for.
#[derive(Debug, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub(crate) enum Job {
    RingUnpushed,
}

pub(crate) async fn run(
    unpushed: &dyn Unpushed,
    queue: &dyn PushQueue,
    bookmarks: &dyn Bookmarks,
    job: Job,
    now: OffsetDateTime,
) -> Result<(), PortFault> {
    match job {
        Job::RingUnpushed => {
            let rung = sweep(unpushed, queue, bookmarks, now).await?;
            if rung > 0 {
                tracing::warn!(conversation.count = rung, "Rang for {rung} conversations that were not pushed in time");
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::push::OVERDUE;
    use testkit::sample::NOW;
    use testkit::{MemoryPushQueue, MemoryRoom, MemoryTable};

    use super::*;

    #[tokio::test]
    async fn what_waits_too_long_is_rung_for() {
        let (room, queue, bookmarks) = (MemoryRoom::default(), MemoryPushQueue::default(), MemoryTable::default());
        let conversation = room.converse(1, &["ann", "bob"]);
        room.say(&conversation, "ann", "x", NOW);
        let job = || serde_json::from_str(r#"{"job": "ring_unpushed"}"#).unwrap();
        run(&room, &queue, &bookmarks, job(), NOW).await.unwrap();
        assert!(queue.take().is_empty());
        run(&room, &queue, &bookmarks, job(), NOW + OVERDUE).await.unwrap();
        assert_eq!(queue.take().len(), 1);
    }
}
