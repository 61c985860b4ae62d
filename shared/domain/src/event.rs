//! What the rest of the company may listen to: facts on an event bus, without secrets.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::fault::PortFault;
use crate::session::{Session, SessionStatus};

/// A fact on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// `skylark.authorization` or `skylark.lark`.
    pub source: &'static str,
    pub detail_type: String,
    pub detail: Value,
}

impl Fact {
    /// The outcome of an authorization session, or nothing while it is pending.
    #[must_use]
    pub fn of_session(session: &Session) -> Option<Self> {
        let detail_type = match session.status {
            SessionStatus::Pending => return None,
            SessionStatus::Completed => "AuthorizationCompleted",
            SessionStatus::Rejected => "AuthorizationRejected",
            SessionStatus::Expired => "AuthorizationExpired",
            SessionStatus::Failed => "AuthorizationFailed",
        };
        Some(Self {
            source: "skylark.authorization",
            detail_type: detail_type.to_owned(),
            detail: json!({
                "app_id": session.app_id,
                "open_id": session.open_id,
                "session_id": session.session_id,
                "scopes": session.scopes,
                "failure": session.failure,
            }),
        })
    }

    /// An event that the vendor pushed, as it came.
    #[must_use]
    pub fn of_lark(event_type: &str, detail: Value) -> Self {
        Self { source: "skylark.lark", detail_type: event_type.to_owned(), detail }
    }
}

/// The bus. At least once: a listener sees `event_id` or `session_id` again after a retry.
#[async_trait]
pub trait EventBus: Send + Sync {
    async fn publish(&self, facts: &[Fact]) -> Result<(), PortFault>;
}
