//! The lake over the local S3, through a socket that fails at will, and over a folder; and what other readers of Delta make of it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too, and tells what it saw"
)]

mod append;
mod crash;
mod evolution;
mod judges;
mod log;
mod maintenance;
mod races;
mod support;
