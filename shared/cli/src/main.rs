//! `skylark`: runs the bundle on this machine, and manages it there or in the cloud.

mod api;
mod app;
mod args;
mod auth_card;
mod client;
mod confirm;
mod connector;
mod demo;
mod dlq;
mod download;
mod fault;
mod invoke;
mod lake;
mod lambda;
mod local_clock;
mod local_run;
mod stack;
mod upload;
mod webhook_key;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;

#[tokio::main]
async fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => fault::report(args.run().await),
        Err(usage) => fault::usage(&usage),
    }
}
