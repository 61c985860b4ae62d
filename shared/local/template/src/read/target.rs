//! What ARNs and names in properties stand for: functions, queues, buses and buckets of this template.

use crate::document::{Resource, SERVERLESS_FUNCTION};
use crate::fault::Result;
use crate::identity::{BUCKET, DEFAULT_BUS, EVENT_BUS, FIFO_SUFFIX, QUEUE, bus_name};
use crate::model::{Destination, Target};
use crate::props::Props;
use crate::scope::Scope;

/// The name of the queue, standard or FIFO, whose ARN is in `key`.
pub(super) fn queue(scope: &Scope<'_>, props: &mut Props<'_>, key: &str) -> Result<String> {
    let line = props.line_of(key);
    let arn = props.required(key)?;
    match scope.by_arn(&arn).filter(|resource| resource.type_name == QUEUE) {
        Some(queue) => scope.name_of(queue),
        None => Err(props.fault(line, key, format!("names no queue of this template: `{arn}`"))),
    }
}

/// As [`queue`], where AWS takes no FIFO queue.
pub(super) fn standard_queue(scope: &Scope<'_>, props: &mut Props<'_>, key: &str) -> Result<String> {
    let line = props.line_of(key);
    let name = queue(scope, props, key)?;
    if name.ends_with(FIFO_SUFFIX) {
        return Err(props.fault(line, key, format!("must be a standard queue, and `{name}` is FIFO")));
    }
    Ok(name)
}

/// The name of the function that `key` gives by name or ARN.
pub(super) fn function(scope: &Scope<'_>, props: &mut Props<'_>, key: &str) -> Result<String> {
    let line = props.line_of(key);
    let text = props.required(key)?;
    match function_named(scope, &text)? {
        Some(name) => Ok(name),
        None => Err(props.fault(line, key, format!("names no function of this template: `{text}`"))),
    }
}

pub(super) fn function_named(scope: &Scope<'_>, name_or_arn: &str) -> Result<Option<String>> {
    let by_arn = scope.by_arn(name_or_arn).filter(|resource| resource.type_name == SERVERLESS_FUNCTION);
    let found = match by_arn {
        Some(function) => Some(function),
        None => named(scope, SERVERLESS_FUNCTION, name_or_arn)?,
    };
    found.map(|function| scope.name_of(function)).transpose()
}

/// The name of the bucket that `key` gives.
pub(super) fn bucket(scope: &Scope<'_>, props: &mut Props<'_>, key: &str) -> Result<String> {
    let line = props.line_of(key);
    let name = props.required(key)?;
    match named(scope, BUCKET, &name)? {
        Some(_) => Ok(name),
        None => Err(props.fault(line, key, format!("names no bucket of this template: `{name}`"))),
    }
}

/// The name of the bus that `key` gives by name or ARN; `default` if absent.
pub(super) fn bus(scope: &Scope<'_>, props: &mut Props<'_>, key: &str) -> Result<String> {
    let line = props.line_of(key);
    let Some(text) = props.text(key)? else { return Ok(DEFAULT_BUS.to_owned()) };
    let name = bus_name(&text);
    if name == DEFAULT_BUS || named(scope, EVENT_BUS, &name)?.is_some() {
        return Ok(name);
    }
    Err(props.fault(line, key, format!("names no event bus of this template: `{text}`")))
}

fn named<'s>(scope: &'s Scope<'_>, type_name: &str, name: &str) -> Result<Option<&'s Resource>> {
    for resource in scope.present()? {
        if resource.type_name == type_name && scope.name_of(resource)? == name {
            return Ok(Some(resource));
        }
    }
    Ok(None)
}

/// `SqsParameters`, which give messages to a FIFO queue their group.
pub(super) fn message_group_id(props: &mut Props<'_>) -> Result<Option<String>> {
    let Some(mut parameters) = props.child("SqsParameters")? else { return Ok(None) };
    let group = parameters.required("MessageGroupId")?;
    parameters.finish();
    Ok(Some(group))
}

/// What the ARN in `key` calls. None, with a warning, if it is a resource that is not run locally.
pub(super) fn target(
    scope: &Scope<'_>,
    props: &mut Props<'_>,
    key: &str,
    message_group_id: Option<String>,
) -> Result<Option<Target>> {
    let line = props.line_of(key);
    let arn = props.required(key)?;
    let default_bus = scope.place.arn("events", "event-bus/default");
    let Some(resource) = scope.by_arn(&arn) else {
        if arn == default_bus {
            return Ok(Some(Target::Bus(DEFAULT_BUS.to_owned())));
        }
        return Err(props.fault(line, key, format!("names nothing in this template: `{arn}`")));
    };
    let name = scope.name_of(resource)?;
    Ok(match resource.type_name.as_str() {
        SERVERLESS_FUNCTION => Some(Target::Function(name)),
        QUEUE => {
            let is_fifo = name.ends_with(FIFO_SUFFIX);
            if is_fifo && message_group_id.is_none() {
                return Err(props.fault(line, key, format!("is FIFO queue `{name}`: it needs a `MessageGroupId`")));
            }
            Some(Target::Queue { name, message_group_id: message_group_id.filter(|_| is_fifo) })
        }
        EVENT_BUS => Some(Target::Bus(name)),
        other => {
            let message = format!("`{}` ({other}) is not run locally and gets nothing", resource.logical_id);
            scope.warn(line, message);
            None
        }
    })
}

/// `OnSuccess` and `OnFailure`: `{Type: SQS, Destination: ARN}`.
pub(super) fn destination(scope: &Scope<'_>, props: &mut Props<'_>, key: &str) -> Result<Option<Destination>> {
    let Some(mut child) = props.child(key)? else { return Ok(None) };
    let line = child.line_of("Destination");
    let kind_line = child.line_of("Type");
    let kind = child.text("Type")?;
    if !child.has("Destination") {
        return Err(child.fault(line, "Destination", "is missing; a queue that SAM would make is not run locally"));
    }
    let arn = child.required("Destination")?;
    let Some(resource) = scope.by_arn(&arn) else {
        return Err(child.fault(line, "Destination", format!("names nothing in this template: `{arn}`")));
    };
    let name = scope.name_of(resource)?;
    let (destination, expected) = match resource.type_name.as_str() {
        QUEUE if name.ends_with(FIFO_SUFFIX) => {
            return Err(child.fault(line, "Destination", format!("must be a standard queue, and `{name}` is FIFO")));
        }
        QUEUE => (Destination::Queue(name), "SQS"),
        SERVERLESS_FUNCTION => (Destination::Function(name), "Lambda"),
        EVENT_BUS => (Destination::Bus(name), "EventBridge"),
        BUCKET => (Destination::Bucket(name), "S3"),
        other => {
            scope.warn(line, format!("`{}` ({other}) is not run locally and gets nothing", resource.logical_id));
            child.finish();
            return Ok(None);
        }
    };
    if let Some(kind) = kind.filter(|kind| kind != expected) {
        return Err(child.fault(kind_line, "Type", format!("is `{kind}`, but the destination is `{expected}`")));
    }
    child.finish();
    Ok(Some(destination))
}
