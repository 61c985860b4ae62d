//! Authorization over ports in memory: how an approval ends, whatever the vendor, the person or a second worker does.
#![expect(clippy::unwrap_used, reason = "what does not run ends the test")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domain::app::{App, AppDirectory, AppSecrets, AppStatus, AppStore, OpenApp};
use domain::authorize::{Approval, Authorization, AuthorizeFault, CardView, Vendor, VendorFault};
use domain::fault::{Fault as _, Remedy};
use domain::id::{ChatId, MessageId, OpenId};
use domain::session::{Outcome, SESSION_LIFE, Session, SessionFault, SessionStatus, SessionStore};
use domain::token::{Grant, Profile, TokenPair, TokenStore};
use secrecy::SecretString;
use testkit::sample::{self, NOW};
use testkit::{MemoryQueue, MemoryTable, PlainSealer};
use time::Duration;

const URL: &str = "https://skylark.example";

/// A vendor that knows one code and counts what it is asked.
#[derive(Default)]
struct OneCode {
    /// Whose approval the code is; `ou_ann` by default.
    owner: Option<&'static str>,
    used: AtomicU32,
    down: AtomicBool,
    recalled: bool,
    cards: Mutex<Vec<(String, SessionStatus)>>,
}

#[async_trait]
impl Vendor for OneCode {
    async fn exchange(&self, _app: &OpenApp, _approval: &Approval) -> Result<Grant, VendorFault> {
        if self.down.load(Ordering::SeqCst) {
            return Err(VendorFault::Unavailable("silent".into()));
        }
        if self.used.fetch_add(1, Ordering::SeqCst) > 0 {
            return Err(VendorFault::Refused { code: 20065, message: "code already used".to_owned() });
        }
        let pair = TokenPair { access_token: "u-secret".into(), refresh_token: Some("r-secret".into()) };
        let scopes = vec!["offline_access".to_owned()];
        Ok(Grant { pair, scopes, expires_in: Duration::hours(2), refresh_expires_in: Some(Duration::days(7)) })
    }

    async fn profile(&self, _app: &OpenApp, _token: &SecretString) -> Result<(OpenId, Profile), VendorFault> {
        let profile = Profile { tenant_key: "t1".to_owned(), ..Profile::default() };
        Ok((sample::open_id(self.owner.unwrap_or("ou_ann")), profile))
    }

    async fn send_card(&self, _app: &OpenApp, card: CardView<'_>) -> Result<MessageId, VendorFault> {
        self.cards.lock().unwrap().push(("sent".to_owned(), card.session.status));
        Ok(MessageId::parse("om_1").unwrap())
    }

    async fn update_card(&self, _app: &OpenApp, id: &MessageId, card: CardView<'_>) -> Result<(), VendorFault> {
        if self.recalled {
            return Err(VendorFault::Refused { code: 230_011, message: "recalled".to_owned() });
        }
        self.cards.lock().unwrap().push((id.to_string(), card.session.status));
        Ok(())
    }

    async fn tell_operators(&self, _app: &OpenApp, _chat: &ChatId, session: &Session) -> Result<(), VendorFault> {
        self.cards.lock().unwrap().push(("operators".to_owned(), session.status));
        Ok(())
    }
}

struct World {
    table: Arc<MemoryTable>,
    queue: Arc<MemoryQueue>,
    vendor: Arc<OneCode>,
    authorization: Authorization,
    session: Session,
}

async fn world(vendor: OneCode) -> World {
    let (table, sealer) = (Arc::new(MemoryTable::default()), Arc::new(PlainSealer));
    let secrets = AppSecrets { app_secret: "s".into(), encrypt_key: None, verification_token: "v".into() };
    let app = sample::app("cli_a");
    let app = App { secrets: secrets.seal(&app.app_id, sealer.as_ref()).await.unwrap(), ..app };
    table.put(&app).await.unwrap();
    let session = sample::session(1);
    table.create(&session).await.unwrap();
    let (queue, vendor) = (Arc::new(MemoryQueue::default()), Arc::new(vendor));
    let apps = Arc::new(AppDirectory::new(table.clone(), sealer.clone()));
    let authorization =
        Authorization { apps, sessions: table.clone(), sealer, vendor: vendor.clone(), work: queue.clone() };
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
    let world = world(OneCode::default()).await;
    assert_eq!(world.complete().await.unwrap().status, SessionStatus::Completed);
    assert_eq!((world.stored().await.status, world.has_token().await), (SessionStatus::Completed, true));
    assert_eq!(world.queue.rung().len(), 1);
}

#[tokio::test]
async fn a_code_that_was_used_fails_the_session_and_keeps_no_token() {
    let world = world(OneCode { used: AtomicU32::new(1), ..OneCode::default() }).await;
    assert!(matches!(world.complete().await, Err(AuthorizeFault::Vendor(VendorFault::Refused { code: 20065, .. }))));
    let stored = world.stored().await;
    assert_eq!((stored.status, stored.failure.as_deref()), (SessionStatus::Failed, Some("20065")));
    assert!(!world.has_token().await);
}

#[tokio::test]
async fn a_vendor_that_is_silent_leaves_the_session_open_for_another_try() {
    let world = world(OneCode::default()).await;
    world.vendor.down.store(true, Ordering::SeqCst);
    assert_eq!(world.complete().await.unwrap_err().remedy(), Remedy::Retry);
    assert_eq!(world.stored().await.status, SessionStatus::Pending);
    world.vendor.down.store(false, Ordering::SeqCst);
    assert_eq!(world.complete().await.unwrap().status, SessionStatus::Completed);
}

#[tokio::test]
async fn somebody_elses_approval_is_not_kept_and_does_not_end_the_session() {
    let world = world(OneCode { owner: Some("ou_bob"), ..OneCode::default() }).await;
    assert!(matches!(world.complete().await, Err(AuthorizeFault::OtherPerson)));
    assert_eq!((world.stored().await.status, world.has_token().await), (SessionStatus::Pending, false));
}

#[tokio::test]
async fn an_approval_that_comes_after_the_end_changes_nothing() {
    let world = world(OneCode::default()).await;
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
    let world = world(OneCode::default()).await;
    for _ in 0..2 {
        assert_eq!(world.authorization.reject(&world.session).await.unwrap().status, SessionStatus::Rejected);
    }
}

#[tokio::test]
async fn a_bell_that_cannot_be_rung_does_not_undo_what_is_stored() {
    let world = world(OneCode::default()).await;
    world.queue.down.store(true, Ordering::SeqCst);
    assert_eq!(world.complete().await.unwrap().status, SessionStatus::Completed);
}

#[tokio::test]
async fn the_card_is_sent_once_and_then_follows_the_session() {
    let world = world(OneCode::default()).await;
    let follow = || world.authorization.follow(&world.session.session_id, URL, NOW);
    follow().await.unwrap();
    follow().await.unwrap();
    world.complete().await.unwrap();
    follow().await.unwrap();
    follow().await.unwrap();
    let cards = world.vendor.cards.lock().unwrap().clone();
    let expected = [("sent".to_owned(), SessionStatus::Pending), ("om_1".to_owned(), SessionStatus::Completed)];
    assert_eq!(cards, expected);
}

#[tokio::test]
async fn a_card_that_was_recalled_is_not_tried_for_ever() {
    let world = world(OneCode { recalled: true, ..OneCode::default() }).await;
    world.authorization.follow(&world.session.session_id, URL, NOW).await.unwrap();
    world.complete().await.unwrap();
    world.authorization.follow(&world.session.session_id, URL, NOW).await.unwrap();
    assert!(!world.stored().await.card_is_behind());
}

#[tokio::test]
async fn a_disabled_app_exchanges_nothing() {
    let world = world(OneCode::default()).await;
    let app = AppStore::get(world.table.as_ref(), &sample::app_id("cli_a")).await.unwrap().unwrap();
    world.table.put(&App { status: AppStatus::Disabled, version: 2, ..app }).await.unwrap();
    assert!(matches!(world.complete().await, Err(AuthorizeFault::App(_))));
    assert_eq!(world.vendor.used.load(Ordering::SeqCst), 0);
}
