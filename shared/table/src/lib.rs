//! DynamoDB behind the domain's ports. Tables of one form; each entity has its own key prefix. Clients, families and the limits of their
//! requests are in a table of their own.
//!
//! | entity | `pk` | `sk` | index `by_time` (`kind`, `at`) |
//! |---|---|---|---|
//! | app | `APP#<app_id>` | `APP` | `app`, created |
//! | inbox entry | `INBOX#<app_id>#<event_id>` | `INBOX` | `inbox.open.<0..4>`, next ring; absent once done |
//! | session | `SESSION#<session_id>` | `SESSION` | `session.pending`, expires; absent once ended |
//! | attempt | `STATE#<sha256 of state>` | `STATE` | |
//! | user token | `USER#<app_id>#<open_id>` | `TOKEN` | `token`, next due |
//! | card that nobody asked for | `USER#<app_id>#<open_id>` | `ASK` | |
//! | tenant token | `TENANT#<app_id>` | `TOKEN#<tenant_key>` | |
//! | app ticket | `TENANT#<app_id>` | `TICKET` | |
//! | place of a job | `JOB#<name>` | `JOB` | |
//! | client | `CLIENT#<client_id>` | `CLIENT` | `client`, created |
//! | family | `FAMILY#<family_id>` | `FAMILY` | |
//! | conversation | `CONV#<conversation_id>` | `META` | `chat.unpushed.<0..4>`, oldest unpushed; absent once pushed |
//! | message | `CONV#<conversation_id>` | `MSG#<seq, 12 digits>` | |
//! | how far it was pushed | `CONV#<conversation_id>` | `PUSH` | |
//! | ticket | `TICKET#<sha256>` | `TICKET` | |
//! | places of sockets | `SOCKETS#<tenant_id>#<user_id>` | `SLOTS` | |
//! | connection | `CONN#<connection_id>` | `CONN` | |
//! | login that ended | `BARRED#<sid>` | `BARRED` | |
//! | limit | `LIMIT#<key>` | `LIMIT` | |
//! | connector of a channel | `CONNECTOR#<tenant>#<name>` | `CONNECTOR` | `connector`, created |
//! | how a connector does | `CONNECTOR#<tenant>#<name>` | `BREAKER` | |
//! | how far a conversation has come by a channel | `CONV#<conversation_id>` | `CHANNEL#<name>` | |
//! | message, as the outside calls it | `OUTSIDE#<app_id>#<message_id>` | `OUTSIDE` | |
//! | place outside that is linked | `LINK#<app_id>#<address>` | `LINK` | |
//! | source of the lake | `SOURCE#<name>` | `SOURCE` | `source`, created |
//! | line that counted | `LINE#<kind>#<its id>` | `LINE` | |
//! | batch that is in its tables | `BATCH#<batch>` | `BATCH` | |
//! | draft that was accepted | `IDEM#<tenant_id>#<user_id>#<message_id>` | `IDEM` | |
//! | pair of people who have a conversation | `PAIR#<tenant_id>#<user_id>#<user_id>` | `PAIR` | |
//! | membership | `USER#<tenant_id>#<user_id>` | `CONV#<conversation_id>` | |
//! | upload | `UPLOAD#<upload_id>` | `UPLOAD` | `upload.uploading`, expires; `upload.merging`, asked for again; absent once ended |
//! | file | `FILE#<file_id>` | `FILE` | |
//! | content of files | `CONTENT#<tenant_id>#<content_id>` | `CONTENT` | `content.unreferenced`, since when; absent while files refer to it |
//! | what a person uploads | `QUOTA#<tenant_id>#<user_id>` | `QUOTA` | |
//!
//! Times that DynamoDB compares (`at`, `claim_until`, `lease_until`, `asked_until`, `issued_at` of a ticket, `ttl`) are Unix seconds; all others are RFC 3339.

mod app;
mod batch;
mod channel;
mod chat;
mod client;
mod family;
mod file;
mod gate;
mod health;
mod inbox;
mod item;
mod job;
mod limit;
mod message;
mod push;
mod registry;
mod session;
mod socket;
mod source;
mod tenant_token;
mod token;
mod upload;

use aws_sdk_dynamodb::Client;

pub use limit::TableLimiter;
pub use message::TableMessages;

/// A table, as every port that it implements. Cheap to clone.
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
