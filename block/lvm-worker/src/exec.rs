//! LVM commands as runs of the `lvm` program.

use core::time::Duration;
use onggi_block_pool::lvm::protocol::{Request, Response, STATUS_NOT_STARTED, STATUS_TIMED_OUT};
use onggi_common_host::run::{Output, Run, RunError};

/// Where Debian and others put it; the bare name is for systems that put it elsewhere.
const PROGRAMS: [&str; 3] = ["/sbin/lvm", "/usr/sbin/lvm", "lvm"];

/// Runs one command.
pub(crate) fn run(request: Request) -> Response {
    let program = PROGRAMS
        .into_iter()
        .find(|program| std::path::Path::new(program).exists())
        .unwrap_or("lvm");
    let limit = Duration::from_millis(request.limit_ms);
    let outcome = Run::new(program)
        .args(&request.args)
        .time_limit(limit)
        .output();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (status, stdout, log) = match outcome {
        Ok(Output { stdout, stderr }) => (0, text(&stdout), text(&stderr)),
        Err(RunError::Failed {
            code: Some(code),
            stderr,
            stdout,
            ..
        }) => (code, text(&stdout), stderr),
        Err(error @ RunError::TimedOut { .. }) => {
            (STATUS_TIMED_OUT, String::new(), error.to_string())
        }
        Err(error) => (STATUS_NOT_STARTED, String::new(), error.to_string()),
    };
    Response {
        id: request.id,
        status,
        stdout,
        log,
    }
}
