//! The values of `Parameters`, checked against what the template allows.

use std::collections::BTreeMap;

use regex_lite::Regex;

use crate::fault::{Fault, Result, Warning};
use crate::yaml::{Entry, Kind, Node};

/// The value of every declared parameter: what was given for it, else its default.
pub(crate) fn values(
    declared: Vec<Entry>,
    given: &BTreeMap<String, String>,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<String, Node>> {
    if let Some(unknown) = given.keys().find(|name| !declared.iter().any(|entry| entry.key == **name)) {
        return Err(Fault::new(1, format!("a value is given for parameter `{unknown}`, which is not declared")));
    }
    let mut values = BTreeMap::new();
    for entry in declared {
        let value = Parameter::read(&entry)?.value(given.get(&entry.key), warnings)?;
        values.insert(entry.key, value);
    }
    Ok(values)
}

struct Parameter<'n> {
    name: &'n str,
    line: usize,
    declared: &'n Node,
    type_name: &'n str,
}

impl<'n> Parameter<'n> {
    fn read(entry: &'n Entry) -> Result<Self> {
        let Entry { key: name, line, value: declared } = entry;
        let Kind::Map(attributes) = &declared.kind else {
            return Err(Fault::new(*line, format!("parameter `{name}` must be a map")));
        };
        for attribute in attributes {
            let known = [
                "AllowedPattern",
                "AllowedValues",
                "ConstraintDescription",
                "Default",
                "Description",
                "MaxLength",
                "MaxValue",
                "MinLength",
                "MinValue",
                "NoEcho",
                "Type",
            ];
            if !known.contains(&attribute.key.as_str()) {
                let message = format!("`{}` of parameter `{name}` is not known", attribute.key);
                return Err(Fault::new(attribute.line, message));
            }
        }
        let type_name = declared.get("Type").and_then(Node::as_text);
        let type_name = type_name.ok_or_else(|| Fault::new(*line, format!("parameter `{name}` has no `Type`")))?;
        Ok(Self { name, line: *line, declared, type_name })
    }

    fn value(&self, given: Option<&String>, warnings: &mut Vec<Warning>) -> Result<Node> {
        let from_store = self.type_name.starts_with("AWS::SSM::Parameter::");
        let default = || match self.declared.get("Default") {
            // The default names an entry of Parameter Store; its value is not on this machine.
            Some(_) if from_store => None,
            Some(Node { kind: Kind::Null, .. }) => Some(String::new()),
            Some(default) => default.as_text().map(str::to_owned),
            None => None,
        };
        let text = given.cloned().or_else(default).ok_or_else(|| {
            let why = if from_store { "Parameter Store is not run locally" } else { "it has no `Default`" };
            self.fault(format!("needs a value: {why}"))
        })?;

        let is_list = self.type_name == "CommaDelimitedList" || self.type_name.contains("List<");
        let items: Vec<&str> = match (is_list, text.as_str()) {
            (true, "") => Vec::new(),
            (true, text) => text.split(',').map(str::trim).collect(),
            (false, text) => vec![text],
        };
        for item in &items {
            self.check(item, warnings)?;
        }
        let line = self.line;
        Ok(if is_list {
            Node { line, kind: Kind::List(items.into_iter().map(|item| Node::text(line, item)).collect()) }
        } else {
            Node::text(line, text)
        })
    }

    fn check(&self, value: &str, warnings: &mut Vec<Warning>) -> Result<()> {
        if let Some(allowed) = self.declared.get("AllowedValues") {
            let allowed: Vec<&str> = allowed.as_list().unwrap_or_default().iter().filter_map(Node::as_text).collect();
            if !allowed.contains(&value) {
                return Err(self.fault(format!("must be one of {}, not `{value}`", allowed.join(", "))));
            }
        }
        if let Some(pattern) = self.declared.get("AllowedPattern")
            && let Some(text) = pattern.as_text()
        {
            match Regex::new(&format!("^(?:{text})$")) {
                Ok(regex) if regex.is_match(value) => {}
                Ok(_) => return Err(self.fault(format!("must match `{text}`, and `{value}` does not"))),
                Err(_) => warnings.push(Warning {
                    line: pattern.line,
                    message: format!("`AllowedPattern` of parameter `{}` is not checked locally", self.name),
                }),
            }
        }
        let length = value.chars().count();
        if self.limit("MinLength").is_some_and(|min| (length as f64) < min)
            || self.limit("MaxLength").is_some_and(|max| length as f64 > max)
        {
            return Err(self.fault(format!("has {length} characters, outside `MinLength` and `MaxLength`")));
        }
        if matches!(self.type_name, "Number" | "List<Number>") {
            let number: f64 = value.parse().map_err(|_| self.fault(format!("must be a number, not `{value}`")))?;
            if self.limit("MinValue").is_some_and(|min| number < min)
                || self.limit("MaxValue").is_some_and(|max| number > max)
            {
                return Err(self.fault(format!("is `{value}`, outside `MinValue` and `MaxValue`")));
            }
        }
        Ok(())
    }

    fn limit(&self, attribute: &str) -> Option<f64> {
        self.declared.get(attribute)?.as_text()?.parse().ok()
    }

    fn fault(&self, what: String) -> Fault {
        Fault::new(self.line, format!("parameter `{}` {what}", self.name))
    }
}
