//! authen/v2/oauth/token: code exchange and refresh, and what the authorize page leaves for them.

use std::collections::{BTreeSet, HashMap};

use axum::http::header;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use super::{Failure, VendorCall, refuse};
use crate::clock::{DAY, HOUR, MINUTE, SECOND, random_base64url, random_hex};
use crate::model::{
    AccessToken, App, AuthorizationCode, Challenge, Grant, RefreshState, RefreshToken, TokenKind, User, UserStatus,
    digest,
};
use crate::store::{StoreError, Tx};

const CODE_LIFE: i64 = 5 * MINUTE;
const ACCESS_LIFE: i64 = 2 * HOUR;
const REFRESH_LIFE: i64 = 7 * DAY;

/// Refreshing ends this long after the person last authorized.
const AUTHORIZATION_LIFE: i64 = 365 * DAY;

/// How long the access token of a used refresh token still works.
const OVERLAP: i64 = MINUTE;

pub(crate) const OFFLINE_ACCESS: &str = "offline_access";

/// Part of every user token, asked for or not.
const BASE_SCOPE: &str = "auth:user.id:read";

pub(super) fn token(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let fields = Fields::read(call)?;
    let grant_type = fields.required("grant_type")?;
    if !matches!(grant_type, "authorization_code" | "refresh_token") {
        return Err(refuse(20_036, format!("The specified grant_type `{grant_type}` is not supported.")));
    }
    let app = client(tx, call, &fields)?;
    call.count_against(tx, &app)?;
    if grant_type == "refresh_token" { refresh(tx, &app, &fields) } else { exchange(tx, &app, &fields) }
}

/// The RFC 6749 name of a code.
pub(super) fn error_name(code: i64) -> &'static str {
    match code {
        20_002 | 20_048 | 20_070 => "invalid_client",
        20_003 | 20_004 | 20_008 | 20_024 | 20_026 | 20_037 | 20_049 | 20_064 | 20_065 | 20_066 | 20_071 | 20_073 => {
            "invalid_grant"
        }
        20_009 | 20_010 => "access_denied",
        20_036 => "unsupported_grant_type",
        20_050 => "server_error",
        20_067 | 20_068 => "invalid_scope",
        20_069 | 20_074 => "unauthorized_client",
        20_072 => "temporarily_unavailable",
        _ => "invalid_request",
    }
}

/// The app a call without a token says it comes from; for the record of calls only.
pub(super) fn claimed_app_id(call: &VendorCall<'_>) -> Option<String> {
    let fields = Fields::read(call).ok()?;
    ["client_id", "app_id"].iter().find_map(|name| fields.optional(name)).map(str::to_owned)
}

/// A body of strings, sent as JSON or as a form.
struct Fields(HashMap<String, String>);

impl Fields {
    fn read(call: &VendorCall<'_>) -> Result<Self, Failure> {
        let content_type = call.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if content_type.is_some_and(|value| value.starts_with("application/x-www-form-urlencoded")) {
            return Ok(Self(form_urlencoded::parse(call.body).into_owned().collect()));
        }
        serde_json::from_slice::<HashMap<String, Option<String>>>(call.body)
            .map(|fields| Self(fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()))
            .map_err(|_| {
                refuse(20_063, "The request is malformed: the body is neither a JSON object of strings nor a form.")
            })
    }

    fn optional(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, Failure> {
        self.optional(name)
            .ok_or_else(|| refuse(20_001, format!("The request is missing the required parameter `{name}`.")))
    }
}

/// The app whose credentials are in the body or, as an alternative, in a Basic header.
fn client(tx: &Tx<'_>, call: &VendorCall<'_>, fields: &Fields) -> Result<App, Failure> {
    let basic = call
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
        .map(|encoded| {
            let pair = STANDARD.decode(encoded.trim()).ok().and_then(|pair| String::from_utf8(pair).ok());
            pair.and_then(|pair| pair.split_once(':').map(|(id, secret)| (id.to_owned(), secret.to_owned())))
                .ok_or_else(|| refuse(20_063, "The Authorization header is malformed."))
        })
        .transpose()?;
    let (app_id, secret) = match &basic {
        Some(_) if fields.optional("client_secret").is_some() => {
            return Err(refuse(20_070, "Multiple authentication methods were used."));
        }
        Some((app_id, secret)) => (app_id.as_str(), secret.as_str()),
        None => (fields.required("client_id")?, fields.required("client_secret")?),
    };
    let app = tx.get::<App>(app_id)?.ok_or_else(|| refuse(20_048, "The specified app does not exist."))?;
    if app.app_secret != secret {
        return Err(refuse(20_002, "The client secret is invalid."));
    }
    if !app.enabled {
        return Err(refuse(20_069, "The specified app is not enabled."));
    }
    Ok(app)
}

fn exchange(tx: &Tx<'_>, app: &App, fields: &Fields) -> Result<Value, Failure> {
    let code = tx.get::<AuthorizationCode>(&digest(fields.required("code")?))?.ok_or_else(|| {
        refuse(20_003, "The authorization code is not found. Please note that it can only be used once.")
    })?;
    if code.app_id != app.app_id {
        return Err(refuse(20_024, "The authorization code does not match the provided client_id."));
    }
    if code.used {
        return Err(refuse(20_065, "The authorization code has been used."));
    }
    if code.expires_at <= tx.now {
        return Err(refuse(20_004, "The authorization code has expired."));
    }
    if fields.optional("redirect_uri").is_some_and(|uri| uri != code.redirect_uri) {
        return Err(refuse(20_071, "The redirect_uri does not match the one used on the authorize page."));
    }
    if let Some(challenge) = &code.challenge
        && !fields.optional("code_verifier").is_some_and(|verifier| proves(verifier, challenge))
    {
        return Err(refuse(20_049, "PKCE verification failed: the code_verifier does not match the code_challenge."));
    }
    check_user(tx, app, &code.open_id)?;
    let grant = grant(tx, &app.app_id, &code.open_id)?;
    let scopes = narrowed(fields, &grant.scopes)?;
    tx.put(&AuthorizationCode { used: true, ..code })?;
    pair(tx, &grant, scopes)
}

fn refresh(tx: &Tx<'_>, app: &App, fields: &Fields) -> Result<Value, Failure> {
    let presented = fields.required("refresh_token")?;
    let invalid = || refuse(20_026, "The refresh token is invalid.");
    if !presented.starts_with("eyJ") {
        return Err(invalid());
    }
    let token = tx.get::<RefreshToken>(&digest(presented))?.ok_or_else(invalid)?;
    if token.app_id != app.app_id {
        return Err(refuse(20_024, "The refresh token does not match the provided client_id."));
    }
    match token.state {
        RefreshState::Live => {}
        RefreshState::Used => {
            let window = i64::from(app.refresh_replay_secs) * SECOND;
            if let Some((_, body)) = token.answered.filter(|(at, _)| tx.now < at + window) {
                return Ok(body);
            }
            return Err(refuse(20_073, "The refresh token has been used. Please note that it can only be used once."));
        }
        RefreshState::Revoked => return Err(refuse(20_064, "The refresh token has been revoked.")),
    }
    if token.expires_at <= tx.now {
        return Err(refuse(20_037, "The refresh token has expired."));
    }
    if !app.refresh_enabled {
        return Err(refuse(20_074, "The app is not allowed to refresh tokens."));
    }
    check_user(tx, app, &token.open_id)?;
    let scopes = narrowed(fields, &token.scopes)?;
    if let Some(mut access) = tx.get::<AccessToken>(&token.access_digest)? {
        access.expires_at = access.expires_at.min(tx.now + OVERLAP);
        tx.put(&access)?;
    }
    let grant = Grant {
        app_id: token.app_id.clone(),
        open_id: token.open_id.clone(),
        scopes: Vec::new(),
        authorized_at: token.authorized_at,
    };
    let body = pair(tx, &grant, scopes)?;
    tx.put(&RefreshToken { state: RefreshState::Used, answered: Some((tx.now, body.clone())), ..token })?;
    Ok(body)
}

fn proves(verifier: &str, challenge: &Challenge) -> bool {
    let well_formed = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let derived = if challenge.s256 { URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) } else { verifier.to_owned() };
    well_formed && derived == challenge.value
}

fn check_user(tx: &Tx<'_>, app: &App, open_id: &str) -> Result<(), Failure> {
    let user = tx.get::<User>(open_id)?.ok_or_else(|| refuse(20_008, "The user does not exist."))?;
    if user.status != UserStatus::Active {
        return Err(refuse(20_066, "The user status is invalid."));
    }
    if !app.is_available_to(open_id) {
        return Err(refuse(20_010, "The user does not have permission to use this app."));
    }
    Ok(())
}

fn grant(tx: &Tx<'_>, app_id: &str, open_id: &str) -> Result<Grant, Failure> {
    tx.get::<Grant>(&Grant::key(app_id, open_id))?
        .ok_or_else(|| refuse(20_003, "The authorization was withdrawn before the code was used."))
}

/// The scopes the caller narrows to, or all that were granted.
fn narrowed(fields: &Fields, granted: &[String]) -> Result<Vec<String>, Failure> {
    let Some(scope) = fields.optional("scope") else { return Ok(granted.to_vec()) };
    let mut asked = Vec::new();
    for one in scope.split_whitespace() {
        if asked.iter().any(|earlier| earlier == one) {
            return Err(refuse(20_067, format!("The scope `{one}` is duplicated.")));
        }
        if !granted.iter().any(|have| have == one) {
            return Err(refuse(20_068, format!("The scope `{one}` is not permitted.")));
        }
        asked.push(one.to_owned());
    }
    Ok(asked)
}

/// A new access token and, with `offline_access`, the refresh token that goes with it.
fn pair(tx: &Tx<'_>, grant: &Grant, scopes: Vec<String>) -> Result<Value, Failure> {
    let access = user_token(tx.now, &grant.app_id);
    tx.put(&AccessToken {
        digest: digest(&access),
        kind: TokenKind::User,
        app_id: grant.app_id.clone(),
        open_id: grant.open_id.clone(),
        scopes: scopes.clone(),
        expires_at: tx.now + ACCESS_LIFE,
    })?;
    let mut body = json!({
        "code": 0,
        "access_token": access,
        "expires_in": ACCESS_LIFE / SECOND,
        "token_type": "Bearer",
        "scope": scopes.join(" "),
    });
    if scopes.iter().any(|scope| scope == OFFLINE_ACCESS) {
        let refresh = user_token(tx.now, &grant.app_id);
        let expires_at = (tx.now + REFRESH_LIFE).min(grant.authorized_at + AUTHORIZATION_LIFE);
        tx.put(&RefreshToken {
            digest: digest(&refresh),
            app_id: grant.app_id.clone(),
            open_id: grant.open_id.clone(),
            scopes,
            access_digest: digest(&access),
            authorized_at: grant.authorized_at,
            expires_at,
            state: RefreshState::Live,
            answered: None,
        })?;
        if let Some(body) = body.as_object_mut() {
            body.insert("refresh_token".to_owned(), refresh.into());
            body.insert("refresh_token_expires_in".to_owned(), ((expires_at - tx.now) / SECOND).into());
        }
    }
    Ok(body)
}

/// Looks like the vendor's: three dotted parts, more than a kilobyte, opaque.
fn user_token(now: i64, app_id: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT"}"#);
    let claims = json!({
        "jti": random_hex::<12>(), "iat": now / SECOND, "cid": app_id, "ver": "v1", "data": random_base64url::<480>(),
    });
    format!("{head}.{}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()), random_base64url::<64>())
}

/// Records a person's consent, added to what was granted before, and returns the code for it.
pub(crate) fn approve(
    tx: &Tx<'_>,
    app_id: &str,
    open_id: &str,
    redirect_uri: &str,
    scopes: &[String],
    challenge: Option<Challenge>,
) -> Result<String, StoreError> {
    let earlier = tx.get::<Grant>(&Grant::key(app_id, open_id))?.map(|grant| grant.scopes).unwrap_or_default();
    let all: BTreeSet<String> =
        earlier.into_iter().chain(scopes.iter().cloned()).chain([BASE_SCOPE.to_owned()]).collect();
    tx.put(&Grant {
        app_id: app_id.to_owned(),
        open_id: open_id.to_owned(),
        scopes: all.into_iter().collect(),
        authorized_at: tx.now,
    })?;
    let code = random_base64url::<48>();
    tx.put(&AuthorizationCode {
        digest: digest(&code),
        app_id: app_id.to_owned(),
        open_id: open_id.to_owned(),
        redirect_uri: redirect_uri.to_owned(),
        challenge,
        expires_at: tx.now + CODE_LIFE,
        used: false,
    })?;
    Ok(code)
}

/// The person takes back what they granted: their tokens of this app stop at once.
pub(crate) fn revoke(tx: &Tx<'_>, app_id: &str, open_id: &str) -> Result<bool, StoreError> {
    for access in tx.newest::<AccessToken>(Some(open_id), usize::MAX, |access| access.app_id == app_id)? {
        tx.delete::<AccessToken>(&access.digest)?;
    }
    let live = |token: &RefreshToken| token.app_id == app_id && token.state == RefreshState::Live;
    for token in tx.newest(Some(open_id), usize::MAX, live)? {
        tx.put(&RefreshToken { state: RefreshState::Revoked, ..token })?;
    }
    tx.delete::<Grant>(&Grant::key(app_id, open_id))
}
