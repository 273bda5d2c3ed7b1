//! One initiator's connection between the iSCSI machine and the units, without its socket.
//!
//! A driver moves bytes: it reads the socket into [`Peer::connection`], calls [`Peer::pump`], and writes what
//! [`Peer::transmit`] gives. Everything else about a connection is here, so that another driver (io_uring) is only
//! another way to move bytes.

mod login;
mod management;

use crate::access::Seeker;
use crate::copying;
use crate::mailbox::{ConnectionId, Mailbox};
use crate::media_pool::{DurableReply, MediaPool, ReplyTo};
use crate::medium::{Buffers, Finished, ShareIndex, lend, try_inline};
use crate::portal::Entrance;
use crate::redirect::Redirects;
use crate::registry::Registry;
use crate::sessions::Sessions;
use crate::unit::{Begun, Reach, Unit};
use bytes::Bytes;
use login::Offered;
use management::{Abort, Awaited};
use onggi_block_iscsi::connection::{SendTargets, TargetFilter, TargetRecord};
use onggi_block_iscsi::pdu::{EncodedPdu, LentData};
use onggi_block_iscsi::{
    CloseReason, Command, Completion, Connection, Event, IscsiName, TargetConfig, TaskId,
};
use onggi_block_scsi::{CdbBytes, Lun, MediaOp, MissingUnit, Nexus, Outcome, Response, Status};
use onggi_common_host::Entropy;
use std::collections::HashMap;
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// With so much to send, nothing more is begun before it is sent: what was just read is still in the processor's cache.
const UNSENT_BYTES_MAX: usize = 1 << 20;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) pool: MediaPool,
    pub(crate) entropy: SharedEntropy,
    pub(crate) limits: crate::options::Limits,
    pub(crate) redirects: Redirects,
    pub(crate) data_threads: usize,
    /// What SendTargets tells, once the portals are bound.
    pub(crate) advertised: OnceLock<Vec<(String, u16)>>,
    pub(crate) next_tsih: AtomicU16,
}

/// A source of random bytes that can be printed with what holds it.
pub(crate) struct SharedEntropy(pub(crate) Arc<dyn Entropy>);

impl std::fmt::Debug for SharedEntropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

/// What a data thread lends a connection while it works for it.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) shared: Arc<Shared>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) share: ShareIndex,
    pub(crate) now: Duration,
    /// What its connections hold, and how much that may be before each has to do with the least.
    pub(crate) held_bytes: usize,
    pub(crate) bytes_max: usize,
    /// Where cached reads land before they are sent.
    pub(crate) buffers: Arc<Buffers>,
}

impl Thread {
    const fn is_short_of_memory(&self) -> bool {
        self.held_bytes > self.bytes_max
    }

    fn connection_bytes_max(&self) -> usize {
        let limits = &self.shared.limits;
        if self.is_short_of_memory() {
            limits.connection_bytes_min.min(limits.connection_bytes_max)
        } else {
            limits.connection_bytes_max
        }
    }
}

/// A connection and what it is about.
#[derive(Debug)]
pub(crate) struct Peer {
    id: ConnectionId,
    entrance: Entrance,
    connection: Connection,
    stage: Stage,
    /// Sessions this one replaces that are not gone yet. Until then nothing is answered and nothing begun.
    awaited: usize,
    outstanding: HashMap<TaskId, Outstanding>,
    outstanding_bytes: usize,
    /// What it counts for in the thread's sum.
    accounted_bytes: usize,
    is_short_of_memory: bool,
    aborts: Vec<Abort>,
    notices: Vec<Awaited>,
    why_closed: Option<CloseReason>,
    /// It was ended from here: nothing more is said.
    is_cut: bool,
    /// Commands that came since it was last asked.
    commands: usize,
}

#[derive(Debug)]
enum Stage {
    Login(Option<Offered>),
    Discovery(Seeker),
    Normal(Box<Normal>),
}

#[derive(Debug)]
struct Normal {
    target: IscsiName,
    unit: Arc<Unit>,
    nexus: Nexus,
    inventory: [Lun; 1],
    /// Made once the sessions this one replaces are gone.
    reach: Option<Reach>,
}

/// A command whose job is under way elsewhere.
#[derive(Debug)]
struct Outstanding {
    op: MediaOp,
    wanted_bytes: u64,
    held_bytes: usize,
}

impl Outstanding {
    // Nothing ends a sanitize that has begun, and the unit answers nothing of a later session before it has ended.
    const fn outlives_session(&self) -> bool {
        matches!(self.op, MediaOp::Sanitize { .. })
    }
}

impl Peer {
    pub(crate) fn new(
        id: ConnectionId,
        entrance: Entrance,
        config: TargetConfig,
        now: Duration,
    ) -> Self {
        Self {
            id,
            entrance,
            connection: Connection::new(config, now),
            stage: Stage::Login(None),
            awaited: 0,
            outstanding: HashMap::new(),
            outstanding_bytes: 0,
            accounted_bytes: 0,
            is_short_of_memory: false,
            aborts: Vec::new(),
            notices: Vec::new(),
            why_closed: None,
            is_cut: false,
            commands: 0,
        }
    }

    /// The machine, for a driver to put received bytes into.
    pub(crate) const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Whether it has not logged in.
    pub(crate) const fn is_in_login(&self) -> bool {
        matches!(self.stage, Stage::Login(_))
    }

    /// Whether its socket should be read.
    pub(crate) fn wants_input(&self, thread: &Thread) -> bool {
        self.connection.wants_input() && self.has_room(thread)
    }

    // Data on its way to the medium or from it, and answers nobody has taken yet.
    fn has_room(&self, thread: &Thread) -> bool {
        let held = self
            .outstanding_bytes
            .saturating_add(self.connection.transmit_backlog_bytes());
        held < thread.connection_bytes_max()
    }

    /// Keeps the thread's sum of what its connections hold; with too much in all, each has to do with the least.
    pub(crate) fn account(&mut self, thread: &mut Thread) {
        let held = self
            .outstanding_bytes
            .saturating_add(self.connection.held_bytes());
        thread.held_bytes = thread
            .held_bytes
            .saturating_sub(self.accounted_bytes)
            .saturating_add(held);
        self.accounted_bytes = held;
        let is_short = thread.is_short_of_memory();
        if std::mem::replace(&mut self.is_short_of_memory, is_short) != is_short {
            let most = u64::try_from(thread.connection_bytes_max()).unwrap_or(u64::MAX);
            self.connection.limit_writes(most);
        }
    }

    /// The next PDU to send.
    pub(crate) fn transmit(&mut self) -> Option<EncodedPdu> {
        if self.awaited > 0 || self.is_cut {
            None
        } else {
            self.connection.poll_transmit()
        }
    }

    /// Whether it has ended: what [`Peer::transmit`] still gives is sent, then the socket is closed.
    pub(crate) const fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Whether it was ended from here: what it has not taken yet it does not get.
    pub(crate) const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether nothing of it is under way any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding.values().all(Outstanding::outlives_session)
    }

    /// How many commands came since this was last asked.
    pub(crate) const fn take_command_count(&mut self) -> usize {
        std::mem::replace(&mut self.commands, 0)
    }

    /// Does what there is to do: carries out commands, answers requests.
    pub(crate) fn pump(&mut self, thread: &mut Thread) {
        while self.awaited == 0
            && self.has_room(thread)
            && self.connection.transmit_backlog_bytes() < UNSENT_BYTES_MAX
        {
            let Some(event) = self.connection.poll_event() else {
                return;
            };
            match event {
                Event::Command(command) => self.command(command, thread),
                Event::AccessRequest(request) => self.access_request(&request, thread),
                Event::Claim { user } => self.claim(&user, thread),
                Event::LoggedIn(logged_in) => self.logged_in(&logged_in, thread),
                Event::TaskManagement(request) => self.task_management(request, thread),
                Event::SendTargets(request) => self.send_targets(request, thread),
                Event::Logout => {
                    tracing::debug!(connection = self.id.0, "logout");
                    thread.shared.sessions.leave(self.id);
                }
                Event::Closed(reason) => {
                    tracing::debug!(connection = self.id.0, peer = %self.entrance.peer, %reason, "closed");
                    self.why_closed = Some(reason);
                }
            }
        }
    }

    /// Ends the connection.
    pub(crate) fn close(&mut self) {
        self.awaited = 0;
        self.is_cut = true;
        self.connection.close();
    }

    /// Gives up what the session held. Call it once the connection is closed and idle.
    pub(crate) fn end(self, thread: &mut Thread) {
        let id = self.id;
        thread.held_bytes = thread.held_bytes.saturating_sub(self.accounted_bytes);
        if let Stage::Normal(normal) = self.stage {
            tracing::info!(
                connection = id.0,
                target = %normal.target,
                initiator = %normal.nexus.initiator,
                peer = %self.entrance.peer,
                reason = self.why_closed.map_or_else(|| "connection lost".to_owned(), |reason| reason.to_string()),
                "session ended"
            );
            // The unit forgets the nexus before a session that waits for this one goes on.
            drop(normal);
            thread.shared.sessions.end(id);
        }
    }

    fn command(&mut self, command: Command, thread: &mut Thread) {
        self.commands += 1;
        let Stage::Normal(normal) = &mut self.stage else {
            return;
        };
        let cdb = CdbBytes::new(command.cdb.as_slice());
        let lun = Lun::from_field(command.lun.0);
        let task = command.task;
        let Some(reach) = normal
            .reach
            .as_mut()
            .filter(|reach| lun == Some(reach.unit().lun()))
        else {
            let outcome = MissingUnit {
                inventory: &normal.inventory,
            }
            .begin(cdb);
            self.answer(task, outcome);
            return;
        };
        let held_bytes = command.data.len();
        match reach.begin(cdb, command.data) {
            Begun::Answer(outcome) => self.answer(task, outcome),
            Begun::Job(job, wanted_bytes) => {
                let (unit, medium) = (Arc::clone(reach.unit()), Arc::clone(&job.medium));
                let op = job.op.clone();
                let target = normal.target.as_str();
                if let MediaOp::Settle { aborted, .. } = &op {
                    thread.shared.sessions.abort_nexuses(target, aborted);
                }
                let to = || ReplyTo {
                    mailbox: Arc::clone(&thread.mailbox),
                    connection: self.id,
                    task,
                };
                if let MediaOp::Copy { plan } = &op {
                    let work = copying::work(&thread.shared, self.id, reach, plan);
                    let copy = (plan.clone(), work);
                    thread.shared.pool.copy(copy, &unit, to());
                    self.hold(task, op, wanted_bytes, held_bytes);
                    return;
                }
                if self.connection.can_lend()
                    && let Some((loan, length)) = lend(&job)
                {
                    let lent = LentData::new(Arc::new(loan), length);
                    self.connection.complete_lent(task, lent, wanted_bytes);
                    return;
                }
                match try_inline(job, thread.share, &thread.buffers) {
                    Ok(finished) if !finished.needs_flush => {
                        let descriptor = reach.descriptor_sense();
                        self.connection
                            .complete(task, completion(&op, finished, wanted_bytes, descriptor));
                        return;
                    }
                    Ok(finished) => {
                        if unit.await_flush(medium, Box::new(DurableReply { to: to(), finished })) {
                            thread.shared.pool.flush(&unit);
                        }
                    }
                    Err(job) => thread.shared.pool.run(job, &unit, to()),
                }
                self.hold(task, op, wanted_bytes, held_bytes);
            }
        }
    }

    fn hold(&mut self, task: TaskId, op: MediaOp, wanted_bytes: u64, data_bytes: usize) {
        let read_bytes = match &op {
            MediaOp::Read { range } => usize::try_from(range.byte_length()).unwrap_or(usize::MAX),
            _ => 0,
        };
        let held_bytes = data_bytes.saturating_add(read_bytes);
        self.outstanding_bytes = self.outstanding_bytes.saturating_add(held_bytes);
        self.outstanding.insert(
            task,
            Outstanding {
                op,
                wanted_bytes,
                held_bytes,
            },
        );
    }

    fn answer(&mut self, task: TaskId, outcome: Outcome) {
        if let Outcome::Complete {
            response,
            wanted_bytes,
        } = outcome
        {
            self.connection
                .complete(task, completion_of(response, Bytes::new(), wanted_bytes));
        }
    }

    /// A job has ended.
    pub(crate) fn finished(&mut self, task: TaskId, finished: Finished) {
        let Some(outstanding) = self.outstanding.remove(&task) else {
            return;
        };
        self.outstanding_bytes = self
            .outstanding_bytes
            .saturating_sub(outstanding.held_bytes);
        let descriptor = match &self.stage {
            Stage::Normal(normal) => normal.reach.as_ref().is_some_and(Reach::descriptor_sense),
            Stage::Login(_) | Stage::Discovery(_) => false,
        };
        let completion = completion(
            &outstanding.op,
            finished,
            outstanding.wanted_bytes,
            descriptor,
        );
        if !self.leave(task) {
            self.connection.complete(task, completion);
        }
    }

    /// A session that this one replaces is gone.
    pub(crate) fn replaced(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
        self.reach_if_alone();
    }

    fn reach_if_alone(&mut self) {
        if self.awaited == 0
            && let Stage::Normal(normal) = &mut self.stage
            && normal.reach.is_none()
        {
            normal.reach = Some(normal.unit.attach(&normal.nexus));
        }
    }

    fn send_targets(&mut self, request: SendTargets, thread: &Thread) {
        let shared = &thread.shared;
        let mut names = match &self.stage {
            Stage::Discovery(seeker) => shared.registry.visible(seeker),
            // RFC 7143 §6.2: within a normal session only the session's own target is told.
            Stage::Normal(normal) => vec![normal.target.clone()],
            Stage::Login(_) => Vec::new(),
        };
        if let TargetFilter::One(wanted) = &request.filter {
            names.retain(|name| name == wanted);
        }
        let portals = shared.advertised.get().cloned().unwrap_or_default();
        let records: Vec<TargetRecord> = names
            .into_iter()
            .map(|name| TargetRecord {
                name,
                portals: portals.clone(),
            })
            .collect();
        self.connection.answer_send_targets(request.id, &records);
    }
}

fn completion(op: &MediaOp, finished: Finished, wanted_bytes: u64, descriptor: bool) -> Completion {
    let response = op.finish(&finished.result, descriptor);
    let data_in = if response.data_in.is_empty() {
        finished.data_in
    } else {
        Bytes::new()
    };
    let wanted_bytes = match op {
        // Its answer is parameter data, whose length is what the command moves.
        MediaOp::Status { .. } | MediaOp::Usage { .. } => {
            u64::try_from(response.data_in.len()).unwrap_or(u64::MAX)
        }
        _ => wanted_bytes,
    };
    completion_of(response, data_in, wanted_bytes)
}

fn completion_of(response: Response, data_in: Bytes, wanted_bytes: u64) -> Completion {
    match response.status {
        Status::Good | Status::ConditionMet => Completion {
            status: response.status.code(),
            sense: Bytes::new(),
            data: if response.data_in.is_empty() {
                data_in
            } else {
                Bytes::from(response.data_in)
            },
            wanted_bytes,
        },
        Status::CheckCondition
        | Status::Busy
        | Status::ReservationConflict
        | Status::TaskSetFull
        | Status::TaskAborted => {
            Completion::failed(response.status.code(), Bytes::from(response.sense))
        }
    }
}
