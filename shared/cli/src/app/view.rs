//! How apps are printed: a table, lines, and one JSON shape. Nothing here holds a secret.

use domain::app::{App, AppKind, AppSecrets, AppStatus, Brand};
use domain::id::{AppId, ChatId};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;

use super::secret::masked;

/// Where the vendor reaches an app: what its console must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Urls {
    pub(crate) callback: String,
    pub(crate) redirect: String,
}

impl Urls {
    pub(crate) fn of(public_url: &str, app_id: &AppId) -> Self {
        let base = public_url.trim_end_matches('/');
        Self { callback: format!("{base}/lark/{app_id}/callback"), redirect: format!("{base}/lark/oauth/callback") }
    }
}

/// An app as anyone may see it.
#[derive(Debug, Serialize)]
pub(crate) struct AppView<'a> {
    app_id: &'a AppId,
    name: &'a str,
    kind: AppKind,
    brand: Brand,
    status: AppStatus,
    operator_chat: Option<&'a ChatId>,
    privacy_url: Option<&'a Url>,
    callback_url: &'a str,
    redirect_url: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    created_by: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
    updated_by: &'a str,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<MaskedSecrets>,
}

#[derive(Debug, Serialize)]
struct MaskedSecrets {
    app_secret: String,
    encrypt_key: Option<String>,
    verification_token: String,
}

impl<'a> AppView<'a> {
    pub(crate) fn new(app: &'a App, urls: &'a Urls) -> Self {
        Self {
            app_id: &app.app_id,
            name: &app.name,
            kind: app.kind,
            brand: app.brand,
            status: app.status,
            operator_chat: app.operator_chat.as_ref(),
            privacy_url: app.privacy_url.as_ref(),
            callback_url: &urls.callback,
            redirect_url: &urls.redirect,
            created_at: app.created_at,
            created_by: &app.created_by,
            updated_at: app.updated_at,
            updated_by: &app.updated_by,
            version: app.version,
            secrets: None,
        }
    }

    pub(crate) fn with_secrets(self, secrets: &AppSecrets) -> Self {
        let secrets = MaskedSecrets {
            app_secret: masked(&secrets.app_secret),
            encrypt_key: secrets.encrypt_key.as_ref().map(masked),
            verification_token: masked(&secrets.verification_token),
        };
        Self { secrets: Some(secrets), ..self }
    }

    /// One line for each field.
    pub(crate) fn lines(&self) -> String {
        let mut rows = vec![
            ("app", self.app_id.to_string()),
            ("name", self.name.to_owned()),
            ("kind", kind(self.kind).to_owned()),
            ("brand", brand(self.brand).to_owned()),
            ("status", status(self.status).to_owned()),
            ("operator chat", self.operator_chat.map_or_else(|| "none".to_owned(), ChatId::to_string)),
            ("privacy page", self.privacy_url.map_or("none", Url::as_str).to_owned()),
        ];
        if let Some(secrets) = &self.secrets {
            rows.push(("app secret", secrets.app_secret.clone()));
            rows.push(("encrypt key", secrets.encrypt_key.clone().unwrap_or_else(|| "none".to_owned())));
            rows.push(("verification token", secrets.verification_token.clone()));
        }
        rows.extend([
            ("request URL", self.callback_url.to_owned()),
            ("redirect URL", self.redirect_url.to_owned()),
            ("created", format!("{} by {}", instant(self.created_at), self.created_by)),
            ("updated", format!("{} by {}", instant(self.updated_at), self.updated_by)),
            ("version", self.version.to_string()),
        ]);
        let rows: Vec<String> = rows.into_iter().map(|(name, value)| format!("{name:<20}{value}")).collect();
        rows.join("\n")
    }
}

/// A line for each app. Names come last: they may be of any width.
pub(crate) fn table(apps: &[App]) -> String {
    if apps.is_empty() {
        return "no app is registered; `skylark app add --help` shows how".to_owned();
    }
    let ids = apps.iter().map(|app| app.app_id.as_str().len());
    let width = ids.max().unwrap_or_default().max("APP".len());
    let mut lines =
        vec![format!("{:<width$}  {:<6}  {:<6}  {:<8}  {:<20}  NAME", "APP", "KIND", "BRAND", "STATUS", "UPDATED")];
    lines.extend(apps.iter().map(|app| {
        format!(
            "{:<width$}  {:<6}  {:<6}  {:<8}  {:<20}  {}",
            app.app_id.as_str(),
            kind(app.kind),
            brand(app.brand),
            status(app.status),
            instant(app.updated_at),
            app.name
        )
    }));
    lines.join("\n")
}

pub(super) fn kind(kind: AppKind) -> &'static str {
    match kind {
        AppKind::Custom => "custom",
        AppKind::Store => "store",
    }
}

pub(super) fn brand(brand: Brand) -> &'static str {
    match brand {
        Brand::Feishu => "feishu",
        Brand::Lark => "lark",
    }
}

fn status(status: AppStatus) -> &'static str {
    match status {
        AppStatus::Enabled => "enabled",
        AppStatus::Disabled => "disabled",
    }
}

/// To the second: more is noise to people.
fn instant(at: OffsetDateTime) -> String {
    let at = at.replace_nanosecond(0).unwrap_or(at);
    // Years that RFC 3339 cannot write do not come from a clock.
    at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testkit::sample;
    use time::Duration;

    use super::*;

    fn app() -> App {
        let app = sample::app("cli_a1b2c3");
        App {
            updated_at: app.updated_at + Duration::milliseconds(90_500),
            updated_by: "李娜".to_owned(),
            version: 2,
            ..app
        }
    }

    fn secrets() -> AppSecrets {
        AppSecrets {
            app_secret: "canary-app-secret-0001".into(),
            encrypt_key: None,
            verification_token: "canary-short".into(),
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_app_and_the_columns_stand_under_one_another() {
        let long = App { status: AppStatus::Disabled, kind: AppKind::Store, ..sample::app("cli_a_rather_long_id") };
        assert_eq!(
            table(&[app(), long]),
            "APP                   KIND    BRAND   STATUS    UPDATED               NAME\n\
             cli_a1b2c3            custom  feishu  enabled   2026-11-21T09:01:30Z  考勤助手 🕘\n\
             cli_a_rather_long_id  store   feishu  disabled  2026-11-21T09:00:00Z  考勤助手 🕘"
        );
        assert!(table(&[]).contains("skylark app add"));
    }

    #[test]
    fn the_json_has_every_field_and_the_masks_of_the_secrets_when_they_are_asked_for() {
        let (app, urls) = (app(), Urls::of("https://skylark.example/", &sample::app_id("cli_a1b2c3")));
        let expected = json!({
            "app_id": "cli_a1b2c3", "name": "考勤助手 🕘", "kind": "custom", "brand": "feishu", "status": "enabled",
            "operator_chat": null, "privacy_url": null, "callback_url": "https://skylark.example/lark/cli_a1b2c3/callback",
            "redirect_url": "https://skylark.example/lark/oauth/callback", "created_at": "2026-11-21T09:00:00Z",
            "created_by": "ann", "updated_at": "2026-11-21T09:01:30.5Z", "updated_by": "李娜", "version": 2,
        });
        let view = AppView::new(&app, &urls);
        assert_eq!(json!(view), expected);
        let mut with_secrets = expected;
        with_secrets["secrets"] =
            json!({ "app_secret": "cana****", "encrypt_key": null, "verification_token": "****" });
        assert_eq!(json!(view.with_secrets(&secrets())), with_secrets);
    }

    #[test]
    fn the_lines_name_who_changed_what_and_when() {
        let (app, urls) = (app(), Urls::of("https://skylark.example", &sample::app_id("cli_a1b2c3")));
        let lines = AppView::new(&app, &urls).with_secrets(&secrets()).lines();
        for line in [
            "app secret          cana****",
            "encrypt key         none",
            "privacy page        none",
            "verification token  ****",
            "created             2026-11-21T09:00:00Z by ann",
            "updated             2026-11-21T09:01:30Z by 李娜",
            "request URL         https://skylark.example/lark/cli_a1b2c3/callback",
        ] {
            assert!(lines.lines().any(|printed| printed == line), "{line} in\n{lines}");
        }
        assert!(!lines.contains("canary"));
    }
}
