//! The pool's side of the LVM worker: a warm process that is asked one command at a time.
//!
//! One thread owns the process for as long as the pool lives. It must be that thread which starts it: the worker asks
//! the kernel to end it with its starter, and the kernel means the thread. A worker that dies is replaced at the next
//! command; the command it died in has an unknown outcome and is not repeated here.

use crate::lvm::error::LvmError;
use crate::lvm::protocol::{ANSWER_BYTES_MAX, Request, Response, command_line};
use core::time::Duration;
use onggi_common_host::dialogue::Dialogue;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

/// How many callers may wait in line before the next one waits to get into it.
const QUEUE_LENGTH_MAX: usize = 64;

/// After so many commands the worker is replaced: the library loses some memory with each.
const COMMANDS_PER_PROCESS_MAX: u32 = 1_000;

/// What a worker is given beyond a command's own limit to say that the limit was reached.
const GRACE: Duration = Duration::from_secs(3);

/// How to start a worker.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The program `onggi-lvm-worker`.
    pub program: PathBuf,
    /// Whether it runs `lvm` for each command instead of the library.
    pub as_program: bool,
    /// The directory with its lvm.conf.
    pub system_dir: PathBuf,
    /// How long a command may take.
    pub time_limit: Duration,
}

/// A worker, started at the first command.
#[derive(Debug)]
pub struct Worker {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    args: Vec<String>,
    answer: SyncSender<Result<Response, LvmError>>,
}

impl Worker {
    /// Prepares a worker.
    #[must_use]
    pub fn new(options: WorkerOptions) -> Self {
        let (jobs, waiting) = mpsc::sync_channel(QUEUE_LENGTH_MAX);
        let keeper = Keeper {
            options,
            dialogue: None,
            commands: 0,
            next_id: 0,
        };
        let thread = std::thread::spawn(move || keeper.serve(&waiting));
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    /// Runs a command and gives what it printed. Blocks.
    ///
    /// # Errors
    /// When it fails, or when the worker does not say how it went.
    pub fn run<I>(&self, args: I) -> Result<String, LvmError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let args: Vec<String> = args.into_iter().map(Into::into).collect();
        command_line(&args)?;
        let command = args.first().cloned().unwrap_or_default();
        let response = self.ask(args)?;
        if response.status == 0 {
            return Ok(response.stdout);
        }
        Err(LvmError::Command {
            command,
            status: response.status,
            log: complaints(&response.log),
        })
    }

    /// Runs a command and gives its answer, whatever its status.
    ///
    /// # Errors
    /// When the worker does not say how it went.
    pub fn ask(&self, args: Vec<String>) -> Result<Response, LvmError> {
        let (answer, receiver) = mpsc::sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or(LvmError::Stopped)?;
        jobs.send(Job { args, answer })
            .ok()
            .ok_or(LvmError::Stopped)?;
        receiver.recv().ok().ok_or(LvmError::Stopped)?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It panics only where a test shows it anyway.
            drop(thread.join());
        }
    }
}

/// What LVM complained about, without what it says each time.
fn complaints(log: &str) -> String {
    let is_noise = |line: &str| {
        line.starts_with("WARNING: Activation disabled")
            || line.ends_with("This metadata update is NOT backed up.")
    };
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !is_noise(line))
        .collect();
    lines.join("; ")
}

/// The thread that owns the process.
struct Keeper {
    options: WorkerOptions,
    dialogue: Option<Dialogue>,
    commands: u32,
    next_id: u64,
}

impl Keeper {
    fn serve(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            let outcome = self.run(job.args);
            if outcome.is_err() {
                self.dialogue = None;
            }
            // The caller waits for it unless it panicked.
            drop(job.answer.send(outcome));
        }
        if let Some(dialogue) = self.dialogue.take() {
            dialogue.close(GRACE);
        }
    }

    fn run(&mut self, args: Vec<String>) -> Result<Response, LvmError> {
        let limit = self.options.time_limit;
        self.next_id += 1;
        let id = self.next_id;
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let line =
            serde_json::to_string(&Request { id, args, limit_ms }).map_err(LvmError::Answer)?;
        let answer = self.worker()?.ask(&line, limit.saturating_add(GRACE))?;
        let response: Response = serde_json::from_str(&answer).map_err(LvmError::Answer)?;
        if response.id == id {
            Ok(response)
        } else {
            Err(LvmError::OutOfTurn {
                asked: id,
                answered: response.id,
            })
        }
    }

    fn worker(&mut self) -> Result<&mut Dialogue, LvmError> {
        self.commands += 1;
        let worn = self.commands > COMMANDS_PER_PROCESS_MAX;
        let usable = self.dialogue.take().and_then(|mut dialogue| {
            if worn {
                dialogue.close(GRACE);
                return None;
            }
            dialogue.is_running().then_some(dialogue)
        });
        let dialogue = match usable {
            Some(dialogue) => dialogue,
            None => self.start()?,
        };
        Ok(self.dialogue.insert(dialogue))
    }

    fn start(&mut self) -> Result<Dialogue, LvmError> {
        self.commands = 1;
        let arguments: &[&str] = if self.options.as_program {
            &["--exec"]
        } else {
            &[]
        };
        let system_dir = self.options.system_dir.as_os_str();
        let environment = [
            ("LVM_SYSTEM_DIR", system_dir),
            ("LVM_SUPPRESS_FD_WARNINGS", "1".as_ref()),
            ("LC_ALL", "C".as_ref()),
        ];
        Ok(Dialogue::start(
            &self.options.program,
            arguments,
            environment,
            ANSWER_BYTES_MAX,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripted(dir: &tempfile::TempDir, script: &str, limit: Duration) -> Worker {
        let program = dir.path().join("worker");
        let source = dir.path().join("source");
        let text = format!("#!/bin/sh\n{script}");
        onggi_common_host::durable::replace(
            &source,
            text.as_bytes(),
            onggi_common_host::durable::Visibility::World,
        )
        .unwrap();
        // Another process makes the program: if this one had it open for writing, a test that forks at that moment would
        // keep it open, and nobody could run it (ETXTBSY).
        let install = onggi_common_host::run::Run::new("install").args(["-m", "755"]);
        install.arg(&source).arg(&program).output().unwrap();
        Worker::new(WorkerOptions {
            program,
            as_program: false,
            system_dir: dir.path().to_owned(),
            time_limit: limit,
        })
    }

    #[test]
    fn a_worker_that_dies_is_replaced_at_the_next_command() {
        let dir = tempfile::tempdir().unwrap();
        let script = "read line; id=${line#*:}; id=${id%%,*}\n\
                      [ -e \"$LVM_SYSTEM_DIR/again\" ] || { : > \"$LVM_SYSTEM_DIR/again\"; exit 9; }\n\
                      echo \"{\\\"id\\\":$id,\\\"status\\\":0,\\\"stdout\\\":\\\"here\\\",\\\"log\\\":\\\"\\\"}\"; read line";
        let worker = scripted(&dir, script, Duration::from_secs(20));
        let error = worker.run(["vgs"]).unwrap_err();
        assert!(
            matches!(error, LvmError::Worker(_)) && error.is_passing(),
            "{error}"
        );
        assert_eq!(worker.run(["vgs"]).unwrap(), "here");
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let script =
            "read line; echo '{\"id\":77,\"status\":0,\"stdout\":\"\",\"log\":\"\"}'; read line";
        let worker = scripted(&dir, script, Duration::from_secs(20));
        assert!(matches!(
            worker.run(["vgs"]),
            Err(LvmError::OutOfTurn {
                asked: 1,
                answered: 77
            })
        ));
    }

    #[test]
    fn a_command_that_cannot_be_expressed_never_reaches_the_worker() {
        let dir = tempfile::tempdir().unwrap();
        let worker = scripted(&dir, "exit 1", Duration::from_secs(20));
        assert!(matches!(
            worker.run(["lvs", "a\nb"]),
            Err(LvmError::Word(_))
        ));
    }

    #[test]
    fn what_lvm_always_says_is_left_out_of_complaints() {
        let log = "  WARNING: Activation disabled. No device-mapper interaction will be attempted.\n  Volume group \"x\" not found\n";
        assert_eq!(complaints(log), "Volume group \"x\" not found");
    }
}
