//! `skylark app`: the Lark apps that a bundle serves. A change takes effect in every warm function within ten seconds.

mod check;
mod registry;
mod secret;
mod view;

use std::io::{self, BufRead, IsTerminal as _};

use clap::{Args, Subcommand, ValueEnum};
use domain::app::{App, AppKind, AppSecrets, AppStatus, Brand};
use domain::id::{AppId, ChatId};
use secrecy::SecretString;

use self::registry::{Change, SecretChange};
pub(crate) use self::registry::{Registration, add, resolve};
use self::secret::Given;
use self::view::{AppView, Urls};
use crate::confirm::confirm;
use crate::fault::{CliFault, say, say_json};
use crate::stack::Stack;

pub(crate) use registry::who;

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Register an app.
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// List the apps.
    #[command(after_help = "Examples:\n  skylark app list\n  skylark app list --json | jq -r '.[].app_id'\n\n\
        JSON: an array of what `skylark app show --json` prints, without `secrets`.")]
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show one app, its secrets masked.
    #[command(after_help = "Examples:\n  skylark app show cli_a1b2c3\n  skylark app show cli_a1b2c3 --json\n\n\
        JSON: {app_id, name, kind, brand, status, operator_chat, privacy_url, callback_url, redirect_url, created_at, created_by, updated_at,\n\
        updated_by, version, secrets: {app_secret, encrypt_key, verification_token}}; what is not set is null.")]
    Show {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: Output,
    },
    /// Change an app's name, brand, secrets, operator chat or privacy page; what is not named stays.
    #[command(after_help = UPDATE_HELP)]
    Update(UpdateArgs),
    /// Forget an app. What is stored of its sessions and tokens cannot be used any more; clean-up removes it.
    #[command(
        after_help = "Examples:\n  skylark app delete cli_a1b2c3\n  skylark app delete cli_a1b2c3 --force --json\n\n\
        JSON: {app_id, deleted: true}."
    )]
    Delete(RiskyArgs),
    /// Let a disabled app work again.
    #[command(after_help = "Example:\n  skylark app enable cli_a1b2c3\n\nJSON: as `skylark app list` prints an app.")]
    Enable {
        /// The app (`cli_..`).
        app_id: String,
        #[command(flatten)]
        audit: Audit,
        #[command(flatten)]
        output: Output,
    },
    /// Refuse an app's callbacks and stop its work within ten seconds, and keep what is stored.
    #[command(after_help = "Examples:\n  skylark app disable cli_a1b2c3\n  skylark app disable cli_a1b2c3 --force\n\n\
        JSON: as `skylark app list` prints an app.")]
    Disable(RiskyArgs),
    /// Prove an app's settings against the vendor and this deployment, and say what to fix in the console.
    #[command(after_help = CHECK_HELP)]
    Check(check::CheckArgs),
}

const ADD_HELP: &str = "Examples:
  skylark app add --app-id cli_a1b2c3 --name 'Task helper' --app-secret .. --encrypt-key .. --verification-token ..
  skylark app add --app-id cli_a1b2c3 --name 考勤 --brand feishu --operator-chat oc_9f8e \\
      --app-secret - --verification-token - < two-lines

A secret given as `-` is read from stdin, one line each, in the order app secret, encrypt key, verification token.

JSON: as `skylark app list` prints an app.";

const UPDATE_HELP: &str = "Examples:
  skylark app update cli_a1b2c3 --name 'Task helper' --privacy-url https://example.com/privacy
  pass show lark/encrypt-key | skylark app update cli_a1b2c3 --encrypt-key -
  skylark app update cli_a1b2c3 --no-encrypt-key --no-operator-chat

A secret given as `-` is read from stdin. Secrets in the environment are not looked at: they may be another app's.

JSON: as `skylark app list` prints an app.";

const CHECK_HELP: &str = "Examples:
  skylark app check cli_a1b2c3
  skylark app check cli_a1b2c3 --json | jq -r '.checks[] | select(.result != \"ok\") | .advice'
  skylark app check cli_a1b2c3 --public-url https://my-tunnel.example    # a local bundle behind a tunnel

Exit code 0 only when every check passed; --allow-skipped lets those pass that the vendor gives no means for.

JSON: {app_id, passed, checks: [{check, result: ok|failed|skipped, detail, advice}]}; `advice` is null where there is none.";

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which app a command reads.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The app (`cli_..`); left out, the only enabled one.
    #[arg(env = "SKYLARK_APP_ID")]
    app_id: Option<String>,
}

/// Who changes the registry.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Who makes the change, for the audit fields; left out, the user of this machine.
    #[arg(long = "as", env = "SKYLARK_USER", value_name = "NAME")]
    who: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// App ID of the vendor's console (`cli_..`).
    #[arg(long)]
    app_id: String,
    /// App Secret of the console.
    #[arg(long, env = "SKYLARK_APP_SECRET", hide_env_values = true)]
    app_secret: SecretString,
    /// Encrypt Key of the console's event settings; without one, callbacks are neither encrypted nor signed.
    #[arg(long, env = "SKYLARK_ENCRYPT_KEY", hide_env_values = true)]
    encrypt_key: Option<SecretString>,
    /// Verification Token of the console's event settings.
    #[arg(long, env = "SKYLARK_VERIFICATION_TOKEN", hide_env_values = true)]
    verification_token: SecretString,
    /// What people see on cards.
    #[arg(long)]
    name: String,
    /// Who may install it: one company, or any from the vendor's directory.
    #[arg(long, value_enum, default_value_t = KindArg::Custom)]
    kind: KindArg,
    /// The platform that the app lives on.
    #[arg(long, value_enum, default_value_t = BrandArg::Feishu)]
    brand: BrandArg,
    /// The chat that gets operators' notices (`oc_..`); the bot must be in it.
    #[arg(long)]
    operator_chat: Option<String>,
    /// The page that says what becomes of people's data; detailed cards link to it.
    #[arg(long, value_name = "URL")]
    privacy_url: Option<String>,
    #[command(flatten)]
    audit: Audit,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true, args = [
    "name", "brand", "app_secret", "encrypt_key", "no_encrypt_key", "verification_token", "operator_chat", "no_operator_chat",
    "privacy_url", "no_privacy_url",
])]
pub(crate) struct UpdateArgs {
    /// The app (`cli_..`).
    app_id: String,
    /// What people see on cards.
    #[arg(long)]
    name: Option<String>,
    /// The platform that the app lives on.
    #[arg(long, value_enum)]
    brand: Option<BrandArg>,
    /// App Secret of the console, or `-`.
    #[arg(long)]
    app_secret: Option<SecretString>,
    /// Encrypt Key of the console's event settings, or `-`.
    #[arg(long)]
    encrypt_key: Option<SecretString>,
    /// The console has no Encrypt Key any more.
    #[arg(long, conflicts_with = "encrypt_key")]
    no_encrypt_key: bool,
    /// Verification Token of the console's event settings, or `-`.
    #[arg(long)]
    verification_token: Option<SecretString>,
    /// The chat that gets operators' notices (`oc_..`); the bot must be in it.
    #[arg(long)]
    operator_chat: Option<String>,
    /// Nobody gets operators' notices any more.
    #[arg(long, conflicts_with = "operator_chat")]
    no_operator_chat: bool,
    /// The page that says what becomes of people's data; detailed cards link to it.
    #[arg(long, value_name = "URL")]
    privacy_url: Option<String>,
    /// Cards link to no such page any more.
    #[arg(long, conflicts_with = "privacy_url")]
    no_privacy_url: bool,
    #[command(flatten)]
    audit: Audit,
    #[command(flatten)]
    output: Output,
}

/// A change that stops people's work: it is asked about first.
#[derive(Debug, Args)]
pub(crate) struct RiskyArgs {
    /// The app (`cli_..`).
    app_id: String,
    /// Do not ask; needed where stdin is no terminal.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    audit: Audit,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Custom,
    Store,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BrandArg {
    Feishu,
    Lark,
}

impl From<BrandArg> for Brand {
    fn from(brand: BrandArg) -> Self {
        match brand {
            BrandArg::Feishu => Self::Feishu,
            BrandArg::Lark => Self::Lark,
        }
    }
}

impl From<KindArg> for AppKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Custom => Self::Custom,
            KindArg::Store => Self::Store,
        }
    }
}

pub(crate) async fn run(stack: &Stack, command: AppCommand) -> Result<(), CliFault> {
    match command {
        AppCommand::Add(args) => run_add(stack, args).await,
        AppCommand::List { output } => list(stack, output).await,
        AppCommand::Show { which, output } => show(stack, which, output).await,
        AppCommand::Update(args) => update(stack, args).await,
        AppCommand::Delete(args) => delete(stack, args).await,
        AppCommand::Enable { app_id, audit, output } => enable(stack, app_id, &audit, output).await,
        AppCommand::Disable(args) => disable(stack, args).await,
        AppCommand::Check(args) => check::run(stack, args).await,
    }
}

async fn run_add(stack: &Stack, args: AddArgs) -> Result<(), CliFault> {
    let app_id = AppId::parse(args.app_id)?;
    let mut given = Given::new(lines(), io::stdin().is_terminal());
    let secrets = AppSecrets {
        app_secret: given.secret("app_secret", args.app_secret)?,
        // An empty variable of the environment is none.
        encrypt_key: match args.encrypt_key.filter(|key| !secrecy::ExposeSecret::expose_secret(key).is_empty()) {
            Some(key) => Some(given.secret("encrypt_key", key)?),
            None => None,
        },
        verification_token: given.secret("verification_token", args.verification_token)?,
    };
    let registration = Registration {
        app_id: &app_id,
        name: &args.name,
        kind: args.kind.into(),
        brand: args.brand.into(),
        operator_chat: args.operator_chat.map(ChatId::parse).transpose()?,
        privacy_url: args.privacy_url.as_deref().map(registry::web_page).transpose()?,
        secrets: &secrets,
    };
    let who = registry::who(args.audit.who)?;
    let app = add(&stack.table, &stack.vault, registration, &who, stack.now().await?).await?;
    let urls = Urls::of(&stack.public_url, &app_id);
    if args.output.json {
        return say_json(&AppView::new(&app, &urls));
    }
    say(format!("app {app_id} is registered; in the vendor's console, set"));
    say(format!("  request URL of events and of card callbacks  {}", urls.callback));
    say(format!("  redirect URL                                 {}", urls.redirect));
    say(format!("then prove it: skylark app check {app_id}"));
    Ok(())
}

async fn list(stack: &Stack, output: Output) -> Result<(), CliFault> {
    let apps = registry::list(&stack.table).await?;
    if output.json {
        let urls: Vec<Urls> = apps.iter().map(|app| Urls::of(&stack.public_url, &app.app_id)).collect();
        return say_json(&apps.iter().zip(&urls).map(|(app, urls)| AppView::new(app, urls)).collect::<Vec<_>>());
    }
    say(view::table(&apps));
    Ok(())
}

async fn show(stack: &Stack, which: Which, output: Output) -> Result<(), CliFault> {
    let app = resolve(&stack.table, which.app_id).await?;
    let secrets = AppSecrets::open(&app.app_id, &app.secrets, &stack.vault).await?;
    let urls = Urls::of(&stack.public_url, &app.app_id);
    let view = AppView::new(&app, &urls).with_secrets(&secrets);
    if output.json {
        return say_json(&view);
    }
    say(view.lines());
    Ok(())
}

async fn update(stack: &Stack, args: UpdateArgs) -> Result<(), CliFault> {
    let app = resolve(&stack.table, Some(args.app_id)).await?;
    let mut given = Given::new(lines(), io::stdin().is_terminal());
    let mut secret = |field, secret: Option<SecretString>| secret.map(|it| given.secret(field, it)).transpose();
    let secrets = SecretChange {
        app_secret: secret("app_secret", args.app_secret)?,
        encrypt_key: match (args.no_encrypt_key, secret("encrypt_key", args.encrypt_key)?) {
            (true, _) => Some(None),
            (false, key) => key.map(Some),
        },
        verification_token: secret("verification_token", args.verification_token)?,
    };
    let change = Change {
        name: args.name,
        brand: args.brand.map(Brand::from),
        operator_chat: match (args.no_operator_chat, args.operator_chat) {
            (true, _) => Some(None),
            (false, chat) => chat.map(ChatId::parse).transpose()?.map(Some),
        },
        privacy_url: match (args.no_privacy_url, args.privacy_url) {
            (true, _) => Some(None),
            (false, url) => url.as_deref().map(registry::web_page).transpose()?.map(Some),
        },
        secrets,
        ..Change::default()
    };
    changed(stack, app, change, &args.audit, args.output, "is changed").await
}

async fn enable(stack: &Stack, app_id: String, audit: &Audit, output: Output) -> Result<(), CliFault> {
    let app = resolve(&stack.table, Some(app_id)).await?;
    let change = Change { status: Some(AppStatus::Enabled), ..Change::default() };
    changed(stack, app, change, audit, output, "is enabled").await
}

async fn disable(stack: &Stack, args: RiskyArgs) -> Result<(), CliFault> {
    let app = resolve(&stack.table, Some(args.app_id)).await?;
    let question = format!(
        "Disable app `{}` ({})? Within ten seconds its callbacks are refused and its work stops.",
        app.app_id, app.name
    );
    confirm(&question, args.force)?;
    let change = Change { status: Some(AppStatus::Disabled), ..Change::default() };
    changed(stack, app, change, &args.audit, args.output, "is disabled").await
}

async fn changed(
    stack: &Stack,
    app: App,
    change: Change,
    audit: &Audit,
    output: Output,
    outcome: &str,
) -> Result<(), CliFault> {
    let who = registry::who(audit.who.clone())?;
    let app = registry::change(&stack.table, &stack.vault, app, change, &who, stack.now().await?).await?;
    if output.json {
        return say_json(&AppView::new(&app, &Urls::of(&stack.public_url, &app.app_id)));
    }
    say(format!("app {} {outcome}", app.app_id));
    Ok(())
}

async fn delete(stack: &Stack, args: RiskyArgs) -> Result<(), CliFault> {
    let app = resolve(&stack.table, Some(args.app_id)).await?;
    let question = format!(
        "Delete app `{}` ({})? Its secrets are gone, and its people's tokens cannot be used any more.",
        app.app_id, app.name
    );
    confirm(&question, args.force)?;
    registry::delete(&stack.table, &app).await?;
    if args.output.json {
        return say_json(&serde_json::json!({ "app_id": app.app_id, "deleted": true }));
    }
    say(format!("app {} is deleted", app.app_id));
    Ok(())
}

/// Stdin, locked only while a line is read.
fn lines() -> impl FnMut() -> io::Result<String> {
    || {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    }
}
