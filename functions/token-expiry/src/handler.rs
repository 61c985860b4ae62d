//! Schedule -> job.

use domain::fault::{Fault, PortFault, Remedy};
use domain::inbox::{self, OpenEntries};
use domain::session::{Outcome, SessionStore};
use domain::work::WorkQueue;
use serde::Deserialize;
use time::OffsetDateTime;

/// How many sessions one page names.
const PAGE: u32 = 100;

/// How many pages one run works through; what is left is due a minute later.
const PAGES: usize = 20;

/// What a schedule asks for, as its `Input` in the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub(crate) enum Job {
    ExpireSessions,
    RingInbox,
}

/// Runs one job. Run twice, the second run finds nothing to do.
pub(crate) async fn run<S: SessionStore + OpenEntries>(
    store: &S,
    work: &dyn WorkQueue,
    job: Job,
    now: OffsetDateTime,
) -> Result<(), JobFault> {
    match job {
        Job::ExpireSessions => expire_sessions(store, now).await,
        Job::RingInbox => ring_inbox(store, work, now).await,
    }
}

/// Rings for callbacks that were acknowledged and are not done: their bell and the stream's were lost, or their work failed to the end.
async fn ring_inbox(inbox: &dyn OpenEntries, work: &dyn WorkQueue, now: OffsetDateTime) -> Result<(), JobFault> {
    let rung = inbox::ring_again(inbox, work, now).await?;
    if rung > 0 {
        tracing::warn!(entry.count = rung, "Callbacks were waiting for a bell");
    }
    Ok(())
}

/// Ends every session that is past its time. The table's stream makes the cards follow.
async fn expire_sessions(sessions: &dyn SessionStore, now: OffsetDateTime) -> Result<(), JobFault> {
    let mut ended = 0_usize;
    for _ in 0..PAGES {
        let due = sessions.overdue(now, PAGE).await?;
        let full = due.len() >= PAGE as usize;
        for session_id in due {
            let Some(session) = sessions.get(&session_id).await? else { continue };
            // It may have ended since the index was read.
            let Ok(expired) = session.ended(Outcome::Expired) else { continue };
            match sessions.end(&expired, None).await {
                Ok(()) => ended += 1,
                Err(PortFault::Conflict { .. }) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        if !full {
            break;
        }
    }
    tracing::info!(session.count = ended, "Sessions expired");
    Ok(())
}

/// Why a job stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobFault {
    #[error("a store failed")]
    Store(#[from] PortFault),
}

impl Fault for JobFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Store(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Store(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::inbox::{Inbox as _, RING_AGAIN};
    use domain::session::{SESSION_LIFE, SessionStatus};
    use testkit::sample::{self, NOW};
    use testkit::{MemoryQueue, MemoryTable};

    use super::*;

    #[tokio::test]
    async fn ends_what_is_overdue_over_several_pages_and_leaves_the_rest() {
        let table = MemoryTable::default();
        for n in 0..250 {
            table.create(&sample::session(n)).await.unwrap();
        }
        let done = sample::session(300);
        table.create(&done).await.unwrap();
        table.end(&done.ended(Outcome::Completed).unwrap(), None).await.unwrap();

        run(&table, &MemoryQueue::default(), Job::ExpireSessions, NOW + SESSION_LIFE).await.unwrap();
        run(&table, &MemoryQueue::default(), Job::ExpireSessions, NOW + SESSION_LIFE).await.unwrap();
        for n in 0..250 {
            let session = table.get(&sample::session_id(n)).await.unwrap().unwrap();
            assert_eq!((session.status, session.version), (SessionStatus::Expired, 2));
        }
        assert_eq!(table.get(&done.session_id).await.unwrap().unwrap().status, SessionStatus::Completed);
    }

    #[tokio::test]
    async fn ends_nothing_a_second_too_early() {
        let table = MemoryTable::default();
        table.create(&sample::session(1)).await.unwrap();
        run(&table, &MemoryQueue::default(), Job::ExpireSessions, NOW + SESSION_LIFE - time::Duration::SECOND)
            .await
            .unwrap();
        assert_eq!(table.get(&sample::session_id(1)).await.unwrap().unwrap().status, SessionStatus::Pending);
    }

    #[tokio::test]
    async fn rings_for_a_callback_that_nobody_heard_of() {
        let (table, queue) = (MemoryTable::default(), MemoryQueue::default());
        table.accept(&sample::entry("cli_a", "ev1")).await.unwrap();
        run(&table, &queue, Job::RingInbox, NOW + RING_AGAIN).await.unwrap();
        assert_eq!(queue.rung().len(), 1);
    }
}
