//! `integration/serve` and the guest tools: set-ups people and benchmarks start from.
#![expect(
    clippy::print_stdout,
    reason = "a command line tool speaks on standard output"
)]

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use onggi_common_units::ByteCount;
use onggi_integration::bench::{self, IscsiBench, ObjectsBench, OpenBench, RestBench};
use onggi_integration::guest::{self, Image, Sockets};
use onggi_integration::parse_size;
use onggi_integration::powercut::{control, objects, volume};
use onggi_integration::serve::{self, Cluster};
use onggi_integration::serve_target::{self, Target};
use onggi_integration::system::ObjectOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "onggi-integration",
    about = "Set-ups for tests, benchmarks and people who try things"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A QEMU guest with a shell.
    #[command(subcommand)]
    Guest(GuestCommand),
    /// The client of a power cut's recording, inside the guest.
    #[command(subcommand, hide = true)]
    Workload(WorkloadCommand),
    /// A set-up in the foreground: one JSON line when it is ready, an orderly end on SIGTERM.
    #[command(subcommand)]
    Serve(ServeCommand),
    /// How fast it is: medians of alternating runs.
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The iSCSI target beside tgtd, if that is installed, and beside bare TCP
    Iscsi(IscsiBench),
    /// The object store beside OpenStack Swift, if that is installed
    Objects(ObjectsBench),
    /// An object store that has nothing to do: what its replicators cost, and how soon it is back
    Rest(RestBench),
    /// A device with many objects: how long it takes to open
    Open(OpenBench),
}

#[derive(Debug, Subcommand)]
enum WorkloadCommand {
    /// Initiators that write to a volume
    Volume {
        /// The target's control socket
        #[arg(long)]
        socket: PathBuf,
        /// The target's portal
        #[arg(long)]
        portal: String,
        /// The disk
        #[arg(long)]
        disk: PathBuf,
        /// The file that is the volume; without it the volume is a region of the disk
        #[arg(long)]
        file: Option<PathBuf>,
        /// Where on the disk the marks go
        #[arg(long)]
        marks: u64,
        /// What the operations follow from
        #[arg(long)]
        seed: u64,
        /// Operations of each initiator
        #[arg(long)]
        operations: usize,
    },
    /// Clients of an object store
    Objects {
        /// The front door
        #[arg(long)]
        address: SocketAddr,
        /// The file with the store's process id
        #[arg(long)]
        pid_file: PathBuf,
        #[command(flatten)]
        work: Work,
    },
    /// Transactions on a control store
    Control {
        /// The store's folder
        #[arg(long)]
        store: PathBuf,
        #[command(flatten)]
        work: Work,
    },
}

#[derive(Debug, clap::Args)]
struct Work {
    /// The disk that takes the marks
    #[arg(long)]
    disk: PathBuf,
    /// Where on the disk the marks go
    #[arg(long)]
    marks: u64,
    /// What the operations follow from
    #[arg(long)]
    seed: u64,
    /// Operations of each client
    #[arg(long)]
    operations: usize,
}

#[derive(Debug, Subcommand)]
enum ServeCommand {
    /// One LUN behind the iSCSI target
    Target {
        /// The volume's size, for example 2G
        #[arg(long, default_value = "2G", value_parser = parse_size)]
        size: ByteCount,
        /// A file whose first line is user:secret; without it any initiator gets in
        #[arg(long)]
        chap_file: Option<PathBuf>,
        /// Portals, all on 127.0.0.1
        #[arg(long, default_value_t = 1)]
        portals: usize,
        /// file or lvm
        #[arg(long, default_value = "file")]
        pool: String,
        #[command(flatten)]
        place: Place,
    },
    /// An object cluster
    Cluster {
        /// Storage nodes, at 127.0.0.1, 127.0.0.2 and so on
        #[arg(long, default_value_t = 4)]
        nodes: usize,
        /// Devices of all nodes together
        #[arg(long, default_value_t = 4)]
        devices: usize,
        /// Copies of everything
        #[arg(long, default_value_t = 3)]
        replicas: usize,
        /// One process per role instead of one for all
        #[arg(long)]
        separate: bool,
        /// Encrypt objects at rest
        #[arg(long)]
        encryption: bool,
        #[command(flatten)]
        place: Place,
    },
    /// An object cluster with the users of Swift's own functional suite
    SwiftFunctional {
        /// Encrypt objects at rest
        #[arg(long)]
        encryption: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The port clients use; 0 for a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The state folder; a temporary one when none is given
    #[arg(long)]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum GuestCommand {
    /// Starts a guest and waits until its shell answers; prints QEMU's process id.
    Start {
        /// The folder integration/guest/build wrote to.
        #[arg(long)]
        image: PathBuf,
        /// The folder of the sockets NAME.qmp and NAME.shell.
        #[arg(long)]
        folder: PathBuf,
        /// The guest's name.
        name: String,
    },
    /// Runs one line of shell in the guest and ends with its status.
    Run {
        /// The folder of the sockets.
        #[arg(long)]
        folder: PathBuf,
        /// The guest's name.
        name: String,
        /// The command.
        command: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(status) => status,
        Err(error) => {
            println!("onggi-integration: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_cluster(cluster: Cluster) -> Result<ExitCode> {
    serve::cluster(cluster, |description| println!("{description}"))?;
    Ok(ExitCode::SUCCESS)
}

fn work(command: WorkloadCommand) -> Result<()> {
    match command {
        WorkloadCommand::Volume {
            socket,
            portal,
            disk,
            file,
            marks,
            seed,
            operations,
        } => {
            let place = volume::Place {
                socket,
                portal,
                disk,
                file,
                marks,
            };
            volume::run(&place, seed, operations)
        }
        WorkloadCommand::Objects {
            address,
            pid_file,
            work,
        } => {
            let place = objects::Place {
                address,
                pid_file,
                disk: work.disk,
                marks: work.marks,
            };
            objects::run(&place, work.seed, work.operations)
        }
        WorkloadCommand::Control { store, work } => {
            let place = control::Place {
                store,
                disk: work.disk,
                marks: work.marks,
            };
            control::run(&place, work.seed, work.operations)
        }
    }
}

fn run_bench(command: &BenchCommand) -> Result<ExitCode> {
    let print = |line: &str| println!("{line}");
    match command {
        BenchCommand::Iscsi(options) => bench::iscsi(options, print),
        BenchCommand::Objects(options) => bench::objects(options, print),
        BenchCommand::Rest(options) => bench::rest(options, print),
        BenchCommand::Open(options) => bench::open(options, print),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Workload(command) => work(command).map(|()| ExitCode::SUCCESS),
        Command::Serve(ServeCommand::Target {
            size,
            chap_file,
            portals,
            pool,
            place,
        }) => {
            let target = Target {
                size,
                chap_file,
                portals,
                pool,
                port: place.port,
                state: place.state,
            };
            serve_target::target(&target, |description| println!("{description}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve(ServeCommand::Cluster {
            nodes,
            devices,
            replicas,
            separate,
            encryption,
            place,
        }) => serve_cluster(Cluster {
            objects: ObjectOptions {
                nodes,
                devices,
                replicas,
                port: place.port,
                storage_domain: None,
                policies: &[],
            },
            separate,
            encryption,
            suite_users: false,
            state: place.state,
        }),
        Command::Serve(ServeCommand::SwiftFunctional { encryption, place }) => {
            serve_cluster(Cluster {
                objects: ObjectOptions {
                    nodes: 4,
                    devices: 4,
                    replicas: 3,
                    port: place.port,
                    storage_domain: Some("example.com"),
                    policies: &["gold", "silver"],
                },
                separate: false,
                encryption,
                suite_users: true,
                state: place.state,
            })
        }
        Command::Bench(command) => run_bench(&command),
        Command::Guest(command) => run_guest(command),
    }
}

fn run_guest(command: GuestCommand) -> Result<ExitCode> {
    match command {
        GuestCommand::Start {
            image,
            folder,
            name,
        } => {
            let disk = folder.join(format!("{name}.disk"));
            let file = std::fs::File::create(&disk).context("making the guest's disk")?;
            file.set_len(64 << 20).context("sizing the guest's disk")?;
            let pid = guest::leave_running(&Image::at(&image)?, &folder, &name, &disk)?;
            println!("{pid}");
            Ok(ExitCode::SUCCESS)
        }
        GuestCommand::Run {
            folder,
            name,
            command,
        } => {
            let answer = guest::run(&Sockets::of(&folder, &name), &command)?;
            print!("{}", answer.output);
            Ok(ExitCode::from(answer.status))
        }
    }
}
