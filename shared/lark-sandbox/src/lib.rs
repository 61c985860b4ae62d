//! A stand-in Lark Open Platform for local runs and tests: the vendor's HTTP API on one side, the people on the other.
//!
//! Both of the vendor's hosts, the Open API and the accounts pages, are this one server. Tokens expire, codes and
//! refresh tokens are single use, quotas apply, and pushes to an app are encrypted and signed as its settings say.
//! All state is in one SQLite file; whatever was acknowledged survives a killed process.
//!
//! # The vendor's side
//!
//! `auth/v3` tokens of self-built and store apps, `authen/v1/authorize` (a page), `authen/v2/oauth/token`,
//! `authen/v1/user_info`, `im/v1/messages` (send, reply, read, edit, update, recall), `interactive/v1/card/update`,
//! `contact/v3/users` (one, by department, by email or mobile), `bot/v3/info`, `application/v6/scopes` and an app's own
//! `application/v6/applications/:app_id`. Where the vendor's pages leave a status open, errors
//! come with HTTP 400. A sandbox person has the same `open_id` in every app. `offline_access` is a scope like any other:
//! the app's list must hold it. The authorize page takes its own form from scripts too: `query` (the page's query
//! string), `open_id`, `decision` (`approve` or `deny`).
//!
//! # The sandbox's side (JSON)
//!
//! | request | does |
//! |---|---|
//! | `POST /sandbox/apps` | creates or replaces an [`App`]; a `callback_url` has to answer the challenge, unless `"verify": false` |
//! | `GET /sandbox/apps` | apps, secrets masked |
//! | `GET`, `POST /sandbox/users` | people; `name` is enough for a new one |
//! | `GET`, `POST /sandbox/chats` | group chats: `{chat_id?, name, members[], app_ids[]}` |
//! | `POST /sandbox/authorize` | `{url, open_id, approve}` -> `{location}`: what the authorize page would redirect to |
//! | `POST /sandbox/revoke` | `{app_id, open_id}`: the person takes back the authorization |
//! | `POST /sandbox/click` | a [`Click`] -> [`Clicked`] |
//! | `POST /sandbox/events` | an [`Event`] -> its [`Delivery`] after the first attempt; retried at 15 s, 5 min, 1 h, 6 h |
//! | `POST /sandbox/messages/from` | `{app_id, open_id, chat_id?, text}`: a person writes to the bot |
//! | `GET /sandbox/deliveries?app_id=` | [`Delivery`]s, newest first |
//! | `GET /sandbox/messages?app_id=&open_id=&limit=` | [`SeenMessage`]s, newest first |
//! | `GET /sandbox/messages.html` | the same as people see it, to click on |
//! | `GET`, `POST /sandbox/clock` | `{advance_secs}` moves time; returns once retries that came due were attempted |
//! | `GET`, `POST`, `DELETE /sandbox/faults` | a [`Fault`]: `{path_prefix, kind, times?, percent?}` |
//! | `GET`, `DELETE /sandbox/calls` | [`CallReport`]: how often each vendor endpoint gave which result |

mod authorize;
mod card;
mod click;
mod clock;
mod control;
mod delivery;
mod html;
mod limiter;
mod message;
mod model;
mod people;
mod push;
mod store;
mod vendor;
mod view;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::{any, get};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

pub use crate::click::{Click, Clicked, Target};
pub use crate::control::{AppSpec, CallReport, Consent, Event, FromPerson, Revocation, SandboxError, SeenMessage};
pub use crate::model::{
    App, AppType, Attempt, CardCallback, Change, Chat, ChatType, Delivery, DeliveryStatus, Fault, FaultKind,
    TENANT_KEY, User, UserStatus,
};
pub use crate::store::{Call, CallCount, StoreError};

use crate::limiter::Limiter;
use crate::model::ClockOffset;
use crate::store::Store;

/// Where the sandbox keeps its state and how others reach it.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// The SQLite file; made if it does not exist.
    pub state: PathBuf,
    /// What the vendor's hosts are replaced with, for example `http://127.0.0.1:3100`.
    pub base_url: String,
}

/// The sandbox could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the HTTP client for callbacks could not be made")]
    Client(#[from] reqwest::Error),
}

/// The stand-in platform; clones share one state.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    limiter: Mutex<Limiter>,
    http: reqwest::Client,
    base_url: String,
    /// The deliveries being attempted, and who to tell when one of them is done.
    in_flight: Mutex<HashSet<String>>,
    settled: Notify,
    closing: watch::Sender<bool>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("base_url", &self.inner.base_url).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Opens the state file, or makes it with a handful of people in it.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be used.
    pub fn open(config: SandboxConfig) -> Result<Self, OpenError> {
        let store = Store::open(&config.state)?;
        store.transact(|tx| {
            people::seed(tx)?;
            if let Some(clock) = tx.get::<ClockOffset>(ClockOffset::ID)? {
                store.clock.advance_to(clock.offset_ms);
            }
            Ok::<_, StoreError>(())
        })?;
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                limiter: Mutex::default(),
                http,
                base_url: config.base_url.trim_end_matches('/').to_owned(),
                in_flight: Mutex::default(),
                settled: Notify::new(),
                closing: watch::Sender::new(false),
            }),
        })
    }

    /// Every path of the platform and of the sandbox. Retries of events only run under [`Sandbox::serve`].
    pub fn router(&self) -> Router {
        Router::new()
            .route("/open-apis/authen/v1/authorize", get(authorize::page).post(authorize::decide))
            .route("/open-apis/{*path}", any(vendor::serve))
            .merge(control::router())
            .with_state(self.clone())
    }

    /// Serves until `shutdown` completes and open requests are answered; retries events meanwhile.
    ///
    /// # Errors
    /// The listener's, should it fail.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let closing = self.inner.closing.clone();
        closing.send_replace(false);
        let graceful = async move {
            shutdown.await;
            closing.send_replace(true);
        };
        tokio::select! {
            served = axum::serve(listener, self.router()).with_graceful_shutdown(graceful) => served,
            never = self.retry_forever() => match never {},
        }
    }

    /// What the vendor's hosts are replaced with.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.inner.base_url
    }

    /// Sandbox time, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.store().clock.now_ms()
    }

    /// How far sandbox time is ahead of the machine's clock.
    #[must_use]
    pub fn ahead_secs(&self) -> i64 {
        self.store().clock.offset_ms() / clock::SECOND
    }

    /// Completes when the server is told to stop, so that deliberate waits do not hold it up.
    async fn closing(&self) {
        let mut closing = self.inner.closing.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = closing.wait_for(|closing| *closing).await;
    }

    fn store(&self) -> &Store {
        &self.inner.store
    }

    fn limiter(&self) -> &Mutex<Limiter> {
        &self.inner.limiter
    }
}
