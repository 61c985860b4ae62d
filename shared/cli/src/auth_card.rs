//! `skylark auth-card`: asks a person to authorize an app.

use clap::Args;
use domain::app::{AppFault, AppStatus, AppStore};
use domain::id::{OpenId, SessionId};
use domain::session::{CardStyle, Session, SessionRequest, SessionStore as _};
use domain::work::{Doorbell, WorkQueue as _};
use lambda_kit::random;
use serde_json::json;

use crate::app::resolve;
use crate::fault::{CliFault, say};
use crate::stack::Stack;

#[derive(Debug, Args)]
pub(crate) struct AuthCardArgs {
    /// The app that asks; left out, the only enabled one.
    #[arg(long, env = "SKYLARK_APP_ID")]
    app_id: Option<String>,
    /// The person, as that app sees them (`ou_..`).
    #[arg(long)]
    open_id: String,
    /// A permission to ask for; may be given several times. `offline_access` is always asked for.
    #[arg(long = "scope")]
    scopes: Vec<String>,
    /// Why, in a sentence that the card shows.
    #[arg(long)]
    reason: Option<String>,
    /// One sentence and the buttons, instead of purpose and permissions.
    #[arg(long)]
    concise: bool,
}

pub(crate) async fn run(stack: &Stack, args: AuthCardArgs) -> Result<(), CliFault> {
    let request = SessionRequest {
        app_id: resolve(&stack.table, args.app_id).await?.app_id,
        open_id: OpenId::parse(args.open_id)?,
        scopes: args.scopes,
        reason: args.reason,
        template_id: None,
        tenant_key: None,
        style: if args.concise { CardStyle::Concise } else { CardStyle::Detailed },
    };
    let session = ask(stack, request).await?;
    say(json!({ "session_id": session.session_id, "expires_at": session.expires_at.unix_timestamp() }).to_string());
    Ok(())
}

/// Opens a session. Its card goes out as soon as the bell is heard; the table's stream rings it too.
pub(crate) async fn ask(stack: &Stack, request: SessionRequest) -> Result<Session, CliFault> {
    let app =
        AppStore::get(&stack.table, &request.app_id).await?.ok_or_else(|| AppFault::Unknown(request.app_id.clone()))?;
    if app.status == AppStatus::Disabled {
        return Err(AppFault::Disabled(app.app_id).into());
    }
    let session_id = SessionId::parse(random::uuid().to_string())?;
    let session = Session::open(session_id, request, stack.now().await?)?;
    stack.table.create(&session).await?;
    stack.work.ring(&Doorbell::for_session(&session)).await?;
    Ok(session)
}
