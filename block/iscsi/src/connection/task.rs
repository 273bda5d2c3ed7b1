//! The tasks of a connection, and how the data of a write comes together.
//!
//! Data comes in order (DataPDUInOrder and DataSequenceInOrder are Yes), so a transfer is what has arrived so far:
//! every Data-Out must begin where it ends.

use super::event::TaskId;
use crate::login::Negotiated;
use crate::name::{InitiatorTaskTag, LunField, TargetTransferTag};
use crate::pdu::{DataOut, ScsiCommand};
use crate::serial::DataSn;
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};

/// A SCSI task between its command and its response.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) command: ScsiCommand,
    /// Data-In and R2T PDUs that were sent.
    pub(super) data_sn: DataSn,
    pub(super) state: TaskState,
    /// How much of the connection's write memory it holds.
    pub(super) reserved_bytes: u64,
}

/// Where a task is.
#[derive(Debug)]
pub(super) enum TaskState {
    /// Its data is coming.
    Collecting(Transfer),
    /// The shell has it.
    Running,
}

impl Task {
    pub(super) fn read_bytes(&self) -> u32 {
        if !self.command.is_read {
            return 0;
        }
        self.command
            .bidirectional_read_bytes
            .unwrap_or(self.command.expected_bytes)
    }

    pub(super) const fn write_bytes(&self) -> u32 {
        if self.command.is_write {
            self.command.expected_bytes
        } else {
            0
        }
    }
}

/// An R2T that is not answered in full.
#[derive(Debug, Clone, Copy)]
struct Solicited {
    transfer_tag: TargetTransferTag,
    /// Where the answer ends.
    end: u32,
}

/// The data of a write that is coming together.
#[derive(Debug)]
pub(super) struct Transfer {
    data: BytesMut,
    total: u32,
    /// Up to where data may come without being asked for; `None` once it has all come.
    unsolicited_end: Option<u32>,
    asked: VecDeque<Solicited>,
    /// Up to where data was asked for.
    asked_end: u32,
    data_sn: DataSn,
    /// Whether there is memory to ask for more.
    pub(super) is_admitted: bool,
}

/// What is wrong with a write's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataFault {
    /// More came unasked than was agreed.
    Unexpected,
    /// A number or an offset is not the one that is due.
    OutOfOrder,
    /// More or less came than was asked for.
    WrongAmount,
}

/// A part of the data to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) transfer_tag: TargetTransferTag,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

impl Transfer {
    /// A transfer that begins with the command's immediate data.
    pub(super) fn begin(command: &ScsiCommand, agreed: &Negotiated) -> Result<Self, DataFault> {
        let total = command.expected_bytes;
        let immediate = length(&command.data);
        let unsolicited_max = total.min(agreed.first_burst_bytes_max);
        if immediate > total {
            return Err(DataFault::WrongAmount);
        }
        let has_more_unsolicited = !command.is_final;
        let is_refused = (immediate > 0 && !agreed.has_immediate_data)
            || immediate > unsolicited_max
            || (has_more_unsolicited && agreed.has_initial_r2t);
        if is_refused {
            return Err(DataFault::Unexpected);
        }
        Ok(Self {
            data: BytesMut::from(&*command.data),
            total,
            unsolicited_end: has_more_unsolicited.then_some(unsolicited_max),
            asked: VecDeque::new(),
            asked_end: immediate,
            data_sn: DataSn::default(),
            is_admitted: false,
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.received() == self.total
    }

    fn received(&self) -> u32 {
        length(&self.data)
    }

    pub(super) fn into_data(self) -> Bytes {
        self.data.freeze()
    }

    /// Takes a Data-Out.
    pub(super) fn take(&mut self, pdu: &DataOut) -> Result<(), DataFault> {
        let end = match (self.unsolicited_end, self.asked.front()) {
            (Some(end), _) if pdu.transfer_tag == TargetTransferTag::NONE => end,
            (None, Some(front)) if pdu.transfer_tag == front.transfer_tag => front.end,
            _ => return Err(DataFault::Unexpected),
        };
        if pdu.data_sn != self.data_sn || pdu.offset != self.received() {
            return Err(DataFault::OutOfOrder);
        }
        let new_end = pdu
            .offset
            .checked_add(length(&pdu.data))
            .ok_or(DataFault::WrongAmount)?;
        // The last PDU of an asked-for sequence must end it; unasked data may end early.
        let is_solicited = self.unsolicited_end.is_none();
        let is_at_end = new_end == end;
        let is_amount_right = new_end <= end
            && (!is_solicited || pdu.is_final == is_at_end)
            && (pdu.is_final || !is_at_end);
        if !is_amount_right {
            return Err(DataFault::WrongAmount);
        }
        self.data.extend_from_slice(&pdu.data);
        self.data_sn = self.data_sn.next();
        if pdu.is_final {
            self.data_sn = DataSn::default();
            if is_solicited {
                self.asked.pop_front();
            } else {
                self.unsolicited_end = None;
                self.asked_end = new_end;
            }
        }
        Ok(())
    }

    /// The next part to ask for, if one may be asked for now.
    pub(super) fn ask(&mut self, agreed: &Negotiated, next_tag: &mut u32) -> Option<Ask> {
        let outstanding = u32::try_from(self.asked.len()).unwrap_or(u32::MAX);
        let is_possible = self.is_admitted
            && self.unsolicited_end.is_none()
            && outstanding < agreed.outstanding_r2t_max
            && self.asked_end < self.total;
        if !is_possible {
            return None;
        }
        let offset = self.asked_end;
        let bytes = (self.total - offset).min(agreed.burst_bytes_max);
        // FFFFFFFFh means no transfer.
        *next_tag = if *next_tag >= u32::MAX - 1 {
            0
        } else {
            *next_tag + 1
        };
        let transfer_tag = TargetTransferTag(*next_tag);
        self.asked_end = offset + bytes;
        self.asked.push_back(Solicited {
            transfer_tag,
            end: self.asked_end,
        });
        // One allocation for all that comes; what was promised in R2Ts is within the connection's limit.
        let missing = usize::try_from(self.total - self.received()).unwrap_or(0);
        self.data.reserve(missing);
        Some(Ask {
            transfer_tag,
            offset,
            bytes,
        })
    }
}

/// All tasks of a connection, found by either name.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    by_tag: HashMap<InitiatorTaskTag, Task>,
    tags: HashMap<TaskId, InitiatorTaskTag>,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.by_tag.len()
    }

    pub(super) fn insert(&mut self, task: Task) {
        self.tags.insert(task.id, task.command.tag);
        self.by_tag.insert(task.command.tag, task);
    }

    pub(super) fn contains(&self, tag: InitiatorTaskTag) -> bool {
        self.by_tag.contains_key(&tag)
    }

    pub(super) fn get_mut(&mut self, tag: InitiatorTaskTag) -> Option<&mut Task> {
        self.by_tag.get_mut(&tag)
    }

    pub(super) fn remove(&mut self, tag: InitiatorTaskTag) -> Option<Task> {
        let task = self.by_tag.remove(&tag)?;
        self.tags.remove(&task.id);
        Some(task)
    }

    pub(super) fn remove_by_id(&mut self, id: TaskId) -> Option<Task> {
        let tag = self.tags.remove(&id)?;
        self.by_tag.remove(&tag)
    }

    /// Removes the tasks of these logical units that are older than `before`.
    pub(super) fn remove_where(
        &mut self,
        is_concerned: impl Fn(LunField) -> bool,
        before: u64,
    ) -> Vec<Task> {
        let is_meant = |task: &Task| is_concerned(task.command.lun) && task.id.0 < before;
        let tags: Vec<_> = self
            .by_tag
            .values()
            .filter(|task| is_meant(task))
            .map(|task| task.command.tag)
            .collect();
        tags.into_iter()
            .filter_map(|tag| self.remove(tag))
            .collect()
    }

    pub(super) fn is_collecting(&self) -> bool {
        self.by_tag
            .values()
            .any(|task| matches!(task.state, TaskState::Collecting(_)))
    }
}
