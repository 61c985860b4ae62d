//! Parameters, mappings, conditions and resources by name, and the intrinsic functions that read them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::document::{Document, Resource, SERVERLESS_HTTP_API};
use crate::fault::{Fault, Result, Warning};
use crate::identity::{self, Attribute, WEBSOCKET_API, WEBSOCKET_STAGE};
use crate::parameter;
use crate::place::Place;
use crate::yaml::{Entry, Intrinsic, Kind, Node};

/// How many names or conditions may refer to one another in a row: far above any template, far below the stack's end.
const MAX_CHAIN: usize = 32;

/// Everything that a value of the template can refer to.
pub(crate) struct Scope<'a> {
    pub(crate) place: &'a Place,
    parameters: BTreeMap<String, Node>,
    mappings: Vec<Entry>,
    conditions: BTreeMap<String, Node>,
    resources: Vec<Resource>,
    by_logical_id: BTreeMap<String, usize>,
    by_arn: BTreeMap<String, usize>,
    decided: RefCell<BTreeMap<String, bool>>,
    names: RefCell<BTreeMap<String, String>>,
    under_way: RefCell<Vec<String>>,
    warnings: RefCell<Vec<Warning>>,
}

/// A resource that a value names.
#[derive(Clone, Copy)]
enum Named<'s> {
    Parameter(&'s Node),
    Resource(&'s Resource),
}

impl<'a> Scope<'a> {
    /// Also returns the outputs, which nothing refers to.
    pub(crate) fn new(document: Document, place: &'a Place) -> Result<(Self, Vec<Entry>)> {
        let mut warnings = document.warnings;
        let parameters = parameter::values(document.parameters, &place.parameters, &mut warnings)?;
        let conditions: BTreeMap<_, _> =
            document.conditions.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let mut scope = Self {
            place,
            parameters,
            mappings: document.mappings,
            conditions,
            resources: Vec::new(),
            by_logical_id: BTreeMap::new(),
            by_arn: BTreeMap::new(),
            decided: RefCell::default(),
            names: RefCell::default(),
            under_way: RefCell::default(),
            warnings: RefCell::new(warnings),
        };
        // Before there are resources: a condition can refer to none.
        for (name, node) in &scope.conditions {
            scope.decide(name, node.line)?;
        }
        scope.resources = document.resources;
        scope.by_logical_id =
            scope.resources.iter().enumerate().map(|(at, resource)| (resource.logical_id.clone(), at)).collect();
        for (at, resource) in scope.resources.iter().enumerate() {
            if scope.is_present(resource)? {
                let arn = identity::arn(&scope, resource, resource.line)?;
                scope.by_arn.insert(arn, at);
            }
        }
        Ok((scope, document.outputs))
    }

    pub(crate) fn warn(&self, line: usize, message: impl Into<String>) {
        let warning = Warning { line, message: message.into() };
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// In the order of the template.
    pub(crate) fn into_warnings(self) -> Vec<Warning> {
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by_key(|warning| warning.line);
        warnings
    }

    /// Every resource, whether its condition holds or not.
    pub(crate) fn declared(&self) -> &[Resource] {
        &self.resources
    }

    /// The resources whose condition holds, in the order of the template.
    pub(crate) fn present(&self) -> Result<Vec<&Resource>> {
        let mut present = Vec::new();
        for resource in &self.resources {
            if self.is_present(resource)? {
                present.push(resource);
            }
        }
        Ok(present)
    }

    pub(crate) fn is_present(&self, resource: &Resource) -> Result<bool> {
        match &resource.condition {
            Some((condition, line)) => self.decide(condition, *line),
            None => Ok(true),
        }
    }

    pub(crate) fn by_arn(&self, arn: &str) -> Option<&Resource> {
        self.by_arn.get(arn).and_then(|at| self.resources.get(*at))
    }

    /// The physical name; an error where names refer to one another in a circle.
    pub(crate) fn name_of(&self, resource: &Resource) -> Result<String> {
        if let Some(name) = self.names.borrow().get(&resource.logical_id) {
            return Ok(name.clone());
        }
        let name = self.guarded(&resource.logical_id, resource.line, || identity::physical_name(self, resource))?;
        self.names.borrow_mut().insert(resource.logical_id.clone(), name.clone());
        Ok(name)
    }

    /// Runs `work` on `id`, which must not need itself.
    fn guarded<T>(&self, id: &str, line: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
        {
            let mut under_way = self.under_way.borrow_mut();
            if under_way.iter().any(|other| other == id) {
                return Err(Fault::new(line, format!("`{id}` refers to itself")));
            }
            if under_way.len() >= MAX_CHAIN {
                return Err(Fault::new(line, format!("more than {MAX_CHAIN} names in a row lead to `{id}`")));
            }
            under_way.push(id.to_owned());
        }
        let result = work();
        self.under_way.borrow_mut().pop();
        result
    }

    /// Carries out every intrinsic function in `node`; none if the value is `AWS::NoValue`.
    pub(crate) fn resolve(&self, node: &Node) -> Result<Option<Node>> {
        let line = node.line;
        match &node.kind {
            Kind::Null | Kind::Scalar { .. } => Ok(Some(node.clone())),
            Kind::List(items) => {
                let mut resolved = Vec::with_capacity(items.len());
                for item in items {
                    resolved.extend(self.resolve(item)?);
                }
                Ok(Some(Node { line, kind: Kind::List(resolved) }))
            }
            Kind::Map(entries) => {
                let mut resolved = Vec::with_capacity(entries.len());
                for entry in entries {
                    if let Some(value) = self.resolve(&entry.value)? {
                        resolved.push(Entry { key: entry.key.clone(), line: entry.line, value });
                    }
                }
                Ok(Some(Node { line, kind: Kind::Map(resolved) }))
            }
            Kind::Call(intrinsic, argument) => self.call(*intrinsic, argument, line),
        }
    }

    fn call(&self, intrinsic: Intrinsic, argument: &Node, line: usize) -> Result<Option<Node>> {
        let text = |text: String| Ok(Some(Node::text(line, text)));
        match intrinsic {
            Intrinsic::Ref => self.reference(name_in(argument, "Ref")?, line),
            Intrinsic::GetAtt => {
                let (id, attribute) = self.attribute_in(argument)?;
                text(self.get_att(&id, &attribute, line)?)
            }
            Intrinsic::Sub => text(self.substitute(argument, line)?),
            Intrinsic::If => {
                let (condition, then, otherwise) = if_arguments(argument)?;
                let taken = if self.decide(condition, argument.line)? { then } else { otherwise };
                self.resolve(taken)
            }
            Intrinsic::Join => {
                let [separator, items] = self.arguments(argument, "Fn::Join")?;
                let separator = word(&separator, "the separator of `Fn::Join`")?;
                let words = words(&items, "`Fn::Join`")?;
                text(self.localize(words.join(separator)))
            }
            Intrinsic::Split => {
                let [separator, whole] = self.arguments(argument, "Fn::Split")?;
                let separator = word(&separator, "the separator of `Fn::Split`")?;
                if separator.is_empty() {
                    return Err(Fault::new(line, "`Fn::Split` needs a separator"));
                }
                let parts = word(&whole, "what `Fn::Split` takes")?.split(separator);
                let kind = Kind::List(parts.map(|part| Node::text(line, part)).collect());
                Ok(Some(Node { line, kind }))
            }
            Intrinsic::Select => {
                let [index, items] = self.arguments(argument, "Fn::Select")?;
                let index = word(&index, "the index of `Fn::Select`")?;
                let items = items.as_list().ok_or_else(|| Fault::new(line, "`Fn::Select` chooses from a list"))?;
                let item = index.parse::<usize>().ok().and_then(|index| items.get(index));
                match item {
                    Some(item) => Ok(Some(Node { line, kind: item.kind.clone() })),
                    None => {
                        let message = format!("`Fn::Select` has no item `{index}` among {}", items.len());
                        Err(Fault::new(line, message))
                    }
                }
            }
            Intrinsic::FindInMap => self.find_in_map(argument, line),
            Intrinsic::GetAzs => {
                let zones = ["a", "b", "c"].map(|zone| Node::text(line, format!("{}{zone}", self.place.region)));
                Ok(Some(Node { line, kind: Kind::List(zones.into()) }))
            }
            Intrinsic::Length => match self.value(argument, "Fn::Length")?.as_list() {
                Some(items) => text(items.len().to_string()),
                None => Err(Fault::new(line, "`Fn::Length` counts the items of a list")),
            },
            Intrinsic::ToJsonString => text(self.value(argument, "Fn::ToJsonString")?.to_json().to_string()),
            Intrinsic::ImportValue => {
                Err(Fault::new(line, "`Fn::ImportValue` has no value: no other stack runs here; use a parameter"))
            }
            Intrinsic::Base64 => Err(Fault::new(line, "`Fn::Base64` is not carried out locally")),
            Intrinsic::And | Intrinsic::Condition | Intrinsic::Equals | Intrinsic::Not | Intrinsic::Or => {
                Err(Fault::new(line, "a condition is not a value; name it in `Conditions` and use `Fn::If`"))
            }
        }
    }

    /// A value that must not be `AWS::NoValue`.
    fn value(&self, node: &Node, function: &str) -> Result<Node> {
        self.resolve(node)?.ok_or_else(|| Fault::new(node.line, format!("`{function}` takes no `AWS::NoValue`")))
    }

    fn arguments<const N: usize>(&self, node: &Node, function: &str) -> Result<[Node; N]> {
        let wrong = || Fault::new(node.line, format!("`{function}` takes a list of {N} values"));
        let items = node.as_list().ok_or_else(wrong)?;
        let values = items.iter().map(|item| self.value(item, function)).collect::<Result<Vec<_>>>()?;
        values.try_into().map_err(|_| wrong())
    }

    fn named(&self, name: &str) -> Option<Named<'_>> {
        let parameter = self.parameters.get(name).map(Named::Parameter);
        let resource = || self.by_logical_id.get(name).and_then(|at| self.resources.get(*at)).map(Named::Resource);
        parameter.or_else(resource)
    }

    /// A parameter, or a resource that is present.
    fn live(&self, name: &str, line: usize) -> Result<Named<'_>> {
        let Some(named) = self.named(name) else { return Err(self.nothing_named(name, line)) };
        if let Named::Resource(resource) = named
            && let Some((condition, _)) = &resource.condition
            && !self.is_present(resource)?
        {
            let message = format!("`{name}` is not there: condition `{condition}` is false");
            return Err(Fault::new(line, message));
        }
        Ok(named)
    }

    fn nothing_named(&self, name: &str, line: usize) -> Fault {
        let kinds = if self.resources.is_empty() { "parameter" } else { "parameter or resource" };
        Fault::new(line, format!("there is no {kinds} `{name}`"))
    }

    fn reference(&self, name: &str, line: usize) -> Result<Option<Node>> {
        if name == "AWS::NoValue" {
            return Ok(None);
        }
        if let Some(value) = self.pseudo_parameter(name) {
            return Ok(Some(Node::text(line, value)));
        }
        match self.live(name, line)? {
            Named::Parameter(value) => Ok(Some(Node { line, kind: value.kind.clone() })),
            Named::Resource(resource) => Ok(Some(Node::text(line, identity::reference(self, resource, line)?))),
        }
    }

    fn pseudo_parameter(&self, name: &str) -> Option<String> {
        let place = self.place;
        Some(match name {
            "AWS::Region" => place.region.clone(),
            "AWS::AccountId" => place.account_id.clone(),
            "AWS::StackName" => place.stack_name.clone(),
            "AWS::StackId" => place.arn("cloudformation", &format!("stack/{}/local", place.stack_name)),
            "AWS::Partition" => place.partition().to_owned(),
            "AWS::URLSuffix" => place.url_suffix().to_owned(),
            _ => return None,
        })
    }

    fn get_att(&self, id: &str, attribute: &str, line: usize) -> Result<String> {
        let Named::Resource(resource) = self.live(id, line)? else {
            return Err(Fault::new(line, format!("`{id}` is a parameter and has no attributes")));
        };
        Ok(match identity::attribute(self, resource, attribute, line)? {
            Attribute::Known(value) => value,
            Attribute::StandIn(name) => {
                self.warn(line, format!("`{id}.{attribute}` has no local value; `{name}` stands in"));
                name
            }
        })
    }

    /// `A.B.C`, or `[A, B.C]` whose second item may refer to a parameter.
    fn attribute_in(&self, argument: &Node) -> Result<(String, String)> {
        let wrong = || Fault::new(argument.line, "`Fn::GetAtt` takes `LogicalId.Attribute`");
        match argument.as_list() {
            None => {
                let (id, attribute) = argument.as_text().and_then(|text| text.split_once('.')).ok_or_else(wrong)?;
                Ok((id.to_owned(), attribute.to_owned()))
            }
            Some([id, attribute]) => {
                let attribute = self.value(attribute, "Fn::GetAtt")?;
                Ok((id.as_text().ok_or_else(wrong)?.to_owned(), attribute.as_text().ok_or_else(wrong)?.to_owned()))
            }
            Some(_) => Err(wrong()),
        }
    }

    fn substitute(&self, argument: &Node, line: usize) -> Result<String> {
        let (template, variables) = sub_arguments(argument)?;
        let mut text = String::with_capacity(template.len());
        for part in sub_parts(template, line)? {
            let value = match part {
                Part::Text(literal) => {
                    text.push_str(literal);
                    continue;
                }
                Part::Name(name) => match variables.iter().find(|variable| variable.key == name) {
                    Some(variable) => Some(self.value(&variable.value, "Fn::Sub")?),
                    None => match name.split_once('.') {
                        Some((id, attribute)) => Some(Node::text(line, self.get_att(id, attribute, line)?)),
                        None => self.reference(name, line)?,
                    },
                },
            };
            match value.as_ref().and_then(Node::as_text) {
                Some(value) => text.push_str(value),
                None => return Err(Fault::new(line, "`Fn::Sub` can insert text only, no list and no `AWS::NoValue`")),
            }
        }
        Ok(self.localize(text))
    }

    fn find_in_map(&self, argument: &Node, line: usize) -> Result<Option<Node>> {
        let (keys, default) = match argument.as_list() {
            Some([map, first, second]) => ([map, first, second], None),
            Some([map, first, second, options]) => ([map, first, second], options.get("DefaultValue")),
            _ => return Err(Fault::new(line, "`Fn::FindInMap` takes a mapping and two keys")),
        };
        let mut resolved = Vec::with_capacity(keys.len());
        for key in keys {
            let key = self.value(key, "Fn::FindInMap")?;
            resolved.push(word(&key, "a key of `Fn::FindInMap`")?.to_owned());
        }
        let [map, first, second] = resolved.as_slice() else { return Ok(None) };
        let mapping = self.mappings.iter().find(|entry| entry.key == *map).map(|entry| &entry.value);
        match (mapping.and_then(|mapping| mapping.get(first)).and_then(|row| row.get(second)), default) {
            (Some(value), _) => Ok(Some(Node { line, kind: value.kind.clone() })),
            (None, Some(default)) => self.resolve(default),
            (None, None) => Err(Fault::new(line, format!("mapping `{map}` has no value for `{first}`, `{second}`"))),
        }
    }

    /// Whether the condition `name` holds.
    pub(crate) fn decide(&self, name: &str, line: usize) -> Result<bool> {
        if let Some(decided) = self.decided.borrow().get(name) {
            return Ok(*decided);
        }
        let node =
            self.conditions.get(name).ok_or_else(|| Fault::new(line, format!("there is no condition `{name}`")))?;
        let holds = self.guarded(name, node.line, || self.holds(node))?;
        self.decided.borrow_mut().insert(name.to_owned(), holds);
        Ok(holds)
    }

    fn holds(&self, node: &Node) -> Result<bool> {
        let wrong = |what: &str| Fault::new(node.line, what.to_owned());
        match &node.kind {
            Kind::Call(Intrinsic::Condition, name) => self.decide(name_in(name, "Condition")?, node.line),
            Kind::Map(entries) => match entries.as_slice() {
                [Entry { key, value, .. }] if key == "Condition" => {
                    self.decide(name_in(value, "Condition")?, node.line)
                }
                _ => Err(wrong("a condition is one of `Fn::Equals`, `Fn::And`, `Fn::Or`, `Fn::Not`, `Condition`")),
            },
            Kind::Call(Intrinsic::Equals, argument) => {
                let [left, right] = self.arguments(argument, "Fn::Equals")?;
                Ok(same(&left, &right))
            }
            Kind::Call(Intrinsic::Not, argument) => match argument.as_list() {
                Some([only]) => Ok(!self.holds(only)?),
                _ => Err(wrong("`Fn::Not` takes a list of one condition")),
            },
            Kind::Call(intrinsic @ (Intrinsic::And | Intrinsic::Or), argument) => {
                let parts = argument.as_list().filter(|parts| (2..=10).contains(&parts.len()));
                let parts = parts.ok_or_else(|| wrong("`Fn::And` and `Fn::Or` take a list of 2 to 10 conditions"))?;
                let parts = parts.iter().map(|part| self.holds(part)).collect::<Result<Vec<_>>>()?;
                Ok(if *intrinsic == Intrinsic::And { parts.iter().all(|part| *part) } else { parts.contains(&true) })
            }
            _ => Err(wrong("a condition is one of `Fn::Equals`, `Fn::And`, `Fn::Or`, `Fn::Not`, `Condition`")),
        }
    }

    /// API Gateway's own host names, which no laptop has, become the local endpoints; the stage goes with them, as it
    /// does after `ApiEndpoint`.
    fn localize(&self, text: String) -> String {
        let place = self.place;
        let suffix = format!(".execute-api.{}.{}", place.region, place.url_suffix());
        let mut text = text;
        for resource in &self.resources {
            let host = |scheme: &str| format!("{scheme}{}{suffix}", identity::generated_id(&resource.logical_id));
            let (hosts, stage_type) = match resource.type_name.as_str() {
                SERVERLESS_HTTP_API => {
                    let http = &place.http_endpoint;
                    (vec![(host("https://"), http), (http.clone(), http)], SERVERLESS_HTTP_API)
                }
                WEBSOCKET_API => {
                    let socket = &place.websocket_endpoint;
                    let management = (host("https://"), &place.aws_endpoint);
                    (vec![(host("wss://"), socket), (socket.clone(), socket), management], WEBSOCKET_STAGE)
                }
                _ => continue,
            };
            for (host, endpoint) in hosts {
                if host.is_empty() || !text.contains(&host) {
                    continue;
                }
                let mut parts = text.split(&host);
                let mut localized = parts.next().unwrap_or_default().to_owned();
                for tail in parts {
                    localized.push_str(endpoint);
                    localized.push_str(self.without_stage(tail, stage_type));
                }
                text = localized;
            }
        }
        text
    }

    /// `path` without its first segment if that is a stage that a resource of `stage_type` names.
    fn without_stage<'t>(&self, path: &'t str, stage_type: &str) -> &'t str {
        let Some(rest) = path.strip_prefix('/') else { return path };
        let named = self.resources.iter().filter(|resource| resource.type_name == stage_type);
        for stage in named.filter_map(|resource| resource.property("StageName")) {
            let Ok(Some(stage)) = self.resolve(stage) else { continue };
            let stage = stage.as_text().filter(|stage| !stage.is_empty());
            if let Some(tail) = stage.and_then(|stage| rest.strip_prefix(stage))
                && (tail.is_empty() || tail.starts_with('/'))
            {
                return tail;
            }
        }
        path
    }

    /// Everything that `node` refers to must be declared, and be there where its branch is taken.
    pub(crate) fn check_references(&self, node: &Node, taken: bool) -> Result<()> {
        let line = node.line;
        match &node.kind {
            Kind::Null | Kind::Scalar { .. } => Ok(()),
            Kind::List(items) => items.iter().try_for_each(|item| self.check_references(item, taken)),
            Kind::Map(entries) => entries.iter().try_for_each(|entry| self.check_references(&entry.value, taken)),
            Kind::Call(Intrinsic::Ref, argument) => self.check_name(name_in(argument, "Ref")?, line, taken),
            Kind::Call(Intrinsic::GetAtt, argument) => {
                let (id, attribute) = self.attribute_in(argument)?;
                self.check_attribute(&id, &attribute, line, taken)
            }
            Kind::Call(Intrinsic::Sub, argument) => {
                let (template, variables) = sub_arguments(argument)?;
                for part in sub_parts(template, line)? {
                    match part {
                        Part::Name(name) if !variables.iter().any(|variable| variable.key == name) => {
                            match name.split_once('.') {
                                Some((id, attribute)) => self.check_attribute(id, attribute, line, taken)?,
                                None => self.check_name(name, line, taken)?,
                            }
                        }
                        Part::Name(_) | Part::Text(_) => {}
                    }
                }
                variables.iter().try_for_each(|variable| self.check_references(&variable.value, taken))
            }
            Kind::Call(Intrinsic::If, argument) => {
                let (condition, then, otherwise) = if_arguments(argument)?;
                let holds = self.decide(condition, argument.line)?;
                self.check_references(then, taken && holds)?;
                self.check_references(otherwise, taken && !holds)
            }
            Kind::Call(_, argument) => self.check_references(argument, taken),
        }
    }

    /// A resource or parameter `name` must be declared; if `taken`, a resource must also be there.
    pub(crate) fn check_name(&self, name: &str, line: usize, taken: bool) -> Result<()> {
        if name == "AWS::NoValue" || name == "AWS::NotificationARNs" || self.pseudo_parameter(name).is_some() {
            return Ok(());
        }
        if taken {
            return self.live(name, line).map(|_| ());
        }
        self.named(name).map(|_| ()).ok_or_else(|| self.nothing_named(name, line))
    }

    fn check_attribute(&self, id: &str, attribute: &str, line: usize, taken: bool) -> Result<()> {
        self.check_name(id, line, taken)?;
        match self.named(id) {
            Some(Named::Resource(resource)) => identity::attribute(self, resource, attribute, line).map(|_| ()),
            _ => Err(Fault::new(line, format!("`{id}` is a parameter and has no attributes"))),
        }
    }
}

fn name_in<'n>(argument: &'n Node, function: &str) -> Result<&'n str> {
    argument.as_text().ok_or_else(|| Fault::new(argument.line, format!("`{function}` takes a name")))
}

fn if_arguments(argument: &Node) -> Result<(&str, &Node, &Node)> {
    match argument.as_list() {
        Some([condition, then, otherwise]) => Ok((name_in(condition, "Fn::If")?, then, otherwise)),
        _ => Err(Fault::new(argument.line, "`Fn::If` takes a condition and two values")),
    }
}

/// `"text"`, or `["text", {variables}]`.
fn sub_arguments(argument: &Node) -> Result<(&str, &[Entry])> {
    let wrong = || Fault::new(argument.line, "`Fn::Sub` takes text, or a list of text and a map");
    match argument.as_list() {
        None => Ok((argument.as_text().ok_or_else(wrong)?, &[])),
        Some([template, Node { kind: Kind::Map(variables), .. }]) => {
            Ok((template.as_text().ok_or_else(wrong)?, variables))
        }
        Some(_) => Err(wrong()),
    }
}

enum Part<'t> {
    Text(&'t str),
    Name(&'t str),
}

/// `${Name}` inserts, `${!Name}` stands for `${Name}` itself.
fn sub_parts(template: &str, line: usize) -> Result<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${")
        && let Some((name, tail)) = after.split_once('}')
    {
        parts.push(Part::Text(before));
        if let Some(literal) = name.strip_prefix('!') {
            parts.extend([Part::Text("${"), Part::Text(literal), Part::Text("}")]);
        } else if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._:".contains(c)) {
            parts.push(Part::Name(name));
        } else {
            return Err(Fault::new(line, format!("`${{{name}}}` in `Fn::Sub` is not a name")));
        }
        rest = tail;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

fn word<'n>(node: &'n Node, what: &str) -> Result<&'n str> {
    match &node.kind {
        Kind::Null => Ok(""),
        _ => node.as_text().ok_or_else(|| Fault::new(node.line, format!("{what} must be text"))),
    }
}

fn words<'n>(node: &'n Node, function: &str) -> Result<Vec<&'n str>> {
    match node.as_list() {
        Some(items) => items.iter().map(|item| word(item, &format!("an item of {function}"))).collect(),
        None => Err(Fault::new(node.line, format!("{function} takes a list"))),
    }
}

/// Equal whatever the lines and quotes.
fn same(left: &Node, right: &Node) -> bool {
    match (&left.kind, &right.kind) {
        (Kind::List(left), Kind::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        _ => word(left, "").ok().is_some_and(|text| word(right, "").ok() == Some(text)),
    }
}
