//! `skylark webhook-key`: the sources that may post to `/webhook/{source}`, and their keys. A key is shown once, when it is made; stored is
//! only its hash.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use domain::fault::PortFault;
use domain::lake::source::{Mapping, SOURCE_TTL, Source, SourceKey, SourceName, SourceStore as _};
use domain::oauth::SecretHash;
use lambda_kit::{env, random};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::app;
use crate::fault::{CliFault, say, say_json};
use crate::stack::Stack;

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookKeyCommand {
    /// Let a source post events; its first key is shown once.
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// List the sources and the ids of their keys; keys are never shown.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a source another key, shown once; the one before stays good until it is revoked, or the next rotation.
    Rotate {
        source: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a key away, by its id; within seconds it opens nothing.
    Revoke { source: String, key_id: String },
    /// Change how a source's events are read.
    Update(UpdateArgs),
}

const ADD_HELP: &str = "Examples:
  skylark webhook-key add wechat
  skylark webhook-key add dingtalk --mask --field msg_id=/msgId --field create_time=/createAt --field content=/text/content

Without --field events are read as WeChat's: {guid, notify_type, data: {msg_id, create_time, from_username, content, ..}}. With it, each
--field names a field of WeChat's and where its value is in this source's JSON. What no --field names is kept in the column `extras`.";

/// How a source's events are read.
#[derive(Debug, Args)]
struct Reading {
    /// A field of WeChat's events and where this source has it: NAME=/json/pointer; once for each.
    #[arg(long = "field", value_name = "NAME=POINTER", value_parser = field)]
    fields: Vec<(String, String)>,
    /// Keep mobile numbers and customInfo.detail out of the tables.
    #[arg(long)]
    mask: bool,
}

impl Reading {
    fn mapping(&self) -> Mapping {
        let fields: BTreeMap<String, String> = self.fields.iter().cloned().collect();
        if fields.is_empty() { Mapping::Wechat } else { Mapping::Fields { fields } }
    }
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Its name, which is a part of the address: /webhook/<source>.
    source: String,
    #[command(flatten)]
    reading: Reading,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    source: String,
    #[command(flatten)]
    reading: Reading,
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, pointer) = text.split_once('=').ok_or("it must be NAME=/json/pointer")?;
    if name.is_empty() || !pointer.starts_with('/') {
        return Err("it must be NAME=/json/pointer, like msg_id=/message/id".to_owned());
    }
    Ok((name.to_owned(), pointer.to_owned()))
}

pub(crate) async fn run(stack: &Stack, command: WebhookKeyCommand) -> Result<(), CliFault> {
    match command {
        WebhookKeyCommand::Add(args) => {
            let (source, key) = add(stack, &args.source, args.reading.mapping(), args.reading.mask).await?;
            show(stack, &source, &key, args.json)
        }
        WebhookKeyCommand::List { json } => list(stack, json).await,
        WebhookKeyCommand::Rotate { source, json } => {
            let ((key, hash), now) = (new_key()?, stack.now().await?);
            let source = change(stack, &source, |source| Ok(source.rotated(hash, now))).await?;
            show(stack, &source, &key, json)
        }
        WebhookKeyCommand::Revoke { source, key_id } => {
            let source = change(stack, &source, |source| source.revoked(&key_id).map_err(CliFault::from)).await?;
            let secs = SOURCE_TTL.whole_seconds();
            say(format!("key {key_id} of {} opens nothing in {secs} s; {} left", source.name, source.keys.len()));
            Ok(())
        }
        WebhookKeyCommand::Update(args) => {
            let (mapping, mask) = (args.reading.mapping(), args.reading.mask);
            let source = change(stack, &args.source, |source| Ok(Source { mapping, mask, ..source })).await?;
            say(format!("source {} is changed", source.name));
            Ok(())
        }
    }
}

fn who() -> Result<String, CliFault> {
    app::who(env::process("SKYLARK_USER"))
}

fn new_key() -> Result<(SecretString, SecretHash), CliFault> {
    let key = random::secret().map_err(|cause| CliFault::storage("no randomness", cause))?;
    let hash = SecretHash(random::hash(&key));
    Ok((key.into(), hash))
}

/// Makes a source with one key.
async fn add(stack: &Stack, name: &str, mapping: Mapping, mask: bool) -> Result<(Source, SecretString), CliFault> {
    let name = SourceName::parse(name)?;
    if name.is_own() {
        return Err(CliFault::Argument(format!("`{name}` is the name of events that come from Skylark itself")));
    }
    let (key, hash) = new_key()?;
    let (now, who) = (stack.now().await?, who()?);
    let source = Source {
        name: name.clone(),
        mapping,
        mask,
        keys: vec![SourceKey { hash, created_at: now }],
        created_at: now,
        created_by: who.clone(),
        updated_at: now,
        updated_by: who,
        version: 1,
    };
    match stack.lake.put(&source).await {
        Err(PortFault::Conflict { .. }) => Err(CliFault::Argument(format!(
            "source `{name}` is there already; `webhook-key rotate` gives it another key"
        ))),
        result => Ok(result.map(|()| (source, key))?),
    }
}

/// A key for a source that a local bundle has from the start. Where a bundle died before it told the key, the source gets another.
pub(crate) async fn first(stack: &Stack, name: &str) -> Result<SecretString, CliFault> {
    if stack.lake.get(&SourceName::parse(name)?).await?.is_none() {
        return Ok(add(stack, name, Mapping::Wechat, false).await?.1);
    }
    let ((key, hash), now) = (new_key()?, stack.now().await?);
    change(stack, name, |source| Ok(source.rotated(hash, now))).await?;
    Ok(key)
}

async fn change(
    stack: &Stack,
    name: &str,
    change: impl FnOnce(Source) -> Result<Source, CliFault>,
) -> Result<Source, CliFault> {
    let name = SourceName::parse(name)?;
    let unknown = || CliFault::Argument(format!("there is no source `{name}`"));
    let source = stack.lake.get(&name).await?.ok_or_else(unknown)?;
    let (version, updated_by) = (source.version + 1, who()?);
    let changed = Source { updated_at: stack.now().await?, updated_by, version, ..change(source)? };
    match stack.lake.put(&changed).await {
        Err(PortFault::Conflict { .. }) => {
            Err(CliFault::Argument(format!("source `{name}` was changed by somebody else just now; try again")))
        }
        result => Ok(result.map(|()| changed)?),
    }
}

fn show(stack: &Stack, source: &Source, key: &SecretString, as_json: bool) -> Result<(), CliFault> {
    let url = format!("{}/webhook/{}", stack.public_url, source.name);
    let key_id = source.keys.first().map(SourceKey::id).unwrap_or_default();
    if as_json {
        return say_json(&json!({ "source": source.name, "key_id": key_id, "key": key.expose_secret(), "url": url }));
    }
    say(format!("url     {url}?key={}", key.expose_secret()));
    say(format!("key     {}   (shown this once; or in the header x-webhook-key)", key.expose_secret()));
    say(format!("key_id  {key_id}"));
    Ok(())
}

async fn list(stack: &Stack, as_json: bool) -> Result<(), CliFault> {
    let sources = stack.lake.list().await?;
    if as_json {
        return say_json(&sources.iter().map(public).collect::<Vec<_>>());
    }
    say(format!("{:<16} {:<8} {:<5} KEYS", "SOURCE", "FORM", "MASK"));
    for source in &sources {
        let form = if source.mapping == Mapping::Wechat { "wechat" } else { "fields" };
        let keys: Vec<&str> = source.keys.iter().map(SourceKey::id).collect();
        say(format!("{:<16} {form:<8} {:<5} {}", source.name.as_str(), source.mask, keys.join(" ")));
    }
    Ok(())
}

/// A source as anyone may see it.
fn public(source: &Source) -> Value {
    let keys: Vec<Value> = source
        .keys
        .iter()
        .map(|key| json!({ "key_id": key.id(), "created_at": key.created_at.unix_timestamp() }))
        .collect();
    let mut value = json!(source);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("keys".to_owned(), keys.into());
    }
    value
}
