//! What a token for a call costs: one that this process knows, and the first one where a hundred callers want it at once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use domain::app::{AppDirectory, AppFault, AppStore as _, OpenApp};
use domain::authorize::{Approval, Authorization, AuthorizeFault, VendorFault};
use domain::fault::PortFault;
use domain::id::{AppId, IdError, Ids as _, OpenId};
use domain::session::{CardStyle, Session, SessionFault, SessionRequest, SessionStore as _};
use domain::user_tokens::{TokenFault, UserTokens};
use domain::work::{Doorbell, WorkQueue};
use futures_util::future::try_join_all;
use lambda_kit::clock::{SystemClock, now};
use lambda_kit::random::RandomIds;
use lark::client::ApiError;
use lark::vendor::{AsTenantError, LarkVendor};
use serde_json::{Value, json};
use table::Table;
use vault::{KEY_FILE_PREFIX, KeyFile, KeyFileError, Vault};

use crate::case::{self, CaseError};
use crate::report::Spread;
use crate::stack::{Stack, StackError};

/// What a token that is known may cost, and what the slowest of a hundred callers without one may wait.
const CACHED: Duration = Duration::from_micros(1);
const COLD: Duration = Duration::from_millis(100);
const CALLERS: usize = 100;

/// Apps whose first token is fetched; each once.
const APPS: u32 = 20;

/// Short samples, many of them: the best one was not interrupted by another process.
const ROUNDS: u32 = 1_000;
const SAMPLES: usize = 300;

const PERSON: &str = "ou_ann";
const MINT: &str = "POST /open-apis/auth/v3/tenant_access_token/internal";

/// What was measured.
pub(crate) struct Costs {
    tenant: Duration,
    user: Duration,
    /// AWS requests while known tokens were asked for, but for looking the app up again every ten seconds.
    requests: u64,
    cold: Spread<Duration>,
    /// The most calls of the vendor that one app's first token took.
    calls: u64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokensError {
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error("the bundle's vault does not open")]
    Vault(#[from] KeyFileError),
    #[error("the sandbox is nowhere")]
    Url(#[from] url::ParseError),
    #[error("an id is none")]
    Id(#[from] IdError),
    #[error("a store failed")]
    Port(#[from] PortFault),
    #[error(transparent)]
    Case(#[from] CaseError),
    #[error("an app is not usable")]
    App(#[from] AppFault),
    #[error("there is no token")]
    Vendor(#[from] VendorFault),
    #[error("there is no token")]
    Tokens(#[from] TokenFault),
    #[error("nobody authorized")]
    Authorize(#[from] AuthorizeFault),
    #[error("nobody can be asked")]
    Session(#[from] SessionFault),
    #[error("the sandbox answers {0}")]
    Sandbox(Value),
}

/// One process's view of the bundle, with nothing known yet.
struct Caller {
    table: Arc<Table>,
    vault: Arc<Vault>,
    vendor: Arc<LarkVendor>,
    apps: Arc<AppDirectory>,
}

impl Caller {
    fn new(stack: &Stack) -> Result<Self, TokensError> {
        let [access_key_id, secret_access_key] = ["/access_key_id", "/secret_access_key"].map(|at| stack.setting(at));
        let (access_key_id, secret_access_key) = (access_key_id?, secret_access_key?);
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(access_key_id, secret_access_key, None, None, "local.json"))
            .endpoint_url(stack.setting("/aws_endpoint")?)
            .http_client(lambda_kit::aws::http_client())
            .build();
        let client = aws_sdk_dynamodb::Client::from_conf(config);
        let table = Arc::new(Table::new(client, stack.setting("/tables/LarkTable")?.to_owned()));
        let key = stack.setting("/vault_key")?;
        let key = KeyFile::read(Path::new(key.strip_prefix(KEY_FILE_PREFIX).unwrap_or(key)))?;
        let vault = Arc::new(Vault::new(Box::new(key)));
        let clock = Arc::new(SystemClock);
        let vendor = LarkVendor::new(Some(stack.setting("/lark/sandbox")?), table.clone(), vault.clone(), clock)?;
        let apps = Arc::new(AppDirectory::new(table.clone(), vault.clone()));
        Ok(Self { table, vault, vendor: Arc::new(vendor), apps })
    }

    /// The tenant's token, for a call that costs nothing.
    async fn tenant(&self, app: &OpenApp) -> Result<(), VendorFault> {
        let call = async |_, _| Ok::<(), ApiError>(());
        let token = self.vendor.as_tenant(app, None, Duration::from_secs(10), call).await;
        token.map_err(|error: AsTenantError| error.into())
    }
}

pub(crate) async fn measure(binaries: Option<PathBuf>) -> Result<Costs, TokensError> {
    let stack = Stack::start(binaries).await?;
    let (cold, calls) = cold(&stack).await?;

    let caller = Caller::new(&stack)?;
    let app_id = AppId::parse(stack.setting("/lark/app_id")?)?;
    let app = caller.apps.enabled(&app_id, now()).await?;
    authorize(&stack, &caller, &app_id).await?;
    let (vendor, clock, ids) = (caller.vendor.clone(), Arc::new(SystemClock), Arc::new(RandomIds));
    let tokens = UserTokens::new(caller.table.clone(), caller.vault.clone(), vendor, clock, ids);
    let open_id = OpenId::parse(PERSON)?;
    // The first ones come from the vendor and from the store.
    caller.tenant(&app).await?;
    tokens.get(&app_id, &open_id, None).await?;

    // Requests are counted by the key that signs them; functions have keys of their own.
    let key = stack.setting("/access_key_id")?;
    let before: u64 = stack.requests(key).await?.values().sum();
    let (mut tenant, mut user, begun) = (Duration::MAX, Duration::MAX, Instant::now());
    for _ in 0..SAMPLES {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            caller.tenant(&app).await?;
        }
        tenant = tenant.min(start.elapsed() / ROUNDS);
        let start = Instant::now();
        for _ in 0..ROUNDS {
            tokens.get(&app_id, &open_id, None).await?;
        }
        user = user.min(start.elapsed() / ROUNDS);
    }
    let looked_up = begun.elapsed().as_secs() / 10 + 1;
    let after: u64 = stack.requests(key).await?.values().sum();
    let requests = (after - before).saturating_sub(looked_up);
    Ok(Costs { tenant, user, requests, cold, calls })
}

/// A hundred callers at once want the first token of an app, again and again with another app.
async fn cold(stack: &Stack) -> Result<(Spread<Duration>, u64), TokensError> {
    let (mut waits, mut calls) = (Vec::new(), 0);
    let sandbox = stack.setting("/lark/sandbox")?;
    let registrar = Caller::new(stack)?;
    for n in 0..APPS {
        let app = case::app_named(&format!("cli_bench{n}"), &registrar.vault).await?;
        registrar.table.put(&app).await?;
        let console = json!({ "app_id": app.app_id, "app_secret": case::APP_SECRET, "verify": false });
        post(stack, "apps", &console).await?;
        stack.http.delete(format!("{sandbox}/sandbox/calls")).send().await.map_err(StackError::from)?;

        let caller = &Caller::new(stack)?;
        let app: &OpenApp = &*caller.apps.enabled(&app.app_id, now()).await?;
        let wait = async || {
            let begun = Instant::now();
            caller.tenant(app).await.map(|()| begun.elapsed())
        };
        let asked = try_join_all((0..CALLERS).map(|_| wait())).await?;
        waits.push(asked.into_iter().max().unwrap_or_default());
        let told = stack.http.get(format!("{sandbox}/sandbox/calls")).send().await.map_err(StackError::from)?;
        let told: Value = told.json().await.map_err(StackError::from)?;
        let of_mint = told
            .get("counts")
            .and_then(|counts| counts.get(MINT)?.as_object())
            .into_iter()
            .flatten()
            .filter_map(|(_, count)| count.as_u64());
        calls = calls.max(of_mint.sum());
    }
    Ok((Spread::of(waits), calls))
}

/// No card is sent, so nobody has to hear of a session.
struct Silence;

#[async_trait]
impl WorkQueue for Silence {
    async fn ring(&self, _: &Doorbell) -> Result<(), PortFault> {
        Ok(())
    }
}

/// The person approves in the sandbox, and the code is exchanged as a function would.
async fn authorize(stack: &Stack, caller: &Caller, app_id: &AppId) -> Result<(), TokensError> {
    let redirect = format!("{}/lark/oauth/callback", stack.setting("/http")?);
    let page = format!(
        "{}/open-apis/authen/v1/authorize?client_id={app_id}&redirect_uri={redirect}&state=s&scope=offline_access",
        stack.setting("/lark/sandbox")?
    );
    let consent = json!({ "url": page, "open_id": PERSON, "approve": true });
    let back = post(stack, "authorize", &consent).await?;
    let code = back
        .get("location")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .split(['?', '&'])
        .find_map(|it| it.strip_prefix("code="));
    let code = code.ok_or_else(|| TokensError::Sandbox(back.clone()))?;
    let request = SessionRequest {
        app_id: app_id.clone(),
        open_id: OpenId::parse(PERSON)?,
        scopes: Vec::new(),
        reason: None,
        style: CardStyle::Concise,
        template_id: None,
        tenant_key: None,
    };
    let session = Session::open(RandomIds.session_id(), request, now())?;
    caller.table.create(&session).await?;
    let authorization = Authorization {
        apps: caller.apps.clone(),
        sessions: caller.table.clone(),
        tokens: caller.table.clone(),
        sealer: caller.vault.clone(),
        vendor: caller.vendor.clone(),
        work: Arc::new(Silence),
    };
    let approval = Approval { code: code.into(), attempt: None };
    authorization.complete(&session, &approval, now()).await?;
    Ok(())
}

async fn post(stack: &Stack, path: &str, body: &Value) -> Result<Value, TokensError> {
    let url = format!("{}/sandbox/{path}", stack.setting("/lark/sandbox")?);
    let answer = stack.http.post(url).json(body).send().await.map_err(StackError::from)?;
    let (status, answer) = (answer.status(), answer.json().await.map_err(StackError::from)?);
    if status.is_success() { Ok(answer) } else { Err(TokensError::Sandbox(answer)) }
}

impl Costs {
    fn slowest(&self) -> Duration {
        self.cold.median()
    }

    pub(crate) fn holds(&self) -> bool {
        self.tenant < CACHED && self.user < CACHED && self.requests == 0 && self.calls == 1 && self.slowest() < COLD
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |holds| if holds { "holds" } else { "DOES NOT HOLD" };
        let micros = |cost: Duration| cost.as_secs_f64() * 1_000_000.0;
        let ms = |wait: Duration| wait.as_secs_f64() * 1000.0;
        for (whose, cost) in [("tenant", self.tenant), ("user", self.user)] {
            let verdict = verdict(cost < CACHED);
            writeln!(
                f,
                "a known {whose} token for a call: under {} us: {verdict} ({:.3} us)",
                micros(CACHED),
                micros(cost)
            )?;
        }
        writeln!(f, "AWS requests for known tokens: none: {} ({})", verdict(self.requests == 0), self.requests)?;
        writeln!(f, "{CALLERS} callers want an app's first token, {APPS} apps one after another:")?;
        writeln!(f, "  calls of the vendor for an app: one: {} ({})", verdict(self.calls == 1), self.calls)?;
        let (typical, worst) = (self.slowest(), self.cold.percentile(100));
        let limit = ms(COLD);
        let verdict = verdict(typical < COLD);
        write!(
            f,
            "  until the last caller has it: under {limit} ms: {verdict} (median {:.1} ms, worst {:.1} ms)",
            ms(typical),
            ms(worst)
        )
    }
}
