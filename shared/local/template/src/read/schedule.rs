//! AWS::Scheduler::Schedule, and the expressions of every schedule.

use super::bus::constant_or_event;
use super::delivery::delivery;
use super::{Reader, target};
use crate::document::Resource;
use crate::fault::Result;
use crate::identity;
use crate::model::{Schedule, ScheduleSource, Target};
use crate::props::Props;

pub(super) const UTC: &str = "UTC";

/// When a schedule of EventBridge Scheduler runs.
pub(super) struct Timing {
    pub(super) expression: String,
    pub(super) timezone: String,
    pub(super) enabled: bool,
    pub(super) start: Option<String>,
    pub(super) end: Option<String>,
}

impl Reader<'_> {
    pub(super) fn schedule(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let timing = timing(&mut props)?;
        let missing = props.missing("Target");
        let mut called = props.child("Target")?.ok_or(missing)?;
        let group = target::message_group_id(&mut called)?;
        let line = called.line_of("Arn");
        let target = target::target(self.scope, &mut called, "Arn", group)?;
        if matches!(target, Some(Target::Bus(_))) {
            return Err(called.fault(line, "Arn", "is an event bus; a schedule can call functions and queues locally"));
        }
        let input = constant_or_event(&mut called)?;
        let delivery = delivery(self.scope, &mut called)?;
        called.without_effect(&["RoleArn"]);
        called.finish();
        props.without_effect(&["Description", "GroupName", "KmsKeyArn", "Name"]);
        props.finish();
        if let Some(target) = target {
            let Timing { expression, timezone, enabled, start, end } = timing;
            self.bundle.schedules.push(Schedule {
                logical_id: resource.logical_id.clone(),
                name: self.scope.name_of(resource)?,
                arn: identity::arn(self.scope, resource, resource.line)?,
                source: ScheduleSource::Scheduler,
                expression,
                timezone,
                enabled,
                start,
                end,
                target,
                input,
                delivery,
                line: resource.line,
            });
        }
        Ok(())
    }
}

pub(super) fn timing(props: &mut Props<'_>) -> Result<Timing> {
    let missing = props.missing("ScheduleExpression");
    let expression = expression(props, "ScheduleExpression", ScheduleSource::Scheduler)?.ok_or(missing)?;
    let timing = Timing {
        expression,
        timezone: props.text("ScheduleExpressionTimezone")?.unwrap_or_else(|| UTC.to_owned()),
        enabled: props.choice("State", &[("ENABLED", true), ("DISABLED", false)])?.unwrap_or(true),
        start: props.text("StartDate")?,
        end: props.text("EndDate")?,
    };
    // AWS may run a flexible schedule at the start of its window; so does this.
    props.without_effect(&["FlexibleTimeWindow"]);
    Ok(timing)
}

/// `rate(..)`, `cron(..)` or, for the scheduler, `at(..)`. Checks the form; the fields of cron are for who runs it.
pub(super) fn expression(props: &mut Props<'_>, key: &str, source: ScheduleSource) -> Result<Option<String>> {
    let line = props.line_of(key);
    let Some(text) = props.text(key)? else { return Ok(None) };
    let inner = |kind: &str| text.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')');
    let is_valid = if let Some(rate) = inner("rate") {
        is_rate(rate, source)
    } else if let Some(cron) = inner("cron") {
        cron.split_whitespace().count() == 6
    } else if let Some(at) = inner("at") {
        source == ScheduleSource::Scheduler && is_local_time(at)
    } else {
        false
    };
    if is_valid {
        return Ok(Some(text));
    }
    let what = match source {
        ScheduleSource::Rule => "must be `rate(5 minutes)` or `cron(` with six fields `)`",
        ScheduleSource::Scheduler => {
            "must be `rate(5 minutes)`, `cron(` with six fields `)` or `at(yyyy-mm-ddThh:mm:ss)`"
        }
    };
    Err(props.fault(line, key, format!("{what}, not `{text}`")))
}

/// `1 minute`, `5 minutes`: rules insist on the right number.
fn is_rate(text: &str, source: ScheduleSource) -> bool {
    let mut words = text.split_whitespace();
    let (Some(count), Some(unit), None) = (words.next(), words.next(), words.next()) else { return false };
    match count.parse::<u32>() {
        Ok(0) | Err(_) => false,
        Ok(count) => match unit {
            "minute" | "hour" | "day" => count == 1 || source == ScheduleSource::Scheduler,
            "minutes" | "hours" | "days" => count != 1 || source == ScheduleSource::Scheduler,
            _ => false,
        },
    }
}

fn is_local_time(text: &str) -> bool {
    let shape = "dddd-dd-ddTdd:dd:dd";
    text.len() == shape.len()
        && text.chars().zip(shape.chars()).all(|(c, s)| if s == 'd' { c.is_ascii_digit() } else { c == s })
}
