//! A request -> the lake's queue, byte for byte -> 200.

use std::sync::Arc;

use domain::fault::{Denial, Fault, PortFault, Refusal, Remedy};
use domain::lake::Intake;
use domain::lake::intake::{IntakeInbox, IntakeQueue, MAX_BODY_BYTES, MAX_MESSAGE_BYTES};
use domain::lake::source::{SourceDirectory, SourceName};
use domain::oauth::SecretHash;
use lambda_kit::http::{HeaderMap, Request, RequestExt as _, Response, StatusCode, header, json};
use lambda_kit::random;
use serde_json::json;
use time::OffsetDateTime;

/// Instead of the query's `key`, which proxies write to their logs.
const KEY_HEADER: &str = "x-webhook-key";

/// What accepting needs.
pub(crate) struct Webhooks {
    sources: SourceDirectory,
    queue: Arc<dyn IntakeQueue>,
    inbox: Arc<dyn IntakeInbox>,
}

impl Webhooks {
    pub(crate) fn new(sources: SourceDirectory, queue: Arc<dyn IntakeQueue>, inbox: Arc<dyn IntakeInbox>) -> Self {
        Self { sources, queue, inbox }
    }
}

/// Accepts one event. What it answers with 200 is durable; what is in the body matters to `lake-append` alone.
pub(crate) async fn accept(webhooks: &Webhooks, request: Request, now: OffsetDateTime) -> Result<Response, Refused> {
    let source = webhooks.opened(&request, now).await?;
    let request_id = request.lambda_context().request_id;
    let (parts, body) = request.into_parts();
    if body.len() > MAX_BODY_BYTES {
        return Err(Refused::TooLarge(body.len()));
    }
    let intake = Intake {
        source,
        request_id,
        received_at: now,
        content_type: text(&parts.headers, header::CONTENT_TYPE.as_str()),
        content_encoding: text(&parts.headers, header::CONTENT_ENCODING.as_str()),
        body: body.to_vec(),
    };
    let message = intake.to_message()?;
    if message.len() <= MAX_MESSAGE_BYTES {
        webhooks.queue.send(message).await?;
    } else {
        webhooks.inbox.keep(&intake.inbox_key(), message).await?;
    }
    Ok(json(StatusCode::OK, &json!({ "status": "ok", "request_id": intake.request_id })))
}

impl Webhooks {
    /// The source that the request names and holds a key of. Which of the two is wrong is not told.
    async fn opened(&self, request: &Request, now: OffsetDateTime) -> Result<SourceName, Refused> {
        let path = request.path_parameters();
        let name = SourceName::parse(path.first("source").unwrap_or_default()).map_err(|_| Refused::Key)?;
        let query = request.query_string_parameters();
        let key = text(request.headers(), KEY_HEADER).or_else(|| query.first("key").map(str::to_owned));
        let key = key.filter(|key| !key.is_empty()).ok_or(Refused::Key)?;
        let source = self.sources.find(&name, now).await?.ok_or(Refused::Key)?;
        if source.opens(&SecretHash(random::hash(&key))) { Ok(name) } else { Err(Refused::Key) }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Why an event was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the source is unknown, or the key is none of its keys")]
    Key,
    #[error("the body has {0} bytes; the limit is {MAX_BODY_BYTES}")]
    TooLarge(usize),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for Refused {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Key => Remedy::Deny(Denial::Unauthenticated),
            Self::TooLarge(_) => Remedy::Reject(Refusal::TooLarge),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Key => "invalid_key",
            Self::TooLarge(_) => "body_too_large",
            Self::Port(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::Ordering;

    use domain::lake::source::{SOURCE_TTL, SourceStore as _};
    use lambda_runtime::Context;
    use testkit::sample::{self, NOW};
    use testkit::{MemoryIntakes, MemorySources};

    use super::*;

    struct World {
        sources: Arc<MemorySources>,
        intakes: Arc<MemoryIntakes>,
        webhooks: Webhooks,
    }

    fn hash(key: &str) -> SecretHash {
        SecretHash(random::hash(key))
    }

    async fn world() -> World {
        let (sources, intakes) = (Arc::<MemorySources>::default(), Arc::<MemoryIntakes>::default());
        sources.put(&sample::source("wechat", hash("the-key"))).await.unwrap();
        let webhooks = Webhooks::new(SourceDirectory::new(sources.clone()), intakes.clone(), intakes.clone());
        World { sources, intakes, webhooks }
    }

    fn request(source: &str, key: Option<&str>, headers: &[(&'static str, &str)], body: &[u8]) -> Request {
        let mut plain = Request::new(body.to_vec().into());
        for (name, value) in headers {
            plain.headers_mut().insert(*name, value.parse().unwrap());
        }
        let query: HashMap<String, String> = key.map(|key| ("key".to_owned(), key.to_owned())).into_iter().collect();
        let mut context = Context::default();
        context.request_id = "req-1".to_owned();
        plain
            .with_path_parameters(HashMap::from([("source".to_owned(), source.to_owned())]))
            .with_query_string_parameters(query)
            .with_lambda_context(context)
    }

    impl World {
        async fn post(
            &self,
            key: Option<&str>,
            headers: &[(&'static str, &str)],
            body: &[u8],
        ) -> Result<Response, Refused> {
            accept(&self.webhooks, request("wechat", key, headers, body), NOW).await
        }

        /// The one event that was accepted.
        fn accepted(&self) -> Intake {
            let messages: Vec<String> = self
                .intakes
                .sent()
                .into_iter()
                .chain(self.intakes.kept().into_iter().map(|(_, message)| message))
                .collect();
            let [message] = messages.as_slice() else { panic!("accepted once: {messages:?}") };
            serde_json::from_str(message).unwrap()
        }
    }

    #[tokio::test]
    async fn any_body_is_accepted_byte_for_byte() {
        for body in [
            &b""[..],
            b"{}",
            "{\"a\": \"消息 🎉\"}\n".as_bytes(),
            b"\xff\xfe\x00",
            b"\x1f\x8b\x08\x00",
            b"a=1&b=2",
            &[b'x'; MAX_BODY_BYTES],
        ] {
            let world = world().await;
            let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
            let response = world.post(Some("the-key"), &headers, body).await.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!((response.status().as_u16(), answer), (200, json!({"status": "ok", "request_id": "req-1"})));
            let intake = world.accepted();
            assert!(intake.body == body, "{} bytes", body.len());
            assert_eq!(
                (intake.source.as_str(), intake.request_id.as_str(), intake.received_at),
                ("wechat", "req-1", NOW)
            );
            assert_eq!(intake.content_type.as_deref(), Some("application/x-protobuf"));
            assert_eq!(intake.content_encoding.as_deref(), Some("gzip"));
        }
    }

    #[tokio::test]
    async fn what_is_too_large_for_a_message_goes_to_the_inbox_and_what_is_too_large_is_refused() {
        let world = world().await;
        let noise: Vec<u8> = (0..MAX_BODY_BYTES).map(|n| (n * 37 % 251) as u8 | 0x80).collect();
        world.post(Some("the-key"), &[], &noise).await.unwrap();
        assert!(world.intakes.sent().is_empty());
        assert_eq!(world.intakes.kept()[0].0, "inbox/v1/wechat/req-1.json");
        assert!(world.accepted().body == noise);

        let refused = world.post(Some("the-key"), &[], &[0; MAX_BODY_BYTES + 1]).await.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Reject(Refusal::TooLarge));
        let refused = world.post(Some("wrong"), &[], &[0; MAX_BODY_BYTES + 1]).await.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Deny(Denial::Unauthenticated), "a stranger learns nothing");
    }

    #[tokio::test]
    async fn a_key_is_in_the_header_or_the_query_and_nothing_else_opens() {
        let world = world().await;
        world.post(None, &[(KEY_HEADER, "the-key")], b"1").await.unwrap();
        world.post(Some("wrong"), &[(KEY_HEADER, "the-key")], b"2").await.unwrap();
        for (source, key, header) in [
            ("wechat", None, None),
            ("wechat", Some(""), None),
            ("wechat", Some("the-ke"), None),
            ("wechat", Some("the-key "), None),
            ("wechat", Some("the-key"), Some("wrong")),
            ("nobody", Some("the-key"), None),
            ("../wechat", Some("the-key"), None),
            ("", Some("the-key"), None),
        ] {
            let headers: Vec<_> = header.map(|value| (KEY_HEADER, value)).into_iter().collect();
            let refused = accept(&world.webhooks, request(source, key, &headers, b"3"), NOW).await.unwrap_err();
            assert_eq!(
                (refused.code(), refused.remedy()),
                ("invalid_key", Remedy::Deny(Denial::Unauthenticated)),
                "{source}"
            );
        }
        assert_eq!(world.intakes.sent().len(), 2);
    }

    #[tokio::test]
    async fn two_keys_open_while_rotating_and_a_revoked_one_for_seconds() {
        let world = world().await;
        world.post(Some("the-key"), &[], b"1").await.unwrap();
        let source = world.sources.list().await.unwrap().remove(0);
        let rotated = domain::lake::source::Source { version: 2, ..source.rotated(hash("newer"), NOW) };
        world.sources.put(&rotated).await.unwrap();
        let old_id = rotated.keys[1].id().to_owned();
        let post =
            async |key: &str, now| accept(&world.webhooks, request("wechat", Some(key), &[], b"1"), now).await.is_ok();

        let later = NOW + SOURCE_TTL;
        assert!(post("newer", later).await && post("the-key", later).await);
        let revoked = domain::lake::source::Source { version: 3, ..rotated.revoked(&old_id).unwrap() };
        world.sources.put(&revoked).await.unwrap();
        assert!(!post("the-key", later + SOURCE_TTL).await && post("newer", later + SOURCE_TTL).await);
    }

    #[tokio::test]
    async fn a_warm_function_looks_a_source_up_once_in_a_while_and_a_stranger_too() {
        let world = world().await;
        for n in 0..20_u32 {
            let now = NOW + SOURCE_TTL * f64::from(n) / 20.0;
            accept(&world.webhooks, request("wechat", Some("the-key"), &[], b"1"), now).await.unwrap();
            accept(&world.webhooks, request("nobody", Some("x"), &[], b"1"), now).await.unwrap_err();
        }
        assert_eq!(world.sources.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_is_not_durable_is_not_acknowledged() {
        let world = world().await;
        world.intakes.down.store(true, Ordering::SeqCst);
        for body in [&b"small"[..], &[0x80; MAX_BODY_BYTES]] {
            let refused = world.post(Some("the-key"), &[], body).await.unwrap_err();
            assert_eq!(refused.remedy(), Remedy::Retry);
        }
    }
}
