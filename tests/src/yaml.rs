//! A CloudFormation template as JSON: short tags become their long forms, so `!Ref X` reads as `{"Ref": "X"}`.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Value, json};

/// Why a text is not a template.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    #[error("line {line}: broken YAML: {problem}")]
    Syntax { line: usize, problem: String },
    #[error("line {line}: {problem}")]
    Form { line: usize, problem: &'static str },
}

/// A list or map whose end has not been read yet, and its tag.
enum Open {
    List(Vec<Value>, Option<String>),
    Map(Map<String, Value>, Option<String>, Option<String>),
}

/// Reads the first document of `text`.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|error| YamlError::Syntax { line: error.marker().line(), problem: error.info().to_owned() })?;
        let refuse = |problem| YamlError::Form { line: span.start.line(), problem };
        let value = match event {
            Event::Scalar(text, style, _, tag) => call(short(tag.as_deref()), scalar(&text, style)),
            Event::SequenceStart(_, tag) => {
                open.push(Open::List(Vec::new(), short(tag.as_deref())));
                continue;
            }
            Event::MappingStart(_, tag) => {
                open.push(Open::Map(Map::new(), None, short(tag.as_deref())));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items, tag)) => call(tag, Value::Array(items)),
                Some(Open::Map(entries, _, tag)) => call(tag, Value::Object(entries)),
                None => return Err(refuse("an end without a beginning")),
            },
            Event::Alias(_) => return Err(refuse("aliases are not read here")),
            _ => continue,
        };
        match open.last_mut() {
            None => return Ok(value),
            Some(Open::List(items, _)) => items.push(value),
            Some(Open::Map(entries, key, _)) => match (key.take(), value) {
                (None, Value::String(text)) => *key = Some(text),
                (None, other) => *key = Some(other.to_string()),
                (Some(name), value) => {
                    if entries.insert(name, value).is_some() {
                        return Err(refuse("the key above is given twice"));
                    }
                }
            },
        }
    }
    Err(YamlError::Form { line: 1, problem: "nothing is here" })
}

/// The name of a CloudFormation tag; YAML's own tags say nothing that matters.
fn short(tag: Option<&Tag>) -> Option<String> {
    tag.filter(|tag| tag.handle == "!").map(|tag| tag.suffix.clone())
}

fn call(tag: Option<String>, value: Value) -> Value {
    match (tag.as_deref(), value) {
        (None, value) => value,
        (Some(name @ ("Ref" | "Condition")), value) => json!({ name: value }),
        (Some("GetAtt"), Value::String(path)) => match path.split_once('.') {
            Some((resource, attribute)) => json!({ "Fn::GetAtt": [resource, attribute] }),
            None => json!({ "Fn::GetAtt": path }),
        },
        (Some(name), value) => json!({ format!("Fn::{name}"): value }),
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => true.into(),
        "false" => false.into(),
        _ => serde_json::from_str::<serde_json::Number>(text).map_or_else(|_| text.into(), Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tags_read_as_their_long_forms() {
        let text = "A: !Ref B\nC: !GetAtt D.Arn.X\nE: !If [F, !Ref G, !Sub \"${H}\"]\nI: !GetAtt [J, K]\n";
        let value = json!({
            "A": {"Ref": "B"},
            "C": {"Fn::GetAtt": ["D", "Arn.X"]},
            "E": {"Fn::If": ["F", {"Ref": "G"}, {"Fn::Sub": "${H}"}]},
            "I": {"Fn::GetAtt": ["J", "K"]},
        });
        assert_eq!(parse(text).unwrap(), value);
    }

    #[test]
    fn only_plain_scalars_are_numbers_and_truth_values() {
        let value = json!({"a": [1, "1", true, "true", null, "", "2012-10-17", "授权 🔑"]});
        assert_eq!(parse("a: [1, '1', true, \"true\", ~, '', 2012-10-17, 授权 🔑]").unwrap(), value);
    }

    #[test]
    fn a_key_that_is_given_twice_is_refused_with_its_line() {
        assert_eq!(parse("a: 1\nb: 2\na: 3\n").unwrap_err().to_string(), "line 3: the key above is given twice");
        assert!(parse("a: [1").is_err() && parse("").is_err());
    }
}
