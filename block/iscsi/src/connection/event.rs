//! What a target connection tells its shell, and what the shell answers.

use crate::login::Negotiated;
use crate::name::{Cid, IscsiName, Isid, LunField, Tsih};
use crate::pdu::{CdbBytes, TaskAttribute, TaskManagementFunction};
use crate::serial::CmdSn;
use bytes::Bytes;

/// Names a SCSI task of one connection; never used twice, unlike the initiator's task tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub(crate) u64);

/// Names a task management request of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskManagementId(pub(crate) u64);

/// Names a SendTargets request of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendTargetsId(pub(crate) u64);

/// What happened on a connection, in order.
#[derive(Debug)]
pub enum Event {
    /// An initiator said who it is and what it wants: answer with [`Connection::answer_access`](super::Connection::answer_access).
    AccessRequest(AccessRequest),
    /// An initiator says which CHAP user it is: answer with [`Connection::answer_claim`](super::Connection::answer_claim).
    Claim {
        /// CHAP_N.
        user: String,
    },
    /// Login is complete. A session of the same initiator, ISID, target and portal group is reinstated by this one:
    /// the shell ends the older.
    LoggedIn(LoggedIn),
    /// A SCSI command with all its data: answer with [`Connection::complete`](super::Connection::complete).
    Command(Command),
    /// Answer with [`Connection::answer_task_management`](super::Connection::answer_task_management).
    TaskManagement(TaskManagement),
    /// Answer with [`Connection::answer_send_targets`](super::Connection::answer_send_targets).
    SendTargets(SendTargets),
    /// The initiator takes its leave; its tasks are gone, the answer is on its way, `Closed` follows.
    Logout,
    /// Nothing more comes or is accepted. What `poll_transmit` still has is to be sent, then the socket is closed.
    Closed(CloseReason),
}

/// What a session is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionKind {
    /// Asking which targets there are.
    Discovery,
    /// Using this target.
    Normal {
        /// The target's name.
        target: IscsiName,
    },
}

/// Who asks to log in, before anything about it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRequest {
    /// Who it says it is.
    pub initiator: IscsiName,
    /// What it wants.
    pub kind: SessionKind,
    /// The initiator's part of the session identifier.
    pub isid: Isid,
    /// The connection's number.
    pub cid: Cid,
}

/// What the shell says to an access request.
#[derive(Debug, Clone)]
pub enum AccessAnswer {
    /// It may log in, if it proves itself as the grant asks.
    Allow(Grant),
    /// There is no such target, or not for this initiator (the two look the same from outside): status 0203h.
    NotFound,
    /// The initiator may not use this target: status 0202h.
    Forbidden,
    /// Too many sessions or no memory: status 0302h, out of resources.
    Busy,
    /// The target is going away or being served elsewhere for a while: status 0301h, service unavailable.
    Unavailable,
    /// Ask at another portal (`address:port,group` or `address:port`).
    Redirect {
        /// The TargetAddress.
        address: String,
        /// Whether for good (0102h) or for now (0101h).
        is_permanent: bool,
    },
}

/// The conditions under which an initiator may log in.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The target's part of the session identifier: not zero, and unique among living sessions.
    pub tsih: Tsih,
    /// The portal group tag of the portal.
    pub portal_group: u16,
    /// A name for people, told to the initiator.
    pub alias: Option<String>,
    /// Whether the initiator must prove itself by CHAP. As who, is asked for when it says its user name
    /// ([`Event::Claim`]), so that nobody makes the target hold accounts for it.
    pub is_proof_wanted: bool,
    /// Fresh random bytes for the challenge.
    pub challenge: crate::chap::Challenge,
}

/// A session that has begun.
#[derive(Debug, Clone)]
pub struct LoggedIn {
    /// Who it is.
    pub initiator: IscsiName,
    /// What for.
    pub kind: SessionKind,
    /// The initiator's part of the session identifier.
    pub isid: Isid,
    /// The target's part.
    pub tsih: Tsih,
    /// The connection's number.
    pub cid: Cid,
    /// Which of the accounts that answered its claim it proved to be.
    pub account: Option<usize>,
    /// What was agreed.
    pub negotiated: Negotiated,
}

/// A SCSI command that is ready to be carried out.
#[derive(Debug, Clone)]
pub struct Command {
    /// Its name on this connection.
    pub task: TaskId,
    /// For which logical unit.
    pub lun: LunField,
    /// What to do.
    pub cdb: CdbBytes,
    /// How it is ordered among others.
    pub attribute: TaskAttribute,
    /// Its place in the session's order.
    pub cmd_sn: CmdSn,
    /// How many bytes the initiator wants to read at most.
    pub read_bytes: u32,
    /// How many bytes the initiator offered to write: the length of `data`.
    pub write_bytes: u32,
    /// The data to write, whole: immediate, unsolicited and solicited.
    pub data: Bytes,
}

/// How a SCSI command ended.
#[derive(Debug, Clone, Default)]
pub struct Completion {
    /// The SCSI status byte: 00h GOOD, 02h CHECK CONDITION, 08h BUSY, 18h RESERVATION CONFLICT, 28h TASK SET FULL, …
    pub status: u8,
    /// Sense data (without the iSCSI length field); empty when there is none.
    pub sense: Bytes,
    /// What a read gives; cut at what the initiator expects.
    pub data: Bytes,
    /// How many bytes the command itself moves by its CDB: against what the initiator expects it makes the residual.
    pub wanted_bytes: u64,
}

impl Completion {
    /// GOOD, and these bytes for the initiator.
    #[must_use]
    pub fn data(data: Bytes) -> Self {
        let wanted_bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        Self {
            status: 0,
            sense: Bytes::new(),
            data,
            wanted_bytes,
        }
    }

    /// GOOD, and so many bytes were taken from the initiator (0 for a command without data).
    #[must_use]
    pub const fn taken(wanted_bytes: u64) -> Self {
        Self {
            status: 0,
            sense: Bytes::new(),
            data: Bytes::new(),
            wanted_bytes,
        }
    }

    /// Another status than GOOD, with sense data if it is CHECK CONDITION; no data was moved.
    #[must_use]
    pub const fn failed(status: u8, sense: Bytes) -> Self {
        Self {
            status,
            sense,
            data: Bytes::new(),
            wanted_bytes: 0,
        }
    }
}

/// A request about tasks rather than a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskManagement {
    /// Its name on this connection.
    pub id: TaskManagementId,
    /// What is asked.
    pub function: TaskManagementFunction,
    /// For which logical unit (not for the target resets).
    pub lun: LunField,
    /// ABORT TASK: the task meant, already handed out as `Command` and not completed yet. An abort
    /// of a task that has not got that far is answered without the shell.
    pub referenced: Option<TaskId>,
}

/// Which targets an initiator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetFilter {
    /// All it may see.
    All,
    /// The one it is logged in to, or the one it names.
    One(IscsiName),
}

/// A SendTargets request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendTargets {
    /// Its name on this connection.
    pub id: SendTargetsId,
    /// What is asked for.
    pub filter: TargetFilter,
}

/// One target in the answer to SendTargets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRecord {
    /// Its name.
    pub name: IscsiName,
    /// Where it can be reached: `address:port` (IPv6 in brackets) and the portal group tag.
    pub portals: Vec<(String, u16)>,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The initiator logged out.
    #[error("the initiator logged out")]
    Logout,
    /// Login did not succeed; the login status is class and detail.
    #[error("login refused with status {class:02x}{detail:02x}: {why}")]
    LoginRefused {
        /// Status class.
        class: u8,
        /// Status detail.
        detail: u8,
        /// In words.
        why: &'static str,
    },
    /// The initiator broke the protocol.
    #[error("protocol error: {why}")]
    Protocol {
        /// What it did.
        why: &'static str,
    },
    /// What it sent is no PDU, or a digest did not match.
    #[error("bad PDU: {0}")]
    Pdu(#[from] crate::pdu::PduError),
    /// Something did not come in time.
    #[error("timed out: {what}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
    },
    /// The shell ended it.
    #[error("ended by the target")]
    Ended,
}
