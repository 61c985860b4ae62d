//! YAML with CloudFormation's short tags, as a tree in which every node knows its line.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use crate::fault::{Fault, Result};

/// Deeper than any template, and shallow enough that walking the tree recursively is safe.
const MAX_DEPTH: usize = 64;

/// A value of the template, before or after its intrinsic functions are resolved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Null,
    /// `plain` is false for quoted and block scalars, which are always strings.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// An intrinsic function that has not been carried out: `!Ref X`, `{Ref: X}` or `{"Fn::Sub": ..}`.
    Call(Intrinsic, Box<Node>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intrinsic {
    And,
    Base64,
    Condition,
    Equals,
    FindInMap,
    GetAtt,
    GetAzs,
    If,
    ImportValue,
    Join,
    Length,
    Not,
    Or,
    Ref,
    Select,
    Split,
    Sub,
    ToJsonString,
}

impl Intrinsic {
    fn named(name: &str, line: usize) -> Result<Self> {
        Ok(match name {
            "And" => Self::And,
            "Base64" => Self::Base64,
            "Condition" => Self::Condition,
            "Equals" => Self::Equals,
            "FindInMap" => Self::FindInMap,
            "GetAtt" => Self::GetAtt,
            "GetAZs" => Self::GetAzs,
            "If" => Self::If,
            "ImportValue" => Self::ImportValue,
            "Join" => Self::Join,
            "Length" => Self::Length,
            "Not" => Self::Not,
            "Or" => Self::Or,
            "Ref" => Self::Ref,
            "Select" => Self::Select,
            "Split" => Self::Split,
            "Sub" => Self::Sub,
            "ToJsonString" => Self::ToJsonString,
            "Transform" => return Err(Fault::new(line, "macros (`Fn::Transform`) do not run locally")),
            _ => return Err(Fault::new(line, format!("intrinsic function `{name}` is not known"))),
        })
    }
}

impl Node {
    pub(crate) fn text(line: usize, text: impl Into<String>) -> Self {
        Self { line, kind: Kind::Scalar { text: text.into(), plain: false } }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The entries of a map; none for an empty value, as in `Properties:` with nothing below it.
    pub(crate) fn into_entries(self) -> Option<Vec<Entry>> {
        match self.kind {
            Kind::Map(entries) => Some(entries),
            Kind::Null => Some(Vec::new()),
            _ => None,
        }
    }

    pub(crate) fn as_list(&self) -> Option<&[Node]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// The value as JSON, for event patterns and inputs. Calls must have been resolved.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Null | Kind::Call(..) => Value::Null,
            Kind::Scalar { text, plain: false } => Value::String(text.clone()),
            Kind::Scalar { text, plain: true } => plain_json(text),
            Kind::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Kind::Map(entries) => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect())
            }
        }
    }
}

fn plain_json(text: &str) -> serde_json::Value {
    match text {
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => match serde_json::from_str::<serde_json::Number>(text) {
            Ok(number) => serde_json::Value::Number(number),
            Err(_) => text.into(),
        },
    }
}

/// Reads the one document of `text`.
pub(crate) fn parse(text: &str) -> Result<Node> {
    let mut open: Vec<Open> = Vec::new();
    let mut document: Option<Node> = None;
    let mut line = 1;

    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| Fault::new(error.marker().line(), format!("broken YAML: {}", error.info())))?;
        line = span.start.line().max(1);
        let finished = match event {
            Event::Scalar(text, style, _, tag) => {
                Some(tagged(scalar(text.into_owned(), style, tag.as_deref(), line), tag.as_deref(), line)?)
            }
            Event::SequenceStart(_, tag) => {
                open.push(Open { line, tag: tag.map(|tag| tag.into_owned()), items: Items::List(Vec::new()) });
                None
            }
            Event::MappingStart(_, tag) => {
                let items = Items::Map { entries: Vec::new(), key: None };
                open.push(Open { line, tag: tag.map(|tag| tag.into_owned()), items });
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(Open::close).transpose()?,
            Event::Alias(_) => return Err(Fault::new(line, "YAML aliases are not supported; write the value out")),
            Event::DocumentStart(_) if document.is_some() => {
                return Err(Fault::new(line, "a template is one YAML document; a second one starts here"));
            }
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {
                None
            }
        };
        if open.len() > MAX_DEPTH {
            return Err(Fault::new(line, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        if let Some(node) = finished {
            match open.last_mut() {
                Some(parent) => parent.take(node)?,
                None => document = Some(node),
            }
        }
    }
    document.ok_or_else(|| Fault::new(line, "the template is empty"))
}

/// A list or map whose end has not been read yet.
struct Open {
    line: usize,
    tag: Option<Tag>,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, usize)> },
}

impl Open {
    fn take(&mut self, node: Node) -> Result<()> {
        match &mut self.items {
            Items::List(items) => items.push(node),
            Items::Map { entries, key } => match key.take() {
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
                None => {
                    let line = node.line;
                    let Kind::Scalar { text, .. } = node.kind else {
                        return Err(Fault::new(line, "a key must be plain text"));
                    };
                    if entries.iter().any(|entry| entry.key == text) {
                        return Err(Fault::new(line, format!("key `{text}` is given twice")));
                    }
                    *key = Some((text, line));
                }
            },
        }
        Ok(())
    }

    fn close(self) -> Result<Node> {
        let kind = match self.items {
            Items::List(items) => Kind::List(items),
            Items::Map { entries, .. } => long_form(entries)?,
        };
        tagged(Node { line: self.line, kind }, self.tag.as_ref(), self.line)
    }
}

/// `{Ref: X}` and `{"Fn::Sub": X}` are calls; any other map stays one.
fn long_form(mut entries: Vec<Entry>) -> Result<Kind> {
    let name =
        |key: &str| if key == "Ref" { Some("Ref".to_owned()) } else { key.strip_prefix("Fn::").map(str::to_owned) };
    if entries.len() == 1
        && let Some(intrinsic) = entries.first().and_then(|entry| name(&entry.key))
        && let Some(entry) = entries.pop()
    {
        return Ok(Kind::Call(Intrinsic::named(&intrinsic, entry.line)?, Box::new(entry.value)));
    }
    match entries.iter().find(|entry| entry.key.starts_with("Fn::")) {
        Some(entry) => Err(Fault::new(entry.line, format!("`{}` must be the only key of its map", entry.key))),
        None => Ok(Kind::Map(entries)),
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Node {
    let plain = style == ScalarStyle::Plain && !tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    let kind = match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" if plain => Kind::Null,
        _ => Kind::Scalar { text, plain },
    };
    Node { line, kind }
}

fn tagged(node: Node, tag: Option<&Tag>, line: usize) -> Result<Node> {
    match tag {
        None => Ok(node),
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" | "int" | "float" | "bool" | "null" | "map" | "seq" => Ok(node),
            other => Err(Fault::new(line, format!("YAML tag `!!{other}` is not supported"))),
        },
        Some(tag) if tag.handle == "!" => {
            Ok(Node { line, kind: Kind::Call(Intrinsic::named(&tag.suffix, line)?, Box::new(node)) })
        }
        Some(tag) => Err(Fault::new(line, format!("YAML tag `{tag}` is not supported"))),
    }
}
