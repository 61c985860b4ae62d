//! Every push a receiver may get: the vendor's vectors, each with every byte changed, all shapes of body, and plain noise.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use lark::callback::{Callback, CallbackError, CardAction, Forgery, Keys, Problem, SignatureHeaders, open};
use lark::event::{Event, Payload};
use lark::signature::{DecryptError, decrypt, encrypt, sha1_hex, sha256_hex, verify_sha1, verify_sha256};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

const KEY: &str = "kudryavka-Encrypt-Key-01";
const TOKEN: &str = "vtok_Example0123456789abcdefgh";
const APP: &str = "cli_a1b2c3d4e5f60001";
const TIMESTAMP: &str = "1700000000";
const NONCE: &str = "n0nce-abc123";
const IV: [u8; 16] = *b"0123456789abcdef";
const UNSIGNED: SignatureHeaders<'static> =
    SignatureHeaders { timestamp: None, nonce: None, signature: None, refresh_token: None };

fn vectors() -> Value {
    serde_json::from_str(include_str!("lark-vectors.json")).unwrap()
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    vectors[name].as_array().unwrap()
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap_or_default()
}

fn keys(encrypt_key: &str, token: &str) -> Keys {
    Keys { app_id: APP.to_owned(), encrypt_key: Some(encrypt_key.into()), verification_token: token.into() }
}

fn plain_keys() -> Keys {
    Keys { app_id: APP.to_owned(), encrypt_key: None, verification_token: TOKEN.into() }
}

fn signed(signature: &str) -> SignatureHeaders<'_> {
    SignatureHeaders { timestamp: Some(TIMESTAMP), nonce: Some(NONCE), signature: Some(signature), refresh_token: None }
}

fn encrypted(body: &Value) -> String {
    json!({ "encrypt": encrypt(KEY, IV, body.to_string().as_bytes()) }).to_string()
}

/// As the vendor pushes it: encrypted, signed with SHA-256.
fn push(body: &Value) -> Result<Callback, CallbackError> {
    let raw = encrypted(body);
    let signature = sha256_hex(TIMESTAMP, NONCE, KEY, raw.as_bytes());
    open(&keys(KEY, TOKEN), &signed(&signature), raw.as_bytes())
}

/// As the vendor pushes it to an app without an encrypt key.
fn push_plain(body: &Value) -> Result<Callback, CallbackError> {
    open(&plain_keys(), &UNSIGNED, body.to_string().as_bytes())
}

fn status(result: &Result<Callback, CallbackError>) -> u16 {
    result.as_ref().map_or_else(CallbackError::status, |_| 200)
}

fn card(result: Result<Callback, CallbackError>) -> CardAction {
    match result.unwrap() {
        Callback::CardAction(card) => *card,
        other => panic!("not a card: {other:?}"),
    }
}

fn event(result: Result<Callback, CallbackError>) -> Event {
    match result.unwrap() {
        Callback::Event(event) => event,
        other => panic!("not an event: {other:?}"),
    }
}

fn new_card() -> Value {
    serde_json::from_str(text(&list(&vectors(), "end_to_end")[3], "plaintext")).unwrap()
}

fn old_card() -> Value {
    serde_json::from_str(text(&list(&vectors(), "signature_sha1_card")[0], "raw_body")).unwrap()
}

fn event_v1() -> Value {
    json!({"ts": "1502199207.7171419", "uuid": "bc447199585340d1f3728d26b1c0297a", "token": TOKEN, "type": "event_callback",
           "event": {"type": "p2p_chat_create", "app_id": APP, "tenant_key": "736588c9260f175c", "chat_id": "oc_x"}})
}

fn message(content: &str, mentions: Value) -> Value {
    json!({"schema": "2.0",
        "header": {"event_id": "e1", "event_type": "im.message.receive_v1", "create_time": "1608725989000", "token": TOKEN,
                   "app_id": APP, "tenant_key": "t1"},
        "event": {"sender": {"sender_id": {"union_id": "on_1", "open_id": "ou_1"}, "sender_type": "user"},
                  "message": {"message_id": "om_1", "create_time": 1609073151345_i64, "chat_id": "oc_1", "chat_type": "group",
                              "message_type": "text", "content": content, "mentions": mentions, "new_field": [1]}}})
}

// ---- vectors ----

#[test]
fn every_ciphertext_vector_opens_or_fails_as_documented() {
    let vectors = vectors();
    for vector in list(&vectors, "documented").iter().chain(list(&vectors, "decrypt")) {
        let expected = if vector["expect"].is_object() { &vector["expect"] } else { &vector["reference_result"] };
        let opened = decrypt(text(vector, "encrypt_key"), text(vector, "ciphertext_b64"));
        match expected["ok"].as_bool().unwrap() {
            true => assert_eq!(opened.unwrap(), text(expected, "plaintext").as_bytes(), "{vector}"),
            false => assert!(opened.is_err(), "{vector}"),
        }
    }
}

#[test]
fn every_ciphertext_vector_is_made_again_from_its_plaintext() {
    for vector in list(&vectors(), "decrypt").iter().filter(|vector| vector["iv_hex"].is_string()) {
        let iv = hex::decode(text(vector, "iv_hex")).unwrap().try_into().unwrap();
        let made = encrypt(text(vector, "encrypt_key"), iv, text(&vector["expect"], "plaintext").as_bytes());
        assert_eq!(made, text(vector, "ciphertext_b64"), "{vector}");
    }
}

#[test]
fn every_signature_vector_is_accepted_or_refused() {
    for vector in list(&vectors(), "signature_sha256") {
        let (signature, body) = (text(vector, "x_lark_signature"), text(vector, "raw_body").as_bytes());
        let valid = vector["expect_valid"].as_bool().unwrap();
        assert_eq!(verify_sha256(signature, text(vector, "timestamp"), text(vector, "nonce"), KEY, body), valid);
        let headers = SignatureHeaders {
            timestamp: Some(text(vector, "timestamp")),
            nonce: Some(text(vector, "nonce")),
            signature: Some(signature),
            refresh_token: None,
        };
        let result = open(&keys(KEY, TOKEN), &headers, body);
        assert_eq!(status(&result), if valid { 200 } else { 401 }, "{vector}");
    }
    for vector in list(&vectors(), "signature_sha1_card") {
        let (signature, body) = (text(vector, "x_lark_signature"), text(vector, "raw_body").as_bytes());
        let valid = vector["expect_valid"].as_bool().unwrap();
        assert_eq!(verify_sha1(signature, TIMESTAMP, NONCE, TOKEN, body), valid);
        for keys in [keys(KEY, TOKEN), plain_keys()] {
            assert_eq!(status(&open(&keys, &signed(signature), body)), if valid { 200 } else { 401 }, "{vector}");
        }
    }
}

#[test]
fn every_end_to_end_vector_is_answered() {
    for vector in list(&vectors(), "end_to_end") {
        let headers = SignatureHeaders {
            timestamp: vector["timestamp"].as_str(),
            nonce: vector["nonce"].as_str(),
            signature: vector["x_lark_signature"].as_str(),
            refresh_token: None,
        };
        let keys = keys(text(vector, "encrypt_key"), text(vector, "verification_token"));
        let result = open(&keys, &headers, text(vector, "raw_body").as_bytes());
        match vector["reference_response"]["http_status"].as_u64() {
            Some(200) => assert_eq!(status(&result), 200, "{vector}: {result:?}"),
            _ => assert_eq!(status(&result), 401, "{vector}"),
        }
        if let Ok(Callback::Challenge { challenge }) = result {
            assert_eq!(lark::answer::challenge(&challenge).to_string(), text(&vector["reference_response"], "body"));
        }
    }
}

#[test]
fn a_changed_iv_is_refused_with_or_without_a_signature() {
    let vectors = vectors();
    let tampered = &list(&vectors, "decrypt")[5];
    assert!(text(tampered, "name").contains("IV first byte"));
    let raw = json!({ "encrypt": text(tampered, "ciphertext_b64") }).to_string();
    let unsigned = open(&keys(KEY, TOKEN), &UNSIGNED, raw.as_bytes());
    assert_eq!(unsigned.unwrap_err(), CallbackError::Forged(Forgery::WrongKey));
    let signature = sha256_hex(TIMESTAMP, NONCE, "another key", raw.as_bytes());
    let forged = open(&keys(KEY, TOKEN), &signed(&signature), raw.as_bytes());
    assert_eq!(forged.unwrap_err(), CallbackError::Forged(Forgery::WrongSignature));
}

#[test]
fn any_changed_byte_of_a_signed_push_is_refused() {
    let vectors = vectors();
    let good = [
        (&list(&vectors, "signature_sha256")[0], keys(KEY, TOKEN)),
        (&list(&vectors, "end_to_end")[3], keys(KEY, TOKEN)),
        (&list(&vectors, "signature_sha1_card")[0], plain_keys()),
    ];
    for (vector, keys) in good {
        let signature = text(vector, "x_lark_signature");
        let body = text(vector, "raw_body").as_bytes();
        assert!(open(&keys, &signed(signature), body).is_ok());
        for flip in [0x01, 0x20, 0x80] {
            for at in 0..body.len() {
                let mut changed = body.to_vec();
                changed[at] ^= flip;
                let result = open(&keys, &signed(signature), &changed);
                assert!(matches!(status(&result), 400 | 401), "byte {at} of the body: {result:?}");
            }
        }
        for at in 0..signature.len() {
            let mut changed = signature.as_bytes().to_vec();
            changed[at] ^= 0x01;
            let changed = String::from_utf8(changed).unwrap();
            let result = open(&keys, &signed(&changed), body);
            assert_eq!(status(&result), 401, "byte {at} of the signature");
        }
        for headers in [
            SignatureHeaders { timestamp: Some("1700000001"), ..signed(signature) },
            SignatureHeaders { nonce: Some("n0nce-abc12"), ..signed(signature) },
            SignatureHeaders { timestamp: None, ..signed(signature) },
            SignatureHeaders { nonce: Some(""), ..signed(signature) },
            SignatureHeaders { signature: Some(""), ..signed(signature) },
            signed(&signature.to_uppercase()),
            UNSIGNED,
        ] {
            assert_eq!(status(&open(&keys, &headers, body)), 401, "{headers:?}");
        }
    }
}

#[test]
fn a_changed_byte_of_an_unsigned_url_check_never_becomes_anything_else() {
    let vectors = vectors();
    let body = text(&list(&vectors, "end_to_end")[0], "raw_body").as_bytes();
    for flip in [0x01, 0x20, 0x80] {
        for at in 0..body.len() {
            let mut changed = body.to_vec();
            changed[at] ^= flip;
            match open(&keys(KEY, TOKEN), &UNSIGNED, &changed) {
                Ok(Callback::Challenge { .. }) | Err(_) => {}
                Ok(other) => panic!("byte {at} made {other:?}"),
            }
        }
    }
}

// ---- proof ----

#[test]
fn a_signature_is_mandatory_once_there_is_a_key_and_a_token_never_replaces_it() {
    for body in [new_card(), event_v1(), message("{}", json!([])), old_card(), json!({})] {
        for raw in [body.to_string(), encrypted(&body)] {
            let result = open(&keys(KEY, TOKEN), &UNSIGNED, raw.as_bytes());
            assert_eq!(status(&result), 401, "{raw}");
        }
    }
}

#[test]
fn a_plain_body_passes_a_configured_key_only_if_signed_with_it() {
    let raw = new_card().to_string();
    let right = sha256_hex(TIMESTAMP, NONCE, KEY, raw.as_bytes());
    assert_eq!(status(&open(&keys(KEY, TOKEN), &signed(&right), raw.as_bytes())), 200);
    let sha1 = sha1_hex(TIMESTAMP, NONCE, TOKEN, raw.as_bytes());
    assert_eq!(status(&open(&keys(KEY, TOKEN), &signed(&sha1), raw.as_bytes())), 401, "SHA-1 is for old cards only");
}

#[test]
fn without_a_key_the_token_is_the_proof() {
    for body in [new_card(), event_v1(), message("{}", json!([]))] {
        assert_eq!(status(&push_plain(&body)), 200);
        let keys = Keys { verification_token: "another".into(), ..plain_keys() };
        assert_eq!(status(&open(&keys, &UNSIGNED, body.to_string().as_bytes())), 401);
        let empty = Keys { verification_token: "".into(), ..plain_keys() };
        assert_eq!(status(&open(&empty, &UNSIGNED, body.to_string().replace(TOKEN, "").as_bytes())), 401);
    }
    let unrelated = sha256_hex(TIMESTAMP, NONCE, "", event_v1().to_string().as_bytes());
    assert_eq!(status(&open(&plain_keys(), &signed(&unrelated), event_v1().to_string().as_bytes())), 200);
}

#[test]
fn an_empty_key_or_token_proves_nothing() {
    let raw = event_v1().to_string();
    assert_eq!(status(&open(&keys("", TOKEN), &UNSIGNED, raw.as_bytes())), 200, "an empty key is none");
    let raw = json!({ "encrypt": encrypt("", IV, raw.as_bytes()) }).to_string();
    let signature = sha256_hex(TIMESTAMP, NONCE, "", raw.as_bytes());
    let result = open(&keys("", TOKEN), &signed(&signature), raw.as_bytes());
    assert_eq!(result.unwrap_err(), CallbackError::Forged(Forgery::NoEncryptKey));

    let raw = old_card().to_string();
    let signature = sha1_hex(TIMESTAMP, NONCE, "", raw.as_bytes());
    assert_eq!(status(&open(&keys(KEY, ""), &signed(&signature), raw.as_bytes())), 401);
}

#[test]
fn the_token_is_checked_even_when_the_signature_is_right() {
    let body = new_card().to_string().replace(TOKEN, "vtok_other");
    let result = push(&serde_json::from_str(&body).unwrap());
    assert_eq!(result.unwrap_err(), CallbackError::Forged(Forgery::WrongToken));
}

#[test]
fn a_push_for_another_app_is_forbidden() {
    let other = |body: Value| serde_json::from_str(&body.to_string().replace(APP, "cli_other")).unwrap();
    for body in [other(new_card()), other(event_v1()), other(message("{}", json!([])))] {
        let expected = CallbackError::Forbidden { app_id: "cli_other".to_owned() };
        assert_eq!(push(&body).unwrap_err(), expected);
        assert_eq!(push_plain(&body).unwrap_err().status(), 403);
    }
}

#[test]
fn one_apps_push_is_forged_to_another_app_with_other_secrets() {
    let raw = encrypted(&new_card());
    let signature = sha256_hex(TIMESTAMP, NONCE, KEY, raw.as_bytes());
    let other = Keys {
        app_id: "cli_other".to_owned(),
        encrypt_key: Some("密钥-键🔑".into()),
        verification_token: "other".into(),
    };
    assert_eq!(status(&open(&other, &signed(&signature), raw.as_bytes())), 401);
    assert_eq!(status(&open(&other, &UNSIGNED, raw.as_bytes())), 401);
}

#[test]
fn a_non_ascii_key_signs_and_encrypts_by_its_utf8_bytes() {
    let key = "密钥-键🔑";
    let raw = json!({ "encrypt": encrypt(key, IV, new_card().to_string().as_bytes()) }).to_string();
    let signature = sha256_hex(TIMESTAMP, NONCE, key, raw.as_bytes());
    assert_eq!(status(&open(&keys(key, TOKEN), &signed(&signature), raw.as_bytes())), 200);
}

#[test]
fn an_undecryptable_body_is_forged_unless_it_was_signed() {
    let raw = json!({ "encrypt": encrypt("another key", IV, new_card().to_string().as_bytes()) }).to_string();
    assert_eq!(
        open(&keys(KEY, TOKEN), &UNSIGNED, raw.as_bytes()).unwrap_err(),
        CallbackError::Forged(Forgery::WrongKey)
    );
    let signature = sha256_hex(TIMESTAMP, NONCE, KEY, raw.as_bytes());
    assert_eq!(
        open(&keys(KEY, TOKEN), &signed(&signature), raw.as_bytes()).unwrap_err(),
        CallbackError::Malformed { field: "encrypt", problem: Problem::Undecryptable }
    );
}

#[test]
fn a_url_check_needs_the_token_and_no_signature_in_plain_or_encrypted() {
    let body = json!({"challenge": "ch-\"quoted\" 中", "token": TOKEN, "type": "url_verification"});
    for (keys, raw) in
        [(plain_keys(), body.to_string()), (keys(KEY, TOKEN), body.to_string()), (keys(KEY, TOKEN), encrypted(&body))]
    {
        let result = open(&keys, &UNSIGNED, raw.as_bytes());
        assert!(matches!(result, Ok(Callback::Challenge { challenge }) if challenge == "ch-\"quoted\" 中"));
        let wrong = Keys { verification_token: "x".into(), ..keys };
        assert_eq!(status(&open(&wrong, &UNSIGNED, raw.as_bytes())), 401);
    }
    let raw = encrypted(&body);
    let wrong = sha256_hex(TIMESTAMP, NONCE, "x", raw.as_bytes());
    assert_eq!(status(&open(&keys(KEY, TOKEN), &signed(&wrong), raw.as_bytes())), 401, "a signature must be right");
}

// ---- shapes ----

#[test]
fn a_new_card_click_is_read_whole() {
    let mut body = new_card();
    let action = &mut body["event"]["action"];
    action["options"] = json!(["a", "b"]);
    action["checked"] = json!(true);
    action["input_value"] = json!("");
    action["timezone"] = json!("Asia/Shanghai");
    for card in [card(push(&body)), card(push_plain(&body))] {
        assert_eq!(
            (card.app_id.as_str(), card.event_id.as_str(), card.old),
            (APP, "ca000000000000000000000000000001", false)
        );
        assert_eq!(card.operator.open_id, "ou_o1");
        assert_eq!(card.operator.tenant_key.as_deref(), Some("2df7399175000001"));
        assert_eq!(card.update_token.as_str(), "c-295ee57216a5dc9de90fefd0aadb4b1d7d000001");
        assert_eq!(card.message_id.as_deref(), Some("om_m1"));
        assert_eq!(card.chat_id.as_deref(), Some("oc_c1"));
        assert_eq!(card.host.as_deref(), Some("im_message"));
        assert_eq!(card.action.value, json!({"op": "approve", "id": "42"}));
        assert_eq!(card.action.form_value, Some(json!({"reason": "ok"})));
        assert_eq!(card.action.options, ["a", "b"]);
        assert_eq!(card.action.input_value.as_deref(), Some(""), "an emptied input is not a missing one");
        assert_eq!((card.action.checked, card.action.option), (Some(true), None));
        assert!(!format!("{:?}", card.update_token).contains("c-295"));
    }
}

#[test]
fn a_click_survives_the_queue() {
    let clicked = card(push(&new_card()));
    let queued = serde_json::to_string(&clicked).unwrap();
    assert_eq!(serde_json::from_str::<CardAction>(&queued).unwrap(), clicked);
}

#[test]
fn a_number_survives_the_queue_to_its_last_digit() {
    let mut body = new_card();
    body["event"]["action"]["value"] = json!({ "price": 0.1, "tiny": -8.489_374_519_868_152e-29, "big": u64::MAX });
    let click = card(push(&body));
    let kept = serde_json::to_string(&click).unwrap();
    assert_eq!(serde_json::from_str::<CardAction>(&kept).unwrap().action.value, body["event"]["action"]["value"]);
}

#[test]
fn an_event_survives_the_queue_with_its_body_as_sent() {
    let received = event(push(&message("{\"text\":\"你好\"}", json!([]))));
    for queued in [serde_json::to_string(&received).unwrap(), json!(received).to_string()] {
        let read: Event = serde_json::from_str(&queued).unwrap();
        assert_eq!((&read.id, read.created_at_ms), (&received.id, received.created_at_ms));
        let body: Value = serde_json::from_str(read.body.get()).unwrap();
        assert_eq!(body, serde_json::from_str::<Value>(received.body.get()).unwrap());
    }
}

#[test]
fn a_value_may_be_a_string_and_most_of_an_action_may_be_missing() {
    let mut body = new_card();
    body["event"]["action"] = json!({"tag": "overflow", "value": "plain", "option": "x", "unknown": {}});
    body["event"]["context"] = Value::Null;
    let clicked = card(push(&body));
    assert_eq!(clicked.action.value, json!("plain"));
    assert_eq!(clicked.action.option.as_deref(), Some("x"));
    assert_eq!((clicked.message_id, clicked.action.form_value), (None, None));
}

#[test]
fn an_old_card_click_is_proved_by_its_signature_plain_or_encrypted() {
    for raw in [old_card().to_string(), encrypted(&old_card())] {
        for signature in
            [sha1_hex(TIMESTAMP, NONCE, TOKEN, raw.as_bytes()), sha256_hex(TIMESTAMP, NONCE, KEY, raw.as_bytes())]
        {
            let clicked = card(open(&keys(KEY, TOKEN), &signed(&signature), raw.as_bytes()));
            assert!(clicked.old);
            assert_eq!(
                (clicked.app_id.as_str(), clicked.operator.user_id.as_deref(), clicked.update_token.as_str()),
                (APP, Some("eu_1"), "c-0001")
            );
            assert_eq!(clicked.action.value, json!({"key": "value"}));
        }
    }
}

#[test]
fn repetitions_of_an_old_click_have_one_id() {
    let raw = old_card().to_string();
    let signature = sha1_hex(TIMESTAMP, NONCE, TOKEN, raw.as_bytes());
    let id = |refresh_token| {
        let headers = SignatureHeaders { refresh_token, ..signed(&signature) };
        card(open(&plain_keys(), &headers, raw.as_bytes())).event_id
    };
    assert_eq!(id(None), id(Some("")));
    assert_eq!(id(Some("r1")), id(Some("r1")));
    assert_ne!(id(Some("r1")), id(Some("r2")));
    assert_ne!(id(Some("r1")), id(None));
}

#[test]
fn events_of_both_schemas_look_the_same() {
    for v1 in [event(push(&event_v1())), event(push_plain(&event_v1()))] {
        assert_eq!((v1.id.as_str(), v1.event_type.as_str()), ("bc447199585340d1f3728d26b1c0297a", "p2p_chat_create"));
        assert_eq!(v1.tenant_key.as_deref(), Some("736588c9260f175c"));
        assert_eq!(v1.created_at_ms, Some(1_502_199_207_717));
        assert_eq!(v1.dedupe_key(), v1.id);
        assert!(v1.body.get().contains("oc_x"));
        assert!(matches!(v1.payload(), Ok(Payload::Other)));
    }
    let v2 = json!({"schema": "2.0", "header": {"event_id": "f7", "token": TOKEN, "create_time": "1603977298000000",
        "event_type": "contact.user_group.created_v3", "tenant_key": "t", "app_id": APP}, "event": {}});
    let v2 = event(push(&v2));
    assert_eq!((v2.id.as_str(), v2.created_at_ms), ("f7", Some(1_603_977_298_000)));
    assert_eq!(v2.dedupe_key(), "f7");
}

#[test]
fn a_message_is_read_with_the_names_of_those_it_mentions() {
    let content = json!({"text": "@_user_1 你好 @_user_10, mail a@b.c @_all 👋"}).to_string();
    let mentions = json!([
        {"key": "@_user_1", "id": {"open_id": "ou_1"}, "name": "Tom @_user_10"},
        {"key": "@_user_10", "id": {"open_id": "ou_10"}, "name": "李雷"},
        {"key": "@_user_2", "id": null, "name": ""}]);
    let event = event(push(&message(&content, mentions)));
    assert_eq!(event.dedupe_key(), "om_1", "one message may come under two event ids");
    let Ok(Payload::Message(message)) = event.payload() else { panic!("not a message") };
    assert_eq!(message.text().unwrap(), "@Tom @_user_10 你好 @李雷, mail a@b.c @_all 👋");
    assert_eq!((message.created_at_ms, message.updated_at_ms), (Some(1_609_073_151_345), None));
    assert_eq!((message.sender.open_id.as_deref(), message.sender.user_id), (Some("ou_1"), None));
    assert!(!format!("{event:?}").contains("你好"), "what people write is not printed");
}

#[test]
fn a_message_without_its_fields_names_them_and_still_has_a_dedupe_key() {
    let mut body = message("{}", json!([]));
    body["event"]["message"]["message_id"] = Value::Null;
    let event = event(push(&body));
    assert_eq!(event.dedupe_key(), "e1");
    assert_eq!(
        event.payload().unwrap_err(),
        CallbackError::Malformed { field: "event.message.message_id", problem: Problem::Missing }
    );
}

#[test]
fn words_are_read_only_from_text_messages() {
    for (kind, content, expected) in [
        ("text", r#"{"text":"hi"}"#, Some("hi")),
        ("text", r#"{"text":"@"}"#, Some("@")),
        ("text", "not json", None),
        ("text", "{}", None),
        ("image", r#"{"image_key":"img_1"}"#, None),
    ] {
        let mut body = message(content, json!([]));
        body["event"]["message"]["message_type"] = json!(kind);
        let Ok(Payload::Message(message)) = event(push(&body)).payload() else { panic!("not a message") };
        assert_eq!(message.text().as_deref(), expected, "{kind} {content}");
    }
}

#[test]
fn an_app_ticket_is_a_secret() {
    let body = json!({"ts": "", "uuid": "u", "token": TOKEN, "type": "event_callback",
                      "event": {"app_id": APP, "type": "app_ticket", "app_ticket": "T-1"}});
    let event = event(push(&body));
    let Ok(Payload::AppTicket(ticket)) = event.payload() else { panic!("not a ticket") };
    assert_eq!((ticket.app_id.as_str(), ticket.ticket.expose_secret()), (APP, "T-1"));
    assert!(!format!("{event:?} {ticket:?}").contains("T-1"));
}

#[test]
fn a_malformed_body_names_its_field() {
    let v2 = |header: Value| json!({"schema": "2.0", "header": header, "event": {}});
    let header = json!({"event_id": "e", "token": TOKEN, "event_type": "t", "app_id": APP});
    let without = |field: &str| {
        let mut header = header.clone();
        header[field] = Value::Null;
        v2(header)
    };
    let mut click = new_card();
    click["event"]["action"]["tag"] = json!({});
    let mut no_operator = new_card();
    no_operator["event"]["operator"] = json!("ou_1");
    for (body, field, problem) in [
        (json!({}), "event", Problem::Missing),
        (json!({"schema": "2.0", "header": [TOKEN]}), "header", Problem::WrongType),
        (without("app_id"), "header.app_id", Problem::Missing),
        (without("event_id"), "header.event_id", Problem::Missing),
        (without("event_type"), "header.event_type", Problem::Missing),
        (json!({"schema": "2.0", "header": header}), "event", Problem::Missing),
        (click, "action.tag", Problem::WrongType),
        (no_operator, "event.operator", Problem::WrongType),
        (json!({"type": "url_verification", "token": TOKEN}), "challenge", Problem::Missing),
        (json!({"type": 1.5e3, "token": {}}), "token", Problem::WrongType),
    ] {
        let mut body = body;
        if body.as_object().unwrap().is_empty() {
            body["token"] = json!(TOKEN);
        }
        let error = push_plain(&body).unwrap_err();
        assert_eq!(error, CallbackError::Malformed { field, problem }, "{body}");
        assert_eq!(error.status(), 400);
        assert!(error.to_string().contains(field));
    }
}

#[test]
fn what_is_not_an_object_is_malformed() {
    for raw in [
        &b""[..],
        b"   ",
        b"{",
        b"null",
        b"[]",
        b"[[\"x\"]]",
        b"\"x\"",
        b"1",
        b"{\"a\":1}x",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
    ] {
        for keys in [plain_keys(), keys(KEY, TOKEN)] {
            assert_eq!(status(&open(&keys, &UNSIGNED, raw)), 400, "{raw:?}");
        }
    }
    for cipher in ["", "!", "AAAA", "4OfuUbAkRjFMu/ZqKQ0w7Q==", "4OfuUbAkRjFMu/ZqKQ0w7Q", "AAAA\n"] {
        let raw = json!({ "encrypt": cipher }).to_string();
        assert_eq!(status(&open(&keys(KEY, TOKEN), &UNSIGNED, raw.as_bytes())), 400, "{cipher:?}");
    }
    assert_eq!(status(&open(&keys(KEY, TOKEN), &UNSIGNED, br#"{"encrypt":7.5}"#)), 400);
    assert_eq!(status(&open(&keys(KEY, TOKEN), &UNSIGNED, br#"{"encrypt":{"a":1}}"#)), 400);
    assert_eq!(status(&open(&plain_keys(), &UNSIGNED, br#"{"encrypt":"AAAA"}"#)), 401, "no key to open it with");
}

#[test]
fn depth_and_size_are_no_danger() {
    let deep = format!("{{\"token\":\"{TOKEN}\",\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(status(&open(&plain_keys(), &UNSIGNED, deep.as_bytes())), 400);
    let mut deep_value = new_card();
    deep_value["event"]["action"]["value"] = json!("DEEP");
    let raw = deep_value.to_string().replace("\"DEEP\"", &format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)));
    assert_eq!(status(&open(&plain_keys(), &UNSIGNED, raw.as_bytes())), 400);

    let content = json!({ "text": "语".repeat(700_000) }).to_string();
    let event = event(push(&message(&content, json!([]))));
    assert!(event.body.get().len() > 2_000_000);
    let Ok(Payload::Message(message)) = event.payload() else { panic!("not a message") };
    assert_eq!(message.text().unwrap().chars().count(), 700_000);
    let huge_noise = "4OfuUbAkRjFMu/ZqKQ0w7VJAsks+bEttvqKGPyTz".repeat(50_000);
    let raw = json!({ "encrypt": huge_noise }).to_string();
    assert!(matches!(status(&open(&keys(KEY, TOKEN), &UNSIGNED, raw.as_bytes())), 400 | 401));
}

// ---- properties ----

proptest! {
    #[test]
    fn whatever_is_encrypted_opens_again(key in ".*", iv: [u8; 16], plaintext: Vec<u8>) {
        prop_assert_eq!(decrypt(&key, &encrypt(&key, iv, &plaintext)), Ok(plaintext));
    }

    #[test]
    fn whatever_is_signed_verifies_and_only_as_it_was(
        timestamp in "[0-9]{1,13}", nonce in ".{0,40}", secret in ".{0,40}", mut body: Vec<u8>, at: prop::sample::Index,
    ) {
        let (sha256, sha1) = (sha256_hex(&timestamp, &nonce, &secret, &body), sha1_hex(&timestamp, &nonce, &secret, &body));
        prop_assert!(verify_sha256(&sha256, &timestamp, &nonce, &secret, &body));
        prop_assert!(verify_sha1(&sha1, &timestamp, &nonce, &secret, &body));
        prop_assert!(!verify_sha256(&sha1, &timestamp, &nonce, &secret, &body));
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] ^= 1;
            prop_assert!(!verify_sha256(&sha256, &timestamp, &nonce, &secret, &body));
            prop_assert!(!verify_sha1(&sha1, &timestamp, &nonce, &secret, &body));
        }
    }

    #[test]
    fn noise_is_refused_and_never_panics(body: Vec<u8>, signature in ".{0,70}", headers: bool) {
        let headers = if headers { signed(&signature) } else { UNSIGNED };
        prop_assert!(open(&keys(KEY, TOKEN), &headers, &body).is_err());
        prop_assert!(open(&plain_keys(), &headers, &body).is_err());
    }

    #[test]
    fn noise_that_was_encrypted_or_called_so_is_refused(plaintext: Vec<u8>, cipher in "[A-Za-z0-9+/=]{0,200}") {
        for cipher in [encrypt(KEY, IV, &plaintext), cipher] {
            let raw = json!({ "encrypt": cipher }).to_string();
            prop_assert!(open(&keys(KEY, TOKEN), &UNSIGNED, raw.as_bytes()).is_err());
            let signature = sha256_hex(TIMESTAMP, NONCE, KEY, raw.as_bytes());
            let result = open(&keys(KEY, TOKEN), &signed(&signature), raw.as_bytes());
            prop_assert_eq!(result.unwrap_err().status(), 400);
        }
    }

    #[test]
    fn any_piece_of_a_push_may_be_anything(piece in piece(), which in 0_usize..14) {
        let mut body = if which < 8 { new_card() } else { message("{}", json!([])) };
        let pointer = [
            "/header", "/header/create_time", "/event", "/event/operator", "/event/action", "/event/action/value",
            "/event/action/options", "/event/context", "/event/message", "/event/message/mentions", "/event/sender",
            "/event/message/content", "/event/sender/sender_id", "/event/message/create_time",
        ][which];
        *body.pointer_mut(pointer).unwrap_or(&mut Value::Null) = piece;
        if let Ok(Callback::Event(event)) = push(&body) {
            prop_assert!(!event.dedupe_key().is_empty());
            if let Ok(Payload::Message(message)) = event.payload() {
                drop(message.text());
            }
        }
    }
}

fn piece() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("key|id|tag|name|token|open_id|.{0,4}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

#[test]
fn strict_padding_is_required() {
    // Without padding the last block is the plaintext's own, so its last byte is no valid length.
    let whole = encrypt(KEY, IV, b"sixteen bytes!!\xff");
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, whole).unwrap();
    let cut = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes[..32]);
    assert_eq!(decrypt(KEY, &cut), Err(DecryptError::Padding));
}
