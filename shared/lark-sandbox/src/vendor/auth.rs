//! auth/v3: tenant and app tokens, and the check of the token on every other call.

use axum::http::{HeaderMap, header};
use serde_json::{Value, json};

use super::{Caller, Failure, VendorCall, refuse, text};
use crate::clock::{HOUR, MINUTE, random_base64url, random_hex, seconds_left};
use crate::delivery;
use crate::model::{AccessToken, App, AppTicket, AppType, CurrentToken, TENANT_KEY, TokenKind, digest};
use crate::store::{StoreError, Tx};

const TOKEN_LIFE: i64 = 2 * HOUR;

/// A token with at least this much left is handed out again.
const HANDED_OUT_AGAIN: i64 = 30 * MINUTE;

pub(super) fn tenant_internal(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let app = app_by_secret(tx, call, AppType::SelfBuilt)?;
    issued(tx, &app, TokenKind::Tenant)
}

pub(super) fn app_internal(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let app = app_by_secret(tx, call, AppType::SelfBuilt)?;
    issued(tx, &app, TokenKind::App)
}

pub(super) fn app_of_store_app(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let app = app_by_secret(tx, call, AppType::Store)?;
    let body = call.json()?;
    let presented = text(&body, "app_ticket");
    let current = tx.get::<AppTicket>(&app.app_id)?;
    if presented.is_none() || presented != current.as_ref().map(|ticket| ticket.ticket.as_str()) {
        return Err(refuse(10_012, "app ticket invalid"));
    }
    issued(tx, &app, TokenKind::App)
}

pub(super) fn tenant_of_store_app(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let body = call.json()?;
    let (Some(token), Some(tenant_key)) = (text(&body, "app_access_token"), text(&body, "tenant_key")) else {
        return Err(refuse(10_003, "invalid param"));
    };
    let token = tx.get::<AccessToken>(&digest(token))?;
    let Some(token) = token.filter(|token| token.kind == TokenKind::App && token.expires_at > tx.now) else {
        return Err(refuse(10_012, "app access token invalid"));
    };
    if tenant_key != TENANT_KEY {
        return Err(refuse(10_013, "tenant access token failed: unknown tenant_key"));
    }
    let app = tx.get::<App>(&token.app_id)?.ok_or_else(|| refuse(10_014, "app unusable"))?;
    call.count_against(tx, &app)?;
    issued(tx, &app, TokenKind::Tenant)
}

pub(super) fn resend_ticket(tx: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let app = app_by_secret(tx, call, AppType::Store)?;
    push_ticket(tx, &app)?;
    Ok(json!({ "code": 0, "msg": "ok" }))
}

/// Makes a new ticket and queues the `app_ticket` event that carries it.
pub(crate) fn push_ticket(tx: &Tx<'_>, app: &App) -> Result<(), StoreError> {
    let ticket = format!("g{}", random_hex::<20>());
    tx.put(&AppTicket { app_id: app.app_id.clone(), ticket: ticket.clone() })?;
    let event = json!({ "app_id": app.app_id, "app_ticket": ticket });
    tx.put(&delivery::schema_1(tx.now, app, "app_ticket", event, random_hex::<16>()))
}

fn app_by_secret(tx: &Tx<'_>, call: &VendorCall<'_>, app_type: AppType) -> Result<App, Failure> {
    let body = call.json().map_err(|_| refuse(10_003, "invalid param"))?;
    let (Some(app_id), Some(secret)) = (text(&body, "app_id"), text(&body, "app_secret")) else {
        return Err(refuse(10_003, "invalid param"));
    };
    let app = tx.get::<App>(app_id)?.ok_or_else(|| refuse(10_014, "app unusable: unknown app_id"))?;
    if app.app_secret != secret {
        return Err(refuse(10_015, "app secret invalid"));
    }
    if !app.enabled {
        return Err(refuse(10_014, "app unusable: disabled"));
    }
    if app.app_type != app_type {
        return Err(refuse(10_014, "app unusable: wrong endpoint for this type of app"));
    }
    call.count_against(tx, &app)?;
    Ok(app)
}

/// The current token while it has 30 minutes left, else a new one; the old one stays valid to its own end.
fn issued(tx: &Tx<'_>, app: &App, kind: TokenKind) -> Result<Value, Failure> {
    let current = tx.get::<CurrentToken>(&CurrentToken::key(kind, &app.app_id))?;
    let current = match current.filter(|current| current.expires_at - tx.now >= HANDED_OUT_AGAIN) {
        Some(current) => current,
        None => mint(tx, app, kind)?,
    };
    let name = if kind == TokenKind::App { "app_access_token" } else { "tenant_access_token" };
    Ok(json!({ "code": 0, "msg": "ok", name: current.token, "expire": seconds_left(tx.now, current.expires_at) }))
}

fn mint(tx: &Tx<'_>, app: &App, kind: TokenKind) -> Result<CurrentToken, StoreError> {
    let prefix = if kind == TokenKind::App { 'a' } else { 't' };
    let current = CurrentToken {
        kind,
        app_id: app.app_id.clone(),
        token: format!("{prefix}-{}", random_base64url::<30>()),
        expires_at: tx.now + TOKEN_LIFE,
    };
    tx.put(&AccessToken {
        digest: digest(&current.token),
        kind,
        app_id: app.app_id.clone(),
        open_id: String::new(),
        scopes: Vec::new(),
        expires_at: current.expires_at,
    })?;
    tx.put(&current)?;
    Ok(current)
}

/// Who the `Authorization` header speaks for, if the endpoint takes that kind of token.
pub(super) fn authorize(tx: &Tx<'_>, headers: &HeaderMap, accepted: &[TokenKind]) -> Result<Caller, Failure> {
    let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = presented.strip_prefix("Bearer ").map(str::trim).unwrap_or_default();
    if token.is_empty() {
        return Err(refuse(
            99_991_661,
            "Missing access token for authorization. Please make a request with token attached.",
        ));
    }
    let kind = match token {
        _ if token.starts_with("t-") => TokenKind::Tenant,
        _ if token.starts_with("a-") && accepted.contains(&TokenKind::App) => TokenKind::App,
        _ if token.starts_with("u-") || token.starts_with("eyJ") => TokenKind::User,
        _ => {
            return Err(refuse(99_991_671, "Invalid access token for authorization: it must start with `t-` or `u-`."));
        }
    };
    let invalid = || match kind {
        TokenKind::Tenant => {
            refuse(99_991_663, "Invalid access token for authorization. Please make a request with token attached.")
        }
        TokenKind::App => refuse(99_991_664, "Invalid app access token."),
        TokenKind::User => {
            refuse(99_991_668, "Invalid access token for authorization. Please make a request with token attached.")
        }
    };
    let stored = tx.get::<AccessToken>(&digest(token))?.filter(|stored| stored.kind == kind).ok_or_else(invalid)?;
    if stored.expires_at <= tx.now {
        return Err(match kind {
            TokenKind::User => refuse(99_991_677, "Authentication token expired."),
            TokenKind::Tenant | TokenKind::App => invalid(),
        });
    }
    if !accepted.contains(&kind) {
        return Err(invalid());
    }
    let app = tx.get::<App>(&stored.app_id)?.ok_or_else(invalid)?;
    if !app.enabled {
        return Err(refuse(99_991_662, "The app is disabled."));
    }
    let open_id = (kind == TokenKind::User).then_some(stored.open_id);
    Ok(Caller { app, open_id, scopes: stored.scopes, kind })
}
