//! bot/v3 and application/v6: an app's bot, the scopes it was granted, its console's settings.

use serde_json::{Value, json};

use super::{Failure, VendorCall, refuse, refuse_with, success};
use crate::model::{App, CardCallback};
use crate::store::Tx;

/// Either lets an app read its own settings.
const SETTINGS_SCOPES: [&str; 2] = ["application:application:self_manage", "admin:app.info:readonly"];

/// The bot is told beside `code`, not in `data`.
pub(super) fn bot(_: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let app = &call.caller()?.app;
    if !app.bot_enabled {
        return Err(refuse(11_205, "app do not have bot"));
    }
    let bot = json!({
        "activate_status": 2, "app_name": app.name, "avatar_url": "", "ip_white_list": [],
        "open_id": format!("ou_bot_{}", app.app_id),
    });
    Ok(json!({ "code": 0, "msg": "ok", "bot": bot }))
}

pub(super) fn scopes(_: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let app = &call.caller()?.app;
    let granted = app.scopes.iter().map(|scope| (scope, 1));
    let pending = app.pending_scopes.iter().map(|scope| (scope, 2));
    let told = granted.chain(pending).flat_map(|(scope, status)| {
        // Only people can grant access while they are away.
        let kinds: &[&str] = if scope == "offline_access" { &["user"] } else { &["tenant", "user"] };
        kinds.iter().map(move |kind| json!({ "scope_name": scope, "grant_status": status, "scope_type": kind }))
    });
    Ok(success(json!({ "scopes": told.collect::<Vec<_>>() })))
}

pub(super) fn settings(_: &Tx<'_>, call: &VendorCall<'_>) -> Result<Value, Failure> {
    let app = &call.caller()?.app;
    if !app.scopes.iter().any(|scope| SETTINGS_SCOPES.contains(&scope.as_str())) {
        let violations = SETTINGS_SCOPES.map(|scope| json!({ "type": "action_scope_required", "subject": scope }));
        return Err(refuse_with(
            99_991_672,
            format!("Access denied. One of the following scopes is required: [{}].", SETTINGS_SCOPES.join(", ")),
            json!({ "permission_violations": violations }),
        ));
    }
    if call.query("lang").is_none() || ![app.app_id.as_str(), "me"].contains(&call.param()) {
        return Err(refuse(210_001, "param is invalid"));
    }
    Ok(success(json!({ "app": told(app) })))
}

fn told(app: &App) -> Value {
    let url = app.callback_url.as_deref().unwrap_or_default();
    let callback = match app.card_callback {
        CardCallback::New => "card.action.trigger",
        CardCallback::Old => "card.action.trigger_v1",
    };
    let scopes: Vec<Value> =
        app.scopes.iter().map(|scope| json!({ "scope": scope, "token_types": ["tenant", "user"] })).collect();
    json!({
        "app_id": app.app_id, "app_name": app.name, "status": i32::from(app.enabled), "scene_type": 0,
        "redirect_urls": app.redirect_uris, "scopes": scopes,
        "event": { "subscription_type": "webhook", "request_url": url, "subscribed_events": [] },
        "callback": { "callback_type": "webhook", "request_url": url, "subscribed_callbacks": [callback] },
        "encryption": {
            "encryption_key": app.encrypt_key().unwrap_or_default(), "verification_token": app.verification_token,
        },
    })
}
