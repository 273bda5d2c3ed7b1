//! What initiators send besides commands, data and logins; the numbers every request carries.

use super::bhs::{Bhs, halves, word};
use super::{PduError, opcode};
use crate::name::{Cid, InitiatorTaskTag, LunField, TargetTransferTag};
use crate::serial::{CmdSn, StatSn};
use bytes::Bytes;

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// The sequence numbers of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestSn {
    /// Whether it is to be taken at once and has no place in the order.
    pub is_immediate: bool,
    /// CmdSN.
    pub cmd_sn: CmdSn,
    /// ExpStatSN: the statuses before it have arrived.
    pub exp_stat_sn: StatSn,
}

impl RequestSn {
    pub(super) const fn from_words(bhs: &Bhs) -> Self {
        let [_, cmd_sn, exp_stat_sn, ..] = bhs.words;
        Self {
            is_immediate: bhs.is_immediate,
            cmd_sn: CmdSn::new(cmd_sn),
            exp_stat_sn: StatSn::new(exp_stat_sn),
        }
    }
}

/// NOP-Out: a ping, or the answer to the target's ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NopOut {
    /// Sequence numbers.
    pub sn: RequestSn,
    /// The LUN the target sent in its ping.
    pub lun: LunField,
    /// Its tag; `NONE` when no answer is wanted.
    pub tag: InitiatorTaskTag,
    /// The target's tag when this answers a ping.
    pub transfer_tag: TargetTransferTag,
    /// Ping data.
    pub data: Bytes,
}

impl NopOut {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Self {
        Self {
            sn: RequestSn::from_words(bhs),
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            transfer_tag: TargetTransferTag(bhs.words[0]),
            data,
        }
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bhs = Bhs {
            opcode: opcode::NOP_OUT,
            is_immediate: self.sn.is_immediate,
            flags: FINAL,
            lun: self.lun.0,
            tag: self.tag.0,
            words: sequence(self.transfer_tag.0, self.sn),
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}

pub(super) const fn sequence(first: u32, sn: RequestSn) -> [u32; 7] {
    [first, sn.cmd_sn.value(), sn.exp_stat_sn.value(), 0, 0, 0, 0]
}

/// Text Request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRequest {
    /// Sequence numbers.
    pub sn: RequestSn,
    /// F: the initiator has said all.
    pub is_final: bool,
    /// C: the text goes on in the next request.
    pub is_continued: bool,
    /// The LUN the target sent with its transfer tag.
    pub lun: LunField,
    /// Its tag.
    pub tag: InitiatorTaskTag,
    /// The target's tag, to go on with an exchange.
    pub transfer_tag: TargetTransferTag,
    /// Key=value text.
    pub data: Bytes,
}

impl TextRequest {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Self {
        Self {
            sn: RequestSn::from_words(bhs),
            is_final: bhs.flags & FINAL != 0,
            is_continued: bhs.flags & CONTINUE != 0,
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            transfer_tag: TargetTransferTag(bhs.words[0]),
            data,
        }
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bits = if self.is_final { FINAL } else { 0 };
        let bhs = Bhs {
            opcode: opcode::TEXT_REQUEST,
            is_immediate: self.sn.is_immediate,
            flags: bits | if self.is_continued { CONTINUE } else { 0 },
            lun: self.lun.0,
            tag: self.tag.0,
            words: sequence(self.transfer_tag.0, self.sn),
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}

/// What is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutReason {
    /// The session.
    CloseSession,
    /// One connection.
    CloseConnection,
    /// One connection, whose tasks will go on elsewhere.
    RemoveForRecovery,
}

/// Logout Request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutRequest {
    /// Sequence numbers.
    pub sn: RequestSn,
    /// What is to be ended.
    pub reason: LogoutReason,
    /// Its tag.
    pub tag: InitiatorTaskTag,
    /// The connection that is to be ended.
    pub cid: Cid,
}

impl LogoutRequest {
    pub(super) fn from_parts(bhs: &Bhs) -> Result<Self, PduError> {
        let reason = match bhs.flags & 0x7f {
            0 => LogoutReason::CloseSession,
            1 => LogoutReason::CloseConnection,
            2 => LogoutReason::RemoveForRecovery,
            _ => return Err(bhs.bad_field("Reason Code")),
        };
        let cid = Cid(halves(bhs.words[0]).0);
        Ok(Self {
            sn: RequestSn::from_words(bhs),
            reason,
            tag: InitiatorTaskTag(bhs.tag),
            cid,
        })
    }

    pub(super) fn into_bhs(self) -> Bhs {
        let reason = match self.reason {
            LogoutReason::CloseSession => 0,
            LogoutReason::CloseConnection => 1,
            LogoutReason::RemoveForRecovery => 2,
        };
        Bhs {
            opcode: opcode::LOGOUT_REQUEST,
            is_immediate: self.sn.is_immediate,
            flags: FINAL | reason,
            tag: self.tag.0,
            words: sequence(word(self.cid.0, 0), self.sn),
            ..Bhs::default()
        }
    }
}

/// SNACK Request: asks for PDUs again. Nobody answers it at ErrorRecoveryLevel 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnackRequest {
    /// What is asked for again.
    pub kind: u8,
    /// For which logical unit.
    pub lun: LunField,
    /// The task.
    pub tag: InitiatorTaskTag,
    /// The transfer.
    pub transfer_tag: TargetTransferTag,
    /// ExpStatSN.
    pub exp_stat_sn: StatSn,
    /// The first that is missing.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl SnackRequest {
    pub(super) const fn from_parts(bhs: &Bhs) -> Self {
        let [transfer_tag, _, exp_stat_sn, _, _, first, count] = bhs.words;
        Self {
            kind: bhs.flags & 0x0f,
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            transfer_tag: TargetTransferTag(transfer_tag),
            exp_stat_sn: StatSn::new(exp_stat_sn),
            first,
            count,
        }
    }

    pub(super) fn into_bhs(self) -> Bhs {
        Bhs {
            opcode: opcode::SNACK_REQUEST,
            flags: FINAL | (self.kind & 0x0f),
            lun: self.lun.0,
            tag: self.tag.0,
            words: [
                self.transfer_tag.0,
                0,
                self.exp_stat_sn.value(),
                0,
                0,
                self.first,
                self.count,
            ],
            ..Bhs::default()
        }
    }
}
