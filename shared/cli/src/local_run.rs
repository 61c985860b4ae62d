//! `skylark local`: the bundle on this machine, with a Lark app registered in the sandbox from the start.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use domain::app::{AppKind, AppSecrets, AppStore as _, Brand};
use domain::id::AppId;
use lambda_kit::random;
use local::{ClientSettings, LarkSettings, Options, Running, Settings};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use url::Url;

use crate::app::{self, Registration};
use crate::args::Place;
use crate::client::{self, NewClient};
use crate::fault::{CliFault, say};
use crate::local_clock::{self, ClockArgs};
use crate::stack::{Stack, running};
use crate::webhook_key;

/// The app that a fresh sandbox knows.
const APP_ID: &str = "cli_local0000000001";

/// What that app may ask for.
const SCOPES: [&str; 7] = [
    "offline_access",
    "auth:user.id:read",
    "im:message:send_as_bot",
    "application:application:self_manage",
    "calendar:calendar:readonly",
    "task:task:read",
    "contact:user.base:readonly",
];

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LocalArgs {
    #[command(subcommand)]
    command: Option<LocalCommand>,
    #[command(flatten)]
    start: StartArgs,
}

#[derive(Debug, Subcommand)]
enum LocalCommand {
    /// Fire a function's schedules now, in the running bundle.
    Trigger {
        function: String,
        /// Only this one, by the name of its event in the template (`Sessions`).
        #[arg(long)]
        schedule: Option<String>,
    },
    /// Print the time that the running bundle lives in, or move it ahead.
    Clock(ClockArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Port of the HTTP API; the WebSocket API, the AWS endpoint and the sandbox take the next three. 0: any free ports.
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// The template to run.
    #[arg(long, default_value = "template.yaml")]
    template: PathBuf,
    /// Talk to this Lark instead of a sandbox, such as https://open.feishu.cn.
    #[arg(long)]
    lark_base_url: Option<Url>,
    /// Run only these functions (comma-separated).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Take function binaries from this folder instead of building them.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Keep what functions print in their log files.
    #[arg(long)]
    quiet: bool,
}

impl StartArgs {
    /// One function on free ports.
    pub(crate) fn for_one(function: &str, binaries: Option<PathBuf>) -> Self {
        Self { only: vec![function.to_owned()], ..Self::anywhere(binaries) }
    }

    /// The same without the functions' logs on stderr.
    pub(crate) fn quietly(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// The whole bundle on free ports.
    pub(crate) fn anywhere(binaries: Option<PathBuf>) -> Self {
        Self {
            port: 0,
            template: "template.yaml".into(),
            lark_base_url: None,
            only: Vec::new(),
            binaries,
            quiet: false,
        }
    }
}

pub(crate) async fn run(place: &Place, args: LocalArgs) -> Result<(), CliFault> {
    match args.command {
        Some(LocalCommand::Trigger { function, schedule }) => {
            say(trigger(&running(place)?, &function, schedule.as_deref()).await?);
            Ok(())
        }
        Some(LocalCommand::Clock(args)) => local_clock::run(place, &args).await,
        None => serve(place, args.start).await,
    }
}

async fn serve(place: &Place, args: StartArgs) -> Result<(), CliFault> {
    let logs = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(logs).with_target(false).with_writer(std::io::stderr).init();
    // Listened for from the start: a signal during start-up must still stop what has been started.
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let bundle = tokio::select! {
        bundle = start(place, args) => bundle?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    say(format!("ready {}", bundle.settings().http));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    bundle.shutdown().await;
    Ok(())
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, CliFault> {
    signal(kind).map_err(|cause| CliFault::storage("signals cannot be listened for", cause))
}

/// Starts a bundle and registers its first app, unless an earlier run on the same data did.
pub(crate) async fn start(place: &Place, args: StartArgs) -> Result<Running, CliFault> {
    let options = Options {
        template: args.template,
        data: place.data.clone(),
        port: args.port,
        lark_base_url: args.lark_base_url,
        only: args.only,
        binaries: args.binaries,
        quiet: args.quiet,
        runner: env!("CARGO_PKG_NAME"),
    };
    let mut bundle =
        local::start(options).await.map_err(|cause| CliFault::storage("the bundle does not start", cause))?;
    let lark = first_app(&bundle).await?;
    let clients = first_client(&bundle).await?;
    let webhook_key = first_source(&bundle).await?;
    bundle
        .tell(lark, clients, webhook_key)
        .map_err(|cause| CliFault::storage("`local.json` cannot be written", cause))?;
    Ok(bundle)
}

/// The sandbox's app, with the same secrets in the sandbox and in the bundle. Secrets that an earlier run told are kept.
async fn first_app(bundle: &Running) -> Result<Option<LarkSettings>, CliFault> {
    let Some(sandbox) = bundle.sandbox() else { return Ok(None) };
    let settings = bundle.settings();
    if !settings.tables.contains_key("LarkTable") {
        return Ok(None);
    }
    let secret = || random::secret().map_err(|cause| CliFault::storage("no randomness", cause));
    let told = match bundle.told_before().and_then(|told| told.lark.clone()) {
        Some(told) => told,
        None => LarkSettings {
            sandbox: String::new(),
            app_id: APP_ID.to_owned(),
            app_secret: secret()?,
            encrypt_key: secret()?,
            verification_token: secret()?,
        },
    };
    let lark = LarkSettings { sandbox: bundle.sandbox_url().to_owned(), ..told };
    let stack = Stack::local(settings).await?;
    let app_id = AppId::parse(lark.app_id.clone())?;
    if stack.table.get(&app_id).await?.is_none() {
        let secrets = AppSecrets {
            app_secret: lark.app_secret.clone().into(),
            encrypt_key: Some(lark.encrypt_key.clone().into()),
            verification_token: lark.verification_token.clone().into(),
        };
        let registration = Registration {
            app_id: &app_id,
            name: "Skylark Local",
            kind: AppKind::Custom,
            brand: Brand::Feishu,
            operator_chat: None,
            privacy_url: None,
            secrets: &secrets,
        };
        app::add(&stack.table, &stack.vault, registration, "skylark local", stack.now().await?).await?;
    }
    let console = json!({
        "app_id": lark.app_id, "app_secret": lark.app_secret, "encrypt_key": lark.encrypt_key,
        "verification_token": lark.verification_token, "name": "Skylark Local", "scopes": SCOPES,
        "callback_url": format!("{}/lark/{app_id}/callback", settings.http),
        "redirect_uris": [format!("{}/lark/oauth/callback", settings.http)],
        "verify": false,
    });
    let console =
        serde_json::from_value(console).map_err(|cause| CliFault::storage("the sandbox app is malformed", cause))?;
    sandbox.put_app(console).await.map_err(|cause| CliFault::storage("the sandbox does not take the app", cause))?;
    Ok(Some(lark))
}

/// A client with every scope, for trying the API out. The one that an earlier run told is kept.
async fn first_client(bundle: &Running) -> Result<Vec<ClientSettings>, CliFault> {
    if !bundle.settings().tables.contains_key("AuthTable") {
        return Ok(Vec::new());
    }
    if let Some(told) = bundle.told_before().filter(|told| !told.clients.is_empty()) {
        return Ok(told.clients.clone());
    }
    let stack = Stack::local(bundle.settings()).await?;
    let (client, secret) = client::add(&stack, NewClient::local()?).await?;
    Ok(vec![ClientSettings {
        client_id: client.client_id.to_string(),
        client_secret: secret.expose_secret().to_owned(),
        user_id: client.user_id.to_string(),
        scopes: client.scopes.iter().map(ToString::to_string).collect(),
    }])
}

/// The source `wechat` and its key. The one that an earlier run told is kept.
async fn first_source(bundle: &Running) -> Result<Option<String>, CliFault> {
    if !bundle.settings().tables.contains_key("LakeTable") {
        return Ok(None);
    }
    if let Some(told) = bundle.told_before().and_then(|told| told.webhook_key.clone()) {
        return Ok(Some(told));
    }
    let stack = Stack::local(bundle.settings()).await?;
    Ok(Some(webhook_key::first(&stack, "wechat").await?.expose_secret().to_owned()))
}

/// Fires the schedules of a function, or one of them, and returns what the bundle says.
pub(crate) async fn trigger(settings: &Settings, function: &str, schedule: Option<&str>) -> Result<String, CliFault> {
    let url = format!("{}/_skylark/trigger/{function}", settings.aws_endpoint);
    let chosen = schedule.map(|schedule| ("schedule", schedule));
    let answer = reqwest::Client::new().post(url).query(chosen.as_slice()).send().await;
    let answer = answer.map_err(|cause| CliFault::storage("the bundle does not answer", cause))?;
    if !answer.status().is_success() {
        return Err(CliFault::Argument(answer.text().await.unwrap_or_default()));
    }
    Ok(answer.text().await.unwrap_or_default())
}
