//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::fault::CliFault;
use crate::stack::Stack;
use crate::{app, auth_card, client, connector, demo, dlq, download, invoke, lake, local_run, upload, webhook_key};

/// Lark apps, chat and message data on AWS Lambda: run the bundle here, or manage a deployed one.
#[derive(Debug, Parser)]
#[command(name = "skylark", version, max_term_width = 120)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which bundle a command is about.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Place {
    /// Data folder of a local bundle.
    #[arg(long, global = true, env = "SKYLARK_DATA", default_value = ".skylark")]
    pub(crate) data: PathBuf,
    /// Name of a deployed CloudFormation stack, instead of a local bundle.
    #[arg(long, global = true)]
    pub(crate) stack: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run template.yaml on this machine.
    Local(local_run::LocalArgs),
    /// Run one function once, as `sam local invoke` does.
    Invoke(invoke::InvokeArgs),
    /// Manage Lark apps.
    #[command(subcommand)]
    App(app::AppCommand),
    /// Manage clients of the API.
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Manage the sources of webhooks and their keys.
    #[command(subcommand)]
    WebhookKey(webhook_key::WebhookKeyCommand),
    /// Look into the lake, send again what was kept aside, and ask for what is due.
    #[command(subcommand)]
    Lake(lake::LakeCommand),
    /// Manage what the channels of conversations lead to.
    #[command(subcommand)]
    Connector(connector::ConnectorCommand),
    /// Ask a person to authorize an app, by card.
    AuthCard(auth_card::AuthCardArgs),
    /// Look at what failed to the end; put it back, or forget it.
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Send a file to a conversation, or go on sending it.
    Upload(Box<upload::UploadArgs>),
    /// Get a file of a conversation, or go on getting it.
    Download(download::DownloadArgs),
    /// Live the whole story against a local bundle, starting one if none runs.
    Demo(demo::DemoArgs),
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), CliFault> {
        let place = self.place;
        match self.command {
            Command::Local(args) => local_run::run(&place, args).await,
            Command::Invoke(args) => invoke::run(&place, args).await,
            Command::App(command) => app::run(&Stack::find(&place).await?, command).await,
            Command::Client(command) => client::run(&Stack::find(&place).await?, command).await,
            Command::WebhookKey(command) => webhook_key::run(&Stack::find(&place).await?, command).await,
            Command::Lake(command) => lake::run(&place, command).await,
            Command::Connector(command) => connector::run(&Stack::find(&place).await?, command).await,
            Command::AuthCard(args) => auth_card::run(&Stack::find(&place).await?, args).await,
            Command::Dlq(command) => dlq::run(&place, command).await,
            Command::Upload(args) => upload::run(&place, *args).await,
            Command::Download(args) => download::run(&place, args).await,
            Command::Demo(args) => demo::run(&place, args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Args;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
