//! Event patterns: EventBridge rules and the filter criteria of event source mappings.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::sqs::Received;

/// A parsed event pattern.
///
/// A field matches if any of its values does, whether the event holds one value or an array of them. Fields below an
/// array of objects must match within one element.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(Fields);

/// Why a pattern is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event pattern is not valid at `{path}`: {reason}")]
pub struct PatternError {
    /// Names joined with dots, `$` for the pattern itself.
    pub path: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Fields {
    all: Vec<(String, Node)>,
    /// Of each group at least one member must match.
    any: Vec<Vec<Fields>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Fields(Fields),
    Values(Vec<Matcher>),
}

#[derive(Debug, Clone, PartialEq)]
enum Matcher {
    Equals(Value),
    Number(Vec<(Comparison, f64)>),
    Text(Text),
    Cidr { network: IpAddr, bits: u8 },
    Exists(bool),
    AnythingBut(Vec<Matcher>),
}

#[derive(Debug, Clone, PartialEq)]
enum Text {
    Prefix(String),
    Suffix(String),
    EqualsIgnoreCase(String),
    PrefixIgnoreCase(String),
    SuffixIgnoreCase(String),
    /// The literal parts around each `*`.
    Wildcard(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Keys that make `$or` an ordinary field name instead of an alternative, as on AWS.
const OPERATORS: [&str; 8] =
    ["anything-but", "cidr", "equals-ignore-case", "exists", "numeric", "prefix", "suffix", "wildcard"];

impl Pattern {
    /// Parses a pattern from its JSON text.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| PatternError { path: "$".into(), reason: format!("not JSON: {error}") })?;
        let path = Path::default();
        let Value::Object(fields) = &value else { return Err(path.refuse("must be an object")) };
        Ok(Self(parse_fields(fields, &path)?))
    }

    #[must_use]
    pub fn matches(&self, event: &Value) -> bool {
        self.0.match_value(event, &Scope { root: event, path: Vec::new() })
    }

    /// Matches a queue message as an event source mapping does: the pattern sees the record of the Lambda event.
    /// A pattern with an object under `body` sees the body as parsed JSON and never matches one that is not JSON;
    /// a pattern with an array there sees the text and never matches a body that is a JSON object or array.
    #[must_use]
    pub fn matches_sqs(&self, message: &Received) -> bool {
        let parsed: Option<Value> =
            serde_json::from_str(&message.body).ok().filter(|body: &Value| body.is_object() || body.is_array());
        let body = match (self.0.wants_json_at("body"), parsed) {
            (Some(true), Some(parsed)) => parsed,
            (Some(true), None) | (Some(false), Some(_)) => return false,
            (Some(false) | None, _) => json!(message.body),
        };
        let attributes: Map<String, Value> = message
            .message_attributes
            .iter()
            .map(|(name, it)| {
                let value = json!({
                    "stringValue": it.string_value,
                    "binaryValue": it.binary_value,
                    "dataType": it.data_type,
                });
                (name.clone(), value)
            })
            .collect();
        self.matches(&json!({
            "messageId": message.message_id,
            "receiptHandle": message.receipt_handle,
            "body": body,
            "md5OfBody": message.md5_of_body,
            "attributes": message.attributes,
            "messageAttributes": attributes,
            "eventSource": "aws:sqs",
        }))
    }
}

impl Fields {
    /// Whether the field `name` is treated as an object (`true`) or as a value (`false`); `None` if it is not mentioned.
    fn wants_json_at(&self, name: &str) -> Option<bool> {
        let direct = self.all.iter().find(|field| field.0 == name).map(|field| matches!(field.1, Node::Fields(_)));
        direct.or_else(|| self.any.iter().flatten().find_map(|fields| fields.wants_json_at(name)))
    }

    fn match_value(&self, value: &Value, scope: &Scope<'_>) -> bool {
        match value {
            Value::Array(elements) if !elements.is_empty() => {
                elements.iter().any(|element| self.match_value(element, scope))
            }
            _ => {
                self.all.iter().all(|(name, node)| node.match_field(value.get(name), &scope.below(name)))
                    && self.any.iter().all(|group| group.iter().any(|fields| fields.match_value(value, scope)))
            }
        }
    }
}

impl Node {
    fn match_field(&self, value: Option<&Value>, scope: &Scope<'_>) -> bool {
        match self {
            Self::Fields(fields) => fields.match_value(value.unwrap_or(&Value::Null), scope),
            Self::Values(matchers) => matchers.iter().any(|matcher| match matcher {
                // Absence is judged over the whole event, not within the element of an array at hand.
                Matcher::Exists(false) => !scope.is_present(),
                _ => value.is_some_and(|value| any_leaf(value, &|leaf| matcher.match_leaf(leaf))),
            }),
        }
    }
}

/// Arrays stand for each of their values; objects are no values.
fn any_leaf(value: &Value, is_match: &dyn Fn(&Value) -> bool) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(|element| any_leaf(element, is_match)),
        Value::Object(_) => false,
        leaf => is_match(leaf),
    }
}

/// Where in the event a matcher stands.
struct Scope<'a> {
    root: &'a Value,
    path: Vec<&'a str>,
}

impl<'a> Scope<'a> {
    fn below(&self, name: &'a str) -> Self {
        Self { root: self.root, path: self.path.iter().copied().chain([name]).collect() }
    }

    fn is_present(&self) -> bool {
        fn look(value: &Value, path: &[&str]) -> bool {
            match (value, path) {
                (Value::Array(elements), _) => elements.iter().any(|element| look(element, path)),
                (value, []) => !value.is_object(),
                (value, [name, rest @ ..]) => value.get(name).is_some_and(|value| look(value, rest)),
            }
        }
        look(self.root, &self.path)
    }
}

impl Matcher {
    fn match_leaf(&self, value: &Value) -> bool {
        match self {
            Self::Equals(Value::Number(wanted)) => value.as_number().is_some_and(|number| {
                number == wanted
                    || number.as_f64().zip(wanted.as_f64()).is_some_and(|(number, wanted)| {
                        // Integers that a float cannot tell apart are compared above, as integers.
                        (number.fract() != 0.0 || number.abs() < 9_007_199_254_740_992.0) && number == wanted
                    })
            }),
            Self::Equals(wanted) => value == wanted,
            Self::Number(comparisons) => value.as_f64().is_some_and(|number| {
                comparisons.iter().all(|(comparison, bound)| match comparison {
                    Comparison::Equal => number == *bound,
                    Comparison::Less => number < *bound,
                    Comparison::LessOrEqual => number <= *bound,
                    Comparison::Greater => number > *bound,
                    Comparison::GreaterOrEqual => number >= *bound,
                })
            }),
            Self::Text(text) => value.as_str().is_some_and(|value| text.matches(value)),
            Self::Cidr { network, bits } => {
                value.as_str().and_then(|text| text.parse().ok()).is_some_and(|ip| shares_bits(*network, ip, *bits))
            }
            Self::Exists(wanted) => *wanted,
            Self::AnythingBut(refused) => !refused.iter().any(|matcher| matcher.match_leaf(value)),
        }
    }
}

impl Text {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => value.ends_with(suffix.as_str()),
            Self::EqualsIgnoreCase(wanted) => value.to_lowercase() == wanted.to_lowercase(),
            Self::PrefixIgnoreCase(prefix) => value.to_lowercase().starts_with(&prefix.to_lowercase()),
            Self::SuffixIgnoreCase(suffix) => value.to_lowercase().ends_with(&suffix.to_lowercase()),
            Self::Wildcard(parts) => matches_wildcard(parts, value),
        }
    }
}

/// The first part must begin the value, the last must end it, and those between follow in order: the leftmost place
/// of each leaves the most room for the next.
fn matches_wildcard(parts: &[String], value: &str) -> bool {
    let [first, middle @ .., last] = parts else { return parts.iter().any(|only| only == value) };
    let Some(mut rest) = value.strip_prefix(first.as_str()) else { return false };
    for part in middle {
        match rest.split_once(part.as_str()) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}

fn shares_bits(network: IpAddr, ip: IpAddr, bits: u8) -> bool {
    let shift = |width: u32| width.saturating_sub(u32::from(bits));
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            (network.to_bits() ^ ip.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            (network.to_bits() ^ ip.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// Where in the pattern the parser stands.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn below(&self, name: &str) -> Self {
        Self(self.0.iter().cloned().chain([name.to_owned()]).collect())
    }

    fn refuse(&self, reason: impl Into<String>) -> PatternError {
        let path = if self.0.is_empty() { "$".into() } else { self.0.join(".") };
        PatternError { path, reason: reason.into() }
    }
}

fn parse_fields(object: &Map<String, Value>, path: &Path) -> Result<Fields, PatternError> {
    if object.is_empty() {
        return Err(path.refuse("must not be empty"));
    }
    let mut fields = Fields { all: Vec::new(), any: Vec::new() };
    for (name, value) in object {
        let path = path.below(name);
        if let Some(alternatives) = (name == "$or").then(|| alternatives(value)).flatten() {
            fields.any.push(alternatives.into_iter().map(|it| parse_fields(it, &path)).collect::<Result<_, _>>()?);
            continue;
        }
        let node = match value {
            Value::Object(below) => Node::Fields(parse_fields(below, &path)?),
            Value::Array(values) if values.is_empty() => return Err(path.refuse("must not be an empty array")),
            Value::Array(values) => {
                Node::Values(values.iter().map(|value| parse_matcher(value, &path)).collect::<Result<_, _>>()?)
            }
            _ => return Err(path.refuse("must be an object or an array")),
        };
        fields.all.push((name.clone(), node));
    }
    Ok(fields)
}

/// `$or` means alternatives only with two objects or more, none of which names an operator as a field.
fn alternatives(value: &Value) -> Option<Vec<&Map<String, Value>>> {
    let objects: Vec<_> = value.as_array()?.iter().map(Value::as_object).collect::<Option<_>>()?;
    let names_operator = objects.iter().flat_map(|object| object.keys()).any(|key| OPERATORS.contains(&key.as_str()));
    (objects.len() >= 2 && !names_operator).then_some(objects)
}

fn parse_matcher(value: &Value, path: &Path) -> Result<Matcher, PatternError> {
    let object = match value {
        Value::Object(object) => object,
        Value::Array(_) => return Err(path.refuse("must not hold an array inside an array")),
        scalar => return Ok(Matcher::Equals(scalar.clone())),
    };
    let (operator, operand) = single(object, path)?;
    match operator {
        "numeric" => parse_numeric(operand, path),
        "exists" => match operand {
            Value::Bool(wanted) => Ok(Matcher::Exists(*wanted)),
            _ => Err(path.refuse("`exists` must be true or false")),
        },
        "cidr" => parse_cidr(operand, path),
        "anything-but" => parse_anything_but(operand, path),
        _ => Ok(Matcher::Text(parse_text(operator, operand, path)?)),
    }
}

fn single<'a>(object: &'a Map<String, Value>, path: &Path) -> Result<(&'a str, &'a Value), PatternError> {
    let mut entries = object.iter();
    match (entries.next(), entries.next()) {
        (Some((operator, operand)), None) => Ok((operator, operand)),
        _ => Err(path.refuse("a match expression must have exactly one operator")),
    }
}

fn parse_text(operator: &str, operand: &Value, path: &Path) -> Result<Text, PatternError> {
    let ignoring_case = match (operator, operand) {
        ("prefix" | "suffix", Value::Object(object)) => match single(object, path)? {
            ("equals-ignore-case", operand) => Some(operand),
            (other, _) => return Err(path.refuse(format!("`{operator}` does not know `{other}`"))),
        },
        _ => None,
    };
    if !OPERATORS.contains(&operator) {
        return Err(path.refuse(format!("unrecognized match type `{operator}`")));
    }
    let Value::String(text) = ignoring_case.unwrap_or(operand) else {
        return Err(path.refuse(format!("`{operator}` must be a string")));
    };
    let text = text.clone();
    match (operator, ignoring_case.is_some()) {
        ("prefix", false) => Ok(Text::Prefix(text)),
        ("prefix", true) => Ok(Text::PrefixIgnoreCase(text)),
        ("suffix", false) => Ok(Text::Suffix(text)),
        ("suffix", true) => Ok(Text::SuffixIgnoreCase(text)),
        ("equals-ignore-case", _) => Ok(Text::EqualsIgnoreCase(text)),
        ("wildcard", _) => parse_wildcard(&text, path),
        _ => Err(path.refuse(format!("`{operator}` is not allowed here"))),
    }
}

fn parse_wildcard(text: &str, path: &Path) -> Result<Text, PatternError> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let literal = match character {
            '*' if characters.peek() == Some(&'*') => {
                return Err(path.refuse("`wildcard` must not hold consecutive `*`"));
            }
            '*' => {
                parts.push(String::new());
                continue;
            }
            '\\' => match characters.next() {
                Some(escaped @ ('*' | '\\')) => escaped,
                _ => return Err(path.refuse("`wildcard` may escape only `*` and `\\`")),
            },
            literal => literal,
        };
        if let Some(part) = parts.last_mut() {
            part.push(literal);
        }
    }
    Ok(Text::Wildcard(parts))
}

fn parse_numeric(operand: &Value, path: &Path) -> Result<Matcher, PatternError> {
    let refuse = || path.refuse("`numeric` must be an operator and a number, or a lower and an upper bound");
    let Value::Array(parts) = operand else { return Err(refuse()) };
    let mut comparisons = Vec::new();
    for pair in parts.chunks(2) {
        let [Value::String(operator), Value::Number(number)] = pair else { return Err(refuse()) };
        let comparison = match operator.as_str() {
            "=" => Comparison::Equal,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            other => return Err(path.refuse(format!("`numeric` does not know the operator `{other}`"))),
        };
        comparisons.push((comparison, number.as_f64().ok_or_else(refuse)?));
    }
    use Comparison::{Greater, GreaterOrEqual, Less, LessOrEqual};
    match comparisons.as_slice() {
        [_] => Ok(Matcher::Number(comparisons)),
        [(Greater | GreaterOrEqual, bottom), (Less | LessOrEqual, top)] if bottom < top => {
            Ok(Matcher::Number(comparisons))
        }
        _ => Err(refuse()),
    }
}

fn parse_cidr(operand: &Value, path: &Path) -> Result<Matcher, PatternError> {
    let block = operand.as_str().and_then(|text| {
        let (network, bits) = text.split_once('/')?;
        let network: IpAddr = network.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if network.is_ipv4() { 32 } else { 128 }).then_some(Matcher::Cidr { network, bits })
    });
    block.ok_or_else(|| path.refuse("`cidr` must be an address, a slash and a number of bits"))
}

fn parse_anything_but(operand: &Value, path: &Path) -> Result<Matcher, PatternError> {
    let refuse = || path.refuse("`anything-but` must be strings, or numbers, or one string operator");
    let refused = match operand {
        Value::String(_) | Value::Number(_) => vec![Matcher::Equals(operand.clone())],
        Value::Array(values)
            if !values.is_empty() && (values.iter().all(Value::is_string) || values.iter().all(Value::is_number)) =>
        {
            values.iter().cloned().map(Matcher::Equals).collect()
        }
        Value::Object(object) => {
            let (operator, operand) = single(object, path)?;
            let operands = match operand {
                Value::Array(operands) if operands.is_empty() => return Err(refuse()),
                Value::Array(operands) => operands.as_slice(),
                one => std::slice::from_ref(one),
            };
            operands
                .iter()
                .map(|operand| parse_text(operator, operand, path).map(Matcher::Text))
                .collect::<Result<_, _>>()?
        }
        _ => return Err(refuse()),
    };
    Ok(Matcher::AnythingBut(refused))
}
