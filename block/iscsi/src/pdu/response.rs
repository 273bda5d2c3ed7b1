//! What targets send besides the ends of commands, data and logins; the numbers every response carries.

use super::bhs::{Bhs, halves, word};
use super::{PduError, opcode};
use crate::name::{InitiatorTaskTag, LunField, TargetTransferTag};
use crate::serial::{CmdSn, DataSn, StatSn};
use bytes::Bytes;

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;
const NO_TAG: u32 = u32::MAX;

/// The sequence numbers of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseSn {
    /// StatSN.
    pub stat_sn: StatSn,
    /// ExpCmdSN: the next command in order.
    pub exp_cmd_sn: CmdSn,
    /// MaxCmdSN: the last command that may be sent.
    pub max_cmd_sn: CmdSn,
}

impl ResponseSn {
    pub(super) const fn from_words(bhs: &Bhs) -> Self {
        let [_, stat_sn, exp_cmd_sn, max_cmd_sn, ..] = bhs.words;
        Self {
            stat_sn: StatSn::new(stat_sn),
            exp_cmd_sn: CmdSn::new(exp_cmd_sn),
            max_cmd_sn: CmdSn::new(max_cmd_sn),
        }
    }

    /// The words of bytes 20–47.
    pub(super) const fn words(self, first: u32, rest: [u32; 3]) -> [u32; 7] {
        let [a, b, c] = rest;
        [
            first,
            self.stat_sn.value(),
            self.exp_cmd_sn.value(),
            self.max_cmd_sn.value(),
            a,
            b,
            c,
        ]
    }
}

/// NOP-In: a ping, or the answer to the initiator's ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NopIn {
    /// Sequence numbers.
    pub sn: ResponseSn,
    /// The LUN that goes with the transfer tag.
    pub lun: LunField,
    /// The initiator's tag when this answers a ping.
    pub tag: InitiatorTaskTag,
    /// The target's tag; `NONE` when no answer is wanted.
    pub transfer_tag: TargetTransferTag,
    /// Ping data.
    pub data: Bytes,
}

impl NopIn {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Self {
        let [transfer_tag, ..] = bhs.words;
        Self {
            sn: ResponseSn::from_words(bhs),
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            transfer_tag: TargetTransferTag(transfer_tag),
            data,
        }
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bhs = Bhs {
            opcode: opcode::NOP_IN,
            flags: FINAL,
            lun: self.lun.0,
            tag: self.tag.0,
            words: self.sn.words(self.transfer_tag.0, [0; 3]),
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}

/// Text Response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextResponse {
    /// Sequence numbers.
    pub sn: ResponseSn,
    /// F: the exchange is over.
    pub is_final: bool,
    /// C: the text goes on in the next response.
    pub is_continued: bool,
    /// The LUN that goes with the transfer tag.
    pub lun: LunField,
    /// The request's tag.
    pub tag: InitiatorTaskTag,
    /// The target's tag when the exchange goes on.
    pub transfer_tag: TargetTransferTag,
    /// Key=value text.
    pub data: Bytes,
}

impl TextResponse {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Self {
        let [transfer_tag, ..] = bhs.words;
        Self {
            sn: ResponseSn::from_words(bhs),
            is_final: bhs.flags & FINAL != 0,
            is_continued: bhs.flags & CONTINUE != 0,
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            transfer_tag: TargetTransferTag(transfer_tag),
            data,
        }
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bits = if self.is_final { FINAL } else { 0 };
        let bhs = Bhs {
            opcode: opcode::TEXT_RESPONSE,
            flags: bits | if self.is_continued { CONTINUE } else { 0 },
            lun: self.lun.0,
            tag: self.tag.0,
            words: self.sn.words(self.transfer_tag.0, [0; 3]),
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}

/// How a logout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutResponseCode {
    /// Closed.
    Closed,
    /// There is no such connection.
    CidNotFound,
    /// Recovery is not supported.
    RecoveryNotSupported,
    /// Cleaning up failed.
    CleanupFailed,
}

/// Logout Response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutResponse {
    /// Sequence numbers.
    pub sn: ResponseSn,
    /// The request's tag.
    pub tag: InitiatorTaskTag,
    /// How it ended.
    pub response: LogoutResponseCode,
    /// Seconds before a new login makes sense.
    pub time_to_wait: u16,
    /// Seconds the tasks are kept.
    pub time_to_retain: u16,
}

impl LogoutResponse {
    pub(super) fn from_parts(bhs: &Bhs) -> Result<Self, PduError> {
        let response = match bhs.byte2 {
            0 => LogoutResponseCode::Closed,
            1 => LogoutResponseCode::CidNotFound,
            2 => LogoutResponseCode::RecoveryNotSupported,
            3 => LogoutResponseCode::CleanupFailed,
            _ => return Err(bhs.bad_field("Response")),
        };
        let [_, _, _, _, _, times, _] = bhs.words;
        let (time_to_wait, time_to_retain) = halves(times);
        let (sn, tag) = (ResponseSn::from_words(bhs), InitiatorTaskTag(bhs.tag));
        Ok(Self {
            sn,
            tag,
            response,
            time_to_wait,
            time_to_retain,
        })
    }

    pub(super) fn into_bhs(self) -> Bhs {
        let response = match self.response {
            LogoutResponseCode::Closed => 0,
            LogoutResponseCode::CidNotFound => 1,
            LogoutResponseCode::RecoveryNotSupported => 2,
            LogoutResponseCode::CleanupFailed => 3,
        };
        Bhs {
            opcode: opcode::LOGOUT_RESPONSE,
            flags: FINAL,
            byte2: response,
            tag: self.tag.0,
            words: self
                .sn
                .words(0, [0, word(self.time_to_wait, self.time_to_retain), 0]),
            ..Bhs::default()
        }
    }
}

/// What an asynchronous message is about (RFC 7143 §11.9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncEvent {
    /// A SCSI event; the sense data tells.
    Scsi,
    /// The initiator is to log out within so many seconds.
    LogoutRequest {
        /// Seconds.
        within: u16,
    },
    /// A connection is dropped.
    DropConnection {
        /// Which.
        cid: u16,
        /// Seconds before a new login makes sense.
        time_to_wait: u16,
        /// Seconds the tasks are kept.
        time_to_retain: u16,
    },
    /// All connections are dropped.
    DropSession {
        /// Seconds before a new login makes sense.
        time_to_wait: u16,
        /// Seconds the tasks are kept.
        time_to_retain: u16,
    },
    /// The target wants to negotiate within so many seconds.
    Negotiate {
        /// Seconds.
        within: u16,
    },
    /// None that is known.
    Other(u8),
}

/// Asynchronous Message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncMessage {
    /// Sequence numbers.
    pub sn: ResponseSn,
    /// For which logical unit.
    pub lun: LunField,
    /// What it is about.
    pub event: AsyncEvent,
    /// Sense data with its length, or the vendor's.
    pub data: Bytes,
}

impl AsyncMessage {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Result<Self, PduError> {
        let [_, _, _, _, event, parameters, _] = bhs.words;
        let (code, first) = halves(event);
        let (second, third) = halves(parameters);
        let [code, _] = code.to_be_bytes();
        let event = match code {
            0 => AsyncEvent::Scsi,
            1 => AsyncEvent::LogoutRequest { within: third },
            2 => AsyncEvent::DropConnection {
                cid: first,
                time_to_wait: second,
                time_to_retain: third,
            },
            3 => AsyncEvent::DropSession {
                time_to_wait: second,
                time_to_retain: third,
            },
            4 => AsyncEvent::Negotiate { within: third },
            other => AsyncEvent::Other(other),
        };
        if bhs.tag != NO_TAG {
            return Err(bhs.bad_field("Initiator Task Tag"));
        }
        Ok(Self {
            sn: ResponseSn::from_words(bhs),
            lun: LunField(bhs.lun),
            event,
            data,
        })
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let (code, first, second, third) = match self.event {
            AsyncEvent::Scsi => (0, 0, 0, 0),
            AsyncEvent::LogoutRequest { within } => (1, 0, 0, within),
            AsyncEvent::DropConnection {
                cid,
                time_to_wait,
                time_to_retain,
            } => (2, cid, time_to_wait, time_to_retain),
            AsyncEvent::DropSession {
                time_to_wait,
                time_to_retain,
            } => (3, 0, time_to_wait, time_to_retain),
            AsyncEvent::Negotiate { within } => (4, 0, 0, within),
            AsyncEvent::Other(code) => (code, 0, 0, 0),
        };
        let event = word(u16::from_be_bytes([code, 0]), first);
        let bhs = Bhs {
            opcode: opcode::ASYNC_MESSAGE,
            flags: FINAL,
            lun: self.lun.0,
            tag: NO_TAG,
            words: self.sn.words(0, [event, word(second, third), 0]),
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}

/// Why a PDU was refused (RFC 7143 §11.17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// The data digest did not match.
    DataDigest,
    /// SNACK is refused.
    Snack,
    /// The initiator broke the protocol.
    ProtocolError,
    /// This is not supported.
    NotSupported,
    /// Too many immediate commands.
    TooManyImmediate,
    /// Such a task is already there.
    TaskInProgress,
    /// The acknowledgement makes no sense.
    InvalidDataAck,
    /// A field has an invalid value.
    InvalidField,
    /// Not enough resources.
    OutOfResources,
    /// The exchange was given up.
    NegotiationReset,
    /// The target is waiting for a logout.
    WaitingForLogout,
    /// None that is known.
    Other(u8),
}

impl RejectReason {
    const fn code(self) -> u8 {
        match self {
            Self::DataDigest => 2,
            Self::Snack => 3,
            Self::ProtocolError => 4,
            Self::NotSupported => 5,
            Self::TooManyImmediate => 6,
            Self::TaskInProgress => 7,
            Self::InvalidDataAck => 8,
            Self::InvalidField => 9,
            Self::OutOfResources => 10,
            Self::NegotiationReset => 11,
            Self::WaitingForLogout => 12,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            2 => Self::DataDigest,
            3 => Self::Snack,
            4 => Self::ProtocolError,
            5 => Self::NotSupported,
            6 => Self::TooManyImmediate,
            7 => Self::TaskInProgress,
            8 => Self::InvalidDataAck,
            9 => Self::InvalidField,
            10 => Self::OutOfResources,
            11 => Self::NegotiationReset,
            12 => Self::WaitingForLogout,
            other => Self::Other(other),
        }
    }
}

/// Reject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Sequence numbers.
    pub sn: ResponseSn,
    /// Why.
    pub reason: RejectReason,
    /// The DataSN or R2TSN expected next, where that is the matter.
    pub data_sn: DataSn,
    /// The header of the PDU that was refused.
    pub header: Bytes,
}

impl Reject {
    pub(super) fn from_parts(bhs: &Bhs, header: Bytes) -> Result<Self, PduError> {
        if bhs.tag != NO_TAG {
            return Err(bhs.bad_field("Initiator Task Tag"));
        }
        let [_, _, _, _, data_sn, ..] = bhs.words;
        Ok(Self {
            sn: ResponseSn::from_words(bhs),
            reason: RejectReason::from_code(bhs.byte2),
            data_sn: DataSn::new(data_sn),
            header,
        })
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bhs = Bhs {
            opcode: opcode::REJECT,
            flags: FINAL,
            byte2: self.reason.code(),
            tag: NO_TAG,
            words: self.sn.words(0, [self.data_sn.value(), 0, 0]),
            ..Bhs::default()
        };
        (bhs, self.header)
    }
}
