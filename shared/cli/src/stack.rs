//! Finds the bundle that a command is about: a local one by its data folder, a deployed one by its stack's outputs.

use std::collections::BTreeMap;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_cloudformation::types::Stack as Described;
use bucket::Bucket;
use lambda_kit::aws::http_client;
use lambda_kit::clock;
use local::Settings;
use queue::{SqsMergeQueue, SqsWorkQueue};
use table::Table;
use time::{Duration, OffsetDateTime};
use vault::Vault;

use crate::args::Place;
use crate::fault::CliFault;
use crate::local_clock;

/// A bundle's stores.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) table: Table,
    /// Clients of the API and their logins.
    pub(crate) auth: Table,
    /// Sources of the lake and their keys.
    pub(crate) lake: Table,
    /// Conversations, and the connectors of their channels.
    pub(crate) chat: Table,
    pub(crate) work: SqsWorkQueue,
    pub(crate) vault: Vault,
    /// Where people's browsers reach it.
    pub(crate) public_url: String,
    /// What the vendor's hosts are replaced with.
    pub(crate) lark_base_url: Option<String>,
    /// The endpoint that tells a local bundle's time.
    local: Option<String>,
}

impl Stack {
    pub(crate) async fn find(place: &Place) -> Result<Self, CliFault> {
        match &place.stack {
            Some(name) => Self::deployed(name).await,
            None => Self::local(&running(place)?).await,
        }
    }

    pub(crate) async fn local(settings: &Settings) -> Result<Self, CliFault> {
        let aws = local_config(settings).await;
        let table = named("table", "LarkTable", &settings.tables)?;
        let auth = named("table", "AuthTable", &settings.tables)?;
        let lake = named("table", "LakeTable", &settings.tables)?;
        let chat = named("table", "ChatTable", &settings.tables)?;
        let queue = named("queue", "LarkWorkQueue", &settings.queues)?;
        let urls = Urls { public: settings.http.clone(), lark_base: settings.lark_base_url.clone() };
        let over = Self::over(&aws, [table, auth, lake, chat, queue], &settings.vault_key, urls)?;
        Ok(Self { local: Some(settings.aws_endpoint.clone()), ..over })
    }

    async fn deployed(name: &str) -> Result<Self, CliFault> {
        let aws = deployed_config().await;
        let described = describe(&aws, name).await?;
        let parameters = described.parameters().iter();
        let lark_base = parameters.filter(|it| it.parameter_key() == Some("LarkBaseUrl"));
        let lark_base = lark_base.filter_map(|it| it.parameter_value()).next().unwrap_or_default().to_owned();
        let output = |key: &str| output(&described, name, key);
        let urls = Urls { public: output("HttpApiUrl")?, lark_base };
        let names = [
            output("LarkTable")?,
            output("AuthTable")?,
            output("LakeTable")?,
            output("ChatTable")?,
            output("LarkWorkQueue")?,
        ];
        Self::over(&aws, names, &output("VaultKey")?, urls)
    }

    fn over(aws: &SdkConfig, names: [String; 5], vault: &str, urls: Urls) -> Result<Self, CliFault> {
        let [table, auth, lake, chat, queue] = names;
        let vault = Vault::from_setting(vault, || aws_sdk_kms::Client::new(aws));
        Ok(Self {
            table: Table::new(aws_sdk_dynamodb::Client::new(aws), table),
            auth: Table::new(aws_sdk_dynamodb::Client::new(aws), auth),
            lake: Table::new(aws_sdk_dynamodb::Client::new(aws), lake),
            chat: Table::new(aws_sdk_dynamodb::Client::new(aws), chat),
            work: SqsWorkQueue::new(aws_sdk_sqs::Client::new(aws), queue),
            vault: vault.map_err(|cause| CliFault::storage("the vault cannot be opened", cause))?,
            public_url: urls.public,
            lark_base_url: Some(urls.lark_base).filter(|url| !url.is_empty()),
            local: None,
        })
    }

    /// The time that the bundle's functions live in.
    pub(crate) async fn now(&self) -> Result<OffsetDateTime, CliFault> {
        Ok(clock::now() + self.ahead().await?)
    }

    /// How far ahead of this machine the bundle's functions live.
    pub(crate) async fn ahead(&self) -> Result<Duration, CliFault> {
        match &self.local {
            Some(endpoint) => local_clock::ahead(endpoint).await,
            None => Ok(Duration::ZERO),
        }
    }
}

fn named(kind: &str, id: &str, names: &BTreeMap<String, String>) -> Result<String, CliFault> {
    names.get(id).cloned().ok_or_else(|| CliFault::Argument(format!("the local bundle has no {kind} `{id}`")))
}

async fn deployed_config() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest()).http_client(http_client()).load().await
}

async fn describe(aws: &SdkConfig, name: &str) -> Result<Described, CliFault> {
    let client = aws_sdk_cloudformation::Client::new(aws);
    let answer = client.describe_stacks().stack_name(name).send().await;
    let answer = answer.map_err(|cause| CliFault::storage(format!("stack `{name}` cannot be read"), cause))?;
    Ok(answer.stacks.unwrap_or_default().into_iter().next().unwrap_or_else(|| Described::builder().build()))
}

fn output(described: &Described, name: &str, key: &str) -> Result<String, CliFault> {
    let found = described.outputs().iter().find(|output| output.output_key() == Some(key));
    let missing = || CliFault::Argument(format!("stack `{name}` has no output `{key}`; is it Skylark's?"));
    found.and_then(|output| output.output_value()).map(str::to_owned).ok_or_else(missing)
}

/// Where a bundle's uploads and files are.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) table: Table,
    /// Who is a member of which conversation.
    pub(crate) chat: Table,
    pub(crate) bucket: Bucket,
    pub(crate) queue: SqsMergeQueue,
}

impl Files {
    pub(crate) async fn find(place: &Place) -> Result<Self, CliFault> {
        let (aws, [table, chat, bucket, queue]) = match &place.stack {
            Some(name) => {
                let aws = deployed_config().await;
                let described = describe(&aws, name).await?;
                let output = |key: &str| output(&described, name, key);
                let names =
                    [output("FilesTable")?, output("ChatTable")?, output("FilesBucket")?, output("MergeQueue")?];
                (aws, names)
            }
            None => {
                let settings = running(place)?;
                let names = [
                    named("table", "FilesTable", &settings.tables)?,
                    named("table", "ChatTable", &settings.tables)?,
                    named("bucket", "FilesBucket", &settings.buckets)?,
                    named("queue", "MergeQueue", &settings.queues)?,
                ];
                (local_config(&settings).await, names)
            }
        };
        let dynamodb = aws_sdk_dynamodb::Client::new(&aws);
        Ok(Self {
            table: Table::new(dynamodb.clone(), table),
            chat: Table::new(dynamodb, chat),
            bucket: Bucket::new((&aws).into(), bucket),
            queue: SqsMergeQueue::new(aws_sdk_sqs::Client::new(&aws), queue),
        })
    }
}

/// Where a bundle keeps its lake.
#[derive(Debug)]
pub(crate) struct LakePlace {
    pub(crate) aws: SdkConfig,
    pub(crate) bucket: String,
    pub(crate) queue: String,
    pub(crate) merges: String,
}

impl LakePlace {
    pub(crate) async fn find(place: &Place) -> Result<Self, CliFault> {
        if let Some(name) = &place.stack {
            let aws = deployed_config().await;
            let described = describe(&aws, name).await?;
            let output = |key: &str| output(&described, name, key);
            let bucket = output("LakeBucket")?;
            let (queue, merges) = (output("LakeQueue")?, output("CompactQueue")?);
            return Ok(Self { aws, bucket, queue, merges });
        }
        Self::local(&running(place)?).await
    }

    pub(crate) async fn local(settings: &Settings) -> Result<Self, CliFault> {
        Ok(Self {
            aws: local_config(settings).await,
            bucket: named("bucket", "LakeBucket", &settings.buckets)?,
            queue: named("queue", "LakeQueue", &settings.queues)?,
            merges: named("queue", "CompactQueue", &settings.queues)?,
        })
    }
}

/// Where a bundle is reached, and where it reaches the vendor (empty: at the vendor's own hosts).
struct Urls {
    public: String,
    lark_base: String,
}

/// The settings of the local bundle that runs on the place's data folder.
pub(crate) fn running(place: &Place) -> Result<Settings, CliFault> {
    let told = Settings::read(&place.data);
    let told = told.map_err(|cause| CliFault::storage(format!("`{}` cannot be read", place.data.display()), cause))?;
    told.filter(|settings| is_alive(settings.pid)).ok_or_else(|| {
        CliFault::Argument(format!("no bundle runs on `{}`; start one with `skylark local`", place.data.display()))
    })
}

/// Whether a process with this id is there.
fn is_alive(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok())
}

/// Configuration for an SDK that talks to a local bundle.
pub(crate) async fn local_config(settings: &Settings) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .region(Region::new(settings.region.clone()))
        .credentials_provider(Credentials::new(
            &settings.access_key_id,
            &settings.secret_access_key,
            None,
            None,
            "local.json",
        ))
        .endpoint_url(&settings.aws_endpoint)
        .load()
        .await
}
