//! A subprocess that outlives the one that starts it: told what to do on its standard input, ready when it says so.
//!
//! Its standard input is a pipe, so that secrets are in no argument list and in no environment. Its standard error is
//! a file. It is expected to leave its starter's session by itself (`setsid`).

use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

/// The longest first line.
pub const LINE_BYTES_MAX: usize = 4096;

/// Why a helper is not there.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It could not be started.
    #[error("starting {program}: {source}", program = program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be talked to.
    #[error("talking to {program}: {source}", program = program.display())]
    Pipe {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended, or closed its output, before it said anything.
    #[error("{program} ended before it was ready", program = program.display())]
    Ended {
        /// The program.
        program: PathBuf,
    },
    /// It said nothing in time.
    #[error("{program} was not ready within {limit:?}", program = program.display())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// The limit.
        limit: Duration,
    },
}

/// A helper that was started. It is killed when this is dropped, unless it was released.
#[derive(Debug)]
pub struct Helper {
    program: PathBuf,
    child: Option<Child>,
}

impl Helper {
    /// Starts a program and writes `input` to its standard input, which is then closed.
    ///
    /// # Errors
    /// When it cannot be started or does not take its input.
    #[expect(
        clippy::disallowed_methods,
        reason = "a process that outlives us is no bounded run"
    )]
    pub fn start<T: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = T>,
        input: &[u8],
        log: File,
    ) -> Result<Self, HelperError> {
        let child = Command::new(program)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|source| HelperError::Start {
                program: program.to_owned(),
                source,
            })?;
        let mut helper = Self {
            program: program.to_owned(),
            child: Some(child),
        };
        let stdin = helper.child.as_mut().and_then(|child| child.stdin.take());
        if let Some(mut stdin) = stdin {
            stdin.write_all(input).map_err(|source| HelperError::Pipe {
                program: program.to_owned(),
                source,
            })?;
        }
        Ok(helper)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Waits for the first line it says, without the line's end.
    ///
    /// # Errors
    /// When it ends, says nothing in time, or says too much.
    pub fn first_line(&mut self, limit: Duration) -> Result<String, HelperError> {
        let program = self.program.clone();
        let stdout = self.child.as_mut().and_then(|child| child.stdout.as_mut());
        let Some(stdout) = stdout else {
            return Err(HelperError::Ended { program });
        };
        let deadline = Instant::now() + limit;
        let mut line = Vec::new();
        while line.len() < LINE_BYTES_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_ready = wait(stdout, left).map_err(|source| HelperError::Pipe {
                program: program.clone(),
                source,
            })?;
            if !is_ready {
                return Err(HelperError::TimedOut { program, limit });
            }
            let mut byte = [0];
            match stdout.read(&mut byte) {
                Ok(0) => return Err(HelperError::Ended { program }),
                Ok(_) if byte == *b"\n" => break,
                Ok(_) => line.extend_from_slice(&byte),
                Err(source) => return Err(HelperError::Pipe { program, source }),
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Lets it live on. It is waited for in the background, so that no dead process stays while this one lives.
    pub fn release(mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdout.take());
            std::thread::spawn(move || child.wait().ok());
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; what matters is that it does not stay.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn wait(stdout: &ChildStdout, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut descriptors = [PollFd::new(stdout, PollFlags::IN)];
    match rustix::event::poll(&mut descriptors, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> File {
        tempfile::tempfile().unwrap()
    }

    fn shell(script: &str, input: &[u8]) -> Helper {
        Helper::start(Path::new("/bin/sh"), ["-c", script], input, log()).unwrap()
    }

    #[test]
    fn a_helper_is_told_and_says_when_it_is_ready() {
        let mut helper = shell("read word; echo \"ready $word\"; exec sleep 60", b"jar\n");
        assert_eq!(
            helper.first_line(Duration::from_secs(10)).unwrap(),
            "ready jar"
        );
        let path = format!("/proc/{}", helper.id());
        assert!(Path::new(&path).exists());
        drop(helper);
        assert!(
            !Path::new(&path).exists(),
            "what is not released does not stay"
        );
    }

    #[test]
    fn a_helper_that_dies_or_is_silent_is_an_error() {
        let died = shell("exit 1", b"").first_line(Duration::from_secs(10));
        assert!(matches!(died, Err(HelperError::Ended { .. })));
        let silent = shell("exec sleep 60", b"").first_line(Duration::from_millis(20));
        assert!(matches!(silent, Err(HelperError::TimedOut { .. })));
        let missing = Helper::start(Path::new("/nowhere"), [""; 0], b"", log());
        assert!(matches!(missing, Err(HelperError::Start { .. })));
    }
}
