//! The WebSocket API, which a template declares in parts: AWS::ApiGatewayV2::Api, Route, Integration, Authorizer, Stage
//! and Deployment.

use std::collections::BTreeMap;

use super::http_api::stage_variables;
use super::{Reader, target};
use crate::document::Resource;
use crate::fault::{Fault, Result};
use crate::identity::generated_id;
use crate::model::{SocketAuthorizer, SocketRoute, WebSocketApi};
use crate::props::Props;
use crate::scope::Scope;

/// API Gateway's limit, and what holds where an integration declares none.
const MAX_TIMEOUT_MS: u32 = 29_000;

#[derive(Default)]
pub(super) struct Parts<'s> {
    api: Option<Api>,
    routes: Vec<RoutePart<'s>>,
    integrations: BTreeMap<String, Integration>,
    authorizers: BTreeMap<String, (SocketAuthorizer, String)>,
    stages: Vec<Stage>,
    deployments: Vec<&'s Resource>,
    /// Ids of routes that have a route response.
    responding: Vec<String>,
}

struct Api {
    logical_id: String,
    id: String,
    route_selection_expression: String,
    line: usize,
}

struct RoutePart<'s> {
    resource: &'s Resource,
    api_id: String,
    route_key: String,
    /// The integration's id.
    target: String,
    authorizer_id: Option<String>,
    selects_response: bool,
}

struct Integration {
    api_id: String,
    function: String,
    timeout_ms: u32,
}

struct Stage {
    api_id: String,
    name: String,
    variables: BTreeMap<String, String>,
    deploys_itself: bool,
    line: usize,
}

impl<'s> Reader<'s> {
    pub(super) fn socket_api(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let line = props.line_of("ProtocolType");
        let protocol = props.required("ProtocolType")?;
        if protocol != "WEBSOCKET" {
            let what = format!("is `{protocol}`; declare an HTTP API as `AWS::Serverless::HttpApi`");
            return Err(props.fault(line, "ProtocolType", what));
        }
        if let Some(other) = &self.socket.api {
            let message = format!(
                "`{}` is a second WebSocket API beside `{}`; one runs locally",
                resource.logical_id, other.logical_id
            );
            return Err(Fault::new(resource.line, message));
        }
        self.socket.api = Some(Api {
            logical_id: resource.logical_id.clone(),
            id: generated_id(&resource.logical_id),
            route_selection_expression: props.required("RouteSelectionExpression")?,
            line: resource.line,
        });
        props.without_effect(&[
            "ApiKeySelectionExpression",
            "Description",
            "DisableExecuteApiEndpoint",
            "DisableSchemaValidation",
            "FailOnWarnings",
            "IpAddressType",
            "Name",
            "Tags",
            "Version",
        ]);
        props.finish();
        Ok(())
    }

    pub(super) fn socket_route(&mut self, resource: &'s Resource) -> Result<()> {
        let mut props = self.props(resource);
        let authorizations = [("NONE", false), ("CUSTOM", true)];
        let authorization_line = props.line_of("AuthorizationType");
        let is_authorized = props.choice("AuthorizationType", &authorizations)?.unwrap_or(false);
        let authorizer_id = props.text("AuthorizerId")?.filter(|_| is_authorized);
        let route_key = props.required("RouteKey")?;
        if is_authorized && authorizer_id.is_none() {
            return Err(props.missing("AuthorizerId"));
        }
        if is_authorized && route_key != "$connect" {
            let what = format!("is `CUSTOM` on `{route_key}`; only `$connect` is authorized");
            return Err(props.fault(authorization_line, "AuthorizationType", what));
        }
        let line = props.line_of("Target");
        let target = props.required("Target")?;
        let Some(target) = target.strip_prefix("integrations/").map(str::to_owned) else {
            return Err(props.fault(line, "Target", format!("must be `integrations/` and an id, not `{target}`")));
        };
        self.socket.routes.push(RoutePart {
            resource,
            api_id: props.required("ApiId")?,
            route_key,
            target,
            authorizer_id,
            selects_response: props.text("RouteResponseSelectionExpression")?.is_some(),
        });
        props.without_effect(&["ApiKeyRequired", "OperationName"]);
        props.finish();
        Ok(())
    }

    pub(super) fn socket_route_response(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let route = props.required("RouteId")?;
        self.socket.responding.push(route);
        props.without_effect(&["ApiId", "RouteResponseKey"]);
        props.finish();
        Ok(())
    }

    pub(super) fn socket_integration(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let line = props.line_of("IntegrationType");
        let kind = props.required("IntegrationType")?;
        if kind != "AWS_PROXY" {
            return Err(props.fault(line, "IntegrationType", format!("is `{kind}`; only `AWS_PROXY` runs locally")));
        }
        let integration = Integration {
            api_id: props.required("ApiId")?,
            function: function_in_uri(self.scope, &mut props, "IntegrationUri")?,
            timeout_ms: props.number("TimeoutInMillis", 50..=i64::from(MAX_TIMEOUT_MS))?.unwrap_or(MAX_TIMEOUT_MS),
        };
        self.socket.integrations.insert(generated_id(&resource.logical_id), integration);
        props.without_effect(&[
            "ConnectionType",
            "ContentHandlingStrategy",
            "CredentialsArn",
            "Description",
            "IntegrationMethod",
            "PassthroughBehavior",
            "PayloadFormatVersion",
        ]);
        props.finish();
        Ok(())
    }

    pub(super) fn socket_authorizer(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let line = props.line_of("AuthorizerType");
        let kind = props.required("AuthorizerType")?;
        if kind != "REQUEST" {
            return Err(props.fault(line, "AuthorizerType", format!("is `{kind}`; a WebSocket API has `REQUEST`")));
        }
        let authorizer = SocketAuthorizer {
            name: props.text("Name")?.unwrap_or_else(|| resource.logical_id.clone()),
            function: function_in_uri(self.scope, &mut props, "AuthorizerUri")?,
            identity_sources: props.texts("IdentitySource")?,
        };
        let api_id = props.required("ApiId")?;
        self.socket.authorizers.insert(generated_id(&resource.logical_id), (authorizer, api_id));
        props.without_effect(&["AuthorizerCredentialsArn"]);
        props.finish();
        Ok(())
    }

    pub(super) fn socket_stage(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        props.without_effect(&["StageName"]);
        self.socket.stages.push(Stage {
            api_id: props.required("ApiId")?,
            name: self.scope.name_of(resource)?,
            variables: stage_variables(&mut props)?,
            deploys_itself: props.flag("AutoDeploy")?.unwrap_or(false),
            line: resource.line,
        });
        props.without_effect(&[
            "AccessLogSettings",
            "ClientCertificateId",
            "DefaultRouteSettings",
            "DeploymentId",
            "Description",
            "RouteSettings",
            "Tags",
        ]);
        props.finish();
        Ok(())
    }

    pub(super) fn socket_deployment(&mut self, resource: &'s Resource) -> Result<()> {
        let mut props = self.props(resource);
        props.without_effect(&["ApiId", "Description", "StageName"]);
        props.finish();
        self.socket.deployments.push(resource);
        Ok(())
    }
}

/// The function inside `arn:aws:apigateway:REGION:lambda:path/2015-03-31/functions/ARN/invocations`.
fn function_in_uri(scope: &Scope<'_>, props: &mut Props<'_>, key: &str) -> Result<String> {
    let line = props.line_of(key);
    let uri = props.required(key)?;
    let arn =
        uri.split_once(":lambda:path/2015-03-31/functions/").and_then(|(_, tail)| tail.strip_suffix("/invocations"));
    let Some(arn) = arn else {
        return Err(props.fault(line, key, format!("must be the invocation URI of a function, not `{uri}`")));
    };
    target::function_named(scope, arn)?
        .ok_or_else(|| props.fault(line, key, format!("names no function of this template: `{arn}`")))
}

impl Parts<'_> {
    /// The API with everything that belongs to it.
    pub(super) fn join(self, scope: &Scope<'_>) -> Result<Option<WebSocketApi>> {
        let parts = self.routes.iter().map(|route| (&route.api_id, route.resource.line));
        let parts = parts.chain(self.stages.iter().map(|stage| (&stage.api_id, stage.line)));
        let id = self.api.as_ref().map(|api| api.id.as_str());
        for (api_id, line) in parts {
            if id != Some(api_id.as_str()) {
                return Err(Fault::new(line, format!("`ApiId` names no WebSocket API of this template: `{api_id}`")));
            }
        }
        let Some(api) = &self.api else { return Ok(None) };
        let stage = match self.stages.as_slice() {
            [stage] => stage,
            [] => return Err(Fault::new(api.line, format!("`{}` has no `AWS::ApiGatewayV2::Stage`", api.logical_id))),
            [_, second, ..] => {
                return Err(Fault::new(second.line, "a second stage of the WebSocket API; one runs locally"));
            }
        };
        self.warn_of_routes_deployed_too_early(scope, stage);

        let mut authorizer = None;
        let mut routes = Vec::new();
        for route in &self.routes {
            let line = route.resource.line;
            let integration = self.integrations.get(&route.target).filter(|integration| integration.api_id == api.id);
            let integration = integration.ok_or_else(|| {
                let message =
                    format!("`{}` targets no integration of its API: `{}`", route.resource.logical_id, route.target);
                Fault::new(line, message)
            })?;
            if let Some(id) = &route.authorizer_id {
                let found = self.authorizers.get(id).filter(|(_, api_id)| *api_id == api.id);
                let (found, _) = found.ok_or_else(|| {
                    let message = format!("`{}` names no authorizer of its API: `{id}`", route.resource.logical_id);
                    Fault::new(line, message)
                })?;
                authorizer = Some(found.clone());
            }
            routes.push(SocketRoute {
                route_key: route.route_key.clone(),
                function: integration.function.clone(),
                timeout_ms: integration.timeout_ms,
                responds: route.selects_response && self.responding.contains(&generated_id(&route.resource.logical_id)),
                line,
            });
        }
        Ok(Some(WebSocketApi {
            logical_id: api.logical_id.clone(),
            id: api.id.clone(),
            stage: stage.name.clone(),
            stage_variables: stage.variables.clone(),
            route_selection_expression: api.route_selection_expression.clone(),
            routes,
            authorizer,
            line: api.line,
        }))
    }

    /// On AWS a deployment holds the routes that were there when it was made: nobody sees the others.
    fn warn_of_routes_deployed_too_early(&self, scope: &Scope<'_>, stage: &Stage) {
        if stage.deploys_itself {
            return;
        }
        for deployment in &self.deployments {
            for route in &self.routes {
                let id = &route.resource.logical_id;
                if !deployment.depends_on.iter().any(|(other, _)| other == id) {
                    let message = format!(
                        "`{}` does not depend on route `{id}`: AWS may deploy without it",
                        deployment.logical_id
                    );
                    scope.warn(deployment.line, message);
                }
            }
        }
    }
}
