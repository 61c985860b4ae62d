//! Lark apps: what is known of each, and the directory that functions look them up in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use secrecy::SecretString;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use url::Url;

use crate::fault::{Denial, Fault, PortFault, Refusal, Remedy};
use crate::id::{AppId, ChatId};
use crate::seal::{SealContext, SealFault, Sealed, Sealer};

/// Which of the vendor's two platforms an app lives on; tokens never cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Brand {
    Feishu,
    Lark,
}

impl Brand {
    /// The host of the Open API.
    #[must_use]
    pub fn open_base(self) -> &'static str {
        match self {
            Self::Feishu => "https://open.feishu.cn",
            Self::Lark => "https://open.larksuite.com",
        }
    }

    /// The host of the authorize page.
    #[must_use]
    pub fn accounts_base(self) -> &'static str {
        match self {
            Self::Feishu => "https://accounts.feishu.cn",
            Self::Lark => "https://accounts.larksuite.com",
        }
    }
}

/// Who may install an app, and so what its tokens are had for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppKind {
    /// Made by a company for itself: the app secret is enough.
    #[default]
    Custom,
    /// Installed by many companies from the vendor's directory: tokens also need the `app_ticket` that the vendor pushes.
    Store,
}

/// A disabled app answers nothing and gets no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppStatus {
    Enabled,
    Disabled,
}

/// An app as it is stored; its secrets are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    pub app_id: AppId,
    pub name: String,
    /// Stored under another name: `kind` is what the table's index calls the kind of an item.
    #[serde(rename = "app_kind", default)]
    pub kind: AppKind,
    pub brand: Brand,
    pub status: AppStatus,
    /// The chat that gets operators' notices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_chat: Option<ChatId>,
    /// Where people read what becomes of their data; detailed cards link to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_url: Option<Url>,
    pub secrets: Sealed,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    pub updated_by: String,
    /// Grows by one with each change; an update names the version that it read.
    pub version: u64,
}

/// What only Skylark and the vendor know of an app.
#[derive(Debug, Clone)]
pub struct AppSecrets {
    pub app_secret: SecretString,
    /// Without one, callbacks are neither encrypted nor signed and the verification token is their only proof.
    pub encrypt_key: Option<SecretString>,
    pub verification_token: SecretString,
}

#[derive(Serialize, Deserialize)]
struct SecretsRecord {
    app_secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encrypt_key: Option<String>,
    verification_token: String,
}

impl AppSecrets {
    /// Seals the secrets for `app_id`.
    pub async fn seal(&self, app_id: &AppId, sealer: &dyn Sealer) -> Result<Sealed, SealFault> {
        let record = SecretsRecord {
            app_secret: self.app_secret.expose_secret().to_owned(),
            encrypt_key: self.encrypt_key.as_ref().map(|k| k.expose_secret().to_owned()),
            verification_token: self.verification_token.expose_secret().to_owned(),
        };
        let bytes = serde_json::to_vec(&record).map_err(|_| SealFault::Damaged)?;
        sealer.seal(SealContext::App(app_id), &SecretSlice::from(bytes)).await
    }

    /// Opens what [`AppSecrets::seal`] sealed for the same app.
    pub async fn open(app_id: &AppId, sealed: &Sealed, sealer: &dyn Sealer) -> Result<Self, SealFault> {
        let bytes = sealer.open(SealContext::App(app_id), sealed).await?;
        let record: SecretsRecord = serde_json::from_slice(&bytes).map_err(|_| SealFault::Damaged)?;
        Ok(Self {
            app_secret: record.app_secret.into(),
            encrypt_key: record.encrypt_key.map(Into::into),
            verification_token: record.verification_token.into(),
        })
    }
}

/// Where apps are kept.
#[async_trait]
pub trait AppStore: Send + Sync {
    async fn get(&self, app_id: &AppId) -> Result<Option<App>, PortFault>;

    /// Stores `app` if `app.version` is exactly one above what is stored (0 when nothing is): called twice with the same app, the
    /// second call is a [`PortFault::Conflict`].
    async fn put(&self, app: &App) -> Result<(), PortFault>;

    /// Removes the app if `version` is what is stored, else it is a [`PortFault::Conflict`]; an app that is gone already is no fault.
    ///
    /// Its sessions and tokens stay: unusable, because the app is unknown, until clean-up removes them. An app that is registered again
    /// under the same id before that has them back.
    async fn delete(&self, app_id: &AppId, version: u64) -> Result<(), PortFault>;

    /// Every app, by id.
    async fn list(&self) -> Result<Vec<App>, PortFault>;
}

/// An app with its secrets open.
#[derive(Debug)]
pub struct OpenApp {
    pub app: App,
    pub secrets: AppSecrets,
}

/// How long a looked-up app is trusted: the time that disabling one takes to reach every warm function.
pub const APP_TTL: Duration = Duration::seconds(10);

/// Looks apps up and remembers them for [`APP_TTL`], so that a request in a warm function costs no read.
pub struct AppDirectory {
    store: Arc<dyn AppStore>,
    sealer: Arc<dyn Sealer>,
    known: Mutex<HashMap<AppId, (OffsetDateTime, Arc<OpenApp>)>>,
}

impl std::fmt::Debug for AppDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppDirectory").finish_non_exhaustive()
    }
}

impl AppDirectory {
    #[must_use]
    pub fn new(store: Arc<dyn AppStore>, sealer: Arc<dyn Sealer>) -> Self {
        Self { store, sealer, known: Mutex::new(HashMap::new()) }
    }

    /// The enabled app with this id. Unknown apps are not remembered, so a new one works at once.
    pub async fn enabled(&self, app_id: &AppId, now: OffsetDateTime) -> Result<Arc<OpenApp>, AppFault> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(app_id).cloned();
        let open = match known {
            Some((since, open)) if now >= since && now - since < APP_TTL => open,
            _ => self.look_up(app_id, now).await?,
        };
        match open.app.status {
            AppStatus::Enabled => Ok(open),
            AppStatus::Disabled => Err(AppFault::Disabled(app_id.clone())),
        }
    }

    async fn look_up(&self, app_id: &AppId, now: OffsetDateTime) -> Result<Arc<OpenApp>, AppFault> {
        let app = self.store.get(app_id).await.map_err(AppFault::Store)?;
        let app = app.ok_or_else(|| AppFault::Unknown(app_id.clone()))?;
        let secrets = AppSecrets::open(app_id, &app.secrets, self.sealer.as_ref()).await.map_err(AppFault::Secrets)?;
        let open = Arc::new(OpenApp { app, secrets });
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(app_id.clone(), (now, open.clone()));
        Ok(open)
    }
}

/// Why an app cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AppFault {
    #[error("no app `{0}` is registered")]
    Unknown(AppId),
    #[error("app `{0}` is disabled")]
    Disabled(AppId),
    #[error("the app's secrets do not open")]
    Secrets(#[source] SealFault),
    #[error("the app store failed")]
    Store(#[source] PortFault),
}

impl Fault for AppFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Unknown(_) => Remedy::Reject(Refusal::Unknown),
            Self::Disabled(_) => Remedy::Deny(Denial::Forbidden),
            Self::Secrets(SealFault::KeyService(fault)) | Self::Store(fault) => fault.remedy(),
            Self::Secrets(SealFault::Damaged) => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_app",
            Self::Disabled(_) => "app_disabled",
            Self::Secrets(fault) => fault.code(),
            Self::Store(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_stored_before_there_were_kinds_is_a_custom_one() {
        let stored = r#"{"app_id": "cli_a", "name": "考勤 🕘", "brand": "lark", "status": "enabled", "secrets": "x",
            "created_at": "2026-01-01T00:00:00Z", "created_by": "ann", "updated_at": "2026-01-01T00:00:00Z", "updated_by": "ann",
            "version": 3}"#;
        let app: App = serde_json::from_str(stored).unwrap();
        assert_eq!((app.kind, &app.operator_chat), (AppKind::Custom, &None));

        let store = App { kind: AppKind::Store, operator_chat: Some(ChatId::parse("oc_1").unwrap()), ..app };
        let written = serde_json::to_value(&store).unwrap();
        assert_eq!((&written["app_kind"], written.get("kind")), (&"store".into(), None), "the index owns `kind`");
        assert_eq!(serde_json::from_value::<App>(written).unwrap(), store);
    }
}
