//! The Lark/Feishu wire protocol: callbacks in, answers and cards out, OAuth, the vendor's codes; feature `client` adds the HTTP calls.
//!
//! Nothing here reads a clock, randomness or the environment; without the feature `client` nothing does any I/O either.

pub mod answer;
pub mod callback;
pub mod card;
#[cfg(feature = "client")]
pub mod client;
pub mod code;
pub mod event;
pub mod oauth;
#[cfg(feature = "client")]
pub mod outlet;
#[cfg(feature = "client")]
pub mod proxy;
pub mod signature;
#[cfg(feature = "client")]
pub mod vendor;
mod wire;
