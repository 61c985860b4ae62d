//! User tokens over ports in memory: one refresh for any number of callers, and nobody is logged out who need not be.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domain::app::{App, AppDirectory, AppSecrets, AppStatus, AppStore, OpenApp};
use domain::authorize::{Approval, CardView, Vendor, VendorFault};
use domain::clock::Clock as _;
use domain::fault::PortFault;
use domain::id::{AppId, ChatId, MessageId, OpenId};
use domain::seal::{Sealed, Sealer as _};
use domain::session::{Asked, Cause, Outcome, Session, SessionStore};
use domain::token::{Grant, Lapse, Lease, Notice, Page, Profile, TokenPair, TokenStore, UserToken};
use domain::user_tokens::{Known, Listed, Renewal, Tended, TokenFault, UserTokens};
use futures_util::future::join_all;
use secrecy::{ExposeSecret as _, SecretString};
use testkit::sample::{self, NOW};
use testkit::{CountingIds, EarlierSealer, ManualClock, MemoryTable, PlainSealer};
use time::{Duration, OffsetDateTime};

/// What the vendor does with the next refresh.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Down,
    /// The old token dies, and nobody hears the answer.
    Silent,
    Refuses(i64),
}

/// A vendor whose refresh tokens work once: `r1` gives `u2` and `r2`.
struct SingleUse {
    mood: Mutex<Mood>,
    spent: Mutex<HashSet<String>>,
    refreshes: AtomicU32,
    name: Mutex<String>,
    refresh_life: Duration,
    /// How many people were looked up at once, each time.
    lookups: Mutex<Vec<usize>>,
}

impl Default for SingleUse {
    fn default() -> Self {
        Self {
            mood: Mutex::new(Mood::Well),
            spent: Mutex::default(),
            refreshes: AtomicU32::new(0),
            name: Mutex::new("安".to_owned()),
            refresh_life: Duration::days(7),
            lookups: Mutex::default(),
        }
    }
}

#[async_trait]
impl Renewal for SingleUse {
    async fn refresh(&self, _app: &OpenApp, refresh_token: &SecretString) -> Result<Grant, VendorFault> {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        self.refreshes.fetch_add(1, Ordering::SeqCst);
        let used = refresh_token.expose_secret().to_owned();
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Down => return Err(VendorFault::Unavailable("down".into())),
            Mood::Refuses(code) => return Err(VendorFault::Refused { code, message: "no".to_owned() }),
            Mood::Well | Mood::Silent => {}
        }
        if !self.spent.lock().unwrap().insert(used.clone()) {
            return Err(VendorFault::Spent { code: 20073, message: "used".to_owned() });
        }
        if mood == Mood::Silent {
            *self.mood.lock().unwrap() = Mood::Well;
            return Err(VendorFault::Unavailable("the line broke".into()));
        }
        Ok(grant(used.trim_start_matches('r').parse::<u32>().unwrap() + 1, self.refresh_life))
    }

    async fn directory(&self, _: &OpenApp, _: Option<&str>, open_ids: &[&OpenId]) -> Result<Vec<Listed>, VendorFault> {
        self.lookups.lock().unwrap().push(open_ids.len());
        let name = Some(self.name.lock().unwrap().clone());
        let listed = |open_id: &OpenId| Listed {
            open_id: open_id.clone(),
            profile: Profile { name: name.clone(), ..Profile::default() },
            left: open_id.as_str() == "ou_resigned",
        };
        Ok(open_ids.iter().map(|open_id| listed(open_id)).collect())
    }

    async fn check(&self, _: &OpenApp) -> Result<(), VendorFault> {
        Ok(())
    }
}

fn grant(n: u32, refresh_life: Duration) -> Grant {
    let pair = TokenPair { access_token: format!("u{n}").into(), refresh_token: Some(format!("r{n}").into()) };
    let scopes = vec!["offline_access".to_owned()];
    Grant { pair, scopes, expires_in: Duration::hours(2), refresh_expires_in: Some(refresh_life) }
}

#[async_trait]
impl Vendor for SingleUse {
    async fn exchange(&self, _: &OpenApp, _: &Approval) -> Result<Grant, VendorFault> {
        Err(VendorFault::Unavailable("not asked here".into()))
    }

    async fn profile(&self, _: &OpenApp, _: &SecretString) -> Result<(OpenId, Profile), VendorFault> {
        let name = Some(self.name.lock().unwrap().clone());
        Ok((sample::open_id("ou_ann"), Profile { name, ..Profile::default() }))
    }

    async fn send_card(&self, _: &OpenApp, _: CardView<'_>) -> Result<MessageId, VendorFault> {
        Err(VendorFault::Unavailable("not asked here".into()))
    }

    async fn update_card(
        &self,
        _: &OpenApp,
        _: &MessageId,
        _: CardView<'_>,
        _: Option<&SecretString>,
    ) -> Result<(), VendorFault> {
        Ok(())
    }

    async fn tell_operators(&self, _: &OpenApp, _: &ChatId, _: &Session) -> Result<(), VendorFault> {
        Ok(())
    }
}

/// A table that fails to write tokens for as long as it is told.
#[derive(Default)]
struct Flaky {
    table: MemoryTable,
    failures: AtomicU32,
    /// The write happens, and its answer is lost.
    silent: AtomicBool,
}

#[async_trait]
impl TokenStore for Flaky {
    async fn get(&self, app_id: &AppId, open_id: &OpenId) -> Result<Option<UserToken>, PortFault> {
        TokenStore::get(&self.table, app_id, open_id).await
    }

    async fn lease(
        &self,
        token: &UserToken,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Lease<UserToken>, PortFault> {
        TokenStore::lease(&self.table, token, now, until).await
    }

    async fn replace(&self, before: &UserToken, after: &UserToken, ask: Option<&Session>) -> Result<(), PortFault> {
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if fails && self.silent.load(Ordering::SeqCst) {
            self.table.replace(before, after, ask).await?;
        }
        if fails {
            return Err(PortFault::Unavailable { operation: "replace", cause: "down".into() });
        }
        self.table.replace(before, after, ask).await
    }

    async fn forget(&self, token: &UserToken) -> Result<(), PortFault> {
        self.table.forget(token).await
    }

    async fn due(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<(AppId, OpenId)>, PortFault> {
        self.table.due(now, limit).await
    }

    async fn page(&self, cursor: Option<String>, limit: u32) -> Result<Page, PortFault> {
        TokenStore::page(&self.table, cursor, limit).await
    }
}

struct World {
    table: Arc<Flaky>,
    apps: Arc<MemoryTable>,
    vendor: Arc<SingleUse>,
    clock: Arc<ManualClock>,
    processes: Vec<UserTokens>,
}

/// `ou_ann` has authorized `cli_a` and holds `u1`; several processes share the stores.
async fn world(processes: usize) -> World {
    let (table, sealer) = (Arc::new(Flaky::default()), Arc::new(PlainSealer));
    let apps = Arc::new(MemoryTable::default());
    let secrets = AppSecrets { app_secret: "s".into(), encrypt_key: None, verification_token: "v".into() };
    let app = sample::app("cli_a");
    apps.put(&App { secrets: secrets.seal(&app.app_id, sealer.as_ref()).await.unwrap(), ..app }).await.unwrap();

    let (vendor, clock) = (Arc::new(SingleUse::default()), Arc::new(ManualClock::default()));
    let ids = Arc::new(CountingIds::default());
    let process = || UserTokens {
        apps: Arc::new(AppDirectory::new(apps.clone(), sealer.clone())),
        tokens: table.clone(),
        sessions: Arc::new(Sessions(table.clone())),
        sealer: sealer.clone(),
        vendor: vendor.clone(),
        renewal: vendor.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
        known: Known::default(),
    };
    let processes = (0..processes).map(|_| process()).collect();
    let world = World { table, apps, vendor, clock, processes };
    world.authorize(1).await;
    world
}

/// The sessions of the same table.
struct Sessions(Arc<Flaky>);

#[async_trait]
impl SessionStore for Sessions {
    async fn get(&self, id: &domain::id::SessionId) -> Result<Option<Session>, PortFault> {
        SessionStore::get(&self.0.table, id).await
    }
    async fn create(&self, session: &Session) -> Result<(), PortFault> {
        self.0.table.create(session).await
    }
    async fn end(&self, session: &Session, token: Option<&UserToken>) -> Result<(), PortFault> {
        self.0.table.end(session, token).await
    }
    async fn card_shown(&self, id: &domain::id::SessionId, message: &MessageId, version: u64) -> Result<(), PortFault> {
        self.0.table.card_shown(id, message, version).await
    }
    async fn put_attempt(&self, attempt: &domain::session::Attempt) -> Result<(), PortFault> {
        self.0.table.put_attempt(attempt).await
    }
    async fn take_attempt(&self, hash: &str) -> Result<Option<domain::session::Attempt>, PortFault> {
        self.0.table.take_attempt(hash).await
    }
    async fn ask(&self, session: &Session) -> Result<Asked, PortFault> {
        self.0.table.ask(session).await
    }
    async fn overdue(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<domain::id::SessionId>, PortFault> {
        self.0.table.overdue(now, limit).await
    }
}

impl World {
    /// The person approves, and gets `u<n>`.
    async fn authorize(&self, n: u32) {
        let (session, now) = (sample::session(n), self.clock.now());
        let grant = grant(n, self.vendor.refresh_life);
        let profile = Profile { tenant_key: "t1".to_owned(), name: Some("安".to_owned()), ..Profile::default() };
        let place = sample::token("x");
        let sealed = grant.pair.seal(place.place(), &PlainSealer).await.unwrap();
        let token = UserToken::granted(&session, profile, &grant, sealed, now);
        self.table.table.create(&session).await.unwrap();
        self.table.table.end(&session.ended(Outcome::Completed).unwrap(), Some(&token)).await.unwrap();
    }

    fn mood(&self, mood: Mood) {
        *self.vendor.mood.lock().unwrap() = mood;
    }

    fn refreshes(&self) -> u32 {
        self.vendor.refreshes.load(Ordering::SeqCst)
    }

    async fn get(&self) -> Result<String, TokenFault> {
        self.get_from(0, None).await
    }

    async fn get_from(&self, process: usize, rejected: Option<&SecretString>) -> Result<String, TokenFault> {
        let (app, person) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
        let token = self.processes[process].get(&app, &person, rejected).await?;
        Ok(token.expose_secret().to_owned())
    }

    async fn tend(&self) -> Tended {
        self.processes[0].tend(&sample::app_id("cli_a"), &sample::open_id("ou_ann")).await.unwrap()
    }

    async fn stored(&self) -> Option<UserToken> {
        TokenStore::get(self.table.as_ref(), &sample::app_id("cli_a"), &sample::open_id("ou_ann")).await.unwrap()
    }

    /// The cards that went to the person of their own accord: why, and when.
    async fn cards(&self) -> Vec<Cause> {
        let mut cards = Vec::new();
        for n in 1000..1400 {
            cards.extend(SessionStore::get(&self.table.table, &sample::session_id(n)).await.unwrap().map(|s| s.why));
        }
        cards
    }
}

const STALE: Duration = Duration::minutes(109);

#[tokio::test(start_paused = true)]
async fn a_fresh_token_costs_no_call_and_a_stale_one_is_refreshed() {
    let world = world(1).await;
    assert_eq!(world.get().await.unwrap(), "u1");
    world.clock.advance(Duration::minutes(108) - Duration::SECOND);
    assert_eq!((world.get().await.unwrap().as_str(), world.refreshes()), ("u1", 0));
    world.clock.advance(Duration::SECOND);
    assert_eq!((world.get().await.unwrap().as_str(), world.refreshes()), ("u2", 1), "a tenth of its life is left");
    assert_eq!((world.get().await.unwrap().as_str(), world.refreshes()), ("u2", 1));
}

#[tokio::test(start_paused = true)]
async fn two_hundred_callers_in_eight_processes_cause_one_refresh() {
    let world = world(8).await;
    world.clock.advance(Duration::hours(3));
    let answers = join_all((0..200).map(|n| world.get_from(n % 8, None))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == "u2"));
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_while_a_live_token_is_refreshed_goes_on_with_it() {
    let world = world(2).await;
    world.clock.advance(STALE);
    let (first, second) = tokio::join!(world.get_from(0, None), world.get_from(1, None));
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str(), world.refreshes()), ("u2", "u1", 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_vendor_rejects_is_refreshed_once_whoever_finds_out() {
    let world = world(4).await;
    let rejected = SecretString::from("u1");
    let answers = join_all((0..20).map(|n| world.get_from(n % 4, Some(&rejected)))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == "u2"));
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_that_nothing_brings_back_asks_the_person_once() {
    let world = world(4).await;
    world.clock.advance(Duration::hours(3));
    world.mood(Mood::Silent);
    let answers = join_all((0..40).map(|n| world.get_from(n % 4, None))).await;
    assert!(answers.iter().all(|a| matches!(a, Err(TokenFault::AuthorizationRequired | TokenFault::Vendor(_)))));
    assert!(matches!(world.get().await, Err(TokenFault::AuthorizationRequired)));
    assert_eq!(world.cards().await, [Cause::Expired]);
    assert!(matches!(world.stored().await.unwrap().lapsed, Some(Lapse { code, .. }) if code == "20073"));
    world.authorize(2).await;
    assert_eq!(world.get().await.unwrap(), "u2", "approving once more mends it");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_process_refreshed_is_taken_from_the_store() {
    let world = world(2).await;
    assert_eq!(world.get_from(1, None).await.unwrap(), "u1");
    world.clock.advance(Duration::hours(3));
    assert_eq!(world.get_from(0, None).await.unwrap(), "u2");
    assert_eq!((world.get_from(1, None).await.unwrap().as_str(), world.refreshes()), ("u2", 1));
}

#[tokio::test(start_paused = true)]
async fn a_refresher_that_wakes_up_late_still_brings_its_pair_home() {
    let world = world(2).await;
    world.clock.advance(Duration::hours(3));
    let app = sample::app_id("cli_a");
    // The first process took the lease, had its answer, and froze before it could write.
    let token = world.stored().await.unwrap();
    let now = world.clock.now();
    assert_eq!(world.table.lease(&token, now, now + Duration::seconds(25)).await.unwrap(), Lease::Taken);
    world.vendor.spent.lock().unwrap().insert("r1".to_owned());
    world.clock.advance(Duration::seconds(25));
    assert!(matches!(world.get_from(1, None).await, Err(TokenFault::AuthorizationRequired)));
    assert!(world.stored().await.unwrap().lapsed.is_some());

    // It wakes up: what it writes is the pair that works.
    let sealed = grant(2, Duration::days(7)).pair.seal(token.place(), &PlainSealer).await.unwrap();
    let lapsed = world.stored().await.unwrap();
    let late = UserToken { version: lapsed.version + 1, ..token.refreshed(&grant(2, Duration::days(7)), sealed, now) };
    world.table.replace(&lapsed, &late, None).await.unwrap();
    assert_eq!(world.get_from(1, None).await.unwrap(), "u2");
    assert!(AppStore::get(world.apps.as_ref(), &app).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_pair_survives_a_store_that_is_down_for_a_moment() {
    for silent in [false, true] {
        let world = world(1).await;
        world.clock.advance(Duration::hours(3));
        world.table.failures.store(4, Ordering::SeqCst);
        world.table.silent.store(silent, Ordering::SeqCst);
        assert_eq!(world.get().await.unwrap(), "u2");
        let stored = TokenPair::open(&world.stored().await.unwrap(), &PlainSealer).await.unwrap();
        assert_eq!((stored.access_token.expose_secret(), world.refreshes()), ("u2", 1));
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_vendor_is_down_a_live_token_is_used_and_a_dead_one_is_not() {
    let world = world(1).await;
    world.mood(Mood::Down);
    world.clock.advance(STALE);
    assert_eq!((world.get().await.unwrap().as_str(), world.refreshes()), ("u1", 1));
    assert_eq!((world.get().await.unwrap().as_str(), world.refreshes()), ("u1", 1), "it is not asked at every call");
    world.clock.advance(Duration::minutes(11));
    assert!(matches!(world.get().await, Err(TokenFault::Vendor(VendorFault::Unavailable(_)))));
    assert_eq!(world.cards().await, [], "nobody is bothered");
    world.mood(Mood::Well);
    assert_eq!(world.get().await.unwrap(), "u2", "the failure released the lease");
}

#[tokio::test(start_paused = true)]
async fn a_person_who_left_is_not_sent_a_card() {
    let world = world(1).await;
    world.mood(Mood::Refuses(20066));
    world.clock.advance(Duration::hours(3));
    assert!(matches!(world.get().await, Err(TokenFault::AuthorizationRequired)));
    assert_eq!((world.cards().await, world.tend().await), (vec![], Tended::Nothing));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_does_not_open_is_parked_and_the_person_asked() {
    let world = world(1).await;
    let token = world.stored().await.unwrap();
    let swapped = UserToken { version: 2, pair: Sealed("[]|somebody else's".to_owned()), ..token.clone() };
    world.table.replace(&token, &swapped, None).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(world.get().await, Err(TokenFault::AuthorizationRequired)));
    }
    assert_eq!((world.cards().await, world.refreshes()), (vec![Cause::Expired], 0));
    world.authorize(7).await;
    assert_eq!(world.get().await.unwrap(), "u7");
}

#[tokio::test(start_paused = true)]
async fn the_profile_follows_at_each_refresh_and_keeps_what_the_vendor_does_not_say() {
    let world = world(1).await;
    *world.vendor.name.lock().unwrap() = "安妮 🌸".to_owned();
    world.clock.advance(STALE);
    world.get().await.unwrap();
    let profile = world.stored().await.unwrap().profile;
    assert_eq!((profile.name.as_deref(), profile.tenant_key.as_str()), (Some("安妮 🌸"), "t1"));
    world.clock.advance(STALE);
    assert_eq!(world.get().await.unwrap(), "u3", "the pair still opens");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_disabled_gets_no_token_and_is_looked_at_once_an_hour() {
    let world = world(1).await;
    let app = AppStore::get(world.apps.as_ref(), &sample::app_id("cli_a")).await.unwrap().unwrap();
    world.apps.put(&App { status: AppStatus::Disabled, version: 2, ..app.clone() }).await.unwrap();
    world.clock.advance(Duration::hours(3));
    assert!(matches!(world.get().await, Err(TokenFault::App(_))));
    assert_eq!((world.tend().await, world.refreshes()), (Tended::PutOff, 0));
    assert_eq!(world.stored().await.unwrap().due_at() - world.clock.now(), Duration::HOUR);

    world.apps.delete(&app.app_id, 2).await.unwrap();
    world.clock.advance(Duration::HOUR);
    assert_eq!((world.tend().await, world.stored().await), (Tended::Forgotten, None));
}

#[tokio::test(start_paused = true)]
async fn a_person_is_asked_for_more_scopes_once_a_day() {
    let world = world(2).await;
    let (app, person) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
    let more = ["calendar:calendar".to_owned()];
    let asked = join_all((0..10).map(|n| world.processes[n % 2].ask(&app, &person, None, &more))).await;
    let asked: Vec<_> = asked.into_iter().map(Result::unwrap).collect();
    assert_eq!(asked.iter().filter(|(_, now)| *now).count(), 1);
    assert!(asked.iter().all(|(session_id, _)| *session_id == asked[0].0), "all are told of the same card");
    assert_eq!(world.cards().await, [Cause::MoreScopes]);
    let stranger = sample::open_id("ou_lina");
    assert!(world.processes[0].ask(&app, &stranger, None, &more).await.unwrap().1);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_token_is_used_nowhere_a_minute_later() {
    let world = world(2).await;
    let (app, person) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
    for process in &world.processes {
        process.get(&app, &person, None).await.unwrap();
    }
    world.processes[0].forget(&app, &person).await.unwrap();
    world.processes[0].forget(&app, &person).await.unwrap();
    let required = |result: Result<SecretString, TokenFault>| matches!(result, Err(TokenFault::AuthorizationRequired));
    assert!(required(world.processes[0].get(&app, &person, None).await));
    world.clock.advance(Duration::MINUTE);
    assert!(required(world.processes[1].get(&app, &person, None).await));
}

/// Sweeps once a day at the same hour, for as long as there is a token, and notes what happened on which day.
async fn live(world: &World, days: u32) -> Vec<(u32, Tended)> {
    let mut diary = Vec::new();
    for day in 0..=days {
        loop {
            match world.tend().await {
                Tended::Nothing => break,
                Tended::Refreshed => {}
                tended => diary.push((day, tended)),
            }
        }
        world.clock.advance(Duration::DAY);
    }
    diary
}

#[tokio::test(start_paused = true)]
async fn a_year_of_an_idle_person_brings_three_warnings_one_card_and_an_end() {
    let world = world(1).await;
    let diary = live(&world, 380).await;
    let expected = [
        (335, Tended::Warned(Notice::Month)),
        (358, Tended::Warned(Notice::Week)),
        (362, Tended::Warned(Notice::ThreeDays)),
        (365, Tended::Lapsed),
        (372, Tended::Forgotten),
    ];
    assert_eq!(diary, expected);
    let cards = [30, 7, 3].map(|days| Cause::Expiring { days }).into_iter().chain([Cause::Expired]);
    assert_eq!(world.cards().await, cards.collect::<Vec<_>>());
    assert!((90..=100).contains(&world.refreshes()), "once in four days: {}", world.refreshes());
}

#[tokio::test(start_paused = true)]
async fn after_a_long_outage_of_the_sweep_only_the_last_warning_is_given() {
    let world = world(1).await;
    live(&world, 330).await;
    world.clock.advance(Duration::days(29));
    let token = world.stored().await.unwrap();
    let kept =
        UserToken { version: token.version + 1, refresh_expires_at: Some(NOW + Duration::days(365)), ..token.clone() };
    world.table.replace(&token, &kept, None).await.unwrap();
    assert_eq!(world.tend().await, Tended::Warned(Notice::Week));
    assert_eq!(world.cards().await, [Cause::Expiring { days: 7 }]);
}

#[tokio::test(start_paused = true)]
async fn a_token_in_use_is_refreshed_ahead_and_an_idle_one_only_kept_alive() {
    let world = world(1).await;
    for _ in 0..24 * 60 {
        world.tend().await;
        world.clock.advance(Duration::MINUTE);
    }
    assert_eq!(world.refreshes(), 13, "every 108 minutes for a day");
    for _ in 0..24 * 60 {
        world.tend().await;
        world.clock.advance(Duration::MINUTE);
    }
    assert_eq!(world.refreshes(), 14, "then nobody has used it for a day");
    assert!(world.get().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_vendor_that_is_down_is_asked_less_and_less() {
    let world = world(1).await;
    world.mood(Mood::Down);
    for _ in 0..6 * 60 {
        world.tend().await;
        world.clock.advance(Duration::MINUTE);
    }
    assert_eq!(world.refreshes(), 10, "at 108 minutes, then after 1, 2, 4 .. 60 minutes");
    world.mood(Mood::Well);
    world.clock.advance(Duration::HOUR);
    assert_eq!(world.tend().await, Tended::Refreshed);
}

#[tokio::test(start_paused = true)]
async fn two_sweeps_at_once_do_each_thing_once() {
    let world = world(2).await;
    world.clock.advance(Duration::days(335));
    let token = world.stored().await.unwrap();
    let kept = UserToken { version: 2, refresh_expires_at: Some(NOW + Duration::days(365)), ..token.clone() };
    world.table.replace(&token, &kept, None).await.unwrap();
    let (app, person) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
    let tended = join_all((0..20).map(|n| world.processes[n % 2].tend(&app, &person))).await;
    let warned = tended.iter().filter(|t| matches!(t, Ok(Tended::Warned(_)))).count();
    assert_eq!((warned, world.cards().await.len()), (1, 1));
}

/// `ou_ann` and 120 others, one of whom has resigned.
async fn crowd() -> World {
    let world = world(1).await;
    for n in 100..220 {
        let person = if n == 150 { "ou_resigned".to_owned() } else { format!("ou_{n}") };
        let session = sample::session(n);
        world.table.table.create(&session).await.unwrap();
        let ended = session.ended(Outcome::Completed).unwrap();
        world.table.table.end(&ended, Some(&sample::token_of(&person))).await.unwrap();
    }
    world
}

#[tokio::test(start_paused = true)]
async fn everybody_is_looked_up_in_batches_and_whoever_left_is_let_go_without_a_card() {
    let world = crowd().await;
    *world.vendor.name.lock().unwrap() = "新名字".to_owned();
    let (tokens, bookmarks) = (&world.processes[0], &world.table.table);
    let until = world.clock.now() + Duration::MINUTE;
    let synced = tokens.sync(bookmarks, until).await.unwrap();
    assert_eq!((synced.seen, synced.changed, synced.left), (121, 120, 1));
    assert_eq!(*world.vendor.lookups.lock().unwrap(), [50, 50, 21]);
    let gone = TokenStore::get(world.table.as_ref(), &sample::app_id("cli_a"), &sample::open_id("ou_resigned")).await;
    assert_eq!(gone.unwrap().unwrap().lapsed.map(|lapse| lapse.code).as_deref(), Some("left"));
    assert_eq!(world.cards().await, []);

    assert_eq!(tokens.sync(bookmarks, until).await.unwrap().seen, 0, "a round is every six hours");
    world.clock.advance(Duration::hours(6));
    let again = tokens.sync(bookmarks, world.clock.now() + Duration::MINUTE).await.unwrap();
    assert_eq!((again.seen, again.changed, again.left), (120, 0, 0), "the second round writes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_round_seals_anew_what_an_earlier_key_sealed() {
    let world = world(1).await;
    let token = world.stored().await.unwrap();
    let pair = grant(1, Duration::days(7)).pair.seal(token.place(), &EarlierSealer).await.unwrap();
    world.table.replace(&token, &UserToken { pair, version: 2, ..token.clone() }, None).await.unwrap();
    let until = world.clock.now() + Duration::MINUTE;
    world.processes[0].sync(&world.table.table, until).await.unwrap();
    let stored = world.stored().await.unwrap();
    assert_eq!((stored.version, world.get().await.unwrap().as_str()), (3, "u1"));
    assert_eq!(PlainSealer.rewrap(stored.place(), &stored.pair).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_round_that_runs_out_of_time_goes_on_where_it_stopped() {
    let world = crowd().await;
    let (tokens, bookmarks) = (&world.processes[0], &world.table.table);
    let mut seen = Vec::new();
    for _ in 0..5 {
        // Time for one page: it is over as soon as the page is read.
        let until = world.clock.now() + Duration::NANOSECOND;
        world.clock.advance(Duration::ZERO);
        let run = tokens.sync(bookmarks, until);
        let (synced, ()) = tokio::join!(run, async { world.clock.advance(Duration::SECOND) });
        seen.push(synced.unwrap().seen);
    }
    assert_eq!(seen.iter().sum::<usize>(), 121, "{seen:?}");
}
