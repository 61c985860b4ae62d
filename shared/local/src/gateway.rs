//! The template's HTTP API and WebSocket API.

use std::sync::Arc;
use std::time::Duration;

use local_gateway::{
    Authorizer, Cors, HttpApi, HttpApiConfig, HttpRoute, WebSocketApi, WebSocketConfig, WebSocketLimits, WebSocketRoute,
};
use local_lambda::Invoker;
use local_template::{Bundle, HttpAuthorizerKind};

use crate::arn::{ACCOUNT, REGION};
use crate::{StartError, part};

pub(crate) fn http_api(bundle: &Bundle, url: &str, invoker: Arc<dyn Invoker>) -> Result<Option<HttpApi>, StartError> {
    let Some(api) = &bundle.http_api else { return Ok(None) };
    let authorizer = |name: &Option<String>| {
        let name = name.as_ref()?;
        let found = api.authorizers.iter().find(|authorizer| authorizer.name == *name)?;
        match &found.kind {
            HttpAuthorizerKind::Lambda { function, identity_sources, .. } => {
                Some(Authorizer { function: function.clone(), identity_sources: identity_sources.clone() })
            }
            HttpAuthorizerKind::Jwt { .. } => {
                tracing::warn!(
                    "JWT authorizer `{name}` is not carried out locally; functions verify tokens themselves"
                );
                None
            }
        }
    };
    let limit = HttpApi::INTEGRATION_TIMEOUT.as_millis();
    for route in api.routes.iter().filter(|route| u128::from(route.timeout_ms) != limit) {
        let (line, key) = (route.line, &route.route_key);
        tracing::warn!("line {line}: TimeoutInMillis of `{key}` is not carried out locally; clients wait {limit} ms");
    }
    let routes = api.routes.iter().map(|route| HttpRoute {
        route_key: route.route_key.clone(),
        function: route.function.clone(),
        authorizer: authorizer(&route.authorizer),
    });
    let config = HttpApiConfig {
        id: api.id.clone(),
        stage: api.stage.clone(),
        stage_variables: api.stage_variables.clone(),
        routes: routes.collect(),
        cors: api.cors.as_ref().map(|cors| Cors {
            allow_origins: cors.allow_origins.clone(),
            allow_methods: cors.allow_methods.clone(),
            allow_headers: cors.allow_headers.clone(),
            expose_headers: cors.expose_headers.clone(),
            allow_credentials: cors.allow_credentials,
            max_age: cors.max_age_secs.map(|secs| Duration::from_secs(secs.into())),
        }),
        region: REGION.to_owned(),
        account: ACCOUNT.to_owned(),
        domain: domain(url),
        integration_timeout: HttpApi::INTEGRATION_TIMEOUT,
    };
    HttpApi::new(config, invoker).map(Some).map_err(part("HTTP API"))
}

pub(crate) fn websocket_api(
    bundle: &Bundle,
    url: &str,
    invoker: Arc<dyn Invoker>,
) -> Result<Option<WebSocketApi>, StartError> {
    let Some(api) = &bundle.websocket_api else { return Ok(None) };
    let routes = api.routes.iter().map(|route| {
        let made = WebSocketRoute { function: route.function.clone(), route_response: route.responds };
        (route.route_key.clone(), made)
    });
    let config = WebSocketConfig {
        id: api.id.clone(),
        stage: api.stage.clone(),
        stage_variables: api.stage_variables.clone(),
        route_selection_expression: api.route_selection_expression.clone(),
        routes: routes.collect(),
        connect_authorizer: api.authorizer.as_ref().map(|authorizer| Authorizer {
            function: authorizer.function.clone(),
            identity_sources: authorizer.identity_sources.clone(),
        }),
        region: REGION.to_owned(),
        account: ACCOUNT.to_owned(),
        domain: domain(url),
        limits: WebSocketLimits::default(),
    };
    WebSocketApi::new(config, invoker).map(Some).map_err(part("WebSocket API"))
}

/// Host and port: what a browser sends as `host`.
fn domain(url: &str) -> String {
    url.split_once("://").map_or(url, |(_, host)| host).to_owned()
}
