//! The object command line: the verbs of `swift`, fast.
//!
//! Exit codes: 0 when everything was done, 1 when something was not, 2 when the command line is wrong.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod credentials;
mod http1;
mod login;
mod output;
mod progress;
mod segments;
mod store;
mod transfer;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(arguments)),
        Err(error) => Err(anyhow::Error::new(error).context("starting the runtime")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}
