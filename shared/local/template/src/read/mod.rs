//! From resources to the model: one reader per kind of resource, then what must hold between them.

mod bucket;
mod bus;
mod check;
mod delivery;
mod event;
mod function;
mod http_api;
mod known;
mod mapping;
mod queue;
mod schedule;
mod socket;
mod table;
mod target;

use crate::document::{Resource, SERVERLESS_FUNCTION, SERVERLESS_HTTP_API};
use crate::fault::{Fault, Result};
use crate::identity::{
    self, BUCKET, EVENT_BUS, EVENT_SOURCE_MAPPING, KEY, KEY_ALIAS, QUEUE, RULE, SCHEDULE, TABLE, WEBSOCKET_API,
    WEBSOCKET_STAGE,
};
use crate::model::{Asynchronous, Bundle, Key, KeyUsage, LeftOut, Notification, Route};
use crate::props::Props;
use crate::scope::Scope;
use crate::yaml::{Entry, Node};

/// The bundle under construction, and what waits for the resource that it belongs to.
struct Reader<'s> {
    scope: &'s Scope<'s>,
    bundle: Bundle,
    /// By the id of their API.
    routes: Vec<(String, Route)>,
    /// The API's `DefaultAuthorizer`.
    default_authorizer: Option<String>,
    /// By the name of their bucket.
    notifications: Vec<(String, Notification)>,
    /// By the name of their function.
    invoke_configs: Vec<(String, Asynchronous)>,
    socket: socket::Parts<'s>,
}

pub(crate) fn bundle(scope: Scope<'_>, outputs: Vec<Entry>) -> Result<Bundle> {
    check_references(&scope, &outputs)?;
    let mut reader = Reader {
        scope: &scope,
        bundle: Bundle::default(),
        routes: Vec::new(),
        default_authorizer: None,
        notifications: Vec::new(),
        invoke_configs: Vec::new(),
        socket: socket::Parts::default(),
    };
    for resource in scope.present()? {
        reader.read(resource)?;
    }
    let mut bundle = reader.join()?;
    for output in outputs {
        read_output(&scope, &mut bundle, output)?;
    }
    check::bundle(&scope, &bundle)?;
    bundle.warnings = scope.into_warnings();
    Ok(bundle)
}

/// What is not read is checked too: a name that does not exist is an error wherever it stands.
fn check_references(scope: &Scope<'_>, outputs: &[Entry]) -> Result<()> {
    for resource in scope.declared() {
        let present = scope.is_present(resource)?;
        for (id, line) in &resource.depends_on {
            scope.check_name(id, *line, false)?;
        }
        for property in &resource.properties {
            scope.check_references(&property.value, present)?;
        }
    }
    for output in outputs {
        let present = output_is_present(scope, output)?;
        scope.check_references(&output.value, present)?;
    }
    Ok(())
}

fn output_is_present(scope: &Scope<'_>, output: &Entry) -> Result<bool> {
    match output.value.get("Condition") {
        Some(node) => {
            let wrong = || Fault::new(node.line, format!("`Condition` of output `{}` must be a name", output.key));
            scope.decide(node.as_text().ok_or_else(wrong)?, node.line)
        }
        None => Ok(true),
    }
}

fn read_output(scope: &Scope<'_>, bundle: &mut Bundle, output: Entry) -> Result<()> {
    if !output_is_present(scope, &output)? {
        return Ok(());
    }
    let value = output.value.get("Value");
    let value = value.ok_or_else(|| Fault::new(output.line, format!("output `{}` has no `Value`", output.key)))?;
    let resolved = scope.resolve(value)?;
    match resolved.as_ref().and_then(Node::as_text) {
        Some(text) => {
            bundle.outputs.insert(output.key, text.to_owned());
            Ok(())
        }
        None => Err(Fault::new(value.line, format!("output `{}` must be text", output.key))),
    }
}

impl<'s> Reader<'s> {
    fn read(&mut self, resource: &'s Resource) -> Result<()> {
        match resource.type_name.as_str() {
            SERVERLESS_FUNCTION => self.function(resource),
            SERVERLESS_HTTP_API => self.http_api(resource),
            QUEUE => self.queue(resource),
            TABLE => self.table(resource),
            BUCKET => self.bucket(resource),
            EVENT_BUS => self.event_bus(resource),
            RULE => self.rule(resource),
            SCHEDULE => self.schedule(resource),
            EVENT_SOURCE_MAPPING => self.event_source_mapping(resource),
            "AWS::Lambda::EventInvokeConfig" => self.event_invoke_config(resource),
            KEY => self.key(resource),
            KEY_ALIAS => {
                let mut props = self.props(resource);
                props.without_effect(&["AliasName", "TargetKeyId"]);
                props.finish();
                Ok(())
            }
            WEBSOCKET_API => self.socket_api(resource),
            "AWS::ApiGatewayV2::Route" => self.socket_route(resource),
            "AWS::ApiGatewayV2::RouteResponse" => self.socket_route_response(resource),
            "AWS::ApiGatewayV2::Integration" => self.socket_integration(resource),
            "AWS::ApiGatewayV2::Authorizer" => self.socket_authorizer(resource),
            WEBSOCKET_STAGE => self.socket_stage(resource),
            "AWS::ApiGatewayV2::Deployment" => self.socket_deployment(resource),
            type_name => {
                match known::reason_without_effect(type_name) {
                    Some(reason) => self.bundle.left_out.push(LeftOut {
                        logical_id: resource.logical_id.clone(),
                        type_name: type_name.to_owned(),
                        reason,
                        line: resource.line,
                    }),
                    None => {
                        let message = format!("resource `{}` ({type_name}) is not run locally", resource.logical_id);
                        self.scope.warn(resource.line, message);
                    }
                }
                Ok(())
            }
        }
    }

    fn props(&self, resource: &Resource) -> Props<'s> {
        let owner = format!("`{}` ({})", resource.logical_id, resource.type_name);
        Props::new(self.scope, owner, resource.line, resource.properties.clone())
    }

    fn key(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let usages = [
            ("ENCRYPT_DECRYPT", KeyUsage::EncryptDecrypt),
            ("SIGN_VERIFY", KeyUsage::SignVerify),
            ("GENERATE_VERIFY_MAC", KeyUsage::GenerateVerifyMac),
            ("KEY_AGREEMENT", KeyUsage::KeyAgreement),
        ];
        self.bundle.keys.push(Key {
            logical_id: resource.logical_id.clone(),
            value: identity::reference(self.scope, resource, resource.line)?,
            usage: props.choice("KeyUsage", &usages)?.unwrap_or(KeyUsage::EncryptDecrypt),
            spec: props.text("KeySpec")?.unwrap_or_else(|| "SYMMETRIC_DEFAULT".to_owned()),
            line: resource.line,
        });
        props.without_effect(&[
            "BypassPolicyLockoutSafetyCheck",
            "Description",
            "EnableKeyRotation",
            "KeyPolicy",
            "MultiRegion",
            "PendingWindowInDays",
            "RotationPeriodInDays",
            "Tags",
        ]);
        props.finish();
        Ok(())
    }

    /// Gives routes, notifications and invoke configurations to what they belong to.
    fn join(mut self) -> Result<Bundle> {
        for (api_id, route) in self.routes {
            match self.bundle.http_api.as_mut().filter(|api| api.id == api_id) {
                Some(api) => {
                    let route = http_api::with_authorizer(route, api, self.default_authorizer.as_deref())?;
                    api.routes.push(route);
                }
                None => {
                    let message = format!("route `{}` is on API `{api_id}`, which is not there", route.route_key);
                    return Err(Fault::new(route.line, message));
                }
            }
        }
        for (name, notification) in self.notifications {
            if let Some(bucket) = self.bundle.buckets.iter_mut().find(|bucket| bucket.name == name) {
                bucket.notifications.push(notification);
            }
        }
        for (name, config) in self.invoke_configs {
            if let Some(function) = self.bundle.functions.iter_mut().find(|function| function.name == name) {
                let dead_letter_queue = function.asynchronous.dead_letter_queue.take();
                function.asynchronous = Asynchronous { dead_letter_queue, ..config };
            }
        }
        self.bundle.websocket_api = self.socket.join(self.scope)?;
        Ok(self.bundle)
    }
}
