//! Runs LVM commands one at a time: a JSON request a line on standard input, a JSON answer a line on standard output.
//!
//! A program of its own, because liblvm2cmd keeps process-wide state, allows one thread, and may end its process: what
//! it takes down here is this worker alone, and the pool starts the next one. It ends when its input closes, after the
//! command it is at, or when the program that started it dies. With `--exec`, or where the library was missing at
//! build time, each command is a run of `lvm`; the answers are the same.

mod exec;
#[cfg(lvm2cmd_available)]
mod library;
mod streams;

use onggi_block_pool::lvm::protocol::{Request, Response, STATUS_NOT_STARTED, command_line};
use rustix::process::Signal;
use std::io::{self, BufRead, BufReader, Read};
use std::process::ExitCode;
use streams::Streams;

/// What one request may have: far more than 63 words of LVM's tag length.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// Why the worker ended.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("unknown argument {0:?}; only --exec is known")]
    Argument(String),
    #[error("{action}: {source}")]
    Io {
        action: &'static str,
        source: io::Error,
    },
    #[error("a request that is none: {0}")]
    Request(serde_json::Error),
    #[error("an answer that cannot be written down: {0}")]
    Response(serde_json::Error),
    #[cfg(lvm2cmd_available)]
    #[error("liblvm2cmd gave no handle")]
    Library,
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> WorkerError {
    move |source| WorkerError::Io { action, source }
}

/// Whatever runs commands.
enum Lvm {
    #[cfg(lvm2cmd_available)]
    Library(library::Library),
    Program,
}

impl Lvm {
    fn new(as_program: bool) -> Result<Self, WorkerError> {
        #[cfg(lvm2cmd_available)]
        if !as_program {
            return library::Library::open()
                .map(Self::Library)
                .ok_or(WorkerError::Library);
        }
        #[cfg(not(lvm2cmd_available))]
        let _: bool = as_program;
        Ok(Self::Program)
    }

    fn run(&mut self, request: Request, streams: &mut Streams) -> Result<Response, WorkerError> {
        let line = match command_line(&request.args) {
            Ok(line) => line,
            Err(error) => return Ok(refused(request.id, &error.to_string())),
        };
        match self {
            #[cfg(lvm2cmd_available)]
            Self::Library(library) => {
                let status = library.run(&line);
                let (stdout, log) = streams.take().map_err(io_error("reading LVM's output"))?;
                Ok(Response {
                    id: request.id,
                    status,
                    stdout,
                    log,
                })
            }
            Self::Program => {
                let (_, _): (&String, &mut Streams) = (&line, streams);
                Ok(exec::run(request))
            }
        }
    }
}

fn refused(id: u64, why: &str) -> Response {
    Response {
        id,
        status: STATUS_NOT_STARTED,
        stdout: String::new(),
        log: why.to_owned(),
    }
}

fn work() -> Result<(), WorkerError> {
    let mut as_program = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--exec" => as_program = true,
            _ => return Err(WorkerError::Argument(argument)),
        }
    }
    // The starter closes the pipe when it ends in good order; this is for when it does not. LVM blocks signals while
    // it changes metadata, so that a change is finished first.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|errno| io_error("asking to end with the starter")(errno.into()))?;
    let mut streams = Streams::redirect().map_err(io_error("setting standard streams aside"))?;
    let mut requests = BufReader::new(streams.requests().map_err(io_error("opening the input"))?);
    let mut lvm = Lvm::new(as_program)?;
    let mut line = String::new();
    loop {
        line.clear();
        let count = requests
            .by_ref()
            .take(REQUEST_BYTES_MAX)
            .read_line(&mut line);
        if count.map_err(io_error("reading a request"))? == 0 {
            return Ok(());
        }
        let request: Request = serde_json::from_str(&line).map_err(WorkerError::Request)?;
        let response = lvm.run(request, &mut streams)?;
        let mut answer = serde_json::to_vec(&response).map_err(WorkerError::Response)?;
        answer.push(b'\n');
        streams.answer(&answer).map_err(io_error("answering"))?;
    }
}

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            streams::complain(&format!("onggi-lvm-worker: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
