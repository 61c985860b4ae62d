//! The `Events` of a function, by type.

use super::bus::{constant_or_event, rule_state};
use super::delivery::{delivery, input};
use super::{Reader, bucket, http_api, schedule, target};
use crate::document::Resource;
use crate::fault::Result;
use crate::identity::{self, DEFAULT_BUS};
use crate::model::{Notification, Rule, RuleTarget, Schedule, ScheduleSource, Target};
use crate::props::Props;

impl Reader<'_> {
    pub(super) fn event(&mut self, function: &Resource, name: &str, event: &str, mut props: Props<'_>) -> Result<()> {
        let kind_line = props.line_of("Type");
        let kind = props.required("Type")?;
        let id = format!("{}{event}", function.logical_id);
        let missing = props.missing("Properties");
        let details = props.child("Properties")?;
        props.finish();
        let details = match details {
            Some(details) => details,
            // The one event that needs nothing: `$default` of the implicit API.
            None if kind == "HttpApi" => self.props(&Resource { properties: Vec::new(), ..function.clone() }),
            None => return Err(missing),
        };
        let name = name.to_owned();
        match kind.as_str() {
            "HttpApi" => {
                self.routes.push(http_api::route(details, name)?);
                Ok(())
            }
            "SQS" => self.mapping(details, "Queue", id, name),
            "DynamoDB" => self.mapping(details, "Stream", id, name),
            "S3" => self.s3_event(details, name),
            "EventBridgeRule" | "CloudWatchEvent" => self.rule_event(details, id, name),
            "Schedule" => self.schedule_event(details, id, name),
            "ScheduleV2" => self.schedule_v2_event(details, id, name),
            other => {
                let message = format!(
                    "event `{event}` of `{}` is of type `{other}`, which is not run locally: nothing will trigger it",
                    function.logical_id
                );
                self.scope.warn(kind_line, message);
                Ok(())
            }
        }
    }

    fn s3_event(&mut self, mut props: Props<'_>, function: String) -> Result<()> {
        let bucket = target::bucket(self.scope, &mut props, "Bucket")?;
        let line = props.line_of("Events");
        let node = props.node("Events")?.ok_or_else(|| props.missing("Events"))?;
        let mut events = Vec::new();
        for event in node.as_list().unwrap_or(std::slice::from_ref(&node)) {
            let event = event.as_text().ok_or_else(|| props.fault(line, "Events", "must be text or a list of text"))?;
            bucket::check_event(&props, line, "Events", event)?;
            events.push(event.to_owned());
        }
        let (prefix, suffix) = bucket::key_filter(&mut props)?;
        props.finish();
        let target = Target::Function(function);
        self.notifications.push((bucket, Notification { events, prefix, suffix, target }));
        Ok(())
    }

    fn rule_event(&mut self, mut props: Props<'_>, id: String, function: String) -> Result<()> {
        let bus = target::bus(self.scope, &mut props, "EventBusName")?;
        let name = self.event_name(&mut props, "RuleName", &id)?;
        let missing = props.missing("Pattern");
        let pattern = props.json_object("Pattern")?.ok_or(missing)?;
        let enabled = event_state(&mut props)?;
        let target_id = match props.child("Target")? {
            None => format!("{id}LambdaTarget"),
            Some(mut target) => {
                let id = target.required("Id")?;
                target.finish();
                id
            }
        };
        let target = RuleTarget {
            id: target_id,
            target: Target::Function(function),
            input: input(&mut props)?,
            delivery: delivery(self.scope, &mut props)?,
        };
        let rule = if bus == DEFAULT_BUS { format!("rule/{name}") } else { format!("rule/{bus}/{name}") };
        let arn = self.scope.place.arn("events", &rule);
        let line = props.line();
        let targets = vec![target];
        self.bundle.rules.push(Rule { logical_id: id, name, arn, bus, pattern, enabled, targets, line });
        props.finish();
        Ok(())
    }

    fn schedule_event(&mut self, mut props: Props<'_>, id: String, function: String) -> Result<()> {
        let missing = props.missing("Schedule");
        let expression = schedule::expression(&mut props, "Schedule", ScheduleSource::Rule)?.ok_or(missing)?;
        let name = self.event_name(&mut props, "Name", &id)?;
        let schedule = Schedule {
            logical_id: id,
            arn: self.scope.place.arn("events", &format!("rule/{name}")),
            name,
            source: ScheduleSource::Rule,
            expression,
            timezone: schedule::UTC.to_owned(),
            enabled: event_state(&mut props)?,
            start: None,
            end: None,
            target: Target::Function(function),
            input: constant_or_event(&mut props)?,
            delivery: delivery(self.scope, &mut props)?,
            line: props.line(),
        };
        self.bundle.schedules.push(schedule);
        props.without_effect(&["Description", "RoleArn"]);
        props.finish();
        Ok(())
    }

    fn schedule_v2_event(&mut self, mut props: Props<'_>, id: String, function: String) -> Result<()> {
        let schedule::Timing { expression, timezone, enabled, start, end } = schedule::timing(&mut props)?;
        let name = self.event_name(&mut props, "Name", &id)?;
        let group = props.text("GroupName")?.unwrap_or_else(|| "default".to_owned());
        let schedule = Schedule {
            logical_id: id,
            arn: self.scope.place.arn("scheduler", &format!("schedule/{group}/{name}")),
            name,
            source: ScheduleSource::Scheduler,
            expression,
            timezone,
            enabled,
            start,
            end,
            target: Target::Function(function),
            input: constant_or_event(&mut props)?,
            delivery: delivery(self.scope, &mut props)?,
            line: props.line(),
        };
        self.bundle.schedules.push(schedule);
        props.without_effect(&["Description", "KmsKeyArn", "OmitName", "PermissionsBoundary", "RoleArn"]);
        props.finish();
        Ok(())
    }

    /// The declared name, else one of SAM's making.
    fn event_name(&self, props: &mut Props<'_>, key: &str, id: &str) -> Result<String> {
        Ok(props.text(key)?.unwrap_or_else(|| identity::name_of_event(self.scope, id)))
    }
}

/// `State: ENABLED`, or its older form `Enabled: true`.
fn event_state(props: &mut Props<'_>) -> Result<bool> {
    let line = props.line_of("State");
    let enabled = props.flag("Enabled")?;
    match enabled {
        Some(_) if props.has("State") => Err(props.fault(line, "State", "cannot stand beside `Enabled`")),
        Some(enabled) => Ok(enabled),
        None => rule_state(props),
    }
}
