//! The sections of a template, with `Globals` merged in as SAM merges them. Nothing is resolved here.

use std::collections::BTreeMap;

use crate::fault::{Fault, Result, Warning};
use crate::yaml::{Entry, Kind, Node};

pub(crate) const SERVERLESS_FUNCTION: &str = "AWS::Serverless::Function";
pub(crate) const SERVERLESS_HTTP_API: &str = "AWS::Serverless::HttpApi";

/// The API that SAM makes for `HttpApi` events without `ApiId`.
pub(crate) const IMPLICIT_HTTP_API: &str = "ServerlessHttpApi";
/// CloudFormation's limit.
const MAX_RESOURCES: usize = 500;

#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) parameters: Vec<Entry>,
    pub(crate) mappings: Vec<Entry>,
    pub(crate) conditions: Vec<Entry>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) outputs: Vec<Entry>,
    pub(crate) warnings: Vec<Warning>,
}

#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) logical_id: String,
    pub(crate) line: usize,
    pub(crate) type_name: String,
    pub(crate) condition: Option<(String, usize)>,
    pub(crate) depends_on: Vec<(String, usize)>,
    pub(crate) binary: Option<Node>,
    pub(crate) properties: Vec<Entry>,
}

impl Resource {
    pub(crate) fn property(&self, name: &str) -> Option<&Node> {
        self.properties.iter().find(|entry| entry.key == name).map(|entry| &entry.value)
    }
}

#[derive(Debug, Default)]
struct Globals {
    function: Vec<Entry>,
    http_api: Vec<Entry>,
}

impl Document {
    pub(crate) fn read(root: Node) -> Result<Self> {
        let line = root.line;
        let sections = root.into_entries().ok_or_else(|| Fault::new(line, "a template is a map of sections"))?;
        let mut document = Self::default();
        let mut globals = Globals::default();
        let mut resources = None;
        let mut is_sam = false;
        for section in sections {
            match section.key.as_str() {
                "AWSTemplateFormatVersion" | "Description" | "Metadata" => {}
                "Transform" => is_sam = read_transform(&section.value)?,
                "Parameters" => document.parameters = entries(section)?,
                "Mappings" => document.mappings = entries(section)?,
                "Conditions" => document.conditions = entries(section)?,
                "Outputs" => document.outputs = entries(section)?,
                "Globals" => globals = document.read_globals(entries(section)?)?,
                "Resources" => resources = Some(entries(section)?),
                "Rules" | "Hooks" => {
                    document.warn(section.line, format!("section `{}` is not carried out locally", section.key));
                }
                other => return Err(Fault::new(section.line, format!("section `{other}` is not known"))),
            }
        }
        let resources = resources.ok_or_else(|| Fault::new(line, "section `Resources` is missing"))?;
        if let Some(extra) = resources.get(MAX_RESOURCES) {
            return Err(Fault::new(extra.line, format!("a template has at most {MAX_RESOURCES} resources")));
        }
        for entry in resources {
            let resource = read_resource(entry, &globals)?;
            if !is_sam && resource.type_name.starts_with("AWS::Serverless::") {
                let message = format!("`{}` needs `Transform: AWS::Serverless-2016-10-31`", resource.logical_id);
                return Err(Fault::new(resource.line, message));
            }
            document.resources.push(resource);
        }
        document.add_what_sam_adds(&globals);
        document.check_logical_ids()?;
        Ok(document)
    }

    fn warn(&mut self, line: usize, message: String) {
        self.warnings.push(Warning { line, message });
    }

    fn read_globals(&mut self, sections: Vec<Entry>) -> Result<Globals> {
        let mut globals = Globals::default();
        for section in sections {
            match section.key.as_str() {
                "Function" => globals.function = entries(section)?,
                "HttpApi" => globals.http_api = entries(section)?,
                "Api" | "SimpleTable" | "StateMachine" | "LayerVersion" | "CapacityProvider" | "WebSocketApi" => {
                    self.warn(section.line, format!("`Globals` of `{}` are not carried out locally", section.key));
                }
                other => return Err(Fault::new(section.line, format!("`Globals` of `{other}` are not known"))),
            }
        }
        Ok(globals)
    }

    /// The roles and the implicit HTTP API, which templates refer to without declaring them.
    fn add_what_sam_adds(&mut self, globals: &Globals) {
        let mut added: Vec<Resource> = Vec::new();
        let generated = |logical_id: String, type_name: &str, line: usize| Resource {
            logical_id,
            line,
            type_name: type_name.to_owned(),
            condition: None,
            depends_on: Vec::new(),
            binary: None,
            properties: Vec::new(),
        };
        for function in self.resources.iter().filter(|resource| resource.type_name == SERVERLESS_FUNCTION) {
            if function.property("Role").is_none() {
                let role = generated(format!("{}Role", function.logical_id), "AWS::IAM::Role", function.line);
                added.push(Resource { condition: function.condition.clone(), ..role });
            }
            let implicit = http_api_events(function).find(|event| event.get("ApiId").is_none());
            if let Some(event) = implicit
                && !added.iter().any(|resource| resource.logical_id == IMPLICIT_HTTP_API)
            {
                let api = generated(IMPLICIT_HTTP_API.to_owned(), SERVERLESS_HTTP_API, event.line);
                added.push(Resource { properties: globals.http_api.clone(), ..api });
            }
        }
        added.retain(|new| !self.resources.iter().any(|resource| resource.logical_id == new.logical_id));
        self.resources.extend(added);
    }

    fn check_logical_ids(&self) -> Result<()> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let parameters = self.parameters.iter().map(|entry| (entry.key.as_str(), entry.line));
        let resources = self.resources.iter().map(|resource| (resource.logical_id.as_str(), resource.line));
        for (id, line) in parameters.chain(resources) {
            if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(Fault::new(line, format!("logical id `{id}` must be letters and digits")));
            }
            if let Some(first) = seen.insert(id, line) {
                return Err(Fault::new(line, format!("logical id `{id}` is taken by line {first}")));
            }
        }
        Ok(())
    }
}

/// The `Properties` of a function's `HttpApi` events.
fn http_api_events(function: &Resource) -> impl Iterator<Item = Node> {
    let events = match function.property("Events").map(|node| &node.kind) {
        Some(Kind::Map(events)) => events.as_slice(),
        _ => &[],
    };
    events.iter().filter(|event| event.value.get("Type").and_then(Node::as_text) == Some("HttpApi")).map(|event| {
        let nothing = Node { line: event.line, kind: Kind::Null };
        event.value.get("Properties").cloned().unwrap_or(nothing)
    })
}

fn entries(section: Entry) -> Result<Vec<Entry>> {
    let message = format!("`{}` must be a map", section.key);
    let line = section.value.line;
    section.value.into_entries().ok_or_else(|| Fault::new(line, message))
}

/// Whether the SAM transform is among the macros; any other macro would change the template in ways unknown here.
fn read_transform(node: &Node) -> Result<bool> {
    let names = node.as_list().unwrap_or(std::slice::from_ref(node));
    let mut is_sam = false;
    for name in names {
        match name.as_text() {
            Some("AWS::Serverless-2016-10-31") => is_sam = true,
            Some("AWS::LanguageExtensions") => {}
            Some(other) => return Err(Fault::new(name.line, format!("macro `{other}` does not run locally"))),
            None => return Err(Fault::new(name.line, "`Transform` must name macros")),
        }
    }
    Ok(is_sam)
}

fn read_resource(entry: Entry, globals: &Globals) -> Result<Resource> {
    let Entry { key: logical_id, line, value } = entry;
    let value_line = value.line;
    let attributes =
        value.into_entries().ok_or_else(|| Fault::new(value_line, format!("resource `{logical_id}` must be a map")))?;

    let mut type_name = None;
    let mut condition = None;
    let mut depends_on = Vec::new();
    let mut binary = None;
    let mut properties = Vec::new();
    let mut keep_out = Ignored::Nothing;
    for attribute in attributes {
        let at = attribute.value.line;
        let name = attribute.key.clone();
        let must = |what: &str| Fault::new(at, format!("`{name}` of `{logical_id}` must be {what}"));
        match attribute.key.as_str() {
            "Type" => type_name = Some(attribute.value.as_text().ok_or_else(|| must("text"))?.to_owned()),
            "Condition" => {
                condition =
                    Some((attribute.value.as_text().ok_or_else(|| must("the name of a condition"))?.to_owned(), at));
            }
            "DependsOn" => {
                for node in attribute.value.as_list().unwrap_or(std::slice::from_ref(&attribute.value)) {
                    let id = node.as_text().ok_or_else(|| must("a logical id or a list of them"))?;
                    depends_on.push((id.to_owned(), node.line));
                }
            }
            "Metadata" => binary = attribute.value.get("BuildProperties").and_then(|node| node.get("Binary")).cloned(),
            "Properties" => properties = attribute.value.into_entries().ok_or_else(|| must("a map"))?,
            "IgnoreGlobals" => {
                keep_out = Ignored::read(&attribute.value).ok_or_else(|| must("`*` or a list of names"))?
            }
            "DeletionPolicy" | "UpdateReplacePolicy" | "CreationPolicy" | "UpdatePolicy" | "Connectors" => {}
            other => {
                let message = format!("attribute `{other}` of resource `{logical_id}` is not known");
                return Err(Fault::new(attribute.line, message));
            }
        }
    }
    let type_name = type_name.ok_or_else(|| Fault::new(line, format!("resource `{logical_id}` has no `Type`")))?;
    let inherited = match type_name.as_str() {
        SERVERLESS_FUNCTION => globals.function.as_slice(),
        SERVERLESS_HTTP_API => globals.http_api.as_slice(),
        _ => &[],
    };
    let inherited = inherited.iter().filter(|entry| !keep_out.contains(&entry.key)).cloned().collect();
    let properties = merge_maps(inherited, properties);
    Ok(Resource { logical_id, line, type_name, condition, depends_on, binary, properties })
}

/// `IgnoreGlobals`: which inherited properties a resource does without.
enum Ignored {
    Nothing,
    All,
    Named(Vec<String>),
}

impl Ignored {
    fn read(node: &Node) -> Option<Self> {
        if node.as_text() == Some("*") {
            return Some(Self::All);
        }
        node.as_list()?.iter().map(|name| name.as_text().map(str::to_owned)).collect::<Option<_>>().map(Self::Named)
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|ignored| ignored == name),
        }
    }
}

/// SAM's rule: maps merge, lists append (globals first), anything else is replaced.
fn merge(global: Node, own: Node) -> Node {
    let line = own.line;
    match (global.kind, own.kind) {
        (Kind::Map(global), Kind::Map(own)) => Node { line, kind: Kind::Map(merge_maps(global, own)) },
        (Kind::List(mut items), Kind::List(own)) => {
            items.extend(own);
            Node { line, kind: Kind::List(items) }
        }
        (_, own) => Node { line, kind: own },
    }
}

fn merge_maps(global: Vec<Entry>, own: Vec<Entry>) -> Vec<Entry> {
    let mut merged = global;
    for entry in own {
        match merged.iter_mut().find(|existing| existing.key == entry.key) {
            Some(existing) => {
                let line = existing.value.line;
                let inherited = std::mem::replace(&mut existing.value, Node { line, kind: Kind::Null });
                existing.value = merge(inherited, entry.value);
                existing.line = entry.line;
            }
            None => merged.push(entry),
        }
    }
    merged
}
