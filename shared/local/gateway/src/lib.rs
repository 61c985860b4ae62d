//! API Gateway on one machine: an HTTP API (payload format 2.0) and a WebSocket API with `@connections`, in AWS's shapes.
//!
//! Functions are called through [`local_lambda::Invoker`]. What a request may do, what a function receives and what a client
//! sees follow API Gateway; only TLS, request signatures, throttling and the caching of authorizer results are left out.

mod access;
mod authorizer;
mod error;
mod http_api;
mod integration;
mod server;
mod source;
#[cfg(test)]
mod tests;
mod websocket;

pub use access::{AccessRecord, Observer};
pub use authorizer::Authorizer;
pub use error::ConfigError;
pub use http_api::{Cors, HttpApi, HttpApiConfig, HttpRoute};
pub use server::Peer;
pub use websocket::{
    ConnectionInfo, Connections, ConnectionsError, Identity, WebSocketApi, WebSocketConfig, WebSocketLimits,
    WebSocketRoute,
};
