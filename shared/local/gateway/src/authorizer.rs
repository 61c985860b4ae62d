//! Lambda authorizers: where the identity comes from, and what their answer allows.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ConfigError;

/// A Lambda authorizer of type `REQUEST`. Its answers are not cached: each request invokes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorizer {
    pub function: String,
    /// `$request.header.Authorization`, `route.request.querystring.ticket`, `stageVariables.key`. A request that lacks
    /// one of them, or has it empty, is answered 401 without an invocation.
    pub identity_sources: Vec<String>,
}

/// An authorizer whose identity sources have been understood.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) function: String,
    sources: Vec<Source>,
}

#[derive(Debug)]
enum Source {
    /// Lower case.
    Header(String),
    QueryString(String),
    StageVariable(String),
}

impl Gate {
    pub(crate) fn new(authorizer: &Authorizer) -> Result<Self, ConfigError> {
        let sources = authorizer.identity_sources.iter().map(|text| parse_source(text)).collect::<Result<_, _>>()?;
        Ok(Self { function: authorizer.function.clone(), sources })
    }

    /// The values of all identity sources, in their declared order; `None` when one is missing or empty.
    pub(crate) fn identity(
        &self,
        header: impl Fn(&str) -> Option<String>,
        query: impl Fn(&str) -> Option<String>,
        stage_variables: &BTreeMap<String, String>,
    ) -> Option<Vec<String>> {
        let value = |source: &Source| match source {
            Source::Header(name) => header(name),
            Source::QueryString(name) => query(name),
            Source::StageVariable(name) => stage_variables.get(name).cloned(),
        };
        self.sources.iter().map(|source| value(source).filter(|value| !value.is_empty())).collect()
    }
}

fn parse_source(text: &str) -> Result<Source, ConfigError> {
    let path = text.strip_prefix('$').unwrap_or(text);
    let path = path.strip_prefix("route.").or_else(|| path.strip_prefix("method.")).unwrap_or(path);
    let named = |prefix: &str| path.strip_prefix(prefix).filter(|name| !name.is_empty());
    if let Some(name) = named("request.header.") {
        Ok(Source::Header(name.to_ascii_lowercase()))
    } else if let Some(name) = named("request.querystring.") {
        Ok(Source::QueryString(name.to_owned()))
    } else if let Some(name) = named("stageVariables.") {
        Ok(Source::StageVariable(name.to_owned()))
    } else {
        Err(ConfigError::IdentitySource(text.to_owned()))
    }
}

#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    Allow { principal_id: Option<String>, context: Map<String, Value> },
    Deny,
}

/// Neither a simple response nor an IAM policy: the request fails with 500.
#[derive(Debug, thiserror::Error)]
#[error("the authorizer answered neither `isAuthorized` nor a valid policy")]
pub(crate) struct MalformedAnswer;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    is_authorized: Option<bool>,
    principal_id: Option<String>,
    policy_document: Option<PolicyDocument>,
    context: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PolicyDocument {
    statement: OneOrMany<Statement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: Effect,
    action: OneOrMany<String>,
    resource: OneOrMany<String>,
}

#[derive(Deserialize, PartialEq)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::Many(items) => items,
            Self::One(item) => std::slice::from_ref(item),
        }
    }
}

/// What `answer` says about invoking the route `arn`. A denial wins over a permission, and saying nothing is a denial.
pub(crate) fn decide(answer: &[u8], arn: &str) -> Result<Decision, MalformedAnswer> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| MalformedAnswer)?;
    let allowed = match (answer.is_authorized, &answer.policy_document) {
        (Some(allowed), None) => allowed,
        (None, Some(policy)) if answer.principal_id.is_some() => permits(policy, arn),
        _ => return Err(MalformedAnswer),
    };
    if !allowed {
        return Ok(Decision::Deny);
    }
    Ok(Decision::Allow { principal_id: answer.principal_id, context: answer.context.unwrap_or_default() })
}

fn permits(policy: &PolicyDocument, arn: &str) -> bool {
    let applies = |statement: &&Statement| {
        statement
            .action
            .as_slice()
            .iter()
            .any(|pattern| matches_wildcards(pattern.to_ascii_lowercase().as_bytes(), b"execute-api:invoke"))
            && statement.resource.as_slice().iter().any(|pattern| matches_wildcards(pattern.as_bytes(), arn.as_bytes()))
    };
    let mut effects = policy.statement.as_slice().iter().filter(applies).map(|statement| &statement.effect).peekable();
    effects.peek().is_some() && effects.all(|effect| *effect == Effect::Allow)
}

/// IAM's wildcards: `*` is any text, slashes included, and `?` any one byte.
fn matches_wildcards(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    // Where to go on after a mismatch: behind the last `*`, which then takes one byte more.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(at_text) {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                retry = Some((at_pattern + 1, at_text));
                at_pattern += 1;
            }
            Some(expected) if expected == byte || *expected == b'?' => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => match &mut retry {
                Some((after_star, taken)) => {
                    *taken += 1;
                    (at_pattern, at_text) = (*after_star, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at_pattern).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ARN: &str = "arn:aws:execute-api:us-east-1:123456789012:abc/prod/$connect";

    fn decision(answer: Value) -> Option<bool> {
        match decide(answer.to_string().as_bytes(), ARN) {
            Ok(Decision::Allow { .. }) => Some(true),
            Ok(Decision::Deny) => Some(false),
            Err(MalformedAnswer) => None,
        }
    }

    fn policy(statements: Value) -> Value {
        json!({ "principalId": "u", "policyDocument": { "Version": "2012-10-17", "Statement": statements } })
    }

    #[test]
    fn a_policy_allows_only_what_it_names_and_a_denial_wins() {
        let statement = |effect: &str, action: Value, resource: Value| json!({ "Effect": effect, "Action": action, "Resource": resource });
        let invoke = || json!("execute-api:Invoke");
        let cases = [
            (json!([statement("Allow", invoke(), json!(ARN))]), Some(true)),
            (statement("Allow", invoke(), json!(ARN)), Some(true)),
            (
                json!([statement("Allow", json!(["execute-api:*"]), json!(["x", "arn:aws:execute-api:*:abc/*"]))]),
                Some(true),
            ),
            (json!([statement("Allow", json!("*"), json!("*"))]), Some(true)),
            (json!([statement("Allow", invoke(), json!("arn:aws:execute-api:us-east-1:*/*/*/*"))]), Some(false)),
            (json!([statement("Allow", json!("s3:GetObject"), json!("*"))]), Some(false)),
            (json!([statement("Allow", invoke(), json!("*")), statement("Deny", invoke(), json!(ARN))]), Some(false)),
            (json!([statement("Deny", invoke(), json!("*"))]), Some(false)),
            (json!([]), Some(false)),
            (json!([statement("Perhaps", invoke(), json!("*"))]), None),
        ];
        for (statements, expected) in cases {
            assert_eq!(decision(policy(statements.clone())), expected, "{statements}");
        }
    }

    #[test]
    fn a_simple_response_decides_by_itself() {
        assert_eq!(decision(json!({ "isAuthorized": true, "context": { "a": 1 } })), Some(true));
        assert_eq!(decision(json!({ "isAuthorized": false })), Some(false));
        assert_eq!(decision(json!({ "statusCode": 401 })), None);
        assert_eq!(decision(json!("Unauthorized")), None);
        assert_eq!(decision(json!({ "policyDocument": { "Statement": [] } })), None, "no principal");
    }

    #[test]
    fn identity_sources_of_both_kinds_of_api_are_understood() {
        for text in ["$request.header.X-Key", "route.request.header.X-Key", "method.request.header.X-Key"] {
            assert!(matches!(parse_source(text), Ok(Source::Header(name)) if name == "x-key"), "{text}");
        }
        assert!(
            matches!(parse_source("route.request.querystring.Ticket"), Ok(Source::QueryString(name)) if name == "Ticket")
        );
        assert!(matches!(parse_source("$stageVariables.key"), Ok(Source::StageVariable(name)) if name == "key"));
        for text in ["$request.header.", "$context.identity.sourceIp", "Authorization", ""] {
            assert_eq!(parse_source(text).unwrap_err(), ConfigError::IdentitySource(text.to_owned()));
        }
    }
}
