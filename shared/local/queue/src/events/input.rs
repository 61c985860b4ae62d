//! What a target receives: the event, a part of it, a constant, or a template filled from it.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{InputTransformer, Target};

/// The rule and the moment, for the predefined variables of a template.
pub(super) struct Occasion<'a> {
    pub(super) rule_arn: &'a str,
    pub(super) accepted_ms: i64,
}

/// Finds what is wrong with the target's input before any event arrives.
pub(super) fn check(target: &Target) -> Result<(), String> {
    if let Some(input) = &target.input {
        serde_json::from_str::<Value>(input).map_err(|error| format!("`Input` is not JSON: {error}"))?;
    }
    if let Some(path) = &target.input_path {
        parse_path(path)?;
    }
    if let Some(transformer) = &target.input_transformer {
        if transformer.input_paths_map.len() > 100 {
            return Err("`InputPathsMap` must not hold more than 100 paths".into());
        }
        for (name, path) in &transformer.input_paths_map {
            if name.starts_with("aws.") {
                return Err(format!("`InputPathsMap` must not redefine `{name}`"));
            }
            parse_path(path)?;
        }
        fill(transformer, &|_| Some(json!("value")))?;
    }
    Ok(())
}

/// The payload for the target. A path that leads nowhere gives `null`.
pub(super) fn build(target: &Target, event: &Value, occasion: &Occasion<'_>) -> Result<Value, String> {
    if let Some(input) = &target.input {
        return serde_json::from_str(input).map_err(|error| error.to_string());
    }
    if let Some(path) = &target.input_path {
        return Ok(follow(event, &parse_path(path)?).unwrap_or(Value::Null));
    }
    let Some(transformer) = &target.input_transformer else { return Ok(event.clone()) };
    fill(transformer, &|name| match name {
        "aws.events.rule-arn" => Some(json!(occasion.rule_arn)),
        "aws.events.rule-name" => occasion.rule_arn.rsplit('/').next().map(|name| json!(name)),
        "aws.events.event.ingestion-time" => {
            let time = OffsetDateTime::from_unix_timestamp(occasion.accepted_ms / 1000).ok()?;
            time.format(&Rfc3339).ok().map(|time| json!(time))
        }
        "aws.events.event.json" => Some(event.clone()),
        "aws.events.event" => {
            let mut event = event.clone();
            event.as_object_mut()?.remove("detail");
            Some(event)
        }
        name => follow(event, &parse_path(transformer.input_paths_map.get(name)?).ok()?),
    })
}

/// Replaces every `<variable>` of the template. Inside a string the value's text is inserted, escaped; elsewhere its
/// JSON. A value that is missing becomes an empty string.
fn fill(transformer: &InputTransformer, value_of: &dyn Fn(&str) -> Option<Value>) -> Result<Value, String> {
    let template = transformer.input_template.as_str();
    let is_variable = |name: &str| name.starts_with("aws.events.") || transformer.input_paths_map.contains_key(name);
    let (mut filled, mut rest, mut in_string) = (String::new(), template, false);
    while let Some(character) = rest.chars().next() {
        let (taken, after) = rest.split_at(character.len_utf8());
        rest = after;
        match character {
            '"' => in_string = !in_string,
            '\\' if in_string => {
                filled.push('\\');
                if let Some(escaped) = rest.chars().next() {
                    filled.push(escaped);
                    rest = rest.get(escaped.len_utf8()..).unwrap_or_default();
                }
                continue;
            }
            '<' => {
                if let Some((name, after)) = rest.split_once('>').filter(|(name, _)| is_variable(name)) {
                    let value = value_of(name).unwrap_or_else(|| json!(""));
                    filled.push_str(&if in_string { escaped(&value) } else { value.to_string() });
                    rest = after;
                    continue;
                }
            }
            _ => {}
        }
        filled.push_str(taken);
    }
    serde_json::from_str(&filled).map_err(|error| format!("`InputTemplate` does not give JSON: {error}"))
}

/// The text of a value, as it stands between the quotes of a JSON string.
fn escaped(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let quoted = json!(text).to_string();
    quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default().to_owned()
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
    Every,
}

/// Dots, brackets with an index or a quoted name, and `*`.
fn parse_path(path: &str) -> Result<Vec<Step>, String> {
    let refuse = || format!("`{path}` is not a JSON path");
    let mut rest = path.strip_prefix('$').ok_or_else(refuse)?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let step;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (step, rest) = after.split_at(end);
            if step.is_empty() {
                return Err(refuse());
            }
        } else {
            let inside = rest.strip_prefix('[').ok_or_else(refuse)?;
            let quote = inside.chars().next().filter(|c| matches!(c, '\'' | '"'));
            if let Some(quote) = quote {
                let (name, after) = inside.get(1..).and_then(|it| it.split_once(quote)).ok_or_else(refuse)?;
                rest = after.strip_prefix(']').ok_or_else(refuse)?;
                steps.push(Step::Name(name.into()));
                continue;
            }
            (step, rest) = inside.split_once(']').ok_or_else(refuse)?;
            if step != "*" {
                steps.push(Step::Index(step.parse().map_err(|_| refuse())?));
                continue;
            }
        }
        steps.push(if step == "*" { Step::Every } else { Step::Name(step.into()) });
    }
    Ok(steps)
}

fn follow(value: &Value, path: &[Step]) -> Option<Value> {
    match path {
        [] => Some(value.clone()),
        [Step::Name(name), rest @ ..] => follow(value.get(name)?, rest),
        [Step::Index(index), rest @ ..] => follow(value.get(index)?, rest),
        [Step::Every, rest @ ..] => {
            let below: Vec<&Value> = match value {
                Value::Array(elements) => elements.iter().collect(),
                Value::Object(fields) => fields.values().collect(),
                _ => return None,
            };
            Some(below.into_iter().filter_map(|value| follow(value, rest)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Value {
        json!({
            "id": "7bf73129", "source": "aws.ec2", "resources": ["arn:one", "arn:two"],
            "detail": {"instance-id": "i-0123456789", "state": "RUNNING", "n": 5, "标签": "他说\"好\"😀",
                       "tags": [{"k": "a"}, {"k": "b"}, {}]}
        })
    }

    fn built(target: Target) -> Value {
        check(&target).unwrap();
        build(&target, &event(), &Occasion { rule_arn: "arn:aws:events:eu:1:rule/bus/mine", accepted_ms: 0 }).unwrap()
    }

    #[test]
    fn templates_give_what_the_documentation_shows() {
        let paths = [("instance", "$.detail.instance-id"), ("state", "$.detail.state"), ("n", "$.detail.n")];
        for (template, expected) in [
            (r#""instance <instance> is in <state>""#, json!("instance i-0123456789 is in RUNNING")),
            (r#""instance \"<instance>\" is <state>""#, json!("instance \"i-0123456789\" is RUNNING")),
            (r#"{"instance": <instance>, "n": <n>}"#, json!({"instance": "i-0123456789", "n": 5})),
            (
                r#"{"state": "<state>", "all": [9, <state>, true]}"#,
                json!({"state": "RUNNING", "all": [9, "RUNNING", true]}),
            ),
            (r#"{"text": "<n> < 6 <unknown>"}"#, json!({"text": "5 < 6 <unknown>"})),
            (
                r#"{"missing": <aws.events.nothing>, "in": "[<aws.events.nothing>]"}"#,
                json!({"missing": "", "in": "[]"}),
            ),
            (
                r#"{"arn": <aws.events.rule-arn>, "rule": "<aws.events.rule-name>", "at": <aws.events.event.ingestion-time>}"#,
                json!({"arn": "arn:aws:events:eu:1:rule/bus/mine", "rule": "mine", "at": "1970-01-01T00:00:00Z"}),
            ),
            (r#"{"original": <aws.events.event.json>}"#, json!({"original": event()})),
        ] {
            let input_paths_map = paths.iter().map(|(name, path)| ((*name).into(), (*path).into())).collect();
            let transformer = InputTransformer { input_paths_map, input_template: template.into() };
            let target = Target { input_transformer: Some(transformer), ..Target::default() };
            assert_eq!(built(target), expected, "{template}");
        }
    }

    #[test]
    fn a_value_with_quotes_stays_one_string() {
        let transformer = InputTransformer {
            input_paths_map: [("it".to_owned(), "$.detail['标签']".to_owned())].into(),
            input_template: r#"{"inside": "<it>", "outside": <it>}"#.into(),
        };
        let target = Target { input_transformer: Some(transformer), ..Target::default() };
        assert_eq!(built(target), json!({"inside": "他说\"好\"😀", "outside": "他说\"好\"😀"}));
    }

    #[test]
    fn paths_select_parts() {
        for (path, expected) in [
            ("$", event()),
            ("$.detail.n", json!(5)),
            ("$.resources[1]", json!("arn:two")),
            ("$.resources[7]", Value::Null),
            ("$.detail.tags[*].k", json!(["a", "b"])),
            ("$.detail['instance-id']", json!("i-0123456789")),
            ("$.nothing.here", Value::Null),
        ] {
            let target = Target { input_path: Some(path.into()), ..Target::default() };
            assert_eq!(built(target), expected, "{path}");
        }
    }

    #[test]
    fn broken_inputs_are_refused_before_any_event() {
        let template = |text: &str| Target {
            input_transformer: Some(InputTransformer { input_template: text.into(), ..InputTransformer::default() }),
            ..Target::default()
        };
        for target in [
            Target { input: Some("ping".into()), ..Target::default() },
            Target { input_path: Some("detail".into()), ..Target::default() },
            Target { input_path: Some("$..detail".into()), ..Target::default() },
            Target { input_path: Some("$.a[x]".into()), ..Target::default() },
            template("plain text"),
            template(r#"{"a": <undefined>}"#),
        ] {
            assert!(check(&target).is_err(), "{target:?}");
        }
    }
}
