//! A long-lived subprocess that answers one line to each line it is given.
//!
//! Every answer has a time limit and a size limit. A process that misses either, ends, or talks out of turn is killed:
//! after that nothing it says could be matched to a question any more.

use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

const READ_BYTES: usize = 64 << 10;

/// How long a process whose output has ended is given to end itself, so that its own status is told.
const END_LIMIT: Duration = Duration::from_secs(2);

/// What went wrong in a dialogue. After any of these the process is gone.
#[derive(Debug, thiserror::Error)]
pub enum DialogueError {
    /// The program could not be started.
    #[error("starting {program}: {source}", program = program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be written to or read from.
    #[error("talking to {program}: {source}", program = program.display())]
    Pipe {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended instead of answering.
    #[error("{program} ended ({status}) instead of answering", program = program.display())]
    Ended {
        /// The program.
        program: PathBuf,
        /// Its exit status in words.
        status: String,
    },
    /// It did not answer in time.
    #[error("{program} did not answer within {limit:?} and was stopped", program = program.display())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// Its answer is too long, more than one line, or not text.
    #[error("{program} gave an answer that is {wrong} and was stopped", program = program.display())]
    Answer {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        wrong: &'static str,
    },
}

/// A running process that is asked line by line. It is killed when this is dropped.
#[derive(Debug)]
pub struct Dialogue {
    program: PathBuf,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    answer_bytes_max: usize,
}

impl Dialogue {
    /// Starts a program. Its standard error is this process's own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<A, E, N, V>(
        program: &Path,
        arguments: A,
        environment: E,
        answer_bytes_max: usize,
    ) -> Result<Self, DialogueError>
    where
        A: IntoIterator,
        A::Item: AsRef<OsStr>,
        E: IntoIterator<Item = (N, V)>,
        N: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let failed = |source| DialogueError::Start {
            program: program.to_owned(),
            source,
        };
        let arguments: Vec<OsString> = arguments
            .into_iter()
            .map(|a| a.as_ref().to_owned())
            .collect();
        let mut child = spawn(program, &arguments, environment).map_err(failed)?;
        let absent = || failed(io::Error::other("a pipe that was asked for is missing"));
        let stdin = child.stdin.take().ok_or_else(absent)?;
        let stdout = child.stdout.take().ok_or_else(absent)?;
        Ok(Self {
            program: program.to_owned(),
            child,
            stdin: Some(stdin),
            stdout,
            answer_bytes_max,
        })
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has not ended, as far as is known now.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Says one line and waits for the one that answers it. Blocks.
    ///
    /// # Errors
    /// When there is no proper answer within the limits. The process is gone then.
    pub fn ask(&mut self, line: &str, limit: Duration) -> Result<String, DialogueError> {
        let outcome = self.say(line).and_then(|()| self.listen(limit));
        if outcome.is_err() {
            self.kill();
        }
        outcome
    }

    fn say(&mut self, line: &str) -> Result<(), DialogueError> {
        debug_assert!(!line.contains('\n'), "a question is one line");
        let outcome = match &mut self.stdin {
            Some(stdin) => stdin.write_all(format!("{line}\n").as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        match outcome {
            // That it ended says more than that its pipe is closed.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(self.ended()),
            outcome => outcome.map_err(|source| self.pipe(source)),
        }
    }

    fn listen(&mut self, limit: Duration) -> Result<String, DialogueError> {
        let deadline = Instant::now() + limit;
        let mut answer = Vec::new();
        let mut chunk = vec![0; READ_BYTES];
        loop {
            self.wait_readable(deadline, limit)?;
            let count = match self.stdout.read(&mut chunk) {
                Ok(0) => return Err(self.ended()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(self.pipe(source)),
            };
            answer.extend_from_slice(&chunk[..count]);
            if answer.len() > self.answer_bytes_max {
                return Err(self.wrong("too long"));
            }
            match chunk[..count].iter().position(|byte| *byte == b'\n') {
                None => {}
                Some(end) if end + 1 == count => break,
                Some(_) => return Err(self.wrong("more than one line")),
            }
        }
        answer.pop();
        String::from_utf8(answer).map_err(|_bytes| self.wrong("not text"))
    }

    fn wait_readable(&self, deadline: Instant, limit: Duration) -> Result<(), DialogueError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left =
                Timespec::try_from(left).map_err(|error| self.pipe(io::Error::other(error)))?;
            let mut descriptors = [PollFd::new(&self.stdout, PollFlags::IN)];
            match rustix::event::poll(&mut descriptors, Some(&left)) {
                Ok(0) => {
                    return Err(DialogueError::TimedOut {
                        program: self.program.clone(),
                        limit,
                    });
                }
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.pipe(errno.into())),
            }
        }
    }

    /// Ends the dialogue in good order: its input is closed, and it is given time to end by itself.
    pub fn close(mut self, limit: Duration) {
        self.stdin = None;
        // Its end shows as the end of its output; whatever else happens, dropping kills what is left.
        drop(self.listen(limit));
    }

    fn ended(&mut self) -> DialogueError {
        // Its pipe is closed, so it has ended or is about to; killing makes sure that waiting ends.
        self.await_end(END_LIMIT);
        let status = match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) | Err(_) => {
                self.kill_group();
                self.child.wait()
            }
        };
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        DialogueError::Ended {
            program: self.program.clone(),
            status,
        }
    }

    /// Waits until the process has ended or the limit is reached. Where that cannot be waited for it is not.
    fn await_end(&self, limit: Duration) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let handle = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        if let (Some(handle), Ok(limit)) = (handle, Timespec::try_from(limit)) {
            let mut descriptors = [PollFd::new(&handle, PollFlags::IN)];
            // Interrupted means a shorter wait, no more.
            let _ended: Option<usize> = rustix::event::poll(&mut descriptors, Some(&limit)).ok();
        }
    }

    fn pipe(&self, source: io::Error) -> DialogueError {
        DialogueError::Pipe {
            program: self.program.clone(),
            source,
        }
    }

    fn wrong(&self, wrong: &'static str) -> DialogueError {
        DialogueError::Answer {
            program: self.program.clone(),
            wrong,
        }
    }

    fn kill(&mut self) {
        self.stdin = None;
        self.kill_group();
        // It fails only for a process that was waited for already.
        drop(self.child.wait());
    }

    /// Kills the process and what it has started in its group. Only before it is waited for: after that the number may
    /// be another group's.
    fn kill_group(&mut self) {
        let is_waited_for = matches!(self.child.try_wait(), Ok(Some(_)));
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| !is_waited_for) {
            // It fails only for a group that is gone already.
            let _gone: Option<()> = rustix::process::kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        self.kill();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "every answer of this subprocess has its limits, as `run` has for whole ones"
)]
fn spawn<N: AsRef<OsStr>, V: AsRef<OsStr>>(
    program: &Path,
    arguments: &[OsString],
    environment: impl IntoIterator<Item = (N, V)>,
) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    Command::new(program)
        .args(arguments)
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        // A process group of its own: a terminal's Ctrl-C must not cut its work in half.
        .process_group(0)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [(&str, &str); 0] = [];
    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Dialogue {
        Dialogue::start(Path::new("/bin/sh"), ["-c", script], NONE, 1_000).unwrap()
    }

    #[test]
    fn each_line_gets_its_answer() {
        let mut dialogue = shell("while read line; do echo \"got $line\"; done");
        assert_eq!(dialogue.ask("one", SOON).unwrap(), "got one");
        assert_eq!(dialogue.ask("two", SOON).unwrap(), "got two");
        dialogue.close(SOON);
    }

    #[test]
    fn a_process_that_ends_says_how() {
        let mut dialogue = shell("read line; exit 7");
        let error = dialogue.ask("one", SOON).unwrap_err();
        assert!(
            matches!(&error, DialogueError::Ended { status, .. } if status.contains('7')),
            "{error}"
        );
        assert!(dialogue.ask("two", SOON).is_err());
    }

    #[test]
    fn silence_ends_in_the_time_limit_and_the_process_is_gone() {
        let mut dialogue = shell("exec sleep 1000");
        let pid = dialogue.pid();
        let error = dialogue.ask("one", Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, DialogueError::TimedOut { .. }), "{error}");
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn an_answer_past_the_limit_or_out_of_turn_is_refused() {
        for (script, wrong) in [
            ("read line; head -c 2000 /dev/zero; sleep 1000", "too long"),
            (
                "read line; printf 'a\\nb\\n'; sleep 1000",
                "more than one line",
            ),
            ("read line; printf '\\377\\n'; sleep 1000", "not text"),
        ] {
            let error = shell(script).ask("one", SOON).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Dialogue::start(Path::new("/nowhere/worker"), NONE.map(|(a, _)| a), NONE, 1)
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere/worker"), "{error}");
    }
}
