//! CORS as API Gateway does it: preflights are answered here, and the answers of functions lose their own CORS headers.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    },
};

use crate::error::ConfigError;

/// `CorsConfiguration` of an HTTP API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cors {
    /// `https://app.example`, `*`, `http://*` or `https://*`.
    pub allow_origins: Vec<String>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    /// Not together with the origin `*`.
    pub allow_credentials: bool,
    /// Whole seconds are sent.
    pub max_age: Option<Duration>,
}

impl Cors {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let every_origin = self.allow_origins.iter().any(|origin| origin == "*");
        if self.allow_credentials && every_origin { Err(ConfigError::CredentialsForEveryOrigin) } else { Ok(()) }
    }

    pub(crate) fn is_preflight(method: &Method, request: &HeaderMap) -> bool {
        method == Method::OPTIONS && request.contains_key(ORIGIN) && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The headers of the answer to a preflight; none for an origin that is not allowed.
    pub(crate) fn preflight_headers(&self, request: &HeaderMap) -> HeaderMap {
        let mut headers = self.origin_headers(request);
        if headers.is_empty() {
            return headers;
        }
        put(&mut headers, ACCESS_CONTROL_ALLOW_METHODS, &self.allow_methods);
        put(&mut headers, ACCESS_CONTROL_ALLOW_HEADERS, &self.allow_headers);
        if let Some(age) = self.max_age {
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
        }
        headers
    }

    /// Replaces whatever CORS headers a function has set by the configured ones.
    pub(crate) fn apply(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        let own: Vec<HeaderName> =
            answer.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
        for name in own {
            answer.remove(name);
        }
        let mut headers = self.origin_headers(request);
        if !headers.is_empty() {
            put(&mut headers, ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose_headers);
        }
        answer.extend(headers);
    }

    fn origin_headers(&self, request: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some(origin) = request.get(ORIGIN) else { return headers };
        let matches = |allowed: &&String| match allowed.strip_suffix("://*") {
            Some(scheme) => origin.to_str().is_ok_and(|origin| {
                origin.split_once("://").is_some_and(|(used, host)| used == scheme && !host.is_empty())
            }),
            None => *allowed == "*" || allowed.as_bytes() == origin.as_bytes(),
        };
        let Some(allowed) = self.allow_origins.iter().find(matches) else { return headers };
        let answered = if allowed == "*" { HeaderValue::from_static("*") } else { origin.clone() };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, answered);
        if self.allow_credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, values: &[String]) {
    if let (false, Ok(value)) = (values.is_empty(), HeaderValue::from_str(&values.join(","))) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_allowed_by_name_by_scheme_or_always() {
        let cases = [
            ("https://a.example", "https://a.example", Some("https://a.example")),
            ("https://a.example", "https://b.example", None),
            ("https://a.example", "http://a.example", None),
            ("*", "http://b.example", Some("*")),
            ("https://*", "https://b.example", Some("https://b.example")),
            ("https://*", "http://b.example", None),
            ("https://*", "https://", None),
        ];
        for (allowed, origin, expected) in cases {
            let cors = Cors { allow_origins: vec![allowed.to_owned()], ..Cors::default() };
            let request = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
            let headers = cors.origin_headers(&request);
            let found = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{allowed} {origin}");
        }
    }

    #[test]
    fn credentials_for_every_origin_are_refused() {
        let cors = Cors { allow_origins: vec!["*".to_owned()], allow_credentials: true, ..Cors::default() };
        assert_eq!(cors.check(), Err(ConfigError::CredentialsForEveryOrigin));
    }
}
