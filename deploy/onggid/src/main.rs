//! `onggid`: the daemon. It parses, wires and runs; rules live in the crates it composes.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program speaks on its standard streams"
)]

mod check;
mod device;
mod exports;
mod locate;
mod object_key;
mod ring;
mod roles;
mod state;
mod status;
mod supervise;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use onggi_common_service::{Config, Drain, telemetry};
use state::StateFolder;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Debug, Parser)]
#[command(
    name = "onggid",
    version,
    about = "Onggi: volumes as Cinder serves them, objects as Swift serves them"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// The configuration file
    #[arg(long, default_value = "/etc/onggi/onggi.toml")]
    config: PathBuf,
}

/// What every process of the system takes.
#[derive(Debug, Clone, clap::Args)]
struct Process {
    #[command(flatten)]
    common: Common,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    supervised: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start and supervise every process the configuration names
    Run {
        #[command(flatten)]
        common: Common,
        /// Everything in one process: for trying things and for tests
        #[arg(long)]
        single_process: bool,
    },
    /// The control process: identity, volume API, volume manager
    Control(Process),
    /// The iSCSI target
    Target(Process),
    /// The front door of the object store
    Proxy(Process),
    /// One storage node
    Node {
        #[command(flatten)]
        process: Process,
        /// The node's address, as the configuration names it
        #[arg(long)]
        address: SocketAddr,
    },
    /// Check the configuration and say what it would run
    CheckConfig(Common),
    /// Show what runs and whether it answers
    Status {
        #[command(flatten)]
        common: Common,
        /// Wait so long until everything answers, for example 30s
        #[arg(long, value_parser = status::parse_seconds)]
        wait: Option<core::time::Duration>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The pool of volumes
    #[command(subcommand)]
    Pool(PoolCommand),
    /// The volumes the iSCSI target serves, and who uses them
    #[command(subcommand)]
    Export(exports::ExportCommand),
    /// Objects, seen from the storage nodes
    #[command(subcommand)]
    Object(ObjectCommand),
    /// A storage device whose node does not run: check, dump, repair
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Make and change rings, as swift-ring-builder does; it reads and writes Swift's own files
    Ring(Box<ring::RingArguments>),
}

#[derive(Debug, Subcommand)]
enum ObjectCommand {
    /// Show where an object should be by the ring, and which devices hold it
    Locate {
        #[command(flatten)]
        common: Common,
        /// ACCOUNT/CONTAINER/OBJECT, for example AUTH_test/c1/FILE
        path: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a root secret for encryption at rest: in a new file, or as the last one of a file that is there
    NewKey {
        /// The key file, as `object.encryption.key_file` names it
        file: PathBuf,
        /// What the secret is called; default: a random name
        #[arg(long)]
        id: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum PoolCommand {
    /// Give the pool's loop device back to the system. Volumes stay in the backing file; the next start attaches it again
    Release(Common),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // A process of the system that cannot start says so by its status, so that the supervisor does not try for ever.
    let failure = match command {
        Command::Control(_) | Command::Target(_) | Command::Proxy(_) | Command::Node { .. } => {
            supervise::EXIT_CANNOT_START
        }
        Command::Run { .. }
        | Command::CheckConfig(_)
        | Command::Status { .. }
        | Command::Pool(_)
        | Command::Export(_)
        | Command::Object(_)
        | Command::Device(_)
        | Command::Ring(_) => 1,
    };
    match dispatch(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("onggid: {}", told(&error));
            ExitCode::from(failure)
        }
    }
}

/// An error and its causes, each said once: many an error's own text ends with its cause.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run {
            common,
            single_process,
        } => run(&common, single_process),
        Command::Control(process) => one_process(
            &process,
            |_| processors(),
            |config, drain| async move { roles::control(&config, &drain).await },
        ),
        Command::Target(process) => one_process(
            &process,
            |_| processors(),
            |config, drain| async move { roles::target(&config, &drain).await },
        ),
        Command::Proxy(process) => one_process(
            &process,
            |_| processors(),
            |config, drain| async move { roles::proxy(&config, Arc::default(), &drain).await },
        ),
        Command::Node { process, address } => {
            let threads = move |config: &Config| node_threads(config, address);
            one_process(&process, threads, move |config, drain| async move {
                roles::node(&config, address, None, &drain).await
            })
        }
        Command::CheckConfig(common) => {
            let config = Config::load(&common.config)?;
            if let Some(object) = &config.object {
                roles::secrets::keymaster(object)?;
            }
            check::realms(&config)?;
            println!("{}", check::describe(&config));
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { common, wait, json } => {
            status::show(&Config::load(&common.config)?, wait, json)
        }
        Command::Pool(PoolCommand::Release(common)) => {
            roles::pool::release(&Config::load(&common.config)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Export(command) => {
            exports::run(command)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Device(command) => device::run(command),
        Command::Ring(arguments) => Ok(ring::run(*arguments)),
        Command::Object(ObjectCommand::NewKey { file, id }) => {
            let made = object_key::make(&file, id.as_deref())?;
            println!("{made}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Object(ObjectCommand::Locate { common, path, json }) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(locate::show(&Config::load(&common.config)?, &path, json))
        }
    }
}

fn load(common: &Common) -> Result<Config> {
    let config = Config::load(&common.config)?;
    telemetry::start(&config.log.level, config.log.format)?;
    Ok(config)
}

fn run(common: &Common, single_process: bool) -> Result<ExitCode> {
    let config = load(common)?;
    check::realms(&config)?;
    let folder = StateFolder::hold(&config.state)?;
    roles::prepare(&config)?;
    if single_process {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(async {
            let drain = Drain::new();
            drain.on_signals().context("installing signal handlers")?;
            roles::all(&config, &folder, &drain).await?;
            Ok(ExitCode::SUCCESS)
        });
    }
    // One thread: children ask the kernel to be ended with the thread that made them, so that must be the main one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let drain = Drain::new();
        drain.on_signals().context("installing signal handlers")?;
        supervise::run(&config, &common.config, folder, &drain).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The threads a node's requests are carried on by, as far as they need no disk: one for two devices, as many as there
/// are processors at most. More would wake each other for nothing.
fn node_threads(config: &Config, address: SocketAddr) -> usize {
    let nodes = config.object.iter().flat_map(|object| &object.nodes);
    let devices: usize = nodes
        .filter(|node| node.address == address)
        .map(|node| node.devices.len())
        .sum();
    devices.div_ceil(2).clamp(1, processors())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, core::num::NonZero::get)
}

fn one_process<F: Future<Output = Result<()>>>(
    process: &Process,
    threads: impl FnOnce(&Config) -> usize,
    role: impl FnOnce(Config, Drain) -> F,
) -> Result<ExitCode> {
    if process.supervised {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .context("asking to end with the supervisor")?;
    }
    let config = load(&process.common)?;
    StateFolder::open(&config.state)?;
    roles::prepare(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads(&config))
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let drain = Drain::new();
        drain.on_signals().context("installing signal handlers")?;
        role(config, drain).await
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("the jar is cracked");
        let error = anyhow::Error::new(cause)
            .context("opening the jar: the jar is cracked")
            .context("starting");
        assert_eq!(
            told(&error),
            "starting: opening the jar: the jar is cracked"
        );
    }
}
