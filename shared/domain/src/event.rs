//! What the rest of the company may listen to: facts on an event bus, without secrets.

use async_trait::async_trait;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::fault::PortFault;
use crate::session::{Session, SessionStatus};
use crate::token::UserToken;
use crate::upload::Upload;
use crate::upload::file::StoredFile;
use crate::upload::merge;

/// A fact on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// `skylark.authorization`, `skylark.token`, `skylark.files` or `skylark.lark`.
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

    /// What became of a stored token: refreshed, about to end, or of no use without the person.
    #[must_use]
    pub fn of_token(before: &UserToken, after: &UserToken) -> Option<Self> {
        if before.session_id != after.session_id {
            return None;
        }
        let detail_type = match (&before.lapsed, &after.lapsed) {
            (None, Some(_)) => "TokenExpired",
            (Some(_), Some(_)) => return None,
            _ if before.issued_at != after.issued_at => "TokenRefreshed",
            _ if before.noticed != after.noticed => "TokenExpiring",
            _ => return None,
        };
        let time = |at: OffsetDateTime| at.format(&Rfc3339).ok();
        Some(Self {
            source: "skylark.token",
            detail_type: detail_type.to_owned(),
            detail: json!({
                "app_id": after.app_id,
                "open_id": after.open_id,
                "session_id": after.session_id,
                "version": after.version,
                "reason": after.lapsed.as_ref().map(|lapse| &lapse.code),
                "access_expires_at": time(after.access_expires_at),
                "ends_at": after.ends_at().and_then(time),
            }),
        })
    }

    /// A file is there for the members of its conversation.
    #[must_use]
    pub fn of_file(file: &StoredFile) -> Self {
        let mut detail = merge::public(file);
        if let Some(fields) = detail.as_object_mut() {
            fields.insert("tenant_id".to_owned(), json!(file.tenant_id));
            fields.insert("conversation_id".to_owned(), json!(file.conversation_id));
        }
        Self { source: "skylark.files", detail_type: "FileUploadCompleted".to_owned(), detail }
    }

    /// What was uploaded is not what its sender said it is.
    #[must_use]
    pub fn of_failed_upload(upload: &Upload) -> Self {
        Self {
            source: "skylark.files",
            detail_type: "FileUploadFailed".to_owned(),
            detail: json!({
                "upload_id": upload.upload_id,
                "tenant_id": upload.tenant_id,
                "conversation_id": upload.conversation_id,
                "user_id": upload.user_id,
                "filename": upload.filename,
                "failure": upload.failure,
            }),
        }
    }

    /// An event that the vendor pushed, as it came.
    #[must_use]
    pub fn of_lark(event_type: &str, detail: Value) -> Self {
        Self { source: "skylark.lark", detail_type: event_type.to_owned(), detail }
    }
}

/// The bus. At least once: a listener sees the same `event_id`, `session_id` and `version` again after a retry.
#[async_trait]
pub trait EventBus: Send + Sync {
    async fn publish(&self, facts: &[Fact]) -> Result<(), PortFault>;
}
