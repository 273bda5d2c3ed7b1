//! Data-Out, Data-In and R2T: what moves the data of a command.

use super::bhs::Bhs;
use super::opcode;
use super::response::ResponseSn;
use super::scsi::Residual;
use crate::name::{InitiatorTaskTag, LunField, TargetTransferTag};
use crate::serial::{CmdSn, DataSn, StatSn};
use bytes::Bytes;

const FINAL: u8 = 0x80;

/// SCSI Data-Out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataOut {
    /// F: the last of its sequence.
    pub is_final: bool,
    /// The LUN the target sent in its R2T.
    pub lun: LunField,
    /// The task.
    pub tag: InitiatorTaskTag,
    /// The R2T it answers; `NONE` for unsolicited data.
    pub transfer_tag: TargetTransferTag,
    /// ExpStatSN.
    pub exp_stat_sn: StatSn,
    /// Its number in its sequence.
    pub data_sn: DataSn,
    /// Where in the task's data it belongs.
    pub offset: u32,
    /// The data.
    pub data: Bytes,
}

impl DataOut {
    pub(super) const fn from_parts(bhs: &Bhs, data: Bytes) -> Self {
        let [transfer_tag, _, exp_stat_sn, _, data_sn, offset, _] = bhs.words;
        Self {
            is_final: bhs.flags & FINAL != 0,
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            transfer_tag: TargetTransferTag(transfer_tag),
            exp_stat_sn: StatSn::new(exp_stat_sn),
            data_sn: DataSn::new(data_sn),
            offset,
            data,
        }
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bhs = Bhs {
            opcode: opcode::DATA_OUT,
            flags: if self.is_final { FINAL } else { 0 },
            lun: self.lun.0,
            tag: self.tag.0,
            words: [
                self.transfer_tag.0,
                0,
                self.exp_stat_sn.value(),
                0,
                self.data_sn.value(),
                self.offset,
                0,
            ],
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}

/// The status that a last Data-In carries when no SCSI Response follows (S).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataInStatus {
    /// StatSN: it has a meaning only with a status.
    pub stat_sn: StatSn,
    /// The SCSI status.
    pub status: u8,
    /// The residual.
    pub residual: Residual,
}

/// SCSI Data-In.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataIn {
    /// ExpCmdSN.
    pub exp_cmd_sn: CmdSn,
    /// MaxCmdSN.
    pub max_cmd_sn: CmdSn,
    /// F: the last of its burst.
    pub is_final: bool,
    /// A: the target wants to know that it arrived.
    pub wants_acknowledgement: bool,
    /// The status, in the last one.
    pub status: Option<DataInStatus>,
    /// The LUN that goes with the transfer tag.
    pub lun: LunField,
    /// The task.
    pub tag: InitiatorTaskTag,
    /// The target's tag, with A.
    pub transfer_tag: TargetTransferTag,
    /// Its number among the task's Data-In.
    pub data_sn: DataSn,
    /// Where in the task's data it belongs.
    pub offset: u32,
    /// The data.
    pub data: Bytes,
}

const ACKNOWLEDGE: u8 = 0x40;
const HAS_STATUS: u8 = 0x01;

impl DataIn {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Self {
        let [
            transfer_tag,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data_sn,
            offset,
            residual,
        ] = bhs.words;
        let status = (bhs.flags & HAS_STATUS != 0).then(|| DataInStatus {
            stat_sn: StatSn::new(stat_sn),
            status: bhs.byte3,
            residual: Residual::from_flags(bhs.flags, residual),
        });
        Self {
            exp_cmd_sn: CmdSn::new(exp_cmd_sn),
            max_cmd_sn: CmdSn::new(max_cmd_sn),
            is_final: bhs.flags & FINAL != 0,
            wants_acknowledgement: bhs.flags & ACKNOWLEDGE != 0,
            status,
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            transfer_tag: TargetTransferTag(transfer_tag),
            data_sn: DataSn::new(data_sn),
            offset,
            data,
        }
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let residual = self.status.map_or(Residual::None, |status| status.residual);
        let flags = bit(self.is_final, FINAL)
            | bit(self.wants_acknowledgement, ACKNOWLEDGE)
            | bit(self.status.is_some(), HAS_STATUS)
            | residual.flags();
        let bhs = Bhs {
            opcode: opcode::DATA_IN,
            flags,
            byte3: self.status.map_or(0, |status| status.status),
            lun: self.lun.0,
            tag: self.tag.0,
            words: [
                self.transfer_tag.0,
                self.status.map_or(0, |status| status.stat_sn.value()),
                self.exp_cmd_sn.value(),
                self.max_cmd_sn.value(),
                self.data_sn.value(),
                self.offset,
                residual.count(),
            ],
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}

/// Ready To Transfer: the target asks for a part of a task's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct R2t {
    /// Sequence numbers; StatSN is the next one, not used up.
    pub sn: ResponseSn,
    /// For which logical unit.
    pub lun: LunField,
    /// The task.
    pub tag: InitiatorTaskTag,
    /// Its name, for the Data-Out that answer it.
    pub transfer_tag: TargetTransferTag,
    /// Its number among the task's R2Ts.
    pub r2t_sn: DataSn,
    /// From where.
    pub offset: u32,
    /// How much.
    pub desired_bytes: u32,
}

impl R2t {
    pub(super) const fn from_parts(bhs: &Bhs) -> Self {
        let [transfer_tag, _, _, _, r2t_sn, offset, desired_bytes] = bhs.words;
        Self {
            sn: ResponseSn::from_words(bhs),
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            transfer_tag: TargetTransferTag(transfer_tag),
            r2t_sn: DataSn::new(r2t_sn),
            offset,
            desired_bytes,
        }
    }

    pub(super) fn into_bhs(self) -> Bhs {
        Bhs {
            opcode: opcode::R2T,
            flags: FINAL,
            lun: self.lun.0,
            tag: self.tag.0,
            words: self.sn.words(
                self.transfer_tag.0,
                [self.r2t_sn.value(), self.offset, self.desired_bytes],
            ),
            ..Bhs::default()
        }
    }
}
