//! `onggid export`: what the target serves, to whom, and how to send initiators elsewhere before work on this host.

use crate::roles;
use anyhow::{Context as _, Result};
use clap::Subcommand;
use core::time::Duration;
use onggi_block_target::{Client, ExportStatus};
use onggi_common_service::Config;
use serde::Serialize;

/// What can be asked of the target.
#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// Show the exported volumes
    List {
        #[command(flatten)]
        common: crate::Common,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show who is logged in
    Sessions {
        #[command(flatten)]
        common: crate::Common,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take no new sessions and ask those there are to log out; in force until `serve` or a restart of the target
    Drain {
        #[command(flatten)]
        common: crate::Common,
        /// The volume's id or its target's name; without it, all volumes
        volume: Option<String>,
        /// Where initiators are sent: HOST:PORT; without it they are told to come again
        #[arg(long)]
        to: Option<String>,
        /// How long sessions have to log out before they are cut, at most 30s
        #[arg(long, value_parser = crate::status::parse_seconds, default_value = "10s")]
        within: Duration,
    },
    /// Take sessions again
    Serve {
        #[command(flatten)]
        common: crate::Common,
        /// The volume's id or its target's name; without it, all volumes
        volume: Option<String>,
    },
}

/// Carries a command out and prints what came of it.
///
/// # Errors
/// When the target does not run, knows no such volume, or its sessions do not end in time.
pub(crate) fn run(command: ExportCommand) -> Result<()> {
    match command {
        ExportCommand::List { common, json } => {
            let exports = client(&common)?.exports()?;
            if json {
                return print_json(&exports);
            }
            for export in &exports {
                println!("{}", line(export));
            }
        }
        ExportCommand::Sessions { common, json } => {
            let mut sessions = client(&common)?.sessions()?;
            sessions.sort_by(|one, other| {
                (&one.iqn, &one.initiator).cmp(&(&other.iqn, &other.initiator))
            });
            if json {
                return print_json(&sessions);
            }
            for session in &sessions {
                println!(
                    "{}  {}  from {}  at {}",
                    session.iqn, session.initiator, session.peer, session.portal
                );
            }
        }
        ExportCommand::Drain {
            common,
            volume,
            to,
            within,
        } => {
            let client = client(&common)?;
            let name = volume.map(|volume| find(&client, &volume)).transpose()?;
            client.drain(name.as_deref(), to.as_deref(), within)?;
            println!(
                "{} drained: no session is left, and none is let in until `onggid export serve`",
                name.as_deref().unwrap_or("All volumes are")
            );
        }
        ExportCommand::Serve { common, volume } => {
            let client = client(&common)?;
            let name = volume.map(|volume| find(&client, &volume)).transpose()?;
            client.serve(name.as_deref())?;
            println!(
                "{} served again",
                name.as_deref().unwrap_or("All volumes are")
            );
        }
    }
    Ok(())
}

fn client(common: &crate::Common) -> Result<Client> {
    let config = Config::load(&common.config)?;
    config
        .block
        .as_ref()
        .context("the configuration has no [block], so there is no target")?;
    Ok(Client::new(roles::target_socket(&config)))
}

fn print_json(told: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(told)?);
    Ok(())
}

fn line(export: &ExportStatus) -> String {
    let state = export.trouble.as_deref().unwrap_or("served");
    format!(
        "{}  lun {}  {}  sessions {}  {state}",
        export.iqn, export.lun, export.size, export.sessions
    )
}

// The name of the target of a volume, which may be given by either.
fn find(client: &Client, volume: &str) -> Result<String> {
    let exports = client.exports()?;
    exports
        .into_iter()
        .find(|export| export.iqn == volume || export.volume.to_string() == volume)
        .map(|export| export.iqn)
        .with_context(|| {
            format!("{volume} is not exported; `onggid export list` shows what is (a volume is exported while it is attached)")
        })
}
