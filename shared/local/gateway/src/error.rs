//! What can be wrong with the description of an API.

/// An API that API Gateway would refuse to create.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("route key `{route_key}`: {reason}")]
    RouteKey { route_key: String, reason: &'static str },
    #[error("route key `{0}` is declared twice")]
    DuplicateRouteKey(String),
    #[error("identity source `{0}` is neither a request header, a query string parameter nor a stage variable")]
    IdentitySource(String),
    #[error("route selection expression `{0}` does not select a field of `$request.body`")]
    RouteSelectionExpression(String),
    #[error("CORS: credentials cannot be allowed for every origin")]
    CredentialsForEveryOrigin,
}
