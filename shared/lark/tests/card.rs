//! The authorization card as people get it: each state compared with a stored card, and the limits of what goes into one.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use lark::card::{
    Authorization, Bilingual, ButtonValue, Card, CardError, Choice, Detail, MAX_BODY_BYTES, Scope, State,
    escape_markdown,
};
use serde_json::{Value, json};
use url::Url;

fn scopes() -> Vec<Scope> {
    vec![
        Scope {
            name: "calendar:calendar:readonly".to_owned(),
            description: Some(Bilingual::fixed("查看日历", "See calendars")),
        },
        Scope { name: "offline_access".to_owned(), description: None },
    ]
}

fn url(url: &str) -> Url {
    url.parse().unwrap()
}

fn check(name: &str, stored: &str, detail: Detail, state: State<'_>) {
    let privacy = url("https://app.example/privacy");
    let scopes = scopes();
    let authorization = Authorization {
        app_name: "Skylark *助手* 🚀",
        title: None,
        occasion: None,
        purpose: Some("Book <at id=all></at> rooms\n- for [you](http://x)"),
        scopes: &scopes,
        detail,
        privacy_url: Some(&privacy),
    };
    let card = authorization.card(&state).unwrap();
    let stored: Value = serde_json::from_str(stored).unwrap();
    assert_eq!(card.as_json(), &stored, "{name}: the card is now\n{:#}", card.as_json());
    assert_eq!(serde_json::from_str::<Value>(&card.to_content()).unwrap(), stored);
}

macro_rules! cards {
    ($($test:ident: $file:literal, $detail:expr, $state:expr;)*) => {$(
        #[test]
        fn $test() {
            check($file, include_str!(concat!("cards/", $file, ".json")), $detail, $state);
        }
    )*};
}

fn pending(authorize_url: &Url) -> State<'_> {
    State::Pending { session_id: "0b1c", authorize_url, valid_minutes: 10 }
}

const REASON: Bilingual = Bilingual::fixed("应用密钥*不正确*", "the app secret is *wrong*");

cards! {
    a_detailed_card_has_purpose_scopes_buttons_and_privacy_link: "pending-detailed", Detail::Detailed, pending(&url("https://app.example/start?session=0b1c&x=1"));
    a_concise_card_has_a_sentence_and_the_buttons: "pending-concise", Detail::Concise, pending(&url("https://app.example/start?session=0b1c&x=1"));
    a_completed_card_names_the_person: "completed", Detail::Detailed, State::Completed { user_name: Some("韩_梅_梅") };
    a_rejected_card_promises_to_do_nothing: "rejected", Detail::Detailed, State::Rejected;
    an_expired_card_says_how_to_go_on: "expired", Detail::Concise, State::Expired;
    a_failed_card_gives_the_reason: "failed", Detail::Detailed, State::Failed { reason: &REASON };
}

#[test]
fn only_a_pending_card_has_buttons() {
    let authorization = Authorization {
        app_name: "a",
        title: Some("Renew"),
        occasion: None,
        purpose: None,
        scopes: &[],
        detail: Detail::Detailed,
        privacy_url: None,
    };
    for state in
        [State::Completed { user_name: None }, State::Rejected, State::Expired, State::Failed { reason: &REASON }]
    {
        let content = authorization.card(&state).unwrap().to_content();
        assert!(!content.contains("button") && content.contains("Renew"), "{content}");
    }
    assert!(authorization.card(&pending(&url("https://a.example"))).unwrap().to_content().contains("btn_reject"));
}

#[test]
fn a_card_links_to_web_pages_only() {
    let start = url("https://a.example");
    let script = url("javascript:alert(1)");
    let authorization = Authorization {
        app_name: "a",
        title: None,
        occasion: None,
        purpose: None,
        scopes: &[],
        detail: Detail::Detailed,
        privacy_url: Some(&script),
    };
    assert_eq!(authorization.card(&pending(&start)), Err(CardError::NotAWebPage("privacy_url")));
    let authorization = Authorization { privacy_url: None, ..authorization };
    assert_eq!(authorization.card(&pending(&script)), Err(CardError::NotAWebPage("authorize_url")));
}

#[test]
fn a_card_that_does_not_fit_a_request_is_refused() {
    let many: Vec<Scope> = (0..2000).map(|n| Scope { name: format!("scope:number:{n}"), description: None }).collect();
    let authorization = Authorization {
        app_name: "a",
        title: None,
        occasion: None,
        purpose: None,
        scopes: &many,
        detail: Detail::Detailed,
        privacy_url: None,
    };
    let start = url("https://a.example");
    assert!(matches!(authorization.card(&pending(&start)), Err(CardError::TooLarge(bytes)) if bytes > MAX_BODY_BYTES));
    let concise = Authorization { detail: Detail::Concise, ..authorization };
    assert!(concise.card(&pending(&start)).is_ok());

    // Quotes double inside the string that a request carries.
    assert!(Card::new(json!({ "x": "a".repeat(29_000) })).is_ok());
    assert!(matches!(Card::new(json!({ "x": "\"".repeat(10_000) })), Err(CardError::TooLarge(_))));
    assert_eq!(Card::new(json!([])), Err(CardError::NotAnObject));
}

#[test]
fn text_from_outside_stays_text() {
    for (text, escaped) in [
        ("", ""),
        ("你好 a1 🚀", "你好 a1 🚀"),
        ("**b**", "&#42;&#42;b&#42;&#42;"),
        ("&#42;", "&#38;&#35;42&#59;"),
        ("1. a\r\n- b\u{2028}c", "1&#46; a  &#45; b c"),
        ("[t](u) `c` <at>", "&#91;t&#93;&#40;u&#41; &#96;c&#96; &#60;at&#62;"),
        (":OK: ~x~ _y_ \\ |", "&#58;OK&#58; &#126;x&#126; &#95;y&#95; &#92; &#124;"),
    ] {
        assert_eq!(escape_markdown(text), escaped);
    }
}

#[test]
fn our_buttons_are_known_from_any_form_of_their_value() {
    let ours = ButtonValue { skylark: Choice::Reject, session_id: "0b1c".to_owned() };
    let json = json!({"skylark": "reject", "session_id": "0b1c"});
    assert_eq!(serde_json::to_value(&ours).unwrap(), json);
    assert_eq!(ButtonValue::read(&json), Some(ours.clone()));
    assert_eq!(ButtonValue::read(&Value::String(json.to_string())), Some(ours));
    let more = json!({"skylark": "authorize", "session_id": "s", "more": 1});
    assert_eq!(ButtonValue::read(&more).map(|value| value.skylark), Some(Choice::Authorize));
    for other in [
        json!(null),
        json!("approve"),
        json!({}),
        json!({"skylark": "delete", "session_id": "s"}),
        json!({"skylark": "reject"}),
    ] {
        assert_eq!(ButtonValue::read(&other), None, "{other}");
    }
}
