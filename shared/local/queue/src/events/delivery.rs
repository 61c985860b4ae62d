//! Brings accepted events to their targets: at least once, with backoff, and to the dead-letter queue in the end.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::input::{self, Occasion};
use super::{Buses, EventError, Shared, Target, TargetError, TargetParameters};
use crate::sqs::MessageAttribute;
use crate::wire::chain;

/// How many deliveries run at once.
const IN_HAND: usize = 32;
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(600);
const DEFAULT_ATTEMPTS: u32 = 185;
const DEFAULT_AGE_SECONDS: u32 = 86_400;
/// How long to leave the file alone after it failed.
const PAUSE: Duration = Duration::from_secs(1);

/// An event on its way to one target.
#[derive(Debug)]
struct Delivery {
    id: i64,
    accepted_ms: i64,
    /// Attempts that failed, at the target or, once there is a verdict, at the dead-letter queue.
    attempts: u32,
    rule_arn: String,
    verdict: Option<Verdict>,
    target: Target,
    event: Value,
}

/// Why the target will not get the event.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    code: String,
    message: String,
    retries: u32,
    condition: Option<String>,
}

/// What to do with a delivery after an attempt.
enum Next {
    Finish,
    Retry { at_ms: i64 },
    GiveUp(Verdict),
}

/// Delivers until the last [`Buses`] is dropped.
pub(super) async fn run(shared: Weak<Shared>, work: Arc<Notify>) {
    let mut in_hand = HashSet::new();
    let mut running = JoinSet::new();
    while let Some(buses) = shared.upgrade().map(Buses) {
        let pause = match buses.take_due(&in_hand) {
            Ok((due, next)) => {
                for delivery in due {
                    in_hand.insert(delivery.id);
                    let buses = buses.clone();
                    running.spawn(async move {
                        let id = delivery.id;
                        buses.attempt(delivery).await;
                        id
                    });
                }
                next
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "deliveries cannot be read");
                Some(PAUSE)
            }
        };
        drop(buses);
        tokio::select! {
            () = work.notified() => {}
            Some(finished) = running.join_next() => match finished {
                Ok(id) => { in_hand.remove(&id); }
                // Which delivery panicked is not known: all are looked at again, at least once.
                Err(error) => { tracing::error!(%error, "a delivery panicked"); in_hand.clear(); }
            },
            () = tokio::time::sleep(pause.unwrap_or(Duration::MAX)), if pause.is_some() => {}
        }
    }
}

impl Buses {
    /// Deliveries whose time has come and that nobody has in hand; and how long until there may be more.
    fn take_due(&self, in_hand: &HashSet<i64>) -> Result<(Vec<Delivery>, Option<Duration>), EventError> {
        let now = self.now();
        let rows = self.0.store.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, next_ms, accepted_ms, attempts, rule_arn, verdict, target, event FROM deliveries
                     ORDER BY next_ms, id LIMIT ?1",
                )?
                .query_map([i64::try_from(in_hand.len() + IN_HAND + 1).unwrap_or(i64::MAX)], |row| {
                    Ok((
                        row.get::<_, i64>(1)?,
                        row.get::<_, Option<String>>(5)?,
                        row.get::<_, String>(6)?,
                        row.get::<_, String>(7)?,
                        (row.get::<_, i64>(0)?, row.get(2)?, row.get(3)?, row.get(4)?),
                    ))
                })?
                .collect::<Result<Vec<_>, _>>()
        })?;
        let mut due = Vec::new();
        for (next_ms, verdict, target, event, (id, accepted_ms, attempts, rule_arn)) in rows {
            if in_hand.contains(&id) {
                continue;
            }
            if next_ms > now {
                return Ok((due, Some(Duration::from_millis(u64::try_from(next_ms - now).unwrap_or_default() + 1))));
            }
            if in_hand.len() + due.len() >= IN_HAND {
                break;
            }
            due.push(Delivery {
                id,
                accepted_ms,
                attempts,
                rule_arn,
                verdict: verdict.map(|text| serde_json::from_str(&text)).transpose().map_err(EventError::Malformed)?,
                target: serde_json::from_str(&target).map_err(EventError::Malformed)?,
                event: serde_json::from_str(&event).map_err(EventError::Malformed)?,
            });
        }
        Ok((due, None))
    }

    async fn attempt(&self, delivery: Delivery) {
        let next = match &delivery.verdict {
            None => self.try_target(&delivery).await,
            Some(verdict) => self.try_dead_letter(&delivery, verdict).await,
        };
        let id = delivery.id;
        let now = self.now();
        let stored = self
            .0
            .store
            .write(move |connection| {
                match next {
                    Next::Finish => connection.execute("DELETE FROM deliveries WHERE id = ?1", [id])?,
                    Next::Retry { at_ms } => connection.execute(
                        "UPDATE deliveries SET attempts = attempts + 1, next_ms = ?2 WHERE id = ?1",
                        params![id, at_ms],
                    )?,
                    Next::GiveUp(verdict) => {
                        let verdict = serde_json::to_string(&verdict).map_err(EventError::Malformed)?;
                        connection.execute(
                            "UPDATE deliveries SET attempts = 0, next_ms = ?2, verdict = ?3 WHERE id = ?1",
                            params![id, now, verdict],
                        )?
                    }
                };
                Ok::<_, EventError>(())
            })
            .await;
        if let Err(error) = stored {
            // The row stays as it was: the event is delivered once more.
            tracing::error!(error = %chain(&error), "the outcome of a delivery cannot be stored");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_target(&self, delivery: &Delivery) -> Next {
        let Delivery { target, .. } = delivery;
        let occasion = Occasion { rule_arn: &delivery.rule_arn, accepted_ms: delivery.accepted_ms };
        let outcome = match input::build(target, &delivery.event, &occasion) {
            Ok(payload) => {
                let parameters = TargetParameters {
                    message_group_id: target.sqs_parameters.as_ref().and_then(|it| it.message_group_id.clone()),
                    message_attributes: BTreeMap::new(),
                };
                self.0.targets.deliver(&target.arn, &payload, &parameters).await
            }
            Err(reason) => Err(TargetError::permanent("INVALID_INPUT", reason)),
        };
        let Err(error) = outcome else { return Next::Finish };
        let give_up = |condition: Option<&str>| {
            Next::GiveUp(Verdict {
                code: error.code.clone(),
                message: error.message.clone(),
                retries: delivery.attempts,
                condition: condition.map(Into::into),
            })
        };
        let policy = target.retry_policy.unwrap_or_default();
        if error.is_permanent {
            return give_up(None);
        }
        if delivery.attempts >= policy.maximum_retry_attempts.unwrap_or(DEFAULT_ATTEMPTS) {
            return give_up(Some("MaximumRetryAttempts"));
        }
        let at_ms = self.next_attempt(delivery.attempts);
        let age = policy.maximum_event_age_in_seconds.unwrap_or(DEFAULT_AGE_SECONDS);
        if at_ms > delivery.accepted_ms + i64::from(age) * 1000 {
            return give_up(Some("MaximumEventAgeInSeconds"));
        }
        tracing::debug!(target.arn = target.arn, %error, "delivery failed and will be tried again");
        Next::Retry { at_ms }
    }

    async fn try_dead_letter(&self, delivery: &Delivery, verdict: &Verdict) -> Next {
        let target = &delivery.target;
        let Some(arn) = target.dead_letter_config.as_ref().and_then(|config| config.arn.as_ref()) else {
            tracing::warn!(
                target.arn = target.arn,
                rule.arn = delivery.rule_arn,
                error.code = verdict.code,
                error.message = verdict.message,
                "event dropped: it could not be delivered and the target has no dead-letter queue"
            );
            return Next::Finish;
        };
        let attributes = [
            ("RULE_ARN", Some(delivery.rule_arn.clone())),
            ("TARGET_ARN", Some(target.arn.clone())),
            ("ERROR_CODE", Some(verdict.code.clone())),
            ("ERROR_MESSAGE", Some(verdict.message.clone())),
            ("RETRY_ATTEMPTS", Some(verdict.retries.to_string())),
            ("EXHAUSTED_RETRY_CONDITION", verdict.condition.clone()),
        ];
        let parameters = TargetParameters {
            message_group_id: None,
            message_attributes: attributes
                .into_iter()
                .filter_map(|(name, value)| Some((name.into(), MessageAttribute::string(value?))))
                // SQS refuses empty values.
                .filter(|(_, attribute)| attribute.string_value.as_ref().is_some_and(|value| !value.is_empty()))
                .collect(),
        };
        match self.0.targets.deliver(arn, &delivery.event, &parameters).await {
            Ok(()) => Next::Finish,
            Err(error) if error.is_permanent || delivery.attempts >= DEFAULT_ATTEMPTS => {
                tracing::error!(%error, dead_letter.arn = arn, "event dropped: its dead-letter queue refuses it");
                Next::Finish
            }
            Err(_) => Next::Retry { at_ms: self.next_attempt(delivery.attempts) },
        }
    }

    /// Doubles from attempt to attempt, with a fifth of jitter either way.
    fn next_attempt(&self, attempts: u32) -> i64 {
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(attempts)).min(LONGEST_DELAY);
        let factor = self.0.settings.retry_delay_factor.clamp(0.0, 1000.0) * rand::random_range(0.8..1.2);
        self.now() + i64::try_from(delay.mul_f64(factor).as_millis()).unwrap_or(i64::MAX)
    }
}
