//! What a kept failure tells: why it failed, with which payload, and where it goes back to.

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One failure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Letter {
    pub(super) id: String,
    /// When it was sent, or kept.
    pub(super) at: Option<OffsetDateTime>,
    pub(super) receives: u32,
    pub(super) group: Option<String>,
    /// The function that failed, as Lambda names it.
    pub(super) function: Option<String>,
    pub(super) reason: String,
    pub(super) payload: Value,
    pub(super) back: Back,
}

/// Where a failure goes back to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Back {
    /// To the source of its dead-letter queue, as it is.
    Source,
    /// To the queue with this ARN.
    Queue { arn: String, body: String, group: Option<String> },
    /// To the function, as the event that it failed on.
    Function { name: String, event: Value },
    /// It says where it lies.
    Evidence { bucket: String, key: String },
    /// Nowhere, for this reason.
    Nowhere(&'static str),
}

impl Letter {
    pub(super) fn of_message(message: &Message) -> Self {
        let attributes = message.attributes.as_ref();
        let attribute = |name| attributes.and_then(|told| told.get(&name)).cloned();
        let number = |name| attribute(name).and_then(|text| text.parse::<i64>().ok());
        let receives = number(MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or_default();
        let at = number(MessageSystemAttributeName::SentTimestamp).map(|ms| i128::from(ms) * 1_000_000);
        let letter = Self {
            id: message.message_id.clone().unwrap_or_default(),
            at: at.and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()),
            receives: u32::try_from(receives).unwrap_or_default(),
            group: attribute(MessageSystemAttributeName::MessageGroupId),
            function: None,
            reason: String::new(),
            payload: Value::Null,
            back: Back::Source,
        };
        let body = message.body.as_deref().unwrap_or_default();
        letter.reading(serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    fn reading(self, body: Value) -> Self {
        let text = |place: &str| body.pointer(place).and_then(Value::as_str).map(str::to_owned);
        if let (Some(function), Some(reason), Some(payload)) = (text("/function"), text("/reason"), body.get("payload"))
        {
            return Self {
                back: back(&function, payload),
                function: Some(function),
                reason,
                payload: readable(payload),
                ..self
            };
        }
        if let Some((bucket, key)) = text("/Records/0/s3/bucket/name").zip(text("/Records/0/s3/object/key")) {
            // S3 writes keys into its notifications as forms do.
            let key =
                url::form_urlencoded::parse(format!("k={key}").as_bytes()).map(|(_, key)| key.into_owned()).next();
            let (key, reason) = (key.unwrap_or_default(), "its evidence is not there any more".to_owned());
            return Self { back: Back::Evidence { bucket, key }, reason, payload: body, ..self };
        }
        if text("/Event").as_deref() == Some("s3:TestEvent") {
            let reason = "nothing failed: S3 tried whether it may tell of new evidence".to_owned();
            return Self { back: Back::Nowhere("it is only a test by S3; drop it"), reason, payload: body, ..self };
        }
        if let (Some(function), Some(event)) = (text("/requestContext/functionArn"), body.get("requestPayload")) {
            let name = name_of(&function);
            let told = text("/responsePayload/errorMessage");
            let reason = [text("/requestContext/condition"), told].into_iter().flatten().collect::<Vec<_>>().join(": ");
            let back = Back::Function { name: name.clone(), event: event.clone() };
            return Self { back, function: Some(name), reason, payload: event.clone(), ..self };
        }
        let reason = "its function failed on it until its queue gave up; the function's log says why".to_owned();
        Self { reason, payload: body, ..self }
    }

    /// What a table's stream gave up on: Lambda's failure record, with the event as a text inside.
    pub(super) fn of_object(bucket: &str, key: &str, record: &Value) -> Self {
        let text = |place: &str| record.pointer(place).and_then(Value::as_str);
        let event = text("/payload").and_then(|event| serde_json::from_str::<Value>(event).ok()).unwrap_or_default();
        let function = text("/requestContext/functionArn").map(name_of);
        let calls =
            record.pointer("/requestContext/approximateInvokeCount").and_then(Value::as_u64).unwrap_or_default();
        let condition = text("/requestContext/condition").unwrap_or("the record says no condition");
        Self {
            id: key.to_owned(),
            at: text("/timestamp").and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok()),
            receives: u32::try_from(calls).unwrap_or(u32::MAX),
            group: text("/DDBStreamBatchInfo/shardId").map(str::to_owned),
            reason: format!("{condition} after {calls} calls; evidence in `{bucket}`"),
            back: match &function {
                Some(name) if event.is_object() => Back::Function { name: name.clone(), event: event.clone() },
                _ => Back::Nowhere("the record does not say which function failed on what"),
            },
            function,
            payload: event,
        }
    }

    /// The object that this message only announces.
    pub(super) fn announces(&self) -> Option<(&str, &str)> {
        if let Back::Evidence { bucket, key } = &self.back { Some((bucket, key)) } else { None }
    }

    pub(super) fn json(&self, name: &str) -> Value {
        json!({
            "name": name, "id": self.id, "at": self.instant(), "receives": self.receives, "group": self.group,
            "function": self.function, "reason": self.reason, "payload": self.payload,
        })
    }

    /// A head line, the reason, and the payload indented below.
    pub(super) fn lines(&self, name: &str) -> String {
        let mut head =
            format!("{name}  {}  {}  received {} times", self.id, self.instant().unwrap_or_default(), self.receives);
        for (what, value) in [("group", &self.group), ("function", &self.function)] {
            if let Some(value) = value {
                head += &format!("  {what} {value}");
            }
        }
        let payload = serde_json::to_string_pretty(&self.payload).unwrap_or_default();
        format!("{head}\n  {}\n    {}\n", self.reason, payload.replace('\n', "\n    "))
    }

    fn instant(&self) -> Option<String> {
        self.at?.format(&Rfc3339).ok()
    }
}

/// Where a parked input came from: a queue's message, or a record of a table's stream.
fn back(function: &str, payload: &Value) -> Back {
    let text = |name: &str| payload.get(name).and_then(Value::as_str).map(str::to_owned);
    if payload.get("dynamodb").is_some() {
        return Back::Function { name: function.to_owned(), event: json!({ "Records": [payload] }) };
    }
    match (text("source"), text("body")) {
        (Some(arn), Some(body)) => Back::Queue { arn, body, group: text("group") },
        _ => Back::Nowhere("what was parked does not say which queue it came from"),
    }
}

/// A message's body is JSON in a text: shown as what it is.
fn readable(payload: &Value) -> Value {
    let mut payload = payload.clone();
    if let Some(body) = payload.get_mut("body")
        && let Some(read) = body.as_str().and_then(|text| serde_json::from_str(text).ok())
    {
        *body = read;
    }
    payload
}

fn name_of(arn: &str) -> String {
    // arn:aws:lambda:region:account:function:name[:qualifier]
    arn.split(':').nth(6).unwrap_or(arn).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(body: &Value) -> Letter {
        let message = Message::builder()
            .message_id("m-1")
            .attributes(MessageSystemAttributeName::SentTimestamp, "1700000000123")
            .attributes(MessageSystemAttributeName::ApproximateReceiveCount, "3")
            .body(body.to_string());
        Letter::of_message(&message.build())
    }

    #[test]
    fn a_dead_letter_goes_back_as_it_is() {
        let told = letter(&json!({ "kind": "card" }));
        assert_eq!((told.id.as_str(), told.receives, &told.back), ("m-1", 3, &Back::Source));
        assert_eq!(told.json("X")["at"], "2023-11-14T22:13:20.123Z");
        assert!(told.lines("X").contains("\"kind\": \"card\""), "{}", told.lines("X"));
        let text = Letter::of_message(&Message::builder().body("你好 🙂").build());
        assert_eq!(text.payload, "你好 🙂");
    }

    #[test]
    fn what_a_queues_function_parked_goes_back_to_the_queue() {
        let payload =
            json!({ "message_id": "1", "body": "{\"a\": 1}", "group": "g", "source": "arn:aws:sqs:r:1:q.fifo" });
        let told = letter(&json!({ "function": "f", "reason": "bad: 授权", "payload": payload }));
        let (arn, body) = ("arn:aws:sqs:r:1:q.fifo".to_owned(), "{\"a\": 1}".to_owned());
        assert_eq!(told.back, Back::Queue { arn, body, group: Some("g".to_owned()) });
        assert_eq!((told.reason.as_str(), told.payload["body"]["a"].as_i64()), ("bad: 授权", Some(1)));
    }

    #[test]
    fn what_came_from_a_stream_or_a_schedule_goes_back_to_its_function() {
        let record = json!({ "eventName": "INSERT", "dynamodb": { "SequenceNumber": "1" } });
        let told = letter(&json!({ "function": "relay", "reason": "bad", "payload": record }));
        assert_eq!(told.back, Back::Function { name: "relay".to_owned(), event: json!({ "Records": [record] }) });

        let arn = "arn:aws:lambda:eu-west-1:123456789012:function:sky-Expiry-1x:$LATEST";
        let failed = json!({
            "requestContext": { "functionArn": arn, "condition": "RetriesExhausted" },
            "requestPayload": { "job": "tend_tokens" }, "responsePayload": { "errorMessage": "no table" },
        });
        let told = letter(&failed);
        assert_eq!(told.reason, "RetriesExhausted: no table");
        let name = "sky-Expiry-1x".to_owned();
        assert_eq!(told.back, Back::Function { name: name.clone(), event: json!({ "job": "tend_tokens" }) });

        let kept = json!({
            "requestContext": { "functionArn": arn, "condition": "RetryAttemptsExhausted", "approximateInvokeCount": 6 },
            "timestamp": "2026-01-02T03:04:05.678Z", "DDBStreamBatchInfo": { "shardId": "s1" },
            "payload": json!({ "Records": [1] }).to_string(),
        });
        let told = Letter::of_object("evidence", "aws/lambda/x", &kept);
        assert_eq!((told.receives, told.group.as_deref()), (6, Some("s1")));
        assert_eq!(told.back, Back::Function { name, event: json!({ "Records": [1] }) });
    }

    #[test]
    fn a_notice_of_evidence_names_its_object_and_a_test_by_s3_is_told_as_one() {
        let notice =
            json!({ "Records": [{ "s3": { "bucket": { "name": "b" }, "object": { "key": "aws/lambda/a%3Ab+c" } } }] });
        assert_eq!(letter(&notice).announces(), Some(("b", "aws/lambda/a:b c")));
        assert!(matches!(letter(&json!({ "Event": "s3:TestEvent" })).back, Back::Nowhere(_)));
        let unnamed = json!({ "function": "f", "reason": "r", "payload": { "body": "x" } });
        assert!(matches!(letter(&unnamed).back, Back::Nowhere(_)));
    }
}
