//! The rules of Skylark and the ports they need: no I/O, no clock, no randomness, no environment.

pub mod access;
pub mod app;
pub mod authorize;
pub mod channel;
pub mod chat;
pub mod clock;
pub mod event;
pub mod fault;
pub mod id;
pub mod inbox;
pub mod job;
pub mod lake;
pub mod limit;
pub mod oauth;
pub mod push;
pub mod seal;
pub mod session;
pub mod socket;
pub mod tenant_token;
pub mod token;
pub mod upload;
pub mod user_sync;
pub mod user_tokens;
pub mod work;
