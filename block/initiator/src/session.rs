//! A blocking session over the pure initiator machine: one thread owns the socket.
//!
//! When the connection breaks the session logs in again, at the first portal that answers, and sends again what was
//! not answered: the same initiator and ISID, so that the target ends what was left of the old session first. A
//! command waits for that until `replay_time_max`; after that it fails. A target that has refused the login for so
//! long, because it does not know us any more, is given up. All commands sent here may be carried out
//! twice without harm: they name their blocks.

mod driver;
#[cfg(test)]
mod tests;
mod transport;

use crate::spec::{ChapCredentials, ConnectionSpec};
use bytes::Bytes;
use core::time::Duration;
pub(crate) use driver::sense_key;
use driver::{Driver, Queue, Waiting};
use onggi_block_iscsi::chap::{Challenge, ChapPair};
use onggi_block_iscsi::initiator::{InitiatorError, InitiatorTimes, LoginError, LoginOptions};
use onggi_block_iscsi::login::Offer;
use onggi_block_iscsi::name::NameError;
use onggi_block_iscsi::pdu::CdbBytes;
use onggi_block_iscsi::{Isid, LunField, SessionKind};
use onggi_common_host::{Clock, Entropy, SystemClock, SystemEntropy};
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use transport::Transport;

/// How long a command waits for the target to come back, unless told otherwise.
pub const REPLAY_TIME_MAX: Duration = Duration::from_secs(180);
/// How long a connection may take to be made.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// A command.
#[derive(Debug, Clone)]
pub struct Request {
    /// What.
    pub cdb: CdbBytes,
    /// How much may be read.
    pub read_bytes: u32,
    /// What is written.
    pub data: Bytes,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The SCSI status.
    pub status: u8,
    /// Sense data.
    pub sense: Bytes,
    /// What was read.
    pub data: Bytes,
}

/// Why a session cannot be had or a command was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// A name is no iSCSI name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The logical unit's number is too large.
    #[error("LUN {lun} is larger than 16383")]
    Lun {
        /// The number.
        lun: u16,
    },
    /// No portal could be connected to.
    #[error("no portal answers: {portal}: {source}")]
    Connect {
        /// The portal tried last.
        portal: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The connection broke.
    #[error("the connection to {portal} broke: {source}")]
    Broken {
        /// The portal.
        portal: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Login did not succeed, or the target broke the protocol.
    #[error("{portal}: {source}")]
    Protocol {
        /// The portal.
        portal: String,
        /// Why.
        source: InitiatorError,
    },
    /// The target was gone for too long.
    #[error("the target did not answer within {limit:?}; last: {last}")]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// What was wrong last.
        last: String,
    },
    /// The session was ended.
    #[error("the session was ended")]
    Ended,
    /// The machine lacks something.
    #[error("{what}: {source}")]
    Machine {
        /// What.
        what: &'static str,
        /// Why.
        source: Arc<io::Error>,
    },
}

/// How long a session waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimes {
    /// For a connection to be made.
    pub connect: Duration,
    /// For the target to come back.
    pub replay: Duration,
    /// For login, and for the answer to a ping.
    pub protocol: InitiatorTimes,
}

impl SessionError {
    /// Whether the target does not know us, or not any more: RFC 7143 login statuses 0201h, 0202h and 0203h.
    fn is_refusal(&self) -> bool {
        let Self::Protocol { source, .. } = self else {
            return false;
        };
        matches!(
            source,
            InitiatorError::Login(LoginError::Refused {
                class: 2,
                detail: 1..=3,
                ..
            })
        )
    }
}

impl Default for SessionTimes {
    fn default() -> Self {
        Self {
            connect: CONNECT_TIME_MAX,
            replay: REPLAY_TIME_MAX,
            protocol: InitiatorTimes::default(),
        }
    }
}

/// A session with one logical unit of a target.
#[derive(Debug)]
pub struct Session {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// Takes a command's end; called on the session's own thread, so it must not block.
pub type Answer = Box<dyn FnOnce(Result<Reply, SessionError>) + Send>;

impl Session {
    /// Logs in. A refused login is told at once, not tried again.
    ///
    /// # Errors
    /// When no portal answers, or the target refuses.
    pub fn open(spec: &ConnectionSpec, times: SessionTimes) -> Result<Self, SessionError> {
        let (login, lun) = login_options(spec)?;
        let clock = Arc::new(SystemClock::new());
        let mut transport = Transport::new(&spec.portals, login, times);
        transport.connect_and_log_in(&*clock)?;
        let queue = Queue::new().map_err(|source| SessionError::Machine {
            what: "eventfd",
            source: Arc::new(source),
        })?;
        let queue = Arc::new(queue);
        let driver = Driver::new(Arc::clone(&queue), transport, lun, clock, times.replay);
        let thread = std::thread::Builder::new()
            .name("iscsi".to_owned())
            .spawn(move || driver.run())
            .map_err(|source| SessionError::Machine {
                what: "thread",
                source: Arc::new(source),
            })?;
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    /// Submits a command; the answer comes on the session's own thread.
    pub fn submit(&self, request: Request, answer: Answer) {
        self.queue.push(Waiting { request, answer });
    }

    /// Whether the target was given up, because it has refused our login for too long: every command fails at once.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Carries out a command and waits for its end.
    ///
    /// # Errors
    /// When the target did not come back in time.
    pub fn execute(&self, request: Request) -> Result<Reply, SessionError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        // The receiver waits below; it cannot be gone.
        self.submit(request, Box::new(move |reply| drop(sender.send(reply))));
        receiver.recv().unwrap_or(Err(SessionError::Ended))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.queue.end();
        if let Some(thread) = self.thread.take() {
            // The thread answers everything and takes leave of the target; a panic there was reported already.
            drop(thread.join());
        }
    }
}

fn login_options(spec: &ConnectionSpec) -> Result<(LoginOptions, LunField), SessionError> {
    let lun = LunField::from_number(spec.lun).ok_or(SessionError::Lun { lun: spec.lun })?;
    let pair = |credentials: &ChapCredentials| ChapPair {
        user: credentials.user.clone(),
        secret: credentials.secret.clone(),
    };
    let [a, b, c, ..] = SystemEntropy.bytes();
    let options = LoginOptions {
        initiator: spec.initiator_name.parse()?,
        kind: SessionKind::Normal {
            target: spec.iqn.parse()?,
        },
        isid: Isid::from_random([a, b, c], 0),
        credentials: spec.chap.as_ref().map(pair),
        target_credentials: spec.mutual_chap.as_ref().map(pair),
        challenge: fresh_challenge(),
        offer: Offer::default(),
    };
    Ok((options, lun))
}

fn fresh_challenge() -> Challenge {
    let mut random = [0; 33];
    SystemEntropy.fill(&mut random);
    Challenge::new(random)
}

fn monotonic(clock: &dyn Clock) -> Duration {
    clock.monotonic()
}
