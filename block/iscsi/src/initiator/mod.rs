//! The initiator's side of one connection, which is the whole session.
//!
//! Bytes and the time go in; PDUs to send and [`InitiatorEvent`]s come out. A shell submits commands at any time:
//! they wait for login and for the command window. When the connection fails, the shell makes a new one and submits
//! again what had not been completed.

mod command;

pub use crate::login::initiator::{LoginError, LoginOptions};
pub use command::{CommandId, CommandOutcome, Submission};

use crate::connection::{SessionKind, TargetRecord};
use crate::login::Negotiated;
use crate::login::initiator::{InitiatorLogin, LoginProgress, LoginSend};
use crate::name::{Cid, InitiatorTaskTag, LunField, TargetTransferTag, Tsih};
use crate::pdu::{
    AsyncEvent, AsyncMessage, EncodedPdu, Framing, LoginRequest, LoginResponse, LogoutReason,
    LogoutRequest, NopIn, NopOut, Pdu, PduDecoder, PduEncoder, PduError, RejectReason, RequestSn,
    ResponseSn, TaskManagementFunction, TaskManagementRequest, TaskManagementResponseCode,
    TextRequest, TextResponse,
};
use crate::serial::{CmdSn, DataSn, StatSn};
use crate::text::{TEXT_BYTES_MAX, Text};
use bytes::{Bytes, BytesMut};
use command::Commands;
use core::time::Duration;
use std::collections::VecDeque;

/// The most commands that may wait for the window.
pub const SUBMISSIONS_MAX: usize = 4096;
/// The longest answer to SendTargets, all its PDUs together.
const TARGETS_BYTES_MAX: usize = 4 << 20;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitiatorTimes {
    /// A login must be complete by then.
    pub login_time_max: Duration,
    /// A silent target is pinged after this long.
    pub ping_after: Duration,
    /// A ping must be answered within this time.
    pub answer_time_max: Duration,
}

impl Default for InitiatorTimes {
    fn default() -> Self {
        Self {
            login_time_max: Duration::from_secs(15),
            ping_after: Duration::from_secs(5),
            answer_time_max: Duration::from_secs(5),
        }
    }
}

/// What happened on a connection, in order.
#[derive(Debug)]
pub enum InitiatorEvent {
    /// Login is complete.
    LoggedIn(Negotiated),
    /// A command ended.
    Completed(CommandOutcome),
    /// The answer to [`Initiator::discover`].
    Targets(Vec<TargetRecord>),
    /// The answer to [`Initiator::task_management`].
    TaskManagement(TaskManagementResponseCode),
    /// The target asks for a logout within this time.
    LogoutRequested {
        /// How soon.
        within: Duration,
    },
    /// The answer to [`Initiator::logout`] came: the socket can be closed.
    LoggedOut,
    /// The connection is of no use any more; commands that are not completed may or may not have been carried out.
    Failed(InitiatorError),
}

/// Why a connection is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitiatorError {
    /// Login did not succeed.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// What the target sent is no PDU, or a digest did not match.
    #[error("the target sent a bad PDU: {0}")]
    Pdu(#[from] PduError),
    /// The target broke the protocol.
    #[error("the target broke the protocol: {why}")]
    Protocol {
        /// What it did.
        why: &'static str,
    },
    /// The target refused a PDU.
    #[error("the target refused a PDU: {reason:?}")]
    Rejected {
        /// Why.
        reason: RejectReason,
    },
    /// Something did not come in time.
    #[error("timed out: {what}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
    },
    /// The target drops the connection.
    #[error("the target drops the connection")]
    Dropped,
}

/// More commands wait than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{SUBMISSIONS_MAX} commands wait already")]
pub struct TooManySubmissions;

#[derive(Debug)]
enum Phase {
    Login {
        login: Box<InitiatorLogin>,
        deadline: Duration,
    },
    FullFeature,
    Closed,
}

/// The initiator's side of one connection.
#[derive(Debug)]
pub struct Initiator {
    times: InitiatorTimes,
    options: LoginOptions,
    phase: Phase,
    decoder: PduDecoder,
    encoder: PduEncoder,
    out: VecDeque<EncodedPdu>,
    events: VecDeque<InitiatorEvent>,
    agreed: Negotiated,
    commands: Commands,
    cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    exp_stat_sn: StatSn,
    next_tag: u32,
    targets_text: Vec<u8>,
    last_heard: Duration,
    pinged_at: Option<Duration>,
}

const PROTOCOL_TAG: InitiatorTaskTag = InitiatorTaskTag(0);
const CID: Cid = Cid(0);

impl Initiator {
    /// A connection that was just made; the first login request is ready to be sent.
    #[must_use]
    pub fn new(options: LoginOptions, times: InitiatorTimes, now: Duration) -> Self {
        let login = InitiatorLogin::new(options);
        let first = login.begin();
        let mut machine = Self {
            times,
            options: login.options().clone(),
            phase: Phase::Login {
                login: Box::new(login),
                deadline: now.saturating_add(times.login_time_max),
            },
            decoder: PduDecoder::new(Framing::LOGIN),
            encoder: PduEncoder::new(Framing::LOGIN),
            out: VecDeque::new(),
            events: VecDeque::new(),
            agreed: Negotiated::default(),
            commands: Commands::default(),
            cmd_sn: CmdSn::new(1),
            max_cmd_sn: CmdSn::new(0),
            exp_stat_sn: StatSn::default(),
            next_tag: 0,
            targets_text: Vec::new(),
            last_heard: now,
            pinged_at: None,
        };
        machine.send_login(first);
        machine
    }

    /// Takes received bytes, cut anywhere.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        self.decoder.push(bytes);
        self.received(now);
    }

    /// The receive buffer: read the socket into its spare room, then call [`Initiator::received`].
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
            let outcome = match self.decoder.next_pdu() {
                Ok(Some(pdu)) => self.take_pdu(pdu, now),
                Ok(None) => return,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = outcome {
                self.fail(error);
            }
        }
        self.decoder.buffer().clear();
    }

    /// Submits a command. It is sent once the login is complete and the window is open.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn submit(&mut self, submission: Submission) -> Result<CommandId, TooManySubmissions> {
        if self.commands.waiting_count() >= SUBMISSIONS_MAX {
            return Err(TooManySubmissions);
        }
        let id = self.commands.enqueue(submission);
        self.send_commands();
        Ok(id)
    }

    /// Asks which targets there are.
    pub fn discover(&mut self) {
        let text = Text::new().with("SendTargets", "All").to_bytes();
        self.targets_text.clear();
        self.send_text(text, TargetTransferTag::NONE);
    }

    /// Asks, in a normal session, where its own target can be reached.
    pub fn discover_own(&mut self) {
        let text = Text::new().with("SendTargets", "").to_bytes();
        self.targets_text.clear();
        self.send_text(text, TargetTransferTag::NONE);
    }

    /// Asks for a task management function that concerns a logical unit or the target.
    pub fn task_management(&mut self, function: TaskManagementFunction, lun: LunField) {
        let request = TaskManagementRequest {
            sn: self.immediate(),
            function,
            lun,
            tag: PROTOCOL_TAG,
            referenced_tag: InitiatorTaskTag::NONE,
            ref_cmd_sn: CmdSn::default(),
            exp_data_sn: DataSn::default(),
        };
        self.send(Pdu::TaskManagementRequest(request));
    }

    /// Takes leave.
    pub fn logout(&mut self) {
        if matches!(self.phase, Phase::FullFeature) {
            let (sn, reason) = (self.immediate(), LogoutReason::CloseSession);
            self.send(Pdu::LogoutRequest(LogoutRequest {
                sn,
                reason,
                tag: PROTOCOL_TAG,
                cid: CID,
            }));
        }
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<InitiatorEvent> {
        self.events.pop_front()
    }

    /// What is to be sent, in order. Call it again after every other call.
    pub fn poll_transmit(&mut self) -> Option<EncodedPdu> {
        self.out.pop_front()
    }

    /// When [`Initiator::handle_timeout`] is to be called, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        match (&self.phase, self.pinged_at) {
            (Phase::Login { deadline, .. }, _) => Some(*deadline),
            (Phase::FullFeature, Some(at)) => Some(at.saturating_add(self.times.answer_time_max)),
            (Phase::FullFeature, None) => {
                Some(self.last_heard.saturating_add(self.times.ping_after))
            }
            (Phase::Closed, _) => None,
        }
    }

    /// Does what is due. Early and needless calls are harmless.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        match (&self.phase, self.pinged_at) {
            (Phase::Login { .. }, _) => self.fail(InitiatorError::TimedOut { what: "login" }),
            (Phase::FullFeature, Some(_)) => {
                self.fail(InitiatorError::TimedOut {
                    what: "the answer to a ping",
                });
            }
            (Phase::FullFeature, None) => {
                self.pinged_at = Some(now);
                let nop = NopOut {
                    sn: self.immediate(),
                    lun: LunField::default(),
                    tag: PROTOCOL_TAG,
                    transfer_tag: TargetTransferTag::NONE,
                    data: Bytes::new(),
                };
                self.send(Pdu::NopOut(nop));
            }
            (Phase::Closed, _) => {}
        }
    }

    /// Whether the connection has failed or ended.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn fail(&mut self, error: InitiatorError) {
        if !self.is_closed() {
            self.phase = Phase::Closed;
            self.events.push_back(InitiatorEvent::Failed(error));
        }
    }

    fn send(&mut self, pdu: Pdu) {
        self.out.push_back(self.encoder.encode(pdu));
    }

    const fn immediate(&self) -> RequestSn {
        RequestSn {
            is_immediate: true,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        }
    }

    /// Task tags of commands begin at 1; 0 is for what is no command.
    const fn take_tag(&mut self) -> InitiatorTaskTag {
        self.next_tag = if self.next_tag >= 0x7fff_ffff {
            1
        } else {
            self.next_tag + 1
        };
        InitiatorTaskTag(self.next_tag)
    }

    fn send_login(&mut self, send: LoginSend) {
        let request = LoginRequest {
            transit: send.transit,
            is_continued: false,
            stage: send.stage,
            version_max: 0,
            version_min: 0,
            isid: self.options.isid,
            tsih: Tsih(0),
            tag: PROTOCOL_TAG,
            cid: CID,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data: send.text.to_bytes(),
        };
        self.send(Pdu::LoginRequest(request));
    }

    fn send_text(&mut self, data: Bytes, transfer_tag: TargetTransferTag) {
        let request = TextRequest {
            sn: self.immediate(),
            is_final: true,
            is_continued: false,
            lun: LunField::default(),
            tag: PROTOCOL_TAG,
            transfer_tag,
            data,
        };
        self.send(Pdu::TextRequest(request));
    }

    fn take_pdu(&mut self, pdu: Pdu, now: Duration) -> Result<(), InitiatorError> {
        self.last_heard = now;
        self.pinged_at = None;
        if let Pdu::LoginResponse(response) = &pdu {
            return self.take_login(response);
        }
        if !matches!(self.phase, Phase::FullFeature) {
            return Err(InitiatorError::Protocol {
                why: "a PDU before login",
            });
        }
        match pdu {
            Pdu::ScsiResponse(response) => {
                self.see(response.sn, true);
                let outcome = self.commands.finish(response)?;
                self.events.push_back(InitiatorEvent::Completed(outcome));
            }
            Pdu::DataIn(data) => {
                self.see_window(data.exp_cmd_sn, data.max_cmd_sn);
                if let Some(status) = data.status {
                    self.exp_stat_sn = status.stat_sn.next();
                }
                if let Some(outcome) = self.commands.data_in(data)? {
                    self.events.push_back(InitiatorEvent::Completed(outcome));
                }
            }
            Pdu::R2t(r2t) => {
                self.see(r2t.sn, false);
                let exp_stat_sn = self.exp_stat_sn;
                for data in self.commands.answer_r2t(&r2t, &self.agreed, exp_stat_sn)? {
                    self.send(Pdu::DataOut(data));
                }
            }
            other => return self.take_rare(other),
        }
        self.send_commands();
        Ok(())
    }

    fn take_rare(&mut self, pdu: Pdu) -> Result<(), InitiatorError> {
        match pdu {
            Pdu::NopIn(nop) => self.take_nop(nop),
            Pdu::TextResponse(response) => return self.take_text(&response),
            Pdu::TaskManagementResponse(response) => {
                self.see(response.sn, true);
                self.events
                    .push_back(InitiatorEvent::TaskManagement(response.response));
            }
            Pdu::LogoutResponse(_) => {
                self.phase = Phase::Closed;
                self.events.push_back(InitiatorEvent::LoggedOut);
            }
            Pdu::AsyncMessage(message) => return self.take_async(&message),
            Pdu::Reject(reject) => {
                return Err(InitiatorError::Rejected {
                    reason: reject.reason,
                });
            }
            _ => {
                return Err(InitiatorError::Protocol {
                    why: "a PDU that only initiators send",
                });
            }
        }
        self.send_commands();
        Ok(())
    }

    /// Notes the numbers of a response.
    fn see(&mut self, sn: ResponseSn, uses_up_stat_sn: bool) {
        if uses_up_stat_sn {
            self.exp_stat_sn = sn.stat_sn.next();
        }
        self.see_window(sn.exp_cmd_sn, sn.max_cmd_sn);
    }

    /// RFC 7143 §4.2.2.1: a MaxCmdSN below ExpCmdSN − 1 is ignored, and the window never closes.
    fn see_window(&mut self, exp_cmd_sn: CmdSn, max_cmd_sn: CmdSn) {
        if max_cmd_sn >= exp_cmd_sn.previous() && max_cmd_sn > self.max_cmd_sn {
            self.max_cmd_sn = max_cmd_sn;
        }
    }

    fn take_login(&mut self, response: &LoginResponse) -> Result<(), InitiatorError> {
        let Phase::Login { login, .. } = &mut self.phase else {
            return Err(InitiatorError::Protocol {
                why: "a second login response",
            });
        };
        let progress = login.response(response)?;
        self.exp_stat_sn = response.sn.stat_sn.next();
        match progress {
            LoginProgress::Send(send) => self.send_login(send),
            LoginProgress::Finished { negotiated } => {
                self.phase = Phase::FullFeature;
                self.agreed = negotiated;
                self.decoder.set_framing(negotiated.receive_framing());
                self.encoder.set_framing(negotiated.send_framing());
                self.max_cmd_sn = response.sn.max_cmd_sn;
                self.events.push_back(InitiatorEvent::LoggedIn(negotiated));
                self.send_commands();
            }
        }
        Ok(())
    }

    /// Sends the commands that the window has room for.
    fn send_commands(&mut self) {
        let is_normal = matches!(self.options.kind, SessionKind::Normal { .. });
        if !matches!(self.phase, Phase::FullFeature) || !is_normal {
            return;
        }
        while self.cmd_sn <= self.max_cmd_sn {
            let Some(waiting) = self.commands.take_waiting() else {
                return;
            };
            let sn = RequestSn {
                is_immediate: false,
                ..self.immediate()
            };
            self.cmd_sn = self.cmd_sn.next();
            let tag = self.take_tag();
            for pdu in self.commands.begin(waiting, tag, sn, &self.agreed) {
                self.send(pdu);
            }
        }
    }

    fn take_nop(&mut self, nop: NopIn) {
        let is_ping = nop.transfer_tag != TargetTransferTag::NONE;
        self.see(nop.sn, nop.tag != InitiatorTaskTag::NONE);
        if is_ping {
            let (sn, tag) = (self.immediate(), InitiatorTaskTag::NONE);
            let NopIn {
                lun,
                transfer_tag,
                data,
                ..
            } = nop;
            self.send(Pdu::NopOut(NopOut {
                sn,
                lun,
                tag,
                transfer_tag,
                data,
            }));
        }
    }

    fn take_text(&mut self, response: &TextResponse) -> Result<(), InitiatorError> {
        self.see(response.sn, true);
        if self.targets_text.len().saturating_add(response.data.len()) > TARGETS_BYTES_MAX {
            return Err(InitiatorError::Protocol {
                why: "a list of targets without an end",
            });
        }
        self.targets_text.extend_from_slice(&response.data);
        if response.transfer_tag != TargetTransferTag::NONE {
            self.send_text(Bytes::new(), response.transfer_tag);
            return Ok(());
        }
        let text = core::mem::take(&mut self.targets_text);
        let targets = parse_targets(&text).ok_or(InitiatorError::Protocol {
            why: "a malformed list of targets",
        })?;
        self.events.push_back(InitiatorEvent::Targets(targets));
        Ok(())
    }

    fn take_async(&mut self, message: &AsyncMessage) -> Result<(), InitiatorError> {
        self.see(message.sn, true);
        match message.event {
            AsyncEvent::LogoutRequest { within } => {
                let within = Duration::from_secs(u64::from(within));
                self.events
                    .push_back(InitiatorEvent::LogoutRequested { within });
                Ok(())
            }
            AsyncEvent::DropConnection { .. } | AsyncEvent::DropSession { .. } => {
                Err(InitiatorError::Dropped)
            }
            // Unit attentions come with the next command too; nothing else is negotiated here.
            AsyncEvent::Scsi | AsyncEvent::Negotiate { .. } | AsyncEvent::Other(_) => Ok(()),
        }
    }
}

/// Reads the answer to SendTargets: unlike other texts it has keys more than once.
fn parse_targets(bytes: &[u8]) -> Option<Vec<TargetRecord>> {
    let mut targets: Vec<TargetRecord> = Vec::new();
    for item in bytes
        .split(|byte| *byte == 0)
        .filter(|item| !item.is_empty())
    {
        if item.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (key, value) = str::from_utf8(item).ok()?.split_once('=')?;
        match key {
            "TargetName" => {
                targets.push(TargetRecord {
                    name: value.parse().ok()?,
                    portals: Vec::new(),
                });
            }
            "TargetAddress" => {
                let (address, group) = value.rsplit_once(',').unwrap_or((value, "1"));
                let portal = (address.to_owned(), group.parse().ok()?);
                targets.last_mut()?.portals.push(portal);
            }
            _ => {}
        }
    }
    Some(targets)
}
