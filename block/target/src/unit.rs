//! A logical unit as the shell shares it: the SCSI state under a lock that reading and writing do not take.
//!
//! A session keeps a [`Reach`]: a copy of what reading and writing need, valid as long as the unit's generation stands
//! still. The generation is one atomic number that only changes when something about the unit does, so sessions on
//! different threads share it without getting in each other's way.

mod whole;

use crate::kept::Keeper;
use crate::medium::{Exclusion, Job, Medium, Ticket};
use bytes::Bytes;
use onggi_block_scsi::{Capacity, CdbBytes, LogicalUnit, Lun, MediaOp, Nexus, Outcome, View};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A logical unit and its medium.
#[derive(Debug)]
pub(crate) struct Unit {
    lun: Lun,
    state: Mutex<State>,
    generation: AtomicU64,
    exclusion: Arc<Exclusion>,
    flushes: Mutex<Flushes>,
    /// What keeps things across restarts; held while it does.
    keeper: Mutex<Option<Keeper>>,
    sanitize_bytes_per_second: u64,
}

#[derive(Debug)]
struct State {
    logical: LogicalUnit,
    medium: Arc<dyn Medium>,
    /// What the commands of each attached nexus carry: void when others have ended them.
    tickets: BTreeMap<Nexus, Arc<Ticket>>,
}

/// Answers that wait for a flush. Those that come while one runs wait for the next, which serves all of them.
#[derive(Debug, Default)]
struct Flushes {
    is_running: bool,
    waiting: Vec<Waiting>,
}

type Waiting = (Arc<dyn Medium>, Box<dyn AfterFlush>);

/// What is to be told when a flush has ended.
pub(crate) trait AfterFlush: Send + std::fmt::Debug {
    /// The flush ended; false if it failed.
    fn flushed(self: Box<Self>, is_durable: bool);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held must not take every session of the unit down with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unit {
    pub(crate) fn new(
        lun: Lun,
        logical: LogicalUnit,
        medium: Arc<dyn Medium>,
        threads: usize,
    ) -> Self {
        Self {
            lun,
            generation: AtomicU64::new(logical.generation()),
            state: Mutex::new(State {
                logical,
                medium,
                tickets: BTreeMap::new(),
            }),
            exclusion: Arc::new(Exclusion::new(threads)),
            flushes: Mutex::new(Flushes::default()),
            keeper: Mutex::new(None),
            sanitize_bytes_per_second: u64::MAX,
        }
    }

    /// The unit with a keeper of what outlives the process, and the pace of its SANITIZE.
    pub(crate) fn keeping(self, keeper: Keeper, sanitize_bytes_per_second: u64) -> Self {
        Self {
            keeper: Mutex::new(Some(keeper)),
            sanitize_bytes_per_second,
            ..self
        }
    }

    pub(crate) const fn lun(&self) -> Lun {
        self.lun
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let outcome = act(&mut state);
        self.generation
            .store(state.logical.generation(), Ordering::Release);
        outcome
    }

    /// A session of this nexus begins.
    pub(crate) fn attach(self: &Arc<Self>, nexus: &Nexus) -> Reach {
        self.change(|state| {
            state.tickets.insert(nexus.clone(), Arc::default());
            state.logical.attach(nexus);
        });
        Reach {
            unit: Arc::clone(self),
            nexus: nexus.clone(),
            snapshot: self.snapshot(nexus),
        }
    }

    /// Its session has ended.
    pub(crate) fn detach(&self, nexus: &Nexus) {
        self.change(|state| {
            // Copies between other units and this one end with the session that let them.
            if let Some(ticket) = state.tickets.remove(nexus) {
                ticket.void();
            }
            state.logical.detach(nexus);
        });
    }

    /// LOGICAL UNIT RESET.
    pub(crate) fn reset(&self) {
        self.change(|state| state.logical.reset());
    }

    /// Another medium of another size: the volume has grown.
    pub(crate) fn replace_medium(&self, medium: Arc<dyn Medium>, capacity: Capacity) {
        self.change(|state| {
            state.medium = medium;
            // The generation must change although the size may be the same: sessions hold the old medium.
            state.logical.replaced_medium(capacity);
        });
    }

    /// No I/O any more, and none under way.
    pub(crate) fn retire(&self) {
        self.fence();
        self.wait_for_writers();
    }

    /// Returns when every write that had begun has ended.
    pub(crate) fn wait_for_writers(&self) {
        self.exclusion.wait_for_writers();
    }

    /// No I/O any more.
    pub(crate) fn fence(&self) {
        lock(&self.state).medium.fence();
    }

    pub(crate) fn capacity(&self) -> Capacity {
        lock(&self.state).logical.capacity()
    }

    fn snapshot(&self, nexus: &Nexus) -> Snapshot {
        let state = lock(&self.state);
        Snapshot {
            generation: state.logical.generation(),
            view: state.logical.view(nexus),
            medium: Arc::clone(&state.medium),
            capacity: state.logical.capacity(),
            ticket: state.ticket(nexus),
        }
    }

    /// Takes an answer that waits for a flush of this medium. True when the caller must see that
    /// [`Unit::run_flushes`] is called.
    pub(crate) fn await_flush(&self, medium: Arc<dyn Medium>, after: Box<dyn AfterFlush>) -> bool {
        let mut flushes = lock(&self.flushes);
        flushes.waiting.push((medium, after));
        !std::mem::replace(&mut flushes.is_running, true)
    }

    /// Flushes until nobody waits. B1: whoever waits was put into the list after its write returned, and is taken out
    /// before the flush begins.
    pub(crate) fn run_flushes(&self) {
        loop {
            let waiting = {
                let mut flushes = lock(&self.flushes);
                if flushes.waiting.is_empty() {
                    flushes.is_running = false;
                    return;
                }
                std::mem::take(&mut flushes.waiting)
            };
            let mut done: Vec<(Arc<dyn Medium>, bool)> = Vec::new();
            for (medium, after) in waiting {
                let known = done.iter().find(|(other, _)| Arc::ptr_eq(other, &medium));
                let is_durable = match known {
                    Some((_, is_durable)) => *is_durable,
                    None => {
                        let flushed = medium.flush();
                        if let Err(error) = &flushed {
                            tracing::error!(%error, "a flush failed");
                        }
                        done.push((Arc::clone(&medium), flushed.is_ok()));
                        flushed.is_ok()
                    }
                };
                after.flushed(is_durable);
            }
        }
    }
}

#[derive(Debug)]
struct Snapshot {
    generation: u64,
    view: View,
    medium: Arc<dyn Medium>,
    capacity: Capacity,
    ticket: Arc<Ticket>,
}

impl State {
    fn ticket(&self, nexus: &Nexus) -> Arc<Ticket> {
        self.tickets.get(nexus).map(Arc::clone).unwrap_or_default()
    }

    // What was begun before is void; what is begun from now on is judged by what the unit is now.
    fn void(&mut self, is_meant: impl Fn(&Nexus) -> bool) {
        for (nexus, ticket) in &mut self.tickets {
            if is_meant(nexus) {
                std::mem::take(ticket).void();
            }
        }
    }

    fn begin(&mut self, nexus: &Nexus, cdb: CdbBytes, data: &[u8]) -> Outcome {
        let outcome = self.logical.begin(nexus, cdb, data);
        if let Outcome::Media { op, .. } = &outcome {
            match op {
                MediaOp::Settle { aborted, .. } => self.void(|nexus| aborted.contains(nexus)),
                MediaOp::Sanitize { .. } => self.void(|_| true),
                _ => {}
            }
        }
        outcome
    }
}

/// A nexus's way to a unit.
#[derive(Debug)]
pub(crate) struct Reach {
    unit: Arc<Unit>,
    nexus: Nexus,
    snapshot: Snapshot,
}

/// What comes of a command: an answer, or a job and the bytes the command moves.
#[derive(Debug)]
pub(crate) enum Begun {
    Answer(Outcome),
    Job(Job, u64),
}

impl Reach {
    pub(crate) const fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    pub(crate) const fn nexus(&self) -> &Nexus {
        &self.nexus
    }

    /// Whether sense goes out in descriptor format.
    pub(crate) const fn descriptor_sense(&self) -> bool {
        self.snapshot.view.descriptor_sense()
    }

    /// Takes a command.
    pub(crate) fn begin(&mut self, cdb: CdbBytes, data: Bytes) -> Begun {
        if self.unit.generation.load(Ordering::Acquire) != self.snapshot.generation {
            self.snapshot = self.unit.snapshot(&self.nexus);
        }
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let outcome = match self.snapshot.view.begin(cdb, length) {
            Some(outcome) => outcome,
            None => {
                let outcome = self
                    .unit
                    .change(|state| state.begin(&self.nexus, cdb, &data));
                self.snapshot = self.unit.snapshot(&self.nexus);
                outcome
            }
        };
        match outcome {
            Outcome::Complete { .. } => Begun::Answer(outcome),
            Outcome::Media { op, wanted_bytes } => {
                let job = Job {
                    op,
                    data,
                    medium: Arc::clone(&self.snapshot.medium),
                    exclusion: Arc::clone(&self.unit.exclusion),
                    capacity: self.snapshot.capacity,
                    ticket: Arc::clone(&self.snapshot.ticket),
                };
                Begun::Job(job, wanted_bytes)
            }
        }
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        self.unit.detach(&self.nexus);
    }
}
