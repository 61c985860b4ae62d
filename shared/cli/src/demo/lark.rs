//! People who authorize an app by card, events of the vendor, and a year in the life of a token.

use local::{ClientSettings, LarkSettings, Settings};
use reqwest::{Client, Method, redirect};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::demo::{PATIENCE, Wrong, step, until};
use crate::fault::{CliFault, say};
use crate::stack::local_config;

pub(super) struct LarkStory<'a> {
    base: &'a str,
    client: &'a ClientSettings,
    /// The service's access token; empty before it logs in.
    token: Mutex<String>,
    sqs: aws_sdk_sqs::Client,
    events_queue: String,
    lark: &'a LarkSettings,
    aws_endpoint: &'a str,
    http: Client,
}

/// A person who was asked by card.
struct Asked {
    session_id: String,
    open_id: &'static str,
}

impl<'a> LarkStory<'a> {
    pub(super) async fn new(settings: &'a Settings, lark: &'a LarkSettings) -> Result<Self, CliFault> {
        let http = Client::builder().redirect(redirect::Policy::none()).timeout(PATIENCE).build();
        let events_queue = settings.queues.get("AppEventsQueue").cloned();
        let client = settings.clients.first();
        Ok(Self {
            base: &settings.http,
            client: client.ok_or_else(|| CliFault::Argument("the bundle has no client of its API".to_owned()))?,
            token: Mutex::default(),
            sqs: aws_sdk_sqs::Client::new(&local_config(settings).await),
            events_queue: events_queue
                .ok_or_else(|| CliFault::Argument("the bundle has no `AppEventsQueue`".to_owned()))?,
            lark,
            aws_endpoint: &settings.aws_endpoint,
            http: http.map_err(|cause| CliFault::storage("no HTTP client", cause))?,
        })
    }

    pub(super) async fn authorize(&self) -> Result<(), CliFault> {
        say("\nAnn authorizes the app by card");
        let asked = step("a service logs in and asks for authorization", self.ask("ou_ann")).await?;
        let card = step("the card arrives in Ann's chat", self.card(&asked, "Pending")).await?;
        let page = step("Ann opens its link and is sent to the vendor's page", self.open(&card)).await?;
        let back = step("she approves, and the vendor sends her back", self.consent(&page)).await?;
        step("the code is exchanged, the tokens are sealed and stored", self.come_back(&back)).await?;
        step("the same card says so", self.card_is(&asked, &card, "Authorized")).await?;
        step("the service sees that she authorized, and never a token", self.is_authorized(&asked)).await?;
        step("it calls Lark in her name", self.call_as(&asked)).await?;
        step("the outcome is on the bus", self.published("AuthorizationCompleted", &asked.session_id)).await?;
        step("the link works once", self.link_is_used(&back)).await
    }

    pub(super) async fn decline(&self) -> Result<(), CliFault> {
        say("\n王小明 declines");
        let asked = step("the service asks for authorization", self.ask("ou_xiaoming")).await?;
        let card = step("the card arrives in his chat", self.card(&asked, "Pending")).await?;
        step("he presses Decline; the callback answers", self.press_decline(&card)).await?;
        step("the same card says so", self.card_is(&asked, &card, "Declined")).await?;
        step("the service sees it, too", self.session_is(&asked, "rejected")).await
    }

    pub(super) async fn repeat_an_event(&self) -> Result<(), CliFault> {
        say("\nAn event comes five times at once");
        let event_id = format!("demo-{}", lambda_kit::random::uuid().simple());
        step("each delivery is acknowledged", self.push_five_times(&event_id)).await?;
        step("it is published", self.published("im.chat.updated_v1", &event_id)).await
    }

    /// Ten months pass in leaps; the sixty days around the end of the authorization pass one by one.
    pub(super) async fn live_through_a_year(&self) -> Result<(), CliFault> {
        say("\nA year passes; nobody uses Ann's token");
        step("ten months: the token is kept alive, and Ann hears nothing", self.leap(52, 6)).await?;
        for (from, days, what) in [
            (312, 23, "thirty days ahead she is warned, by a card that renews"),
            (335, 23, "seven days ahead again"),
            (358, 4, "three days ahead again"),
            (362, 3, "on the last day it ends, and a card asks her once more"),
        ] {
            step(format!("day {}: {what}", from + days), self.days(days, 1)).await?;
        }
        step("a week later what is left of the token is cleaned up", self.days(7, 0)).await?;
        step("her last card still works", self.renew()).await
    }

    async fn leap(&self, leaps: u32, days: u32) -> Result<(), Wrong> {
        let before = self.anns_cards().await?.len();
        for _ in 0..leaps {
            self.pass(days).await?;
        }
        let token = self.token_of("ou_ann").await?;
        if token.get("status") != Some(&json!("authorized")) {
            return Err(format!("the token was not kept alive: {token}").into());
        }
        if self.anns_cards().await?.len() == before { Ok(()) } else { Err("she was sent a card".into()) }
    }

    /// Lives through some days, of which only the last brings cards.
    async fn days(&self, days: u32, cards: usize) -> Result<(), Wrong> {
        let before = self.anns_cards().await?.len();
        for day in 1..=days {
            self.pass(1).await?;
            let arrived = self.anns_cards().await?.len() - before;
            if day < days && arrived > 0 {
                return Err(format!("a card came {} days early", days - day).into());
            }
        }
        until("the card did not come", || async {
            Ok((self.anns_cards().await?.len() == before + cards).then_some(()))
        })
        .await
    }

    /// Moves the bundle and the sandbox ahead, then runs the job that has become due.
    async fn pass(&self, days: u32) -> Result<(), Wrong> {
        let advance = json!({ "advance_secs": u64::from(days) * 24 * 60 * 60 });
        let clock = format!("{}/_skylark/clock", self.aws_endpoint);
        self.http.post(clock).json(&advance).send().await?.error_for_status()?;
        let invoke = format!("{}/2015-03-31/functions/token-expiry/invocations", self.aws_endpoint);
        let answer = self.http.post(invoke).json(&json!({ "job": "tend_tokens" })).send().await?.error_for_status()?;
        match answer.headers().get("x-amz-function-error") {
            None => Ok(()),
            Some(_) => Err(answer.text().await?.into()),
        }
    }

    async fn anns_cards(&self) -> Result<Vec<Value>, Wrong> {
        let query = [("app_id", self.lark.app_id.as_str()), ("open_id", "ou_ann")];
        let url = format!("{}/sandbox/messages", self.lark.sandbox);
        let seen: Value = self.http.get(url).query(&query).send().await?.json().await?;
        let items = seen.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(items.into_iter().filter(|message| status_of(message).is_some()).collect())
    }

    async fn renew(&self) -> Result<(), Wrong> {
        if self.token_of("ou_ann").await?.get("scopes").is_some() {
            return Err("the token is still there".into());
        }
        let card = self.anns_cards().await?.first().cloned().ok_or("there is no card")?;
        let page = self.open(&card).await?;
        self.come_back(&self.consent(&page).await?).await?;
        let token = self.token_of("ou_ann").await?;
        if token.get("status") == Some(&json!("authorized")) { Ok(()) } else { Err(format!("it is {token}").into()) }
    }

    /// Calls the API as a company's own service does: with its access token until that has expired, and then with the next.
    async fn api(&self, method: Method, path: &str, name: &str, body: Option<&Value>) -> Result<Value, Wrong> {
        let mut token = self.token.lock().await;
        loop {
            let fresh = token.is_empty();
            if fresh {
                *token = self.log_in().await?;
            }
            let url = format!("{}/v1/lark/{}/{path}", self.base, self.lark.app_id);
            let request = self.http.request(method.clone(), url).bearer_auth(&*token).header("x-skylark-as", name);
            let answer = if let Some(body) = body { request.json(body) } else { request }.send().await?;
            let (status, answer): (_, Value) = (answer.status(), answer.json().await?);
            match status.as_u16() {
                200..=299 => return Ok(answer),
                401 if !fresh => token.clear(),
                status => return Err(format!("{path} answers {status}: {answer}").into()),
            }
        }
    }

    async fn log_in(&self) -> Result<String, Wrong> {
        let (id, secret) = (&self.client.client_id, &self.client.client_secret);
        let request = self.http.post(format!("{}/auth/token", self.base)).basic_auth(id, Some(secret));
        let answer: Value = request.form(&[("grant_type", "client_credentials")]).send().await?.json().await?;
        let token = answer.get("access_token").and_then(Value::as_str);
        Ok(token.ok_or_else(|| format!("nobody logs in: {answer}"))?.to_owned())
    }

    async fn ask(&self, open_id: &'static str) -> Result<Asked, Wrong> {
        let request = json!({
            "open_id": open_id, "scopes": ["task:task:read", "calendar:calendar:readonly"],
            "reason": "Put your tasks into the weekly report 📅",
        });
        let asked = self.api(Method::POST, "auth-cards", "tenant", Some(&request)).await?;
        let session_id = asked.get("session_id").and_then(Value::as_str);
        let session_id = session_id.ok_or_else(|| format!("there is no session: {asked}"))?.to_owned();
        Ok(Asked { session_id, open_id })
    }

    async fn token_of(&self, open_id: &str) -> Result<Value, Wrong> {
        self.api(Method::GET, &format!("users/{open_id}/token"), "tenant", None).await
    }

    async fn session_is(&self, asked: &Asked, status: &str) -> Result<(), Wrong> {
        let session = self.api(Method::GET, &format!("sessions/{}", asked.session_id), "tenant", None).await?;
        if session.get("status") == Some(&json!(status)) { Ok(()) } else { Err(format!("it is {session}").into()) }
    }

    async fn is_authorized(&self, asked: &Asked) -> Result<(), Wrong> {
        self.session_is(asked, "completed").await?;
        let token = self.token_of(asked.open_id).await?;
        if token.get("status") != Some(&json!("authorized")) || token.get("access_token").is_some() {
            return Err(format!("it is told {token}").into());
        }
        Ok(())
    }

    async fn call_as(&self, asked: &Asked) -> Result<(), Wrong> {
        let name = format!("user:{}", asked.open_id);
        let who = self.api(Method::GET, "open-apis/authen/v1/user_info", &name, None).await?;
        let open_id = who.pointer("/data/open_id").and_then(Value::as_str);
        if open_id == Some(asked.open_id) { Ok(()) } else { Err(format!("the vendor says {who}").into()) }
    }

    /// The message that carries the session's card, once it shows `state`.
    async fn card(&self, asked: &Asked, state: &'static str) -> Result<Value, Wrong> {
        until("the card did not arrive", || async {
            let query = [("app_id", self.lark.app_id.as_str()), ("open_id", asked.open_id)];
            let url = format!("{}/sandbox/messages", self.lark.sandbox);
            let seen: Value = self.http.get(url).query(&query).send().await?.json().await?;
            let newest = seen.pointer("/items/0").cloned();
            Ok(newest.filter(|message| status_of(message) == Some(state)))
        })
        .await
    }

    async fn card_is(&self, asked: &Asked, before: &Value, state: &'static str) -> Result<(), Wrong> {
        let now = self.card(asked, state).await?;
        if now.get("message_id") != before.get("message_id") {
            return Err("another message was sent instead".into());
        }
        Ok(())
    }

    async fn open(&self, card: &Value) -> Result<String, Wrong> {
        let pressed = self.press(card, "btn_authorize", "ou_ann").await?;
        let link = pressed.get("open_url").and_then(Value::as_str).ok_or("the card's button opens nothing")?;
        let answer = self.http.get(link).send().await?;
        location(&answer).ok_or_else(|| format!("the link answers {} and leads nowhere", answer.status()).into())
    }

    async fn consent(&self, page: &str) -> Result<String, Wrong> {
        let url = format!("{}/sandbox/authorize", self.lark.sandbox);
        let consent = json!({ "url": page, "open_id": "ou_ann", "approve": true });
        let answer: Value = self.http.post(url).json(&consent).send().await?.json().await?;
        let location = answer.get("location").and_then(Value::as_str);
        Ok(location.ok_or_else(|| format!("the vendor does not send her back: {answer}"))?.to_owned())
    }

    async fn come_back(&self, location: &str) -> Result<(), Wrong> {
        let answer = self.http.get(location).send().await?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(format!("the redirect answers {}", answer.status()).into())
        }
    }

    async fn link_is_used(&self, location: &str) -> Result<(), Wrong> {
        let status = self.http.get(location).send().await?.status();
        if status.as_u16() == 410 { Ok(()) } else { Err(format!("the second visit answers {status}").into()) }
    }

    async fn press_decline(&self, card: &Value) -> Result<(), Wrong> {
        let pressed = self.press(card, "btn_reject", "ou_xiaoming").await?;
        match pressed.get("error").filter(|error| !error.is_null()) {
            None => Ok(()),
            Some(error) => Err(format!("he is shown error {error}").into()),
        }
    }

    async fn press(&self, card: &Value, button: &str, open_id: &str) -> Result<Value, Wrong> {
        let click = json!({ "message_id": card.get("message_id"), "open_id": open_id, "button": button });
        let url = format!("{}/sandbox/click", self.lark.sandbox);
        Ok(self.http.post(url).json(&click).send().await?.json().await?)
    }

    async fn push_five_times(&self, event_id: &str) -> Result<(), Wrong> {
        let event = json!({
            "app_id": self.lark.app_id, "event_type": "im.chat.updated_v1", "event_id": event_id,
            "event": { "chat_id": "oc_demo", "after_change": { "name": "周会 🗓" } },
        });
        let push = || async {
            let url = format!("{}/sandbox/events", self.lark.sandbox);
            let delivery: Value = self.http.post(url).json(&event).send().await?.json().await?;
            match delivery.get("status").and_then(Value::as_str) {
                Some("delivered") => Ok(()),
                _ => Err(Wrong::from(format!("the delivery was not acknowledged: {delivery}"))),
            }
        };
        tokio::try_join!(push(), push(), push(), push(), push())?;
        Ok(())
    }

    /// Waits for an event on the queue that is fed from the bus, and takes it and whatever came before it away.
    async fn published(&self, detail_type: &str, id: &str) -> Result<(), Wrong> {
        until("the event did not come", || async {
            let request = self.sqs.receive_message().queue_url(&self.events_queue).max_number_of_messages(10);
            let batch = request.wait_time_seconds(1).send().await?;
            let mut found = None;
            for message in batch.messages() {
                let body = message.body().unwrap_or_default();
                let event: Value = serde_json::from_str(body)?;
                if event.get("detail-type").and_then(Value::as_str) == Some(detail_type) && body.contains(id) {
                    found = Some(());
                }
                let receipt = message.receipt_handle().unwrap_or_default();
                self.sqs.delete_message().queue_url(&self.events_queue).receipt_handle(receipt).send().await?;
            }
            Ok(found)
        })
        .await
    }
}

/// What a card's header says of the session.
fn status_of(message: &Value) -> Option<&str> {
    message.pointer("/card/header/subtitle/content").and_then(Value::as_str)
}

fn location(answer: &reqwest::Response) -> Option<String> {
    answer.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned)
}
