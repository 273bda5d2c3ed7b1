//! The target's side of one connection.
//!
//! Bytes and the time go in; PDUs to send and [`Event`]s come out. The login phase and the full feature phase are
//! different types inside, so that a SCSI command before login cannot be carried out by construction.
//!
//! What one connection may hold is bounded by [`TargetConfig`]: commands by the window, write data by
//! `write_bytes_max`, everything before login by the 8 KiB data segment and the text limits. A shell stops reading
//! its socket while [`Connection::wants_input`] says no.

mod event;
mod exchange;
mod full;
mod outbox;
mod read_data;
mod task;
#[cfg(test)]
mod tests;

pub use event::{
    AccessAnswer, AccessRequest, CloseReason, Command, Completion, Event, Grant, LoggedIn,
    SendTargets, SendTargetsId, SessionKind, TargetFilter, TargetRecord, TaskId, TaskManagement,
    TaskManagementId,
};

use crate::chap::{self, ChapAccount};
use crate::login::target::{LoginReply, LoginStep, TargetLogin};
use crate::login::{ChapPolicy, Offer};
use crate::name::{InitiatorTaskTag, Isid, LunField};
use crate::pdu::{
    EncodedPdu, Framing, LentData, LoginRequest, LoginResponse, Pdu, PduDecoder, PduError,
    RejectReason, TaskManagementResponseCode,
};
use crate::serial::CmdSn;
use crate::window::CommandWindow;
use bytes::BytesMut;
use core::time::Duration;
use full::FullFeature;
use outbox::Outbox;

/// The most events that wait for the shell before it should stop reading.
const EVENTS_MAX: usize = 1024;

/// What a target connection proposes and what it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// What is negotiated.
    pub offer: Offer,
    /// Which hashes are taken for CHAP.
    pub chap: ChapPolicy,
    /// The most commands at a time: the command window.
    pub commands_max: u32,
    /// The longest write; a longer one is refused with INVALID FIELD IN CDB.
    pub transfer_bytes_max: u32,
    /// The most write data held at a time; what is beyond it is asked for later.
    pub write_bytes_max: u64,
    /// With more than this waiting to be sent, nothing more is read.
    pub transmit_bytes_max: usize,
    /// A login must be complete by then.
    pub login_time_max: Duration,
    /// A silent initiator is pinged after this long.
    pub ping_after: Duration,
    /// A ping must be answered, and asked-for data must come, within this time.
    pub answer_time_max: Duration,
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            offer: Offer::default(),
            chap: ChapPolicy::default(),
            commands_max: 128,
            transfer_bytes_max: 16 << 20,
            write_bytes_max: 64 << 20,
            transmit_bytes_max: 8 << 20,
            login_time_max: Duration::from_secs(15),
            ping_after: Duration::from_secs(30),
            answer_time_max: Duration::from_secs(30),
        }
    }
}

/// The login phase: nothing but login requests are understood.
#[derive(Debug)]
struct LoginPhase {
    login: TargetLogin,
    deadline: Duration,
    /// From the last request: what the response repeats.
    echo: LoginEcho,
}

#[derive(Debug, Clone, Copy)]
struct LoginEcho {
    isid: Isid,
    tag: InitiatorTaskTag,
    cmd_sn: CmdSn,
}

#[derive(Debug)]
enum Phase {
    Login(Box<LoginPhase>),
    FullFeature(Box<FullFeature>),
    Closed,
}

/// The target's side of one connection.
#[derive(Debug)]
pub struct Connection {
    config: TargetConfig,
    decoder: PduDecoder,
    out: Outbox,
    phase: Phase,
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(config: TargetConfig, now: Duration) -> Self {
        let echo = LoginEcho {
            isid: Isid::default(),
            tag: InitiatorTaskTag::NONE,
            cmd_sn: CmdSn::default(),
        };
        let deadline = now.saturating_add(config.login_time_max);
        let login = TargetLogin::new(config.offer, config.chap);
        Self {
            config,
            decoder: PduDecoder::new(Framing::LOGIN),
            out: Outbox::new(),
            phase: Phase::Login(Box::new(LoginPhase {
                login,
                deadline,
                echo,
            })),
        }
    }

    /// Takes received bytes, cut anywhere.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        self.decoder.push(bytes);
        self.received(now);
    }

    /// The receive buffer: read the socket into its spare room, then call [`Connection::received`].
    pub const fn receive_buffer(&mut self) -> &mut BytesMut {
        self.decoder.buffer()
    }

    /// How many bytes are missing until the next step; a hint for how much room to make.
    #[must_use]
    pub fn wanted_bytes(&self) -> usize {
        self.decoder.wanted_bytes()
    }

    /// Takes what is in the receive buffer.
    pub fn received(&mut self, now: Duration) {
        while !self.is_closed() {
            match self.decoder.next_pdu() {
                Ok(Some(pdu)) => {
                    self.out.last_bhs = *self.decoder.last_bhs();
                    self.receive_pdu(pdu, now);
                }
                Ok(None) => return,
                Err(error) => self.refuse_pdu(error),
            }
        }
        self.decoder.buffer().clear();
    }

    /// Takes one PDU.
    pub fn receive_pdu(&mut self, pdu: Pdu, now: Duration) {
        match (&mut self.phase, pdu) {
            (Phase::Login(phase), Pdu::LoginRequest(request)) => {
                phase.echo = LoginEcho {
                    isid: request.isid,
                    tag: request.tag,
                    cmd_sn: request.cmd_sn,
                };
                let step = phase.login.request(&request);
                self.take_login_step(step, Some(&request), now);
            }
            (Phase::Login(_), _) => self.end(CloseReason::Protocol {
                why: "a PDU before login",
            }),
            (Phase::FullFeature(full), pdu) => {
                if let Err(reason) = full.receive(pdu, now, &mut self.out) {
                    self.fail(reason);
                }
            }
            (Phase::Closed, _) => {}
        }
    }

    fn take_login_step(&mut self, step: LoginStep, request: Option<&LoginRequest>, now: Duration) {
        let Phase::Login(phase) = &self.phase else {
            return;
        };
        let echo = phase.echo;
        if let Some(request) = request.filter(|_| !self.out.has_sent()) {
            // Any first StatSN will do; the initiator's guess reads well in a trace.
            self.out.stat_sn = request.exp_stat_sn;
        }
        match step {
            LoginStep::Ask(access) => self.out.event(Event::AccessRequest(access)),
            LoginStep::Claim(user) => self.out.event(Event::Claim { user }),
            LoginStep::Reply(reply) => self.send_login(reply, echo),
            LoginStep::Refused(reply) => {
                let status = reply.status;
                self.send_login(reply, echo);
                let (class, detail, why) = (status.class, status.detail, status.why);
                self.end(CloseReason::LoginRefused { class, detail, why });
            }
            LoginStep::Finished(reply, logged_in) => {
                self.send_login(reply, echo);
                let negotiated = logged_in.negotiated;
                self.decoder.set_framing(negotiated.receive_framing());
                self.out.set_framing(negotiated.send_framing());
                let window = CommandWindow::new(echo.cmd_sn, self.config.commands_max);
                let full = FullFeature::new(&self.config, &logged_in, window, now);
                self.phase = Phase::FullFeature(Box::new(full));
                self.out.event(Event::LoggedIn(*logged_in));
            }
        }
    }

    fn send_login(&mut self, reply: LoginReply, echo: LoginEcho) {
        let window = CommandWindow::new(echo.cmd_sn, self.config.commands_max);
        let sn = self.out.take_sn(&window);
        self.out.send(Pdu::LoginResponse(LoginResponse {
            transit: reply.transit,
            is_continued: reply.is_continued,
            stage: reply.stage,
            version_max: 0,
            version_active: 0,
            isid: echo.isid,
            tsih: reply.tsih,
            tag: echo.tag,
            sn,
            status_class: reply.status.class,
            status_detail: reply.status.detail,
            data: reply.data,
        }));
    }

    /// Answers an access request.
    pub fn answer_access(&mut self, answer: AccessAnswer, now: Duration) {
        if let Phase::Login(phase) = &mut self.phase {
            let step = phase.login.answer(answer);
            self.take_login_step(step, None, now);
        }
    }

    /// Answers a claim: the accounts of that user, with whose secrets the response is compared; at most
    /// [`chap::CLAIMS_MAX`] are looked at. None: login is refused as for a wrong secret.
    pub fn answer_claim(&mut self, mut accounts: Vec<ChapAccount>, now: Duration) {
        if let Phase::Login(phase) = &mut self.phase {
            accounts.truncate(chap::CLAIMS_MAX);
            let step = phase.login.answer_claim(accounts);
            self.take_login_step(step, None, now);
        }
    }

    /// Ends a command. A task that is not there any more (aborted, or the connection is closed) is no error.
    pub fn complete(&mut self, task: TaskId, completion: Completion) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.complete(task, completion, &mut self.out);
        }
    }

    /// Whether [`Connection::complete_lent`] may be used: the session is in full feature phase without data digests.
    #[must_use]
    pub fn can_lend(&self) -> bool {
        matches!(self.phase, Phase::FullFeature(_)) && self.out.can_lend()
    }

    /// Ends a read with GOOD and data that the shell sends itself, where [`EncodedPdu::lent`] says so. Where this
    /// cannot be ([`Connection::can_lend`]) the connection ends.
    pub fn complete_lent(&mut self, task: TaskId, lent: LentData, wanted_bytes: u64) {
        if !self.can_lend() {
            self.close();
        } else if let Phase::FullFeature(full) = &mut self.phase {
            full.complete_lent(task, lent, wanted_bytes, &mut self.out);
        }
    }

    /// Answers a task management request. After `Complete` the tasks it concerns are gone from this connection.
    pub fn answer_task_management(
        &mut self,
        id: TaskManagementId,
        response: TaskManagementResponseCode,
    ) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.answer_task_management(id, response, &mut self.out);
        }
    }

    /// Answers SendTargets.
    pub fn answer_send_targets(&mut self, id: SendTargetsId, targets: &[TargetRecord]) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.answer_send_targets(id, targets, &mut self.out);
        }
    }

    /// Drops the tasks of these logical units without an answer, because of what another session did.
    pub fn abort_tasks(&mut self, is_concerned: impl Fn(LunField) -> bool) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.abort_tasks(is_concerned, &mut self.out);
        }
    }

    /// Asks the initiator to log out within a time, for example before the target is stopped.
    pub fn request_logout(&mut self, within: Duration) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.request_logout(within, &mut self.out);
        }
    }

    /// Tells the initiator that the session is dropped, so that it logs in anew at once, and ends the connection.
    pub fn drop_session(&mut self) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.drop_session(&mut self.out);
        }
        self.close();
    }

    /// Ends the connection.
    pub fn close(&mut self) {
        self.end(CloseReason::Ended);
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }

    /// What is to be sent, in order. Call it again after every other call.
    pub fn poll_transmit(&mut self) -> Option<EncodedPdu> {
        self.out.poll_transmit()
    }

    /// How many bytes wait to be sent.
    #[must_use]
    pub const fn transmit_backlog_bytes(&self) -> usize {
        self.out.backlog_bytes()
    }

    /// How many bytes it holds: what waits to be sent, and the data of writes that were asked for.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let reserved = match &self.phase {
            Phase::FullFeature(full) => full.reserved_bytes(),
            Phase::Login(_) | Phase::Closed => 0,
        };
        let reserved = usize::try_from(reserved).unwrap_or(usize::MAX);
        self.out.backlog_bytes().saturating_add(reserved)
    }

    /// From now on no more write data than this is held at a time; what was asked for already still comes.
    pub fn limit_writes(&mut self, bytes_max: u64) {
        self.config.write_bytes_max = bytes_max;
        if let Phase::FullFeature(full) = &mut self.phase {
            full.limit_writes(bytes_max, &mut self.out);
        }
    }

    /// Whether the shell should read its socket: not while too much waits to be sent or to be taken.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.is_closed()
            && self.out.backlog_bytes() < self.config.transmit_bytes_max
            && self.out.event_count() < EVENTS_MAX
    }

    /// When [`Connection::handle_timeout`] is to be called, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Login(phase) => Some(phase.deadline),
            Phase::FullFeature(full) => Some(full.next_timeout()),
            Phase::Closed => None,
        }
    }

    /// Does what is due. Early and needless calls are harmless.
    pub fn handle_timeout(&mut self, now: Duration) {
        match &mut self.phase {
            Phase::Login(phase) if now >= phase.deadline => {
                self.end(CloseReason::TimedOut { what: "login" });
            }
            Phase::FullFeature(full) => {
                if let Err(reason) = full.handle_timeout(now, &mut self.out) {
                    self.end(reason);
                }
            }
            Phase::Login(_) | Phase::Closed => {}
        }
    }

    /// Whether the connection has ended: send what `poll_transmit` still has, then close the socket.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn end(&mut self, reason: CloseReason) {
        if !self.is_closed() {
            self.phase = Phase::Closed;
            self.out.event(Event::Closed(reason));
        }
    }

    /// Tells the initiator what was wrong, as far as that makes sense, and ends.
    fn fail(&mut self, reason: CloseReason) {
        if matches!(reason, CloseReason::Protocol { .. }) {
            self.send_reject(RejectReason::ProtocolError);
        }
        self.end(reason);
    }

    fn refuse_pdu(&mut self, error: PduError) {
        match error {
            PduError::UnknownOpcode { .. } => self.send_reject(RejectReason::NotSupported),
            PduError::DataDigest => self.send_reject(RejectReason::DataDigest),
            PduError::DataSegmentTooLong { .. } | PduError::BadAhs | PduError::BadField { .. } => {
                self.send_reject(RejectReason::InvalidField);
            }
            // RFC 7143 §7.8: a header that cannot be trusted is not answered.
            PduError::HeaderDigest => {}
        }
        self.end(CloseReason::Pdu(error));
    }

    /// Before login nobody is told anything: a stranger learns nothing and causes no work.
    fn send_reject(&mut self, reason: RejectReason) {
        if let Phase::FullFeature(full) = &self.phase {
            self.out.last_bhs = *self.decoder.last_bhs();
            self.out.reject(reason, full.window());
        }
    }
}
