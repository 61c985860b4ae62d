//! API Gateway on one machine: HTTP API (payload v2) and WebSocket API with `@connections`.
