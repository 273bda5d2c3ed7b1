//! Task management requests and their responses.

use super::bhs::Bhs;
use super::request::RequestSn;
use super::response::ResponseSn;
use super::{PduError, opcode};
use crate::name::{InitiatorTaskTag, LunField};
use crate::serial::{CmdSn, DataSn};

const FINAL: u8 = 0x80;

/// What a task management request asks (RFC 7143 §11.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskManagementFunction {
    /// Abort one task.
    AbortTask,
    /// Abort this initiator's tasks of the logical unit.
    AbortTaskSet,
    /// Clear auto contingent allegiance.
    ClearAca,
    /// Abort everybody's tasks of the logical unit.
    ClearTaskSet,
    /// Reset the logical unit.
    LogicalUnitReset,
    /// Reset the target.
    TargetWarmReset,
    /// Reset the target and end its sessions.
    TargetColdReset,
    /// Move a task to another connection.
    TaskReassign,
    /// Is this task still there?
    QueryTask,
    /// Are there tasks of this initiator?
    QueryTaskSet,
    /// Reset this initiator's nexus to the logical unit.
    NexusReset,
    /// Are there unit attentions?
    QueryAsynchronousEvent,
    /// None that is known.
    Other(u8),
}

impl TaskManagementFunction {
    const fn code(self) -> u8 {
        match self {
            Self::AbortTask => 1,
            Self::AbortTaskSet => 2,
            Self::ClearAca => 3,
            Self::ClearTaskSet => 4,
            Self::LogicalUnitReset => 5,
            Self::TargetWarmReset => 6,
            Self::TargetColdReset => 7,
            Self::TaskReassign => 8,
            Self::QueryTask => 9,
            Self::QueryTaskSet => 10,
            Self::NexusReset => 11,
            Self::QueryAsynchronousEvent => 12,
            Self::Other(code) => code & 0x7f,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code & 0x7f {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            9 => Self::QueryTask,
            10 => Self::QueryTaskSet,
            11 => Self::NexusReset,
            12 => Self::QueryAsynchronousEvent,
            other => Self::Other(other),
        }
    }
}

/// Task Management Function Request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskManagementRequest {
    /// Sequence numbers.
    pub sn: RequestSn,
    /// What is asked.
    pub function: TaskManagementFunction,
    /// For which logical unit.
    pub lun: LunField,
    /// Its tag.
    pub tag: InitiatorTaskTag,
    /// The task that is meant.
    pub referenced_tag: InitiatorTaskTag,
    /// The CmdSN of the task that is meant.
    pub ref_cmd_sn: CmdSn,
    /// For a reassigned task: the DataSN expected next.
    pub exp_data_sn: DataSn,
}

impl TaskManagementRequest {
    pub(super) fn from_parts(bhs: &Bhs) -> Result<Self, PduError> {
        if bhs.data_bytes > 0 {
            return Err(bhs.bad_field("DataSegmentLength"));
        }
        let [referenced, _, _, ref_cmd_sn, exp_data_sn, ..] = bhs.words;
        Ok(Self {
            sn: RequestSn::from_words(bhs),
            function: TaskManagementFunction::from_code(bhs.flags),
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            referenced_tag: InitiatorTaskTag(referenced),
            ref_cmd_sn: CmdSn::new(ref_cmd_sn),
            exp_data_sn: DataSn::new(exp_data_sn),
        })
    }

    pub(super) fn into_bhs(self) -> Bhs {
        Bhs {
            opcode: opcode::TASK_MANAGEMENT_REQUEST,
            is_immediate: self.sn.is_immediate,
            flags: FINAL | self.function.code(),
            lun: self.lun.0,
            tag: self.tag.0,
            words: [
                self.referenced_tag.0,
                self.sn.cmd_sn.value(),
                self.sn.exp_stat_sn.value(),
                self.ref_cmd_sn.value(),
                self.exp_data_sn.value(),
                0,
                0,
            ],
            ..Bhs::default()
        }
    }
}

/// How a task management request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskManagementResponseCode {
    /// Done.
    Complete,
    /// There is no such task.
    TaskDoesNotExist,
    /// There is no such logical unit.
    LunDoesNotExist,
    /// The task still has its allegiance to a connection.
    TaskStillAllegiant,
    /// Tasks cannot move here.
    ReassignNotSupported,
    /// This function is not supported.
    NotSupported,
    /// Not allowed.
    AuthorizationFailed,
    /// Refused.
    Rejected,
    /// None that is known.
    Other(u8),
}

impl TaskManagementResponseCode {
    const fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::TaskDoesNotExist => 1,
            Self::LunDoesNotExist => 2,
            Self::TaskStillAllegiant => 3,
            Self::ReassignNotSupported => 4,
            Self::NotSupported => 5,
            Self::AuthorizationFailed => 6,
            Self::Rejected => 255,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Complete,
            1 => Self::TaskDoesNotExist,
            2 => Self::LunDoesNotExist,
            3 => Self::TaskStillAllegiant,
            4 => Self::ReassignNotSupported,
            5 => Self::NotSupported,
            6 => Self::AuthorizationFailed,
            255 => Self::Rejected,
            other => Self::Other(other),
        }
    }
}

/// Task Management Function Response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskManagementResponse {
    /// Sequence numbers.
    pub sn: ResponseSn,
    /// The request's tag.
    pub tag: InitiatorTaskTag,
    /// How it ended.
    pub response: TaskManagementResponseCode,
}

impl TaskManagementResponse {
    pub(super) fn from_parts(bhs: &Bhs) -> Result<Self, PduError> {
        if bhs.data_bytes > 0 {
            return Err(bhs.bad_field("DataSegmentLength"));
        }
        let response = TaskManagementResponseCode::from_code(bhs.byte2);
        Ok(Self {
            sn: ResponseSn::from_words(bhs),
            tag: InitiatorTaskTag(bhs.tag),
            response,
        })
    }

    pub(super) fn into_bhs(self) -> Bhs {
        Bhs {
            opcode: opcode::TASK_MANAGEMENT_RESPONSE,
            flags: FINAL,
            byte2: self.response.code(),
            tag: self.tag.0,
            words: self.sn.words(0, [0; 3]),
            ..Bhs::default()
        }
    }
}
