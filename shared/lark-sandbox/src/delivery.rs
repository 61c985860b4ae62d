//! Events on their way to apps: stored first, attempted at once, retried on the vendor's schedule.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::Sandbox;
use crate::clock::{HOUR, MINUTE, SECOND, random_hex, rfc3339};
use crate::model::{App, Attempt, Delivery, DeliveryStatus, TENANT_KEY};
use crate::push::{self, Push};
use crate::store::StoreError;

/// The waits after the first, second, third and fourth failure; the fifth is the last.
const RETRY_AFTER: [i64; 4] = [15 * SECOND, 5 * MINUTE, HOUR, 6 * HOUR];

/// The worker looks again at least this often, should the machine's clock be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// An event in schema 2.0.
pub(crate) fn schema_2(now: i64, app: &App, event_type: &str, event: Value, event_id: String) -> Delivery {
    let payload = json!({
        "schema": "2.0",
        "header": {
            "event_id": event_id,
            "event_type": event_type,
            "create_time": now.to_string(),
            "token": app.verification_token,
            "app_id": app.app_id,
            "tenant_key": TENANT_KEY,
        },
        "event": event,
    });
    pending(now, app, event_type, event_id, payload)
}

/// An event in schema 1.0: its type is inside `event`, its id is `uuid`.
pub(crate) fn schema_1(now: i64, app: &App, event_type: &str, mut event: Value, uuid: String) -> Delivery {
    if let Some(event) = event.as_object_mut() {
        event.insert("type".to_owned(), event_type.into());
        event.entry("app_id").or_insert_with(|| app.app_id.clone().into());
    }
    let payload = json!({
        "ts": format!("{}.{:03}0000", now / SECOND, now % SECOND),
        "uuid": uuid,
        "token": app.verification_token,
        "type": "event_callback",
        "event": event,
    });
    pending(now, app, event_type, uuid, payload)
}

fn pending(now: i64, app: &App, event_type: &str, event_id: String, payload: Value) -> Delivery {
    Delivery {
        delivery_id: random_hex::<12>(),
        app_id: app.app_id.clone(),
        event_id,
        event_type: event_type.to_owned(),
        status: DeliveryStatus::Pending,
        attempts: Vec::new(),
        created_at: rfc3339(now),
        next_attempt_at_ms: Some(now),
        payload,
    }
}

/// Marks a delivery as being attempted, so that no two tasks send it at once.
struct Claim<'s> {
    sandbox: &'s Sandbox,
    delivery_id: String,
}

impl<'s> Claim<'s> {
    /// Waits until nobody else is at the delivery.
    async fn take(sandbox: &'s Sandbox, delivery_id: &str) -> Self {
        loop {
            let settled = sandbox.inner.settled.notified();
            let free = in_flight(sandbox, |claimed| claimed.insert(delivery_id.to_owned()));
            if free {
                return Self { sandbox, delivery_id: delivery_id.to_owned() };
            }
            settled.await;
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        in_flight(self.sandbox, |claimed| claimed.remove(&self.delivery_id));
        self.sandbox.inner.settled.notify_waiters();
    }
}

fn in_flight<T>(sandbox: &Sandbox, work: impl FnOnce(&mut HashSet<String>) -> T) -> T {
    work(&mut sandbox.inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Sandbox {
    /// Attempts a delivery that is due, or waits for the task that is at it already. Nothing happens if it is not due.
    pub(crate) async fn attempt(&self, delivery_id: &str) -> Result<(), StoreError> {
        let _claim = Claim::take(self, delivery_id).await;
        let id = delivery_id.to_owned();
        let due = self
            .blocking(move |sandbox| {
                sandbox.store().transact(|tx| {
                    let due = |delivery: &Delivery| delivery.next_attempt_at_ms.is_some_and(|at| at <= tx.now);
                    let Some(delivery) = tx.get::<Delivery>(&id)?.filter(due) else { return Ok(None) };
                    let app = tx.get::<App>(&delivery.app_id)?;
                    Ok::<_, StoreError>(Some((delivery, app)))
                })
            })
            .await?;
        let Some((delivery, app)) = due else { return Ok(()) };
        let attempt = self.send_event(&delivery, app).await;
        self.blocking(move |sandbox| sandbox.store().transact(|tx| tx.put(&after(delivery, attempt, tx.now)))).await
    }

    async fn send_event(&self, delivery: &Delivery, app: Option<App>) -> Attempt {
        let now = self.now_ms();
        let at = rfc3339(now);
        let target = app.and_then(|app| Some((app.callback_url.clone()?, app)));
        let Some((url, app)) = target else {
            let error = Some("the app has no callback_url".to_owned());
            return Attempt { at, http_status: None, error, latency_ms: 0 };
        };
        let (answered, took) =
            push::send(&self.inner.http, &url, Push::event(&app, now, &delivery.payload), push::ANSWER_LIMIT).await;
        let latency_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match answered {
            Ok(answered) => {
                let error = (answered.status != 200).then(|| format!("HTTP {}, 200 is needed", answered.status));
                Attempt { at, http_status: Some(answered.status), error, latency_ms }
            }
            Err(error) => Attempt { at, http_status: None, error: Some(error.to_string()), latency_ms },
        }
    }

    /// Attempts everything that is due now and returns once each has been attempted.
    pub(crate) async fn attempt_due(&self) -> Result<usize, StoreError> {
        let due = self.blocking(|sandbox| sandbox.store().transact(|tx| tx.due::<Delivery>())).await?;
        for attempted in join_all(due.iter().map(|delivery_id| self.attempt(delivery_id))).await {
            attempted?;
        }
        Ok(due.len())
    }

    /// Retries for as long as it is polled.
    pub(crate) async fn retry_forever(&self) -> Infallible {
        loop {
            if let Err(error) = self.attempt_due().await {
                tracing::error!(error = ?error, "The sandbox could not attempt its deliveries");
            }
            let next = self
                .blocking(|sandbox| sandbox.store().transact(|tx| tx.next_due::<Delivery>()))
                .await
                .ok()
                .flatten()
                .map_or(LONGEST_SLEEP, |at| {
                    // What could not be stored is still due: not at full speed.
                    let wait = at.saturating_sub(self.now_ms()).max(100);
                    Duration::from_millis(wait.unsigned_abs()).min(LONGEST_SLEEP)
                });
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = self.store().due.notified() => {}
            }
        }
    }
}

/// The delivery as one attempt leaves it: done, waiting for the next, or given up.
fn after(mut delivery: Delivery, attempt: Attempt, now: i64) -> Delivery {
    let failed = attempt.error.is_some();
    delivery.attempts.push(attempt);
    let wait = RETRY_AFTER.get(delivery.attempts.len() - 1);
    delivery.next_attempt_at_ms = wait.filter(|_| failed).map(|wait| now + wait);
    delivery.status = match (failed, delivery.next_attempt_at_ms) {
        (false, _) => DeliveryStatus::Delivered,
        (true, Some(_)) => DeliveryStatus::Pending,
        (true, None) => DeliveryStatus::Failed,
    };
    delivery
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_given_up_after_the_fifth_failure_and_keeps_its_event_id() {
        let app = App::new("cli_1", "s");
        let mut delivery = schema_2(0, &app, "x", json!({}), "e1".to_owned());
        let mut waits = Vec::new();
        for _ in 0..5 {
            let failure = Attempt { at: String::new(), http_status: None, error: Some(String::new()), latency_ms: 0 };
            delivery = after(delivery, failure, 0);
            waits.push(delivery.next_attempt_at_ms);
        }
        assert_eq!(waits, [Some(15_000), Some(300_000), Some(3_600_000), Some(21_600_000), None]);
        assert_eq!((delivery.status, delivery.event_id.as_str()), (DeliveryStatus::Failed, "e1"));
    }
}
