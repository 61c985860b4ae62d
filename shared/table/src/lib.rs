//! DynamoDB behind the domain's ports. One table; each entity has its own key prefix.
//!
//! | entity | `pk` | `sk` | index `by_time` (`kind`, `at`) |
//! |---|---|---|---|
//! | app | `APP#<app_id>` | `APP` | `app`, created |
//! | inbox entry | `INBOX#<app_id>#<event_id>` | `INBOX` | |
//! | session | `SESSION#<session_id>` | `SESSION` | `session.pending`, expires; absent once ended |
//! | attempt | `STATE#<sha256 of state>` | `STATE` | |
//! | user token | `USER#<app_id>#<open_id>` | `TOKEN` | |
//! | limit | `LIMIT#<key>` | `LIMIT` | |
//!
//! Times that DynamoDB compares (`at`, `claim_until`, `ttl`) are Unix seconds; all others are RFC 3339.

mod app;
mod health;
mod inbox;
mod item;
mod limit;
mod session;
mod token;

use aws_sdk_dynamodb::Client;

pub use limit::TableLimiter;

/// The table, as every port that it implements. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    name: String,
}

impl Table {
    #[must_use]
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }
}
