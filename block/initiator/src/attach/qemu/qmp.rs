//! QMP: one JSON object per line over a Unix socket; answers in order, events in between.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onggi_common_host::{Clock, SystemClock};

/// How long QEMU has to answer: a login to a target that is away takes a while.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// The longest line.
const LINE_BYTES_MAX: u64 = 16 << 20;
/// The most events that are kept.
const EVENTS_MAX: usize = 1024;

/// Why a guest cannot be given a disk, or have it taken away.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nothing answers.
    #[error("no guest answers at {socket}: {source} (is it running, with `-qmp unix:{socket},server=on,wait=off`?)", socket = socket.display())]
    NoGuest {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU does not answer any more.
    #[error("QEMU did not answer {command}: {source}")]
    Broken {
        /// What it was asked.
        command: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What answers is not QEMU.
    #[error("what answers is not QEMU: {source}")]
    NotQemu {
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// QEMU says no.
    #[error("QEMU refused {command}: {message}")]
    Refused {
        /// What it was asked.
        command: &'static str,
        /// QEMU's class of the error.
        class: String,
        /// Its words.
        message: String,
    },
    /// QEMU could not log in to the target.
    #[error("the guest's QEMU cannot use the volume: {message}")]
    Target {
        /// QEMU's words.
        message: String,
    },
    /// There is no portal to log in to.
    #[error("the volume has no portal")]
    NoPortal,
    /// There is no slot that can be plugged into.
    #[error(
        "the guest has no free slot (q35 needs a free pcie-root-port made at start): {message}"
    )]
    NoSlot {
        /// QEMU's words.
        message: String,
    },
    /// The guest keeps the disk.
    #[error("the guest did not let go of {device} within {limit:?}: is it mounted there?")]
    GuestHolds {
        /// The disk.
        device: String,
        /// The limit.
        limit: Duration,
    },
}

/// A connection to a guest's QMP socket.
#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    events: Vec<Value>,
}

fn broken(command: &'static str) -> impl FnOnce(io::Error) -> QmpError {
    move |source| QmpError::Broken { command, source }
}

impl Qmp {
    pub(super) fn connect(socket: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(socket).map_err(|source| QmpError::NoGuest {
            socket: socket.to_owned(),
            source,
        })?;
        let timeout = Some(ANSWER_TIME_MAX);
        stream
            .set_read_timeout(timeout)
            .and_then(|()| stream.set_write_timeout(timeout))
            .map_err(broken("connect"))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            events: Vec::new(),
        };
        // The greeting; QEMU serves one client at a time, so it may take until another one is done.
        qmp.read("greeting")?;
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Sends a command and waits for its answer.
    pub(super) fn execute(
        &mut self,
        command: &'static str,
        arguments: &Value,
    ) -> Result<Value, QmpError> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let line = format!("{request}\n");
        self.reader
            .get_mut()
            .write_all(line.as_bytes())
            .map_err(broken(command))?;
        loop {
            let mut answer = self.read(command)?;
            if answer.get("event").is_some() {
                self.keep(answer);
            } else if let Some(error) = answer.get("error") {
                let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
                let (class, message) = (text("class"), text("desc"));
                return Err(QmpError::Refused {
                    command,
                    class,
                    message,
                });
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    fn keep(&mut self, event: Value) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
    }

    fn read(&mut self, command: &'static str) -> Result<Value, QmpError> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(LINE_BYTES_MAX);
        let count = limited
            .read_until(b'\n', &mut line)
            .map_err(broken(command))?;
        if count == 0 {
            return Err(broken(command)(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|source| QmpError::NotQemu { source })
    }

    /// Waits for an event, also one that came while answers were waited for. Says whether it came.
    pub(super) fn wait_for_event(
        &mut self,
        name: &'static str,
        is_it: impl Fn(&Value) -> bool,
        limit: Duration,
    ) -> Result<bool, QmpError> {
        let is_meant = |event: &Value| event["event"] == name && is_it(&event["data"]);
        if self.events.iter().any(is_meant) {
            return Ok(true);
        }
        let clock = SystemClock::new();
        let outcome = loop {
            let left = limit.saturating_sub(clock.monotonic());
            if left.is_zero() {
                break Ok(false);
            }
            self.reader
                .get_ref()
                .set_read_timeout(Some(left))
                .map_err(broken(name))?;
            match self.read(name) {
                Ok(event) if is_meant(&event) => break Ok(true),
                Ok(event) => self.keep(event),
                Err(QmpError::Broken { source, .. })
                    if source.kind() == io::ErrorKind::WouldBlock =>
                {
                    break Ok(false);
                }
                Err(error) => break Err(error),
            }
        };
        self.reader
            .get_ref()
            .set_read_timeout(Some(ANSWER_TIME_MAX))
            .map_err(broken(name))?;
        outcome
    }
}
