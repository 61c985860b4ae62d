//! Messages: which route they take, and what their sender is told.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::{
    CONNECT, DEFAULT, DISCONNECT, Inner, ProxyAnswer, Started, WebSocketApi, WebSocketRoute, connection::Connection,
    event::Body, failure_message,
};
use crate::{error::ConfigError, integration::IntegrationError};

impl WebSocketApi {
    /// Handles one message to its end, including what the client is told.
    pub(super) async fn message(&self, connection: &Connection, body: Body) {
        let started = Started::now();
        let (route_key, outcome) = match self.select(&body) {
            Some((route_key, route)) => {
                (Some(route_key), self.forward(connection, &started, route_key, route, &body).await)
            }
            None => (None, Err(Failure::NoRoute)),
        };
        let (status, reply) = match outcome {
            Ok(reply) => (StatusCode::OK, reply),
            Err(failure) => {
                let told = failure_message(failure.message(), &connection.id, &started.request_id);
                (failure.status(), Some(told.into()))
            }
        };
        self.report(&started, route_key, status);
        if let Some(reply) = reply
            && let Err(error) = connection.send(reply, self.inner.config.limits.post_wait).await
        {
            tracing::debug!(%error, connection.id = %connection.id, "an answer did not reach its client");
        }
    }

    fn select(&self, body: &Body) -> Option<(&str, &WebSocketRoute)> {
        let Inner { config, selection, .. } = &*self.inner;
        let selected = match body {
            Body::Text(text) => selected_key(text, selection),
            Body::Binary(_) => None,
        };
        let reserved = |key: &String| [CONNECT, DISCONNECT, DEFAULT].contains(&key.as_str());
        selected
            .filter(|key| !reserved(key))
            .and_then(|key| config.routes.get_key_value(&key))
            .or_else(|| config.routes.get_key_value(DEFAULT))
            .map(|(key, route)| (key.as_str(), route))
    }

    /// The message to the function; `Some` is what its route response sends back.
    async fn forward(
        &self,
        connection: &Connection,
        started: &Started,
        route_key: &str,
        route: &WebSocketRoute,
        body: &Body,
    ) -> Result<Option<Bytes>, Failure> {
        let event = self.events(connection, started).message(route_key, body).map_err(|_| Failure::Internal)?;
        let answer = self.invoke(&route.function, event).await.map_err(|error| match error {
            IntegrationError::TimedOut(_) => Failure::TimedOut,
            IntegrationError::Function | IntegrationError::Invoke(_) | IntegrationError::CutOff => Failure::Internal,
        })?;
        let answer = ProxyAnswer::parse(&answer).map_err(|error| {
            tracing::warn!(function.name = %route.function, "`{}`: {error}", route.function);
            Failure::Internal
        })?;
        Ok(Some(answer.body).filter(|body| route.route_response && !body.is_empty()))
    }
}

/// Why a message got no answer of a function's.
#[derive(Debug, Clone, Copy)]
enum Failure {
    NoRoute,
    Internal,
    TimedOut,
}

impl Failure {
    fn message(self) -> &'static str {
        match self {
            Self::NoRoute => "Forbidden",
            Self::Internal => "Internal server error",
            Self::TimedOut => "Endpoint request timed out",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::FORBIDDEN,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// The fields that lead to the route key within a message.
pub(super) fn parse_selection(expression: &str) -> Result<Vec<String>, ConfigError> {
    let bad = || ConfigError::RouteSelectionExpression(expression.to_owned());
    let bare = expression.strip_prefix("${").and_then(|inner| inner.strip_suffix('}'));
    let bare = bare.or_else(|| expression.strip_prefix('$')).ok_or_else(bad)?;
    let fields: Vec<String> =
        bare.strip_prefix("request.body.").ok_or_else(bad)?.split('.').map(str::to_owned).collect();
    if fields.iter().any(String::is_empty) { Err(bad()) } else { Ok(fields) }
}

fn selected_key(text: &str, selection: &[String]) -> Option<String> {
    let message: Value = serde_json::from_str(text).ok()?;
    let selected = selection.iter().try_fold(&message, |value, field| value.get(field))?;
    match selected {
        Value::String(key) => Some(key.clone()),
        Value::Number(_) | Value::Bool(_) => Some(selected.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_key_is_selected_by_a_field_of_the_body() {
        let cases = [
            ("$request.body.action", r#"{"action":"ping"}"#, Some("ping")),
            ("${request.body.action}", r#"{"action":"你好"}"#, Some("你好")),
            ("$request.body.a.b", r#"{"a":{"b":7}}"#, Some("7")),
            ("$request.body.action", r#"{"action":{"x":1}}"#, None),
            ("$request.body.action", r#"["action"]"#, None),
            ("$request.body.action", "hello", None),
            ("$request.body.action", "", None),
        ];
        for (expression, text, expected) in cases {
            let selection = parse_selection(expression).unwrap();
            assert_eq!(selected_key(text, &selection).as_deref(), expected, "{expression} {text}");
        }
        for expression in ["", "$request.header.action", "$request.body", "$request.body.", "request.body.action"] {
            let error = ConfigError::RouteSelectionExpression(expression.to_owned());
            assert_eq!(parse_selection(expression), Err(error));
        }
    }
}
