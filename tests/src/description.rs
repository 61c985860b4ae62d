//! What `/openapi.json` promises, held against what is answered: the operation of a request, and whether a body keeps its schema.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// The document, as it is served.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(openapi::DOCUMENT).unwrap());

/// The methods that an operation can have; a path holds other keys besides.
pub const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// Fails unless the document describes this answer to this request, and the body is as described.
pub fn check(method: &str, path: &str, status: u16, body: &Value) {
    let path = path.split('?').next().unwrap();
    let operation = operation(method, path).unwrap_or_else(|| panic!("{method} {path} is not described"));
    let response = &operation["responses"][status.to_string()];
    assert!(!response.is_null(), "{method} {path}: {status} is not described, which was answered with {body}");
    let schema = &resolved(&DOCUMENT, response)["content"]["application/json"]["schema"];
    assert!(!schema.is_null(), "{method} {path}: {status} is described as no JSON");
    let violations = violations(&DOCUMENT, schema, body);
    assert!(violations.is_empty(), "{method} {path}: {status} breaks its description: {violations:?}\n{body}");
}

/// The operation behind a request. Where several paths fit, the one with fewer placeholders is meant.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object().unwrap().iter();
    let fitting = paths.filter(|(template, item)| fits(template, path) && item.get(method.to_lowercase()).is_some());
    let (_, item) = fitting.min_by_key(|(template, _)| template.matches('{').count())?;
    item.get(method.to_lowercase())
}

/// Whether a path is one of a template's. The last placeholder takes any number of segments, where the API says `{path+}`.
fn fits(template: &str, path: &str) -> bool {
    let (head, greedy) = template.strip_suffix("/{path}").map_or((template, false), |head| (head, true));
    let (wanted, given): (Vec<&str>, Vec<&str>) = (head.split('/').collect(), path.split('/').collect());
    let long_enough = if greedy { given.len() > wanted.len() } else { given.len() == wanted.len() };
    long_enough && wanted.iter().zip(&given).all(|(wanted, given)| wanted == given || wanted.starts_with('{'))
}

/// What a value stands for: itself, or what it refers to.
#[must_use]
pub fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        None => value,
        Some(place) => {
            let found = place.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
            resolved(document, found.unwrap_or_else(|| panic!("`{place}` leads nowhere")))
        }
    }
}

/// Every way in which a value breaks a schema (JSON Schema 2020-12, of which a keyword that is not known here is a mistake).
#[must_use]
pub fn violations(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    visit(document, schema, value, "$", &mut found);
    found
}

fn visit(document: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    let Value::Object(keywords) = schema else { return };
    let keeps = |schema: &Value| violations(document, schema, value).is_empty();
    for (keyword, rule) in keywords {
        let kept = match keyword.as_str() {
            "$ref" => {
                visit(document, resolved(document, schema), value, place, found);
                true
            }
            "type" => rule.as_str().map_or_else(
                || rule.as_array().unwrap().iter().any(|name| is(value, name.as_str().unwrap())),
                |name| is(value, name),
            ),
            "const" => rule == value,
            "enum" => rule.as_array().unwrap().contains(value),
            "anyOf" => rule.as_array().unwrap().iter().any(keeps),
            "oneOf" => rule.as_array().unwrap().iter().filter(|schema| keeps(schema)).count() == 1,
            "allOf" => {
                rule.as_array().unwrap().iter().for_each(|schema| visit(document, schema, value, place, found));
                true
            }
            "required" => value.as_object().is_none_or(|object| {
                rule.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
            }),
            "properties" | "additionalProperties" => {
                let none = Map::new();
                let named = keywords.get("properties").and_then(Value::as_object).unwrap_or(&none);
                for (name, value) in value.as_object().into_iter().flatten() {
                    let rule = if keyword == "properties" { named.get(name) } else { Some(rule) };
                    let other = keyword == "properties" || !named.contains_key(name);
                    let Some(rule) = rule.filter(|_| other) else { continue };
                    let place = format!("{place}.{name}");
                    if rule == &Value::Bool(false) {
                        found.push(format!("{place}: must not be there"));
                    }
                    visit(document, rule, value, &place, found);
                }
                true
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    visit(document, rule, value, &format!("{place}[{index}]"), found);
                }
                true
            }
            "minProperties" => value.as_object().is_none_or(|object| object.len() as u64 >= rule.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().unwrap()),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)),
            "title" | "description" | "default" | "examples" | "format" | "deprecated" | "contentEncoding"
            | "contentMediaType" => true,
            other => panic!("{place}: the keyword `{other}` is not known here"),
        };
        if !kept {
            found.push(format!("{place}: {value} breaks `{keyword}`: {rule}"));
        }
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type `{other}`"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_that_breaks_a_schema_is_found_and_its_place_named() {
        let document = json!({ "components": { "schemas": { "Id": { "type": "string", "pattern": "^[a-z]+$" } } } });
        let schema = json!({
            "type": "object", "required": ["id"], "additionalProperties": false,
            "properties": {
                "id": { "$ref": "#/components/schemas/Id" },
                "n": { "type": ["integer", "null"], "minimum": 1, "maximum": 3 },
                "list": { "type": "array", "minItems": 1, "maxItems": 2, "items": { "enum": ["授权", "b"] } },
                "one": { "anyOf": [{ "const": 1 }, { "type": "string", "minLength": 1, "maxLength": 2 }] },
            },
        });
        let check = |value: Value, expected: usize| {
            let found = violations(&document, &schema, &value);
            assert_eq!(found.len(), expected, "{value}: {found:?}");
        };
        check(json!({ "id": "a", "n": 2.0, "list": ["授权"], "one": "🙂🙂" }), 0);
        check(json!({ "id": "a", "n": null, "one": 1 }), 0);
        for wrong in [
            json!({}),
            json!("text"),
            json!({ "id": 7 }),
            json!({ "id": "A" }),
            json!({ "id": "a", "n": 0 }),
            json!({ "id": "a", "n": 4 }),
            json!({ "id": "a", "n": 1.5 }),
            json!({ "id": "a", "list": [] }),
            json!({ "id": "a", "list": ["c"] }),
            json!({ "id": "a", "list": ["b", "b", "b"] }),
            json!({ "id": "a", "one": "" }),
            json!({ "id": "a", "one": "abc" }),
            json!({ "id": "a", "other": 1 }),
        ] {
            check(wrong, 1);
        }
        let found = violations(&document, &schema, &json!({ "id": "a", "list": ["b", 7] }));
        assert!(found[0].starts_with("$.list[1]: 7"), "{found:?}");
    }

    #[test]
    fn a_request_finds_its_operation() {
        assert!(fits("/v1/lark/{app_id}/open-apis/{path}", "/v1/lark/cli_a/open-apis/im/v1/messages"));
        assert!(!fits("/v1/lark/{app_id}/open-apis/{path}", "/v1/lark/cli_a/open-apis"));
        assert!(fits("/v1/x/{id}", "/v1/x/7") && !fits("/v1/x/{id}", "/v1/x/7/y") && !fits("/v1/x/{id}", "/v1/y/7"));
        assert_eq!(operation("GET", "/health").unwrap()["operationId"], "health");
        assert!(operation("POST", "/health").is_none());
    }
}
