//! Open sockets behind the domain's port: API Gateway's `@connections`.

use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_apigatewaymanagement::Client;
use aws_sdk_apigatewaymanagement::config::retry::RetryConfig;
use aws_sdk_apigatewaymanagement::config::timeout::TimeoutConfig;
use aws_sdk_apigatewaymanagement::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_apigatewaymanagement::operation::delete_connection::DeleteConnectionError;
use aws_sdk_apigatewaymanagement::operation::post_to_connection::PostToConnectionError;
use aws_sdk_apigatewaymanagement::primitives::Blob;
use domain::fault::PortFault;
use domain::id::ConnectionId;
use domain::socket::{PostFault, Sockets};

/// How long one try may take: a client that does not read is not waited for.
const TRY: Duration = Duration::from_millis(500);

/// A post that was throttled, failed or took too long is tried once more, after half of this on average.
const PAUSE: Duration = Duration::from_millis(50);

/// Sockets of one API and stage.
#[derive(Debug, Clone)]
pub struct ApiGatewaySockets {
    client: Client,
}

/// An address that is none of a WebSocket API.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the address of a WebSocket API: `wss://<host>/<stage>`")]
pub struct BadAddress(String);

impl ApiGatewaySockets {
    /// `address` is where clients connect.
    pub fn new(config: &SdkConfig, address: &str) -> Result<Self, BadAddress> {
        let endpoint = match address.split_once("://") {
            Some(("wss", rest)) => format!("https://{rest}"),
            Some(("ws", rest)) => format!("http://{rest}"),
            _ => return Err(BadAddress(address.to_owned())),
        };
        let config = aws_sdk_apigatewaymanagement::config::Builder::from(config)
            .endpoint_url(endpoint)
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(TRY).build())
            .retry_config(RetryConfig::standard().with_max_attempts(2).with_initial_backoff(PAUSE))
            .build();
        Ok(Self { client: Client::from_conf(config) })
    }
}

#[async_trait]
impl Sockets for ApiGatewaySockets {
    async fn post(&self, connection_id: &ConnectionId, frame: &str) -> Result<(), PostFault> {
        let request = self.client.post_to_connection().connection_id(connection_id.as_str());
        match request.data(Blob::new(frame)).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Err(PostFault::Gone),
            Err(error) => Err(PostFault::Busy(Box::new(error))),
        }
    }

    async fn close(&self, connection_id: &ConnectionId) -> Result<(), PortFault> {
        match self.client.delete_connection().connection_id(connection_id.as_str()).send().await {
            Ok(_) => Ok(()),
            Err(error) if has_ended(&error) => Ok(()),
            Err(error) => Err(PortFault::Unavailable { operation: "DeleteConnection", cause: error.into() }),
        }
    }
}

/// API Gateway says so with a name, or with the status alone. An id that it never gave is gone as well.
fn is_gone(error: &SdkError<PostToConnectionError>) -> bool {
    let named = matches!(error.as_service_error(), Some(PostToConnectionError::GoneException(_)));
    named || is_bad_id(error.as_service_error().and_then(|error| error.code())) || status(error) == Some(410)
}

fn has_ended(error: &SdkError<DeleteConnectionError>) -> bool {
    let named = matches!(error.as_service_error(), Some(DeleteConnectionError::GoneException(_)));
    named || is_bad_id(error.as_service_error().and_then(|error| error.code())) || status(error) == Some(410)
}

fn is_bad_id(code: Option<&str>) -> bool {
    code == Some("BadRequestException")
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}
