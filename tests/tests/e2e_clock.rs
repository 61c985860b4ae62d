//! A bundle whose time is moved: functions, sandbox and command line live in it together, and a restart stays in it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use reqwest::Client;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, until};

const DAY: i64 = 86_400;

/// Asks a person to authorize the bundle's app, waits for the card, and returns its message id.
async fn card(http: &Client, bundle: &Bundle, open_id: &str) -> String {
    let app_id = bundle.setting("/lark/app_id");
    let (code, out, err) =
        bundle.skylark(&["auth-card", "--app-id", app_id, "--open-id", open_id, "--scope", "task:task:read"]);
    assert_eq!(code, 0, "{out}{err}");
    until("a card that waits", || async {
        let newest = newest(http, bundle, open_id).await?;
        (state(&newest) == "Pending").then(|| newest["message_id"].as_str().unwrap().to_owned())
    })
    .await
}

async fn newest(http: &Client, bundle: &Bundle, open_id: &str) -> Option<Value> {
    let url = format!("{}/sandbox/messages?open_id={open_id}&limit=1", bundle.setting("/lark/sandbox"));
    let seen: Value = http.get(url).send().await.ok()?.json().await.ok()?;
    seen["items"].get(0).cloned()
}

fn state(message: &Value) -> String {
    message["card"]["header"]["subtitle"]["content"].as_str().unwrap_or_default().to_owned()
}

async fn clock(http: &Client, bundle: &Bundle) -> Value {
    let url = format!("{}/_skylark/clock", bundle.setting("/aws_endpoint"));
    http.get(url).send().await.unwrap().json().await.unwrap()
}

async fn sandbox_ahead(http: &Client, bundle: &Bundle) -> i64 {
    let url = format!("{}/sandbox/clock", bundle.setting("/lark/sandbox"));
    let reading: Value = http.get(url).send().await.unwrap().json().await.unwrap();
    reading["offset_secs"].as_i64().unwrap()
}

#[tokio::test]
async fn a_session_ends_when_its_time_has_passed_and_the_bundle_stays_in_the_new_time() {
    let bundle = Bundle::start();
    let http = Client::new();
    let waiting = card(&http, &bundle, "ou_ann").await;
    bundle.trigger("token-expiry", "Sessions");
    bundle.advance("11m");
    bundle.trigger("token-expiry", "Sessions");
    until("the card to say that it has expired", || async {
        let newest = newest(&http, &bundle, "ou_ann").await?;
        assert_eq!(newest["message_id"], *waiting, "the same card says so");
        (state(&newest) == "Expired").then_some(())
    })
    .await;

    // Whoever asks now asks in the new time, before and after a kill: ten minutes from there are not over.
    bundle.advance("6d");
    let ahead = 6 * DAY + 660;
    assert_eq!(
        (clock(&http, &bundle).await["ahead_secs"].as_i64(), sandbox_ahead(&http, &bundle).await),
        (Some(ahead), ahead)
    );
    let bundle = Bundle::start_on(bundle.kill());
    assert_eq!(
        (clock(&http, &bundle).await["ahead_secs"].as_i64(), sandbox_ahead(&http, &bundle).await),
        (Some(ahead), ahead)
    );
    card(&http, &bundle, "ou_xiaoming").await;
    bundle.trigger("token-expiry", "Sessions");
    let (code, out, err) = bundle.skylark(&["local", "clock"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains(&format!("({ahead} s ahead of this machine)")), "{out}");
    let still = newest(&http, &bundle, "ou_xiaoming").await.unwrap();
    assert_eq!(state(&still), "Pending");
}

#[tokio::test]
async fn time_and_triggers_refuse_what_makes_no_sense_and_say_why() {
    let bundle = Bundle::start();
    let http = Client::new();
    let url = format!("{}/_skylark/clock", bundle.setting("/aws_endpoint"));
    for body in ["", "{}", "7", "null", r#"{"advance_secs":0}"#, r#"{"advance_secs":-1}"#, r#"{"advance_secs":1.5}"#] {
        let answer = http.post(&url).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{body}");
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["message"].as_str().unwrap().contains("`advance_secs`"), "{answer}");
    }
    let far = http.post(&url).body(json!({ "advance_secs": u32::MAX }).to_string()).send().await.unwrap();
    assert_eq!(far.status(), 400);
    assert_eq!(clock(&http, &bundle).await["ahead_secs"], 0);

    for arguments in [&["clock", "--advance", "6 weeks"][..], &["clock", "--advance", "0d"]] {
        let (code, _, err) = bundle.skylark(&[&["local"][..], arguments].concat());
        assert_eq!(code, 1);
        assert!(err.contains("6d, 12h, 90m or 30s"), "{err}");
    }
    let (code, _, err) = bundle.skylark(&["local", "trigger", "token-expiry", "--schedule", "周报"]);
    assert_eq!(code, 1);
    assert!(err.contains("`token-expiry` has no schedule `周报`; it has `") && err.contains("`Sessions`"), "{err}");
    let (code, out, _) = bundle.skylark(&["local", "trigger", "token-expiry", "--schedule", "Sessions"]);
    assert_eq!((code, out.trim()), (0, r#"{"job": "expire_sessions"}"#));
    let (code, _, err) = bundle.skylark(&["local", "trigger", "lark-work"]);
    assert_eq!(code, 1);
    assert!(err.contains("`lark-work` has no schedule"), "{err}");
}
