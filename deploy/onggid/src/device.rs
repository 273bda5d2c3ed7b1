//! `onggid device`: a storage device at rest, looked at and mended.

use anyhow::{Result, ensure};
use clap::Subcommand;
use onggi_common_host::SystemEntropy;
use onggi_object_device::{DeviceOptions, check, dump};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Look at every row of a device, and say what does not fit. Nothing is changed
    Check {
        /// The device's folder
        directory: PathBuf,
        /// Read every byte of every body too
        #[arg(long)]
        bytes: bool,
    },
    /// Print every object, container and account of a device, one a line
    Dump {
        /// The device's folder
        directory: PathBuf,
    },
    /// Build index and digests of a device anew from its rows
    Repair {
        /// The device's folder
        directory: PathBuf,
        /// The store is lost or damaged: put it aside and make a new one from the files of large bodies
        #[arg(long)]
        from_files: bool,
    },
}

/// Carries a command out. The device's node must not run.
///
/// # Errors
/// When the device is in use, is none, or cannot be read.
pub(crate) fn run(command: DeviceCommand) -> Result<ExitCode> {
    match command {
        DeviceCommand::Check { directory, bytes } => {
            let report = check::check(&directory, bytes)?;
            println!(
                "{} objects of {} bytes, {} traces of deletions, {} containers and accounts with {} records, {} files without a row",
                report.objects,
                report.bytes,
                report.tombstones,
                report.rosters,
                report.records,
                report.orphans
            );
            for problem in &report.problems {
                println!("wrong: {problem}");
            }
            println!("{} problems", report.problem_count);
            Ok(if report.problem_count == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        DeviceCommand::Dump { directory } => {
            dump::dump(&directory, &mut |line| println!("{line}"))?;
            Ok(ExitCode::SUCCESS)
        }
        DeviceCommand::Repair {
            directory,
            from_files: false,
        } => {
            check::repair(&directory)?;
            println!("index and digests are built anew");
            Ok(ExitCode::SUCCESS)
        }
        DeviceCommand::Repair {
            directory,
            from_files: true,
        } => {
            ensure!(directory.is_dir(), "{} is no folder", directory.display());
            let options = DeviceOptions {
                directory,
                reserve: None,
            };
            let rebuilt = check::rebuild_from_files(&options, &SystemEntropy)?;
            if let Some(aside) = &rebuilt.old_store {
                println!("the store that was there is now {}", aside.display());
            }
            println!(
                "{} objects of {} bytes have rows again; small ones, containers, accounts and deletions come from the peers",
                rebuilt.objects, rebuilt.bytes
            );
            for refused in &rebuilt.refused {
                println!("refused: {refused}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
