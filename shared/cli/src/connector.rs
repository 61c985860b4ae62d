//! `skylark connector`: what the channels of conversations lead to.

use clap::{Args, Subcommand, ValueEnum};
use domain::channel::{Admission, Connector, ConnectorKind, ConnectorStore as _};
use domain::fault::PortFault;
use domain::id::{AppId, ChannelName, TenantId, UserId};
use domain::seal::{SealContext, Sealer as _};
use lambda_kit::{env, random};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;
use webhook::{Secret, SecretFault};

use crate::app;
use crate::confirm::confirm;
use crate::fault::{CliFault, say, say_json};
use crate::stack::Stack;

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectorCommand {
    /// Connect a channel: to Lark in an app's name, or to an address of HTTP.
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// List connectors, and whether they work.
    #[command(
        after_help = "Examples:\n  skylark connector list\n  skylark connector list --json | jq -r '.[] | select(.state != \"works\") | .name'\n\n\
        JSON: an array of {tenant_id, name, type, app_id, tenant_key, speaker, url, state: works|failing|down, failures, open_until,\n\
        created_at, created_by, updated_at, updated_by, version}; what a type does not have is null."
    )]
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Disconnect a channel. Messages for it wait, and reach whatever is connected under its name next.
    #[command(after_help = "Example:\n  skylark connector delete erp --force")]
    Delete {
        /// The channel's name.
        name: String,
        /// Whose it is.
        #[arg(long, default_value = "default")]
        tenant_id: String,
        /// Do not ask; needed where stdin is no terminal.
        #[arg(long)]
        force: bool,
    },
}

const ADD_HELP: &str = "Examples:
  skylark connector add lark --type lark --app-id cli_a1b2c3 --speaker lark-people
  skylark connector add erp --type webhook --url https://erp.example.com/hooks/skylark

Conversations name the channel: POST /v1/conversations {.., \"channels\": [{\"name\": \"lark\", \"address\": \"oc_9f8e\"}]}. For Lark the
address is a chat (`oc_`), a person (`ou_`, `on_`, an e-mail address or a user id); for a webhook it is whatever the receiver makes of it.

A webhook's secret is shown this once. Each POST is signed as Standard Webhooks has it: webhook-id, webhook-timestamp, webhook-signature.
Added again under its name, a connector is changed.";

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// What conversations call the channel.
    name: String,
    /// What it leads to.
    #[arg(long = "type", value_enum)]
    kind: KindArg,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant_id: String,
    /// Lark: the app in whose name messages are sent.
    #[arg(long, required_if_eq("kind", "lark"), conflicts_with = "url")]
    app_id: Option<String>,
    /// Lark: the organisation, where the app serves several.
    #[arg(long, conflicts_with = "url")]
    tenant_key: Option<String>,
    /// Lark: the member who stands for people that are no members themselves; without one only members are heard.
    #[arg(long, conflicts_with = "url")]
    speaker: Option<String>,
    /// Webhook: where messages are posted.
    #[arg(long, required_if_eq("kind", "webhook"))]
    url: Option<Url>,
    /// Webhook: a secret of the receiver's (`whsec_..`); left out, a new one is made.
    #[arg(long, env = "SKYLARK_WEBHOOK_SECRET", hide_env_values = true, requires = "url")]
    secret: Option<SecretString>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum KindArg {
    Lark,
    Webhook,
}

impl From<SecretFault> for CliFault {
    fn from(fault: SecretFault) -> Self {
        Self::Argument(fault.to_string())
    }
}

pub(crate) async fn run(stack: &Stack, command: ConnectorCommand) -> Result<(), CliFault> {
    match command {
        ConnectorCommand::Add(args) => add(stack, args).await,
        ConnectorCommand::List { json } => list(stack, json).await,
        ConnectorCommand::Delete { name, tenant_id, force } => delete(stack, name, tenant_id, force).await,
    }
}

async fn add(stack: &Stack, args: AddArgs) -> Result<(), CliFault> {
    let (tenant_id, name) = (TenantId::parse(args.tenant_id)?, ChannelName::parse(args.name)?);
    let (connects, secret) = match args.kind {
        KindArg::Lark => {
            let app_id = AppId::parse(args.app_id.unwrap_or_default())?;
            let speaker = args.speaker.map(UserId::parse).transpose()?;
            (ConnectorKind::Lark { app_id, tenant_key: args.tenant_key, speaker }, None)
        }
        KindArg::Webhook => {
            let bytes = match args.secret {
                Some(secret) => Secret::read(secret.expose_secret())?,
                None => {
                    let secret = random::secret().map_err(|cause| CliFault::storage("no randomness", cause))?;
                    SecretSlice::from(secret.into_bytes())
                }
            };
            let place = SealContext::Connector { tenant_id: &tenant_id, channel: &name };
            let sealed = stack.vault.seal(place, &bytes).await?;
            let url = args.url.ok_or_else(|| CliFault::Argument("`--url` is needed".to_owned()))?;
            (ConnectorKind::Webhook { url, secret: sealed }, Some(Secret::write(&bytes)))
        }
    };
    let (now, who) = (stack.now().await?, app::who(env::process("SKYLARK_USER"))?);
    let before = stack.chat.view(&tenant_id, &name).await?.map(|view| view.connector);
    let connector = Connector {
        connects,
        created_at: before.as_ref().map_or(now, |before| before.created_at),
        created_by: before.as_ref().map_or_else(|| who.clone(), |before| before.created_by.clone()),
        updated_at: now,
        updated_by: who,
        version: before.map_or(1, |before| before.version + 1),
        tenant_id,
        name,
    };
    connector.check().map_err(|fault| CliFault::Argument(fault.to_string()))?;
    match stack.chat.put(&connector).await {
        Err(PortFault::Conflict { .. }) => {
            let name = &connector.name;
            return Err(CliFault::Argument(format!(
                "connector `{name}` was changed by somebody else just now; try again"
            )));
        }
        result => result?,
    }
    if args.json {
        return say_json(&json!({ "tenant_id": connector.tenant_id, "name": connector.name, "secret": secret }));
    }
    say(format!("connector {} leads to {}", connector.name, place(&connector)));
    if let Some(secret) = secret {
        say(format!("secret  {secret}   (shown this once)"));
    }
    Ok(())
}

async fn list(stack: &Stack, as_json: bool) -> Result<(), CliFault> {
    let now = stack.now().await?;
    let mut rows = Vec::new();
    for connector in stack.chat.list(None).await? {
        if let Some(view) = stack.chat.view(&connector.tenant_id, &connector.name).await? {
            let state = match (view.breaker.admission(now), view.breaker.failures) {
                (Admission::Closed { .. } | Admission::ToTry, _) => "down",
                (Admission::Free, 0) => "works",
                (Admission::Free, _) => "failing",
            };
            rows.push((view, state));
        }
    }
    if as_json {
        let shown = |(view, state): &(domain::channel::ConnectorView, &str)| {
            let mut value = public(&view.connector);
            if let Some(fields) = value.as_object_mut() {
                fields.insert("state".to_owned(), (*state).into());
                fields.insert("failures".to_owned(), view.breaker.failures.into());
                fields.insert("open_until".to_owned(), json!(view.breaker.open_until.and_then(instant)));
            }
            value
        };
        return say_json(&rows.iter().map(shown).collect::<Vec<_>>());
    }
    say(format!("{:<16}  {:<16}  {:<8}  {:<8}  LEADS TO", "TENANT", "CHANNEL", "TYPE", "STATE"));
    for (view, state) in &rows {
        let connector = &view.connector;
        let (tenant, name, kind) = (connector.tenant_id.as_str(), connector.name.as_str(), connector.connects.word());
        say(format!("{tenant:<16}  {name:<16}  {kind:<8}  {state:<8}  {}", place(connector)));
    }
    Ok(())
}

async fn delete(stack: &Stack, name: String, tenant_id: String, force: bool) -> Result<(), CliFault> {
    let (tenant_id, name) = (TenantId::parse(tenant_id)?, ChannelName::parse(name)?);
    let view = stack.chat.view(&tenant_id, &name).await?;
    let view = view.ok_or_else(|| CliFault::Argument(format!("there is no connector `{name}` of `{tenant_id}`")))?;
    confirm(&format!("Disconnect channel `{name}` of `{tenant_id}`? Messages for it wait from now on."), force)?;
    stack.chat.delete(&view.connector).await?;
    say(format!("connector {name} is deleted"));
    Ok(())
}

fn place(connector: &Connector) -> String {
    match &connector.connects {
        ConnectorKind::Lark { app_id, .. } => format!("Lark, as {app_id}"),
        ConnectorKind::Webhook { url, .. } => url.to_string(),
    }
}

/// A connector as anyone may see it.
fn public(connector: &Connector) -> Value {
    let (app_id, tenant_key, speaker, url) = match &connector.connects {
        ConnectorKind::Lark { app_id, tenant_key, speaker } => {
            (Some(app_id), tenant_key.as_ref(), speaker.as_ref(), None)
        }
        ConnectorKind::Webhook { url, .. } => (None, None, None, Some(url)),
    };
    json!({
        "tenant_id": connector.tenant_id, "name": connector.name, "type": connector.connects.word(), "app_id": app_id,
        "tenant_key": tenant_key, "speaker": speaker, "url": url, "created_at": instant(connector.created_at),
        "created_by": connector.created_by, "updated_at": instant(connector.updated_at),
        "updated_by": connector.updated_by, "version": connector.version,
    })
}

fn instant(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}
