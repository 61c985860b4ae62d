//! What rules and schedules share: retries, dead letters and inputs.

use std::collections::BTreeMap;

use super::target;
use crate::fault::Result;
use crate::model::{Delivery, Input};
use crate::props::Props;
use crate::scope::Scope;

/// `RetryPolicy` and `DeadLetterConfig`.
pub(super) fn delivery(scope: &Scope<'_>, props: &mut Props<'_>) -> Result<Delivery> {
    let mut delivery = Delivery::default();
    if let Some(mut policy) = props.child("RetryPolicy")? {
        if let Some(attempts) = policy.number("MaximumRetryAttempts", 0..=185)? {
            delivery.maximum_retry_attempts = attempts;
        }
        if let Some(age) = policy.number("MaximumEventAgeInSeconds", 60..=86_400)? {
            delivery.maximum_event_age_secs = age;
        }
        policy.finish();
    }
    if let Some(mut config) = props.child("DeadLetterConfig")? {
        if !config.has("Arn") {
            return Err(config.fault(
                config.line(),
                "Arn",
                "is missing; a queue that SAM would make is not run locally",
            ));
        }
        delivery.dead_letter_queue = Some(target::standard_queue(scope, &mut config, "Arn")?);
        config.finish();
    }
    Ok(delivery)
}

/// `Input`, `InputPath` or `InputTransformer`, of which at most one may be there.
pub(super) fn input(props: &mut Props<'_>) -> Result<Input> {
    let given: Vec<&str> =
        ["Input", "InputPath", "InputTransformer"].into_iter().filter(|key| props.has(key)).collect();
    if let [_, second, ..] = given.as_slice() {
        return Err(props.fault(props.line_of(second), second, "cannot stand beside another input"));
    }
    if let Some(constant) = constant(props)? {
        return Ok(constant);
    }
    if let Some(path) = props.text("InputPath")? {
        return Ok(Input::Path(path));
    }
    let Some(mut transformer) = props.child("InputTransformer")? else { return Ok(Input::Event) };
    let template = transformer.required("InputTemplate")?;
    let mut paths = BTreeMap::new();
    for entry in transformer.entries("InputPathsMap")? {
        let wrong = || transformer.fault(entry.line, "InputPathsMap", "must map names to JSON paths");
        paths.insert(entry.key.clone(), entry.value.as_text().ok_or_else(wrong)?.to_owned());
    }
    transformer.finish();
    Ok(Input::Transformer { paths, template })
}

/// `Input`, which must be JSON.
pub(super) fn constant(props: &mut Props<'_>) -> Result<Option<Input>> {
    let line = props.line_of("Input");
    let Some(text) = props.text("Input")? else { return Ok(None) };
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(_) => Ok(Some(Input::Constant(text))),
        Err(error) => Err(props.fault(line, "Input", format!("is not JSON: {error}"))),
    }
}
