//! Measures what is deployed against the budgets of the design, and says which hold.

mod aws;
mod build;
mod callback;
mod case;
mod chat;
mod click;
mod cost;
mod delivery;
mod functions;
mod process;
mod report;
mod runtime_api;
mod server;
mod sockets;
mod stack;
mod tokens;
mod upload;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::functions::Plan;

#[derive(Parser)]
#[command(about = "Measures Skylark against its budgets; exit code 1 if one does not hold")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// CPU time to verify, decrypt and parse one card click
    Callback,
    /// What a message costs function and table, how long a list of a thousand conversations takes, and all that `sockets` measures
    Chat {
        /// Where the release binary lies already; without it it is built
        #[arg(long)]
        binaries: Option<PathBuf>,
        /// Messages of each of eight clients
        #[arg(long, default_value_t = 2_500, value_parser = clap::value_parser!(u32).range(1..))]
        messages: u32,
    },
    /// What a million of each thing costs, and how many cells a rate of messages needs
    Cost {
        #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1..))]
        messages_per_minute: u32,
        /// Open sockets that a message goes to
        #[arg(long, default_value_t = 2)]
        recipients: u32,
    },
    /// A card click through a whole local bundle: latency, and the AWS requests it costs
    Click {
        /// Where release binaries of `skylark` and every function lie already; without it they are built
        #[arg(long)]
        binaries: Option<PathBuf>,
        /// Clicks one after another, and as many again eight at a time
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        clicks: u32,
    },
    /// A token for a call: one that is known, and the first one where a hundred callers want it at once
    Tokens {
        /// Where release binaries of `skylark` and every function lie already; without it they are built
        #[arg(long)]
        binaries: Option<PathBuf>,
    },
    /// Readers over simulated losses, duplicates, reordering and crashes: each message once, in order
    Delivery {
        /// How many messages readers are shown
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
        deliveries: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Files of 1 and 2 GiB by `skylark upload`, and the import of a thousand chunks: requests to S3, times, memory
    Upload {
        /// Where release binaries of `skylark` and every function lie already; without it they are built
        #[arg(long)]
        binaries: Option<PathBuf>,
    },
    /// Init, memory, latency and size of each function, beside a hello-world in the same run
    Functions {
        /// Only these; all without one
        names: Vec<String>,
        /// Where release binaries lie already, `hello` among them; without it they are built
        #[arg(long)]
        binaries: Option<PathBuf>,
        /// Starts of each binary, taken in turns
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
        /// Events that each function handles
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
        events: u32,
    },
    /// Latency from a commit to sockets, and messages a second, through a local bundle
    Sockets,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let measured: Result<(String, bool), String> = match Arguments::parse().benchmark {
        Benchmark::Callback => match callback::measure() {
            Some(cost) => Ok((cost.to_string(), cost.holds())),
            None => Err("the click is not accepted".to_owned()),
        },
        Benchmark::Chat { binaries, messages } => match chat::measure(&chat::Plan { binaries, messages }).await {
            Ok(figures) => {
                let sockets = sockets::measure().await;
                Ok((format!("{figures}\n\n{sockets}"), figures.holds() && sockets.holds()))
            }
            Err(error) => Err(domain::fault::chain(&error)),
        },
        Benchmark::Cost { messages_per_minute, recipients } => {
            Ok((cost::Paper::of(messages_per_minute, recipients).to_string(), true))
        }
        Benchmark::Click { binaries, clicks } => match click::measure(binaries, clicks).await {
            Ok(clicks) => Ok((clicks.to_string(), clicks.holds())),
            Err(error) => Err(domain::fault::chain(&error)),
        },
        Benchmark::Tokens { binaries } => match tokens::measure(binaries).await {
            Ok(costs) => Ok((costs.to_string(), costs.holds())),
            Err(error) => Err(domain::fault::chain(&error)),
        },
        Benchmark::Delivery { deliveries, seed } => {
            let report = delivery::measure(deliveries, seed).await;
            Ok((report.to_string(), report.holds()))
        }
        Benchmark::Sockets => {
            let report = sockets::measure().await;
            Ok((report.to_string(), report.holds()))
        }
        Benchmark::Upload { binaries } => match upload::measure(binaries).await {
            Ok(report) => Ok((report.to_string(), report.holds())),
            Err(error) => Err(domain::fault::chain(&error)),
        },
        Benchmark::Functions { names, binaries, runs, events } => {
            match functions::measure(&Plan { names, binaries, runs, events }).await {
                Ok(report) => Ok((report.to_string(), report.holds())),
                Err(error) => Err(domain::fault::chain(&error)),
            }
        }
    };
    let (printed, code) = match measured {
        Ok((report, true)) => (writeln!(io::stdout(), "{report}"), ExitCode::SUCCESS),
        Ok((report, false)) => (writeln!(io::stdout(), "{report}"), ExitCode::FAILURE),
        Err(error) => (writeln!(io::stderr(), "error: {error}"), ExitCode::from(2)),
    };
    if printed.is_ok() { code } else { ExitCode::from(2) }
}
