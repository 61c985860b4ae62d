//! AWS::Serverless::HttpApi, and the routes that functions' `HttpApi` events make on it.

use std::collections::BTreeMap;

use super::{Reader, target};
use crate::document::{IMPLICIT_HTTP_API, Resource};
use crate::fault::{Fault, Result};
use crate::identity::generated_id;
use crate::model::{HttpApi, HttpAuthorizer, HttpAuthorizerKind, HttpCors, Route};
use crate::props::Props;
use crate::scope::Scope;
use crate::yaml::{Kind, Node};

/// API Gateway's limit, and what holds where a route declares none.
const MAX_TIMEOUT_MS: u32 = 30_000;
/// The authorizer's name in a route that does without the API's default.
const NO_AUTHORIZER: &str = "NONE";
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

impl Reader<'_> {
    pub(super) fn http_api(&mut self, resource: &Resource) -> Result<()> {
        if let Some(other) = &self.bundle.http_api {
            let message = format!(
                "`{}` is a second HTTP API beside `{}`; one runs locally",
                resource.logical_id, other.logical_id
            );
            return Err(Fault::new(resource.line, message));
        }
        let mut props = self.props(resource);
        for key in ["DefinitionBody", "DefinitionUri"] {
            if props.has(key) {
                let line = props.line_of(key);
                return Err(props.fault(line, key, "is not read locally; declare routes as events of functions"));
            }
        }
        self.bundle.http_api = Some(HttpApi {
            logical_id: resource.logical_id.clone(),
            id: generated_id(&resource.logical_id),
            stage: props.text("StageName")?.unwrap_or_else(|| "$default".to_owned()),
            stage_variables: stage_variables(&mut props)?,
            cors: cors(&mut props)?,
            authorizers: authorizers(self.scope, &mut props, &mut self.default_authorizer)?,
            routes: Vec::new(),
            line: resource.line,
        });
        props.without_effect(&[
            "AccessLogSettings",
            "DefaultRouteSettings",
            "Description",
            "DisableExecuteApiEndpoint",
            "Domain",
            "FailOnWarnings",
            "Name",
            "PropagateTags",
            "RouteSettings",
            "Tags",
        ]);
        props.finish();
        Ok(())
    }
}

pub(super) fn stage_variables(props: &mut Props<'_>) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for entry in props.entries("StageVariables")? {
        let wrong = || props.fault(entry.line, "StageVariables", "must be text");
        let value = entry.value.as_text().ok_or_else(wrong)?.to_owned();
        variables.insert(entry.key, value);
    }
    Ok(variables)
}

fn cors(props: &mut Props<'_>) -> Result<Option<HttpCors>> {
    let line = props.line_of("CorsConfiguration");
    let Some(node) = props.node("CorsConfiguration")? else { return Ok(None) };
    if let Kind::Scalar { text, .. } = &node.kind {
        // SAM's short form: every origin, and nothing else.
        return match text.as_str() {
            "true" | "True" => Ok(Some(HttpCors { allow_origins: vec!["*".to_owned()], ..HttpCors::default() })),
            "false" | "False" => Ok(None),
            other => Err(props.fault(line, "CorsConfiguration", format!("must be `true` or a map, not `{other}`"))),
        };
    }
    let mut cors = props.nested("CorsConfiguration", node)?;
    let credentials_line = cors.line_of("AllowCredentials");
    let read = HttpCors {
        allow_origins: cors.texts("AllowOrigins")?,
        allow_methods: cors.texts("AllowMethods")?,
        allow_headers: cors.texts("AllowHeaders")?,
        expose_headers: cors.texts("ExposeHeaders")?,
        max_age_secs: cors.number("MaxAge", 0..=86_400)?,
        allow_credentials: cors.flag("AllowCredentials")?.unwrap_or(false),
    };
    if read.allow_credentials && read.allow_origins.iter().any(|origin| origin == "*") {
        return Err(cors.fault(credentials_line, "AllowCredentials", "cannot stand beside origin `*`"));
    }
    cors.finish();
    Ok(Some(read))
}

fn authorizers(scope: &Scope<'_>, props: &mut Props<'_>, default: &mut Option<String>) -> Result<Vec<HttpAuthorizer>> {
    let mut authorizers = Vec::new();
    let Some(mut auth) = props.child("Auth")? else { return Ok(authorizers) };
    for entry in auth.entries("Authorizers")? {
        let authorizer = auth.nested("Authorizers", entry.value)?;
        authorizers.push(HttpAuthorizer { name: entry.key, kind: authorizer_kind(scope, authorizer)? });
    }
    let line = auth.line_of("DefaultAuthorizer");
    *default = auth.text("DefaultAuthorizer")?;
    if let Some(name) = default
        && !authorizers.iter().any(|authorizer| authorizer.name == *name)
    {
        return Err(auth.fault(line, "DefaultAuthorizer", format!("names no authorizer: `{name}`")));
    }
    auth.finish();
    Ok(authorizers)
}

fn authorizer_kind(scope: &Scope<'_>, mut props: Props<'_>) -> Result<HttpAuthorizerKind> {
    let kind = if let Some(mut jwt) = props.child("JwtConfiguration")? {
        let line = jwt.line_of("audience");
        let audience = match jwt.node("audience")? {
            Some(Node { kind: Kind::Scalar { text, .. }, .. }) => vec![text],
            Some(node) => {
                let wrong = || jwt.fault(line, "audience", "must be text or a list of text");
                let items = node.as_list().ok_or_else(wrong)?;
                items.iter().map(|item| item.as_text().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_>>()?
            }
            None => return Err(jwt.missing("audience")),
        };
        let issuer = jwt.required("issuer")?;
        jwt.finish();
        HttpAuthorizerKind::Jwt {
            identity_source: props
                .text("IdentitySource")?
                .unwrap_or_else(|| "$request.header.Authorization".to_owned()),
            issuer,
            audience,
            scopes: props.texts("AuthorizationScopes")?,
        }
    } else {
        let function = target::function(scope, &mut props, "FunctionArn")?;
        check_payload_format(&mut props, "AuthorizerPayloadFormatVersion")?;
        let (identity_sources, ttl) = identity(&mut props)?;
        HttpAuthorizerKind::Lambda {
            function,
            // Without an identity source there is nothing to cache by.
            ttl_secs: ttl.unwrap_or(if identity_sources.is_empty() { 0 } else { 300 }),
            identity_sources,
            simple_responses: props.flag("EnableSimpleResponses")?.unwrap_or(false),
        }
    };
    props.without_effect(&["EnableFunctionDefaultPermissions", "FunctionInvokeRole"]);
    props.finish();
    Ok(kind)
}

fn identity(props: &mut Props<'_>) -> Result<(Vec<String>, Option<u32>)> {
    let Some(mut identity) = props.child("Identity")? else { return Ok((Vec::new(), None)) };
    let mut sources = Vec::new();
    let kinds = [
        ("Headers", "$request.header."),
        ("QueryStrings", "$request.querystring."),
        ("Context", "$context."),
        ("StageVariables", "$stageVariables."),
    ];
    for (key, prefix) in kinds {
        sources.extend(identity.texts(key)?.into_iter().map(|name| format!("{prefix}{name}")));
    }
    let ttl = identity.number("ReauthorizeEvery", 0..=3600)?;
    identity.finish();
    Ok((sources, ttl))
}

fn check_payload_format(props: &mut Props<'_>, key: &str) -> Result<()> {
    let line = props.line_of(key);
    match props.text(key)?.as_deref() {
        None | Some("2.0") => Ok(()),
        Some(other) => Err(props.fault(line, key, format!("is `{other}`; only `2.0` runs locally"))),
    }
}

/// The route of an `HttpApi` event, and the id of its API.
pub(super) fn route(mut props: Props<'_>, function: String) -> Result<(String, Route)> {
    let api_id = props.text("ApiId")?.unwrap_or_else(|| generated_id(IMPLICIT_HTTP_API));
    let (method_line, path_line) = (props.line_of("Method"), props.line_of("Path"));
    let route_key = match (props.text("Method")?, props.text("Path")?) {
        (None, None) => "$default".to_owned(),
        (Some(method), Some(path)) => {
            let method = match method.to_ascii_uppercase().as_str() {
                "*" | "ANY" | "X-AMAZON-APIGATEWAY-ANY-METHOD" => "ANY".to_owned(),
                method if METHODS.contains(&method) => method.to_owned(),
                _ => return Err(props.fault(method_line, "Method", format!("is no HTTP method: `{method}`"))),
            };
            check_path(&path).map_err(|what| props.fault(path_line, "Path", format!("{what}: `{path}`")))?;
            format!("{method} {path}")
        }
        (Some(_), None) => return Err(props.missing("Path")),
        (None, Some(_)) => return Err(props.missing("Method")),
    };
    check_payload_format(&mut props, "PayloadFormatVersion")?;
    let (authorizer, scopes) = match props.child("Auth")? {
        None => (None, Vec::new()),
        Some(mut auth) => {
            let line = auth.line_of("Authorizer");
            let authorizer = auth.text("Authorizer")?;
            if authorizer.as_deref() == Some("AWS_IAM") {
                return Err(auth.fault(line, "Authorizer", "is `AWS_IAM`; rights are not checked locally"));
            }
            let scopes = auth.texts("AuthorizationScopes")?;
            auth.without_effect(&["InvokeRole"]);
            auth.finish();
            (authorizer, scopes)
        }
    };
    let timeout_ms = props.number("TimeoutInMillis", 50..=i64::from(MAX_TIMEOUT_MS))?.unwrap_or(MAX_TIMEOUT_MS);
    let line = props.line();
    props.without_effect(&["RouteSettings"]);
    props.finish();
    Ok((api_id, Route { route_key, function, timeout_ms, authorizer, scopes, line }))
}

/// `/a/{b}/{proxy+}`: a greedy parameter comes last, and no name comes twice.
fn check_path(path: &str) -> std::result::Result<(), &'static str> {
    let Some(segments) = path.strip_prefix('/') else { return Err("must begin with `/`") };
    let mut names: Vec<&str> = Vec::new();
    let mut rest = segments.split('/').peekable();
    while let Some(segment) = rest.next() {
        let Some(name) = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}')) else {
            if segment.contains(['{', '}']) {
                return Err("must have parameters that are whole segments");
            }
            continue;
        };
        if name.ends_with('+') && rest.peek().is_some() {
            return Err("must have its greedy parameter last");
        }
        let name = name.trim_end_matches('+');
        if name.is_empty() || names.contains(&name) {
            return Err("must have parameters with names, each once");
        }
        names.push(name);
    }
    Ok(())
}

/// Settles who authorizes a route: its own authorizer, none if it says so, else the API's default.
pub(super) fn with_authorizer(mut route: Route, api: &HttpApi, default: Option<&str>) -> Result<Route> {
    let authorizer = match route.authorizer.take() {
        Some(name) if name == NO_AUTHORIZER => None,
        Some(name) if !api.authorizers.iter().any(|authorizer| authorizer.name == name) => {
            let message = format!("route `{}` names no authorizer of its API: `{name}`", route.route_key);
            return Err(Fault::new(route.line, message));
        }
        Some(name) => Some(name),
        None => default.map(str::to_owned),
    };
    Ok(Route { authorizer, ..route })
}
