//! Tokens and the people they belong to.

use std::fmt;
use std::time::{Duration, Instant};

use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{Answer, ApiError, Call, Client, Repeat};

/// How long one attempt to refresh may take: short, so that a lost one can be made again.
const REFRESH_ATTEMPT: Duration = Duration::from_secs(4);

const OAUTH_TOKEN: &str = "/open-apis/authen/v2/oauth/token";

/// What an app is itself.
#[derive(Debug, Clone)]
pub struct TenantToken {
    pub token: SecretString,
    /// Seconds left, between 30 minutes and 2 hours: the vendor hands out the same token while it has that long to live.
    pub expires_in_secs: u64,
}

/// What an app may do in a person's name.
#[derive(Debug, Clone)]
pub struct UserTokens {
    pub access_token: SecretString,
    pub expires_in_secs: u64,
    /// Only with the scope `offline_access`. Works once.
    pub refresh_token: Option<SecretString>,
    pub refresh_token_expires_in_secs: Option<u64>,
    /// All the person ever granted this app.
    pub scopes: Vec<String>,
}

/// Trades the code of a redirect for tokens.
#[derive(Debug, Clone, Copy)]
pub struct CodeExchange<'a> {
    pub client_id: &'a str,
    pub client_secret: &'a SecretString,
    pub code: &'a SecretString,
    /// The same as on the authorize page; a code that did not come from there has none.
    pub redirect_uri: Option<&'a str>,
    /// What the page's challenge was made from, if it had one.
    pub code_verifier: Option<&'a SecretString>,
}

/// The person behind a user token. What the app's scopes do not cover is `None`.
#[derive(Clone, PartialEq, Eq)]
pub struct UserInfo {
    pub open_id: String,
    pub union_id: Option<String>,
    pub user_id: Option<String>,
    pub tenant_key: Option<String>,
    pub name: Option<String>,
    pub en_name: Option<String>,
    pub avatar_url: Option<String>,
    pub email: Option<String>,
    pub enterprise_email: Option<String>,
    pub mobile: Option<String>,
    pub employee_no: Option<String>,
}

impl fmt::Debug for UserInfo {
    /// Without what identifies a person outside the app.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UserInfo")
            .field("open_id", &self.open_id)
            .field("tenant_key", &self.tenant_key)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The tenant token of a self-built app. Any number of callers may fetch it at once.
    ///
    /// # Errors
    /// See [`Client::call`]; wrong credentials are [`crate::code::Class::Config`].
    pub async fn tenant_access_token(
        &self,
        app_id: &str,
        app_secret: &SecretString,
        deadline: Instant,
    ) -> Result<TenantToken, ApiError> {
        const PATH: &str = "/open-apis/auth/v3/tenant_access_token/internal";
        let body = json!({ "app_id": app_id, "app_secret": app_secret.expose_secret() });
        let answer = self.call(Call::new(Method::POST, PATH, deadline).repeat(Repeat::Safe).body(&body)).await?;
        Ok(TenantToken {
            token: secret(&answer, "tenant_access_token")?,
            expires_in_secs: seconds(&answer, "expire").ok_or_else(|| lacks(&answer, "expire"))?,
        })
    }

    /// The app token of a store app, for which the vendor pushes tickets.
    ///
    /// # Errors
    /// See [`Client::call`]; code 10012 says the ticket is not the newest.
    pub async fn app_access_token(
        &self,
        app_id: &str,
        app_secret: &SecretString,
        app_ticket: &SecretString,
        deadline: Instant,
    ) -> Result<SecretString, ApiError> {
        const PATH: &str = "/open-apis/auth/v3/app_access_token";
        let body = json!({
            "app_id": app_id,
            "app_secret": app_secret.expose_secret(),
            "app_ticket": app_ticket.expose_secret(),
        });
        let answer = self.call(Call::new(Method::POST, PATH, deadline).repeat(Repeat::Safe).body(&body)).await?;
        secret(&answer, "app_access_token")
    }

    /// The token of one of the tenants that installed a store app.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn tenant_access_token_of(
        &self,
        app_access_token: &SecretString,
        tenant_key: &str,
        deadline: Instant,
    ) -> Result<TenantToken, ApiError> {
        const PATH: &str = "/open-apis/auth/v3/tenant_access_token";
        let body = json!({ "app_access_token": app_access_token.expose_secret(), "tenant_key": tenant_key });
        let answer = self.call(Call::new(Method::POST, PATH, deadline).repeat(Repeat::Safe).body(&body)).await?;
        Ok(TenantToken {
            token: secret(&answer, "tenant_access_token")?,
            expires_in_secs: seconds(&answer, "expire").ok_or_else(|| lacks(&answer, "expire"))?,
        })
    }

    /// Exchanges a code. Retried when the answer is lost: if the code was used by then, its tokens were lost with the answer.
    ///
    /// # Errors
    /// See [`Client::call`]; a code that is used, expired or unknown is [`crate::code::Class::Reauthorize`].
    pub async fn exchange_code(&self, exchange: CodeExchange<'_>, deadline: Instant) -> Result<UserTokens, ApiError> {
        let mut body = json!({
            "grant_type": "authorization_code",
            "client_id": exchange.client_id,
            "client_secret": exchange.client_secret.expose_secret(),
            "code": exchange.code.expose_secret(),
        });
        if let Value::Object(fields) = &mut body {
            let attempt = [
                ("redirect_uri", exchange.redirect_uri),
                ("code_verifier", exchange.code_verifier.map(SecretString::expose_secret)),
            ];
            let given = attempt.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
            fields.extend(given);
        }
        let call = Call::new(Method::POST, OAUTH_TOKEN, deadline).repeat(Repeat::Safe).body(&body);
        user_tokens(&self.call(call).await?)
    }

    /// Refreshes a pair. The old refresh token dies with the answer, even an answer that is lost: asked again, a vendor that had not
    /// carried it out does so, and one that had says 20073 or 20064. One refresher per person; on those codes read the stored pair
    /// again before giving it up.
    ///
    /// # Errors
    /// See [`Client::call`]. After [`ApiError::Timeout`] the old refresh token may or may not work.
    pub async fn refresh(
        &self,
        client_id: &str,
        client_secret: &SecretString,
        refresh_token: &SecretString,
        deadline: Instant,
    ) -> Result<UserTokens, ApiError> {
        let body = json!({
            "grant_type": "refresh_token",
            "client_id": client_id,
            "client_secret": client_secret.expose_secret(),
            "refresh_token": refresh_token.expose_secret(),
        });
        let call = Call::new(Method::POST, OAUTH_TOKEN, deadline).repeat(Repeat::Safe).timeout(REFRESH_ATTEMPT);
        user_tokens(&self.call(call.body(&body)).await?)
    }

    /// Who a user token belongs to.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn user_info(&self, user_token: &SecretString, deadline: Instant) -> Result<UserInfo, ApiError> {
        const PATH: &str = "/open-apis/authen/v1/user_info";
        let answer = self.call(Call::new(Method::GET, PATH, deadline).token(user_token)).await?;
        let field = |name: &str| text(&answer, name);
        Ok(UserInfo {
            open_id: field("open_id").ok_or_else(|| lacks(&answer, "open_id"))?,
            union_id: field("union_id"),
            user_id: field("user_id"),
            tenant_key: field("tenant_key"),
            name: field("name"),
            en_name: field("en_name"),
            avatar_url: field("avatar_url"),
            email: field("email"),
            enterprise_email: field("enterprise_email"),
            mobile: field("mobile"),
            employee_no: field("employee_no"),
        })
    }
}

fn user_tokens(answer: &Answer) -> Result<UserTokens, ApiError> {
    Ok(UserTokens {
        access_token: secret(answer, "access_token")?,
        expires_in_secs: seconds(answer, "expires_in").ok_or_else(|| lacks(answer, "expires_in"))?,
        refresh_token: text(answer, "refresh_token").map(SecretString::from),
        refresh_token_expires_in_secs: seconds(answer, "refresh_token_expires_in"),
        scopes: text(answer, "scope").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
    })
}

pub(super) fn text(answer: &Answer, field: &str) -> Option<String> {
    answer.data.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

pub(super) fn lacks(answer: &Answer, field: &'static str) -> ApiError {
    ApiError::Incomplete { field, log_id: answer.log_id.clone() }
}

fn secret(answer: &Answer, field: &'static str) -> Result<SecretString, ApiError> {
    text(answer, field).map(SecretString::from).ok_or_else(|| lacks(answer, field))
}

fn seconds(answer: &Answer, field: &str) -> Option<u64> {
    match answer.data.get(field)? {
        Value::String(digits) => digits.parse().ok(),
        number => number.as_u64(),
    }
}
