//! Doorbell -> inbox entry or session -> what has to be done.

use std::sync::Arc;

use domain::app::{AppDirectory, AppStore};
use domain::authorize::{Approval, Authorization, AuthorizeFault, Vendor};
use domain::event::{EventBus, Fact};
use domain::fault::{Fault, PortFault, Refusal, Remedy, chain};
use domain::id::{AppId, EventId, SessionId};
use domain::inbox::{Claim, Entry, EntryKind, Inbox};
use domain::seal::Sealer;
use domain::session::SessionStore;
use domain::work::{Doorbell, Parked, ParkedQueue, WorkQueue};
use lambda_kit::queue::Record;
use lark::callback::CardAction;
use lark::event::Event;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// What the work needs.
pub(crate) struct Work {
    inbox: Arc<dyn Inbox>,
    authorization: Authorization,
    bus: Arc<dyn EventBus>,
    parked: Arc<dyn ParkedQueue>,
    public_url: String,
}

impl Work {
    pub(crate) fn new<T: AppStore + Inbox + SessionStore + 'static>(
        table: Arc<T>,
        sealer: Arc<dyn Sealer>,
        vendor: Arc<dyn Vendor>,
        work: Arc<dyn WorkQueue>,
        bus: Arc<dyn EventBus>,
        parked: Arc<dyn ParkedQueue>,
        public_url: String,
    ) -> Self {
        let apps = Arc::new(AppDirectory::new(table.clone(), sealer.clone()));
        let authorization = Authorization { apps, sessions: table.clone(), sealer, vendor, work };
        Self { inbox: table, authorization, bus, parked, public_url }
    }
}

/// What a button of an authorization card carries. No `Debug`: the code is a secret.
#[derive(Deserialize)]
#[serde(tag = "skylark", rename_all = "snake_case")]
enum Button {
    /// Some clients hand the code over with the click.
    Authorize {
        session_id: SessionId,
        code: Option<String>,
    },
    Reject {
        session_id: SessionId,
    },
}

impl Button {
    /// An object, or the same as a string, as some clients send it. Nothing if the button is not one of ours.
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(json) => serde_json::from_str(json).ok(),
            value => Self::deserialize(value).ok(),
        }
    }
}

/// Answers one ring. A ring for what is done, or was never there, is answered by doing nothing.
pub(crate) async fn carry_out(work: &Work, record: Record, now: OffsetDateTime) -> Result<(), WorkFault> {
    match serde_json::from_str(&record.body).map_err(WorkFault::NotABell)? {
        Doorbell::Card { session_id, .. } => Ok(work.authorization.follow(&session_id, &work.public_url, now).await?),
        Doorbell::Inbox { app_id, event_id, .. } => work.empty_inbox(&app_id, &event_id, now).await,
    }
}

impl Work {
    async fn empty_inbox(&self, app_id: &AppId, event_id: &EventId, now: OffsetDateTime) -> Result<(), WorkFault> {
        let entry = match self.inbox.claim(app_id, event_id, now).await? {
            Claim::Taken(entry) => entry,
            Claim::Done | Claim::Missing => return Ok(()),
            Claim::Busy => return Err(WorkFault::Busy),
        };
        match self.handle(&entry, now).await {
            Ok(()) => {}
            Err(fault) if matches!(fault.remedy(), Remedy::Retry | Remedy::Bug) => {
                self.inbox.release(app_id, event_id).await?;
                return Err(fault);
            }
            // The evidence is the entry, which finishing forgets, and not the bell.
            Err(fault) => self.park(&entry, &fault).await?,
        }
        Ok(self.inbox.finish(app_id, event_id).await?)
    }

    async fn handle(&self, entry: &Entry, now: OffsetDateTime) -> Result<(), WorkFault> {
        match entry.kind {
            EntryKind::CardAction => {
                let click: CardAction = serde_json::from_str(&entry.payload).map_err(WorkFault::NotAnEntry)?;
                match Button::read(&click.action.value) {
                    Some(button) => self.press(button, &entry.app_id, &click, now).await,
                    None => self.publish("card.action.trigger", entry, without_token(&click)).await,
                }
            }
            EntryKind::Event => {
                let event: Event = serde_json::from_str(&entry.payload).map_err(WorkFault::NotAnEntry)?;
                self.publish(&event.event_type, entry, json!(event)).await
            }
        }
    }

    /// A click of somebody else than the one who was asked, or on a card whose session has ended, changes nothing.
    async fn press(
        &self,
        button: Button,
        app_id: &AppId,
        click: &CardAction,
        now: OffsetDateTime,
    ) -> Result<(), WorkFault> {
        let (Button::Authorize { session_id, .. } | Button::Reject { session_id }) = &button;
        let session = self.authorization.session(app_id, session_id).await?;
        if session.open_id.as_str() != click.operator.open_id || session.must_be_open(now).is_err() {
            tracing::info!(session.id = %session_id, "A click on a card that is closed to this person");
            return Ok(());
        }
        match button {
            Button::Reject { .. } => self.authorization.reject(&session).await?,
            Button::Authorize { code: None, .. } => session,
            Button::Authorize { code: Some(code), .. } => {
                let approval = Approval { code: code.into(), attempt: None };
                match self.authorization.complete(&session, &approval, now).await {
                    // The session says so, and the card follows it.
                    Err(AuthorizeFault::Vendor(fault)) if fault.remedy() != Remedy::Retry => {
                        tracing::warn!(session.id = %session.session_id, error = %chain(&fault), "The vendor refused a code");
                        session
                    }
                    result => result?,
                }
            }
        };
        Ok(())
    }

    async fn publish(&self, event_type: &str, entry: &Entry, body: Value) -> Result<(), WorkFault> {
        let detail = json!({ "app_id": entry.app_id, "event_id": entry.event_id, "event": body });
        Ok(self.bus.publish(&[Fact::of_lark(event_type, detail)]).await?)
    }

    async fn park(&self, entry: &Entry, fault: &WorkFault) -> Result<(), PortFault> {
        let reason = chain(fault);
        tracing::warn!(event.id = %entry.event_id, error = %reason, "An inbox entry is parked");
        self.parked.park(&Parked { function: "lark-work".to_owned(), reason, payload: json!(entry) }).await
    }
}

/// A click as listeners may see it: the token that updates the card is a capability and stays here.
fn without_token(click: &CardAction) -> Value {
    let mut click = json!(click);
    if let Some(fields) = click.as_object_mut() {
        fields.remove("update_token");
    }
    click
}

/// Why work was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkFault {
    #[error("the message is not a doorbell")]
    NotABell(#[source] serde_json::Error),
    #[error("the inbox entry does not parse")]
    NotAnEntry(#[source] serde_json::Error),
    #[error("another worker holds the entry")]
    Busy,
    #[error(transparent)]
    Authorize(#[from] AuthorizeFault),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for WorkFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::NotABell(_) | Self::NotAnEntry(_) => Remedy::Reject(Refusal::Invalid),
            Self::Busy => Remedy::Retry,
            Self::Authorize(fault) => fault.remedy(),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotABell(_) | Self::NotAnEntry(_) => "invalid_message",
            Self::Busy => "busy",
            Self::Authorize(fault) => fault.code(),
            Self::Port(fault) => fault.code(),
        }
    }
}
