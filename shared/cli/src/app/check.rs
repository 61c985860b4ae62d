//! `skylark app check`: every setting that has to agree between the vendor's console and this deployment, proved one by one.

use std::time::{Duration, Instant};

use clap::Args;
use domain::app::{APP_TTL, App, AppKind, AppSecrets, AppStatus};
use domain::seal::{SealContext, SealFault, Sealer as _};
use domain::tenant_token::TenantTokenStore as _;
use lambda_kit::random;
use lark::client::{ApiError, Application, Client, ClientConfig, Subscription};
use lark::signature;
use reqwest::header::CONTENT_TYPE;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;

use super::view::{self, Urls};
use super::{Output, Which, resolve};
use crate::fault::{CliFault, say, say_json};
use crate::stack::Stack;

/// How long one call may take, repetitions included.
const PATIENCE: Duration = Duration::from_secs(10);

/// The vendor gives a request URL this long to answer the challenge.
const CHALLENGE_MILLIS: u128 = 1000;

/// What every app needs to be granted: any one of each, and what for.
const SCOPES: [(&[&str], &str); 3] = [
    (&["offline_access"], "people's tokens can be refreshed"),
    (&["im:message:send_as_bot", "im:message"], "cards and messages can be sent"),
    (
        &[
            "contact:user.base:readonly",
            "contact:user.basic_profile:readonly",
            "contact:contact.base:readonly",
            "contact:contact:readonly",
        ],
        "people's names can be read",
    ),
];

/// The vendor's code for a ticket that is not the newest.
const TICKET_REFUSED: i64 = 10_012;

/// Lets the vendor tell an app its own settings.
const SELF_MANAGE: &str = "application:application:self_manage";

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    which: Which,
    /// Where the vendor reaches this deployment, if not where it says itself: a tunnel, a domain of your own.
    #[arg(long)]
    public_url: Option<Url>,
    /// Let checks pass that the vendor gives no means for.
    #[arg(long)]
    allow_skipped: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Failed,
    Skipped,
}

/// One check's line.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    check: &'static str,
    result: Outcome,
    detail: String,
    advice: Option<String>,
}

impl Check {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, result: Outcome::Ok, detail: detail.into(), advice: None }
    }

    fn failed(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, result: Outcome::Failed, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn skipped(check: &'static str, detail: impl Into<String>, advice: Option<String>) -> Self {
        Self { check, result: Outcome::Skipped, detail: detail.into(), advice }
    }
}

pub(crate) async fn run(stack: &Stack, args: CheckArgs) -> Result<(), CliFault> {
    let app = resolve(&stack.table, args.which.app_id).await?;
    let public_url = args.public_url.as_ref().map_or(stack.public_url.as_str(), Url::as_str);
    let secrets = match AppSecrets::open(&app.app_id, &app.secrets, &stack.vault).await {
        Ok(secrets) => Some(secrets),
        Err(SealFault::Damaged) => None,
        Err(fault) => return Err(fault.into()),
    };
    let checks = match secrets {
        Some(secrets) => {
            let ticket = Ticket::of(stack, &app).await?;
            Examination::new(stack, &app, secrets, ticket, public_url)?.all().await
        }
        None => vec![Check::failed(
            "registration",
            "the stored secrets do not open",
            format!(
                "replace them: skylark app update {} --app-secret - --encrypt-key - --verification-token - < three-lines",
                app.app_id
            ),
        )],
    };
    let fine = |check: &&Check| match check.result {
        Outcome::Ok => true,
        Outcome::Skipped => args.allow_skipped,
        Outcome::Failed => false,
    };
    let (total, passed) = (checks.len(), checks.iter().filter(fine).count());
    if args.output.json {
        say_json(&json!({ "app_id": app.app_id, "passed": passed == total, "checks": checks }))?;
    } else {
        say(format!("app {} ({}), console {}/app/{}", app.app_id, app.name, app.brand.open_base(), app.app_id));
        checks.iter().for_each(|check| say(lines(check)));
    }
    if passed == total {
        return Ok(());
    }
    Err(CliFault::Failed(format!("{} of {total} checks did not pass", total - passed)))
}

fn lines(check: &Check) -> String {
    let result = match check.result {
        Outcome::Ok => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "skipped",
    };
    // What the vendor says is shown on a terminal; it does not get to steer it.
    let plain = |text: &str| text.replace(char::is_control, " ");
    let mut lines = format!("  {result:<8} {:<13} {}", check.check, plain(&check.detail));
    if let Some(advice) = &check.advice {
        lines.push_str(&format!("\n{:24} -> {}", "", plain(advice)));
    }
    lines
}

/// What is stored of a store app's ticket.
enum Ticket {
    Missing,
    Damaged,
    Stored(SecretString),
}

impl Ticket {
    /// A custom app has none.
    async fn of(stack: &Stack, app: &App) -> Result<Self, CliFault> {
        let Some(sealed) = stack.table.ticket(&app.app_id).await? else { return Ok(Self::Missing) };
        match stack.vault.open(SealContext::AppTicket(&app.app_id), &sealed).await {
            Ok(ticket) => Ok(Self::Stored(String::from_utf8_lossy(&ticket).into_owned().into())),
            Err(SealFault::Damaged) => Ok(Self::Damaged),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// One app under examination.
struct Examination<'a> {
    stack: &'a Stack,
    app: &'a App,
    secrets: AppSecrets,
    ticket: Ticket,
    urls: Urls,
    /// The Open API and the accounts.
    open: Client,
    accounts: Client,
    /// For our own endpoint.
    http: reqwest::Client,
}

impl<'a> Examination<'a> {
    fn new(
        stack: &'a Stack,
        app: &'a App,
        secrets: AppSecrets,
        ticket: Ticket,
        public_url: &str,
    ) -> Result<Self, CliFault> {
        let host = |own: &str| {
            let url = stack.lark_base_url.as_deref().unwrap_or(own);
            url.parse::<Url>().map_err(|_| CliFault::Argument(format!("the bundle's LarkBaseUrl `{url}` is no URL")))
        };
        let open = Client::new(ClientConfig::new(host(app.brand.open_base())?));
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE).build();
        Ok(Self {
            stack,
            app,
            secrets,
            ticket,
            urls: Urls::of(public_url, &app.app_id),
            accounts: open.at(host(app.brand.accounts_base())?),
            open,
            http: http.map_err(|cause| CliFault::storage("no HTTP client", cause))?,
        })
    }

    /// In the order in which a person would mend them.
    async fn all(&self) -> Vec<Check> {
        let registration = self.registration();
        let (credentials, token) = self.credentials().await;
        let (bot, scopes, console) = match &token {
            Some(token) => tokio::join!(self.bot(token), self.scopes(token), self.console(token)),
            None => {
                let skipped = |check| Check::skipped(check, self.without_token(), None);
                (skipped("bot"), skipped("scopes"), Err(Untold { detail: self.without_token(), advice: None }))
            }
        };
        let redirect = self.redirect_url(console.as_ref().ok()).await;
        let (keys, request_url) = (self.keys(console.as_ref()), self.request_url(console.as_ref()));
        self.wait_until_known_everywhere().await;
        let (callback, forgery) = tokio::join!(self.callback(), self.forgery());
        vec![registration, credentials, bot, scopes, keys, request_url, callback, forgery, redirect]
    }

    fn registration(&self) -> Check {
        match self.app.status {
            AppStatus::Enabled => Check::ok("registration", "registered and enabled, the secrets open"),
            AppStatus::Disabled => Check::failed(
                "registration",
                "the app is disabled here",
                format!("skylark app enable {}", self.app.app_id),
            ),
        }
    }

    /// Proves id and secret. A store app's tenant tokens belong to the tenants that installed it, so it comes back without one.
    async fn credentials(&self) -> (Check, Option<SecretString>) {
        let (app_id, secret) = (self.app.app_id.as_str(), &self.secrets.app_secret);
        let result = match self.app.kind {
            AppKind::Custom => self.open.tenant_access_token(app_id, secret, deadline()).await.map(|token| {
                let detail = format!("a tenant token, good for {} s", token.expires_in_secs);
                (Check::ok("credentials", detail), Some(token.token))
            }),
            AppKind::Store => self.store_credentials().await.map(|check| (check, None)),
        };
        match result {
            Ok(proved) => proved,
            Err(error) => {
                let advice = match error.code() {
                    Some(10_014) => format!(
                        "check App ID, kind (here {}) and brand (here {}) against Credentials & Basic Info, and that the app is \
                         published and enabled for the tenant",
                        view::kind(self.app.kind),
                        view::brand(self.app.brand)
                    ),
                    Some(10_003 | 10_015 | 99_991_543) => format!(
                        "copy the App Secret from Credentials & Basic Info: skylark app update {app_id} --app-secret -"
                    ),
                    _ => advice(&error),
                };
                (Check::failed("credentials", told(&error), advice), None)
            }
        }
    }

    /// The stored ticket proves id and secret by an app token. Where there is none that is good, asking for it again proves them.
    async fn store_credentials(&self) -> Result<Check, ApiError> {
        const CHECK: &str = "credentials";
        let (app_id, secret) = (self.app.app_id.as_str(), &self.secrets.app_secret);
        let reason = match &self.ticket {
            Ticket::Missing => "no app_ticket is stored",
            Ticket::Damaged => "the stored app_ticket does not open",
            Ticket::Stored(ticket) => match self.open.app_access_token(app_id, secret, ticket, deadline()).await {
                Ok(_) => return Ok(Check::ok(CHECK, "the stored app_ticket opens and gives an app token")),
                Err(error) if error.code() == Some(TICKET_REFUSED) => "the stored app_ticket is not the newest",
                Err(error) => return Err(error),
            },
        };
        self.open.resend_app_ticket(app_id, secret, deadline()).await?;
        let mut check = Check::ok(CHECK, format!("{reason}; the vendor knows id and secret and sends it again"));
        check.advice = Some("check again in a minute: the ticket comes as an event to the request URL".to_owned());
        Ok(check)
    }

    fn without_token(&self) -> String {
        match self.app.kind {
            AppKind::Custom => "needs a tenant token".to_owned(),
            AppKind::Store => "needs the token of a tenant that installed the store app".to_owned(),
        }
    }

    async fn bot(&self, token: &SecretString) -> Check {
        const CHECK: &str = "bot";
        match self.open.bot_info(token, deadline()).await {
            Ok(bot) => match bot.activate_status {
                None | Some(2) => Check::ok(CHECK, format!("enabled, called {}", bot.app_name.unwrap_or_default())),
                Some(1) => Check::failed(
                    CHECK,
                    "stopped in this tenant",
                    "have the tenant's administrator enable the app in the admin console",
                ),
                Some(status) => Check::failed(
                    CHECK,
                    format!("not active (status {status})"),
                    "publish a version under Version Management & Release and have the tenant's administrator approve it",
                ),
            },
            Err(error) if error.code() == Some(11_205) => {
                Check::failed(CHECK, "the app has no bot", "add the Bot under Add Features and publish a version")
            }
            Err(error) => Check::failed(CHECK, told(&error), advice(&error)),
        }
    }

    async fn scopes(&self, token: &SecretString) -> Check {
        const CHECK: &str = "scopes";
        let scopes = match self.open.granted_scopes(token, deadline()).await {
            Ok(scopes) => scopes,
            Err(error) => return Check::failed(CHECK, told(&error), advice(&error)),
        };
        let has = |names: &[&str], granted: bool| {
            scopes.iter().any(|scope| names.contains(&scope.name.as_str()) && scope.granted == granted)
        };
        let (mut missing, mut pending) = (Vec::new(), Vec::new());
        for (names, purpose) in SCOPES {
            let name = format!("`{}` ({purpose})", names.first().copied().unwrap_or_default());
            match (has(names, true), has(names, false)) {
                (true, _) => {}
                (false, true) => pending.push(name),
                (false, false) => missing.push(name),
            }
        }
        let (mut problems, mut advice) = (Vec::new(), Vec::new());
        if !missing.is_empty() {
            problems.push(format!("missing {}", missing.join(", ")));
            advice.push("enable them under Permissions & Scopes and publish a version");
        }
        if !pending.is_empty() {
            problems.push(format!("not approved {}", pending.join(", ")));
            advice.push("have the tenant's administrator approve what the version asks for");
        }
        if problems.is_empty() {
            let granted = scopes.iter().filter(|scope| scope.granted).count();
            return Check::ok(CHECK, format!("{granted} granted, all that Skylark needs among them"));
        }
        Check::failed(CHECK, problems.join("; "), advice.join("; "))
    }

    async fn console(&self, token: &SecretString) -> Result<Application, Untold> {
        self.open.application(token, self.app.app_id.as_str(), deadline()).await.map_err(|error| match error.code() {
            Some(99_991_672) => Untold {
                detail: "the vendor does not tell the app its settings".to_owned(),
                advice: Some(format!("enable `{SELF_MANAGE}` under Permissions & Scopes and publish a version")),
            },
            _ => Untold { detail: told(&error), advice: Some(advice(&error)) },
        })
    }

    fn keys(&self, console: Result<&Application, &Untold>) -> Check {
        const CHECK: &str = "keys";
        const PLACE: &str = "Events & Callbacks > Encryption Strategy";
        let app_id = &self.app.app_id;
        let console = match console {
            Ok(console) if console.encryption_told && console.verification_token.is_some() => console,
            Ok(_) => {
                let advice = "press Verify at the request URL in Events & Callbacks: the vendor then uses its own keys";
                return Check::skipped(CHECK, "the vendor does not tell the app its keys", Some(advice.to_owned()));
            }
            Err(untold) => return untold.skip(CHECK),
        };
        let theirs = console.encrypt_key.as_ref();
        let ours = self.secrets.encrypt_key.as_ref();
        let problem = match (theirs, ours) {
            (None, Some(_)) => Some((
                "an Encrypt Key is registered here, and the console has none",
                format!("set it under {PLACE}, or: skylark app update {app_id} --no-encrypt-key"),
            )),
            (Some(_), None) => Some((
                "the console has an Encrypt Key, and none is registered here",
                format!("copy it from {PLACE}: skylark app update {app_id} --encrypt-key -"),
            )),
            (Some(theirs), Some(ours)) if theirs.expose_secret() != ours.expose_secret() => Some((
                "the Encrypt Key registered here is not the console's",
                format!("copy it from {PLACE}: skylark app update {app_id} --encrypt-key -"),
            )),
            _ => None,
        };
        let token = console.verification_token.as_ref().map(SecretString::expose_secret);
        let problem = problem.or_else(|| {
            (token != Some(self.secrets.verification_token.expose_secret())).then(|| {
                (
                    "the Verification Token registered here is not the console's",
                    format!("copy it from {PLACE}: skylark app update {app_id} --verification-token -"),
                )
            })
        });
        match problem {
            Some((detail, advice)) => Check::failed(CHECK, detail, advice),
            None if ours.is_some() => Check::ok(CHECK, "Encrypt Key and Verification Token are the console's"),
            None => {
                Check::ok(CHECK, "the Verification Token is the console's; without an Encrypt Key it is the only proof")
            }
        }
    }

    /// Where the vendor pushes to.
    fn request_url(&self, console: Result<&Application, &Untold>) -> Check {
        const CHECK: &str = "request_url";
        let console = match console {
            Ok(console) => console,
            Err(untold) => return untold.skip(CHECK),
        };
        let told = [("events", &console.event), ("card callbacks", &console.callback)];
        let told: Vec<_> = told.into_iter().filter_map(|(what, told)| Some((what, told.as_ref()?))).collect();
        if told.is_empty() {
            let advice = format!("compare it with {}", self.urls.callback);
            return Check::skipped(CHECK, "the vendor does not tell the app its request URLs", Some(advice));
        }
        match told.into_iter().find_map(|(what, told)| self.misdirected(what, told)) {
            None => Check::ok(CHECK, "events and card callbacks come here"),
            Some(problem) => {
                let url = &self.urls.callback;
                let advice = format!(
                    "under Events & Callbacks, send both to the developer's server at {url}; if that is not where the vendor reaches \
                     you, say --public-url"
                );
                Check::failed(CHECK, problem, advice)
            }
        }
    }

    fn misdirected(&self, what: &str, told: &Subscription) -> Option<String> {
        match (told.kind.as_deref(), told.request_url.as_deref()) {
            (Some("websocket"), _) => Some(format!("{what} come over the long connection, not as requests")),
            (_, None) => Some(format!("no request URL is set for {what}")),
            (_, Some(url)) if url != self.urls.callback => Some(format!("{what} go to {url}")),
            _ => None,
        }
    }

    /// A warm function trusts what it read for [`APP_TTL`], so a change just made is waited for.
    async fn wait_until_known_everywhere(&self) {
        // A bundle whose clock does not answer fails the next check anyway.
        let Ok(now) = self.stack.now().await else { return };
        let left = self.app.updated_at + APP_TTL - now;
        if self.app.version > 1 && left.is_positive() {
            tokio::time::sleep(left.min(APP_TTL).unsigned_abs()).await;
        }
    }

    /// The challenge that the console sends when the request URL is saved.
    async fn callback(&self) -> Check {
        const CHECK: &str = "callback";
        let challenge = random::uuid().to_string();
        let token = self.secrets.verification_token.expose_secret();
        let body = self.encrypted(&json!({ "type": "url_verification", "token": token, "challenge": challenge }));
        let begun = Instant::now();
        let (status, answer) = match self.push(body, None).await {
            Ok(answered) => answered,
            Err(unreachable) => return unreachable.into_check(CHECK),
        };
        let millis = begun.elapsed().as_millis();
        if status == 200 && answer.get("challenge").and_then(Value::as_str) == Some(&challenge) {
            let mut check = Check::ok(CHECK, format!("{} answers the challenge ({millis} ms)", self.urls.callback));
            if millis > CHALLENGE_MILLIS {
                check.advice =
                    Some("the console waits one second; press Verify again right away if it complains".to_owned());
            }
            return check;
        }
        let app_id = &self.app.app_id;
        let advice = match status {
            403 => format!("the app is disabled: skylark app enable {app_id}"),
            404 => "no Skylark with this app answers there: check PublicUrl and the API's custom domain".to_owned(),
            400 | 401 => {
                format!("the function holds other keys than are stored: repeat, then skylark app update {app_id}")
            }
            _ => "read the log of lark-callback".to_owned(),
        };
        Check::failed(CHECK, format!("{} answers {status} to the challenge", self.urls.callback), advice)
    }

    /// An event that anybody could have made up: signed with another key, or without a key under another token.
    async fn forgery(&self) -> Check {
        const CHECK: &str = "forgery";
        let made_up = random::uuid().to_string();
        let token = match self.secrets.encrypt_key {
            Some(_) => self.secrets.verification_token.expose_secret(),
            None => &made_up,
        };
        let header = json!({
            "event_id": format!("check-{made_up}"), "event_type": "skylark.check", "create_time": "1700000000000", "token": token,
            "app_id": self.app.app_id, "tenant_key": "check",
        });
        let body = self.encrypted(&json!({ "schema": "2.0", "header": header, "event": {} }));
        let signature = signature::sha256_hex("1700000000", "check", &made_up, body.as_bytes());
        match self.push(body, Some(signature)).await {
            Err(unreachable) => unreachable.into_check(CHECK),
            Ok((401, _)) => Check::ok(CHECK, "an event with a wrong signature or token is refused"),
            Ok((403, _)) if self.app.status == AppStatus::Disabled => {
                Check::ok(CHECK, "nothing is taken: the app is disabled")
            }
            Ok((status, _)) => Check::failed(
                CHECK,
                format!("a forged event is answered {status}, not 401"),
                "something else than Skylark's lark-callback answers there: check PublicUrl and the API's custom domain",
            ),
        }
    }

    fn encrypted(&self, plain: &Value) -> String {
        let plain = plain.to_string();
        match &self.secrets.encrypt_key {
            Some(key) => {
                let cipher = signature::encrypt(key.expose_secret(), random::uuid().into_bytes(), plain.as_bytes());
                json!({ "encrypt": cipher }).to_string()
            }
            None => plain,
        }
    }

    async fn push(&self, body: String, signature: Option<String>) -> Result<(u16, Value), Unreachable> {
        let mut request = self.http.post(&self.urls.callback).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(signature) = signature {
            request = request.header("X-Lark-Request-Timestamp", "1700000000").header("X-Lark-Request-Nonce", "check");
            request = request.header("X-Lark-Signature", signature);
        }
        let answer = request.send().await.map_err(|_| Unreachable(self.urls.callback.clone()))?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or(Value::Null)))
    }

    /// The console's list where it is told, and what the authorize page says to it.
    async fn redirect_url(&self, console: Option<&Application>) -> Check {
        const CHECK: &str = "redirect_url";
        let url = &self.urls.redirect;
        let advice = |error: &str| {
            Check::failed(CHECK, error, format!("add exactly {url} under Security Settings > Redirect URLs"))
        };
        let listed = console.and_then(|console| console.redirect_urls.as_ref());
        if listed.is_some_and(|listed| !listed.contains(url)) {
            return advice("the redirect URL is not in the console's list");
        }
        let page = self.accounts.authorize_page(self.app.app_id.as_str(), url, "skylark-check", deadline()).await;
        match page {
            Ok(page) => match page.code {
                Some(20_029 | 20_071) => advice("the authorize page does not take the redirect URL"),
                Some(code) => {
                    Check::failed(CHECK, format!("the authorize page shows code {code}"), lark::code::advice(code))
                }
                None if page.status >= 400 => Check::failed(
                    CHECK,
                    format!("the authorize page answers {}", page.status),
                    "open the page in a browser: what it shows says more",
                ),
                None if listed.is_some() => Check::ok(CHECK, "in the console's list, and the authorize page takes it"),
                None => Check::ok(CHECK, "the authorize page has nothing against it"),
            },
            Err(error) => Check::failed(CHECK, told(&error), self::advice(&error)),
        }
    }
}

/// Why the console's settings are not known.
struct Untold {
    detail: String,
    advice: Option<String>,
}

impl Untold {
    fn skip(&self, check: &'static str) -> Check {
        Check::skipped(check, self.detail.clone(), self.advice.clone())
    }
}

/// Our own endpoint did not answer.
struct Unreachable(String);

impl Unreachable {
    fn into_check(self, check: &'static str) -> Check {
        let advice = "check that the deployment runs, and that this machine and the vendor can reach it";
        Check::failed(check, format!("{} does not answer", self.0), advice)
    }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn told(error: &ApiError) -> String {
    domain::fault::chain(error)
}

fn advice(error: &ApiError) -> String {
    let log_id = error.log_id().map(|id| format!(" (log id {id})")).unwrap_or_default();
    match error {
        ApiError::Refused(refusal) => format!("{}{log_id}", refusal.advice),
        ApiError::Timeout | ApiError::Unreachable(_) => {
            "check the way from this machine to the vendor, and the bundle's LarkBaseUrl".to_owned()
        }
        _ => format!("what answers is not the vendor: check the bundle's LarkBaseUrl{log_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_a_line_and_its_advice_the_next() {
        let fine = Check::ok("bot", "enabled, called 云雀");
        assert_eq!(lines(&fine), "  ok       bot           enabled, called 云雀");
        let failed = Check::failed("scopes", "missing\u{1b}[31m `offline_access`", "enable them\nand publish");
        let expected = "  FAILED   scopes        missing [31m `offline_access`\n                         -> enable them and publish";
        assert_eq!(lines(&failed), expected);
        let skipped = json!(Check::skipped("keys", "not told", None));
        assert_eq!(skipped, json!({ "check": "keys", "result": "skipped", "detail": "not told", "advice": null }));
    }
}
