//! Schedules: when EventBridge rules and EventBridge Scheduler call a function, and with which event.

mod agenda;
mod cron;
mod expression;
mod zone;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

pub use self::agenda::{Due, Schedules};
use self::expression::Expression;
pub use self::expression::ExpressionError;
use self::zone::Zone;

const EVENT_TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// Which service keeps a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An EventBridge rule (`Schedule` in SAM): `rate` and `cron`, in UTC.
    Rule,
    /// EventBridge Scheduler (`ScheduleV2` in SAM): also `at`, in any time zone.
    Scheduler,
}

/// A schedule as the template declares it.
#[derive(Debug, Clone)]
pub struct Definition {
    pub kind: Kind,
    pub name: String,
    /// Name or ARN of the function.
    pub target: String,
    /// `rate(..)`, `cron(..)` or `at(..)`.
    pub expression: String,
    /// `ScheduleExpressionTimezone`, an IANA name; UTC by default.
    pub timezone: Option<String>,
    /// `Input`; the default is the event of a schedule.
    pub input: Option<String>,
    pub enabled: bool,
    pub region: String,
    pub account: String,
    /// When the schedule was created: a rate counts from here.
    pub created_at: OffsetDateTime,
}

/// Why a schedule is refused.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    #[error("schedule `{name}`: `ScheduleExpression` `{expression}` is not valid")]
    Expression {
        name: String,
        expression: String,
        #[source]
        source: ExpressionError,
    },
    #[error("schedule `{name}`: `ScheduleExpressionTimezone` `{timezone}` is not an IANA time zone")]
    Timezone { name: String, timezone: String },
    #[error("schedule `{name}`: an EventBridge rule has no {feature}")]
    NotInRules { name: String, feature: &'static str },
    #[error("schedule `{name}`: `Input` is not JSON")]
    Input {
        name: String,
        #[source]
        source: serde_json::Error,
    },
}

/// A schedule that is valid.
#[derive(Debug, Clone)]
pub struct Schedule {
    definition: Arc<Definition>,
    expression: Expression,
    zone: Zone,
}

impl Schedule {
    pub fn new(definition: Definition) -> Result<Self, ScheduleError> {
        let name = || definition.name.clone();
        let zone = match definition.timezone.as_deref() {
            None => Zone::utc(),
            Some(timezone) => Zone::named(timezone)
                .ok_or_else(|| ScheduleError::Timezone { name: name(), timezone: timezone.to_owned() })?,
        };
        let expression = Expression::parse(&definition.expression, definition.kind).map_err(|source| {
            ScheduleError::Expression { name: name(), expression: definition.expression.clone(), source }
        })?;
        if definition.kind == Kind::Rule {
            if definition.timezone.is_some() {
                return Err(ScheduleError::NotInRules { name: name(), feature: "time zone" });
            }
            if matches!(expression, Expression::At(_)) {
                return Err(ScheduleError::NotInRules { name: name(), feature: "`at` expression" });
            }
        }
        if let Some(input) = &definition.input {
            serde_json::from_str::<serde::de::IgnoredAny>(input)
                .map_err(|source| ScheduleError::Input { name: name(), source })?;
        }
        Ok(Self { definition: Arc::new(definition), expression, zone })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    #[must_use]
    pub fn target(&self) -> &str {
        &self.definition.target
    }

    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.definition.enabled
    }

    /// The first run later than `instant`; `None` if there is none before the year 2200.
    ///
    /// A `cron` or `at` time that the clocks skip in spring does not run; one that they repeat in autumn runs once, the
    /// first time. A `rate` knows no time zone: its day has 24 hours, and its first run is at the creation.
    #[must_use]
    pub fn next_after(&self, instant: OffsetDateTime) -> Option<OffsetDateTime> {
        match &self.expression {
            Expression::Rate(period) => next_multiple(self.definition.created_at, *period, instant),
            Expression::Cron(cron) => cron.next_after(&self.zone, instant),
            Expression::At(local) => self.zone.instant(*local).filter(|at| *at > instant),
        }
    }

    /// The event of the run at `at`.
    pub(crate) fn event(&self, at: OffsetDateTime) -> Bytes {
        let definition = &self.definition;
        if let Some(input) = &definition.input {
            return Bytes::from(input.clone());
        }
        let Definition { region, account, name, .. } = definition.as_ref();
        // Scheduler writes its empty detail as a string, rules as an object.
        let (source, arn, detail) = match definition.kind {
            Kind::Rule => ("aws.events", format!("arn:aws:events:{region}:{account}:rule/{name}"), json!({})),
            Kind::Scheduler => {
                ("aws.scheduler", format!("arn:aws:scheduler:{region}:{account}:schedule/default/{name}"), json!("{}"))
            }
        };
        let event = json!({
            "version": "0",
            "id": crate::clock::random_uuid(),
            "detail-type": "Scheduled Event",
            "source": source,
            "account": account,
            "time": at.to_offset(time::UtcOffset::UTC).format(EVENT_TIME).unwrap_or_default(),
            "region": region,
            "resources": [arn],
            "detail": detail,
        });
        Bytes::from(event.to_string())
    }
}

/// The first of `start`, `start + period`, `start + 2 * period` .. later than `instant`.
fn next_multiple(start: OffsetDateTime, period: Duration, instant: OffsetDateTime) -> Option<OffsetDateTime> {
    if instant < start {
        return Some(start);
    }
    let periods = (instant - start).whole_seconds() / period.whole_seconds() + 1;
    start.checked_add(Duration::seconds(period.whole_seconds().checked_mul(periods)?))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn definition(kind: Kind, expression: &str) -> Definition {
        Definition {
            kind,
            name: "sweep".into(),
            target: "outbox-sweep".into(),
            expression: expression.into(),
            timezone: None,
            input: None,
            enabled: true,
            region: "eu-west-1".into(),
            account: "123456789012".into(),
            created_at: datetime!(2026-03-01 10:00:30 UTC),
        }
    }

    #[test]
    fn a_rate_counts_from_the_creation() {
        let schedule = Schedule::new(definition(Kind::Rule, "rate(5 minutes)")).unwrap();
        for (after, expected) in [
            (datetime!(2026-03-01 09:00:00 UTC), datetime!(2026-03-01 10:00:30 UTC)),
            (datetime!(2026-03-01 10:00:30 UTC), datetime!(2026-03-01 10:05:30 UTC)),
            (datetime!(2026-03-01 10:05:29.9 UTC), datetime!(2026-03-01 10:05:30 UTC)),
            (datetime!(2026-03-01 10:05:30 UTC), datetime!(2026-03-01 10:10:30 UTC)),
            (datetime!(2026-03-02 10:05:30.1 UTC), datetime!(2026-03-02 10:10:30 UTC)),
        ] {
            assert_eq!(schedule.next_after(after), Some(expected), "{after}");
        }
    }

    #[test]
    fn a_day_of_a_rate_has_24_hours_whatever_the_clocks_do() {
        let timezone = Some("Europe/Berlin".into());
        let schedule = Schedule::new(Definition { timezone, ..definition(Kind::Scheduler, "rate(1 day)") }).unwrap();
        let next = schedule.next_after(datetime!(2026-03-28 12:00 UTC));
        assert_eq!(next, Some(datetime!(2026-03-29 10:00:30 UTC)));
    }

    #[test]
    fn at_runs_once_in_its_time_zone() {
        let timezone = Some("Asia/Shanghai".into());
        let definition = Definition { timezone, ..definition(Kind::Scheduler, "at(2026-11-20T13:00:00)") };
        let schedule = Schedule::new(definition).unwrap();
        let at = datetime!(2026-11-20 05:00 UTC);
        assert_eq!(schedule.next_after(datetime!(2026-01-01 00:00 UTC)), Some(at));
        assert_eq!(schedule.next_after(at), None);
    }

    #[test]
    fn at_a_time_that_the_clocks_skip_never_runs() {
        let timezone = Some("America/New_York".into());
        let definition = Definition { timezone, ..definition(Kind::Scheduler, "at(2026-03-08T02:30:00)") };
        let schedule = Schedule::new(definition).unwrap();
        assert_eq!(schedule.next_after(datetime!(2026-01-01 00:00 UTC)), None);
    }

    #[test]
    fn each_kind_sends_its_own_default_event() {
        for (kind, source, resource, detail) in [
            (Kind::Rule, "aws.events", "arn:aws:events:eu-west-1:123456789012:rule/sweep", json!({})),
            (
                Kind::Scheduler,
                "aws.scheduler",
                "arn:aws:scheduler:eu-west-1:123456789012:schedule/default/sweep",
                json!("{}"),
            ),
        ] {
            let schedule = Schedule::new(definition(kind, "rate(1 minute)")).unwrap();
            let event = schedule.event(datetime!(2026-03-01 12:00:30.75 +1));
            let mut event: serde_json::Value = serde_json::from_slice(&event).unwrap();
            assert_eq!(event["id"].take().as_str().unwrap().len(), 36);
            assert_eq!(
                event,
                json!({
                    "version": "0", "id": null, "detail-type": "Scheduled Event", "source": source,
                    "account": "123456789012", "time": "2026-03-01T11:00:30Z", "region": "eu-west-1",
                    "resources": [resource], "detail": detail,
                })
            );
        }
    }

    #[test]
    fn an_input_replaces_the_event() {
        let input = r#"{"job": "清理"}"#;
        let definition = Definition { input: Some(input.into()), ..definition(Kind::Rule, "rate(1 hour)") };
        let schedule = Schedule::new(definition).unwrap();
        assert_eq!(schedule.event(OffsetDateTime::UNIX_EPOCH), input.as_bytes());
    }

    #[test]
    fn a_bad_definition_names_its_fault() {
        let base = || definition(Kind::Rule, "rate(1 minute)");
        for (definition, part) in [
            (Definition { timezone: Some("Europe/Berlin".into()), ..base() }, "time zone"),
            (definition(Kind::Rule, "at(2026-01-01T00:00:00)"), "`at`"),
            (Definition { input: Some("{".into()), ..base() }, "Input"),
            (definition(Kind::Rule, "every minute"), "ScheduleExpression"),
            (
                Definition { timezone: Some("Mars/Olympus".into()), ..definition(Kind::Scheduler, "rate(1 day)") },
                "Mars/Olympus",
            ),
        ] {
            let message = Schedule::new(definition).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("`sweep`"), "{message}");
        }
    }
}
