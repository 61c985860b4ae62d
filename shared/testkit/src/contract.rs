//! What every adapter of a port must do, whatever is behind it. Each function expects an empty store.

use domain::app::{App, AppKind, AppStatus, AppStore};
use domain::fault::PortFault;
use domain::id::{ChatId, EventId, MessageId};
use domain::inbox::{Acceptance, CLAIM, Claim, Inbox, OpenEntries, RING_AGAIN};
use domain::limit::{Limit, LimitFault, Limiter};
use domain::oauth::{ClientStore, FamilyStore, Presented, SecretHash};
use domain::seal::{SealContext, SealFault, Sealed, Sealer};
use domain::session::{Outcome, SESSION_LIFE, SessionStatus, SessionStore};
use domain::token::TokenStore;
use futures_util::future::join_all;
use secrecy::{ExposeSecret as _, SecretSlice};
use time::Duration;

use crate::sample::{self, NOW};

/// Sealing: a record opens in its own place only, and is sealed anew, once, if `earlier` sealed it before the key was rotated.
pub async fn sealer(sealer: &dyn Sealer, earlier: &dyn Sealer) {
    let app = sample::app("cli_a").app_id;
    let (here, elsewhere) = (SealContext::AppTicket(&app), SealContext::App(&app));
    let secret = SecretSlice::from("密钥 🔑".as_bytes().to_vec());
    let damaged = |opened: Result<_, SealFault>| matches!(opened, Err(SealFault::Damaged));

    let now = sealer.seal(here, &secret).await.unwrap();
    assert_eq!(**sealer.open(here, &now).await.unwrap(), *secret.expose_secret());
    assert!(damaged(sealer.open(elsewhere, &now).await.map(drop)), "opened in another place");
    assert_eq!(sealer.rewrap(here, &now).await.unwrap(), None);
    assert!(damaged(earlier.open(here, &now).await.map(drop)), "opened without the new key");

    let before = earlier.seal(here, &secret).await.unwrap();
    assert_eq!(**sealer.open(here, &before).await.unwrap(), *secret.expose_secret());
    assert!(damaged(sealer.rewrap(elsewhere, &before).await.map(drop)), "sealed anew for another place");
    let anew = sealer.rewrap(here, &before).await.unwrap().expect("the earlier key's record is sealed anew");
    assert_eq!(**sealer.open(here, &anew).await.unwrap(), *secret.expose_secret());
    assert_eq!(sealer.rewrap(here, &anew).await.unwrap(), None, "once is enough");
    assert!(damaged(sealer.open(here, &Sealed("not a record".to_owned())).await.map(drop)));
}

/// Apps: created once, changed and deleted only by who saw the last version, listed whole.
pub async fn apps(store: &dyn AppStore) {
    let app = sample::app("cli_b");
    assert_eq!(store.get(&app.app_id).await.unwrap(), None);
    store.put(&app).await.unwrap();
    assert_eq!(store.get(&app.app_id).await.unwrap().as_ref(), Some(&app));
    assert!(matches!(store.put(&app).await, Err(PortFault::Conflict { .. })), "created twice");

    let mut changed = app.clone();
    changed.status = AppStatus::Disabled;
    changed.kind = AppKind::Store;
    changed.operator_chat = Some(ChatId::parse("oc_operators").unwrap());
    changed.privacy_url = Some("https://app.example/privacy?lang=zh".parse().unwrap());
    changed.version = 2;
    store.put(&changed).await.unwrap();
    assert!(matches!(store.put(&changed).await, Err(PortFault::Conflict { .. })), "changed from a stale version");
    assert_eq!(store.get(&app.app_id).await.unwrap(), Some(changed.clone()));

    store.put(&sample::app("cli_a")).await.unwrap();
    let ids: Vec<String> = store.list().await.unwrap().iter().map(|a| a.app_id.to_string()).collect();
    assert_eq!(ids, ["cli_a", "cli_b"]);

    racing_changes(store, &changed).await;
    deletion(store).await;
    many_apps(store).await;
}

/// Of many changes to one version, one is made and the others are told.
async fn racing_changes(store: &dyn AppStore, stored: &App) {
    let rivals: Vec<App> =
        (0..10).map(|n| App { name: format!("rival {n}"), version: stored.version + 1, ..stored.clone() }).collect();
    let answers = join_all(rivals.iter().map(|rival| store.put(rival))).await;
    let made: Vec<&App> =
        rivals.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(rival, _)| rival).collect();
    assert!(answers.iter().flat_map(Result::as_ref).count() == 1, "one of ten: {answers:?}");
    assert!(answers.iter().filter_map(|a| a.as_ref().err()).all(|fault| matches!(fault, PortFault::Conflict { .. })));
    assert_eq!(store.get(&stored.app_id).await.unwrap().as_ref(), made.first().copied());
}

async fn deletion(store: &dyn AppStore) {
    let app = sample::app("cli_gone");
    store.put(&app).await.unwrap();
    let changed = App { version: 2, ..app.clone() };
    store.put(&changed).await.unwrap();
    assert!(matches!(store.delete(&app.app_id, 1).await, Err(PortFault::Conflict { .. })), "changed since it was read");
    assert_eq!(store.get(&app.app_id).await.unwrap(), Some(changed));
    store.delete(&app.app_id, 2).await.unwrap();
    store.delete(&app.app_id, 2).await.unwrap();
    assert_eq!(store.get(&app.app_id).await.unwrap(), None);
    assert!(!store.list().await.unwrap().iter().any(|listed| listed.app_id == app.app_id));
    let late = App { version: 3, ..app.clone() };
    assert!(matches!(store.put(&late).await, Err(PortFault::Conflict { .. })), "a late change does not bring it back");
    store.put(&app).await.unwrap();
    store.delete(&app.app_id, 1).await.unwrap();
}

/// More than a page of them.
async fn many_apps(store: &dyn AppStore) {
    for n in 0..120 {
        store.put(&sample::app(&format!("cli_many_{n:03}"))).await.unwrap();
    }
    let apps = store.list().await.unwrap();
    assert_eq!(apps.iter().filter(|app| app.app_id.as_str().starts_with("cli_many_")).count(), 120);
    assert!(apps.windows(2).all(|pair| matches!(pair, [a, b] if a.app_id < b.app_id)), "by id, each once");
}

/// The inbox: accepted once, claimed by one at a time, finished once.
pub async fn inbox(inbox: &dyn Inbox) {
    let entry = sample::entry("cli_a", "ev1");
    let (app, event) = (&entry.app_id, &entry.event_id);
    assert_eq!(inbox.claim(app, event, NOW).await.unwrap(), Claim::Missing);

    let answers = join_all((0..20).map(|_| inbox.accept(&entry))).await;
    let new = answers.into_iter().filter(|a| matches!(a, Ok(Acceptance::New))).count();
    assert_eq!(new, 1, "of twenty at once, one is new");
    assert_eq!(inbox.accept(&sample::entry("cli_b", "ev1")).await.unwrap(), Acceptance::New, "ids belong to their app");

    let claims = join_all((0..20).map(|_| inbox.claim(app, event, NOW))).await;
    let taken: Vec<_> = claims.into_iter().filter_map(Result::ok).filter(|c| matches!(c, Claim::Taken(_))).collect();
    assert_eq!(taken, [Claim::Taken(entry.clone())], "of twenty at once, one gets it, whole");
    assert_eq!(inbox.claim(app, event, NOW + CLAIM - Duration::seconds(1)).await.unwrap(), Claim::Busy);

    inbox.release(app, event).await.unwrap();
    assert!(matches!(inbox.claim(app, event, NOW).await.unwrap(), Claim::Taken(_)), "a released entry is free");
    assert!(
        matches!(inbox.claim(app, event, NOW + CLAIM).await.unwrap(), Claim::Taken(_)),
        "a dead worker's claim ends"
    );

    inbox.finish(app, event, NOW).await.unwrap();
    inbox.finish(app, event, NOW).await.unwrap();
    inbox.release(app, event).await.unwrap();
    assert_eq!(inbox.claim(app, event, NOW + CLAIM * 2).await.unwrap(), Claim::Done);
    assert_eq!(inbox.accept(&entry).await.unwrap(), Acceptance::Seen, "done is remembered");
    inbox.finish(app, &EventId::parse("never-came").unwrap(), NOW).await.unwrap();
}

/// What is not done is found again, claimed or not; what is done never is.
pub async fn open_entries<S: Inbox + OpenEntries>(store: &S) {
    let entries: Vec<_> = (0..30).map(|n| sample::entry("cli_a", &format!("ev{n}"))).collect();
    for entry in &entries {
        store.accept(entry).await.unwrap();
    }
    assert_eq!(store.unanswered(NOW + RING_AGAIN - Duration::seconds(1), 100).await.unwrap(), []);
    let due = NOW + RING_AGAIN;
    let by_id = |mut entries: Vec<domain::inbox::Entry>| {
        entries.sort_by(|a, b| a.event_id.cmp(&b.event_id));
        entries
    };
    let claimed = entries.first().unwrap();
    store.claim(&claimed.app_id, &claimed.event_id, due).await.unwrap();
    assert_eq!(by_id(store.unanswered(due, 100).await.unwrap()), by_id(entries.clone()), "all, whole");
    assert!(matches!(store.unanswered(due, 8).await.unwrap().len(), 1..=8));

    for entry in &entries {
        store.put_off(&entry.app_id, &entry.event_id, due + Duration::HOUR).await.unwrap();
    }
    assert_eq!(store.unanswered(due, 100).await.unwrap(), []);
    store.finish(&claimed.app_id, &claimed.event_id, due).await.unwrap();
    store.put_off(&claimed.app_id, &claimed.event_id, due).await.unwrap();
    let rest: Vec<_> = entries.iter().skip(1).cloned().collect();
    assert_eq!(by_id(store.unanswered(due + Duration::HOUR, 100).await.unwrap()), by_id(rest), "what is done stays so");
    store.put_off(&claimed.app_id, &EventId::parse("never-came").unwrap(), due).await.unwrap();
}

/// Sessions: end once, with their token or not at all; the card only moves forward.
pub async fn sessions<S: SessionStore + TokenStore>(store: &S) {
    let session = sample::session(1);
    let id = &session.session_id;
    store.create(&session).await.unwrap();
    assert!(matches!(store.create(&session).await, Err(PortFault::Conflict { .. })));
    assert_eq!(SessionStore::get(store, id).await.unwrap().as_ref(), Some(&session));
    assert_eq!(SessionStore::get(store, &sample::session_id(9)).await.unwrap(), None);

    let message = MessageId::parse("om_1").unwrap();
    store.card_shown(id, &message, 1).await.unwrap();

    let completed = session.ended(Outcome::Completed).unwrap();
    let rejected = session.ended(Outcome::Rejected).unwrap();
    let token = sample::token("first");
    store.end(&completed, Some(&token)).await.unwrap();
    let late = sample::token("late");
    assert!(matches!(store.end(&rejected, Some(&late)).await, Err(PortFault::Conflict { .. })), "ends once");
    assert_eq!(TokenStore::get(store, &token.app_id, &token.open_id).await.unwrap(), Some(token), "no half of it");

    let stored = SessionStore::get(store, id).await.unwrap().unwrap();
    assert_eq!((stored.status, stored.version), (SessionStatus::Completed, 2));
    assert_eq!(
        (stored.message_id.as_ref(), stored.shown_version),
        (Some(&message), 1),
        "ending keeps the card's state"
    );
    store.card_shown(id, &message, 2).await.unwrap();
    store.card_shown(id, &message, 1).await.unwrap();
    assert_eq!(SessionStore::get(store, id).await.unwrap().unwrap().shown_version, 2, "never goes back");

    overdue(store).await;
    attempts(store).await;
}

async fn overdue(store: &impl SessionStore) {
    let (early, other) = (sample::session(2), sample::session(3));
    store.create(&early).await.unwrap();
    store.create(&other).await.unwrap();
    assert_eq!(store.overdue(NOW + SESSION_LIFE - Duration::seconds(1), 10).await.unwrap(), []);
    assert_eq!(store.overdue(NOW + SESSION_LIFE, 10).await.unwrap().len(), 2);
    assert_eq!(store.overdue(NOW + SESSION_LIFE, 1).await.unwrap().len(), 1);
    store.end(&early.ended(Outcome::Failed("20065".to_owned())).unwrap(), None).await.unwrap();
    assert_eq!(store.overdue(NOW + SESSION_LIFE, 10).await.unwrap(), [other.session_id], "an ended session is not due");
    let failed = store.get(&early.session_id).await.unwrap().unwrap();
    assert_eq!((failed.status, failed.failure.as_deref()), (SessionStatus::Failed, Some("20065")));
}

async fn attempts(store: &impl SessionStore) {
    let attempt = sample::attempt("abc");
    store.put_attempt(&attempt).await.unwrap();
    let taken = join_all((0..20).map(|_| store.take_attempt("abc"))).await;
    let taken: Vec<_> = taken.into_iter().filter_map(|t| t.unwrap()).collect();
    assert_eq!(taken, [attempt], "of twenty at once, one takes it");
}

/// Limits: `limiters` count into one store, as processes of their own do.
pub async fn limits(limiters: &[&dyn Limiter]) {
    let limit = Limit::per_minute(20);
    let every = |n: usize| limiters[n % limiters.len()];
    let answers = join_all((0..50).map(|n| every(n).take("user:a", limit, NOW))).await;
    let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(LimitFault::Exhausted { retry_after_secs: 61 })));
    assert_eq!((admitted, refused.count()), (20, 30), "of fifty at once, twenty, and the others know for how long");

    let later = NOW + Duration::seconds(30);
    every(0).take("user:b", limit, later).await.unwrap();
    for n in 0..limiters.len() {
        assert!(every(n).take("user:a", limit, later).await.is_err());
    }
    let free = NOW + Duration::seconds(61);
    for n in 0..19 {
        every(n).take("user:b", limit, free).await.unwrap();
        every(n).take("user:a", limit, free).await.unwrap();
    }
    every(0).take("user:a", limit, free).await.unwrap();
    assert!(every(1).take("user:a", limit, free).await.is_err(), "what was refused was not counted, what was taken is");
    assert!(every(2).take("user:b", limit, free).await.is_err(), "the one half a minute ago still counts");

    let days_later = NOW + Duration::days(2);
    every(1).take("user:b", limit, days_later).await.unwrap();
    every(0).take("user:b", limit, days_later - Duration::seconds(2)).await.unwrap();
}

/// Clients: created once, changed only by who saw the last version.
pub async fn clients(store: &dyn ClientStore) {
    let client = sample::client("c2", SecretHash("one".to_owned()));
    assert_eq!(store.get(&client.client_id).await.unwrap(), None);
    store.put(&client).await.unwrap();
    assert_eq!(store.get(&client.client_id).await.unwrap().as_ref(), Some(&client));
    assert!(matches!(store.put(&client).await, Err(PortFault::Conflict { .. })), "created twice");

    let mut changed = client.rotated(SecretHash("two".to_owned()), NOW + Duration::days(1));
    (changed.rate, changed.version) = (Some(1_000), 2);
    store.put(&changed).await.unwrap();
    assert!(matches!(store.put(&changed).await, Err(PortFault::Conflict { .. })), "changed from a stale version");
    assert_eq!(store.get(&changed.client_id).await.unwrap(), Some(changed));

    store.put(&sample::client("c1", SecretHash("one".to_owned()))).await.unwrap();
    let ids: Vec<String> = store.list().await.unwrap().iter().map(|client| client.client_id.to_string()).collect();
    assert_eq!(ids, ["c1", "c2"]);
}

/// Families: of all that rotate at once one does, and nothing rotates what was revoked.
pub async fn families(store: &dyn FamilyStore) {
    let family = sample::family(1);
    let id = &family.family_id;
    assert_eq!(store.get(id).await.unwrap(), None);
    store.create(&family).await.unwrap();
    assert!(matches!(store.create(&family).await, Err(PortFault::Conflict { .. })));
    assert_eq!(store.get(id).await.unwrap().as_ref(), Some(&family));

    let hash = |n: usize| SecretHash(format!("r1-{n}"));
    let next: Vec<_> = (0..20).map(|n| family.rotated(hash(n), Sealed(format!("s{n}")), NOW)).collect();
    let answers = join_all(next.iter().map(|next| store.rotate(next))).await;
    let winners: Vec<_> =
        answers.iter().zip(&next).filter(|(answer, _)| answer.is_ok()).map(|(_, next)| next).collect();
    let lost = answers.iter().filter(|answer| matches!(answer, Err(PortFault::Conflict { .. }))).count();
    assert_eq!((winners.len(), lost), (1, 19), "of twenty at once, one rotates");
    let stored = store.get(id).await.unwrap().expect("it is there");
    assert_eq!(winners, [&stored]);
    let losers_turn = stored.present(&stored.anchor, &SecretHash("r0".to_owned()), NOW);
    assert!(matches!(losers_turn, Presented::Repeated(sealed) if sealed == stored.retired[0].successor));

    store.revoke(id, NOW).await.unwrap();
    store.revoke(id, NOW + Duration::days(1)).await.unwrap();
    let revoked = store.get(id).await.unwrap().expect("it is remembered");
    assert_eq!((revoked.revoked_at, revoked.counter), (Some(NOW), 1), "ended once");
    let late = stored.rotated(hash(99), Sealed("s".to_owned()), NOW);
    assert!(matches!(store.rotate(&late).await, Err(PortFault::Conflict { .. })), "who read it before it was revoked");
    store.revoke(&sample::family_id(9), NOW).await.unwrap();
    assert_eq!(store.get(&sample::family_id(9)).await.unwrap(), None, "revoking makes nothing");
}
