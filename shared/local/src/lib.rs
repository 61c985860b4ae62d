//! `skylark local`: runs template.yaml on one machine, with the very binaries that deploy.
//!
//! Everything it keeps is in one data folder, and whatever it acknowledged survives a killed process: tables, queues, buckets, buses,
//! accepted asynchronous events, stream checkpoints, the vault's key, how far its time was moved, and the sandbox. One bundle runs on a
//! folder at a time.

mod arn;
mod binaries;
mod clock;
mod clockwork;
mod delivery;
mod endpoint;
mod gateway;
mod lambda;
mod logs;
mod mappings;
mod names;
mod resources;
mod settings;
mod tables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lark_sandbox::{Sandbox, SandboxConfig};
use local_bucket::{Buckets, Credentials};
use local_lambda::{Functions, LogSink};
use local_mapping::{Shutdown, Stop};
use local_queue::events::Buses;
use local_queue::sqs::Queues;
use local_template::{Bundle, KeyUsage, Place};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;
use vault::{KeyFile, SigningKeyFiles};

use crate::arn::{ACCOUNT, REGION};
use crate::clock::{BundleClock, Offset};
use crate::clockwork::Clockwork;
use crate::delivery::Delivery;
use crate::endpoint::{Counts, Endpoint};
use crate::logs::{Nowhere, Stderr};
use crate::names::Names;

pub use crate::binaries::BinaryError;
pub use crate::resources::ResourceError;
pub use crate::settings::{ClientSettings, LarkSettings, Settings};
pub use crate::tables::TableError;

/// The keys that any client may use; functions have the same secret under a key named after them.
const ACCESS_KEY: &str = "test";
const SECRET_KEY: &str = "test";

/// What to run and where.
#[derive(Debug, Clone)]
pub struct Options {
    pub template: PathBuf,
    pub data: PathBuf,
    /// Of the HTTP API; the next three are the WebSocket API's, the AWS endpoint's and the sandbox's. 0: any free ports.
    pub port: u16,
    /// A real Lark instead of the sandbox.
    pub lark_base_url: Option<Url>,
    /// Only these functions, by any of their names; empty: all.
    pub only: Vec<String>,
    /// Where function binaries are, instead of building them.
    pub binaries: Option<PathBuf>,
    /// Keeps what functions print to their files in the data folder, and off stderr.
    pub quiet: bool,
    /// The package of the runner itself, built along with the functions: Cargo then resolves one set of features for both and compiles
    /// nothing twice.
    pub runner: &'static str,
}

/// Why a bundle does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("`{}` cannot be used", path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("port {port} cannot be listened on")]
    Port {
        port: u16,
        #[source]
        cause: std::io::Error,
    },
    #[error(transparent)]
    Template(#[from] local_template::TemplateError),
    #[error("`--only {0}` names no function of the template")]
    NoSuchFunction(String),
    #[error("the functions' binaries are not there")]
    Binaries(#[from] BinaryError),
    #[error("the tables cannot be made")]
    Tables(#[from] TableError),
    #[error("a resource cannot be made")]
    Resources(#[from] ResourceError),
    #[error("the {part} cannot start")]
    Part {
        part: &'static str,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn part<E: std::error::Error + Send + Sync + 'static>(part: &'static str) -> impl FnOnce(E) -> StartError {
    move |cause| StartError::Part { part, cause: Box::new(cause) }
}

/// A bundle that runs. Dropped without [`Running::shutdown`], its tasks end but functions that hang may outlive it a little.
#[derive(Debug)]
pub struct Running {
    data: PathBuf,
    settings: Settings,
    told_before: Option<Settings>,
    sandbox: Option<Sandbox>,
    sandbox_url: String,
    functions: Functions,
    stop_mappings: Stop,
    stop: watch::Sender<bool>,
    mappings: JoinSet<()>,
    servers: JoinSet<()>,
}

impl Running {
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the last run on this folder told.
    #[must_use]
    pub fn told_before(&self) -> Option<&Settings> {
        self.told_before.as_ref()
    }

    /// The stand-in vendor, unless a real one is used.
    #[must_use]
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandbox.as_ref()
    }

    #[must_use]
    pub fn sandbox_url(&self) -> &str {
        &self.sandbox_url
    }

    /// Writes `local.json`: from now on other commands find the bundle.
    pub fn tell(
        &mut self,
        lark: Option<LarkSettings>,
        clients: Vec<ClientSettings>,
        webhook_key: Option<String>,
    ) -> std::io::Result<()> {
        self.settings.lark = lark;
        self.settings.clients = clients;
        self.settings.webhook_key = webhook_key;
        self.settings.write(&self.data)
    }

    /// Stops in order: no new requests, no new batches, then the functions, then what they talk to.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        self.stop_mappings.stop();
        // A batch that a function is working on is waited for, but not for ever.
        let drained = async { while self.mappings.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(3), drained).await;
        self.functions.shutdown().await;
        self.servers.shutdown().await;
    }
}

/// Where the parts listen.
struct Ports {
    http: TcpListener,
    sockets: TcpListener,
    aws: TcpListener,
    sandbox: TcpListener,
}

impl Ports {
    async fn bind(first: u16) -> Result<Self, StartError> {
        let bind = |offset: u16| async move {
            let port = if first == 0 { 0 } else { first.saturating_add(offset) };
            TcpListener::bind(("127.0.0.1", port)).await.map_err(|cause| StartError::Port { port, cause })
        };
        Ok(Self { http: bind(0).await?, sockets: bind(1).await?, aws: bind(2).await?, sandbox: bind(3).await? })
    }
}

fn address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|cause| StartError::Port { port: 0, cause })
}

fn base(scheme: &str, listener: &TcpListener) -> Result<String, StartError> {
    Ok(format!("{scheme}://{}", address(listener)?))
}

/// Starts the bundle. When this returns, everything answers; nothing is told yet (see [`Running::tell`]).
pub async fn start(options: Options) -> Result<Running, StartError> {
    let data = prepare(&options.data)?;
    let io = |cause| StartError::Io { path: data.clone(), cause };
    let told_before = Settings::read(&data).map_err(io)?;
    let offset = Offset::read(&data).map_err(io)?;
    let key_file = data.join("vault.key");
    KeyFile::create_if_missing(&key_file).map_err(part("vault"))?;

    let ports = Ports::bind(options.port).await?;
    let (http, sockets) = (base("http", &ports.http)?, base("ws", &ports.sockets)?);
    let (aws, sandbox_url) = (base("http", &ports.aws)?, base("http", &ports.sandbox)?);
    let lark_base =
        options.lark_base_url.as_ref().map_or(sandbox_url.as_str(), |url| url.as_str().trim_end_matches('/'));
    let place = Place {
        region: REGION.to_owned(),
        account_id: ACCOUNT.to_owned(),
        stack_name: "skylark".to_owned(),
        aws_endpoint: aws.clone(),
        http_endpoint: http.clone(),
        websocket_endpoint: sockets.clone(),
        key_file: key_file.clone(),
        parameters: parameters(&options.template, lark_base)?,
    };
    let bundle = read(&options, &place)?;
    make_signing_keys(&bundle)?;
    let binaries = match &options.binaries {
        Some(folder) => binaries::find(folder, &wanted(&bundle))?,
        None => binaries::build(&workspace(&options.template), options.runner, &wanted(&bundle)).await?,
    };

    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    let database = tables::open(&data.join("table.db"), &bundle.tables)?;
    let table_address = tables::serve(database.clone(), until(stopped.clone()))?;
    let queues = Queues::open(&data.join("queue.db"), &aws, ACCOUNT, REGION).map_err(part("queues"))?;
    let buckets = Buckets::open(&data.join("bucket"), REGION, &credentials(&bundle)).map_err(part("buckets"))?;
    resources::make_queues(&queues, &bundle)?;
    resources::make_buckets(&buckets, &bundle)?;

    let delivery = Arc::new(Delivery::new(queues.clone(), buckets.clone()));
    let log: Arc<dyn LogSink> = if options.quiet { Arc::new(Nowhere) } else { Arc::new(Stderr) };
    let functions = lambda::functions(&bundle, &binaries, &data, &aws, offset, delivery.clone(), log)?;
    // Set once, right here.
    let _ = delivery.functions.set(functions.clone());
    let buses = Buses::open(&data.join("event.db"), ACCOUNT, REGION, delivery.clone()).map_err(part("event buses"))?;
    let _ = delivery.buses.set(buses.clone());
    resources::make_rules(&buses, &bundle)?;

    let sandbox = match &options.lark_base_url {
        Some(_) => None,
        None => {
            let config = SandboxConfig { state: data.join("lark.db"), base_url: sandbox_url.clone() };
            let sandbox = Sandbox::open(config).map_err(part("Lark sandbox"))?;
            let (serving, stopping) = (sandbox.clone(), until(stopped.clone()));
            servers.spawn(async move {
                if let Err(error) = serving.serve(ports.sandbox, stopping).await {
                    tracing::error!(error = %error, "The sandbox stopped");
                }
            });
            Some(sandbox)
        }
    };

    let invoker = Arc::new(functions.clone());
    if let Some(api) = gateway::http_api(&bundle, &http, invoker.clone())? {
        servers.spawn(api.serve(ports.http, until(stopped.clone())));
    }
    let websocket = gateway::websocket_api(&bundle, &sockets, invoker.clone())?;
    if let Some(api) = websocket.clone() {
        servers.spawn(api.serve(ports.sockets, until(stopped.clone())));
    }

    let (stop_mappings, mapping_shutdown) = Shutdown::channel();
    let mut mappings = JoinSet::new();
    let clockwork = Clockwork::new(&bundle, delivery.clone(), created_at(&key_file)?)?;
    mappings::spawn(
        &mut mappings,
        &bundle,
        mappings::Parts { database, queues: queues.clone(), invoker, delivery: delivery.clone(), data: &data },
        &mapping_shutdown,
    )
    .await?;
    mappings.spawn(clockwork.clone().run(mapping_shutdown));
    let (delivering, upkeep) = (buckets.clone(), buckets.clone());
    servers.spawn(async move { delivering.deliver_events(delivery.as_ref()).await });
    servers.spawn(async move { clockwork::hourly_lifecycle(upkeep).await });

    let clock = BundleClock::new(&data, offset, functions.clone(), sandbox.clone());
    clock.catch_up().await.map_err(part("clock"))?;
    let names = Names::new(&bundle.functions);
    let endpoint = Endpoint {
        tables: table_address,
        queues,
        buses,
        buckets,
        functions: functions.clone(),
        sockets: websocket.clone(),
        names,
        clockwork,
        clock: Arc::new(clock),
        proxy: endpoint::proxy_client(),
        counts: Counts::default(),
    };
    servers.spawn(endpoint::serve(Arc::new(endpoint), ports.aws));

    let lark_base_url = lark_base.to_owned();
    let settings = told(&bundle, lark_base_url, http, websocket.map_or_else(String::new, |_| sockets), aws, &key_file);
    Ok(Running { data, settings, told_before, sandbox, sandbox_url, functions, stop_mappings, stop, mappings, servers })
}

/// The folder, absolute, made if it is not there and closed to others: it holds the vault's key.
fn prepare(data: &Path) -> Result<PathBuf, StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let fault = |cause| StartError::Io { path: data.to_owned(), cause };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(fault)?;
    data.canonicalize().map_err(fault)
}

/// Each key that signs, unless an earlier run made it.
fn make_signing_keys(bundle: &Bundle) -> Result<(), StartError> {
    let signing = bundle.keys.iter().filter(|key| key.usage == KeyUsage::SignVerify);
    for path in signing.filter_map(|key| key.value.strip_prefix(vault::KEY_FILE_PREFIX)) {
        SigningKeyFiles::create_if_missing(Path::new(path)).map_err(part("signing key"))?;
    }
    Ok(())
}

/// When the folder was first used. The key is made once and never changed, so its age is the folder's.
fn created_at(key_file: &Path) -> Result<OffsetDateTime, StartError> {
    let modified = std::fs::metadata(key_file).and_then(|metadata| metadata.modified());
    modified.map(Into::into).map_err(|cause| StartError::Io { path: key_file.to_owned(), cause })
}

fn parameters(template: &Path, lark_base: &str) -> Result<BTreeMap<String, String>, StartError> {
    let declared = local_template::parameters(template)?;
    let known = [("LarkBaseUrl", lark_base)];
    let known = known.into_iter().filter(|(name, _)| declared.iter().any(|declared| declared == name));
    Ok(known.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The template, with its warnings told and only the wanted functions left in it.
fn read(options: &Options, place: &Place) -> Result<Bundle, StartError> {
    let mut bundle = local_template::load(&options.template, place)?;
    for warning in &bundle.warnings {
        tracing::warn!("{}:{}: {}", options.template.display(), warning.line, warning.message);
    }
    if options.only.is_empty() {
        return Ok(bundle);
    }
    let names = Names::new(&bundle.functions);
    let mut kept = Vec::new();
    for alias in &options.only {
        kept.push(names.function(alias).ok_or_else(|| StartError::NoSuchFunction(alias.clone()))?.to_owned());
    }
    lambda::keep_only(&mut bundle, &kept);
    Ok(bundle)
}

fn wanted(bundle: &Bundle) -> Vec<binaries::Wanted<'_>> {
    bundle.functions.iter().map(|function| (function.package.as_str(), function.binary.as_str())).collect()
}

fn workspace(template: &Path) -> PathBuf {
    match template.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The common keys, and a pair for each function, so that requests can be counted by who makes them.
fn credentials(bundle: &Bundle) -> Vec<Credentials> {
    let ids = bundle.functions.iter().map(|function| function.name.as_str()).chain([ACCESS_KEY]);
    ids.map(|id| Credentials { access_key_id: id.to_owned(), secret_access_key: SECRET_KEY.to_owned() }).collect()
}

/// Resolves when the bundle stops.
async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the bundle was dropped, which is a stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn told(
    bundle: &Bundle,
    lark_base_url: String,
    http: String,
    websocket: String,
    aws_endpoint: String,
    key_file: &Path,
) -> Settings {
    fn by_id<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> BTreeMap<String, String> {
        pairs.map(|(id, value)| (id.clone(), value.clone())).collect()
    }
    Settings {
        pid: std::process::id(),
        http,
        websocket,
        aws_endpoint,
        region: REGION.to_owned(),
        access_key_id: ACCESS_KEY.to_owned(),
        secret_access_key: SECRET_KEY.to_owned(),
        vault_key: format!("{}{}", vault::KEY_FILE_PREFIX, key_file.display()),
        lark_base_url,
        lark: None,
        clients: Vec::new(),
        webhook_key: None,
        functions: by_id(bundle.functions.iter().map(|function| (&function.logical_id, &function.name))),
        tables: by_id(bundle.tables.iter().map(|table| (&table.logical_id, &table.name))),
        queues: by_id(bundle.queues.iter().map(|queue| (&queue.logical_id, &queue.url))),
        buckets: by_id(bundle.buckets.iter().map(|bucket| (&bucket.logical_id, &bucket.name))),
        event_buses: by_id(bundle.buses.iter().map(|bus| (&bus.logical_id, &bus.name))),
    }
}
