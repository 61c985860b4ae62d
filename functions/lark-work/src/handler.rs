//! Doorbell -> inbox entry or session -> what has to be done.

use std::sync::Arc;

use domain::app::{AppDirectory, AppStore};
use domain::authorize::{Approval, Authorization, AuthorizeFault, Vendor};
use domain::channel::{ChannelMarks, ConnectorStore, Inbound, InboundFault, Incoming, Links};
use domain::chat::{Memberships, MessageStore};
use domain::event::{EventBus, Fact};
use domain::fault::{Fault, PortFault, Refusal, Remedy, chain};
use domain::id::{AppId, EventId, MessageId, OpenId, SessionId};
use domain::inbox::{Claim, Entry, EntryKind, Inbox};
use domain::lake::Intake;
use domain::lake::intake::IntakeQueue;
use domain::lake::source::SourceName;
use domain::push::PushQueue;
use domain::seal::Sealer;
use domain::session::SessionStore;
use domain::tenant_token::{TenantTokenStore, TicketFault, keep_ticket};
use domain::token::TokenStore;
use domain::work::{Doorbell, ParkedQueue, WorkQueue};
use lambda_kit::{parking, random};
use lark::callback::CardAction;
use lark::event::{Event, MessageReceived, Payload};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// What the work needs.
pub(crate) struct Work {
    inbox: Arc<dyn Inbox>,
    tickets: Arc<dyn TenantTokenStore>,
    authorization: Authorization,
    bus: Arc<dyn EventBus>,
    lake: Arc<dyn IntakeQueue>,
    parked: Arc<dyn ParkedQueue>,
    public_url: String,
    /// What people say to an app is said in a conversation, where there are any.
    inbound: Option<Inbound>,
}

/// Conversations over their table.
pub(crate) fn inbound<T>(chat: Arc<T>, messages: Arc<dyn MessageStore>, push: Arc<dyn PushQueue>) -> Inbound
where
    T: Memberships + ConnectorStore + ChannelMarks + Links + 'static,
{
    let (conversations, connectors, marks) = (chat.clone(), chat.clone(), chat.clone());
    Inbound { conversations, messages, connectors, marks, links: chat, push, hash: random::hash }
}

impl Work {
    pub(crate) fn with(self, inbound: Inbound) -> Self {
        Self { inbound: Some(inbound), ..self }
    }

    #[expect(clippy::too_many_arguments, reason = "each is a port of its own")]
    pub(crate) fn new<T: AppStore + Inbox + SessionStore + TokenStore + TenantTokenStore + 'static>(
        table: Arc<T>,
        sealer: Arc<dyn Sealer>,
        vendor: Arc<dyn Vendor>,
        work: Arc<dyn WorkQueue>,
        bus: Arc<dyn EventBus>,
        lake: Arc<dyn IntakeQueue>,
        parked: Arc<dyn ParkedQueue>,
        public_url: String,
    ) -> Self {
        let apps = Arc::new(AppDirectory::new(table.clone(), sealer.clone()));
        let authorization =
            Authorization { apps, sessions: table.clone(), tokens: table.clone(), sealer, vendor, work };
        Self { inbox: table.clone(), tickets: table, authorization, bus, lake, parked, public_url, inbound: None }
    }
}

/// What a button of an authorization card carries. No `Debug`: the code is a secret.
#[derive(Deserialize)]
#[serde(tag = "skylark", rename_all = "snake_case")]
enum Button {
    /// Some clients hand the code over with the click.
    Authorize {
        session_id: SessionId,
        code: Option<String>,
    },
    Reject {
        session_id: SessionId,
    },
}

impl Button {
    /// An object, or the same as a string, as some clients send it. Nothing if the button is not one of ours.
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(json) => serde_json::from_str(json).ok(),
            value => Self::deserialize(value).ok(),
        }
    }
}

/// Answers one ring. A ring for what is done, or was never there, is answered by doing nothing.
pub(crate) async fn carry_out(work: &Work, bell: String, now: OffsetDateTime) -> Result<(), WorkFault> {
    match serde_json::from_str(&bell).map_err(WorkFault::NotABell)? {
        Doorbell::Card { session_id, .. } => {
            Ok(work.authorization.follow(&session_id, &work.public_url, None, now).await?)
        }
        Doorbell::Inbox { app_id, event_id, .. } => work.empty_inbox(&app_id, &event_id, now).await,
    }
}

impl Work {
    async fn empty_inbox(&self, app_id: &AppId, event_id: &EventId, now: OffsetDateTime) -> Result<(), WorkFault> {
        let entry = match self.inbox.claim(app_id, event_id, now).await? {
            Claim::Taken(entry) => entry,
            Claim::Done | Claim::Missing => return Ok(()),
            Claim::Busy => return Err(WorkFault::Busy),
        };
        let settled = match self.handle(&entry, now).await {
            // The evidence is the entry, which finishing forgets, and not the bell.
            Err(fault) if !matches!(fault.remedy(), Remedy::Retry | Remedy::Bug) => {
                parking::park(&fault, json!(entry), self.parked.as_ref()).await.map_err(WorkFault::Port)
            }
            handled => handled,
        };
        if let Err(fault) = settled {
            // A claim that cannot be given back ends by itself.
            if let Err(error) = self.inbox.release(app_id, event_id).await {
                tracing::warn!(event.id = %event_id, error = %chain(&error), "An inbox entry was not released");
            }
            return Err(fault);
        }
        Ok(self.inbox.finish(app_id, event_id, now).await?)
    }

    async fn handle(&self, entry: &Entry, now: OffsetDateTime) -> Result<(), WorkFault> {
        match entry.kind {
            EntryKind::CardAction => {
                let click: CardAction = serde_json::from_str(&entry.payload).map_err(WorkFault::NotAnEntry)?;
                match Button::read(&click.action.value) {
                    Some(button) => self.press(button, &entry.app_id, &click, now).await,
                    None => self.publish("card.action.trigger", entry, without_token(&click)).await,
                }
            }
            EntryKind::Event => {
                let event: Event = serde_json::from_str(&entry.payload).map_err(WorkFault::NotAnEntry)?;
                match event.payload() {
                    // A secret of the app's: it goes nowhere else.
                    Ok(Payload::AppTicket(ticket)) => self.keep(entry, &ticket.ticket).await,
                    payload => {
                        // First what knows a repetition: nothing may come between publishing and finishing.
                        self.lake.send(intake(entry).to_message()?).await?;
                        match payload {
                            Ok(Payload::Message(message)) => self.hear(&entry.app_id, &message, now).await?,
                            Ok(Payload::MessagesRead(ids)) => self.note_readers(&entry.app_id, ids, now).await?,
                            _ => {}
                        }
                        self.publish(&event.event_type, entry, json!(event)).await
                    }
                }
            }
        }
    }

    /// A click of somebody else than the one who was asked, or on a card whose session has ended, changes nothing.
    async fn press(
        &self,
        button: Button,
        app_id: &AppId,
        click: &CardAction,
        now: OffsetDateTime,
    ) -> Result<(), WorkFault> {
        let (Button::Authorize { session_id, .. } | Button::Reject { session_id }) = &button;
        let session = self.authorization.session(app_id, session_id).await?;
        if session.open_id.as_str() != click.operator.open_id || session.must_be_open(now).is_err() {
            tracing::info!(session.id = %session_id, "A click on a card that is closed to this person");
            return Ok(());
        }
        match &button {
            Button::Reject { .. } => self.authorization.reject(&session).await?,
            Button::Authorize { code: None, .. } => session,
            Button::Authorize { code: Some(code), .. } => {
                let approval = Approval { code: code.as_str().into(), attempt: None };
                match self.authorization.complete(&session, &approval, now).await {
                    // The session says so, and the card follows it.
                    Err(AuthorizeFault::Vendor(fault)) if fault.remedy() != Remedy::Retry => {
                        tracing::warn!(session.id = %session.session_id, error = %chain(&fault), "The vendor refused a code");
                        session
                    }
                    result => result?,
                }
            }
        };
        // Only now is the click's own token at hand. What it does not mend the next bell tries without it.
        let token = SecretString::from(click.update_token.as_str());
        if let Err(fault) = self.authorization.follow(session_id, &self.public_url, Some(&token), now).await {
            tracing::warn!(session.id = %session_id, error = %chain(&fault), "The clicked card was not updated");
        }
        Ok(())
    }

    /// Says what was said in a linked place in its conversation.
    async fn hear(&self, app_id: &AppId, message: &MessageReceived, now: OffsetDateTime) -> Result<(), WorkFault> {
        let Some(inbound) = &self.inbound else { return Ok(()) };
        // An id that could be none of ours leads nowhere.
        let Ok(message_id) = MessageId::parse(message.message_id.as_str()) else { return Ok(()) };
        let by_a_person = message.sender.sender_type.as_deref().is_none_or(|kind| kind == "user");
        let sender = message.sender.open_id.as_deref().filter(|_| by_a_person);
        let incoming = Incoming {
            app_id: app_id.clone(),
            message_id,
            chat_id: message.chat_id.clone(),
            sender: sender.and_then(|open_id| OpenId::parse(open_id).ok()),
            text: message.words(),
        };
        Ok(inbound.receive(&incoming, now).await?)
    }

    async fn note_readers(&self, app_id: &AppId, ids: Vec<String>, now: OffsetDateTime) -> Result<(), WorkFault> {
        let Some(inbound) = &self.inbound else { return Ok(()) };
        let ids: Vec<MessageId> = ids.into_iter().filter_map(|id| MessageId::parse(id).ok()).collect();
        Ok(inbound.read(app_id, &ids, now).await?)
    }

    async fn keep(&self, entry: &Entry, ticket: &SecretString) -> Result<(), WorkFault> {
        let (store, sealer) = (self.tickets.as_ref(), self.authorization.sealer.as_ref());
        Ok(keep_ticket(store, sealer, &entry.app_id, ticket, entry.received_at).await?)
    }

    async fn publish(&self, event_type: &str, entry: &Entry, body: Value) -> Result<(), WorkFault> {
        let detail = json!({ "app_id": entry.app_id, "event_id": entry.event_id, "event": body });
        Ok(self.bus.publish(&[Fact::of_lark(event_type, detail)]).await?)
    }
}

/// An event as the lake takes it: the same however often it is sent.
fn intake(entry: &Entry) -> Intake {
    Intake {
        source: SourceName::lark(),
        request_id: format!("{}.{}", entry.app_id, entry.event_id),
        received_at: entry.received_at,
        content_type: Some("application/json".to_owned()),
        content_encoding: None,
        body: entry.payload.clone().into_bytes(),
    }
}

/// A click as listeners may see it: the token that updates the card is a capability and stays here.
fn without_token(click: &CardAction) -> Value {
    let mut click = json!(click);
    if let Some(fields) = click.as_object_mut() {
        fields.remove("update_token");
    }
    click
}

/// Why work was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkFault {
    #[error("the message is not a doorbell")]
    NotABell(#[source] serde_json::Error),
    #[error("the inbox entry does not parse")]
    NotAnEntry(#[source] serde_json::Error),
    #[error("another worker holds the entry")]
    Busy,
    #[error(transparent)]
    Authorize(#[from] AuthorizeFault),
    #[error("the app ticket was not kept")]
    Ticket(#[from] TicketFault),
    #[error("what was said was not said in its conversation")]
    Inbound(#[from] InboundFault),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for WorkFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::NotABell(_) | Self::NotAnEntry(_) => Remedy::Reject(Refusal::Invalid),
            Self::Busy => Remedy::Retry,
            Self::Authorize(fault) => fault.remedy(),
            Self::Ticket(fault) => fault.remedy(),
            Self::Inbound(fault) => fault.remedy(),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotABell(_) | Self::NotAnEntry(_) => "invalid_message",
            Self::Busy => "busy",
            Self::Authorize(fault) => fault.code(),
            Self::Ticket(fault) => fault.code(),
            Self::Inbound(fault) => fault.code(),
            Self::Port(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use domain::inbox::CLAIM;
    use domain::seal::SealContext;
    use domain::session::{Outcome, Session, SessionStatus};
    use lark::callback::{Action, CardToken, Operator};
    use testkit::sample::{self, NOW};
    use testkit::{MemoryBus, MemoryIntakes, MemoryQueue, MemoryTable, MemoryVendor, PlainSealer};

    use super::*;

    struct World {
        table: Arc<MemoryTable>,
        queue: Arc<MemoryQueue>,
        bus: Arc<MemoryBus>,
        lake: Arc<MemoryIntakes>,
        vendor: Arc<MemoryVendor>,
        work: Work,
    }

    /// An app, and a session of Ann's that asks for its token.
    async fn world(vendor: MemoryVendor) -> World {
        let (table, queue, bus) = (Arc::<MemoryTable>::default(), Arc::<MemoryQueue>::default(), Arc::default());
        let (vendor, lake) = (Arc::new(vendor), Arc::<MemoryIntakes>::default());
        AppStore::put(table.as_ref(), &sample::openable_app("cli_a").await).await.unwrap();
        table.create(&sample::session(1)).await.unwrap();
        let work = Work::new(
            table.clone(),
            Arc::new(PlainSealer),
            vendor.clone(),
            queue.clone(),
            Arc::clone(&bus) as Arc<dyn EventBus>,
            lake.clone(),
            queue.clone(),
            "https://skylark.example".to_owned(),
        );
        World { table, queue, bus, lake, vendor, work }
    }

    impl World {
        async fn accept(&self, entry: &Entry) {
            self.table.accept(entry).await.unwrap();
        }

        async fn ring(&self, entry: &Entry, now: OffsetDateTime) -> Result<(), WorkFault> {
            let bell = serde_json::to_string(&Doorbell::for_entry(entry)).unwrap();
            carry_out(&self.work, bell, now).await
        }

        async fn is_done(&self, entry: &Entry) -> bool {
            self.table.claim(&entry.app_id, &entry.event_id, NOW + CLAIM).await.unwrap() == Claim::Done
        }

        async fn session(&self) -> Session {
            SessionStore::get(self.table.as_ref(), &sample::session_id(1)).await.unwrap().unwrap()
        }

        async fn has_token(&self) -> bool {
            let (app, person) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
            TokenStore::get(self.table.as_ref(), &app, &person).await.unwrap().is_some()
        }
    }

    fn event(event_id: &str) -> Entry {
        let event = json!({
            "id": event_id, "event_type": "im.chat.updated_v1", "app_id": "cli_a", "tenant_key": "t1", "created_at_ms": 1,
            "body": { "chat_id": "oc_1", "name": "周会 🗓" },
        });
        Entry { payload: event.to_string(), ..sample::entry("cli_a", event_id) }
    }

    fn click_by(open_id: &str, app_id: &str, value: Value) -> Entry {
        let operator = Operator { open_id: open_id.to_owned(), user_id: None, union_id: None, tenant_key: None };
        let action = Action {
            tag: "button".to_owned(),
            name: None,
            value,
            option: None,
            options: Vec::new(),
            form_value: None,
            input_value: None,
            checked: None,
            timezone: None,
        };
        let click = CardAction {
            app_id: app_id.to_owned(),
            event_id: "click".to_owned(),
            operator,
            update_token: CardToken::new("c-capability".to_owned()),
            message_id: None,
            chat_id: None,
            action,
            host: None,
            old: false,
        };
        let payload = serde_json::to_string(&click).unwrap();
        Entry { kind: EntryKind::CardAction, payload, ..sample::entry(app_id, "click") }
    }

    fn decline() -> Value {
        json!({ "skylark": "reject", "session_id": sample::session_id(1) })
    }

    fn approve(code: Option<&str>) -> Value {
        json!({ "skylark": "authorize", "session_id": sample::session_id(1), "code": code })
    }

    /// Ann's click is carried out, and leaves the session so.
    async fn check_click(value: Value, status: SessionStatus, version: u64) {
        let world = world(MemoryVendor::default()).await;
        let click = click_by("ou_ann", "cli_a", value);
        world.accept(&click).await;
        world.ring(&click, NOW).await.unwrap();
        let session = world.session().await;
        assert_eq!((session.status, session.version), (status, version));
        assert!(world.is_done(&click).await && world.queue.parked().is_empty() && world.bus.published().is_empty());
    }

    /// The entry can never be done as it is: it is kept, whole, and finished.
    async fn check_parked(world: World, entry: Entry, reason: &str) {
        world.accept(&entry).await;
        world.ring(&entry, NOW).await.unwrap();
        world.ring(&entry, NOW).await.unwrap();
        let parked = world.queue.parked();
        let [evidence] = parked.as_slice() else { panic!("parked once: {parked:?}") };
        assert_eq!(evidence.payload, json!(entry));
        assert!(evidence.reason.starts_with(reason), "{}", evidence.reason);
        assert!(world.is_done(&entry).await && world.bus.published().is_empty());
    }

    #[tokio::test]
    async fn what_is_not_a_doorbell_is_rejected() {
        let world = world(MemoryVendor::default()).await;
        for body in ["", "{", "[]", r#"{"kind":"fire"}"#, r#"{"kind":"card","session_id":"x","version":1}"#] {
            let fault = carry_out(&world.work, body.to_owned(), NOW).await.unwrap_err();
            assert_eq!(fault.remedy(), Remedy::Reject(Refusal::Invalid), "{body}");
        }
    }

    #[tokio::test]
    async fn a_ring_for_what_was_never_there_does_nothing() {
        let world = world(MemoryVendor::default()).await;
        world.ring(&event("ghost"), NOW).await.unwrap();
        let bell = json!({ "kind": "card", "session_id": sample::session_id(9), "version": 1 });
        carry_out(&world.work, bell.to_string(), NOW).await.unwrap();
        assert!(world.bus.published().is_empty() && world.vendor.cards().is_empty());
    }

    #[tokio::test]
    async fn an_event_is_published_once_however_often_it_is_rung_for() {
        let (world, entry) = (world(MemoryVendor::default()).await, event("ev1"));
        world.accept(&entry).await;
        for _ in 0..3 {
            world.ring(&entry, NOW).await.unwrap();
        }
        let published = world.bus.published();
        let [fact] = published.as_slice() else { panic!("published once: {published:?}") };
        assert_eq!((fact.source, fact.detail_type.as_str()), ("skylark.lark", "im.chat.updated_v1"));
        assert_eq!((&fact.detail["event_id"], &fact.detail["app_id"]), (&json!("ev1"), &json!("cli_a")));
        assert_eq!(fact.detail["event"]["body"]["name"], "周会 🗓");
    }

    #[tokio::test]
    async fn a_store_apps_ticket_is_kept_sealed_and_told_to_nobody() {
        let world = world(MemoryVendor::default()).await;
        let ticket = json!({
            "id": "ev-ticket", "event_type": "app_ticket", "app_id": "cli_a", "tenant_key": null, "created_at_ms": 1,
            "body": { "app_id": "cli_a", "type": "app_ticket", "app_ticket": "t-canary" },
        });
        let entry = Entry { payload: ticket.to_string(), ..sample::entry("cli_a", "ev-ticket") };
        world.accept(&entry).await;
        world.ring(&entry, NOW).await.unwrap();
        assert!(world.is_done(&entry).await && world.bus.published().is_empty());
        let sealed = world.table.ticket(&entry.app_id).await.unwrap().unwrap();
        let opened = PlainSealer.open(SealContext::AppTicket(&entry.app_id), &sealed).await.unwrap();
        assert_eq!(*opened, b"t-canary");
    }

    #[tokio::test]
    async fn an_entry_that_another_worker_holds_comes_again_and_is_taken_over_when_that_worker_is_dead() {
        let (world, entry) = (world(MemoryVendor::default()).await, event("ev1"));
        world.accept(&entry).await;
        world.table.claim(&entry.app_id, &entry.event_id, NOW).await.unwrap();
        let fault = world.ring(&entry, NOW).await.unwrap_err();
        assert_eq!((fault.code(), fault.remedy()), ("busy", Remedy::Retry));
        assert!(world.bus.published().is_empty());
        world.ring(&entry, NOW + CLAIM).await.unwrap();
        assert_eq!(world.bus.published().len(), 1);
    }

    #[tokio::test]
    async fn a_bus_that_is_down_leaves_the_entry_free_for_the_next_ring() {
        let (world, entry) = (world(MemoryVendor::default()).await, event("ev1"));
        world.accept(&entry).await;
        world.bus.down.store(true, Ordering::SeqCst);
        assert_eq!(world.ring(&entry, NOW).await.unwrap_err().remedy(), Remedy::Retry);
        world.bus.down.store(false, Ordering::SeqCst);
        world.ring(&entry, NOW).await.unwrap();
        assert!(world.is_done(&entry).await && world.bus.published().len() == 1);
    }

    #[tokio::test]
    async fn an_entry_that_does_not_parse_is_parked_with_its_payload() {
        for kind in [EntryKind::Event, EntryKind::CardAction] {
            let entry = Entry { kind, payload: "不是 JSON".to_owned(), ..sample::entry("cli_a", "ev1") };
            check_parked(world(MemoryVendor::default()).await, entry, "the inbox entry does not parse").await;
        }
    }

    #[tokio::test]
    async fn a_click_that_names_another_apps_session_or_none_is_parked() {
        let stranger = world(MemoryVendor::default()).await;
        AppStore::put(stranger.table.as_ref(), &sample::openable_app("cli_b").await).await.unwrap();
        check_parked(stranger, click_by("ou_ann", "cli_b", decline()), "the session is unknown").await;
        let unknown = json!({ "skylark": "reject", "session_id": sample::session_id(9) });
        let click = click_by("ou_ann", "cli_a", unknown);
        check_parked(world(MemoryVendor::default()).await, click, "the session is unknown").await;
    }

    #[tokio::test]
    async fn poison_that_cannot_be_parked_is_not_finished() {
        let world = world(MemoryVendor::default()).await;
        let entry = Entry { payload: "{".to_owned(), ..sample::entry("cli_a", "ev1") };
        world.accept(&entry).await;
        world.queue.down.store(true, Ordering::SeqCst);
        assert_eq!(world.ring(&entry, NOW).await.unwrap_err().remedy(), Remedy::Retry);
        world.queue.down.store(false, Ordering::SeqCst);
        world.ring(&entry, NOW).await.unwrap();
        assert_eq!(world.queue.parked().len(), 1);
    }

    #[tokio::test]
    async fn a_table_that_is_down_finishes_nothing() {
        let (world, entry) = (world(MemoryVendor::default()).await, event("ev1"));
        world.accept(&entry).await;
        world.table.down.store(true, Ordering::SeqCst);
        assert_eq!(world.ring(&entry, NOW).await.unwrap_err().remedy(), Remedy::Retry);
        assert!(world.bus.published().is_empty());
    }

    #[tokio::test]
    async fn a_press_on_decline_ends_the_session() {
        check_click(decline(), SessionStatus::Rejected, 2).await;
    }

    #[tokio::test]
    async fn a_value_that_is_json_in_a_string_is_read_as_well() {
        check_click(Value::String(decline().to_string()), SessionStatus::Rejected, 2).await;
    }

    #[tokio::test]
    async fn a_press_on_authorize_without_a_code_waits_for_the_browser() {
        check_click(approve(None), SessionStatus::Pending, 1).await;
    }

    #[tokio::test]
    async fn a_press_that_carries_a_code_completes_the_session_with_its_token() {
        let world = world(MemoryVendor::default()).await;
        let click = click_by("ou_ann", "cli_a", approve(Some("code")));
        world.accept(&click).await;
        world.ring(&click, NOW).await.unwrap();
        assert_eq!((world.session().await.status, world.has_token().await), (SessionStatus::Completed, true));
        assert_eq!(world.queue.rung(), [Doorbell::for_session(&world.session().await)], "the card follows");
    }

    #[tokio::test]
    async fn a_code_that_the_vendor_refuses_fails_the_session_and_is_not_tried_again() {
        let world = world(MemoryVendor { exchanges: AtomicU32::new(1), ..MemoryVendor::default() }).await;
        let click = click_by("ou_ann", "cli_a", approve(Some("code")));
        world.accept(&click).await;
        for _ in 0..2 {
            world.ring(&click, NOW).await.unwrap();
        }
        let session = world.session().await;
        assert_eq!((session.status, session.failure.as_deref()), (SessionStatus::Failed, Some("20065")));
        assert_eq!(world.vendor.exchanges.load(Ordering::SeqCst), 2, "the one before, and this one once");
        assert!(!world.has_token().await && world.is_done(&click).await && world.queue.parked().is_empty());
    }

    #[tokio::test]
    async fn a_vendor_that_is_silent_leaves_the_click_for_the_next_ring() {
        let world = world(MemoryVendor::default()).await;
        let click = click_by("ou_ann", "cli_a", approve(Some("code")));
        world.accept(&click).await;
        world.vendor.down.store(true, Ordering::SeqCst);
        assert_eq!(world.ring(&click, NOW).await.unwrap_err().remedy(), Remedy::Retry);
        world.vendor.down.store(false, Ordering::SeqCst);
        world.ring(&click, NOW).await.unwrap();
        assert_eq!(world.session().await.status, SessionStatus::Completed);
    }

    #[tokio::test]
    async fn a_code_of_somebody_else_is_parked_and_the_session_stays_open() {
        let other = world(MemoryVendor { owner: Some("ou_bob"), ..MemoryVendor::default() }).await;
        let table = other.table.clone();
        let click = click_by("ou_ann", "cli_a", approve(Some("code")));
        check_parked(other, click, "the request was meant for somebody else").await;
        let session = SessionStore::get(table.as_ref(), &sample::session_id(1)).await.unwrap().unwrap();
        assert_eq!(session.status, SessionStatus::Pending);
    }

    #[tokio::test]
    async fn a_click_by_another_person_changes_nothing() {
        for value in [decline(), approve(Some("code"))] {
            let world = world(MemoryVendor::default()).await;
            let click = click_by("ou_bob", "cli_a", value);
            world.accept(&click).await;
            world.ring(&click, NOW).await.unwrap();
            assert_eq!(world.session().await, sample::session(1));
            assert!(world.is_done(&click).await && world.vendor.exchanges.load(Ordering::SeqCst) == 0);
        }
    }

    #[tokio::test]
    async fn a_click_after_the_end_or_past_the_time_changes_nothing() {
        let world = world(MemoryVendor::default()).await;
        let late = click_by("ou_ann", "cli_a", approve(Some("code")));
        world.accept(&late).await;
        world.ring(&late, sample::session(1).expires_at).await.unwrap();
        assert_eq!(world.session().await.status, SessionStatus::Pending);

        world.table.end(&sample::session(1).ended(Outcome::Completed).unwrap(), None).await.unwrap();
        let after = Entry { event_id: EventId::parse("after").unwrap(), ..click_by("ou_ann", "cli_a", decline()) };
        world.accept(&after).await;
        world.ring(&after, NOW).await.unwrap();
        assert_eq!((world.session().await.status, world.session().await.version), (SessionStatus::Completed, 2));
    }

    #[tokio::test]
    async fn a_click_on_a_card_of_the_apps_own_is_published_without_the_token_that_updates_it() {
        for value in [json!({ "op": "approve" }), json!({ "skylark": "dance" }), json!("plain"), Value::Null] {
            let world = world(MemoryVendor::default()).await;
            let click = click_by("ou_ann", "cli_a", value.clone());
            world.accept(&click).await;
            world.ring(&click, NOW).await.unwrap();
            let published = world.bus.published();
            let [fact] = published.as_slice() else { panic!("published once: {published:?}") };
            assert_eq!(fact.detail_type, "card.action.trigger");
            assert_eq!((&fact.detail["event_id"], &fact.detail["event"]["action"]["value"]), (&json!("click"), &value));
            assert!(!fact.detail.to_string().contains("c-capability"));
        }
    }

    #[tokio::test]
    async fn a_sessions_bell_sends_its_card_once_and_then_changes_it() {
        let world = world(MemoryVendor::default()).await;
        let bell = || serde_json::to_string(&Doorbell::for_session(&sample::session(1))).unwrap();
        for _ in 0..2 {
            carry_out(&world.work, bell(), NOW).await.unwrap();
        }
        let click = click_by("ou_ann", "cli_a", decline());
        world.accept(&click).await;
        world.ring(&click, NOW).await.unwrap();
        for _ in 0..2 {
            carry_out(&world.work, bell(), NOW).await.unwrap();
        }
        let expected = [("sent".to_owned(), SessionStatus::Pending), ("om_1".to_owned(), SessionStatus::Rejected)];
        assert_eq!(world.vendor.cards(), expected);
        assert_eq!(world.session().await.shown_version, 2);
    }

    #[tokio::test]
    async fn a_card_that_the_vendor_does_not_take_now_comes_again() {
        let world = world(MemoryVendor::default()).await;
        world.vendor.down.store(true, Ordering::SeqCst);
        let bell = serde_json::to_string(&Doorbell::for_session(&sample::session(1))).unwrap();
        let fault = carry_out(&world.work, bell, NOW).await.unwrap_err();
        assert_eq!((fault.code(), fault.remedy()), ("vendor_unavailable", Remedy::Retry));
        assert_eq!(world.session().await.shown_version, 0);
    }

    #[tokio::test]
    async fn an_event_is_sent_to_the_lake_before_it_is_published_and_a_ticket_never_is() {
        let world = world(MemoryVendor::default()).await;
        let entry = event("ev-1");
        world.accept(&entry).await;
        world.lake.down.store(true, Ordering::SeqCst);
        assert_eq!(world.ring(&entry, NOW).await.unwrap_err().remedy(), Remedy::Retry);
        assert!(world.bus.published().is_empty());

        world.lake.down.store(false, Ordering::SeqCst);
        world.ring(&entry, NOW).await.unwrap();
        let sent: Vec<Intake> = world.lake.sent().iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let [intake] = sent.as_slice() else { panic!("sent once: {sent:?}") };
        assert_eq!((intake.source.as_str(), intake.request_id.as_str()), ("lark", "cli_a.ev-1"));
        assert_eq!((&intake.body, intake.received_at), (&entry.payload.into_bytes(), entry.received_at));
        assert_eq!(world.bus.published().len(), 1);
    }
}
