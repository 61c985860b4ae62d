//! The ports in memory, with switchable failures.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use domain::app::{App, AppStore};
use domain::event::{EventBus, Fact};
use domain::fault::PortFault;
use domain::id::{AppId, EventId, MessageId, OpenId, SessionId};
use domain::inbox::{Acceptance, CLAIM, Claim, Entry, Inbox, OpenEntries, RING_AGAIN};
use domain::limit::{Limit, LimitFault, Limiter, Usage};
use domain::seal::{SealContext, SealFault, Sealed, Sealer};
use domain::session::{ASK_AGAIN, Asked, Attempt, Session, SessionStatus, SessionStore};
use domain::tenant_token::TenantToken;
use domain::token::UserToken;
use domain::work::{Doorbell, Parked, ParkedQueue, Redelivery, WorkQueue};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretSlice};
use time::OffsetDateTime;

#[derive(Debug, Clone, Copy, PartialEq)]
enum EntryState {
    Accepted,
    Claimed(OffsetDateTime),
    Done,
}

/// An entry, and when it is rung for again unless it is done.
#[derive(Debug)]
struct Kept {
    entry: Entry,
    state: EntryState,
    due_at: OffsetDateTime,
}

#[derive(Debug, Default)]
pub(crate) struct Tables {
    apps: HashMap<AppId, App>,
    inbox: HashMap<(AppId, EventId), Kept>,
    pub(crate) sessions: HashMap<SessionId, Session>,
    attempts: HashMap<String, Attempt>,
    pub(crate) tokens: HashMap<(AppId, OpenId), UserToken>,
    pub(crate) leases: HashMap<(AppId, OpenId), OffsetDateTime>,
    pub(crate) asks: HashMap<(AppId, OpenId), Session>,
    pub(crate) tenant_tokens: HashMap<(AppId, String), TenantToken>,
    pub(crate) tenant_leases: HashMap<(AppId, String), OffsetDateTime>,
    pub(crate) tickets: HashMap<AppId, (Sealed, OffsetDateTime)>,
    pub(crate) bookmarks: HashMap<String, String>,
}

impl Tables {
    pub(crate) fn keep_ask(&mut self, ask: &Session) {
        self.sessions.insert(ask.session_id.clone(), ask.clone());
        self.asks.insert((ask.app_id.clone(), ask.open_id.clone()), ask.clone());
    }
}

/// A table in memory. While `down`, the inbox and the attempts answer nothing.
#[derive(Debug, Default)]
pub struct MemoryTable {
    pub down: AtomicBool,
    tables: Mutex<Tables>,
}

impl MemoryTable {
    fn open(&self, operation: &'static str) -> Result<MutexGuard<'_, Tables>, PortFault> {
        if self.down.load(Ordering::SeqCst) { unavailable(operation) } else { Ok(self.lock()) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no test panics while it holds the table")
    }
}

pub(crate) fn conflict<T>(operation: &'static str) -> Result<T, PortFault> {
    Err(PortFault::Conflict { operation })
}

pub(crate) fn unavailable<T>(operation: &'static str) -> Result<T, PortFault> {
    Err(PortFault::Unavailable { operation, cause: "switched off".into() })
}

#[async_trait]
impl AppStore for MemoryTable {
    async fn get(&self, app_id: &AppId) -> Result<Option<App>, PortFault> {
        Ok(self.lock().apps.get(app_id).cloned())
    }

    async fn put(&self, app: &App) -> Result<(), PortFault> {
        let mut tables = self.lock();
        let stored = tables.apps.get(&app.app_id).map_or(0, |a| a.version);
        if app.version != stored + 1 {
            return conflict("put app");
        }
        tables.apps.insert(app.app_id.clone(), app.clone());
        Ok(())
    }

    async fn delete(&self, app_id: &AppId, version: u64) -> Result<(), PortFault> {
        let mut tables = self.lock();
        if tables.apps.get(app_id).is_some_and(|stored| stored.version != version) {
            return conflict("delete app");
        }
        tables.apps.remove(app_id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<App>, PortFault> {
        let mut apps: Vec<App> = self.lock().apps.values().cloned().collect();
        apps.sort_by(|a, b| a.app_id.cmp(&b.app_id));
        Ok(apps)
    }
}

#[async_trait]
impl Inbox for MemoryTable {
    async fn accept(&self, entry: &Entry) -> Result<Acceptance, PortFault> {
        let mut tables = self.open("accept")?;
        let key = (entry.app_id.clone(), entry.event_id.clone());
        if tables.inbox.contains_key(&key) {
            return Ok(Acceptance::Seen);
        }
        let due_at = entry.received_at + RING_AGAIN;
        tables.inbox.insert(key, Kept { entry: entry.clone(), state: EntryState::Accepted, due_at });
        Ok(Acceptance::New)
    }

    async fn claim(&self, app_id: &AppId, event_id: &EventId, now: OffsetDateTime) -> Result<Claim, PortFault> {
        let mut tables = self.open("claim")?;
        let Some(kept) = tables.inbox.get_mut(&(app_id.clone(), event_id.clone())) else {
            return Ok(Claim::Missing);
        };
        match kept.state {
            EntryState::Done => Ok(Claim::Done),
            EntryState::Claimed(until) if now < until => Ok(Claim::Busy),
            _ => {
                kept.state = EntryState::Claimed(now + CLAIM);
                Ok(Claim::Taken(kept.entry.clone()))
            }
        }
    }

    async fn finish(&self, app_id: &AppId, event_id: &EventId, _now: OffsetDateTime) -> Result<(), PortFault> {
        self.leave(app_id, event_id, EntryState::Done)
    }

    async fn release(&self, app_id: &AppId, event_id: &EventId) -> Result<(), PortFault> {
        self.leave(app_id, event_id, EntryState::Accepted)
    }
}

impl MemoryTable {
    fn leave(&self, app_id: &AppId, event_id: &EventId, next: EntryState) -> Result<(), PortFault> {
        let mut tables = self.open("leave")?;
        if let Some(kept) = tables.inbox.get_mut(&(app_id.clone(), event_id.clone()))
            && matches!(kept.state, EntryState::Claimed(_))
        {
            kept.state = next;
        }
        Ok(())
    }
}

#[async_trait]
impl OpenEntries for MemoryTable {
    async fn unanswered(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<Entry>, PortFault> {
        let tables = self.open("unanswered")?;
        let due = tables.inbox.values().filter(|kept| kept.state != EntryState::Done && kept.due_at <= now);
        Ok(due.take(limit as usize).map(|kept| kept.entry.clone()).collect())
    }

    async fn put_off(&self, app_id: &AppId, event_id: &EventId, until: OffsetDateTime) -> Result<(), PortFault> {
        if let Some(kept) = self.open("put_off")?.inbox.get_mut(&(app_id.clone(), event_id.clone())) {
            kept.due_at = until;
        }
        Ok(())
    }
}

#[async_trait]
impl SessionStore for MemoryTable {
    async fn get(&self, session_id: &SessionId) -> Result<Option<Session>, PortFault> {
        Ok(self.lock().sessions.get(session_id).cloned())
    }

    async fn create(&self, session: &Session) -> Result<(), PortFault> {
        let mut tables = self.lock();
        if tables.sessions.contains_key(&session.session_id) {
            return conflict("create session");
        }
        tables.sessions.insert(session.session_id.clone(), session.clone());
        Ok(())
    }

    async fn end(&self, session: &Session, token: Option<&UserToken>) -> Result<(), PortFault> {
        let mut tables = self.lock();
        match tables.sessions.get_mut(&session.session_id) {
            Some(stored) if stored.version + 1 == session.version && stored.status == SessionStatus::Pending => {
                stored.status = session.status;
                stored.failure.clone_from(&session.failure);
                stored.version = session.version;
            }
            _ => return conflict("end session"),
        }
        if let Some(token) = token {
            let key = (token.app_id.clone(), token.open_id.clone());
            tables.leases.remove(&key);
            tables.tokens.insert(key, token.clone());
        }
        Ok(())
    }

    async fn card_shown(&self, session_id: &SessionId, message_id: &MessageId, version: u64) -> Result<(), PortFault> {
        if let Some(session) = self.lock().sessions.get_mut(session_id).filter(|s| s.shown_version < version) {
            session.shown_version = version;
            session.message_id = Some(message_id.clone());
        }
        Ok(())
    }

    async fn put_attempt(&self, attempt: &Attempt) -> Result<(), PortFault> {
        self.open("put_attempt")?.attempts.insert(attempt.state_hash.clone(), attempt.clone());
        Ok(())
    }

    async fn take_attempt(&self, state_hash: &str) -> Result<Option<Attempt>, PortFault> {
        Ok(self.open("take_attempt")?.attempts.remove(state_hash))
    }

    async fn ask(&self, session: &Session) -> Result<Asked, PortFault> {
        let mut tables = self.lock();
        if tables.sessions.contains_key(&session.session_id) {
            return conflict("ask");
        }
        let recent = tables.asks.get(&(session.app_id.clone(), session.open_id.clone()));
        let recent =
            recent.filter(|ask| session.created_at < ask.created_at + ASK_AGAIN && ask.scopes == session.scopes);
        if let Some(recent) = recent {
            return Ok(Asked::Before(recent.session_id.clone()));
        }
        tables.keep_ask(session);
        Ok(Asked::Now)
    }

    async fn overdue(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<SessionId>, PortFault> {
        let tables = self.lock();
        let mut due: Vec<&Session> =
            tables.sessions.values().filter(|s| s.status == SessionStatus::Pending && s.expires_at <= now).collect();
        due.sort_by_key(|s| (s.expires_at, s.session_id.clone()));
        Ok(due.into_iter().take(limit as usize).map(|s| s.session_id.clone()).collect())
    }
}

/// A work queue and a parked queue in memory. While `down`, nothing goes in.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    pub down: AtomicBool,
    rung: Mutex<Vec<Doorbell>>,
    parked: Mutex<Vec<Parked>>,
    again: Mutex<Vec<(String, Duration)>>,
}

#[async_trait]
impl Redelivery for MemoryQueue {
    async fn again_in(&self, receipt_handle: &str, delay: Duration) -> Result<(), PortFault> {
        if self.is_down() {
            return unavailable("again_in");
        }
        self.again.lock().expect("not poisoned").push((receipt_handle.to_owned(), delay));
        Ok(())
    }
}

impl MemoryQueue {
    /// What was asked to come again, and when.
    #[must_use]
    pub fn again(&self) -> Vec<(String, Duration)> {
        self.again.lock().expect("not poisoned").clone()
    }

    #[must_use]
    pub fn rung(&self) -> Vec<Doorbell> {
        self.rung.lock().expect("not poisoned").clone()
    }

    #[must_use]
    pub fn parked(&self) -> Vec<Parked> {
        self.parked.lock().expect("not poisoned").clone()
    }

    fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl WorkQueue for MemoryQueue {
    async fn ring(&self, bell: &Doorbell) -> Result<(), PortFault> {
        if self.is_down() {
            return unavailable("ring");
        }
        self.rung.lock().expect("not poisoned").push(bell.clone());
        Ok(())
    }
}

#[async_trait]
impl ParkedQueue for MemoryQueue {
    async fn park(&self, parked: &Parked) -> Result<(), PortFault> {
        if self.is_down() {
            return unavailable("park");
        }
        self.parked.lock().expect("not poisoned").push(parked.clone());
        Ok(())
    }
}

/// A bus that remembers what was published. While `down`, nothing is.
#[derive(Debug, Default)]
pub struct MemoryBus {
    pub down: AtomicBool,
    published: Mutex<Vec<Fact>>,
}

impl MemoryBus {
    #[must_use]
    pub fn published(&self) -> Vec<Fact> {
        self.published.lock().expect("not poisoned").clone()
    }
}

#[async_trait]
impl EventBus for MemoryBus {
    async fn publish(&self, facts: &[Fact]) -> Result<(), PortFault> {
        if self.down.load(Ordering::SeqCst) {
            return unavailable("publish");
        }
        self.published.lock().expect("not poisoned").extend_from_slice(facts);
        Ok(())
    }
}

/// A sealer that hides nothing and still refuses a record in the wrong place.
#[derive(Debug, Default, Clone, Copy)]
pub struct PlainSealer;

#[async_trait]
impl Sealer for PlainSealer {
    async fn seal(&self, context: SealContext<'_>, secret: &SecretSlice<u8>) -> Result<Sealed, SealFault> {
        let text = String::from_utf8_lossy(secret.expose_secret()).into_owned();
        Ok(Sealed(format!("{:?}|{text}", context.pairs())))
    }

    async fn open(&self, context: SealContext<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        let place = format!("{:?}|", context.pairs());
        let record = sealed.0.strip_prefix(EARLIER_KEY).unwrap_or(&sealed.0);
        let text = record.strip_prefix(&place).ok_or(SealFault::Damaged)?;
        Ok(Zeroizing::new(text.as_bytes().to_vec()))
    }

    async fn rewrap(&self, context: SealContext<'_>, sealed: &Sealed) -> Result<Option<Sealed>, SealFault> {
        let Some(record) = sealed.0.strip_prefix(EARLIER_KEY) else { return Ok(None) };
        self.open(context, sealed).await?;
        Ok(Some(Sealed(record.to_owned())))
    }
}

/// What a record under the earlier key begins with.
const EARLIER_KEY: &str = "earlier key|";

/// [`PlainSealer`] before its key was rotated: what this one seals, that one opens and re-wraps.
#[derive(Debug, Default, Clone, Copy)]
pub struct EarlierSealer;

#[async_trait]
impl Sealer for EarlierSealer {
    async fn seal(&self, context: SealContext<'_>, secret: &SecretSlice<u8>) -> Result<Sealed, SealFault> {
        let Sealed(record) = PlainSealer.seal(context, secret).await?;
        Ok(Sealed(format!("{EARLIER_KEY}{record}")))
    }

    async fn open(&self, context: SealContext<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        if !sealed.0.starts_with(EARLIER_KEY) {
            return Err(SealFault::Damaged);
        }
        PlainSealer.open(context, sealed).await
    }

    async fn rewrap(&self, _: SealContext<'_>, _: &Sealed) -> Result<Option<Sealed>, SealFault> {
        Ok(None)
    }
}

/// A limiter in memory.
#[derive(Debug, Default)]
pub struct MemoryLimiter {
    usages: Mutex<HashMap<String, Usage>>,
}

#[async_trait]
impl Limiter for MemoryLimiter {
    async fn take(&self, key: &str, limit: Limit, now: OffsetDateTime) -> Result<(), LimitFault> {
        let mut usages = self.usages.lock().expect("no test panics while it holds the limiter");
        let counted = Usage::count(usages.get(key), limit, now);
        let counted = counted.map_err(|retry_after_secs| LimitFault::Exhausted { retry_after_secs })?;
        usages.insert(key.to_owned(), counted.usage);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{EarlierSealer, MemoryLimiter, MemoryTable, PlainSealer};
    use crate::contract;

    #[tokio::test]
    async fn keeps_the_contract_of_sealing() {
        contract::sealer(&PlainSealer, &EarlierSealer).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_apps() {
        contract::apps(&MemoryTable::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_the_inbox() {
        contract::inbox(&MemoryTable::default()).await;
        contract::open_entries(&MemoryTable::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_sessions() {
        contract::sessions(&MemoryTable::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_limits() {
        contract::limits(&[&MemoryLimiter::default()]).await;
    }
}
