//! `skylark client`: the programs that may call the API. A secret is shown once, when it is made; stored is only its hash.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use domain::access::Scope;
use domain::fault::PortFault;
use domain::id::{ClientId, TenantId, UserId};
use domain::oauth::{Client, ClientSecret, ClientStore as _, RefreshSeal as _, SecretHash};
use lambda_kit::{env, random};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use vault::RefreshKeys;

use crate::app;
use crate::fault::{CliFault, say};
use crate::stack::Stack;

#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Register a client; its secret is shown once.
    #[command(
        after_help = "Example:\n  skylark client add --name 'Weekly report' --user-id ann --scope lark --scope chat"
    )]
    Add(AddArgs),
    /// List the clients; secrets are never shown.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a client another secret, shown once; the one before stays good until the rotation is finished, or the next begins.
    Rotate {
        client_id: String,
        /// End the rotation: only the newest secret stays good.
        #[arg(long)]
        finish: bool,
        /// Print JSON.
        #[arg(long, conflicts_with = "finish")]
        json: bool,
    },
    /// Change what a client is called, may do, or how often it may call.
    Update(UpdateArgs),
    /// Let a disabled client get tokens again.
    Enable { client_id: String },
    /// Give a client no more tokens; those it has end within 15 minutes.
    Disable { client_id: String },
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// What people call it.
    #[arg(long)]
    name: String,
    /// The user that it acts for.
    #[arg(long)]
    user_id: String,
    /// The tenant of that user; users and clients see their own tenant only.
    #[arg(long, default_value = "default")]
    tenant_id: String,
    /// A scope that its tokens may have (lark, chat, files, lake:read, lake:write); once for each.
    #[arg(long = "scope", required = true, value_parser = scope)]
    scopes: Vec<Scope>,
    /// Its own limit of calls a minute, instead of the defaults.
    #[arg(long)]
    rate: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    client_id: String,
    /// What people call it.
    #[arg(long)]
    name: Option<String>,
    /// The scopes that its tokens may have from now on; once for each.
    #[arg(long = "scope", value_parser = scope)]
    scopes: Vec<Scope>,
    /// Its own limit of calls a minute.
    #[arg(long)]
    rate: Option<u32>,
    /// Back to the default limits.
    #[arg(long, conflicts_with = "rate")]
    default_rate: bool,
}

fn scope(text: &str) -> Result<Scope, String> {
    let names = Scope::ALL.map(Scope::as_str).join(", ");
    Scope::parse(text).ok_or_else(|| format!("it must be one of {names}"))
}

/// What is chosen for a client.
#[derive(Debug)]
pub(crate) struct NewClient {
    name: String,
    user_id: UserId,
    tenant_id: TenantId,
    scopes: BTreeSet<Scope>,
    rate: Option<u32>,
}

impl NewClient {
    /// The client that a local bundle has from the start.
    pub(crate) fn local() -> Result<Self, CliFault> {
        let (user_id, tenant_id) = (UserId::parse("ann")?, TenantId::parse("default")?);
        Ok(Self { name: "Skylark Local".to_owned(), user_id, tenant_id, scopes: Scope::ALL.into(), rate: None })
    }

    /// One that the demo acts by: it calls more often than people do.
    pub(crate) fn demo(user: &str) -> Result<Self, CliFault> {
        let (user_id, tenant_id) = (UserId::parse(user)?, TenantId::parse("default")?);
        let scopes = [Scope::Chat, Scope::Files].into();
        Ok(Self { name: "Skylark Demo".to_owned(), user_id, tenant_id, scopes, rate: Some(100_000) })
    }
}

pub(crate) async fn run(stack: &Stack, command: ClientCommand) -> Result<(), CliFault> {
    match command {
        ClientCommand::Add(args) => {
            let new = NewClient {
                name: args.name,
                user_id: UserId::parse(args.user_id)?,
                tenant_id: TenantId::parse(args.tenant_id)?,
                scopes: args.scopes.into_iter().collect(),
                rate: args.rate,
            };
            let (client, secret) = add(stack, new).await?;
            show(&client, &secret, args.json);
            Ok(())
        }
        ClientCommand::List { json } => list(stack, json).await,
        ClientCommand::Rotate { client_id, finish: true, .. } => {
            let client = change(stack, client_id, Client::settled).await?;
            say(format!("client {} has one secret: the newest", client.client_id));
            Ok(())
        }
        ClientCommand::Rotate { client_id, finish: false, json } => {
            let ((secret, hash), now) = (new_secret()?, stack.now().await?);
            let client = change(stack, client_id, |client| client.rotated(hash, now)).await?;
            show(&client, &secret, json);
            Ok(())
        }
        ClientCommand::Update(args) => {
            let update = |client: Client| Client {
                name: args.name.unwrap_or(client.name),
                scopes: if args.scopes.is_empty() { client.scopes } else { args.scopes.into_iter().collect() },
                rate: if args.default_rate { None } else { args.rate.or(client.rate) },
                ..client
            };
            let client = change(stack, args.client_id, update).await?;
            say(format!("client {} is changed", client.client_id));
            Ok(())
        }
        ClientCommand::Enable { client_id } => set_disabled(stack, client_id, false).await,
        ClientCommand::Disable { client_id } => set_disabled(stack, client_id, true).await,
    }
}

/// Who changes a client, for its audit fields.
fn who() -> Result<String, CliFault> {
    app::who(env::process("SKYLARK_USER"))
}

fn new_secret() -> Result<(SecretString, SecretHash), CliFault> {
    let secret = random::secret().map_err(|cause| CliFault::storage("no randomness", cause))?;
    let hash = RefreshKeys.hash(&secret);
    Ok((secret.into(), hash))
}

/// Registers a client under a new id.
pub(crate) async fn add(stack: &Stack, new: NewClient) -> Result<(Client, SecretString), CliFault> {
    let (secret, hash) = new_secret()?;
    let (now, who) = (stack.now().await?, who()?);
    let client = Client {
        client_id: ClientId::parse(random::uuid().to_string())?,
        name: new.name,
        user_id: new.user_id,
        tenant_id: new.tenant_id,
        scopes: new.scopes,
        secrets: vec![ClientSecret { hash, created_at: now }],
        rate: new.rate,
        disabled: false,
        created_at: now,
        created_by: who.clone(),
        updated_at: now,
        updated_by: who,
        version: 1,
    };
    client.check()?;
    stack.auth.put(&client).await?;
    Ok((client, secret))
}

async fn change(stack: &Stack, client_id: String, change: impl FnOnce(Client) -> Client) -> Result<Client, CliFault> {
    let client_id = ClientId::parse(client_id)?;
    let unknown = || CliFault::Argument(format!("no client `{client_id}` is registered"));
    let client = stack.auth.get(&client_id).await?.ok_or_else(unknown)?;
    let (version, updated_by) = (client.version + 1, who()?);
    let changed = Client { updated_at: stack.now().await?, updated_by, version, ..change(client) };
    changed.check()?;
    match stack.auth.put(&changed).await {
        Err(PortFault::Conflict { .. }) => {
            Err(CliFault::Argument(format!("client `{client_id}` was changed by somebody else just now; try again")))
        }
        result => Ok(result.map(|()| changed)?),
    }
}

/// Gives a client no more tokens.
pub(crate) async fn disable(stack: &Stack, client_id: String) -> Result<(), CliFault> {
    change(stack, client_id, |client| Client { disabled: true, ..client }).await.map(drop)
}

async fn set_disabled(stack: &Stack, client_id: String, disabled: bool) -> Result<(), CliFault> {
    let client = change(stack, client_id, |client| Client { disabled, ..client }).await?;
    say(format!("client {} is {}", client.client_id, if disabled { "disabled" } else { "enabled" }));
    Ok(())
}

fn show(client: &Client, secret: &SecretString, as_json: bool) {
    let secret = secret.expose_secret();
    if as_json {
        let shown = json!({
            "client_id": client.client_id, "client_secret": secret, "user_id": client.user_id, "scopes": client.scopes,
        });
        say(shown.to_string());
    } else {
        say(format!("client_id      {}", client.client_id));
        say(format!("client_secret  {secret}   (shown this once)"));
    }
}

async fn list(stack: &Stack, as_json: bool) -> Result<(), CliFault> {
    let clients = stack.auth.list().await?;
    if as_json {
        let clients: Vec<Value> = clients.iter().map(public).collect();
        say(serde_json::to_string_pretty(&clients).unwrap_or_default());
        return Ok(());
    }
    say(format!(
        "{:<36} {:<8} {:<16} {:<7} {:<6} {:<28} NAME",
        "CLIENT", "STATUS", "USER", "SECRETS", "RATE", "SCOPES"
    ));
    for client in &clients {
        say(format!(
            "{:<36} {:<8} {:<16} {:<7} {:<6} {:<28} {}",
            client.client_id.as_str(),
            if client.disabled { "disabled" } else { "enabled" },
            client.user_id.as_str(),
            client.secrets.len(),
            client.rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
            Scope::join(&client.scopes),
            client.name,
        ));
    }
    Ok(())
}

/// A client as anyone may see it.
fn public(client: &Client) -> Value {
    let mut value = json!(client);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("secrets".to_owned(), client.secrets.len().into());
    }
    value
}
