//! The properties of one resource: each is taken once, and what nobody takes is reported.

use std::ops::RangeInclusive;

use crate::fault::{Fault, Result};
use crate::scope::Scope;
use crate::yaml::{Entry, Kind, Node};

pub(crate) struct Props<'s> {
    scope: &'s Scope<'s>,
    /// `` `LogicalId` (TYPE)``, for messages.
    owner: String,
    /// Where these properties lie in the resource: empty, or `RedrivePolicy.`.
    path: String,
    line: usize,
    entries: Vec<Entry>,
}

impl<'s> Props<'s> {
    pub(crate) fn new(scope: &'s Scope<'s>, owner: String, line: usize, entries: Vec<Entry>) -> Self {
        Self { scope, owner, path: String::new(), line, entries }
    }

    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// The line of a property, or of the whole if it is not there. To be asked before the property is taken.
    pub(crate) fn line_of(&self, key: &str) -> usize {
        self.entries.iter().find(|entry| entry.key == key).map_or(self.line, |entry| entry.value.line)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    pub(crate) fn fault(&self, line: usize, key: &str, what: impl AsRef<str>) -> Fault {
        Fault::new(line, format!("property `{}{key}` of {} {}", self.path, self.owner, what.as_ref()))
    }

    /// None if the property is absent or `AWS::NoValue`.
    pub(crate) fn node(&mut self, key: &str) -> Result<Option<Node>> {
        let Some(at) = self.entries.iter().position(|entry| entry.key == key) else { return Ok(None) };
        let entry = self.entries.remove(at);
        match self.scope.resolve(&entry.value)? {
            Some(Node { kind: Kind::Null, .. }) => Err(self.fault(entry.line, key, "has no value")),
            other => Ok(other),
        }
    }

    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.node(key)? {
            None => Ok(None),
            Some(node) => match node.as_text() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(self.fault(node.line, key, "must be text")),
            },
        }
    }

    pub(crate) fn required(&mut self, key: &str) -> Result<String> {
        let missing = self.missing(key);
        self.text(key)?.ok_or(missing)
    }

    pub(crate) fn missing(&self, key: &str) -> Fault {
        self.fault(self.line, key, "is missing")
    }

    pub(crate) fn number<T: TryFrom<i64>>(&mut self, key: &str, range: RangeInclusive<i64>) -> Result<Option<T>> {
        let line = self.line_of(key);
        let Some(text) = self.text(key)? else { return Ok(None) };
        let number =
            text.parse().ok().filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        match number {
            Some(number) => Ok(Some(number)),
            None => {
                let what = format!("must be a whole number from {} to {}, not `{text}`", range.start(), range.end());
                Err(self.fault(line, key, what))
            }
        }
    }

    pub(crate) fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        let line = self.line_of(key);
        match self.text(key)?.as_deref() {
            None => Ok(None),
            Some("true" | "True" | "TRUE") => Ok(Some(true)),
            Some("false" | "False" | "FALSE") => Ok(Some(false)),
            Some(other) => Err(self.fault(line, key, format!("must be `true` or `false`, not `{other}`"))),
        }
    }

    pub(crate) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let line = self.line_of(key);
        let Some(text) = self.text(key)? else { return Ok(None) };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
                Err(self.fault(line, key, format!("must be {}, not `{text}`", names.join(" or "))))
            }
        }
    }

    /// Empty if absent.
    pub(crate) fn list(&mut self, key: &str) -> Result<Vec<Node>> {
        match self.node(key)? {
            None => Ok(Vec::new()),
            Some(Node { kind: Kind::List(items), .. }) => Ok(items),
            Some(node) => Err(self.fault(node.line, key, "must be a list")),
        }
    }

    pub(crate) fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let items = self.list(key)?;
        let text = |item: &Node| match item.as_text() {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.fault(item.line, key, "must be a list of text")),
        };
        items.iter().map(text).collect()
    }

    /// The entries of a map, for maps whose keys are the template's own; empty if absent.
    pub(crate) fn entries(&mut self, key: &str) -> Result<Vec<Entry>> {
        match self.node(key)? {
            None => Ok(Vec::new()),
            Some(Node { kind: Kind::Map(entries), .. }) => Ok(entries),
            Some(node) => Err(self.fault(node.line, key, "must be a map")),
        }
    }

    /// A nested map of properties, to be finished like the whole.
    pub(crate) fn child(&mut self, key: &str) -> Result<Option<Self>> {
        match self.node(key)? {
            None => Ok(None),
            Some(node) => self.nested(key, node).map(Some),
        }
    }

    /// A list of nested maps; empty if absent.
    pub(crate) fn children(&mut self, key: &str) -> Result<Vec<Self>> {
        self.list(key)?.into_iter().map(|node| self.nested(key, node)).collect()
    }

    pub(crate) fn nested(&self, key: &str, node: Node) -> Result<Self> {
        let line = node.line;
        let Kind::Map(entries) = node.kind else { return Err(self.fault(line, key, "must be a map")) };
        Ok(Self { scope: self.scope, owner: self.owner.clone(), path: format!("{}{key}.", self.path), line, entries })
    }

    /// A JSON object, given as a map or as JSON text.
    pub(crate) fn json_object(&mut self, key: &str) -> Result<Option<String>> {
        let Some(node) = self.node(key)? else { return Ok(None) };
        let json = match node.as_text() {
            Some(text) => serde_json::from_str(text)
                .map_err(|error| self.fault(node.line, key, format!("is not JSON: {error}")))?,
            None => node.to_json(),
        };
        match json {
            serde_json::Value::Object(_) => Ok(Some(json.to_string())),
            _ => Err(self.fault(node.line, key, "must be a JSON object")),
        }
    }

    /// Takes properties that change nothing here.
    pub(crate) fn without_effect(&mut self, keys: &[&str]) {
        self.entries.retain(|entry| !keys.contains(&entry.key.as_str()));
    }

    /// Warns of every property that nobody took.
    pub(crate) fn finish(self) {
        for entry in &self.entries {
            let message = format!("property `{}{}` of {} is not carried out locally", self.path, entry.key, self.owner);
            self.scope.warn(entry.line, message);
        }
    }
}
