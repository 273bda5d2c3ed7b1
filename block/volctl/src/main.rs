//! The block command line: a client of the public volume API, and what attaches volumes to this host and its guests.

mod attach;
mod cli;
mod client;
mod commands;
mod config;
mod connector;
mod environment;
mod http;
mod intent;
mod session;
mod table;

use anyhow::{Context as _, Result};
use attach::Attaching;
use clap::Parser as _;
use cli::{Cli, Command};
use client::Client;
use environment::Variables;
use session::Session;
use std::io::Write as _;
use std::process::ExitCode;
use table::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let as_json = cli.json;
    let outcome = if matches!(cli.command, Command::ServeAttachment) {
        // It outlives the command that started it and needs no service: no credentials, no runtime.
        onggi_block_initiator::attach::local::serve_attachment().map_err(anyhow::Error::from)
    } else {
        run(cli).and_then(|output| print(&output, as_json))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn print(output: &Output, as_json: bool) -> Result<()> {
    output.text(as_json).map_or(Ok(()), |text| say(&text))
}

/// Writes a text and a line's end to standard output.
fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        // `volctl list | head` closes the pipe early, and that is fine.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("writing the output"),
    }
}

/// Says something on standard error; when that is closed there is nobody to tell.
fn notice(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "volctl: {text}"));
}

fn complain(error: &anyhow::Error) {
    if error.is::<commands::Said>() {
        return;
    }
    notice(&format!("{error:#}"));
}

fn run(cli: Cli) -> Result<Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting")?;
    runtime.block_on(execute(cli))
}

async fn execute(cli: Cli) -> Result<Output> {
    let variables = Variables::load(notice)?;
    let client = Client::new(Session::open(variables.credentials()?).await?);
    let attaching = Attaching {
        client: &client,
        variables: &variables,
        config: cli.config.as_deref(),
    };
    match cli.command {
        Command::Create(request) => commands::create(&client, request).await,
        Command::List(request) => commands::list(&client, request).await,
        Command::Show(request) => commands::show(&client, &request.volume).await,
        Command::Delete(request) => commands::delete(&client, &request, say, complain).await,
        Command::Extend(request) => {
            let remark = |id: &str| {
                attaching
                    .remark_on_size(id)
                    .iter()
                    .for_each(|text| notice(text))
            };
            commands::extend(&client, request, remark).await
        }
        Command::Set(request) => commands::set(&client, request).await,
        Command::Rename(request) => {
            let request = cli::Set {
                volume: request.volume,
                name: Some(request.name),
                description: None,
                metadata: Vec::new(),
            };
            commands::set(&client, request).await
        }
        Command::Service(cli::Listing::List) => commands::services(&client).await,
        Command::Pool(cli::Listing::List) => commands::pools(&client).await,
        Command::Type(cli::Listing::List) => commands::types(&client).await,
        Command::Attach(request) => attaching.attach(request).await,
        Command::Detach(request) => attaching.detach(request).await,
        // It was started instead of a client, see `main`.
        Command::ServeAttachment => Ok(Output::Nothing),
    }
}
