//! The session's thread: takes commands from the queue, keeps them until they are answered, and reconnects.

use super::transport::{Transport, poll};
use super::{Answer, Reply, Request, SessionError, monotonic};
use core::time::Duration;
use onggi_block_iscsi::LunField;
use onggi_block_iscsi::initiator::{CommandId, CommandOutcome, InitiatorEvent, Submission};
use onggi_common_host::SystemClock;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// How many commands are with the target at a time; the others wait here.
const IN_FLIGHT_MAX: usize = 256;
/// Pauses between two attempts to connect.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// How long the target has to answer a logout.
const LOGOUT_TIME_MAX: Duration = Duration::from_secs(2);
/// A command that the target cannot take now is sent again after this long.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

const CHECK_CONDITION: u8 = 0x02;
const BUSY: u8 = 0x08;
const TASK_SET_FULL: u8 = 0x28;
const TASK_ABORTED: u8 = 0x40;
const UNIT_ATTENTION: u8 = 0x06;
const ABORTED_COMMAND: u8 = 0x0b;
/// How often a command is sent again because of what the target said to it.
const RETRIES_MAX: u32 = 20;

/// A command and who waits for it.
pub(super) struct Waiting {
    pub(super) request: Request,
    pub(super) answer: Answer,
}

impl core::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Fresh {
    waiting: VecDeque<Waiting>,
    is_ending: bool,
}

/// How commands reach the session's thread.
#[derive(Debug)]
pub(super) struct Queue {
    fresh: Mutex<Fresh>,
    waker: OwnedFd,
}

impl Queue {
    pub(super) fn new() -> io::Result<Self> {
        let waker = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            fresh: Mutex::default(),
            waker,
        })
    }

    pub(super) fn push(&self, waiting: Waiting) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.is_ending {
            drop(fresh);
            (waiting.answer)(Err(SessionError::Ended));
            return;
        }
        fresh.waiting.push_back(waiting);
        drop(fresh);
        self.wake();
    }

    pub(super) fn end(&self) {
        self.fresh
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_ending = true;
        self.wake();
    }

    fn wake(&self) {
        // The counter can only be full when the thread is about to look anyway.
        rustix::io::write(&self.waker, &1u64.to_ne_bytes()).ok();
    }

    fn take(&self) -> (VecDeque<Waiting>, bool) {
        let mut count = [0; 8];
        // Nothing to read means that nobody woke us: the queue is looked at all the same.
        rustix::io::read(&self.waker, &mut count).ok();
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        (core::mem::take(&mut fresh.waiting), fresh.is_ending)
    }
}

/// A command that is not answered yet.
#[derive(Debug)]
struct Pending {
    waiting: Waiting,
    since: Duration,
    retries: u32,
    /// Not before then.
    not_before: Duration,
}

pub(super) struct Driver {
    queue: Arc<Queue>,
    transport: Transport,
    lun: LunField,
    clock: Arc<SystemClock>,
    replay_time_max: Duration,
    /// By the order they came in; that is also the order in which they are sent again.
    pending: BTreeMap<u64, Pending>,
    next_key: u64,
    /// Those of `pending` that are with the target.
    in_flight: HashMap<CommandId, u64>,
    /// Those that are not.
    unsent: VecDeque<u64>,
    is_ending: bool,
    last_error: String,
}

impl Driver {
    pub(super) fn new(
        queue: Arc<Queue>,
        transport: Transport,
        lun: LunField,
        clock: Arc<SystemClock>,
        replay_time_max: Duration,
    ) -> Self {
        Self {
            queue,
            transport,
            lun,
            clock,
            replay_time_max,
            pending: BTreeMap::new(),
            next_key: 0,
            in_flight: HashMap::new(),
            unsent: VecDeque::new(),
            is_ending: false,
            last_error: String::new(),
        }
    }

    /// Works until the session is ended and everything is answered.
    pub(super) fn run(mut self) {
        loop {
            match self.serve() {
                Ok(()) => break,
                Err(error) => {
                    if let Err(refusal) = self.reconnect(&error) {
                        return self.give_up(&refusal);
                    }
                }
            }
            if self.is_ending && self.pending.is_empty() {
                break;
            }
        }
        self.log_out();
        for (_, pending) in core::mem::take(&mut self.pending) {
            (pending.waiting.answer)(Err(SessionError::Ended));
        }
    }

    fn now(&self) -> Duration {
        monotonic(&*self.clock)
    }

    /// Serves one connection until the session ends or the connection breaks.
    fn serve(&mut self) -> Result<(), SessionError> {
        loop {
            self.take_fresh();
            if self.is_ending && self.pending.is_empty() {
                return Ok(());
            }
            let pause = self.submit_unsent();
            let clock = Arc::clone(&self.clock);
            let queue = Arc::clone(&self.queue);
            self.transport.step(queue.waker.as_fd(), pause, &*clock)?;
            self.take_events()?;
        }
    }

    fn take_fresh(&mut self) {
        let (fresh, is_ending) = self.queue.take();
        self.is_ending = is_ending;
        let now = self.now();
        for waiting in fresh {
            self.next_key += 1;
            let pending = Pending {
                waiting,
                since: now,
                retries: 0,
                not_before: now,
            };
            self.pending.insert(self.next_key, pending);
            self.unsent.push_back(self.next_key);
        }
    }

    /// Hands to the machine what is due; says how long to wait for the next.
    fn submit_unsent(&mut self) -> Option<Duration> {
        let now = self.now();
        let lun = self.lun;
        let mut later = VecDeque::new();
        let mut pause: Option<Duration> = None;
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(key) = self.unsent.pop_front() else {
                break;
            };
            let Some(pending) = self.pending.get(&key) else {
                continue;
            };
            let Some(machine) = self.transport.machine() else {
                break;
            };
            if pending.not_before > now {
                let left = pending.not_before.saturating_sub(now);
                pause = Some(pause.map_or(left, |pause| pause.min(left)));
                later.push_back(key);
                continue;
            }
            let Request {
                cdb,
                read_bytes,
                data,
            } = pending.waiting.request.clone();
            match machine.submit(Submission {
                lun,
                cdb,
                read_bytes,
                data,
            }) {
                Ok(id) => {
                    self.in_flight.insert(id, key);
                }
                Err(_too_many) => {
                    later.push_back(key);
                    break;
                }
            }
        }
        later.append(&mut self.unsent);
        self.unsent = later;
        pause
    }

    fn take_events(&mut self) -> Result<(), SessionError> {
        let portal = self.transport.portal();
        while let Some(event) = self
            .transport
            .machine()
            .and_then(|machine| machine.poll_event())
        {
            match event {
                InitiatorEvent::Completed(outcome) => self.finish(outcome),
                InitiatorEvent::Failed(source) => {
                    return Err(SessionError::Protocol { portal, source });
                }
                InitiatorEvent::LogoutRequested { .. } => {
                    // The target is about to stop: what is with it is sent again at the next login.
                    tracing::info!(portal, "the target asks for a logout");
                    return Err(SessionError::Protocol {
                        portal,
                        source: onggi_block_iscsi::initiator::InitiatorError::Dropped,
                    });
                }
                InitiatorEvent::LoggedOut => return Err(SessionError::Ended),
                InitiatorEvent::LoggedIn(_)
                | InitiatorEvent::Targets(_)
                | InitiatorEvent::TaskManagement(_) => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, outcome: CommandOutcome) {
        let Some(key) = self.in_flight.remove(&outcome.id) else {
            return;
        };
        let now = self.now();
        let Some(pending) = self.pending.get_mut(&key) else {
            return;
        };
        if pending.retries < RETRIES_MAX
            && let Some(pause) = retry_pause(&outcome)
        {
            pending.retries += 1;
            pending.not_before = now.saturating_add(pause);
            self.unsent.push_back(key);
            return;
        }
        if let Some(pending) = self.pending.remove(&key) {
            let CommandOutcome {
                status,
                sense,
                data,
                ..
            } = outcome;
            (pending.waiting.answer)(Ok(Reply {
                status,
                sense,
                data,
            }));
        }
    }

    /// Fails everything, now and from now on.
    fn give_up(mut self, refusal: &SessionError) {
        tracing::error!(%refusal, "the target is given up");
        self.queue.end();
        self.take_fresh();
        for (_, pending) in core::mem::take(&mut self.pending) {
            (pending.waiting.answer)(Err(refusal.clone()));
        }
    }

    /// Connects again, for as long as it takes; meanwhile commands grow too old and are failed. A target that
    /// refuses us all the time, longer than a command waits, is an error: it will not change its mind.
    fn reconnect(&mut self, error: &SessionError) -> Result<(), SessionError> {
        tracing::warn!(%error, pending = self.pending.len(), "the connection to the target is lost");
        self.last_error = error.to_string();
        self.transport.drop_link();
        self.in_flight.clear();
        self.unsent = self.pending.keys().copied().collect();
        let mut pause = RETRY_FIRST;
        let mut refused_since = None;
        loop {
            self.take_fresh();
            self.expire();
            if self.is_ending && self.pending.is_empty() {
                return Ok(());
            }
            let clock = Arc::clone(&self.clock);
            match self.transport.connect_and_log_in(&*clock) {
                Ok(()) => {
                    tracing::info!(portal = self.transport.portal(), "logged in again");
                    return Ok(());
                }
                Err(error) => {
                    self.last_error = error.to_string();
                    let now = self.now();
                    let since = *refused_since.get_or_insert(now);
                    if !error.is_refusal() {
                        refused_since = None;
                    } else if now >= since.saturating_add(self.replay_time_max) {
                        return Err(error);
                    }
                }
            }
            // New commands need not hurry this up; the end of the session does.
            let mut descriptors = [PollFd::new(&self.queue.waker, PollFlags::IN)];
            if let Err(error) = poll(&mut descriptors, Some(pause)) {
                self.last_error = error.to_string();
            }
            if descriptors
                .iter()
                .any(|descriptor| !descriptor.revents().is_empty())
            {
                // Woken early: without this pause a busy caller would make it a storm of connections.
                std::thread::sleep(RETRY_FIRST);
            }
            pause = pause.saturating_mul(2).min(RETRY_LAST);
        }
    }

    fn expire(&mut self) {
        let now = self.now();
        // A session that is being ended does not wait for a target that is gone.
        let limit = if self.is_ending {
            Duration::ZERO
        } else {
            self.replay_time_max
        };
        let is_over = |pending: &mut Pending| now >= pending.since.saturating_add(limit);
        let expired: Vec<_> = self
            .pending
            .extract_if(.., |_, pending| is_over(pending))
            .collect();
        for (_, pending) in expired {
            let last = self.last_error.clone();
            (pending.waiting.answer)(Err(SessionError::TimedOut { limit, last }));
        }
    }

    fn log_out(&mut self) {
        let deadline = self.now().saturating_add(LOGOUT_TIME_MAX);
        let Some(machine) = self.transport.machine() else {
            return;
        };
        machine.logout();
        let clock = Arc::clone(&self.clock);
        let queue = Arc::clone(&self.queue);
        while self.now() < deadline {
            let left = deadline.saturating_sub(self.now());
            let step = self
                .transport
                .step(queue.waker.as_fd(), Some(left), &*clock);
            // Whatever happens now, the session is over.
            if step.is_err() || self.take_events().is_err() {
                return;
            }
            self.queue.take();
        }
    }
}

/// Whether a command is to be sent again because of what the target said, and after how long.
fn retry_pause(outcome: &CommandOutcome) -> Option<Duration> {
    match outcome.status {
        BUSY | TASK_SET_FULL => Some(BUSY_PAUSE),
        TASK_ABORTED => Some(Duration::ZERO),
        CHECK_CONDITION => match sense_key(&outcome.sense) {
            // Something changed on the other side; the command was not carried out.
            UNIT_ATTENTION => Some(Duration::ZERO),
            ABORTED_COMMAND => Some(BUSY_PAUSE),
            _ => None,
        },
        _ => None,
    }
}

/// The sense key of fixed or descriptor format sense data (SPC-4 §4.5).
pub(crate) fn sense_key(sense: &[u8]) -> u8 {
    let at = match sense.first().map(|code| code & 0x7f) {
        Some(0x72 | 0x73) => 1,
        _ => 2,
    };
    sense.get(at).map_or(0, |byte| byte & 0x0f)
}
