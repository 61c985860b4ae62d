//! The sweep of the inbox over ports in memory: what was acknowledged is rung for until it is done.
#![expect(clippy::unwrap_used, reason = "what does not run ends the test")]

use std::sync::atomic::Ordering;

use domain::fault::{Fault as _, Remedy};
use domain::inbox::{Inbox as _, KEPT, RING_AGAIN, ring_again};
use domain::work::Doorbell;
use testkit::sample::{self, NOW};
use testkit::{MemoryQueue, MemoryTable};
use time::Duration;

/// Runs the sweep every minute of `span` and says at which minutes it rang.
async fn minutes_rung(table: &MemoryTable, span: Duration) -> Vec<i64> {
    let queue = MemoryQueue::default();
    let mut minutes = Vec::new();
    for minute in 0..=span.whole_minutes() {
        if ring_again(table, &queue, NOW + Duration::minutes(minute)).await.unwrap() > 0 {
            minutes.push(minute);
        }
    }
    minutes
}

#[tokio::test]
async fn an_entry_that_nobody_answers_is_rung_for_whenever_its_age_has_doubled() {
    let table = MemoryTable::default();
    table.accept(&sample::entry("cli_a", "ev1")).await.unwrap();
    assert_eq!(minutes_rung(&table, Duration::hours(3)).await, [1, 2, 4, 8, 16, 32, 64, 128]);
    assert!((KEPT.whole_minutes()).ilog2() < 15, "and some fifteen times before it is forgotten");
}

#[tokio::test]
async fn what_is_done_is_rung_for_no_more() {
    let (table, entry) = (MemoryTable::default(), sample::entry("cli_a", "ev1"));
    table.accept(&entry).await.unwrap();
    table.claim(&entry.app_id, &entry.event_id, NOW).await.unwrap();
    table.finish(&entry.app_id, &entry.event_id, NOW).await.unwrap();
    assert!(minutes_rung(&table, Duration::hours(1)).await.is_empty());
}

#[tokio::test]
async fn one_sweep_rings_for_many_pages_and_for_each_entry_once_by_its_own_bell() {
    let (table, queue) = (MemoryTable::default(), MemoryQueue::default());
    let entries: Vec<_> = (0..250).map(|n| sample::entry("cli_a", &format!("ev{n:03}"))).collect();
    for entry in &entries {
        table.accept(entry).await.unwrap();
    }
    assert_eq!(ring_again(&table, &queue, NOW + RING_AGAIN).await.unwrap(), 250);
    let mut rung = queue.rung();
    rung.sort_by_key(Doorbell::deduplication_id);
    assert_eq!(rung, entries.iter().map(Doorbell::for_entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_bell_that_cannot_be_rung_is_due_again_at_the_next_sweep() {
    let (table, queue) = (MemoryTable::default(), MemoryQueue::default());
    table.accept(&sample::entry("cli_a", "ev1")).await.unwrap();
    queue.down.store(true, Ordering::SeqCst);
    let fault = ring_again(&table, &queue, NOW + RING_AGAIN).await.unwrap_err();
    assert_eq!(fault.remedy(), Remedy::Retry);
    queue.down.store(false, Ordering::SeqCst);
    assert_eq!(ring_again(&table, &queue, NOW + RING_AGAIN).await.unwrap(), 1);
}
