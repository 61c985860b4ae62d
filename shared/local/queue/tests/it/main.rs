//! Queues, buses and patterns as their users meet them: real files, real sockets, real crashes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod crash;
mod events;
mod model;
mod pattern;
mod protocol;
mod queues;
mod sdk;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;

use local_queue::clock::ManualClock;
use local_queue::sqs::{Outgoing, Queues, Received};
use tempfile::TempDir;

pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const ENDPOINT: &str = "http://127.0.0.1:3000";

/// Queues in a folder of their own, on a clock of their own.
pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) queues: Queues,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let queues = Self::open(&folder, &clock);
        Self { folder, clock, queues }
    }

    fn open(folder: &TempDir, clock: &Arc<ManualClock>) -> Queues {
        Queues::open_with_clock(&folder.path().join("queues.db"), ENDPOINT, ACCOUNT, REGION, Arc::clone(clock) as _)
            .unwrap()
    }

    pub(crate) fn reopened(self) -> Self {
        let Self { folder, clock, queues } = self;
        drop(queues);
        let queues = Self::open(&folder, &clock);
        Self { folder, clock, queues }
    }

    pub(crate) fn create(&self, name: &str, attributes: &[(&str, &str)]) {
        self.queues.create(name, map(attributes)).unwrap();
    }

    pub(crate) async fn send(&self, queue: &str, messages: &[Outgoing]) -> Vec<String> {
        let sent = self.queues.send(queue, messages.to_vec()).await.unwrap();
        sent.into_iter().map(|sent| sent.message_id).collect()
    }

    /// What can be received at once.
    pub(crate) async fn receive(&self, queue: &str, max: u32) -> Vec<Received> {
        self.queues.receive(queue, max, std::time::Duration::ZERO, None).await.unwrap()
    }
}

pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

pub(crate) fn text(body: &str) -> Outgoing {
    Outgoing { body: body.into(), ..Outgoing::default() }
}

pub(crate) fn fifo(body: &str, group: &str, deduplication_id: &str) -> Outgoing {
    Outgoing {
        body: body.into(),
        group_id: Some(group.into()),
        deduplication_id: Some(deduplication_id.into()),
        ..Outgoing::default()
    }
}

pub(crate) fn bodies(messages: &[Received]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}

pub(crate) fn handles(messages: &[Received]) -> Vec<String> {
    messages.iter().map(|message| message.receipt_handle.clone()).collect()
}
