//! `skylark invoke`: one function, once.

use std::path::PathBuf;

use clap::Args;
use local::Settings;

use crate::args::Place;
use crate::fault::{CliFault, say};
use crate::lambda::Functions;
use crate::local_run::{StartArgs, start};
use crate::stack::{local_config, running};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  skylark invoke health-check --event events/health-check/health.json")]
pub(crate) struct InvokeArgs {
    /// Its folder under functions/, its logical id in the template, or its name.
    function: String,
    /// JSON that the trigger would send.
    #[arg(long)]
    event: PathBuf,
    /// Take function binaries from this folder instead of building them.
    #[arg(long)]
    binaries: Option<PathBuf>,
}

/// Runs the function in the bundle that runs on the data folder, or in one that is started for it and stopped again. Prints what the
/// function answers; a function error is exit code 1.
pub(crate) async fn run(place: &Place, args: InvokeArgs) -> Result<(), CliFault> {
    let event = std::fs::read(&args.event)
        .map_err(|cause| CliFault::Argument(format!("`--event` {}: {cause}", args.event.display())))?;
    serde_json::from_slice::<serde_json::Value>(&event)
        .map_err(|cause| CliFault::Argument(format!("`--event` {} is not JSON: {cause}", args.event.display())))?;
    if let Ok(settings) = running(place) {
        return invoke(&settings, &args.function, event).await;
    }
    let bundle = start(place, StartArgs::for_one(&args.function, args.binaries)).await?;
    let result = invoke(bundle.settings(), &args.function, event).await;
    bundle.shutdown().await;
    result
}

async fn invoke(settings: &Settings, function: &str, event: Vec<u8>) -> Result<(), CliFault> {
    let answer = Functions::new(&local_config(settings).await)?.invoke(function, event).await?;
    say(answer.body);
    if answer.failed { Err(CliFault::Failed(format!("function `{function}` failed"))) } else { Ok(()) }
}
