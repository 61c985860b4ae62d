//! Values that tests share.

use domain::access::Scope;
use domain::app::{App, AppKind, AppSecrets, AppStatus, Brand};
use domain::chat::{Conversation, ConversationKind, Draft, NewConversation, Payload, Priority};
use domain::id::{
    AppId, ChatMessageId, ClientId, ConversationId, EventId, FamilyId, FileId, OpenId, SessionId, TenantId, UploadId,
    UserId,
};
use domain::inbox::{Entry, EntryKind};
use domain::lake::source::{Mapping, Source, SourceKey, SourceName};
use domain::oauth::{Client, ClientSecret, FAMILY_LIFE, Family, SecretHash};
use domain::seal::Sealed;
use domain::session::{Attempt, CardStyle, Session, SessionRequest};
use domain::tenant_token::TenantToken;
use domain::token::{Profile, TokenPair, UserToken};
use domain::upload::checksum::Crc64;
use domain::upload::file::{Content, StoredFile};
use domain::upload::plan::CHUNK_BYTES;
use domain::upload::{Origin, Status, Upload};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::PlainSealer;

/// What callbacks of [`openable_app`] are encrypted and signed with.
pub const ENCRYPT_KEY: &str = "密钥 🔑";

/// The verification token of [`openable_app`].
pub const VERIFICATION_TOKEN: &str = "verification-token";

/// Whole seconds, as DynamoDB compares them.
pub const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);

#[must_use]
pub fn app_id(id: &str) -> AppId {
    AppId::parse(id).unwrap()
}

#[must_use]
pub fn open_id(id: &str) -> OpenId {
    OpenId::parse(id).unwrap()
}

#[must_use]
pub fn session_id(n: u32) -> SessionId {
    SessionId::parse(format!("00000000-0000-4000-8000-{n:012x}")).unwrap()
}

#[must_use]
pub fn app(id: &str) -> App {
    App {
        app_id: app_id(id),
        name: "考勤助手 🕘".to_owned(),
        kind: AppKind::Custom,
        brand: Brand::Feishu,
        status: AppStatus::Enabled,
        operator_chat: None,
        privacy_url: None,
        secrets: Sealed("{}".to_owned()),
        created_at: NOW,
        created_by: "ann".to_owned(),
        updated_at: NOW,
        updated_by: "ann".to_owned(),
        version: 1,
    }
}

/// An app whose secrets [`PlainSealer`] opens.
pub async fn openable_app(id: &str) -> App {
    let secrets = AppSecrets {
        app_secret: "s3cret".into(),
        encrypt_key: Some(ENCRYPT_KEY.into()),
        verification_token: VERIFICATION_TOKEN.into(),
    };
    let app = app(id);
    App { secrets: secrets.seal(&app.app_id, &PlainSealer).await.unwrap(), ..app }
}

#[must_use]
pub fn entry(app: &str, event: &str) -> Entry {
    Entry {
        app_id: app_id(app),
        event_id: EventId::parse(event).unwrap(),
        kind: EntryKind::Event,
        group: "oc_1".to_owned(),
        payload: r#"{"text":"你好 🙂"}"#.to_owned(),
        received_at: NOW,
    }
}

#[must_use]
pub fn session(n: u32) -> Session {
    let request = SessionRequest {
        app_id: app_id("cli_a"),
        open_id: open_id("ou_ann"),
        scopes: vec!["task:task:read".to_owned()],
        reason: Some("把日程同步到周报 📅".to_owned()),
        style: CardStyle::Detailed,
        template_id: None,
        tenant_key: None,
    };
    Session::open(session_id(n), request, NOW).unwrap()
}

#[must_use]
pub fn token(pair: &str) -> UserToken {
    UserToken {
        app_id: app_id("cli_a"),
        open_id: open_id("ou_ann"),
        profile: Profile { tenant_key: "t1".to_owned(), name: Some("安".to_owned()), ..Profile::default() },
        scopes: vec!["offline_access".to_owned()],
        pair: Sealed(pair.to_owned()),
        session_id: session_id(1),
        version: 1,
        issued_at: NOW,
        access_expires_at: NOW + Duration::hours(2),
        refresh_expires_at: Some(NOW + Duration::days(7)),
        authorized_at: NOW,
        used_at: NOW,
        noticed: None,
        lapsed: None,
        failures: 0,
        retry_at: None,
    }
}

/// A pair that can be refreshed.
#[must_use]
pub fn pair() -> TokenPair {
    TokenPair { access_token: "u1".into(), refresh_token: Some("r1".into()) }
}

/// The token of another person.
#[must_use]
pub fn token_of(person: &str) -> UserToken {
    UserToken { open_id: open_id(person), ..token("sealed") }
}

#[must_use]
pub fn tenant_token(version: u64) -> TenantToken {
    TenantToken {
        app_id: app_id("cli_a"),
        tenant_key: "t1".to_owned(),
        sealed: Sealed(format!("sealed {version}")),
        expires_at: NOW + Duration::hours(2),
        version,
    }
}

#[must_use]
pub fn attempt(state_hash: &str) -> Attempt {
    Attempt {
        state_hash: state_hash.to_owned(),
        session_id: session_id(1),
        app_id: app_id("cli_a"),
        verifier: Sealed("sealed".to_owned()),
        redirect_uri: "https://skylark.example/lark/oauth/callback".to_owned(),
        expires_at: NOW + Duration::minutes(10),
    }
}

#[must_use]
pub fn client(id: &str, secret: SecretHash) -> Client {
    Client {
        client_id: ClientId::parse(id).unwrap(),
        name: "周报服务 📊".to_owned(),
        user_id: UserId::parse("ann").unwrap(),
        tenant_id: TenantId::parse("t1").unwrap(),
        scopes: [Scope::Lark, Scope::Chat].into(),
        secrets: vec![ClientSecret { hash: secret, created_at: NOW }],
        rate: None,
        disabled: false,
        created_at: NOW,
        created_by: "ann".to_owned(),
        updated_at: NOW,
        updated_by: "ann".to_owned(),
        version: 1,
    }
}

#[must_use]
pub fn family_id(n: u32) -> FamilyId {
    FamilyId::parse(format!("00000000-0000-4000-8000-{n:012x}")).unwrap()
}

#[must_use]
pub fn family(n: u32) -> Family {
    Family {
        family_id: family_id(n),
        client_id: ClientId::parse("c1").unwrap(),
        user_id: UserId::parse("ann").unwrap(),
        tenant_id: TenantId::parse("t1").unwrap(),
        scopes: [Scope::Chat].into(),
        anchor: SecretHash("anchor".to_owned()),
        current: SecretHash("r0".to_owned()),
        counter: 0,
        retired: Vec::new(),
        created_at: NOW,
        expires_at: NOW + FAMILY_LIFE,
        revoked_at: None,
    }
}

/// A source of WeChat's form with one key.
#[must_use]
pub fn source(name: &str, hash: SecretHash) -> Source {
    Source {
        name: SourceName::parse(name).unwrap(),
        mapping: Mapping::Wechat,
        mask: false,
        keys: vec![SourceKey { hash, created_at: NOW }],
        created_at: NOW,
        created_by: "ann".to_owned(),
        updated_at: NOW,
        updated_by: "ann".to_owned(),
        version: 1,
    }
}

#[must_use]
pub fn user_id(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

#[must_use]
pub fn tenant_id() -> TenantId {
    TenantId::parse("acme").unwrap()
}

#[must_use]
pub fn conversation_id(n: u32) -> ConversationId {
    ConversationId::parse(format!("00000000-0000-4000-8000-{n:012x}")).unwrap()
}

/// A conversation of these people, who are two or a group.
#[must_use]
pub fn conversation(n: u32, members: &[&str]) -> Conversation {
    let kind = if members.len() == 2 { ConversationKind::Private } else { ConversationKind::Group };
    let metadata = serde_json::Map::from_iter([("标题".to_owned(), "考勤 🕘".into())]);
    let members: Vec<UserId> = members.iter().map(|id| user_id(id)).collect();
    let first = members[0].clone();
    NewConversation { kind, members, metadata, channels: Vec::new() }.open(conversation_id(n), tenant_id(), first, NOW)
}

/// A draft under the sender's `n`th name for a message.
#[must_use]
pub fn draft(conversation: &Conversation, from: &str, n: u32, text: &str) -> Draft {
    let draft = Draft {
        tenant_id: conversation.tenant_id.clone(),
        conversation_id: conversation.conversation_id.clone(),
        message_id: ChatMessageId::parse(format!("00000000-0000-4000-9000-{n:012x}")).unwrap(),
        from: user_id(from),
        payload: Payload::Text { text: text.to_owned() },
        channels: None,
        priority: Priority::Normal,
        digest: String::new(),
    };
    Draft { digest: draft.wording(), ..draft }
}

#[must_use]
pub fn upload_id(n: u32) -> UploadId {
    UploadId::parse(format!("00000000-0000-4000-b000-{n:012x}")).unwrap()
}

#[must_use]
pub fn file_id(n: u32) -> FileId {
    FileId::parse(format!("00000000-0000-4000-9000-{n:012x}")).unwrap()
}

/// Ann's upload of three bytes into a conversation.
#[must_use]
pub fn upload(n: u32) -> Upload {
    Upload {
        upload_id: upload_id(n),
        file_id: file_id(n),
        tenant_id: tenant_id(),
        user_id: user_id("ann"),
        conversation_id: conversation_id(1),
        filename: "周报 📄.pdf".to_owned(),
        mime_type: "application/pdf".to_owned(),
        file_size: 3,
        origin: Origin::Client { chunk_size: CHUNK_BYTES },
        total_chunks: 1,
        checksum_crc64nvme: Some(Crc64::of(b"abc")),
        checksum_sha256: None,
        multipart_id: format!("multipart-{n}"),
        status: Status::Uploading,
        failure: None,
        created_at: NOW,
        touched_at: NOW,
        version: 1,
    }
}

/// The file of [`upload`], whose content is that of all of them.
#[must_use]
pub fn file(n: u32) -> StoredFile {
    let upload = upload(n);
    StoredFile {
        file_id: upload.file_id,
        upload_id: upload.upload_id,
        tenant_id: upload.tenant_id,
        user_id: upload.user_id,
        conversation_id: upload.conversation_id,
        filename: upload.filename,
        mime_type: upload.mime_type,
        file_size: upload.file_size,
        checksum_crc64nvme: Crc64::of(b"abc"),
        checksum_sha256: None,
        content_id: Content::id_of(Crc64::of(b"abc"), 3),
        object_key: "u/acme/content".to_owned(),
        completed_at: NOW,
    }
}
