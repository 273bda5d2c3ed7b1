//! Bounded subprocesses: every program that is started has a time limit and a limit on what it may print.

use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Instant;

/// What a program may print on each of its two outputs, unless told otherwise.
pub const OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// A program to run, with its limits.
#[derive(Debug, Clone)]
pub struct Run {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Vec<u8>,
    time_limit: Duration,
    output_bytes_max: u64,
}

/// What a program that ended with status 0 printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// A program that did not do its work. Arguments are not part of it: they may name what should not be logged.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("starting {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// Its pipes or its end could not be read.
    #[error("talking to {program}: {source}")]
    Pipe {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ran longer than allowed and was killed.
    #[error("{program} did not end within {limit:?} and was stopped")]
    TimedOut {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It ended with another status than 0.
    #[error("{program} ended with {status}: {stderr}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit code; `None` when a signal ended it.
        code: Option<i32>,
        /// Its status in words.
        status: String,
        /// The end of its standard error.
        stderr: String,
        /// Its standard output, whole.
        stdout: Vec<u8>,
    },
}

impl Run {
    /// A run of `program` without arguments, limited to 60 s and 4 MiB of output.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            input: Vec::new(),
            time_limit: Duration::from_secs(60),
            output_bytes_max: OUTPUT_BYTES_MAX,
        }
    }

    /// One more argument. Secrets do not belong here: every user can read a process's arguments.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    /// One environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What the program reads from its standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Another time limit.
    #[must_use]
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// Runs the program to its end. Blocks.
    ///
    /// # Errors
    /// When it cannot be started, ends with another status than 0, or runs into its time limit.
    pub fn output(self) -> Result<Output, RunError> {
        let mut child = self.start()?;
        let deadline = Instant::now() + self.time_limit;
        let outcome = self.converse(&mut child, deadline);
        if outcome.is_err() {
            // It may have ended already; what matters is that it does not stay.
            drop(child.kill());
            drop(child.wait());
        }
        let (status, stdout, stderr) = outcome?;
        if status.success() {
            return Ok(Output { stdout, stderr });
        }
        Err(RunError::Failed {
            program: self.name(),
            code: status.code(),
            status: describe(status),
            stderr: tail(&stderr),
            stdout,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place the ban on Command::new points to"
    )]
    fn start(&self) -> Result<Child, RunError> {
        Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A process group of its own: a terminal's Ctrl-C must not cut an LVM command in half.
            .process_group(0)
            .spawn()
            .map_err(|source| RunError::Start {
                program: self.name(),
                source,
            })
    }

    fn converse(
        &self,
        child: &mut Child,
        deadline: Instant,
    ) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), RunError> {
        let pipe = |source: io::Error| RunError::Pipe {
            program: self.name(),
            source,
        };
        let absent = || io::Error::other("a pipe that was asked for is missing");
        let mut stdin = child.stdin.take().ok_or_else(absent).map_err(pipe)?;
        let stdout = child.stdout.take().ok_or_else(absent).map_err(pipe)?;
        let stderr = child.stderr.take().ok_or_else(absent).map_err(pipe)?;
        let input = self.input.clone();
        // A program that does not read its input ends the pipe; its status then says more than that error.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
        let out = collect(stdout, self.output_bytes_max);
        let err = collect(stderr, self.output_bytes_max);
        let timed_out = || RunError::TimedOut {
            program: self.name(),
            limit: self.time_limit,
        };
        let receive = |channel: mpsc::Receiver<io::Result<Vec<u8>>>| {
            let left = deadline.saturating_duration_since(Instant::now());
            channel
                .recv_timeout(left)
                .ok()
                .ok_or_else(timed_out)?
                .map_err(pipe)
        };
        let (stdout, stderr) = (receive(out)?, receive(err)?);
        loop {
            if let Some(status) = child.try_wait().map_err(pipe)? {
                return Ok((status, stdout, stderr));
            }
            if Instant::now() >= deadline {
                return Err(timed_out());
            }
            // Both outputs are closed, so the end is near; there is no portable wait with a time limit.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn collect(
    mut from: impl Read + Send + 'static,
    bytes_max: u64,
) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let outcome = from
            .by_ref()
            .take(bytes_max)
            .read_to_end(&mut bytes)
            // The rest is read and dropped: a full pipe would keep the program from ending.
            .and_then(|_| io::copy(&mut from, &mut io::sink()))
            .map(|_| bytes);
        // The receiver is gone only when the time limit was reached.
        drop(sender.send(outcome));
    });
    receiver
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let start = text
        .char_indices()
        .rev()
        .nth(1_023)
        .map_or(0, |(index, _)| index);
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let output = Run::new("cat").input("jar").output().unwrap();
        assert_eq!(output.stdout, b"jar");
    }

    #[test]
    fn a_failure_carries_status_and_message() {
        let error = Run::new("sh")
            .args(["-c", "echo broken >&2; exit 3"])
            .output()
            .unwrap_err();
        assert!(
            matches!(&error, RunError::Failed { code: Some(3), stderr, .. } if stderr == "broken"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_stopped() {
        let run = Run::new("sleep")
            .arg("60")
            .time_limit(Duration::from_millis(50));
        assert!(matches!(run.output(), Err(RunError::TimedOut { .. })));
    }

    #[test]
    fn output_past_the_limit_is_cut_and_the_program_still_ends() {
        let mut run = Run::new("sh").args(["-c", "head -c 300000 /dev/zero"]);
        run.output_bytes_max = 1_000;
        assert_eq!(run.output().unwrap().stdout.len(), 1_000);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Run::new("/nowhere/lvm").output().unwrap_err();
        assert!(error.to_string().contains("/nowhere/lvm"), "{error}");
    }
}
