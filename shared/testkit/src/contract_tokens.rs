//! What every store of tokens must keep.

use std::collections::BTreeSet;

use domain::fault::PortFault;
use domain::job::Bookmarks;
use domain::seal::Sealed;
use domain::session::{ASK_AGAIN, Asked, Cause, Outcome, Session, SessionStore};
use domain::tenant_token::TenantTokenStore;
use domain::token::{Lease, TokenStore, UserToken};
use futures_util::future::join_all;
use time::Duration;

use crate::sample::{self, NOW};

/// User tokens: one refresher, one replacement for each version, and an index of what is due.
pub async fn user_tokens<S: SessionStore + TokenStore>(store: &S) {
    let token = sample::token("first");
    let (app, person) = (&token.app_id, &token.open_id);
    let until = NOW + Duration::seconds(25);
    assert_eq!(store.lease(&token, NOW, until).await.unwrap(), Lease::Gone);
    assert!(matches!(store.replace(&token, &token, None).await, Err(PortFault::Conflict { .. })));
    arrive(store, 1, &token).await;

    let leases = join_all((0..20).map(|_| store.lease(&token, NOW, until))).await;
    let taken = leases.iter().filter(|lease| matches!(lease, Ok(Lease::Taken))).count();
    let held = leases.iter().filter(|lease| matches!(lease, Ok(Lease::Held(stored)) if *stored == token)).count();
    assert_eq!((taken, held), (1, 19), "of twenty at once, one gets it, and the others see what is stored");
    assert_eq!(store.lease(&token, until - Duration::SECOND, until).await.unwrap(), Lease::Held(token.clone()));
    assert_eq!(store.lease(&token, until, until + Duration::MINUTE).await.unwrap(), Lease::Taken, "a lease runs out");

    let second = UserToken { version: 2, pair: Sealed("second".to_owned()), ..token.clone() };
    let replaced = join_all((0..20).map(|_| store.replace(&token, &second, None))).await;
    assert_eq!(replaced.iter().filter(|result| result.is_ok()).count(), 1, "each version is replaced once");
    assert_eq!(TokenStore::get(store, app, person).await.unwrap().as_ref(), Some(&second));
    assert_eq!(
        store.lease(&token, NOW, until).await.unwrap(),
        Lease::Held(second.clone()),
        "an old version has no lease"
    );
    assert_eq!(store.lease(&second, NOW, until).await.unwrap(), Lease::Taken, "replacing ends the lease");

    // The person approves once more while somebody refreshes what they had.
    let anew = UserToken { session_id: sample::session_id(2), version: 1, ..token.clone() };
    arrive(store, 2, &anew).await;
    let stale = UserToken { version: 3, ..second.clone() };
    assert!(matches!(store.replace(&second, &stale, None).await, Err(PortFault::Conflict { .. })));
    store.forget(&second).await.unwrap();
    assert_eq!(
        TokenStore::get(store, app, person).await.unwrap().as_ref(),
        Some(&anew),
        "only what was read is forgotten"
    );
    assert_eq!(store.lease(&anew, NOW, until).await.unwrap(), Lease::Taken, "it has no lease of the one before");

    let lapsed = anew.lapse("20037", NOW);
    let ask = Session::renewal(sample::session_id(50), &anew, &[], Cause::Expired, NOW);
    store.replace(&anew, &lapsed, Some(&ask)).await.unwrap();
    assert_eq!(SessionStore::get(store, &ask.session_id).await.unwrap().as_ref(), Some(&ask));
    let again = Session::renewal(sample::session_id(51), &lapsed, &[], Cause::Expired, NOW);
    assert!(matches!(store.replace(&anew, &lapsed, Some(&again)).await, Err(PortFault::Conflict { .. })));
    assert_eq!(SessionStore::get(store, &again.session_id).await.unwrap(), None, "both or neither");
    assert_eq!(store.ask(&again).await.unwrap(), Asked::Before(ask.session_id), "a lapse has asked already");

    store.forget(&lapsed).await.unwrap();
    store.forget(&lapsed).await.unwrap();
    assert_eq!(TokenStore::get(store, app, person).await.unwrap(), None);
    assert_eq!(store.lease(&lapsed, NOW, until).await.unwrap(), Lease::Gone);
    due_and_pages(store).await;
}

async fn arrive<S: SessionStore + TokenStore>(store: &S, n: u32, token: &UserToken) {
    let session = sample::session(n);
    store.create(&session).await.unwrap();
    store.end(&session.ended(Outcome::Completed).unwrap(), Some(token)).await.unwrap();
}

async fn due_and_pages<S: SessionStore + TokenStore>(store: &S) {
    let people: Vec<String> = (0..250).map(|n| format!("ou_{n:03}")).collect();
    for (n, person) in (100..).zip(&people) {
        let issued_at = NOW - Duration::minutes(n.into());
        arrive(store, n, &UserToken { issued_at, ..sample::token_of(person) }).await;
    }
    let first = sample::token_of("ou_249");
    let first = UserToken { issued_at: NOW - Duration::minutes(349), ..first };
    assert_eq!(store.due(first.due_at() - Duration::SECOND, 10).await.unwrap(), []);
    assert_eq!(store.due(first.due_at(), 10).await.unwrap(), [(first.app_id.clone(), first.open_id.clone())]);
    assert_eq!(store.due(NOW + Duration::DAY, 100).await.unwrap().len(), 100);

    store.replace(&first, &first.put_off(NOW + Duration::DAY), None).await.unwrap();
    let due = store.due(NOW + Duration::DAY, 1000).await.unwrap();
    assert!(due.len() == 249 && !due.contains(&(first.app_id, first.open_id)), "what was put off is not due");

    let (mut seen, mut cursor) = (BTreeSet::new(), None);
    loop {
        let page = store.page(cursor, 120).await.unwrap();
        for token in page.tokens {
            assert!(seen.insert(token.open_id.to_string()), "{} came twice", token.open_id);
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), people);
}

/// Tenant tokens: one fetcher, versions in order, the newest ticket.
pub async fn tenant_tokens(store: &dyn TenantTokenStore) {
    let first = sample::tenant_token(1);
    let (app, tenant) = (&first.app_id, first.tenant_key.as_str());
    let until = NOW + Duration::seconds(10);
    assert_eq!(store.get(app, tenant).await.unwrap(), None);

    let leases = join_all((0..20).map(|_| store.lease((app, tenant), 0, NOW, until))).await;
    let taken = leases.iter().filter(|lease| matches!(lease, Ok(Lease::Taken))).count();
    let held = leases.iter().filter(|lease| matches!(lease, Ok(Lease::Held(None)))).count();
    assert_eq!((taken, held), (1, 19), "of twenty at once, one fetches");
    assert_eq!(store.get(app, tenant).await.unwrap(), None, "a lease is no token");
    assert_eq!(store.lease((app, tenant), 0, until, until).await.unwrap(), Lease::Taken, "a lease runs out");
    store.release(app, tenant).await.unwrap();
    store.release(app, "nobody").await.unwrap();
    assert_eq!(store.lease((app, tenant), 0, NOW, until).await.unwrap(), Lease::Taken, "a released one is free");

    store.keep(&first).await.unwrap();
    assert!(matches!(store.keep(&first).await, Err(PortFault::Conflict { .. })));
    assert_eq!(store.get(app, tenant).await.unwrap().as_ref(), Some(&first));
    assert_eq!(store.get(app, "t2").await.unwrap(), None, "each tenant has its own");
    assert_eq!(store.lease((app, tenant), 0, NOW, until).await.unwrap(), Lease::Held(Some(first.clone())));
    assert_eq!(store.lease((app, tenant), 1, NOW, until).await.unwrap(), Lease::Taken, "keeping one ends the lease");
    let third = sample::tenant_token(3);
    assert!(matches!(store.keep(&third).await, Err(PortFault::Conflict { .. })));
    let second = sample::tenant_token(2);
    store.keep(&second).await.unwrap();
    assert_eq!(store.get(app, tenant).await.unwrap(), Some(second));

    let ticket = |text: &str| Sealed(text.to_owned());
    assert_eq!(store.ticket(app).await.unwrap(), None);
    store.put_ticket(app, &ticket("b"), NOW).await.unwrap();
    store.put_ticket(app, &ticket("a"), NOW - Duration::HOUR).await.unwrap();
    assert_eq!(store.ticket(app).await.unwrap(), Some(ticket("b")), "the newest stays, whatever comes late");
    store.put_ticket(app, &ticket("c"), NOW + Duration::HOUR).await.unwrap();
    assert_eq!(store.ticket(app).await.unwrap(), Some(ticket("c")));
}

/// Cards that nobody asked for: one a day for the same scopes.
pub async fn asking(store: &impl SessionStore) {
    let person = (&sample::app_id("cli_a"), &sample::open_id("ou_ann"));
    let card = |n, scopes: &[&str], at| {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        Session::first(sample::session_id(n), person, &scopes, None, at)
    };
    let cards: Vec<Session> = (0..20).map(|n| card(n, &["a"], NOW)).collect();
    let asked = join_all(cards.iter().map(|card| store.ask(card))).await;
    assert_eq!(asked.iter().filter(|asked| matches!(asked, Ok(Asked::Now))).count(), 1, "of twenty at once, one asks");
    let before: BTreeSet<_> =
        asked.iter().filter_map(|a| if let Ok(Asked::Before(id)) = a { Some(id) } else { None }).collect();
    let [before] = before.into_iter().collect::<Vec<_>>()[..] else { panic!("the others learn of that one") };
    let kept = store.get(before).await.unwrap();
    assert!(kept.is_some_and(|kept| cards.contains(&kept)));
    let stored = join_all(cards.iter().map(|card| store.get(&card.session_id))).await;
    assert_eq!(stored.into_iter().filter(|session| matches!(session, Ok(Some(_)))).count(), 1, "no other is kept");

    assert_eq!(store.ask(&card(30, &["a", "b"], NOW)).await.unwrap(), Asked::Now, "other scopes are another question");
    let late = NOW + ASK_AGAIN;
    let early = card(31, &["a", "b"], late - Duration::SECOND);
    assert_eq!(store.ask(&early).await.unwrap(), Asked::Before(sample::session_id(30)));
    assert_eq!(store.ask(&card(32, &["a", "b"], late)).await.unwrap(), Asked::Now);
}

/// Bookmarks: the last one counts.
pub async fn bookmarks(store: &dyn Bookmarks) {
    assert_eq!(store.bookmark("sync").await.unwrap(), None);
    store.set_bookmark("sync", Some("页 3")).await.unwrap();
    store.set_bookmark("other", Some("x")).await.unwrap();
    assert_eq!(store.bookmark("sync").await.unwrap().as_deref(), Some("页 3"));
    store.set_bookmark("sync", None).await.unwrap();
    assert_eq!(store.bookmark("sync").await.unwrap(), None);
}
