//! Commands between submission and completion: unsolicited data, R2Ts, and the data of reads.

use super::InitiatorError;
use crate::login::Negotiated;
use crate::name::{InitiatorTaskTag, LunField, TargetTransferTag};
use crate::pdu::{
    CdbBytes, DataIn, DataOut, Pdu, R2t, RequestSn, Residual, ScsiCommand, ScsiResponse,
    TaskAttribute,
};
use crate::serial::{DataSn, StatSn};
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};

/// Names a command of one connection; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(u64);

/// A command to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// By which logical unit.
    pub lun: LunField,
    /// What.
    pub cdb: CdbBytes,
    /// How much may be read.
    pub read_bytes: u32,
    /// What is written.
    pub data: Bytes,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutcome {
    /// Which.
    pub id: CommandId,
    /// The SCSI status.
    pub status: u8,
    /// Sense data.
    pub sense: Bytes,
    /// What was read.
    pub data: Bytes,
    /// How that differs from what was expected.
    pub residual: Residual,
}

#[derive(Debug)]
struct Running {
    id: CommandId,
    lun: LunField,
    write_data: Bytes,
    read_bytes: u32,
    read_data: BytesMut,
    /// The number of the next Data-In; R2Ts count in the same row.
    data_sn: DataSn,
}

#[derive(Debug, Default)]
pub(super) struct Commands {
    waiting: VecDeque<(CommandId, Submission)>,
    running: HashMap<InitiatorTaskTag, Running>,
    next_id: u64,
}

const fn protocol<T>(why: &'static str) -> Result<T, InitiatorError> {
    Err(InitiatorError::Protocol { why })
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Commands {
    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn enqueue(&mut self, submission: Submission) -> CommandId {
        self.next_id += 1;
        let id = CommandId(self.next_id);
        self.waiting.push_back((id, submission));
        id
    }

    pub(super) fn take_waiting(&mut self) -> Option<(CommandId, Submission)> {
        self.waiting.pop_front()
    }

    /// The command PDU and the data that goes with it unasked.
    pub(super) fn begin(
        &mut self,
        (id, submission): (CommandId, Submission),
        tag: InitiatorTaskTag,
        sn: RequestSn,
        agreed: &Negotiated,
    ) -> Vec<Pdu> {
        let Submission {
            lun,
            cdb,
            read_bytes,
            data,
        } = submission;
        let total = length(&data);
        let is_write = total > 0;
        let unsolicited = total.min(agreed.first_burst_bytes_max);
        let immediate = if agreed.has_immediate_data {
            unsolicited.min(agreed.send_data_segment_bytes_max)
        } else {
            0
        };
        let unsolicited_end = if agreed.has_initial_r2t {
            immediate
        } else {
            unsolicited
        };
        let is_bidirectional = is_write && read_bytes > 0;
        let mut pdus = vec![Pdu::ScsiCommand(ScsiCommand {
            sn,
            is_final: unsolicited_end == immediate,
            is_read: read_bytes > 0,
            is_write,
            attribute: TaskAttribute::Simple,
            lun,
            tag,
            expected_bytes: if is_write { total } else { read_bytes },
            bidirectional_read_bytes: is_bidirectional.then_some(read_bytes),
            cdb,
            data: data.slice(..size(immediate)),
        })];
        let to = Sequence {
            lun,
            tag,
            transfer_tag: TargetTransferTag::NONE,
            exp_stat_sn: sn.exp_stat_sn,
        };
        pdus.extend(
            to.cut(&data, immediate, unsolicited_end, agreed)
                .into_iter()
                .map(Pdu::DataOut),
        );
        let running = Running {
            id,
            lun,
            write_data: data,
            read_bytes,
            read_data: BytesMut::new(),
            data_sn: DataSn::default(),
        };
        self.running.insert(tag, running);
        pdus
    }

    /// The data that an R2T asks for.
    pub(super) fn answer_r2t(
        &mut self,
        r2t: &R2t,
        agreed: &Negotiated,
        exp_stat_sn: StatSn,
    ) -> Result<Vec<DataOut>, InitiatorError> {
        let Some(running) = self.running.get_mut(&r2t.tag) else {
            return protocol("it asks for data of an unknown task");
        };
        let end = r2t.offset.checked_add(r2t.desired_bytes);
        let Some(end) = end.filter(|end| *end <= length(&running.write_data)) else {
            return protocol("it asks for data beyond the end");
        };
        if r2t.desired_bytes == 0 || r2t.desired_bytes > agreed.burst_bytes_max {
            return protocol("it asks for more than a burst, or for nothing");
        }
        running.data_sn = running.data_sn.next();
        let to = Sequence {
            lun: running.lun,
            tag: r2t.tag,
            transfer_tag: r2t.transfer_tag,
            exp_stat_sn,
        };
        Ok(to.cut(&running.write_data, r2t.offset, end, agreed))
    }

    /// Takes a Data-In; the last one may carry the status.
    pub(super) fn data_in(
        &mut self,
        pdu: DataIn,
    ) -> Result<Option<CommandOutcome>, InitiatorError> {
        let Some(running) = self.running.get_mut(&pdu.tag) else {
            return protocol("it sends data of an unknown task");
        };
        let end = pdu.offset.checked_add(length(&pdu.data));
        let is_in_order =
            pdu.offset == length(&running.read_data) && pdu.data_sn == running.data_sn;
        if !is_in_order || end.is_none_or(|end| end > running.read_bytes) {
            return protocol("it sends data out of order or beyond the end");
        }
        running.data_sn = running.data_sn.next();
        let is_whole = running.read_data.is_empty() && pdu.status.is_some();
        let Some(status) = pdu.status else {
            if running.read_data.is_empty() {
                running.read_data.reserve(size(running.read_bytes));
            }
            running.read_data.extend_from_slice(&pdu.data);
            return Ok(None);
        };
        let Some(mut running) = self.running.remove(&pdu.tag) else {
            return Ok(None);
        };
        // A read that came in one PDU is not copied.
        let data = if is_whole {
            pdu.data
        } else {
            running.read_data.extend_from_slice(&pdu.data);
            running.read_data.freeze()
        };
        Ok(Some(CommandOutcome {
            id: running.id,
            status: status.status,
            sense: Bytes::new(),
            data,
            residual: status.residual,
        }))
    }

    pub(super) fn finish(
        &mut self,
        response: ScsiResponse,
    ) -> Result<CommandOutcome, InitiatorError> {
        let Some(running) = self.running.remove(&response.tag) else {
            return protocol("it ends an unknown task");
        };
        if response.response != 0 {
            return protocol("it failed to carry out a command");
        }
        Ok(CommandOutcome {
            id: running.id,
            status: response.status,
            sense: response.sense,
            data: running.read_data.freeze(),
            residual: response.residual,
        })
    }
}

/// What the Data-Out PDUs of one sequence have in common.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    lun: LunField,
    tag: InitiatorTaskTag,
    transfer_tag: TargetTransferTag,
    exp_stat_sn: StatSn,
}

impl Sequence {
    /// Cuts a part of the data to data segments.
    fn cut(self, data: &Bytes, start: u32, end: u32, agreed: &Negotiated) -> Vec<DataOut> {
        let mut pdus = Vec::new();
        let (mut offset, mut data_sn) = (start, DataSn::default());
        while offset < end {
            let next = end.min(offset.saturating_add(agreed.send_data_segment_bytes_max));
            pdus.push(DataOut {
                is_final: next == end,
                lun: self.lun,
                tag: self.tag,
                transfer_tag: self.transfer_tag,
                exp_stat_sn: self.exp_stat_sn,
                data_sn: data_sn.take(),
                offset,
                data: data.slice(size(offset)..size(next)),
            });
            offset = next;
        }
        pdus
    }
}
