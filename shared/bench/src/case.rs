//! What each function is fed: an event that takes its usual path and needs nothing but canned answers of AWS.

use bytes::Bytes;
use domain::access::{AccessToken, Caller, Scope, TokenSigner};
use domain::app::{App, AppKind, AppSecrets, AppStatus, Brand};
use domain::channel::ChannelBell;
use domain::fault::PortFault;
use domain::id::{
    AppId, ChannelName, ClientId, ConversationId, EventId, FamilyId, IdError, SessionId, TenantId, UploadId, UserId,
};
use domain::inbox::{Entry, EntryKind};
use domain::lake::source::{Mapping, Source, SourceFault, SourceKey, SourceName};
use domain::oauth::{Client, ClientSecret, RefreshSeal as _};
use domain::seal::SealFault;
use domain::upload::merge::MergeJob;
use domain::work::Doorbell;
use lark::callback::Keys;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::{Duration, OffsetDateTime};
use vault::{KeyFile, RefreshKeys, Vault};

const APP: &str = "cli_bench";
pub(crate) const APP_SECRET: &str = "bench-app-secret";
const ENCRYPT_KEY: &str = "bench-encrypt-key";
const VERIFICATION_TOKEN: &str = "bench-verification-token";
/// What functions are told that they are reached by, and so the issuer of access tokens.
pub(crate) const PUBLIC_URL: &str = "https://bench.example";
const CLIENT: &str = "bench-client";
const CLIENT_SECRET: &str = "bench-client-secret";
/// Bells for a conversation that the table does not have, a ping of a connection that it does not know, a merge in an empty lake.
const BELLS: &str = include_str!("../../../events/message-push/batch.json");
const PING: &str = include_str!("../../../events/socket-gateway/ping.json");
const COMPACTION: &str = include_str!("../../../events/lake-compact/job.json");
const WEBHOOK_KEY: &str = "bench-webhook-key";

/// One event, and a part of every right answer to it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) event: Bytes,
    pub(crate) answer: &'static str,
}

/// Why there is no event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaseError {
    #[error("function `{0}` has no event to measure it with")]
    Unknown(String),
    #[error("an event cannot be made")]
    Id(#[from] IdError),
    #[error("a source cannot be made")]
    Source(#[from] SourceFault),
    #[error("an event cannot be written")]
    Json(#[from] serde_json::Error),
    #[error("the app's secrets cannot be sealed")]
    Seal(#[from] SealFault),
    #[error("no access token can be signed")]
    Sign(#[from] PortFault),
}

impl Case {
    /// `token` is an access token with every scope.
    pub(crate) fn of(function: &str, token: &str) -> Result<Self, CaseError> {
        let (event, answer) = match function {
            "hello" => (json!({}), "hello, world"),
            "auth-token" => (log_in(), r#""statusCode":200"#),
            "channel-deliver" => (unknown_conversation()?, r#"{"batchItemFailures":[]}"#),
            "chat-api" => (conversations(token), r#""statusCode":200"#),
            "health-check" => (get("/health", &Value::Null), r#""statusCode":200"#),
            "lake-append" => (nothing_to_append(), r#"{"batchItemFailures":[]}"#),
            "lake-compact" => (sample(COMPACTION)?, r#"{"batchItemFailures":[]}"#),
            "lake-maintain" => (json!({ "job": "stats" }), r#""job":"stats""#),
            "lake-query" => (unknown_message(token), r#""statusCode":404"#),
            "lark-api" => (token_status(token), r#""statusCode":200"#),
            "lark-callback" => (click(), r#""statusCode":200"#),
            "lark-oauth" => (get("/lark/cli_bench/oauth/start", &json!({ "app_id": APP })), r#""statusCode":400"#),
            "lark-work" => (unknown_session()?, r#"{"batchItemFailures":[]}"#),
            "message-push" => (sample(BELLS)?, r#"{"batchItemFailures":[]}"#),
            "outbox-sweep" => (json!({ "job": "ring_unpushed" }), "null"),
            "socket-gateway" => (sample(PING)?, r#""statusCode":200"#),
            "outbox-relay" => (accepted_event()?, r#"{"batchItemFailures":[]}"#),
            "upload-api" => (upload_status(token), r#""statusCode":404"#),
            "upload-merge" => (unknown_upload()?, r#"{"batchItemFailures":[]}"#),
            "upload-sweep" => (json!({ "job": "sweep_uploads" }), "null"),
            "token-expiry" => (json!({ "job": "expire_sessions" }), "null"),
            "webhook-intake" => (webhook(), r#""statusCode":200"#),
            other => return Err(CaseError::Unknown(other.to_owned())),
        };
        Ok(Self { event: event.to_string().into(), answer })
    }
}

/// The app that callbacks are for, as its item.
pub(crate) async fn app(key: KeyFile) -> Result<Map<String, Value>, CaseError> {
    item(&app_named(APP, &Vault::new(Box::new(key))).await?)
}

/// An app that the vault's key opens.
pub(crate) async fn app_named(app_id: &str, vault: &Vault) -> Result<App, CaseError> {
    let app_id = AppId::parse(app_id)?;
    let secrets = AppSecrets {
        app_secret: APP_SECRET.into(),
        encrypt_key: Some(ENCRYPT_KEY.into()),
        verification_token: VERIFICATION_TOKEN.into(),
    };
    let secrets = secrets.seal(&app_id, vault).await?;
    Ok(App {
        app_id,
        name: "Bench".to_owned(),
        kind: AppKind::Custom,
        brand: Brand::Feishu,
        status: AppStatus::Enabled,
        operator_chat: None,
        privacy_url: None,
        secrets,
        created_at: OffsetDateTime::UNIX_EPOCH,
        created_by: "bench".to_owned(),
        updated_at: OffsetDateTime::UNIX_EPOCH,
        updated_by: "bench".to_owned(),
        version: 1,
    })
}

/// The client that asks for tokens, as its item.
pub(crate) fn client() -> Result<Map<String, Value>, CaseError> {
    let now = OffsetDateTime::UNIX_EPOCH;
    item(&Client {
        client_id: ClientId::parse(CLIENT)?,
        name: "Bench".to_owned(),
        user_id: UserId::parse(USER)?,
        tenant_id: TenantId::parse("bench")?,
        scopes: Scope::ALL.into(),
        secrets: vec![ClientSecret { hash: RefreshKeys.hash(CLIENT_SECRET), created_at: now }],
        rate: Some(1_000_000),
        disabled: false,
        created_at: now,
        created_by: "bench".to_owned(),
        updated_at: now,
        updated_by: "bench".to_owned(),
        version: 1,
    })
}

/// Who calls, unless a benchmark has several people.
pub(crate) const USER: &str = "bench";

/// An access token of that client for a person, for as long as a benchmark may take.
pub(crate) async fn access_token(signer: &dyn TokenSigner, user: &str) -> Result<String, CaseError> {
    let issued_at = OffsetDateTime::UNIX_EPOCH;
    let caller = Caller {
        client_id: ClientId::parse(CLIENT)?,
        user_id: UserId::parse(user)?,
        tenant_id: TenantId::parse("bench")?,
        scopes: Scope::ALL.into(),
        session_id: FamilyId::parse(SESSION)?,
        expires_at: issued_at + Duration::days(365 * 100),
        rate: Some(1_000_000),
    };
    let token = AccessToken { issuer: PUBLIC_URL.to_owned(), caller, issued_at, token_id: "bench".to_owned() };
    Ok(signer.sign(&token).await?.expose_secret().to_owned())
}

/// The source whose events are posted, as its item.
pub(crate) fn source() -> Result<Map<String, Value>, CaseError> {
    let now = OffsetDateTime::UNIX_EPOCH;
    item(&Source {
        name: SourceName::parse("wechat")?,
        mapping: Mapping::Wechat,
        mask: false,
        keys: vec![SourceKey { hash: RefreshKeys.hash(WEBHOOK_KEY), created_at: now }],
        created_at: now,
        created_by: "bench".to_owned(),
        updated_at: now,
        updated_by: "bench".to_owned(),
        version: 1,
    })
}

/// An entity in DynamoDB's JSON.
fn item(entity: &impl Serialize) -> Result<Map<String, Value>, CaseError> {
    let fields: Map<String, Value> = serde_json::from_value(serde_json::to_value(entity)?)?;
    Ok(fields.into_iter().map(|(name, value)| (name, attribute(value))).collect())
}

fn attribute(value: Value) -> Value {
    match value {
        Value::Null => json!({ "NULL": true }),
        Value::Bool(truth) => json!({ "BOOL": truth }),
        Value::Number(number) => json!({ "N": number.to_string() }),
        Value::String(text) => json!({ "S": text }),
        Value::Array(items) => json!({ "L": items.into_iter().map(attribute).collect::<Vec<_>>() }),
        Value::Object(fields) => {
            let fields: Map<String, Value> = fields.into_iter().map(|(name, value)| (name, attribute(value))).collect();
            json!({ "M": fields })
        }
    }
}

/// What an HTTP API (payload 2.0) sends.
pub(crate) fn http(method: &str, path: &str, path_parameters: &Value, headers: &Value, body: Option<&str>) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": headers,
        "pathParameters": path_parameters,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "bench",
            "domainName": "bench.execute-api.us-east-1.amazonaws.com",
            "domainPrefix": "bench",
            "http": {
                "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "bench",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "10/Mar/2026:05:16:23 +0000",
            "timeEpoch": 1_773_119_783_390_u64,
        },
        "body": body,
        "isBase64Encoded": false,
    })
}

fn get(path: &str, path_parameters: &Value) -> Value {
    http("GET", path, path_parameters, &json!({ "host": "bench.execute-api.us-east-1.amazonaws.com" }), None)
}

/// A push as it arrives.
pub(crate) struct Push {
    pub(crate) timestamp: &'static str,
    pub(crate) nonce: &'static str,
    pub(crate) signature: String,
    pub(crate) body: String,
}

/// What the app of every case shares with the vendor.
pub(crate) fn keys() -> Keys {
    Keys {
        app_id: APP.to_owned(),
        encrypt_key: Some(ENCRYPT_KEY.into()),
        verification_token: VERIFICATION_TOKEN.into(),
    }
}

/// A click on a card, encrypted and signed as the vendor does it.
pub(crate) fn push() -> Push {
    push_of(&keys(), 1)
}

/// One of many clicks on cards of an app.
pub(crate) fn push_of(keys: &Keys, number: u32) -> Push {
    let encrypt_key = keys.encrypt_key.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
    let click = json!({
        "schema": "2.0",
        "header": {
            "event_id": format!("f7984f25108f8137722bb63c{number:08x}"), "token": keys.verification_token.expose_secret(),
            "create_time": "1603977298000000", "event_type": "card.action.trigger", "tenant_key": "2df73991750",
            "app_id": keys.app_id,
        },
        "event": {
            "operator": { "tenant_key": "2df73991750", "user_id": "867", "open_id": "ou_1", "union_id": "on_1" },
            "token": "c-295ee57216a5dc9de90fefd0aadb4b1d7d000001",
            "action": {
                "tag": "button", "name": "authorize", "timezone": "Asia/Shanghai",
                "value": { "skylark": "authorize", "session_id": SESSION },
            },
            "host": "im_message",
            "context": { "open_message_id": "om_1", "open_chat_id": "oc_1" },
        },
    });
    let encrypted = lark::signature::encrypt(encrypt_key, [7; 16], click.to_string().as_bytes());
    let body = json!({ "encrypt": encrypted }).to_string();
    let (timestamp, nonce) = ("1603977298", "1048576");
    let signature = lark::signature::sha256_hex(timestamp, nonce, encrypt_key, body.as_bytes());
    Push { timestamp, nonce, signature, body }
}

/// The click behind the API. It is accepted and a bell is rung for it.
fn click() -> Value {
    let push = push();
    let headers = json!({
        "content-type": "application/json",
        "x-lark-request-timestamp": push.timestamp,
        "x-lark-request-nonce": push.nonce,
        "x-lark-signature": push.signature,
    });
    http("POST", "/lark/cli_bench/callback", &json!({ "app_id": APP }), &headers, Some(&push.body))
}

/// A service asks what a person granted: its token is verified, the person's record read.
fn token_status(token: &str) -> Value {
    let parameters = json!({ "app_id": APP, "open_id": "ou_1" });
    let headers =
        json!({ "authorization": format!("Bearer {token}"), "host": "bench.execute-api.us-east-1.amazonaws.com" });
    http("GET", "/v1/lark/cli_bench/users/ou_1/token", &parameters, &headers, None)
}

/// Somebody who is in no conversation looks at theirs; what messages cost is a benchmark of its own.
fn conversations(token: &str) -> Value {
    let headers =
        json!({ "authorization": format!("Bearer {token}"), "host": "bench.execute-api.us-east-1.amazonaws.com" });
    http("GET", "/v1/conversations", &Value::Null, &headers, None)
}

/// How an upload stands that the table does not have.
fn upload_status(token: &str) -> Value {
    let headers =
        json!({ "authorization": format!("Bearer {token}"), "host": "bench.execute-api.us-east-1.amazonaws.com" });
    let path = format!("/v1/files/{SESSION}/status");
    http("GET", &path, &json!({ "upload_id": SESSION }), &headers, None)
}

/// A message that an empty lake does not have.
fn unknown_message(token: &str) -> Value {
    let headers =
        json!({ "authorization": format!("Bearer {token}"), "host": "bench.execute-api.us-east-1.amazonaws.com" });
    http("GET", "/v1/lake/messages/7428190284", &json!({ "msg_id": "7428190284" }), &headers, None)
}

/// A job for an upload that the table does not have.
fn unknown_upload() -> Result<Value, CaseError> {
    let job = MergeJob::first(&UploadId::parse(SESSION)?, Vec::new());
    Ok(delivered(&serde_json::to_string(&job)?, &job.deduplication_id(), &job.deduplication_id()))
}

/// A client logs in: its limits are counted, a token is signed and its family stored.
fn log_in() -> Value {
    let body = json!({ "grant_type": "client_credentials", "client_id": CLIENT, "client_secret": CLIENT_SECRET });
    let headers = json!({ "content-type": "application/json", "host": "bench.execute-api.us-east-1.amazonaws.com" });
    http("POST", "/auth/token", &Value::Null, &headers, Some(&body.to_string()))
}

/// A message that a source posts.
fn webhook() -> Value {
    let message = json!({ "guid": "bench", "notify_type": 1010, "data": {
        "msg_id": "4611686018427387904", "msg_type": 1, "create_time": 1_700_000_000, "from_username": "wxid_ann", "to_username": "wxid_me",
        "chatroom": "", "chatroom_sender": "", "is_chatroom_msg": 0, "content": "周会改到三点", "desc": "", "source": "<msgsource />",
    } });
    let headers = json!({ "content-type": "application/json", "x-webhook-key": WEBHOOK_KEY });
    http("POST", "/webhook/wechat", &json!({ "source": "wechat" }), &headers, Some(&message.to_string()))
}

fn sample(event: &str) -> Result<Value, CaseError> {
    Ok(serde_json::from_str(event)?)
}

const SESSION: &str = "0d6a7f0a-95d3-4a5e-8d4b-4f6b5b8f2c11";

/// A bell for a session that the table does not have.
fn unknown_session() -> Result<Value, CaseError> {
    let bell = Doorbell::Card { session_id: SessionId::parse(SESSION)?, version: 1 };
    Ok(delivered(&serde_json::to_string(&bell)?, &bell.group(), &bell.deduplication_id()))
}

/// A bell for a conversation that the table does not have.
fn unknown_conversation() -> Result<Value, CaseError> {
    let (conversation_id, channel) = (ConversationId::parse(SESSION)?, ChannelName::parse("lark")?);
    let bell = ChannelBell { conversation_id, channel, seq: 1 };
    Ok(delivered(&serde_json::to_string(&bell)?, &bell.group(), &bell.deduplication_id()))
}

/// One message of a FIFO queue.
fn delivered(body: &str, group: &str, deduplication_id: &str) -> Value {
    json!({ "Records": [{
        "messageId": "19dd0b57-b21e-4ac1-bd88-01bbb068cb78",
        "receiptHandle": "MessageReceiptHandle",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "1", "SentTimestamp": "1523232000000", "SenderId": "123456789012",
            "ApproximateFirstReceiveTimestamp": "1523232000001", "SequenceNumber": "18849496460467696128",
            "MessageGroupId": group, "MessageDeduplicationId": deduplication_id,
        },
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:work.fifo",
        "awsRegion": "us-east-1",
    }] })
}

/// What S3 sends to a queue that it is told of, which is no event.
fn nothing_to_append() -> Value {
    json!({ "Records": [{
        "messageId": "19dd0b57-b21e-4ac1-bd88-01bbb068cb78",
        "receiptHandle": "MessageReceiptHandle",
        "body": r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"lake"}"#,
        "attributes": { "ApproximateReceiveCount": "1", "SentTimestamp": "1523232000000" },
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:lake",
        "awsRegion": "us-east-1",
    }] })
}

/// A new inbox entry, which rings the bell.
fn accepted_event() -> Result<Value, CaseError> {
    let entry = Entry {
        app_id: AppId::parse(APP)?,
        event_id: EventId::parse("f7984f25108f8137722bb63c00000001")?,
        kind: EntryKind::Event,
        group: "oc_1".to_owned(),
        payload: "{}".to_owned(),
        received_at: OffsetDateTime::UNIX_EPOCH,
    };
    let mut image = item(&entry)?;
    image.insert("entity".to_owned(), json!({ "S": "inbox" }));
    Ok(json!({ "Records": [{
        "eventID": "c4ca4238a0b923820dcc509a6f75849b",
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_773_119_783,
            "Keys": { "pk": { "S": "INBOX#cli_bench#f7984f25108f8137722bb63c00000001" }, "sk": { "S": "INBOX" } },
            "NewImage": image,
            "SequenceNumber": "4421584500000000017450439091",
            "SizeBytes": 200,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/lark/stream/2026-01-01T00:00:00.000",
    }] }))
}
