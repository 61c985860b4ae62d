//! The authorization server over ports in memory: who gets a token, and what becomes of a login whatever its client, a thief, or a second
//! worker does.
#![expect(clippy::unwrap_used, reason = "what does not run ends the test")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use domain::access::{AccessTokenVerifier as _, Scope};
use domain::fault::{Denial, Fault as _, PortFault, Remedy};
use domain::id::{ClientId, FamilyId, TenantId, UserId};
use domain::limit::LimitFault;
use domain::oauth::{
    AuthorizationServer, Client, ClientFault, ClientStore, Credentials, FAMILY_LIFE, Family, FamilyStore, Fresh, GRACE,
    OauthFault, RefreshSeal as _, RefreshToken, SecretHash, Tokens, Visit,
};
use domain::push::PushJob;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use testkit::sample::{self, NOW};
use testkit::{MemoryAuth, MemoryLimiter, MemoryPushQueue, MemoryTokens, PlainRefreshSeal};
use time::{Duration, OffsetDateTime};

struct World {
    auth: Arc<MemoryAuth>,
    tokens: Arc<MemoryTokens>,
    push: Arc<MemoryPushQueue>,
    server: AuthorizationServer,
    made: AtomicU32,
}

fn client(id: &str) -> Client {
    sample::client(id, PlainRefreshSeal.hash("s3cret"))
}

/// A server that knows the client `c1`.
async fn world() -> World {
    let (auth, tokens) = (Arc::new(MemoryAuth::default()), Arc::new(MemoryTokens::default()));
    let push = Arc::new(MemoryPushQueue::default());
    auth.put(&client("c1")).await.unwrap();
    let server = AuthorizationServer {
        clients: auth.clone(),
        families: auth.clone(),
        limiter: Arc::new(MemoryLimiter::default()),
        seal: Arc::new(PlainRefreshSeal),
        signer: tokens.clone(),
        push: push.clone(),
        verifier: tokens.clone(),
    };
    World { auth, tokens, push, server, made: AtomicU32::new(0) }
}

fn at(now: OffsetDateTime) -> Visit<'static> {
    Visit { issuer: "https://skylark.example", source: "192.0.2.1", now }
}

fn credentials(id: &str, secret: &str) -> Credentials {
    Credentials { client_id: id.to_owned(), client_secret: secret.into() }
}

fn mine() -> Credentials {
    credentials("c1", "s3cret")
}

impl World {
    fn fresh(&self) -> Fresh {
        let n = self.made.fetch_add(1, Ordering::SeqCst);
        Fresh {
            family_id: sample::family_id(n),
            anchor: format!("{n:0>43}").into(),
            secret: format!("{n:z>43}").into(),
            token_id: n.to_string(),
        }
    }

    async fn log_in(&self, now: OffsetDateTime) -> Result<Tokens, OauthFault> {
        self.server.client_credentials(at(now), &mine(), None, self.fresh()).await
    }

    async fn refresh(&self, token: &str, now: OffsetDateTime) -> Result<String, OauthFault> {
        let tokens = self.server.refresh(at(now), None, token, None, self.fresh()).await?;
        Ok(tokens.refresh_token.expose_secret().to_owned())
    }

    async fn change(&self, change: impl FnOnce(&mut Client)) {
        let id = ClientId::parse("c1").unwrap();
        let mut client = ClientStore::get(self.auth.as_ref(), &id).await.unwrap().unwrap();
        client.version += 1;
        change(&mut client);
        self.auth.put(&client).await.unwrap();
    }

    async fn family(&self, token: &str) -> Family {
        let id = RefreshToken::parse(token).unwrap().family_id;
        FamilyStore::get(self.auth.as_ref(), &id).await.unwrap().unwrap()
    }

    async fn is_active(&self, token: &str, now: OffsetDateTime) -> bool {
        self.server.introspect(at(now), &mine(), token).await.unwrap().is_some()
    }
}

fn text(secret: &secrecy::SecretString) -> String {
    secret.expose_secret().to_owned()
}

fn seconds(n: i64) -> Duration {
    Duration::seconds(n)
}

fn hash(text: &str) -> SecretHash {
    SecretHash(text.to_owned())
}

#[test]
fn two_secrets_are_good_while_rotating_and_one_afterwards() {
    let client = sample::client("c1", hash("one"));
    assert!(client.accepts(&hash("one")) && !client.accepts(&hash("two")) && !client.accepts(&hash("")));
    let client = client.rotated(hash("two"), NOW);
    assert!(client.accepts(&hash("one")) && client.accepts(&hash("two")));
    let client = client.rotated(hash("three"), NOW);
    assert!(!client.accepts(&hash("one")) && client.accepts(&hash("two")) && client.accepts(&hash("three")));
    let client = client.settled();
    assert!(!client.accepts(&hash("two")) && client.accepts(&hash("three")));
}

#[test]
fn what_people_choose_for_a_client_is_checked() {
    let client = sample::client("c1", hash("one"));
    assert_eq!(client.check(), Ok(()));
    let name = |name: &str| Client { name: name.to_owned(), ..client.clone() }.check();
    assert_eq!((name(" "), name(&"长".repeat(100))), (Err(ClientFault::Name), Ok(())));
    assert_eq!(name(&"长".repeat(101)), Err(ClientFault::Name));
    assert_eq!(Client { scopes: BTreeSet::new(), ..client.clone() }.check(), Err(ClientFault::Scopes));
    assert_eq!(Client { rate: Some(0), ..client }.check(), Err(ClientFault::Rate));
}

#[tokio::test]
async fn a_client_gets_what_it_asks_for_of_what_it_may_have() {
    let world = world().await;
    let ask = |scope: Option<&'static str>| {
        let (server, fresh) = (&world.server, world.fresh());
        async move { server.client_credentials(at(NOW), &mine(), scope, fresh).await }
    };
    let all = ask(None).await.unwrap();
    assert_eq!(all.scopes, BTreeSet::from([Scope::Lark, Scope::Chat]));
    let caller = world.tokens.verify(&text(&all.access_token), NOW).await.unwrap();
    assert_eq!((caller.client_id.as_str(), caller.user_id.as_str(), caller.scopes), ("c1", "ann", all.scopes));
    assert_eq!(caller.expires_at, NOW + seconds(900));
    assert_eq!(ask(Some("chat")).await.unwrap().scopes, BTreeSet::from([Scope::Chat]));
    for bad in ["files", "chat files", "chat,lark", "admin"] {
        let fault = ask(Some(bad)).await.unwrap_err();
        assert!(matches!(fault, OauthFault::InvalidScope | OauthFault::Limit(_)), "{bad}: {fault}");
    }
}

#[tokio::test]
async fn unknown_wrong_and_disabled_are_one_answer() {
    let world = world().await;
    let fault = |credentials| {
        let fresh = world.fresh();
        let server = &world.server;
        async move { server.client_credentials(at(NOW), &credentials, None, fresh).await.unwrap_err().to_string() }
    };
    let unknown = fault(credentials("nobody", "s3cret")).await;
    assert_eq!(fault(credentials("c1", "wrong")).await, unknown);
    assert_eq!(fault(credentials("c1#", "s3cret")).await, unknown);
    world.change(|client| client.disabled = true).await;
    assert_eq!(fault(mine()).await, unknown);
    assert!(OauthFault::InvalidClient.challenge().unwrap().starts_with("Basic "));
}

#[tokio::test]
async fn a_client_comes_five_times_a_minute_unless_it_has_a_rate_of_its_own() {
    let world = world().await;
    for _ in 0..5 {
        world.log_in(NOW).await.unwrap();
    }
    let fault = world.log_in(NOW + seconds(59)).await.unwrap_err();
    assert_eq!(fault.remedy(), Remedy::Deny(Denial::Throttled { retry_after_secs: 2 }));
    // Another client of the same user has no more room.
    world.auth.put(&client("c2")).await.unwrap();
    let other = credentials("c2", "s3cret");
    let other = world.server.client_credentials(at(NOW), &other, None, world.fresh()).await;
    assert!(matches!(other, Err(OauthFault::Limit(LimitFault::Exhausted { .. }))));
    world.change(|client| client.rate = Some(1_000)).await;
    for _ in 0..100 {
        world.log_in(NOW + seconds(61)).await.unwrap();
    }
}

#[tokio::test]
async fn an_address_fails_five_times_a_minute_and_locks_out_nobody() {
    let world = world().await;
    let guess = |source: &'static str| {
        let visit = Visit { source, ..at(NOW) };
        let (server, fresh) = (&world.server, world.fresh());
        async move { server.client_credentials(visit, &credentials("c1", "guess"), None, fresh).await.unwrap_err() }
    };
    for _ in 0..5 {
        assert!(matches!(guess("192.0.2.1").await, OauthFault::InvalidClient));
    }
    assert!(matches!(guess("192.0.2.1").await, OauthFault::Limit(_)));
    assert!(matches!(guess("192.0.2.2").await, OauthFault::InvalidClient));
    world.log_in(NOW).await.unwrap();
}

#[tokio::test]
async fn a_refresh_token_is_exchanged_once_and_repeated_for_a_moment() {
    let world = world().await;
    let r0 = text(&world.log_in(NOW).await.unwrap().refresh_token);
    let r1 = world.refresh(&r0, NOW + seconds(100)).await.unwrap();
    assert_ne!(r0, r1);
    assert_eq!(world.refresh(&r0, NOW + seconds(129)).await.unwrap(), r1, "the answer was lost");
    // By now r1 was used as well, and a late copy of the first request still arrives in time.
    let r2 = world.refresh(&r1, NOW + seconds(129)).await.unwrap();
    assert_eq!(world.refresh(&r0, NOW + seconds(129)).await.unwrap(), r1);
    assert_eq!(world.family(&r0).await.counter, 2);
    assert!(world.is_active(&r2, NOW + seconds(200)).await && !world.is_active(&r1, NOW + seconds(200)).await);
}

#[tokio::test]
async fn a_later_reuse_ends_the_login_with_its_access_tokens() {
    for later in [GRACE, Duration::days(29)] {
        let world = world().await;
        world.change(|client| client.rate = Some(1_000)).await;
        let tokens = world.log_in(NOW).await.unwrap();
        let (r0, access) = (text(&tokens.refresh_token), text(&tokens.access_token));
        let r1 = world.refresh(&r0, NOW).await.unwrap();
        assert!(world.is_active(&access, NOW).await);
        assert!(matches!(world.refresh(&r0, NOW + later).await, Err(OauthFault::InvalidGrant)));
        assert!(
            matches!(world.refresh(&r1, NOW + later).await, Err(OauthFault::InvalidGrant)),
            "the successor as well"
        );
        assert!(world.family(&r0).await.revoked_at.is_some());
        assert!(!world.is_active(&access, NOW + seconds(30)).await);
        let closed = world.push.take();
        assert!(
            matches!(closed.as_slice(), [PushJob::Close(login)] if login.session_id == RefreshToken::parse(&r0).unwrap().family_id),
            "{closed:?}"
        );
    }
}

#[tokio::test]
async fn another_client_that_holds_a_token_ends_the_login() {
    let world = world().await;
    let mut thief = client("thief");
    thief.user_id = UserId::parse("eve").unwrap();
    world.auth.put(&thief).await.unwrap();
    let r0 = text(&world.log_in(NOW).await.unwrap().refresh_token);
    let thief = credentials("thief", "s3cret");
    let stolen = world.server.refresh(at(NOW), Some(&thief), &r0, None, world.fresh()).await;
    assert!(matches!(stolen, Err(OauthFault::InvalidGrant)));
    assert!(world.family(&r0).await.revoked_at.is_some());
}

#[tokio::test]
async fn who_knows_only_the_name_of_a_login_does_it_no_harm() {
    let world = world().await;
    let r0 = text(&world.log_in(NOW).await.unwrap().refresh_token);
    let family_id = RefreshToken::parse(&r0).unwrap().family_id;
    let forged = RefreshToken::compose(&family_id, &"a".repeat(43).into(), &"b".repeat(43).into());
    let forged = text(&forged.text);
    assert!(matches!(world.refresh(&forged, NOW).await, Err(OauthFault::InvalidGrant)));
    world.server.revoke(at(NOW), None, &forged).await.unwrap();
    assert!(world.family(&r0).await.revoked_at.is_none());
    world.refresh(&r0, NOW).await.unwrap();
}

#[tokio::test]
async fn a_refresh_has_no_more_scopes_than_the_client_has_now() {
    let world = world().await;
    let r0 = text(&world.log_in(NOW).await.unwrap().refresh_token);
    let refresh = |token: String, scope: Option<&'static str>| {
        let (server, fresh) = (&world.server, world.fresh());
        async move { server.refresh(at(NOW), None, &token, scope, fresh).await }
    };
    let narrow = refresh(r0, Some("lark")).await.unwrap();
    assert_eq!(narrow.scopes, BTreeSet::from([Scope::Lark]));
    world.change(|client| client.scopes = [Scope::Chat, Scope::Files].into()).await;
    let r1 = text(&narrow.refresh_token);
    assert!(matches!(refresh(r1.clone(), Some("files")).await, Err(OauthFault::InvalidScope)));
    assert_eq!(refresh(r1, None).await.unwrap().scopes, BTreeSet::from([Scope::Chat]));
}

#[tokio::test]
async fn a_key_service_that_is_down_costs_no_token() {
    let world = world().await;
    let r0 = text(&world.log_in(NOW).await.unwrap().refresh_token);
    world.tokens.down.store(true, Ordering::SeqCst);
    for minute in 1..5 {
        assert_eq!(world.refresh(&r0, NOW + Duration::minutes(minute)).await.unwrap_err().remedy(), Remedy::Retry);
    }
    world.tokens.down.store(false, Ordering::SeqCst);
    world.refresh(&r0, NOW + Duration::minutes(6)).await.unwrap();
}

#[tokio::test]
async fn a_login_ends_after_thirty_days_and_its_last_token_with_it() {
    let world = world().await;
    let r0 = text(&world.log_in(NOW).await.unwrap().refresh_token);
    let end = NOW + FAMILY_LIFE;
    let last = world.server.refresh(at(end - seconds(10)), None, &r0, None, world.fresh()).await.unwrap();
    let caller = world.tokens.verify(&text(&last.access_token), end - seconds(10)).await.unwrap();
    assert_eq!(caller.expires_at, end);
    assert!(matches!(world.refresh(&text(&last.refresh_token), end).await, Err(OauthFault::InvalidGrant)));
}

#[tokio::test]
async fn a_login_is_revoked_by_any_of_its_tokens_and_by_nobody_elses_client() {
    let world = world().await;
    world.change(|client| client.rate = Some(1_000)).await;
    let tokens = world.log_in(NOW).await.unwrap();
    let (r0, access) = (text(&tokens.refresh_token), text(&tokens.access_token));
    let mut other = client("c2");
    other.user_id = UserId::parse("bob").unwrap();
    world.auth.put(&other).await.unwrap();
    let other = credentials("c2", "s3cret");
    world.server.revoke(at(NOW), Some(&other), &r0).await.unwrap();
    assert!(world.is_active(&access, NOW).await && world.push.take().is_empty());
    world.push.down.store(true, Ordering::SeqCst);
    let refused = world.server.revoke(at(NOW), Some(&mine()), &access).await.unwrap_err();
    assert_eq!(refused.remedy(), Remedy::Retry, "what leaves sockets open has not ended a login");
    world.push.down.store(false, Ordering::SeqCst);
    world.server.revoke(at(NOW), Some(&mine()), &access).await.unwrap();
    let closed = world.push.take();
    assert!(
        matches!(closed.as_slice(), [PushJob::Close(login)] if login.session_id == RefreshToken::parse(&r0).unwrap().family_id),
        "{closed:?}"
    );
    world.server.revoke(at(NOW), Some(&mine()), "never was one").await.unwrap();
    assert!(!world.is_active(&access, NOW).await);
    assert!(matches!(world.refresh(&r0, NOW + seconds(61)).await, Err(OauthFault::InvalidGrant)));
}

#[tokio::test]
async fn a_token_is_shown_to_its_tenant_only_and_not_once_its_client_is_disabled() {
    let world = world().await;
    let access = text(&world.log_in(NOW).await.unwrap().access_token);
    let mut stranger = client("stranger");
    stranger.tenant_id = TenantId::parse("t2").unwrap();
    world.auth.put(&stranger).await.unwrap();
    let mut neighbour = client("neighbour");
    neighbour.user_id = UserId::parse("bob").unwrap();
    world.auth.put(&neighbour).await.unwrap();
    let ask = |id: &'static str| {
        let (server, access) = (&world.server, access.clone());
        async move { server.introspect(at(NOW), &credentials(id, "s3cret"), &access).await.unwrap() }
    };
    assert_eq!(ask("stranger").await, None);
    let told = ask("neighbour").await.unwrap();
    assert_eq!((told.token_type, told.user_id.as_str(), told.expires_at), ("Bearer", "ann", NOW + seconds(900)));
    world.change(|client| client.disabled = true).await;
    assert_eq!(ask("neighbour").await, None);
}

/// What somebody does with the tokens of one login.
#[derive(Debug, Clone)]
enum Step {
    /// Uses one of the tokens known so far, counted from the newest.
    Use(usize),
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => (0_usize..4).prop_map(Step::Use), 1 => (0_i64..20).prop_map(Step::Wait)];
    prop::collection::vec(step, 1..40)
}

fn check<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
}

/// What the server must answer, said without families and hashes: when each token was exchanged, and for which.
#[derive(Default)]
struct Model {
    exchanged: Vec<Option<OffsetDateTime>>,
    ended: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_order_of_uses_gives_what_the_rule_says(steps in steps()) {
        check(async move {
            let world = world().await;
            world.change(|client| client.rate = Some(1_000)).await;
            let mut known = vec![text(&world.log_in(NOW).await.unwrap().refresh_token)];
            let mut model = Model { exchanged: vec![None], ended: false };
            let mut now = NOW;
            for step in steps {
                let back = match step {
                    Step::Wait(wait) => {
                        now += seconds(wait);
                        continue;
                    }
                    Step::Use(back) => back,
                };
                let at = known.len() - 1 - back.min(known.len() - 1);
                let answer = world.refresh(&known[at], now).await;
                match model.exchanged[at] {
                    // Whoever keeps trying is told to wait.
                    _ if model.ended => assert!(matches!(answer, Err(OauthFault::InvalidGrant | OauthFault::Limit(_)))),
                    None => {
                        model.exchanged[at] = Some(now);
                        model.exchanged.push(None);
                        known.push(answer.unwrap());
                    }
                    Some(before) if now - before < GRACE && known.len() - 2 - at < 8 => {
                        assert_eq!(answer.unwrap(), known[at + 1], "the same successor");
                    }
                    Some(_) => {
                        assert!(matches!(answer, Err(OauthFault::InvalidGrant)));
                        model.ended = true;
                    }
                }
            }
            let unique: BTreeSet<&String> = known.iter().collect();
            assert_eq!(unique.len(), known.len());
        });
    }
}

/// A store in which, between a reader's read and its write, others get their turn.
struct Interleaved {
    auth: Arc<MemoryAuth>,
    /// How many rotations are lost to a competitor that comes first with the same token.
    intrusions: std::sync::Mutex<Vec<Family>>,
}

#[async_trait::async_trait]
impl FamilyStore for Interleaved {
    async fn create(&self, family: &Family) -> Result<(), PortFault> {
        self.auth.create(family).await
    }

    async fn get(&self, family_id: &FamilyId) -> Result<Option<Family>, PortFault> {
        FamilyStore::get(self.auth.as_ref(), family_id).await
    }

    async fn rotate(&self, family: &Family) -> Result<(), PortFault> {
        let intruder = self.intrusions.lock().unwrap().pop();
        if let Some(intruder) = intruder {
            self.auth.rotate(&intruder).await.unwrap();
        }
        self.auth.rotate(family).await
    }

    async fn revoke(&self, family_id: &FamilyId, now: OffsetDateTime) -> Result<(), PortFault> {
        self.auth.revoke(family_id, now).await
    }
}

#[tokio::test]
async fn who_loses_a_race_answers_with_the_winners_successor() {
    let mut world = world().await;
    let r0 = text(&world.log_in(NOW).await.unwrap().refresh_token);
    let token = RefreshToken::parse(&r0).unwrap();
    let winner = token.successor(&"w".repeat(43).into());
    let sealed = PlainRefreshSeal.seal(&token, &winner).unwrap();
    let won = world.family(&r0).await.rotated(PlainRefreshSeal.hash(winner.text.expose_secret()), sealed, NOW);
    let store = Interleaved { auth: world.auth.clone(), intrusions: vec![won].into() };
    world.server.families = Arc::new(store);
    assert_eq!(world.refresh(&r0, NOW).await.unwrap(), text(&winner.text));
    assert_eq!(world.family(&r0).await.counter, 1, "no second branch");
}
