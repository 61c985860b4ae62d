//! The registry's rules over its ports: which app is meant, and how one is added, changed and deleted.

use domain::app::{App, AppKind, AppSecrets, AppStatus, AppStore, Brand};
use domain::fault::PortFault;
use domain::id::{AppId, ChatId};
use domain::seal::Sealer;
use lambda_kit::env;
use secrecy::SecretString;
use time::OffsetDateTime;
use url::Url;

use crate::fault::CliFault;

const MAX_NAME_CHARS: usize = 100;

/// A new app.
pub(crate) struct Registration<'a> {
    pub(crate) app_id: &'a AppId,
    pub(crate) name: &'a str,
    pub(crate) kind: AppKind,
    pub(crate) brand: Brand,
    pub(crate) operator_chat: Option<ChatId>,
    pub(crate) privacy_url: Option<Url>,
    pub(crate) secrets: &'a AppSecrets,
}

/// What becomes of an app; what is `None` stays.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) name: Option<String>,
    pub(crate) brand: Option<Brand>,
    pub(crate) status: Option<AppStatus>,
    pub(crate) operator_chat: Option<Option<ChatId>>,
    pub(crate) privacy_url: Option<Option<Url>>,
    pub(crate) secrets: SecretChange,
}

#[derive(Default)]
pub(crate) struct SecretChange {
    pub(crate) app_secret: Option<SecretString>,
    pub(crate) encrypt_key: Option<Option<SecretString>>,
    pub(crate) verification_token: Option<SecretString>,
}

/// The app that is named, else the only enabled one. Where neither is there, the error lists those that are.
pub(crate) async fn resolve(store: &dyn AppStore, given: Option<String>) -> Result<App, CliFault> {
    if let Some(given) = given {
        let app_id = AppId::parse(given)?;
        if let Some(app) = store.get(&app_id).await? {
            return Ok(app);
        }
        let known = available(&store.list().await?);
        return Err(CliFault::Argument(format!("no app `{app_id}` is registered; {known}")));
    }
    let apps = store.list().await?;
    let mut enabled = apps.iter().filter(|app| app.status == AppStatus::Enabled);
    match (enabled.next(), enabled.next()) {
        (Some(only), None) => Ok(only.clone()),
        _ => Err(CliFault::Argument(format!("say which app; {}", available(&apps)))),
    }
}

/// What may be named instead.
fn available(apps: &[App]) -> String {
    if apps.is_empty() {
        return "none is: `skylark app add --help` shows how".to_owned();
    }
    let apps = apps.iter().map(|app| match app.status {
        AppStatus::Enabled => format!("`{}` ({})", app.app_id, app.name),
        AppStatus::Disabled => format!("`{}` ({}, disabled)", app.app_id, app.name),
    });
    format!("there are {}", apps.collect::<Vec<_>>().join(", "))
}

/// Every app, by id.
pub(crate) async fn list(store: &dyn AppStore) -> Result<Vec<App>, CliFault> {
    Ok(store.list().await?)
}

/// Registers an app. An id that is registered already is an error, and nothing changes.
pub(crate) async fn add(
    store: &dyn AppStore,
    sealer: &dyn Sealer,
    new: Registration<'_>,
    who: &str,
    now: OffsetDateTime,
) -> Result<App, CliFault> {
    let app_id = new.app_id;
    let app = App {
        app_id: app_id.clone(),
        name: name(new.name)?,
        kind: new.kind,
        brand: new.brand,
        status: AppStatus::Enabled,
        operator_chat: new.operator_chat,
        privacy_url: new.privacy_url,
        secrets: new.secrets.seal(app_id, sealer).await?,
        created_at: now,
        created_by: who.to_owned(),
        updated_at: now,
        updated_by: who.to_owned(),
        version: 1,
    };
    match store.put(&app).await {
        Err(PortFault::Conflict { .. }) => Err(CliFault::Argument(format!("app `{app_id}` is registered already"))),
        result => Ok(result.map(|()| app)?),
    }
}

/// Changes the app as it was read. If somebody else changed it since, theirs stays and the error says so.
pub(crate) async fn change(
    store: &dyn AppStore,
    sealer: &dyn Sealer,
    app: App,
    change: Change,
    who: &str,
    now: OffsetDateTime,
) -> Result<App, CliFault> {
    let secrets = match change.secrets {
        SecretChange { app_secret: None, encrypt_key: None, verification_token: None } => app.secrets,
        // All of them: what is stored is not looked at, so that a record that does not open any more can be replaced.
        SecretChange {
            app_secret: Some(app_secret),
            encrypt_key: Some(encrypt_key),
            verification_token: Some(token),
        } => {
            let next = AppSecrets { app_secret, encrypt_key, verification_token: token };
            next.seal(&app.app_id, sealer).await?
        }
        some => {
            let stored = AppSecrets::open(&app.app_id, &app.secrets, sealer).await?;
            let next = AppSecrets {
                app_secret: some.app_secret.unwrap_or(stored.app_secret),
                encrypt_key: some.encrypt_key.unwrap_or(stored.encrypt_key),
                verification_token: some.verification_token.unwrap_or(stored.verification_token),
            };
            next.seal(&app.app_id, sealer).await?
        }
    };
    let changed = App {
        name: change.name.as_deref().map_or(Ok(app.name), name)?,
        brand: change.brand.unwrap_or(app.brand),
        status: change.status.unwrap_or(app.status),
        operator_chat: change.operator_chat.unwrap_or(app.operator_chat),
        privacy_url: change.privacy_url.unwrap_or(app.privacy_url),
        secrets,
        updated_at: now,
        updated_by: who.to_owned(),
        version: app.version + 1,
        ..app
    };
    store.put(&changed).await.map_err(|fault| raced(fault, &changed.app_id))?;
    Ok(changed)
}

/// Deletes the app as it was read, or says that somebody else changed it since.
pub(crate) async fn delete(store: &dyn AppStore, app: &App) -> Result<(), CliFault> {
    store.delete(&app.app_id, app.version).await.map_err(|fault| raced(fault, &app.app_id))
}

fn raced(fault: PortFault, app_id: &AppId) -> CliFault {
    match fault {
        conflict @ PortFault::Conflict { .. } => CliFault::storage(
            format!("app `{app_id}` was changed by somebody else meanwhile, and stays so; look at it and try again"),
            conflict,
        ),
        fault => fault.into(),
    }
}

fn name(name: &str) -> Result<String, CliFault> {
    label("name", name, MAX_NAME_CHARS)
}

/// A page that a card can link to.
pub(crate) fn web_page(text: &str) -> Result<Url, CliFault> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| CliFault::Argument("`privacy_url` must be the `http` or `https` address of a page".to_owned()))
}

/// Who changes the registry, for the audit fields.
pub(crate) fn who(given: Option<String>) -> Result<String, CliFault> {
    label("as", &given.or_else(|| env::process("USER")).unwrap_or_else(|| "unknown".to_owned()), MAX_NAME_CHARS)
}

/// A text that people see on one line.
fn label(field: &str, text: &str, max: usize) -> Result<String, CliFault> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > max || text.contains(char::is_control) {
        return Err(CliFault::Argument(format!(
            "`{field}` must have 1 to {max} characters, none of them a control character"
        )));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use domain::seal::Sealed;
    use secrecy::ExposeSecret as _;
    use testkit::sample::{self, NOW};
    use testkit::{MemoryTable, PlainSealer};
    use time::Duration;

    use super::*;

    fn secrets() -> AppSecrets {
        AppSecrets {
            app_secret: "canary-secret".into(),
            encrypt_key: Some("canary-key".into()),
            verification_token: "canary-token".into(),
        }
    }

    async fn registered(store: &MemoryTable, app_id: &str) -> App {
        let (app_id, secrets) = (sample::app_id(app_id), secrets());
        let new = Registration {
            app_id: &app_id,
            name: "考勤 🕘",
            kind: AppKind::Custom,
            brand: Brand::Feishu,
            operator_chat: None,
            privacy_url: None,
            secrets: &secrets,
        };
        add(store, &PlainSealer, new, "ann", NOW).await.unwrap()
    }

    async fn changed(store: &MemoryTable, app: App, to: Change) -> Result<App, CliFault> {
        change(store, &PlainSealer, app, to, "bob", NOW + Duration::hours(1)).await
    }

    fn argument(fault: CliFault) -> String {
        assert!(matches!(fault, CliFault::Argument(_)), "{fault:?}");
        fault.to_string()
    }

    #[tokio::test]
    async fn an_app_is_named_or_the_only_enabled_one_and_the_error_lists_what_there_is() {
        let store = MemoryTable::default();
        let unnamed = || resolve(&store, None);
        let named = |id: &str| resolve(&store, Some(id.to_owned()));
        assert!(argument(unnamed().await.unwrap_err()).contains("skylark app add"));

        let a = registered(&store, "cli_a").await;
        assert_eq!(unnamed().await.unwrap(), a);
        assert_eq!(named("cli_a").await.unwrap(), a);
        assert!(argument(named("a b").await.unwrap_err()).contains("`app_id` must be"));

        let b = registered(&store, "cli_b").await;
        let error = argument(unnamed().await.unwrap_err());
        assert_eq!(error, "say which app; there are `cli_a` (考勤 🕘), `cli_b` (考勤 🕘)");
        changed(&store, b, Change { status: Some(AppStatus::Disabled), ..Change::default() }).await.unwrap();
        assert_eq!(unnamed().await.unwrap(), a, "the only enabled one");
        let error = argument(named("cli_c").await.unwrap_err());
        assert_eq!(error, "no app `cli_c` is registered; there are `cli_a` (考勤 🕘), `cli_b` (考勤 🕘, disabled)");
    }

    #[tokio::test]
    async fn each_thing_is_changed_alone_and_the_audit_fields_say_by_whom() {
        let store = MemoryTable::default();
        let added = registered(&store, "cli_a").await;
        assert_eq!((added.version, added.created_by.as_str(), added.updated_by.as_str()), (1, "ann", "ann"));

        let renamed = Change { name: Some(" 周报 📅 ".to_owned()), ..Change::default() };
        let renamed = changed(&store, added.clone(), renamed).await.unwrap();
        let expected = App {
            name: "周报 📅".to_owned(),
            updated_at: NOW + Duration::hours(1),
            updated_by: "bob".to_owned(),
            version: 2,
            ..added.clone()
        };
        assert_eq!(renamed, expected);
        assert_eq!(store.get(&added.app_id).await.unwrap(), Some(expected));

        let secrets = SecretChange { encrypt_key: Some(None), ..SecretChange::default() };
        let keyless = changed(&store, renamed, Change { secrets, ..Change::default() }).await.unwrap();
        let open = AppSecrets::open(&keyless.app_id, &keyless.secrets, &PlainSealer).await.unwrap();
        assert!(open.encrypt_key.is_none());
        assert_eq!(open.app_secret.expose_secret(), "canary-secret", "the others stay");
        assert_eq!(open.verification_token.expose_secret(), "canary-token");
    }

    #[tokio::test]
    async fn secrets_that_do_not_open_any_more_are_replaced_all_at_once() {
        let store = MemoryTable::default();
        let added = registered(&store, "cli_a").await;
        let damaged = App { secrets: Sealed("damaged".to_owned()), version: 2, ..added };
        store.put(&damaged).await.unwrap();
        let some = SecretChange { app_secret: Some("new-secret".into()), ..SecretChange::default() };
        let change = |secrets| Change { secrets, ..Change::default() };
        assert!(matches!(changed(&store, damaged.clone(), change(some)).await, Err(CliFault::Storage { .. })));

        let all = SecretChange {
            app_secret: Some("new-secret".into()),
            encrypt_key: Some(None),
            verification_token: Some("new-token".into()),
        };
        let mended = changed(&store, damaged, change(all)).await.unwrap();
        let open = AppSecrets::open(&mended.app_id, &mended.secrets, &PlainSealer).await.unwrap();
        assert_eq!(open.app_secret.expose_secret(), "new-secret");
    }

    #[tokio::test]
    async fn a_change_or_deletion_of_what_somebody_else_changed_says_so_and_changes_nothing() {
        let store = MemoryTable::default();
        let read = registered(&store, "cli_a").await;
        let theirs = Change { brand: Some(Brand::Lark), ..Change::default() };
        let theirs = changed(&store, read.clone(), theirs).await.unwrap();
        let ours = Change { name: Some("ours".to_owned()), ..Change::default() };
        for fault in [changed(&store, read.clone(), ours).await.unwrap_err(), delete(&store, &read).await.unwrap_err()]
        {
            assert!(matches!(fault, CliFault::Storage { .. }), "{fault:?}");
            assert!(fault.to_string().contains("changed by somebody else"), "{fault}");
        }
        assert_eq!(store.get(&read.app_id).await.unwrap(), Some(theirs));
    }

    #[tokio::test]
    async fn an_app_is_registered_once_and_again_after_it_was_deleted() {
        let store = MemoryTable::default();
        let app = registered(&store, "cli_a").await;
        let secrets = secrets();
        let again = || Registration {
            app_id: &app.app_id,
            name: "second",
            kind: AppKind::Store,
            brand: Brand::Lark,
            operator_chat: None,
            privacy_url: None,
            secrets: &secrets,
        };
        let fault = add(&store, &PlainSealer, again(), "bob", NOW).await.unwrap_err();
        assert_eq!(argument(fault), "app `cli_a` is registered already");
        delete(&store, &app).await.unwrap();
        assert_eq!(add(&store, &PlainSealer, again(), "bob", NOW).await.unwrap().kind, AppKind::Store);
    }

    #[test]
    fn a_card_links_to_web_pages_alone() {
        for bad in ["", "app.example/privacy", "javascript:alert(1)", "file:///etc/passwd", "/privacy"] {
            assert!(argument(web_page(bad).unwrap_err()).contains("`privacy_url`"), "{bad:?}");
        }
        assert_eq!(web_page("https://app.example/隐私").unwrap().path(), "/%E9%9A%90%E7%A7%81");
    }

    #[test]
    fn names_have_a_length_and_stay_on_one_line() {
        for bad in ["", "  ", "a\nb", "a\u{1b}[31m", &"长".repeat(101)] {
            assert!(name(bad).unwrap_err().to_string().starts_with("`name` must have 1 to 100"), "{bad:?}");
        }
        assert_eq!(name(&"长".repeat(100)).unwrap().chars().count(), 100);
        assert!(who(Some("a\tb".to_owned())).unwrap_err().to_string().starts_with("`as` "));
    }
}
