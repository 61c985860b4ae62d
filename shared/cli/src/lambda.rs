//! Calls functions of a bundle: of a local one at its endpoint, of a deployed one at Lambda's.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use lambda_kit::clock;
use reqwest::Client;

use crate::fault::CliFault;

/// Longer than any function of the bundle may run.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The functions of one bundle.
#[derive(Debug, Clone)]
pub(crate) struct Functions {
    endpoint: String,
    aws: SdkConfig,
    http: Client,
}

/// What a function answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: String,
    /// The function ended in an error, which the body tells.
    pub(crate) failed: bool,
}

impl Functions {
    /// Those behind the endpoint that the configuration names, else those of its region.
    pub(crate) fn new(aws: &SdkConfig) -> Result<Self, CliFault> {
        let region = aws.region().map(ToString::to_string).unwrap_or_default();
        let endpoint =
            aws.endpoint_url().map_or_else(|| format!("https://lambda.{region}.amazonaws.com"), str::to_owned);
        let http = Client::builder().timeout(PATIENCE).build();
        let http = http.map_err(|cause| CliFault::storage("no HTTP client", cause))?;
        Ok(Self { endpoint, aws: aws.clone(), http })
    }

    /// Calls a function, by its name, and waits for its answer.
    pub(crate) async fn invoke(&self, name: &str, event: Vec<u8>) -> Result<Answer, CliFault> {
        let url = format!("{}/2015-03-31/functions/{name}/invocations", self.endpoint);
        let mut request = http::Request::post(&url).header("content-type", "application/json").body(event);
        if let Ok(request) = &mut request {
            self.sign(request).await?;
        }
        let request = request.map_err(|cause| CliFault::storage("a function's name makes no URL", cause))?;
        let request = reqwest::Request::try_from(request);
        let request = request.map_err(|cause| CliFault::storage("a function's name makes no URL", cause))?;
        let lost = |cause| CliFault::storage(format!("function `{name}` cannot be called"), cause);
        let answer = self.http.execute(request).await.map_err(lost)?;
        let (status, failed) = (answer.status(), answer.headers().contains_key("x-amz-function-error"));
        let body = answer.text().await.map_err(lost)?;
        match status.as_u16() {
            200..=299 => Ok(Answer { body, failed }),
            401 | 403 => Err(CliFault::Permission { context: format!("function `{name}`"), cause: body.into() }),
            404 => Err(CliFault::Argument(body)),
            _ => Err(CliFault::storage(format!("function `{name}` was not called: {status}"), body)),
        }
    }

    async fn sign(&self, request: &mut http::Request<Vec<u8>>) -> Result<(), CliFault> {
        let refused =
            |cause: Box<dyn std::error::Error + Send + Sync>| CliFault::storage("the call cannot be signed", cause);
        let provider = self.aws.credentials_provider();
        let provider = provider.ok_or_else(|| refused("there are no credentials".into()))?;
        let identity = provider.provide_credentials().await.map_err(|cause| refused(cause.into()))?.into();
        let region = self.aws.region().map(ToString::to_string).unwrap_or_default();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&region)
            .name("lambda")
            .time(SystemTime::from(clock::now()))
            .settings(SigningSettings::default())
            .build()
            .map_err(|cause| refused(cause.into()))?;
        let headers = request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let uri = request.uri().to_string();
        let signable = SignableRequest::new("POST", uri, headers, SignableBody::Bytes(request.body()));
        let signable = signable.map_err(|cause| refused(cause.into()))?;
        let (signing, _) = sign(signable, &parameters.into()).map_err(|cause| refused(cause.into()))?.into_parts();
        signing.apply_to_request_http1x(request);
        Ok(())
    }
}
