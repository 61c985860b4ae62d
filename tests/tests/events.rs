//! The events under `events/` are what each trigger sends: `sam local invoke` and `skylark invoke` are run with them.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;

use aws_lambda_events::event::apigw::{ApiGatewayV2httpRequest, ApiGatewayWebsocketProxyRequest};
use aws_lambda_events::event::{dynamodb, sqs};
use domain::chat::Message;
use domain::inbox::Entry;
use domain::push::{PushJob, bell_id};
use domain::session::Session;
use domain::socket::ClientFrame;
use domain::work::Doorbell;
use lark::callback::{Callback, CardAction, Keys, SignatureHeaders};
use lark::oauth::{Decision, Redirect};
use local_queue::pattern::Pattern;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_dynamo::Item;
use serde_json::Value;
use skylark_tests::{workspace, yaml};

/// What the vendor's sample pushes were made with.
const ENCRYPT_KEY: &str = "kudryavka-Encrypt-Key-01";
const VERIFICATION_TOKEN: &str = "vtok_Example0123456789abcdefgh";

fn template() -> Value {
    yaml::parse(&workspace::text("template.yaml").unwrap()).unwrap()
}

fn event(path: &str) -> Value {
    serde_json::from_str(&workspace::text(format!("events/{path}.json")).unwrap()).unwrap()
}

/// Every event file of a function, by its path below `events/`, without `.json`.
fn events(function: &str) -> Vec<String> {
    let files = workspace::names(&workspace::root().join("events").join(function)).unwrap();
    let name = |file: String| {
        let case = file.strip_suffix(".json").unwrap_or_else(|| panic!("events/{function}/{file} is no JSON"));
        format!("{function}/{case}")
    };
    files.into_iter().map(name).collect()
}

/// Each function's triggers: their type and properties.
fn triggers() -> BTreeMap<String, Vec<(String, Value)>> {
    let template = template();
    let resources = template["Resources"].as_object().unwrap().values();
    let functions = resources.filter(|resource| resource["Type"] == "AWS::Serverless::Function");
    let of_function = |function: &Value| {
        let folder = function["Properties"]["CodeUri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let events = function["Properties"]["Events"].as_object().into_iter().flat_map(|events| events.values());
        let triggers = events.map(|event| (event["Type"].as_str().unwrap().to_owned(), event["Properties"].clone()));
        (folder, triggers.collect())
    };
    functions.map(of_function).collect()
}

/// Parses the event as the function will. Nothing in it may be unknown to the type: the types skip what they do not know, so a
/// misspelled field would pass.
fn parse<T: DeserializeOwned + Serialize>(path: &str, event: &Value) -> T {
    let parsed: T = serde_json::from_value(event.clone()).unwrap_or_else(|error| panic!("{path}: {error}"));
    let known = serde_json::to_value(&parsed).unwrap();
    let mut strange = Vec::new();
    unknown_fields(event, &known, path, &mut strange);
    assert!(strange.is_empty(), "no trigger sends {strange:?}");
    parsed
}

/// API Gateway writes the names of headers as the client did; the type knows them in small letters.
fn with_small_headers(mut event: Value) -> Value {
    for headers in ["headers", "multiValueHeaders"] {
        if let Some(headers) = event[headers].as_object_mut() {
            *headers = std::mem::take(headers).into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        }
    }
    event
}

fn unknown_fields(event: &Value, known: &Value, place: &str, strange: &mut Vec<String>) {
    match event {
        Value::Object(fields) => {
            for (name, value) in fields {
                let place = format!("{place}.{name}");
                match known.get(name) {
                    Some(known) => unknown_fields(value, known, &place, strange),
                    None => strange.push(place),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                unknown_fields(item, &known[index], &format!("{place}[{index}]"), strange);
            }
        }
        _ => {}
    }
}

#[test]
fn every_function_has_events_and_every_event_a_function() {
    let triggers = triggers();
    let folders = workspace::names(&workspace::root().join("events")).unwrap();
    assert_eq!(folders, triggers.keys().cloned().collect::<Vec<_>>());
    for function in triggers.keys() {
        assert!(!events(function).is_empty(), "{function} has no event");
    }
}

#[test]
fn every_event_is_of_the_form_that_its_trigger_sends() {
    for (function, triggers) in triggers() {
        for path in events(&function) {
            let event = event(&path);
            // The WebSocket API is declared apart from its function, which has no trigger of its own.
            match triggers.first().map_or("WebSocket", |(kind, _)| kind.as_str()) {
                "WebSocket" => drop(parse::<ApiGatewayWebsocketProxyRequest>(&path, &with_small_headers(event))),
                "HttpApi" => drop(parse::<ApiGatewayV2httpRequest>(&path, &event)),
                "SQS" => drop(parse::<sqs::SqsEvent>(&path, &event)),
                "DynamoDB" => drop(parse::<dynamodb::Event>(&path, &event)),
                "ScheduleV2" => {
                    let input =
                        |properties: &Value| serde_json::from_str::<Value>(properties["Input"].as_str().unwrap());
                    let sent = triggers.iter().any(|(_, properties)| input(properties).unwrap() == event);
                    assert!(sent, "{path}: no schedule of the template sends this");
                }
                other => panic!("{function} has a trigger `{other}` that this test does not know"),
            }
        }
    }
}

#[test]
fn every_route_has_an_event_that_fits_it() {
    for (function, triggers) in triggers() {
        let mut routes: BTreeMap<String, usize> = triggers
            .iter()
            .filter(|(kind, _)| kind == "HttpApi")
            .map(|(_, route)| (format!("{} {}", route["Method"].as_str().unwrap(), route["Path"].as_str().unwrap()), 0))
            .collect();
        if routes.is_empty() {
            continue;
        }
        for path in events(&function) {
            let event = event(&path);
            let (context, route) = (&event["requestContext"], event["routeKey"].as_str().unwrap());
            *routes.get_mut(route).unwrap_or_else(|| panic!("{path}: {function} has no route `{route}`")) += 1;

            let mut concrete = route.to_owned();
            for (name, value) in event["pathParameters"].as_object().into_iter().flatten() {
                for parameter in [format!("{{{name}}}"), format!("{{{name}+}}")] {
                    concrete = concrete.replace(&parameter, value.as_str().unwrap());
                }
            }
            let sent =
                format!("{} {}", context["http"]["method"].as_str().unwrap(), event["rawPath"].as_str().unwrap());
            assert_eq!(concrete, sent, "{path}");
            assert_eq!(
                (&context["routeKey"], &context["http"]["path"]),
                (&event["routeKey"], &event["rawPath"]),
                "{path}"
            );
            assert_eq!((&event["version"], &context["stage"]), (&"2.0".into(), &"$default".into()), "{path}");

            let query = event["queryStringParameters"].as_object().into_iter().flatten();
            // Of a key that comes again, API Gateway joins the values with commas.
            let values =
                query.flat_map(|(name, value)| value.as_str().unwrap().split(',').map(move |value| (name, value)));
            let query: Vec<_> = values.map(|(name, value)| format!("{name}={value}")).collect();
            let mut raw: Vec<_> =
                event["rawQueryString"].as_str().unwrap().split('&').filter(|q| !q.is_empty()).collect();
            raw.sort_unstable();
            assert_eq!(query, raw, "{path}");

            let length = event["body"].as_str().unwrap_or_default().len().to_string();
            assert_eq!(event["headers"]["content-length"], length, "{path}");
        }
        assert!(routes.values().all(|count| *count > 0), "{function}: a route without an event: {routes:?}");
    }
}

/// Opens a push as `lark-callback` does.
fn push(case: &str, encrypt_key: Option<&str>) -> Callback {
    let event = event(&format!("lark-callback/{case}"));
    let keys = Keys {
        app_id: event["pathParameters"]["app_id"].as_str().unwrap().to_owned(),
        encrypt_key: encrypt_key.map(Into::into),
        verification_token: VERIFICATION_TOKEN.into(),
    };
    let headers = SignatureHeaders {
        timestamp: event["headers"]["x-lark-request-timestamp"].as_str(),
        nonce: event["headers"]["x-lark-request-nonce"].as_str(),
        signature: event["headers"]["x-lark-signature"].as_str(),
        refresh_token: None,
    };
    lark::callback::open(&keys, &headers, event["body"].as_str().unwrap().as_bytes())
        .unwrap_or_else(|e| panic!("{case}: {e}"))
}

#[test]
fn the_vendors_pushes_are_genuine() {
    let key = Some(ENCRYPT_KEY);
    assert!(matches!(push("challenge-plain", None), Callback::Challenge { .. }));
    assert!(matches!(push("challenge-encrypted", key), Callback::Challenge { .. }));
    assert!(matches!(push("card-click", key), Callback::CardAction(_)));
    assert!(matches!(push("message", key), Callback::Event(event) if event.event_type == "im.message.receive_v1"));
}

#[test]
fn browsers_come_back_granted_and_refused() {
    let back = |case: &str| {
        let event = event(&format!("lark-oauth/{case}"));
        Redirect::parse(event["rawQueryString"].as_str().unwrap()).unwrap().decision
    };
    assert!(matches!(back("callback-granted"), Decision::Granted { .. }));
    assert!(matches!(back("callback-refused"), Decision::Refused { error, .. } if error == "access_denied"));
}

/// The doorbells of the work queue's batch, each checked against the ids that its message carries.
fn bells() -> Vec<Doorbell> {
    let batch: sqs::SqsEvent = parse("lark-work/batch", &event("lark-work/batch"));
    let bell = |message: sqs::SqsMessage| {
        let bell: Doorbell = serde_json::from_str(message.body.as_deref().unwrap()).unwrap();
        assert_eq!(message.attributes["MessageGroupId"], bell.group());
        assert_eq!(message.attributes["MessageDeduplicationId"], bell.deduplication_id());
        bell
    };
    batch.records.into_iter().map(bell).collect()
}

/// The images of a stream record, as `outbox-relay` reads them.
fn changes() -> Vec<dynamodb::EventRecord> {
    parse::<dynamodb::Event>("outbox-relay/batch", &event("outbox-relay/batch")).records
}

fn read<T: DeserializeOwned>(image: &Item, entity: &str) -> T {
    let kind = image.inner().get("entity").cloned();
    assert_eq!(kind, Some(serde_dynamo::AttributeValue::S(entity.to_owned())));
    serde_dynamo::from_item(image.clone()).unwrap()
}

#[test]
fn the_stream_rings_the_bells_that_the_work_queue_delivers() {
    let changes = changes();
    let [inbox, session] = changes.as_slice() else { panic!("the batch holds an inbox entry and a session") };
    let entry: Entry = read(&inbox.change.new_image, "inbox");
    let before: Session = read(&session.change.old_image, "session");
    let after: Session = read(&session.change.new_image, "session");

    assert_eq!(bells(), [Doorbell::for_entry(&entry), Doorbell::for_session(&after)]);
    assert!(
        inbox.change.old_image.is_empty() && before.session_id == after.session_id && before.version < after.version
    );
    // The entry is what accepting the click leaves.
    let Callback::CardAction(click) = push("card-click", Some(ENCRYPT_KEY)) else { panic!("a click") };
    assert_eq!(serde_json::from_str::<CardAction>(&entry.payload).unwrap(), *click);
    assert_eq!((entry.app_id.as_str(), entry.event_id.as_str()), (click.app_id.as_str(), click.event_id.as_str()));
}

/// The jobs of the push queue's batch, each in its own group.
fn jobs() -> Vec<PushJob> {
    let batch: sqs::SqsEvent = parse("message-push/batch", &event("message-push/batch"));
    let job = |message: sqs::SqsMessage| {
        let job: PushJob = serde_json::from_str(message.body.as_deref().unwrap()).unwrap();
        assert_eq!(message.attributes["MessageGroupId"], job.group());
        if let PushJob::Drain { conversation_id, seq } = &job {
            assert_eq!(message.attributes["MessageDeduplicationId"], bell_id(conversation_id, *seq));
        }
        job
    };
    batch.records.into_iter().map(job).collect()
}

#[test]
fn a_message_of_the_stream_is_the_one_that_the_push_queue_rings_for() {
    let records = parse::<dynamodb::Event>("outbox-relay/messages", &event("outbox-relay/messages")).records;
    let message: Message = read(&records[0].change.new_image, "message");
    let bell = PushJob::Drain { conversation_id: message.conversation_id, seq: message.seq };
    assert_eq!(jobs()[0], bell);
    assert!(matches!(jobs().as_slice(), [_, PushJob::Tell { .. }, PushJob::Close(_)]));
}

#[test]
fn clients_say_what_a_socket_understands() {
    let frame = |case: &str| {
        let event = event(&format!("socket-gateway/{case}"));
        ClientFrame::read(event["body"].as_str().unwrap()).unwrap()
    };
    assert!(matches!(frame("hello"), ClientFrame::Hello { last_seq } if last_seq.len() == 1));
    assert_eq!(frame("ping"), ClientFrame::Ping);
}

#[test]
fn the_streams_filter_lets_its_events_through_and_what_nobody_waits_for_not() {
    let streams = triggers().remove("outbox-relay").unwrap();
    let of_table = |table: &str| {
        let stream = streams.iter().find(|(_, stream)| stream["Stream"]["Fn::GetAtt"][0] == table).unwrap();
        stream.1["FilterCriteria"]["Filters"].as_array().unwrap().clone()
    };
    let lets_through = |filters: Vec<Value>| {
        let patterns: Vec<Pattern> =
            filters.iter().map(|filter| Pattern::parse(filter["Pattern"].as_str().unwrap()).unwrap()).collect();
        move |record: &Value| patterns.iter().any(|pattern| pattern.matches(record))
    };
    let chat = lets_through(of_table("ChatTable"));
    let message = &event("outbox-relay/messages")["Records"][0];
    let mut receipt = message.clone();
    receipt["dynamodb"]["NewImage"]["entity"]["S"] = "membership".into();
    assert!(chat(message) && !chat(&receipt));

    let passes = lets_through(of_table("LarkTable"));
    for record in event("outbox-relay/batch")["Records"].as_array().unwrap() {
        assert!(passes(record));
        let (mut forgotten, mut other) = (record.clone(), record.clone());
        forgotten["eventName"] = "REMOVE".into();
        other["dynamodb"]["NewImage"]["entity"]["S"] = "attempt".into();
        assert!(!passes(&forgotten) && !passes(&other));
        let mut changed = record.clone();
        changed["eventName"] = "MODIFY".into();
        let is_session = record["dynamodb"]["NewImage"]["entity"]["S"] == "session";
        assert_eq!(passes(&changed), is_session, "what a worker does to an inbox entry announces nothing");
    }
}
