//! `skylark app`: the Lark apps that a bundle serves. A change takes effect in every warm function within ten seconds.

use clap::{Args, Subcommand, ValueEnum};
use domain::app::{App, AppFault, AppSecrets, AppStatus, AppStore as _, Brand};
use domain::fault::PortFault;
use domain::id::AppId;
use lambda_kit::{clock, env};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::fault::{CliFault, say};
use crate::stack::Stack;

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Register an app.
    #[command(after_help = "Example:\n  skylark app add --app-id cli_a1b2c3 --app-secret .. --encrypt-key .. \
        --verification-token .. --name 'Task helper'")]
    Add(AddArgs),
    /// List the apps; secrets are never shown.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let a disabled app work again.
    Enable { app_id: String },
    /// Refuse an app's callbacks and stop its work, and keep what is stored.
    Disable { app_id: String },
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
    /// The platform that the app lives on.
    #[arg(long, value_enum, default_value_t = BrandArg::Feishu)]
    brand: BrandArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BrandArg {
    Feishu,
    Lark,
}

pub(crate) async fn run(stack: &Stack, command: AppCommand) -> Result<(), CliFault> {
    match command {
        AppCommand::Add(args) => {
            let app_id = AppId::parse(args.app_id)?;
            let secrets = AppSecrets {
                app_secret: args.app_secret,
                encrypt_key: args.encrypt_key,
                verification_token: args.verification_token,
            };
            let brand = match args.brand {
                BrandArg::Feishu => Brand::Feishu,
                BrandArg::Lark => Brand::Lark,
            };
            add(stack, &app_id, &args.name, brand, &secrets).await?;
            say(format!("app {app_id} is registered; in the vendor's console, set"));
            say(format!("  request URL of events and of card callbacks  {}/lark/{app_id}/callback", stack.public_url));
            say(format!("  redirect URL                                 {}/lark/oauth/callback", stack.public_url));
            Ok(())
        }
        AppCommand::List { json } => list(stack, json).await,
        AppCommand::Enable { app_id } => set_status(stack, app_id, AppStatus::Enabled).await,
        AppCommand::Disable { app_id } => set_status(stack, app_id, AppStatus::Disabled).await,
    }
}

/// Registers an app. An id that is registered already is an error, and nothing changes.
pub(crate) async fn add(
    stack: &Stack,
    app_id: &AppId,
    name: &str,
    brand: Brand,
    secrets: &AppSecrets,
) -> Result<(), CliFault> {
    if name.trim().is_empty() || name.chars().count() > 100 {
        return Err(CliFault::Argument("`name` must have 1 to 100 characters".to_owned()));
    }
    let (now, who) = (clock::now(), who());
    let app = App {
        app_id: app_id.clone(),
        name: name.to_owned(),
        brand,
        status: AppStatus::Enabled,
        secrets: secrets.seal(app_id, &stack.vault).await?,
        created_at: now,
        created_by: who.clone(),
        updated_at: now,
        updated_by: who,
        version: 1,
    };
    match stack.table.put(&app).await {
        Err(PortFault::Conflict { .. }) => Err(CliFault::Argument(format!("app `{app_id}` is registered already"))),
        result => Ok(result?),
    }
}

async fn list(stack: &Stack, json: bool) -> Result<(), CliFault> {
    let apps = stack.table.list().await?;
    if json {
        let apps: Vec<Value> = apps.iter().map(public).collect();
        say(serde_json::to_string_pretty(&apps).unwrap_or_default());
        return Ok(());
    }
    say(format!("{:<24} {:<9} {:<7} NAME", "APP", "STATUS", "BRAND"));
    for app in &apps {
        let public = public(app);
        let text = |field: &str| public.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        say(format!("{:<24} {:<9} {:<7} {}", app.app_id, text("status"), text("brand"), app.name));
    }
    Ok(())
}

async fn set_status(stack: &Stack, app_id: String, status: AppStatus) -> Result<(), CliFault> {
    let app_id = AppId::parse(app_id)?;
    let app = stack.table.get(&app_id).await?.ok_or_else(|| AppFault::Unknown(app_id.clone()))?;
    let changed = App { status, updated_at: clock::now(), updated_by: who(), version: app.version + 1, ..app };
    stack.table.put(&changed).await?;
    say(format!("app {app_id} is {}", if status == AppStatus::Enabled { "enabled" } else { "disabled" }));
    Ok(())
}

/// An app as anyone may see it.
fn public(app: &App) -> Value {
    let mut value = json!(app);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("secrets");
    }
    value
}

/// Who changes the registry, for the audit fields.
fn who() -> String {
    env::process("SKYLARK_USER").or_else(|| env::process("USER")).unwrap_or_else(|| "unknown".to_owned())
}
