//! AWS::Events::EventBus and AWS::Events::Rule.

use super::delivery::{constant, delivery, input};
use super::{Reader, schedule, target};
use crate::document::Resource;
use crate::fault::Result;
use crate::identity::{self, DEFAULT_BUS};
use crate::model::{EventBus, Input, Rule, RuleTarget, Schedule, ScheduleSource};
use crate::props::Props;

impl Reader<'_> {
    pub(super) fn event_bus(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        props.without_effect(&["Description", "KmsKeyIdentifier", "LogConfig", "Name", "Policy", "Tags"]);
        props.finish();
        self.bundle.buses.push(EventBus {
            logical_id: resource.logical_id.clone(),
            name: self.scope.name_of(resource)?,
            arn: identity::arn(self.scope, resource, resource.line)?,
            line: resource.line,
        });
        Ok(())
    }

    pub(super) fn rule(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let name = self.scope.name_of(resource)?;
        let arn = identity::arn(self.scope, resource, resource.line)?;
        let bus = target::bus(self.scope, &mut props, "EventBusName")?;
        let enabled = rule_state(&mut props)?;
        let pattern = props.json_object("EventPattern")?;
        let schedule_line = props.line_of("ScheduleExpression");
        let expression = schedule::expression(&mut props, "ScheduleExpression", ScheduleSource::Rule)?;
        let targets = self.rule_targets(&mut props)?;
        props.without_effect(&["Description", "Name", "RoleArn", "Tags"]);
        if pattern.is_none() && expression.is_none() {
            return Err(props.fault(resource.line, "EventPattern", "is missing, and so is `ScheduleExpression`"));
        }
        if let Some(expression) = expression {
            if bus != DEFAULT_BUS {
                let what = format!("is for the bus `default`, not `{bus}`");
                return Err(props.fault(schedule_line, "ScheduleExpression", what));
            }
            for target in &targets {
                self.bundle.schedules.push(Schedule {
                    logical_id: resource.logical_id.clone(),
                    name: name.clone(),
                    arn: arn.clone(),
                    source: ScheduleSource::Rule,
                    expression: expression.clone(),
                    timezone: schedule::UTC.to_owned(),
                    enabled,
                    start: None,
                    end: None,
                    target: target.target.clone(),
                    input: target.input.clone(),
                    delivery: target.delivery.clone(),
                    line: resource.line,
                });
            }
        }
        if let Some(pattern) = pattern {
            let logical_id = resource.logical_id.clone();
            let line = resource.line;
            self.bundle.rules.push(Rule { logical_id, name, arn, bus, pattern, enabled, targets, line });
        }
        props.finish();
        Ok(())
    }

    fn rule_targets(&self, props: &mut Props<'_>) -> Result<Vec<RuleTarget>> {
        let mut targets = Vec::new();
        for mut props in props.children("Targets")? {
            let id = props.required("Id")?;
            let group = target::message_group_id(&mut props)?;
            let target = target::target(self.scope, &mut props, "Arn", group)?;
            let input = input(&mut props)?;
            let delivery = delivery(self.scope, &mut props)?;
            props.without_effect(&["RoleArn"]);
            props.finish();
            targets.extend(target.map(|target| RuleTarget { id, target, input, delivery }));
        }
        Ok(targets)
    }
}

/// `State`, which also knows a state for CloudTrail's events.
pub(super) fn rule_state(props: &mut Props<'_>) -> Result<bool> {
    let states = [("ENABLED", true), ("DISABLED", false), ("ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS", true)];
    Ok(props.choice("State", &states)?.unwrap_or(true))
}

/// The input of a schedule: constant, or the event that a schedule makes.
pub(super) fn constant_or_event(props: &mut Props<'_>) -> Result<Input> {
    Ok(constant(props)?.unwrap_or(Input::Event))
}
