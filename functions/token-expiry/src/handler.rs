//! Schedule -> job.

use std::sync::Arc;
use std::time::Duration as Pause;

use domain::app::{App, AppFault, AppStatus, AppStore};
use domain::authorize::VendorFault;
use domain::channel::{Connector, ConnectorKind, ConnectorStore};
use domain::fault::{Fault, PortFault, Remedy, chain};
use domain::id::{AppId, OpenId};
use domain::inbox::{self, OpenEntries};
use domain::job::Bookmarks;
use domain::seal::{SealContext, SealFault, Sealed};
use domain::session::{Outcome, SessionStore};
use domain::user_tokens::{Tended, TokenFault, UserTokens};
use domain::work::WorkQueue;
use futures_util::future::join_all;
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

/// How many sessions or tokens one page names.
const PAGE: u32 = 100;

/// How many pages of sessions one run works through; what is left is due a minute later.
const PAGES: usize = 20;

/// How many tokens are tended at once, at most once a second: the vendor takes 50 refreshes a second.
const AT_ONCE: usize = 16;

/// How many tokens one run tends: the vendor takes 1,000 refreshes a minute, and people waiting for one come first.
const PER_RUN: usize = 800;

/// When a run begins nothing new, well inside the function's time-out. What is left is due in the next run.
const RUN: Duration = Duration::seconds(35);

/// Who changes a record that is sealed anew.
const BY_ROTATION: &str = "key rotation";

/// What a schedule asks for, as its `Input` in the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub(crate) enum Job {
    ExpireSessions,
    RingInbox,
    /// Refresh, warn, ask, forget.
    TendTokens,
    SyncUsers,
    CheckApps,
}

/// What the jobs need.
pub(crate) struct Jobs {
    apps: Arc<dyn AppStore>,
    sessions: Arc<dyn SessionStore>,
    inbox: Arc<dyn OpenEntries>,
    bookmarks: Arc<dyn Bookmarks>,
    connectors: Arc<dyn ConnectorStore>,
    work: Arc<dyn WorkQueue>,
    tokens: UserTokens,
}

impl Jobs {
    pub(crate) fn new<T>(
        table: Arc<T>,
        connectors: Arc<dyn ConnectorStore>,
        work: Arc<dyn WorkQueue>,
        tokens: UserTokens,
    ) -> Self
    where
        T: AppStore + SessionStore + OpenEntries + Bookmarks + 'static,
    {
        let (apps, sessions, inbox) = (table.clone(), table.clone(), table.clone());
        Self { apps, sessions, inbox, bookmarks: table, connectors, work, tokens }
    }

    /// Runs one job. Run twice, or twice at once, the second run finds nothing to do.
    pub(crate) async fn run(&self, job: Job) -> Result<(), JobFault> {
        let now = self.tokens.clock.now();
        match job {
            Job::ExpireSessions => self.expire_sessions(now).await,
            Job::RingInbox => self.ring_inbox(now).await,
            Job::TendTokens => self.tend_tokens(now).await,
            Job::SyncUsers => self.sync_users(now).await,
            Job::CheckApps => self.check_apps(now).await,
        }
    }

    /// Rings for callbacks that were acknowledged and are not done: their bell and the stream's were lost, or their work failed to the
    /// end.
    async fn ring_inbox(&self, now: OffsetDateTime) -> Result<(), JobFault> {
        let rung = inbox::ring_again(self.inbox.as_ref(), self.work.as_ref(), now).await?;
        if rung > 0 {
            tracing::warn!(entry.count = rung, "Callbacks were waiting for a bell");
        }
        Ok(())
    }

    /// Ends every session that is past its time. The table's stream makes the cards follow.
    async fn expire_sessions(&self, now: OffsetDateTime) -> Result<(), JobFault> {
        let mut ended = 0_usize;
        for _ in 0..PAGES {
            let due = self.sessions.overdue(now, PAGE).await?;
            let full = due.len() >= PAGE as usize;
            for session_id in due {
                let Some(session) = self.sessions.get(&session_id).await? else { continue };
                // It may have ended since the index was read.
                let Ok(expired) = session.ended(Outcome::Expired) else { continue };
                match self.sessions.end(&expired, None).await {
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

    /// Does what is due about each token, the longest due first. One that fails does not keep the others waiting.
    async fn tend_tokens(&self, now: OffsetDateTime) -> Result<(), JobFault> {
        let clock = self.tokens.clock.as_ref();
        let (mut count, mut failed) = (Count::default(), None);
        while clock.now() < now + RUN && count.total < PER_RUN {
            let due = self.tokens.tokens.due(clock.now(), PAGE).await?;
            let before = count.done();
            for chunk in due.chunks(AT_ONCE) {
                let began = clock.now();
                let tended = join_all(chunk.iter().map(|(app_id, open_id)| self.tend(app_id, open_id))).await;
                for result in tended {
                    count.total += 1;
                    match result {
                        Ok(tended) => count.add(tended),
                        Err(fault) => failed = Some(fault),
                    }
                }
                let rest = Pause::from_secs(1).saturating_sub((clock.now() - began).unsigned_abs());
                if due.len() > AT_ONCE {
                    clock.pause(rest).await;
                }
                if clock.now() >= now + RUN {
                    break;
                }
            }
            // A page that changed nothing would only come again.
            if due.len() < PAGE as usize || count.done() == before {
                break;
            }
        }
        tracing::info!(
            token.refreshed = count.refreshed,
            token.put_off = count.put_off,
            token.warned = count.warned,
            token.lapsed = count.lapsed,
            token.forgotten = count.forgotten,
            "Tokens tended"
        );
        failed.map_or(Ok(()), |fault| Err(fault.into()))
    }

    async fn tend(&self, app_id: &AppId, open_id: &OpenId) -> Result<Tended, TokenFault> {
        let tended = self.tokens.tend(app_id, open_id).await;
        if let Err(fault) = &tended {
            tracing::error!(lark.app_id = %app_id, lark.open_id = %open_id, error = %chain(fault), "A token was not tended");
        }
        tended
    }

    async fn sync_users(&self, now: OffsetDateTime) -> Result<(), JobFault> {
        let synced = self.tokens.sync(self.bookmarks.as_ref(), now + RUN).await?;
        if synced.seen > 0 {
            tracing::info!(
                user.seen = synced.seen,
                user.changed = synced.changed,
                user.left = synced.left,
                "Users synced"
            );
        }
        Ok(())
    }

    /// Proves the credentials of every enabled app, and seals what an earlier key sealed anew, connectors' secrets too. A failure fails
    /// the job, which raises its alarm.
    async fn check_apps(&self, now: OffsetDateTime) -> Result<(), JobFault> {
        for connector in self.connectors.list(None).await? {
            self.rewrap_connector(&connector, now).await?;
        }
        let mut failed = None;
        for app in self.apps.list().await? {
            self.rewrap(&app, now).await?;
            if app.status == AppStatus::Disabled {
                continue;
            }
            let checked = match self.tokens.apps.enabled(&app.app_id, now).await {
                Ok(open) => self.tokens.renewal.check(&open).await.map_err(JobFault::Vendor),
                Err(AppFault::Unknown(_) | AppFault::Disabled(_)) => Ok(()),
                Err(fault) => Err(JobFault::App(fault)),
            };
            if let Err(fault) = checked {
                tracing::error!(lark.app_id = %app.app_id, error = %chain(&fault), "An app does not work");
                failed = Some(fault);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Jobs {
    async fn rewrap(&self, app: &App, now: OffsetDateTime) -> Result<(), JobFault> {
        let Some(secrets) = self.sealed_anew(SealContext::App(&app.app_id), &app.secrets).await? else { return Ok(()) };
        let (version, updated_by) = (app.version + 1, BY_ROTATION.to_owned());
        let app = App { secrets, version, updated_at: now, updated_by, ..app.clone() };
        if kept(self.apps.put(&app).await)? {
            tracing::info!(lark.app_id = %app.app_id, "Sealed anew");
        }
        Ok(())
    }

    async fn rewrap_connector(&self, connector: &Connector, now: OffsetDateTime) -> Result<(), JobFault> {
        let ConnectorKind::Webhook { url, secret } = &connector.connects else { return Ok(()) };
        let place = SealContext::Connector { tenant_id: &connector.tenant_id, channel: &connector.name };
        let Some(secret) = self.sealed_anew(place, secret).await? else { return Ok(()) };
        let connects = ConnectorKind::Webhook { url: url.clone(), secret };
        let (version, updated_by) = (connector.version + 1, BY_ROTATION.to_owned());
        let connector = Connector { connects, version, updated_at: now, updated_by, ..connector.clone() };
        if kept(self.connectors.put(&connector).await)? {
            tracing::info!(tenant.id = %connector.tenant_id, channel.name = %connector.name, "Sealed anew");
        }
        Ok(())
    }

    /// The secret under the key that seals now, if it is under another. A damaged one is found out by whoever uses it.
    async fn sealed_anew(&self, place: SealContext<'_>, sealed: &Sealed) -> Result<Option<Sealed>, JobFault> {
        match self.tokens.sealer.rewrap(place, sealed).await {
            Ok(anew) => Ok(anew),
            Err(SealFault::Damaged) => Ok(None),
            Err(SealFault::KeyService(fault)) => Err(fault.into()),
        }
    }
}

/// Whether a record was replaced. If not, somebody changed it, and sealed it anew by that.
fn kept(put: Result<(), PortFault>) -> Result<bool, PortFault> {
    match put {
        Ok(()) => Ok(true),
        Err(PortFault::Conflict { .. }) => Ok(false),
        Err(fault) => Err(fault),
    }
}

#[derive(Default)]
struct Count {
    total: usize,
    refreshed: usize,
    put_off: usize,
    warned: usize,
    lapsed: usize,
    forgotten: usize,
}

impl Count {
    fn add(&mut self, tended: Tended) {
        match tended {
            Tended::Nothing => {}
            Tended::Refreshed => self.refreshed += 1,
            Tended::PutOff => self.put_off += 1,
            Tended::Warned(_) => self.warned += 1,
            Tended::Lapsed => self.lapsed += 1,
            Tended::Forgotten => self.forgotten += 1,
        }
    }

    fn done(&self) -> usize {
        self.refreshed + self.put_off + self.warned + self.lapsed + self.forgotten
    }
}

/// Why a job stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobFault {
    #[error("a store failed")]
    Store(#[from] PortFault),
    #[error("a token was not tended")]
    Token(#[from] TokenFault),
    #[error("the vendor does not take an app's credentials")]
    Vendor(#[source] VendorFault),
    #[error("an app does not open")]
    App(#[source] AppFault),
}

impl Fault for JobFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Store(fault) => fault.remedy(),
            Self::Token(fault) => fault.remedy(),
            Self::Vendor(fault) => fault.remedy(),
            Self::App(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Store(fault) => fault.code(),
            Self::Token(fault) => fault.code(),
            Self::Vendor(fault) => fault.code(),
            Self::App(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::app::AppSecrets;
    use domain::clock::Clock as _;
    use domain::inbox::{Inbox as _, RING_AGAIN};
    use domain::seal::Sealer as _;
    use domain::session::{SESSION_LIFE, SessionStatus};
    use testkit::contract_channels;
    use testkit::sample::{self, NOW};
    use testkit::{
        CountingIds, EarlierSealer, ManualClock, MemoryChannels, MemoryQueue, MemoryTable, MemoryVendor, PlainSealer,
    };

    use super::*;

    struct World {
        table: Arc<MemoryTable>,
        queue: Arc<MemoryQueue>,
        vendor: Arc<MemoryVendor>,
        clock: Arc<ManualClock>,
        connectors: Arc<MemoryChannels>,
        jobs: Jobs,
    }

    async fn world() -> World {
        let (table, queue) = (Arc::new(MemoryTable::default()), Arc::new(MemoryQueue::default()));
        let (vendor, clock, sealer) =
            (Arc::new(MemoryVendor::default()), Arc::new(ManualClock::default()), Arc::new(PlainSealer));
        AppStore::put(table.as_ref(), &sample::openable_app("cli_a").await).await.unwrap();
        let ids = Arc::new(CountingIds::default());
        let tokens = UserTokens::new(table.clone(), sealer, vendor.clone(), clock.clone(), ids);
        let connectors = Arc::<MemoryChannels>::default();
        let jobs = Jobs::new(table.clone(), connectors.clone(), queue.clone(), tokens);
        World { table, queue, vendor, clock, connectors, jobs }
    }

    impl World {
        async fn session(&self, n: u32) -> SessionStatus {
            SessionStore::get(self.table.as_ref(), &sample::session_id(n)).await.unwrap().unwrap().status
        }

        /// People whose pairs open.
        async fn people(&self, count: u32) {
            for n in 0..count {
                let (session, token) = (sample::session(n), sample::token_of(&format!("ou_{n}")));
                let pair = sample::pair().seal(token.place(), &PlainSealer).await.unwrap();
                let token = domain::token::UserToken { pair, ..token };
                self.table.create(&session).await.unwrap();
                self.table.end(&session.ended(Outcome::Completed).unwrap(), Some(&token)).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ends_what_is_overdue_over_several_pages_and_leaves_the_rest() {
        let world = world().await;
        for n in 0..250 {
            world.table.create(&sample::session(n)).await.unwrap();
        }
        let done = sample::session(300);
        world.table.create(&done).await.unwrap();
        world.table.end(&done.ended(Outcome::Completed).unwrap(), None).await.unwrap();

        world.clock.advance(SESSION_LIFE - Duration::SECOND);
        world.jobs.run(Job::ExpireSessions).await.unwrap();
        assert_eq!(world.session(0).await, SessionStatus::Pending, "not a second too early");
        world.clock.advance(Duration::SECOND);
        world.jobs.run(Job::ExpireSessions).await.unwrap();
        world.jobs.run(Job::ExpireSessions).await.unwrap();
        for n in 0..250 {
            assert_eq!(world.session(n).await, SessionStatus::Expired);
        }
        assert_eq!(world.session(300).await, SessionStatus::Completed);
    }

    #[tokio::test(start_paused = true)]
    async fn rings_for_a_callback_that_nobody_heard_of() {
        let world = world().await;
        world.table.accept(&sample::entry("cli_a", "ev1")).await.unwrap();
        world.clock.advance(RING_AGAIN);
        world.jobs.run(Job::RingInbox).await.unwrap();
        assert_eq!((world.queue.rung().len(), NOW < world.clock.now()), (1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn refreshes_everybody_who_is_due_within_the_vendors_rate() {
        let world = world().await;
        world.people(1000).await;
        world.clock.advance(Duration::minutes(108));
        let began = world.clock.now();
        world.jobs.run(Job::TendTokens).await.unwrap();
        let first = world.vendor.refreshes();
        let took = world.clock.now() - began;
        assert!(first <= 16 * 36 && first > 400, "{first} in one run");
        assert!(took < Duration::seconds(60), "inside the time-out: {took}");
        assert!(f64::from(first) / took.as_seconds_f64() < 50.0, "{first} in {took}");
        world.clock.advance(Duration::MINUTE);
        world.jobs.run(Job::TendTokens).await.unwrap();
        world.jobs.run(Job::TendTokens).await.unwrap();
        assert_eq!(world.vendor.refreshes(), 1000, "the rest is due in the next runs, and nobody twice");
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_whose_credentials_are_refused_fails_its_check() {
        let world = world().await;
        world.jobs.run(Job::CheckApps).await.unwrap();
        world.vendor.down.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(world.jobs.run(Job::CheckApps).await, Err(JobFault::Vendor(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_an_earlier_key_sealed_is_sealed_anew_once() {
        let world = world().await;
        let app = world.table.list().await.unwrap().remove(0);
        let secrets = AppSecrets::open(&app.app_id, &app.secrets, &PlainSealer).await.unwrap();
        let earlier = secrets.seal(&app.app_id, &EarlierSealer).await.unwrap();
        AppStore::put(world.table.as_ref(), &App { secrets: earlier, version: 2, ..app }).await.unwrap();
        world.jobs.run(Job::CheckApps).await.unwrap();
        world.jobs.run(Job::CheckApps).await.unwrap();
        let app = world.table.list().await.unwrap().remove(0);
        assert_eq!((app.version, app.updated_by.as_str()), (3, "key rotation"));
        AppSecrets::open(&app.app_id, &app.secrets, &PlainSealer).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connector_that_an_earlier_key_sealed_is_sealed_anew_once() {
        let world = world().await;
        let mut connector = contract_channels::connector("erp");
        let place = SealContext::Connector { tenant_id: &connector.tenant_id, channel: &connector.name };
        let secret = EarlierSealer.seal(place, &b"whsec".to_vec().into()).await.unwrap();
        let url = "https://erp.example/hook".parse().unwrap();
        connector.connects = ConnectorKind::Webhook { url, secret };
        for connector in [connector.clone(), contract_channels::connector("lark")] {
            world.connectors.put(&connector).await.unwrap();
        }
        world.jobs.run(Job::CheckApps).await.unwrap();
        world.jobs.run(Job::CheckApps).await.unwrap();
        let kept = world.connectors.list(None).await.unwrap();
        let changes: Vec<(u64, &str)> = kept.iter().map(|it| (it.version, it.updated_by.as_str())).collect();
        assert_eq!(changes, [(2, "key rotation"), (1, "ann")]);
        let ConnectorKind::Webhook { secret, .. } = &kept[0].connects else { panic!("{:?}", kept[0]) };
        let place = SealContext::Connector { tenant_id: &connector.tenant_id, channel: &connector.name };
        assert_eq!(PlainSealer.open(place, secret).await.unwrap().as_slice(), b"whsec");
    }

    #[test]
    fn every_input_of_the_template_is_a_job() {
        for (input, job) in [
            (r#"{"job": "expire_sessions"}"#, Job::ExpireSessions),
            (r#"{"job": "ring_inbox"}"#, Job::RingInbox),
            (r#"{"job": "tend_tokens"}"#, Job::TendTokens),
            (r#"{"job": "sync_users"}"#, Job::SyncUsers),
            (r#"{"job": "check_apps"}"#, Job::CheckApps),
        ] {
            assert_eq!(serde_json::from_str::<Job>(input).unwrap(), job);
        }
    }
}
