//! CORS: answers preflights and marks the answers a page may read.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use s3s::{Body, S3ErrorCode, S3Result};

use crate::config::CorsRule;

/// What a browser asks before, or tells with, a request of a page.
pub(crate) struct Origin {
    origin: String,
    method: String,
    headers: Vec<String>,
    is_preflight: bool,
}

impl Origin {
    /// `None` if the request does not come from a page of another origin.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let origin = text(header::ORIGIN)?.to_owned();
        let is_preflight = method == Method::OPTIONS;
        let wanted = text(header::ACCESS_CONTROL_REQUEST_METHOD).filter(|_| is_preflight);
        let headers = text(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|_| is_preflight).unwrap_or_default();
        Some(Self {
            origin,
            method: wanted.unwrap_or(method.as_str()).to_owned(),
            headers: headers.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            is_preflight,
        })
    }

    /// The headers of the first rule that allows the request; `None` if none does.
    pub(crate) fn headers(&self, rules: &[CorsRule]) -> Option<HeaderMap> {
        let rule = rules.iter().find(|rule| rule.allows(&self.origin, &self.method, &self.headers))?;
        let mut answer = HeaderMap::new();
        let mut set = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                answer.insert(name, value);
            }
        };
        if rule.allows_every_origin() {
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned());
        } else {
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
            set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true".to_owned());
        }
        set(header::ACCESS_CONTROL_ALLOW_METHODS, rule.allowed_methods.join(", "));
        if !rule.expose_headers.is_empty() {
            set(header::ACCESS_CONTROL_EXPOSE_HEADERS, rule.expose_headers.join(", "));
        }
        if self.is_preflight {
            if !self.headers.is_empty() {
                set(header::ACCESS_CONTROL_ALLOW_HEADERS, self.headers.join(", "));
            }
            if let Some(seconds) = rule.max_age_seconds {
                set(header::ACCESS_CONTROL_MAX_AGE, seconds.to_string());
            }
        }
        set(header::VARY, "Origin, Access-Control-Request-Headers, Access-Control-Request-Method".to_owned());
        Some(answer)
    }
}

/// The answer to `OPTIONS`; without a rule that allows it, the browser gets a refusal.
pub(crate) fn preflight(allowed: Option<HeaderMap>) -> S3Result<http::Response<Body>> {
    match allowed {
        Some(headers) => {
            let mut answer = http::Response::new(Body::empty());
            *answer.headers_mut() = headers;
            Ok(answer)
        }
        None => {
            let code = S3ErrorCode::Custom("AccessForbidden".into());
            let mut error = s3s::S3Error::with_message(code, "CORSResponse: This CORS request is not allowed.");
            error.set_status_code(StatusCode::FORBIDDEN);
            error.to_http_response()
        }
    }
}
