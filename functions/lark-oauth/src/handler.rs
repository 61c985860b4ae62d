//! Card's link -> vendor's authorize page -> code -> sealed tokens -> a page that says so.

use domain::app::OpenApp;
use domain::authorize::{Approval, Authorization, AuthorizeFault};
use domain::fault::{Fault, PortFault, Refusal, Remedy, chain};
use domain::id::{AppId, IdError, SessionId};
use domain::seal::{SealContext, SealFault};
use domain::session::{Attempt, Session, SessionFault};
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
        let location = self.attempt(&app, &session, self.redirect_uri(request)).await?;
        Ok(http::redirect(&location)?)
    }

    async fn attempt(&self, app: &OpenApp, session: &Session, redirect_uri: String) -> Result<String, Stopped> {
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
            expires_at: session.expires_at,
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

/// What a page says: title and text, in English and in Chinese.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words {
    en: (&'static str, &'static str),
    zh: (&'static str, &'static str),
}

impl Words {
    const COMPLETED: Self = Self {
        en: (
            "You are connected",
            "Your account is authorized. You can close this page; the card in your chat shows it too.",
        ),
        zh: ("授权成功", "您的账号已完成授权。可以关闭本页面,聊天中的卡片也会更新。"),
    };
    const REJECTED: Self = Self {
        en: ("Not authorized", "You declined, and nothing was shared. Ask for a new card if you change your mind."),
        zh: ("已拒绝授权", "您已拒绝,未共享任何信息。如需授权,请重新获取卡片。"),
    };
    const ENDED: Self = Self {
        en: ("This request has ended", "It was answered already or its ten minutes are over. Ask for a new card."),
        zh: ("请求已结束", "该请求已处理,或已超过十分钟有效期。请重新获取卡片。"),
    };
    const OTHER_PERSON: Self = Self {
        en: (
            "This request is for somebody else",
            "Sign in as the person whose chat shows the card. Nothing was stored.",
        ),
        zh: ("该请求不属于您", "请使用收到卡片的账号登录。未保存任何信息。"),
    };
    const AGAIN: Self = Self {
        en: ("Please try again", "Something did not answer in time. Open the link on the card once more."),
        zh: ("请重试", "服务暂时无响应,请再次点击卡片上的链接。"),
    };
    const BROKEN_LINK: Self = Self {
        en: ("This link does not work", "It is incomplete or unknown. Open the link on the card in your chat."),
        zh: ("链接无效", "链接不完整或不存在。请点击聊天卡片上的链接。"),
    };
    const NOT_SET_UP: Self = Self {
        en: ("Authorization is not available", "The app is not set up for this. Tell its administrator."),
        zh: ("暂时无法授权", "应用配置有误或已停用,请联系管理员。"),
    };

    fn of(fault: &Stopped) -> Self {
        match fault {
            Stopped::UnknownState => Self::ENDED,
            Stopped::Authorize(AuthorizeFault::Session(SessionFault::Expired | SessionFault::Ended(_))) => Self::ENDED,
            Stopped::Authorize(AuthorizeFault::OtherPerson) => Self::OTHER_PERSON,
            Stopped::Authorize(AuthorizeFault::Session(SessionFault::Unknown)) | Stopped::Id(_) | Stopped::Oauth(_) => {
                Self::BROKEN_LINK
            }
            fault if matches!(fault.remedy(), Remedy::Retry) => Self::AGAIN,
            _ => Self::NOT_SET_UP,
        }
    }
}

fn page(request: &Request, status: StatusCode, words: Words) -> Response {
    let languages = request.headers().get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    let chinese = languages.is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with("zh"));
    let (lang, (title, text)) = if chinese { ("zh", words.zh) } else { ("en", words.en) };
    let html = format!(
        "<!doctype html><html lang=\"{lang}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <style>body{{font:16px/1.6 system-ui,sans-serif;margin:18vh auto 0;max-width:26rem;padding:0 1.5rem;color:#1f2329;\
         background:#fff}}h1{{font-size:1.4rem}}@media(prefers-color-scheme:dark){{body{{color:#e8e8e8;background:#1a1a1a}}}}\
         </style></head><body><main><h1>{title}</h1><p>{text}</p></main></body></html>"
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
