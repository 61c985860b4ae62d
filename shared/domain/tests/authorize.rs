//! Authorization over ports in memory: how an approval ends, whatever the vendor, the person or a second worker does.
#![expect(clippy::unwrap_used, reason = "what does not run ends the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use domain::app::{App, AppDirectory, AppStatus, AppStore};
use domain::authorize::{Approval, Authorization, AuthorizeFault, VendorFault};
use domain::fault::{Fault as _, Remedy};
use domain::session::{Outcome, SESSION_LIFE, Session, SessionFault, SessionStatus, SessionStore};
use domain::token::TokenStore;
use testkit::sample::{self, NOW};
use testkit::{MemoryQueue, MemoryTable, MemoryVendor, PlainSealer};

const URL: &str = "https://skylark.example";

struct World {
    table: Arc<MemoryTable>,
    queue: Arc<MemoryQueue>,
    vendor: Arc<MemoryVendor>,
    authorization: Authorization,
    session: Session,
}

async fn world(vendor: MemoryVendor) -> World {
    let (table, sealer) = (Arc::new(MemoryTable::default()), Arc::new(PlainSealer));
    table.put(&sample::openable_app("cli_a").await).await.unwrap();
    let session = sample::session(1);
    table.create(&session).await.unwrap();
    let (queue, vendor) = (Arc::new(MemoryQueue::default()), Arc::new(vendor));
    let apps = Arc::new(AppDirectory::new(table.clone(), sealer.clone()));
    let authorization = Authorization {
        apps,
        sessions: table.clone(),
        tokens: table.clone(),
        sealer,
        vendor: vendor.clone(),
        work: queue.clone(),
    };
    World { table, queue, vendor, authorization, session }
}

fn approval() -> Approval {
    Approval { code: "code".into(), attempt: Some(("verifier".into(), format!("{URL}/lark/oauth/callback"))) }
}

impl World {
    async fn complete(&self) -> Result<Session, AuthorizeFault> {
        self.authorization.complete(&self.session, &approval(), NOW).await
    }

    async fn stored(&self) -> Session {
        SessionStore::get(self.table.as_ref(), &self.session.session_id).await.unwrap().unwrap()
    }

    async fn has_token(&self) -> bool {
        let (app, person) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
        TokenStore::get(self.table.as_ref(), &app, &person).await.unwrap().is_some()
    }
}

#[tokio::test]
async fn an_approval_leaves_a_sealed_token_a_completed_session_and_a_ring() {
    let world = world(MemoryVendor::default()).await;
    assert_eq!(world.complete().await.unwrap().status, SessionStatus::Completed);
    assert_eq!((world.stored().await.status, world.has_token().await), (SessionStatus::Completed, true));
    assert_eq!(world.queue.rung().len(), 1);
}

#[tokio::test]
async fn the_same_person_finishes_on_two_devices_and_the_last_tokens_stay() {
    let world = world(MemoryVendor { codes: 2, ..MemoryVendor::default() }).await;
    let completed = world.complete().await.unwrap();
    let (app, person) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
    let first = TokenStore::get(world.table.as_ref(), &app, &person).await.unwrap().unwrap();
    let later = NOW + time::Duration::MINUTE;
    let again = world.authorization.complete(&completed, &approval(), later).await.unwrap();
    assert_eq!((again.status, again.version), (SessionStatus::Completed, 2), "it ended once");
    let second = TokenStore::get(world.table.as_ref(), &app, &person).await.unwrap().unwrap();
    assert_eq!(second.authorized_at, later);
    assert!(second.version > first.version, "who refreshes the first pair does not overwrite the second");
    let late = world.authorization.complete(&completed, &approval(), NOW + SESSION_LIFE).await;
    assert!(matches!(late, Err(AuthorizeFault::Session(SessionFault::Ended(_)))), "{late:?}");
}

#[tokio::test]
async fn a_code_that_was_used_fails_the_session_and_keeps_no_token() {
    let world = world(MemoryVendor { exchanges: AtomicU32::new(1), ..MemoryVendor::default() }).await;
    assert!(matches!(world.complete().await, Err(AuthorizeFault::Vendor(VendorFault::Refused { code: 20065, .. }))));
    let stored = world.stored().await;
    assert_eq!((stored.status, stored.failure.as_deref()), (SessionStatus::Failed, Some("20065")));
    assert!(!world.has_token().await);
}

#[tokio::test]
async fn a_vendor_that_is_silent_leaves_the_session_open_for_another_try() {
    let world = world(MemoryVendor::default()).await;
    world.vendor.down.store(true, Ordering::SeqCst);
    assert_eq!(world.complete().await.unwrap_err().remedy(), Remedy::Retry);
    assert_eq!(world.stored().await.status, SessionStatus::Pending);
    world.vendor.down.store(false, Ordering::SeqCst);
    assert_eq!(world.complete().await.unwrap().status, SessionStatus::Completed);
}

#[tokio::test]
async fn somebody_elses_approval_is_not_kept_and_does_not_end_the_session() {
    let world = world(MemoryVendor { owner: Some("ou_bob"), ..MemoryVendor::default() }).await;
    assert!(matches!(world.complete().await, Err(AuthorizeFault::OtherPerson)));
    assert_eq!((world.stored().await.status, world.has_token().await), (SessionStatus::Pending, false));
}

#[tokio::test]
async fn an_approval_that_comes_after_the_end_changes_nothing() {
    let world = world(MemoryVendor::default()).await;
    let late = world.authorization.complete(&world.session, &approval(), NOW + SESSION_LIFE).await;
    assert!(matches!(late, Err(AuthorizeFault::Session(SessionFault::Expired))));
    world.table.end(&world.session.ended(Outcome::Rejected).unwrap(), None).await.unwrap();
    // This worker read the session before it was rejected.
    let raced = world.complete().await;
    assert!(matches!(raced, Err(AuthorizeFault::Session(SessionFault::Ended(SessionStatus::Rejected)))));
    assert!(!world.has_token().await);
}

#[tokio::test]
async fn two_workers_that_reject_at_once_agree() {
    let world = world(MemoryVendor::default()).await;
    for _ in 0..2 {
        assert_eq!(world.authorization.reject(&world.session).await.unwrap().status, SessionStatus::Rejected);
    }
}

#[tokio::test]
async fn a_bell_that_cannot_be_rung_does_not_undo_what_is_stored() {
    let world = world(MemoryVendor::default()).await;
    world.queue.down.store(true, Ordering::SeqCst);
    assert_eq!(world.complete().await.unwrap().status, SessionStatus::Completed);
}

#[tokio::test]
async fn the_card_is_sent_once_and_then_follows_the_session() {
    let world = world(MemoryVendor::default()).await;
    let follow = || world.authorization.follow(&world.session.session_id, URL, None, NOW);
    follow().await.unwrap();
    follow().await.unwrap();
    world.complete().await.unwrap();
    follow().await.unwrap();
    follow().await.unwrap();
    let cards = world.vendor.cards();
    let expected = [("sent".to_owned(), SessionStatus::Pending), ("om_1".to_owned(), SessionStatus::Completed)];
    assert_eq!(cards, expected);
}

#[tokio::test]
async fn a_card_that_was_recalled_is_not_tried_for_ever() {
    let world = world(MemoryVendor { recalled: true, ..MemoryVendor::default() }).await;
    world.authorization.follow(&world.session.session_id, URL, None, NOW).await.unwrap();
    world.complete().await.unwrap();
    world.authorization.follow(&world.session.session_id, URL, None, NOW).await.unwrap();
    assert!(!world.stored().await.card_is_behind());
}

#[tokio::test]
async fn a_disabled_app_exchanges_nothing() {
    let world = world(MemoryVendor::default()).await;
    let app = AppStore::get(world.table.as_ref(), &sample::app_id("cli_a")).await.unwrap().unwrap();
    world.table.put(&App { status: AppStatus::Disabled, version: 2, ..app }).await.unwrap();
    assert!(matches!(world.complete().await, Err(AuthorizeFault::App(_))));
    assert_eq!(world.vendor.exchanges.load(Ordering::SeqCst), 0);
}
