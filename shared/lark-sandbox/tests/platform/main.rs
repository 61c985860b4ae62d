//! The sandbox over HTTP, as an app, a person and a developer meet it.

#![expect(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod application;
mod callbacks;
mod durability;
mod faults;
mod messages;
mod oauth;
mod pages;
mod receiver;
mod stage;
mod tokens;
