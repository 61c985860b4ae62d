//! Card's link -> vendor's authorize page -> code -> sealed tokens -> a page that says so.

use domain::app::OpenApp;
use domain::authorize::{Approval, Authorization, AuthorizeFault, VendorFault};
use domain::fault::{Fault, PortFault, Refusal, Remedy, chain};
use domain::id::{AppId, IdError, SessionId};
use domain::seal::{SealContext, SealFault};
use domain::session::{Attempt, SESSION_LIFE, Session, SessionFault};
use lambda_kit::http::{self, BadLocation, Request, RequestExt as _, Response, StatusCode, header};
use lambda_kit::random;
use lark::oauth::{self, AuthorizeRequest, Decision, OauthError, Redirect};
use secrecy::{SecretSlice, SecretString};
use time::OffsetDateTime;

/// What the browser's part needs.
pub(crate) struct Oauth {
    pub(crate) authorization: Authorization,
    pub(crate) lark_base_url: Option<String>,
    pub(crate) public_url: Option<String>,
}

/// Both routes answer people: every outcome is a page in their language, with the status a program would want.
pub(crate) async fn answer(
    oauth: &Oauth,
    request: Request,
    now: OffsetDateTime,
) -> Result<Response, std::convert::Infallible> {
    let result = if request.uri().path().ends_with("/oauth/start") {
        oauth.start(&request, now).await
    } else {
        oauth.come_back(&request, now).await
    };
    Ok(result.unwrap_or_else(|fault| {
        let status = http::status(&fault);
        tracing::info!(error = %chain(&fault), error.code = fault.code(), http.status = status.as_u16(), "An authorization stopped");
        page(&request, status, Words::of(&fault))
    }))
}

impl Oauth {
    /// Sends the browser to the vendor's page with a fresh `state` and PKCE challenge. Called again, a fresh attempt.
    async fn start(&self, request: &Request, now: OffsetDateTime) -> Result<Response, Stopped> {
        let app_id = AppId::parse(request.path_parameters().first("app_id").unwrap_or_default())?;
        let session_id = SessionId::parse(request.query_string_parameters().first("session_id").unwrap_or_default())?;
        let app = self.authorization.apps.enabled(&app_id, now).await.map_err(AuthorizeFault::App)?;
        let session = self.authorization.session(&app_id, &session_id).await?;
        session.must_be_open(now).map_err(AuthorizeFault::Session)?;
        let location = self.attempt(&app, &session, self.redirect_uri(request), now).await?;
        Ok(http::redirect(&location)?)
    }

    async fn attempt(
        &self,
        app: &OpenApp,
        session: &Session,
        redirect_uri: String,
        now: OffsetDateTime,
    ) -> Result<String, Stopped> {
        let (state, verifier) = (random::secret(), random::secret());
        let (Ok(state), Ok(verifier)) = (state, verifier) else { return Err(Stopped::NoRandomness) };
        let state_hash = random::hash(&state);
        let place = SealContext::Verifier { app_id: &session.app_id, state_hash: &state_hash };
        let secret = SecretSlice::from(verifier.clone().into_bytes());
        let sealed = self.authorization.sealer.seal(place, &secret).await.map_err(Stopped::Seal)?;

        let scopes: Vec<&str> = session.scopes.iter().map(String::as_str).collect();
        let base = self.lark_base_url.as_deref().unwrap_or_else(|| app.app.brand.accounts_base());
        let location = oauth::authorize_url(
            &base.parse().map_err(|_| Stopped::BadBase)?,
            &AuthorizeRequest {
                client_id: session.app_id.as_str(),
                redirect_uri: &redirect_uri,
                scopes: &scopes,
                state: &state,
                code_challenge: &oauth::code_challenge(&verifier)?,
            },
        )?;
        let attempt = Attempt {
            state_hash,
            session_id: session.session_id.clone(),
            app_id: session.app_id.clone(),
            verifier: sealed,
            redirect_uri,
            // A card may wait for days; a trip to the vendor takes minutes.
            expires_at: session.expires_at.min(now + SESSION_LIFE),
        };
        self.authorization.sessions.put_attempt(&attempt).await?;
        Ok(location.into())
    }

    /// Takes the browser back. A `state` works once, so a reloaded page changes nothing.
    async fn come_back(&self, request: &Request, now: OffsetDateTime) -> Result<Response, Stopped> {
        let redirect = Redirect::parse(request.uri().query().unwrap_or_default())?;
        let attempt = self.authorization.sessions.take_attempt(&random::hash(&redirect.state)).await?;
        let attempt = attempt.filter(|attempt| now < attempt.expires_at).ok_or(Stopped::UnknownState)?;
        let session = self.authorization.session(&attempt.app_id, &attempt.session_id).await?;
        let code = match redirect.decision {
            Decision::Granted { code } => code,
            Decision::Refused { .. } => {
                self.authorization.reject(&session).await?;
                return Ok(page(request, StatusCode::OK, Words::REJECTED));
            }
        };
        let place = SealContext::Verifier { app_id: &attempt.app_id, state_hash: &attempt.state_hash };
        let verifier = self.authorization.sealer.open(place, &attempt.verifier).await.map_err(Stopped::Seal)?;
        let verifier = SecretString::from(String::from_utf8_lossy(&verifier).into_owned());
        let approval = Approval { code, attempt: Some((verifier, attempt.redirect_uri)) };
        self.authorization.complete(&session, &approval, now).await?;
        Ok(page(request, StatusCode::OK, Words::COMPLETED))
    }

    fn redirect_uri(&self, request: &Request) -> String {
        let base = http::base_url(request, self.public_url.as_deref());
        format!("{base}/lark/oauth/callback")
    }
}

/// What a page says: its mark, and title and text in English and in Chinese.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words {
    mark: Mark,
    en: (&'static str, &'static str),
    zh: (&'static str, &'static str),
}

/// Shown above the title; a class of the style, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Done,
    Ended,
    Problem,
}

impl Words {
    const COMPLETED: Self = Self {
        mark: Mark::Done,
        en: (
            "You are connected",
            "Your account is authorized. You can close this page; the card in your chat shows it too.",
        ),
        zh: ("授权成功", "您的账号已完成授权。可以关闭本页面，聊天中的卡片也会更新。"),
    };
    const REJECTED: Self = Self {
        mark: Mark::Ended,
        en: ("Not authorized", "You declined, and nothing was shared. Ask for a new card if you change your mind."),
        zh: ("已拒绝授权", "您已拒绝，未共享任何信息。如需授权，请重新获取卡片。"),
    };
    const ENDED: Self = Self {
        mark: Mark::Ended,
        en: ("This request has ended", "It was answered already or its ten minutes are over. Ask for a new card."),
        zh: ("请求已结束", "该请求已处理，或已超过十分钟有效期。请重新获取卡片。"),
    };
    const OTHER_PERSON: Self = Self {
        mark: Mark::Problem,
        en: (
            "This request is for somebody else",
            "Sign in as the person whose chat shows the card. Nothing was stored.",
        ),
        zh: ("该请求不属于您", "请使用收到卡片的账号登录。未保存任何信息。"),
    };
    const AGAIN: Self = Self {
        mark: Mark::Problem,
        en: ("Please try again", "Something did not answer in time. Open the link on the card once more."),
        zh: ("请重试", "服务暂时无响应，请再次点击卡片上的链接。"),
    };
    const BROKEN_LINK: Self = Self {
        mark: Mark::Problem,
        en: ("This link does not work", "It is incomplete or unknown. Open the link on the card in your chat."),
        zh: ("链接无效", "链接不完整或不存在。请点击聊天卡片上的链接。"),
    };
    const NOT_SET_UP: Self = Self {
        mark: Mark::Problem,
        en: ("Authorization is not available", "The app is not set up for this. Tell its administrator."),
        zh: ("暂时无法授权", "应用配置有误或已停用，请联系管理员。"),
    };

    fn of(fault: &Stopped) -> Self {
        match fault {
            Stopped::UnknownState => Self::ENDED,
            Stopped::Authorize(
                AuthorizeFault::Session(SessionFault::Expired | SessionFault::Ended(_))
                // A code that was used or is too old: the session failed with it.
                | AuthorizeFault::Vendor(VendorFault::Refused { .. }),
            ) => Self::ENDED,
            Stopped::Authorize(AuthorizeFault::OtherPerson) => Self::OTHER_PERSON,
            Stopped::Authorize(AuthorizeFault::Session(SessionFault::Unknown)) | Stopped::Id(_) | Stopped::Oauth(_) => {
                Self::BROKEN_LINK
            }
            fault if matches!(fault.remedy(), Remedy::Retry) => Self::AGAIN,
            _ => Self::NOT_SET_UP,
        }
    }
}

/// Text in the middle, on a phone or a desktop, by day or by night.
const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1f2329;--soft:#51565d;--paper:#fff;--ground:#f2f3f5;--line:#dee0e3}
@media(prefers-color-scheme:dark){:root{--ink:#ebebeb;--soft:#a6aab0;--paper:#232527;--ground:#141516;--line:#3a3d40}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;min-height:100dvh;display:grid;place-items:center;padding:1rem;background:var(--ground);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,'PingFang SC','Microsoft YaHei','Noto Sans CJK SC',sans-serif}
main{width:100%;max-width:26rem;padding:2.25rem 1.75rem 2rem;background:var(--paper);border:1px solid var(--line);border-radius:1rem;text-align:center}
.mark{display:grid;place-items:center;width:3.5rem;height:3.5rem;margin:0 auto 1rem;border-radius:50%;color:#fff;font-size:1.75rem;line-height:1}
.done{background:#1f8f2c}.ended{background:#646a73}.problem{background:#c25e00}
h1{margin:0 0 .5rem;font-size:1.35rem;line-height:1.35;text-wrap:balance}p{margin:0;color:var(--soft);text-wrap:balance}
";

fn page(request: &Request, status: StatusCode, words: Words) -> Response {
    let languages = request.headers().get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    let chinese = languages.is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with("zh"));
    let (lang, (title, text)) = if chinese { ("zh-CN", words.zh) } else { ("en", words.en) };
    let (class, mark) = match words.mark {
        Mark::Done => ("done", "✓"),
        Mark::Ended => ("ended", "–"),
        Mark::Problem => ("problem", "!"),
    };
    let html = format!(
        "<!doctype html><html lang=\"{lang}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><main><div class=\"mark {class}\" aria-hidden=\"true\">{mark}</div><h1>{title}</h1><p>{text}</p></main></body></html>"
    );
    http::page(status, html)
}

/// Why the browser's part stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("the query is not an authorization answer")]
    Oauth(#[from] OauthError),
    #[error("the `state` is unknown, used or expired")]
    UnknownState,
    #[error(transparent)]
    Authorize(#[from] AuthorizeFault),
    #[error("the verifier could not be sealed or opened")]
    Seal(#[source] SealFault),
    #[error("a store failed")]
    Store(#[from] PortFault),
    #[error("no randomness")]
    NoRandomness,
    #[error("the vendor's base URL does not parse")]
    BadBase,
    #[error(transparent)]
    Location(#[from] BadLocation),
}

impl Fault for Stopped {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Id(_) | Self::Oauth(_) => Remedy::Reject(Refusal::Invalid),
            Self::UnknownState => Remedy::Reject(Refusal::Gone),
            Self::Authorize(fault) => fault.remedy(),
            Self::Seal(fault) => fault.remedy(),
            Self::Store(fault) => fault.remedy(),
            Self::NoRandomness | Self::BadBase | Self::Location(_) => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Id(_) | Self::Oauth(_) => "invalid_request",
            Self::UnknownState => "unknown_state",
            Self::Authorize(fault) => fault.code(),
            Self::Seal(fault) => fault.code(),
            Self::Store(fault) => fault.code(),
            Self::NoRandomness | Self::BadBase | Self::Location(_) => "internal_error",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use domain::app::{App, AppDirectory, AppStatus, AppStore as _};
    use domain::session::{Outcome, SESSION_LIFE, SessionStatus, SessionStore};
    use domain::token::TokenStore;
    use testkit::sample::{self, NOW};
    use testkit::{MemoryQueue, MemoryTable, MemoryVendor, PlainSealer};

    use super::*;

    struct World {
        table: Arc<MemoryTable>,
        vendor: Arc<MemoryVendor>,
        oauth: Oauth,
    }

    /// Two apps, one of them disabled, and a session of Ann's.
    async fn world(vendor: MemoryVendor) -> World {
        let (table, sealer) = (Arc::<MemoryTable>::default(), Arc::new(PlainSealer));
        table.put(&sample::openable_app("cli_a").await).await.unwrap();
        let disabled = App { status: AppStatus::Disabled, ..sample::openable_app("cli_off").await };
        table.put(&disabled).await.unwrap();
        table.create(&sample::session(1)).await.unwrap();
        let (apps, vendor) = (Arc::new(AppDirectory::new(table.clone(), sealer.clone())), Arc::new(vendor));
        let work = Arc::<MemoryQueue>::default();
        let authorization = Authorization {
            apps,
            sessions: table.clone(),
            tokens: table.clone(),
            sealer,
            vendor: vendor.clone(),
            work,
        };
        World { table, vendor, oauth: Oauth { authorization, lark_base_url: None, public_url: None } }
    }

    impl World {
        async fn get(&self, request: Request, now: OffsetDateTime) -> Response {
            answer(&self.oauth, request, now).await.unwrap()
        }

        /// Opens the card's link and returns the `state` of the vendor's page.
        async fn state(&self) -> String {
            let response = self.get(start("cli_a", sample::session_id(1).as_str()), NOW).await;
            query(&location(&response), "state")
        }

        async fn status(&self) -> SessionStatus {
            SessionStore::get(self.table.as_ref(), &sample::session_id(1)).await.unwrap().unwrap().status
        }

        async fn has_token(&self) -> bool {
            let (app, person) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
            TokenStore::get(self.table.as_ref(), &app, &person).await.unwrap().is_some()
        }
    }

    fn request(path: &str, query: &str) -> Request {
        let mut request = Request::default();
        *request.uri_mut() = format!("https://api.example{path}?{query}").parse().unwrap();
        request.headers_mut().insert(header::HOST, "api.example".parse().unwrap());
        request
    }

    fn start(app_id: &str, session_id: &str) -> Request {
        let request = request(&format!("/lark/{app_id}/oauth/start"), &format!("session_id={session_id}"));
        let of = |name: &str, value: &str| HashMap::from([(name.to_owned(), value.to_owned())]);
        request.with_path_parameters(of("app_id", app_id)).with_query_string_parameters(of("session_id", session_id))
    }

    fn back(query: &str) -> Request {
        request("/lark/oauth/callback", query)
    }

    fn location(response: &Response) -> String {
        assert_eq!(response.status(), StatusCode::FOUND);
        response.headers()[header::LOCATION].to_str().unwrap().to_owned()
    }

    fn query(url: &str, name: &str) -> String {
        let query = url.split_once('?').unwrap().1;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("{name} in {url}")).to_owned()
    }

    /// The page says this, in the language that the browser asks for.
    fn check_page(response: &Response, status: u16, lang: &str, title: &str) {
        let html = std::str::from_utf8(response.body()).unwrap();
        assert_eq!(response.status().as_u16(), status, "{html}");
        assert!(
            html.contains(&format!("<html lang=\"{lang}\">")) && html.contains(&format!("<h1>{title}</h1>")),
            "{html}"
        );
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    }

    /// The same request, made by an English and by a Chinese browser in worlds of their own, is answered with this page.
    async fn check<F: Future<Output = (World, Request)>>(make: impl Fn() -> F, status: u16, en: &str, zh: &str) {
        for (languages, lang, title) in
            [("en-GB,en;q=0.9", "en", en), ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN", zh), ("", "en", en), ("fr", "en", en)]
        {
            let (world, mut request) = make().await;
            request.headers_mut().insert(header::ACCEPT_LANGUAGE, languages.parse().unwrap());
            check_page(&world.get(request, NOW).await, status, lang, title);
        }
    }

    const COMPLETED: (&str, &str) = ("You are connected", "授权成功");
    const REJECTED: (&str, &str) = ("Not authorized", "已拒绝授权");
    const ENDED: (&str, &str) = ("This request has ended", "请求已结束");
    const OTHER_PERSON: (&str, &str) = ("This request is for somebody else", "该请求不属于您");
    const AGAIN: (&str, &str) = ("Please try again", "请重试");
    const BROKEN_LINK: (&str, &str) = ("This link does not work", "链接无效");
    const NOT_SET_UP: (&str, &str) = ("Authorization is not available", "暂时无法授权");

    #[tokio::test]
    async fn the_cards_link_leads_to_the_vendors_page_with_a_state_and_a_challenge_of_its_own() {
        let world = world(MemoryVendor::default()).await;
        let session = sample::session_id(1);
        let first = location(&world.get(start("cli_a", session.as_str()), NOW).await);
        let second = location(&world.get(start("cli_a", session.as_str()), NOW).await);
        assert!(
            first.starts_with("https://accounts.feishu.cn/open-apis/authen/v1/authorize?client_id=cli_a&"),
            "{first}"
        );
        assert_eq!(query(&first, "redirect_uri"), "https%3A%2F%2Fapi.example%2Flark%2Foauth%2Fcallback");
        assert_eq!((query(&first, "code_challenge_method"), query(&first, "state").len()), ("S256".to_owned(), 43));
        for secret in ["state", "code_challenge"] {
            assert_ne!(query(&first, secret), query(&second, secret));
        }
    }

    #[tokio::test]
    async fn a_link_that_is_malformed_or_unknown_is_a_broken_link() {
        let link = async |app: &str, session: String| (world(MemoryVendor::default()).await, start(app, &session));
        let (known, unknown) = (sample::session_id(1).to_string(), sample::session_id(9).to_string());
        let (en, zh) = BROKEN_LINK;
        check(|| link("cli_a", String::new()), 400, en, zh).await;
        check(|| link("cli_a", "1".to_owned()), 400, en, zh).await;
        check(|| link("cli_a", unknown.clone()), 404, en, zh).await;
        check(|| link("", known.clone()), 400, en, zh).await;
    }

    #[tokio::test]
    async fn an_app_that_is_unknown_or_disabled_is_not_available() {
        let link = async |app: &str| (world(MemoryVendor::default()).await, start(app, sample::session_id(1).as_str()));
        let (en, zh) = NOT_SET_UP;
        check(|| link("cli_nobody"), 404, en, zh).await;
        check(|| link("cli_off"), 403, en, zh).await;
    }

    #[tokio::test]
    async fn another_apps_session_is_a_broken_link() {
        let world = world(MemoryVendor::default()).await;
        world.table.put(&sample::openable_app("cli_b").await).await.unwrap();
        let response = world.get(start("cli_b", sample::session_id(1).as_str()), NOW).await;
        check_page(&response, 404, "en", BROKEN_LINK.0);
    }

    #[tokio::test]
    async fn a_session_that_has_ended_or_expired_leads_nowhere() {
        let ended = async || {
            let world = world(MemoryVendor::default()).await;
            world.table.end(&sample::session(1).ended(Outcome::Rejected).unwrap(), None).await.unwrap();
            (world, start("cli_a", sample::session_id(1).as_str()))
        };
        check(ended, 410, ENDED.0, ENDED.1).await;
        let world = world(MemoryVendor::default()).await;
        let late = world.get(start("cli_a", sample::session_id(1).as_str()), NOW + SESSION_LIFE).await;
        check_page(&late, 410, "en", ENDED.0);
    }

    #[tokio::test]
    async fn a_person_who_approves_is_connected() {
        let approved = async || {
            let world = world(MemoryVendor::default()).await;
            let state = world.state().await;
            (world, back(&format!("code=c1&state={state}")))
        };
        check(approved, 200, COMPLETED.0, COMPLETED.1).await;
        let (world, request) = approved().await;
        world.get(request, NOW).await;
        assert_eq!((world.status().await, world.has_token().await), (SessionStatus::Completed, true));
    }

    #[tokio::test]
    async fn a_person_who_declines_is_told_so_and_the_session_ends() {
        let declined = async || {
            let world = world(MemoryVendor::default()).await;
            let state = world.state().await;
            (world, back(&format!("error=access_denied&state={state}")))
        };
        check(declined, 200, REJECTED.0, REJECTED.1).await;
        let (world, request) = declined().await;
        world.get(request, NOW).await;
        assert_eq!((world.status().await, world.has_token().await), (SessionStatus::Rejected, false));
    }

    #[tokio::test]
    async fn a_state_works_once() {
        let used = async || {
            let world = world(MemoryVendor::default()).await;
            let query = format!("code=c1&state={}", world.state().await);
            world.get(back(&query), NOW).await;
            (world, back(&query))
        };
        check(used, 410, ENDED.0, ENDED.1).await;
        let (world, request) = used().await;
        world.get(request, NOW).await;
        assert_eq!(
            (world.status().await, world.vendor.exchanges.load(Ordering::SeqCst)),
            (SessionStatus::Completed, 1)
        );
    }

    #[tokio::test]
    async fn a_state_that_is_not_ours_or_is_too_old_exchanges_nothing() {
        let forged = async || (world(MemoryVendor::default()).await, back("code=c1&state=guessed"));
        check(forged, 410, ENDED.0, ENDED.1).await;
        let world = world(MemoryVendor::default()).await;
        let late = back(&format!("code=c1&state={}", world.state().await));
        check_page(&world.get(late, NOW + SESSION_LIFE).await, 410, "en", ENDED.0);
        assert_eq!((world.status().await, world.vendor.exchanges.load(Ordering::SeqCst)), (SessionStatus::Pending, 0));
    }

    #[tokio::test]
    async fn an_answer_that_is_incomplete_is_a_broken_link() {
        for query in ["", "code=c1", "state=s", "state=s&state=t&code=c", "state=&code=c"] {
            let incomplete = async || (world(MemoryVendor::default()).await, back(query));
            check(incomplete, 400, BROKEN_LINK.0, BROKEN_LINK.1).await;
        }
    }

    #[tokio::test]
    async fn somebody_else_who_follows_the_link_is_turned_away_and_the_session_stays_open() {
        let other = async || {
            let world = world(MemoryVendor { owner: Some("ou_bob"), ..MemoryVendor::default() }).await;
            let state = world.state().await;
            (world, back(&format!("code=c1&state={state}")))
        };
        check(other, 403, OTHER_PERSON.0, OTHER_PERSON.1).await;
        let (world, request) = other().await;
        world.get(request, NOW).await;
        assert_eq!((world.status().await, world.has_token().await), (SessionStatus::Pending, false));
    }

    #[tokio::test]
    async fn a_code_that_the_vendor_refuses_ends_the_request() {
        let refused = async || {
            let world = world(MemoryVendor { exchanges: AtomicU32::new(1), ..MemoryVendor::default() }).await;
            let state = world.state().await;
            (world, back(&format!("code=used&state={state}")))
        };
        check(refused, 409, ENDED.0, ENDED.1).await;
        let (world, request) = refused().await;
        world.get(request, NOW).await;
        assert_eq!(world.status().await, SessionStatus::Failed);
    }

    #[tokio::test]
    async fn a_vendor_or_table_that_is_silent_asks_for_another_try() {
        let (en, zh) = AGAIN;
        let silent_vendor = async || {
            let world = world(MemoryVendor::default()).await;
            let state = world.state().await;
            world.vendor.down.store(true, Ordering::SeqCst);
            (world, back(&format!("code=c1&state={state}")))
        };
        check(silent_vendor, 503, en, zh).await;
        let silent_table = async || {
            let world = world(MemoryVendor::default()).await;
            world.table.down.store(true, Ordering::SeqCst);
            (world, start("cli_a", sample::session_id(1).as_str()))
        };
        check(silent_table, 503, en, zh).await;

        let (world, request) = silent_vendor().await;
        world.get(request, NOW).await;
        world.vendor.down.store(false, Ordering::SeqCst);
        let again = back(&format!("code=c1&state={}", world.state().await));
        check_page(&world.get(again, NOW).await, 200, "en", COMPLETED.0);
    }

    #[tokio::test]
    async fn a_deployment_with_a_name_of_its_own_is_returned_to_by_that_name() {
        let mut world = world(MemoryVendor::default()).await;
        world.oauth.public_url = Some("https://skylark.example".to_owned());
        let page = location(&world.get(start("cli_a", sample::session_id(1).as_str()), NOW).await);
        assert_eq!(query(&page, "redirect_uri"), "https%3A%2F%2Fskylark.example%2Flark%2Foauth%2Fcallback");
    }
}
