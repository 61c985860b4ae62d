//! `/v1/conversations`, `/v1/messages` and `/v1/ws-tickets`.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use domain::access::{AccessFault, Caller, Scope};
use domain::chat::{
    Channel, ChatFault, Committed, Conversation, ConversationKind, ConversationStore, Created, Draft, FileCatalog,
    Joined, Message, MessageStore, NewConversation, Payload, Priority, Progress, Recent,
};
use domain::fault::{Fault, PortFault, Refusal, Remedy, chain};
use domain::id::{ChannelName, ChatMessageId, ConversationId, FileId, IdError, UserId};
use domain::limit::LimitFault;
use domain::push::{Audience, Frame, PushJob, PushQueue};
use domain::socket::{Holder, TICKET_LIFE, Ticket, TicketStore};
use lambda_kit::http::{self, BadRequest, Fields, Gate, Request, RequestExt as _, Response, StatusCode};
use lambda_kit::random;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// No request is larger: a text that is too long is told so, and not only that its request is.
const MAX_BODY: usize = 2 * 1024 * 1024;

/// How many items a page has, unless fewer are asked for.
const PAGE: u64 = 50;

/// How many items a page has at most.
const MAX_PAGE: u64 = 100;

/// How long an answer waits for the bell. What is not rung in time is rung for by the stream.
const BELL_PATIENCE: Duration = Duration::from_millis(150);

const REPLAY: &str = "idempotent-replay";

/// What a list of user ids must be.
const USER_IDS: &str = "a list of user ids, each of 1 to 128 letters, digits, `_`, `-` or `.`";

/// What requests are answered with.
pub(crate) struct Chat {
    pub(crate) conversations: Arc<dyn ConversationStore>,
    pub(crate) messages: Arc<dyn MessageStore>,
    pub(crate) files: Arc<dyn FileCatalog>,
    pub(crate) tickets: Arc<dyn TicketStore>,
    pub(crate) push: Arc<dyn PushQueue>,
}

pub(crate) async fn answer(
    gate: &Gate,
    chat: &Chat,
    request: Request,
    now: OffsetDateTime,
) -> Result<Response, Stopped> {
    let caller = gate.enter::<Stopped>(&request, Scope::Chat, "chat", now).await?;
    let path = request.raw_http_path().to_owned();
    let segments: Vec<&str> = path.strip_prefix("/v1/").unwrap_or_default().split('/').collect();
    match (request.method().as_str(), segments.as_slice()) {
        ("POST", ["conversations"]) => chat.open(&caller, &request, now).await,
        ("GET", ["conversations"]) => chat.list(&caller, &request).await,
        ("POST", ["messages"]) => chat.send(&caller, &request, now).await,
        ("POST", ["ws-tickets"]) => chat.ticket(&caller, now).await,
        ("GET", ["conversations", id, "messages"]) => chat.history(&caller, &request, id).await,
        ("POST", ["conversations", id, "read"]) => chat.read(&caller, &request, id, now).await,
        _ => Err(Stopped::NoRoute),
    }
}

impl Chat {
    async fn open(&self, caller: &Caller, request: &Request, now: OffsetDateTime) -> Result<Response, Stopped> {
        let new = new_conversation(request)?;
        if !new.members.contains(&caller.user_id) {
            return Err(ChatFault::NotAmongMembers.into());
        }
        let id = ConversationId::from(random::uuid());
        let conversation = new.open(id, caller.tenant_id.clone(), caller.user_id.clone(), now);
        match self.conversations.create(&conversation).await? {
            Created::New => Ok(http::json(StatusCode::CREATED, &conversation_view(&conversation))),
            Created::Before(before) => Ok(http::json(StatusCode::OK, &conversation_view(&before))),
        }
    }

    async fn list(&self, caller: &Caller, request: &Request) -> Result<Response, Stopped> {
        let mut query = Fields::of_query(request);
        let (limit, offset) = (query.number("limit", 1..=MAX_PAGE), query.number("offset", 0..=u64::MAX));
        query.done()?;
        let (limit, offset) = (limit.unwrap_or(PAGE), offset.unwrap_or_default());
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let Recent { page, total } =
            self.conversations.recent(&caller.tenant_id, &caller.user_id, skip, limit as usize).await?;
        let items: Vec<Value> = page.iter().map(|it| item_view(it, &caller.user_id)).collect();
        let has_more = skip.saturating_add(items.len()) < total;
        let answer = json!({ "items": items, "total": total, "limit": limit, "offset": offset, "has_more": has_more });
        Ok(http::json(StatusCode::OK, &answer))
    }

    /// Once the message is committed the answer is 202, whatever becomes of the bell.
    async fn send(&self, caller: &Caller, request: &Request, now: OffsetDateTime) -> Result<Response, Stopped> {
        let draft = draft(caller, request)?;
        draft.check()?;
        if let Payload::File { file_id } = &draft.payload
            && !self.files.ready(&draft.tenant_id, &draft.conversation_id, file_id).await?
        {
            return Err(ChatFault::FileNotReady.into());
        }
        let told = |seq: u64| json!({ "status": "accepted", "message_id": draft.message_id, "seq": seq });
        match self.messages.commit(&draft, now).await? {
            Committed::New(message) => {
                self.soon("ring", self.push.ring(&message.conversation_id, message.seq)).await;
                Ok(http::json(StatusCode::ACCEPTED, &told(message.seq)))
            }
            Committed::Before { seq } => {
                let mut response = http::json(StatusCode::OK, &told(seq));
                response.headers_mut().insert(REPLAY, http::header::HeaderValue::from_static("true"));
                Ok(response)
            }
        }
    }

    async fn history(&self, caller: &Caller, request: &Request, id: &str) -> Result<Response, Stopped> {
        let mut query = Fields::of_query(request);
        let (limit, offset) = (query.number("limit", 1..=MAX_PAGE), query.number("offset", 0..=u64::MAX));
        let after_seq = query.number("after_seq", 0..=u64::MAX);
        if after_seq.is_some() && offset.is_some() {
            query.refuse("offset", "cannot be used with `after_seq`");
        }
        let each = query.take("recipients", "true or false", |value| value.as_str()?.parse().ok()).unwrap_or(false);
        query.done()?;
        let (limit, offset) = (limit.unwrap_or(PAGE), offset.unwrap_or_default());
        let conversation = self.as_member(caller, id).await?;
        let (id, total) = (&conversation.conversation_id, conversation.seq);
        let page = async {
            match after_seq {
                Some(after_seq) => self.messages.range(id, after_seq, limit as u32).await,
                None => self.messages.range_back(id, total.saturating_sub(offset) + 1, limit as u32).await,
            }
        };
        let (messages, progress) = tokio::try_join!(page, self.conversations.progress(&conversation))?;
        let has_more = match after_seq {
            Some(after_seq) => messages.last().map_or(after_seq, |last| last.seq) < total,
            None => messages.last().is_some_and(|last| last.seq > 1),
        };
        let view = |message: &Message| message_view(message, &conversation, &progress, each);
        let answer = json!({
            "conversation_id": id,
            "messages": messages.iter().map(view).collect::<Vec<_>>(),
            "total": total,
            "limit": limit,
            "offset": offset,
            "has_more": has_more,
        });
        Ok(http::json(StatusCode::OK, &answer))
    }

    async fn read(
        &self,
        caller: &Caller,
        request: &Request,
        id: &str,
        now: OffsetDateTime,
    ) -> Result<Response, Stopped> {
        let mut fields = Fields::of_body(request, MAX_BODY)?;
        let seq = fields.number("seq", 0..=u64::MAX);
        fields.done()?;
        let conversation = self.as_member(caller, id).await?;
        let seq = seq.unwrap_or(conversation.seq);
        if seq > conversation.seq {
            let last = conversation.seq;
            return Err(BadRequest::field("seq", format!("must be at most {last}, the last message's number")).into());
        }
        let user = &caller.user_id;
        let mark = self.conversations.mark_read(&conversation, user, seq).await?;
        let read_seq = conversation.read_seq(user, mark.marked);
        if mark.moved {
            let id = &conversation.conversation_id;
            let frame = Frame::conversation_read(id, user, read_seq, now);
            let job = PushJob::Tell { conversation_id: id.clone(), to: Audience::But(user.clone()), frame };
            self.soon("tell", self.push.tell(&job, &format!("read#{user}#{seq}"))).await;
        }
        let unread = conversation.unread(user, mark.marked);
        Ok(http::json(StatusCode::OK, &json!({ "read_seq": read_seq, "unread_count": unread })))
    }

    /// A ticket for one socket. Only its hash is kept.
    async fn ticket(&self, caller: &Caller, now: OffsetDateTime) -> Result<Response, Stopped> {
        let secret = random::secret().map_err(|_| Stopped::NoRandomness)?;
        self.tickets.keep(&Ticket::issue(random::hash(&secret), Holder::of(caller), now)).await?;
        let answer = json!({ "ticket": secret, "expires_in": TICKET_LIFE.whole_seconds() });
        let mut response = http::json(StatusCode::OK, &answer);
        response.headers_mut().insert(http::header::CACHE_CONTROL, http::header::HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// The conversation, for one of its members.
    async fn as_member(&self, caller: &Caller, id: &str) -> Result<Conversation, Stopped> {
        let found = self.conversations.conversation(&ConversationId::parse(id)?).await?;
        let found = found.filter(|it| it.tenant_id == caller.tenant_id).ok_or(ChatFault::NoConversation)?;
        if found.members.contains(&caller.user_id) { Ok(found) } else { Err(ChatFault::NotAMember.into()) }
    }

    /// Does what can be done later by others, and not for long.
    async fn soon(&self, what: &'static str, done: impl Future<Output = Result<(), PortFault>>) {
        match tokio::time::timeout(BELL_PATIENCE, done).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => tracing::warn!(error = %chain(&fault), "The push queue did not take a `{what}`"),
            Err(_) => tracing::warn!("The push queue is slow to take a `{what}`"),
        }
    }
}

fn new_conversation(request: &Request) -> Result<NewConversation, Stopped> {
    let mut fields = Fields::of_body(request, MAX_BODY)?;
    let kind = fields.need("type", "`private` or `group`", |value| match value.as_str()? {
        "private" => Some(ConversationKind::Private),
        "group" => Some(ConversationKind::Group),
        _ => None,
    });
    let members = fields.need("members", USER_IDS, |value| {
        value.as_array()?.iter().map(|id| UserId::parse(id.as_str()?).ok()).collect::<Option<Vec<UserId>>>()
    });
    let metadata = fields.take("metadata", "a JSON object", |value| value.as_object().cloned());
    let channels = fields.take("channels", "a list of channels, each with its `name` and an `address`", |value| {
        value.as_array()?.iter().map(|it| serde_json::from_value(it.clone()).ok()).collect::<Option<Vec<Channel>>>()
    });
    let (Some(kind), Some(members)) = (kind, members) else { return Err(refused(fields)) };
    let (metadata, channels) = (metadata.unwrap_or_default(), channels.unwrap_or_default());
    let new = NewConversation { kind, members, metadata, channels };
    for (field, why) in new.faults() {
        fields.refuse(field, why);
    }
    fields.done()?;
    Ok(new)
}

fn draft(caller: &Caller, request: &Request) -> Result<Draft, Stopped> {
    let mut fields = Fields::of_body(request, MAX_BODY)?;
    let message_id = fields.need("message_id", "a UUID", |value| ChatMessageId::parse(value.as_str()?).ok());
    let conversation_id = fields.need("conversation_id", "a UUID", |value| ConversationId::parse(value.as_str()?).ok());
    let payload = payload(&mut fields);
    let channels = fields.take("channels", "a list of the conversation's channels, or of `all`", |value| {
        let names = value.as_array()?.iter().map(|name| ChannelName::parse(name.as_str()?).ok());
        names.collect::<Option<BTreeSet<ChannelName>>>()
    });
    let priority = fields
        .take("priority", "`low`, `normal` or `high`", |value| serde_json::from_value::<Priority>(value.clone()).ok());
    let from = fields.text("from");
    let (Some(message_id), Some(conversation_id), Some(payload)) = (message_id, conversation_id, payload) else {
        return Err(refused(fields));
    };
    fields.done()?;
    if from.is_some_and(|from| from != caller.user_id.as_str()) {
        return Err(ChatFault::ForeignSender.into());
    }
    let draft = Draft {
        tenant_id: caller.tenant_id.clone(),
        conversation_id,
        message_id,
        from: caller.user_id.clone(),
        payload,
        channels,
        priority: priority.unwrap_or_default(),
        digest: String::new(),
    };
    Ok(Draft { digest: random::hash(&draft.wording()), ..draft })
}

fn payload(fields: &mut Fields) -> Option<Payload> {
    let payload = fields.need("payload", "an object", |value| value.as_object().cloned())?;
    let text = |name: &str| payload.get(name).and_then(Value::as_str);
    match text("type") {
        Some("text") => match text("text") {
            Some(text) => return Some(Payload::Text { text: text.to_owned() }),
            None => fields.refuse("payload.text", "must be a text"),
        },
        Some("file") => match text("file_id").map(FileId::parse) {
            Some(Ok(file_id)) => return Some(Payload::File { file_id }),
            _ => fields.refuse("payload.file_id", "must be a UUID"),
        },
        _ => fields.refuse("payload.type", "must be `text` or `file`"),
    }
    None
}

/// The fault of fields of which one is missing.
fn refused(fields: Fields) -> Stopped {
    fields.done().err().unwrap_or_else(|| BadRequest::field("body", "is not complete")).into()
}

fn instant(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}

fn conversation_view(conversation: &Conversation) -> Value {
    json!({
        "conversation_id": conversation.conversation_id,
        "type": conversation.kind,
        "members": conversation.members,
        "metadata": conversation.metadata,
        "channels": conversation.channels,
        "created_by": conversation.created_by,
        "created_at": instant(conversation.created_at),
        "last_seq": conversation.seq,
    })
}

fn item_view(joined: &Joined, user: &UserId) -> Value {
    let conversation = &joined.conversation;
    json!({
        "conversation_id": conversation.conversation_id,
        "type": conversation.kind,
        "members": conversation.members,
        "metadata": conversation.metadata,
        "last_message": conversation.last_message,
        "last_message_at": conversation.last_message.as_ref().and_then(|last| instant(last.created_at)),
        "unread_count": conversation.unread(user, joined.marked),
        "last_seq": conversation.seq,
    })
}

fn message_view(message: &Message, conversation: &Conversation, progress: &Progress, each: bool) -> Value {
    let others = conversation.members.iter().filter(|user| **user != message.from);
    let status = |user: &UserId| json!({ "user_id": user, "status": progress.for_member(message.seq, user) });
    let recipients = each.then(|| ("recipients".to_owned(), others.map(status).collect::<Value>()));
    let view = json!({
        "message_id": message.message_id,
        "seq": message.seq,
        "from": message.from,
        "payload": message.payload,
        "priority": message.priority,
        "status": progress.status(message),
        "created_at": instant(message.created_at),
    });
    match view {
        Value::Object(fields) => Value::Object(fields.into_iter().chain(recipients).collect()),
        other => other,
    }
}

/// Why a request came no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    #[error(transparent)]
    Access(#[from] AccessFault),
    #[error(transparent)]
    Limit(#[from] LimitFault),
    #[error(transparent)]
    Request(#[from] BadRequest),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Chat(#[from] ChatFault),
    #[error("a store failed")]
    Store(#[from] PortFault),
    #[error("no randomness")]
    NoRandomness,
    #[error("there is nothing at this path")]
    NoRoute,
}

impl Stopped {
    /// The fault that this is.
    fn inner(&self) -> Option<&dyn Fault> {
        match self {
            Self::Access(fault) => Some(fault),
            Self::Limit(fault) => Some(fault),
            Self::Request(fault) => Some(fault),
            Self::Chat(fault) => Some(fault),
            Self::Store(fault) => Some(fault),
            Self::Id(_) | Self::NoRandomness | Self::NoRoute => None,
        }
    }
}

impl Fault for Stopped {
    fn remedy(&self) -> Remedy {
        match (self, self.inner()) {
            (_, Some(fault)) => fault.remedy(),
            (Self::Id(_), None) => Remedy::Reject(Refusal::Invalid),
            (Self::NoRandomness, None) => Remedy::Bug,
            (_, None) => Remedy::Reject(Refusal::Unknown),
        }
    }

    fn code(&self) -> &'static str {
        match (self, self.inner()) {
            (_, Some(fault)) => fault.code(),
            (Self::Id(_), None) => "invalid_request",
            (Self::NoRandomness, None) => "internal_error",
            (_, None) => "not_found",
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Id(error) => vec![(error.field, format!("must be {}", error.expected))],
            _ => self.inner().map(Fault::fields).unwrap_or_default(),
        }
    }

    fn challenge(&self) -> Option<String> {
        self.inner().and_then(Fault::challenge)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use domain::access::{AccessToken, TokenSigner as _};
    use domain::id::{ClientId, FamilyId};
    use domain::push::FrameKind;
    use lambda_kit::http::Method;
    use secrecy::ExposeSecret as _;
    use testkit::sample::{NOW, conversation, session_id, tenant_id, user_id};
    use testkit::{MemoryChat, MemoryLimiter, MemoryRoom, MemoryTokens};

    use super::*;

    /// A push queue that can be down, and can never answer.
    #[derive(Default)]
    struct Bell {
        down: AtomicBool,
        stuck: AtomicBool,
        jobs: Mutex<Vec<(PushJob, String)>>,
    }

    #[async_trait::async_trait]
    impl PushQueue for Bell {
        async fn ring(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault> {
            self.tell(&PushJob::Drain { conversation_id: conversation_id.clone(), seq }, "").await
        }

        async fn tell(&self, job: &PushJob, once: &str) -> Result<(), PortFault> {
            if self.stuck.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.down.load(Ordering::SeqCst) {
                return Err(PortFault::Unavailable { operation: "tell", cause: "switched off".into() });
            }
            self.jobs.lock().unwrap().push((job.clone(), once.to_owned()));
            Ok(())
        }
    }

    struct World {
        gate: Gate,
        chat: Chat,
        memory: Arc<MemoryChat>,
        room: Arc<MemoryRoom>,
        bell: Arc<Bell>,
        token: String,
    }

    /// Ann, in a private conversation with Bob.
    async fn world() -> World {
        let (memory, bell, tokens) =
            (Arc::<MemoryChat>::default(), Arc::<Bell>::default(), Arc::<MemoryTokens>::default());
        let caller = Caller {
            client_id: ClientId::parse("c1").unwrap(),
            user_id: user_id("ann"),
            tenant_id: tenant_id(),
            scopes: [Scope::Chat].into(),
            session_id: FamilyId::parse(session_id(7).as_str()).unwrap(),
            expires_at: NOW + time::Duration::days(1),
            rate: None,
        };
        let token = AccessToken { issuer: String::new(), caller, issued_at: NOW, token_id: String::new() };
        let token = tokens.sign(&token).await.unwrap().expose_secret().to_owned();
        memory.create(&conversation(1, &["ann", "bob"])).await.unwrap();
        let room = Arc::<MemoryRoom>::default();
        let chat = Chat {
            conversations: memory.clone(),
            messages: memory.clone(),
            files: memory.clone(),
            tickets: room.clone(),
            push: bell.clone(),
        };
        World { gate: Gate::new(tokens, Arc::new(MemoryLimiter::default())), chat, memory, room, bell, token }
    }

    impl World {
        async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
            let mut request = Request::new(body.map(|body| body.to_string()).unwrap_or_default().into());
            *request.method_mut() = method;
            *request.uri_mut() = format!("https://api.example{path}").parse().unwrap();
            request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
            let request = request.with_raw_http_path(path.split('?').next().unwrap());
            match answer(&self.gate, &self.chat, request, NOW).await {
                Ok(response) => (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap()),
                Err(stopped) => (http::status(&stopped).as_u16(), json!({ "error": stopped.code() })),
            }
        }

        async fn post(&self, path: &str, body: Value) -> (u16, Value) {
            self.call(Method::POST, path, Some(body)).await
        }

        async fn say(&self, n: u32, payload: Value) -> (u16, Value) {
            let id = conversation(1, &["ann", "bob"]).conversation_id;
            let message_id = session_id(n);
            let body = json!({ "message_id": message_id, "conversation_id": id, "payload": payload });
            self.post("/v1/messages", body).await
        }

        fn jobs(&self) -> Vec<(PushJob, String)> {
            std::mem::take(&mut self.bell.jobs.lock().unwrap())
        }
    }

    fn hi() -> Value {
        json!({ "type": "text", "text": "你好 🙂" })
    }

    #[tokio::test]
    async fn a_ticket_is_for_its_callers_login_and_only_its_hash_is_kept() {
        let world = world().await;
        let (status, answer) = world.post("/v1/ws-tickets", json!({})).await;
        assert_eq!((status, &answer["expires_in"]), (200, &json!(30)));
        let secret = answer["ticket"].as_str().unwrap();
        assert_eq!(world.room.take(secret, NOW).await.unwrap(), None);
        let kept = world.room.take(&random::hash(secret), NOW).await.unwrap().unwrap();
        assert_eq!((kept.holder.user_id, kept.holder.session_id.as_str()), (user_id("ann"), session_id(7).as_str()));
        let (_, again) = world.post("/v1/ws-tickets", json!({})).await;
        assert_ne!(again["ticket"], answer["ticket"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_accepted_whatever_becomes_of_the_bell() {
        let world = world().await;
        let id = conversation(1, &["ann", "bob"]).conversation_id;
        assert_eq!(world.say(1, hi()).await.0, 202);
        assert_eq!(world.jobs(), [(PushJob::Drain { conversation_id: id, seq: 1 }, String::new())]);
        world.bell.down.store(true, Ordering::SeqCst);
        assert_eq!(world.say(2, hi()).await.0, 202);
        world.bell.stuck.store(true, Ordering::SeqCst);
        let (status, body) = world.say(3, hi()).await;
        assert_eq!((status, &body["seq"]), (202, &json!(3)));
        assert_eq!(world.say(3, hi()).await, (200, body), "told again, and nobody rings");
    }

    #[tokio::test]
    async fn nothing_is_accepted_while_the_store_is_down() {
        let world = world().await;
        world.memory.down.store(true, Ordering::SeqCst);
        assert_eq!(world.say(1, hi()).await, (503, json!({ "error": "unavailable" })));
        assert_eq!(world.call(Method::GET, "/v1/conversations", None).await.0, 503);
        assert!(world.jobs().is_empty());
        world.memory.down.store(false, Ordering::SeqCst);
        assert_eq!(world.say(1, hi()).await.1["seq"], 1);
    }

    #[tokio::test]
    async fn a_file_is_sent_once_its_upload_is_complete() {
        let world = world().await;
        let file_id = FileId::parse(session_id(70).as_str()).unwrap();
        let file = json!({ "type": "file", "file_id": file_id });
        assert_eq!(world.say(1, file.clone()).await, (409, json!({ "error": "file_not_ready" })));
        world.memory.complete(&conversation(1, &["ann", "bob"]).conversation_id, &file_id);
        assert_eq!(world.say(1, file.clone()).await.0, 202);
        let (_, list) = world.call(Method::GET, "/v1/conversations", None).await;
        assert_eq!(list["items"][0]["last_message"]["payload"], file);
    }

    #[tokio::test]
    async fn the_others_are_told_once_that_somebody_has_read() {
        let world = world().await;
        let bobs = conversation(1, &["ann", "bob"]);
        for n in 1..=3 {
            world.memory.commit(&testkit::sample::draft(&bobs, "bob", n, "hi"), NOW).await.unwrap();
        }
        let path = format!("/v1/conversations/{}/read", bobs.conversation_id);
        assert_eq!(world.post(&path, json!({ "seq": 2 })).await, (200, json!({ "read_seq": 2, "unread_count": 1 })));
        let jobs = world.jobs();
        let [(PushJob::Tell { to, frame, .. }, once)] = jobs.as_slice() else { panic!("{jobs:?}") };
        assert_eq!((to, once.as_str()), (&Audience::But(user_id("ann")), "read#ann#2"));
        assert_eq!((frame.kind, &frame.data["read_seq"]), (FrameKind::ConversationRead, &json!(2)));
        assert_eq!(world.post(&path, json!({ "seq": 1 })).await, (200, json!({ "read_seq": 2, "unread_count": 1 })));
        assert!(world.jobs().is_empty());
        world.bell.stuck.store(true, Ordering::SeqCst);
        assert_eq!(world.post(&path, json!({})).await, (200, json!({ "read_seq": 3, "unread_count": 0 })));
    }

    #[tokio::test]
    async fn a_status_follows_the_message_to_its_readers() {
        let world = world().await;
        let id = conversation(1, &["ann", "bob"]).conversation_id;
        for n in 1..=3 {
            world.say(n, hi()).await;
        }
        world.memory.deliver(&id, &user_id("ann"), 3);
        world.memory.deliver(&id, &user_id("bob"), 2);
        world.memory.mark_read(&conversation(1, &["ann", "bob"]), &user_id("bob"), 1).await.unwrap();
        let (_, page) = world.call(Method::GET, &format!("/v1/conversations/{id}/messages?after_seq=0"), None).await;
        let messages = page["messages"].as_array().unwrap();
        let statuses: Vec<&str> = messages.iter().map(|message| message["status"].as_str().unwrap()).collect();
        assert_eq!(statuses, ["read", "delivered", "accepted"], "what reached its sender does not count");
    }

    #[tokio::test]
    async fn changes_are_counted_and_looking_is_not() {
        let world = world().await;
        for n in 0..60 {
            assert_eq!(world.say(n, hi()).await.0, 202);
        }
        assert_eq!(world.say(60, hi()).await, (429, json!({ "error": "rate_limited" })));
        assert_eq!(world.post("/v1/conversations", json!({})).await.0, 429);
        assert_eq!(world.call(Method::GET, "/v1/conversations", None).await.0, 200);
        assert_eq!(world.call(Method::GET, "/v1/elsewhere", None).await.0, 404);
    }
}
