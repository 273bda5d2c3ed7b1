//! The full feature phase: commands, data, task management, pings, logout.

mod leaving;
mod management;

use super::TargetConfig;
use super::event::{
    CloseReason, Command, Completion, Event, LoggedIn, SendTargetsId, SessionKind, TargetRecord,
    TaskId, TaskManagementId,
};
use super::exchange::{Exchange, ReplyForm};
use super::outbox::Outbox;
use super::read_data::ReadData;
use super::task::{DataFault, Task, TaskState, Tasks, Transfer};
use crate::login::Negotiated;
use crate::name::{Cid, InitiatorTaskTag, LunField, TargetTransferTag};
use crate::pdu::{
    DataIn, DataInStatus, DataOut, LentData, NopIn, NopOut, Pdu, R2t, RejectReason, Residual,
    ScsiCommand, ScsiResponse, TaskManagementRequest,
};
use crate::serial::DataSn;
use crate::window::{Admission, CommandWindow};
use bytes::Bytes;
use core::time::Duration;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// How many immediate commands may run beyond the window.
const IMMEDIATE_COMMANDS_MAX: usize = 8;
const CHECK_CONDITION: u8 = 0x02;

/// Fixed format sense data (SPC-4 §4.5.3): the few senses that iSCSI itself defines (RFC 7143 §11.4.7.2).
const fn sense(key: u8, code: u8, qualifier: u8) -> [u8; 18] {
    [
        0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0,
    ]
}
const ABORTED_COMMAND: u8 = 0x0b;
const ILLEGAL_REQUEST: u8 = 0x05;
static UNEXPECTED_UNSOLICITED_DATA: [u8; 18] = sense(ABORTED_COMMAND, 0x0c, 0x0c);
static INCORRECT_AMOUNT_OF_DATA: [u8; 18] = sense(ABORTED_COMMAND, 0x0c, 0x0d);
static DATA_PHASE_ERROR: [u8; 18] = sense(ABORTED_COMMAND, 0x4b, 0x00);
static INVALID_FIELD_IN_CDB: [u8; 18] = sense(ILLEGAL_REQUEST, 0x24, 0x00);

type Outcome = Result<(), CloseReason>;

const fn protocol(why: &'static str) -> Outcome {
    Err(CloseReason::Protocol { why })
}

#[derive(Debug)]
pub(super) struct FullFeature {
    config: TargetConfig,
    agreed: Negotiated,
    kind: SessionKind,
    cid: Cid,
    window: CommandWindow,
    /// Requests of the window that came before their turn, by CmdSN.
    early: BTreeMap<u32, Pdu>,
    tasks: Tasks,
    requests: HashMap<TaskManagementId, TaskManagementRequest>,
    exchange: Exchange,
    next_id: u64,
    next_transfer_tag: u32,
    reserved_bytes: u64,
    /// Writes that wait for memory.
    waiting: VecDeque<InitiatorTaskTag>,
    last_heard: Duration,
    last_data: Duration,
    /// When the unanswered ping went out.
    pinged_at: Option<Duration>,
    is_logging_out: bool,
}

impl FullFeature {
    pub(super) fn new(
        config: &TargetConfig,
        logged_in: &LoggedIn,
        window: CommandWindow,
        now: Duration,
    ) -> Self {
        Self {
            config: config.clone(),
            agreed: logged_in.negotiated,
            kind: logged_in.kind.clone(),
            cid: logged_in.cid,
            window,
            early: BTreeMap::new(),
            tasks: Tasks::default(),
            requests: HashMap::new(),
            exchange: Exchange::default(),
            next_id: 0,
            next_transfer_tag: 0,
            reserved_bytes: 0,
            waiting: VecDeque::new(),
            last_heard: now,
            last_data: now,
            pinged_at: None,
            is_logging_out: false,
        }
    }

    pub(super) const fn window(&self) -> &CommandWindow {
        &self.window
    }

    /// What the writes hold whose data is coming or being carried out.
    pub(super) const fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes
    }

    pub(super) fn limit_writes(&mut self, bytes_max: u64, out: &mut Outbox) {
        self.config.write_bytes_max = bytes_max;
        self.admit_writes(out);
    }

    pub(super) fn receive(&mut self, pdu: Pdu, now: Duration, out: &mut Outbox) -> Outcome {
        self.last_heard = now;
        self.pinged_at = None;
        if let Some(exp_stat_sn) = pdu.exp_stat_sn() {
            out.acknowledged(exp_stat_sn);
        }
        match &pdu {
            Pdu::DataOut(data) => {
                self.last_data = now;
                self.data_out(data, out);
                return Ok(());
            }
            Pdu::SnackRequest(_) => {
                out.reject(RejectReason::Snack, &self.window);
                return Ok(());
            }
            _ => {}
        }
        let Some(sn) = pdu.request_sn() else {
            return protocol("a PDU that only targets send");
        };
        if sn.is_immediate {
            return self.execute(pdu, now, out);
        }
        match self.window.admit(sn.cmd_sn) {
            Admission::Outside => Ok(()),
            Admission::Early => {
                self.early.entry(sn.cmd_sn.value()).or_insert(pdu);
                Ok(())
            }
            Admission::Next => {
                self.execute(pdu, now, out)?;
                self.execute_early(now, out)
            }
        }
    }

    /// Takes what was held back and is due now.
    fn execute_early(&mut self, now: Duration, out: &mut Outbox) -> Outcome {
        while let Some(pdu) = self.early.remove(&self.window.expected().value()) {
            self.window.admit(self.window.expected());
            self.execute(pdu, now, out)?;
        }
        self.open_window();
        Ok(())
    }

    fn execute(&mut self, pdu: Pdu, now: Duration, out: &mut Outbox) -> Outcome {
        match pdu {
            Pdu::NopOut(nop) => self.nop_out(nop, out),
            Pdu::ScsiCommand(_) | Pdu::TaskManagementRequest(_)
                if self.kind == SessionKind::Discovery =>
            {
                return protocol("a command in a discovery session");
            }
            Pdu::ScsiCommand(command) => return self.command(command, now, out),
            Pdu::TaskManagementRequest(request) => {
                self.task_management(request, out);
                // An aborted command may have left its place to those that wait behind it.
                return self.execute_early(now, out);
            }
            Pdu::TextRequest(request) => {
                let id = SendTargetsId(self.take_id());
                let reply = self.reply_form();
                self.exchange
                    .request(&request, reply, (id, &self.kind), out)?;
                if let Some(bytes) = self.exchange.take_declared_segment_bytes() {
                    self.agreed.send_data_segment_bytes_max = bytes;
                }
            }
            Pdu::LogoutRequest(request) => return self.logout(&request, out),
            _ => return protocol("a second login"),
        }
        Ok(())
    }

    const fn reply_form(&self) -> ReplyForm {
        let segment_bytes_max = self.agreed.send_data_segment_bytes_max;
        ReplyForm {
            window: self.window,
            segment_bytes_max,
        }
    }

    const fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn nop_out(&self, nop: NopOut, out: &mut Outbox) {
        if nop.tag == InitiatorTaskTag::NONE {
            return;
        }
        let mut data = nop.data;
        data.truncate(
            usize::try_from(self.agreed.send_data_segment_bytes_max).unwrap_or(usize::MAX),
        );
        let sn = out.take_sn(&self.window);
        let transfer_tag = TargetTransferTag::NONE;
        out.send(Pdu::NopIn(NopIn {
            sn,
            lun: nop.lun,
            tag: nop.tag,
            transfer_tag,
            data,
        }));
    }

    fn command(&mut self, command: ScsiCommand, now: Duration, out: &mut Outbox) -> Outcome {
        if command.tag == InitiatorTaskTag::NONE || self.tasks.contains(command.tag) {
            return protocol("a task tag that is already in use");
        }
        let commands_max = usize::try_from(self.config.commands_max).unwrap_or(usize::MAX);
        if self.tasks.len() >= commands_max.saturating_add(IMMEDIATE_COMMANDS_MAX) {
            out.reject(RejectReason::TooManyImmediate, &self.window);
            return Ok(());
        }
        if !command.is_write && !command.data.is_empty() {
            return protocol("data with a command that writes nothing");
        }
        let id = TaskId(self.take_id());
        let mut task = Task {
            id,
            data_sn: DataSn::default(),
            state: TaskState::Running,
            reserved_bytes: 0,
            command,
        };
        if task.write_bytes() > self.config.transfer_bytes_max {
            self.refuse_task(task, &INVALID_FIELD_IN_CDB, out);
        } else if is_whole(&task.command, &self.agreed) {
            let data = core::mem::take(&mut task.command.data);
            self.start(task, data, out);
        } else {
            self.collect(task, now, out);
        }
        self.open_window();
        Ok(())
    }

    /// Hands a task with all its data to the shell.
    fn start(&mut self, mut task: Task, data: Bytes, out: &mut Outbox) {
        task.state = TaskState::Running;
        out.event(Event::Command(Command {
            task: task.id,
            lun: task.command.lun,
            cdb: task.command.cdb.clone(),
            attribute: task.command.attribute,
            cmd_sn: task.command.sn.cmd_sn,
            read_bytes: task.read_bytes(),
            write_bytes: task.write_bytes(),
            data,
        }));
        self.tasks.insert(task);
    }

    fn collect(&mut self, mut task: Task, now: Duration, out: &mut Outbox) {
        if !self.tasks.is_collecting() {
            self.last_data = now;
        }
        match Transfer::begin(&task.command, &self.agreed) {
            Ok(transfer) => {
                let tag = task.command.tag;
                task.command.data = Bytes::new();
                task.state = TaskState::Collecting(transfer);
                self.tasks.insert(task);
                self.waiting.push_back(tag);
                self.admit_writes(out);
            }
            Err(fault) => self.refuse_task(task, sense_of(fault), out),
        }
    }

    /// Gives memory to the writes that wait for it, in order.
    fn admit_writes(&mut self, out: &mut Outbox) {
        while let Some(tag) = self.waiting.front().copied() {
            if let Some(task) = self.tasks.get_mut(tag) {
                let bytes = u64::from(task.write_bytes());
                let is_too_much =
                    self.reserved_bytes.saturating_add(bytes) > self.config.write_bytes_max;
                // One write goes on however large it is: else it would wait for ever.
                if is_too_much && self.reserved_bytes > 0 {
                    return;
                }
                self.reserved_bytes = self.reserved_bytes.saturating_add(bytes);
                task.reserved_bytes = bytes;
                if let TaskState::Collecting(transfer) = &mut task.state {
                    transfer.is_admitted = true;
                }
                self.solicit(tag, out);
            }
            self.waiting.pop_front();
        }
    }

    /// Asks for as much of a task's data as may be asked for now.
    fn solicit(&mut self, tag: InitiatorTaskTag, out: &mut Outbox) {
        // RFC 7143 §11.8.4: an R2T carries the next StatSN and does not use it up.
        let sn = out.peek_sn(&self.window);
        let Some(task) = self.tasks.get_mut(tag) else {
            return;
        };
        let TaskState::Collecting(transfer) = &mut task.state else {
            return;
        };
        while let Some(ask) = transfer.ask(&self.agreed, &mut self.next_transfer_tag) {
            out.send(Pdu::R2t(R2t {
                sn,
                lun: task.command.lun,
                tag,
                transfer_tag: ask.transfer_tag,
                r2t_sn: task.data_sn.take(),
                offset: ask.offset,
                desired_bytes: ask.bytes,
            }));
        }
    }

    /// Data for a task that is gone (aborted or refused) is dropped.
    fn data_out(&mut self, pdu: &DataOut, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(pdu.tag) else {
            return;
        };
        let TaskState::Collecting(transfer) = &mut task.state else {
            return;
        };
        let outcome = transfer.take(pdu);
        let is_complete = transfer.is_complete();
        match outcome {
            Ok(()) if is_complete => {
                let Some(mut task) = self.tasks.remove(pdu.tag) else {
                    return;
                };
                if let TaskState::Collecting(transfer) =
                    core::mem::replace(&mut task.state, TaskState::Running)
                {
                    self.start(task, transfer.into_data(), out);
                }
            }
            Ok(()) => self.solicit(pdu.tag, out),
            Err(fault) => {
                if let Some(task) = self.tasks.remove(pdu.tag) {
                    self.refuse_task(task, sense_of(fault), out);
                }
            }
        }
    }

    /// Ends a task that the shell never saw.
    fn refuse_task(&mut self, mut task: Task, sense: &'static [u8; 18], out: &mut Outbox) {
        self.release(&task, out);
        let completion = Completion::failed(CHECK_CONDITION, Bytes::from_static(sense));
        self.respond(&mut task, &completion, out);
    }

    pub(super) fn complete(&mut self, id: TaskId, completion: Completion, out: &mut Outbox) {
        let Some(mut task) = self.tasks.remove_by_id(id) else {
            return;
        };
        self.release(&task, out);
        self.open_window();
        let read_bytes = usize::try_from(task.read_bytes()).unwrap_or(usize::MAX);
        let mut completion = completion;
        completion.data.truncate(read_bytes);
        let data = ReadData::Held(core::mem::take(&mut completion.data));
        self.finish(&mut task, &completion, data, out);
    }

    /// Ends a read with GOOD and data that the shell sends itself.
    pub(super) fn complete_lent(
        &mut self,
        id: TaskId,
        mut lent: LentData,
        wanted_bytes: u64,
        out: &mut Outbox,
    ) {
        let Some(mut task) = self.tasks.remove_by_id(id) else {
            return;
        };
        self.release(&task, out);
        self.open_window();
        lent.truncate(task.read_bytes());
        let completion = Completion::taken(wanted_bytes);
        self.finish(&mut task, &completion, ReadData::Lent(lent), out);
    }

    fn finish(&self, task: &mut Task, completion: &Completion, data: ReadData, out: &mut Outbox) {
        if data.is_empty() {
            self.respond(task, completion, out);
        } else {
            self.send_data(task, completion, data, out);
        }
    }

    fn release(&mut self, task: &Task, out: &mut Outbox) {
        if task.reserved_bytes > 0 {
            self.reserved_bytes = self.reserved_bytes.saturating_sub(task.reserved_bytes);
            self.admit_writes(out);
        }
    }

    fn open_window(&mut self) {
        let used = self.tasks.len().saturating_add(self.early.len());
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        self.window
            .open(self.config.commands_max.saturating_sub(used));
    }

    /// Sends a read's data, cut to data segments and bursts; the last one carries a status without sense data.
    fn send_data(
        &self,
        task: &mut Task,
        completion: &Completion,
        mut data: ReadData,
        out: &mut Outbox,
    ) {
        let is_collapsed = completion.sense.is_empty();
        let residual = residual(task, completion);
        let (mut offset, mut burst_left) = (0u32, self.agreed.burst_bytes_max);
        while !data.is_empty() {
            let segment = self.agreed.send_data_segment_bytes_max.min(burst_left);
            let (part, part_bytes) = data.split_to(segment);
            burst_left = burst_left.saturating_sub(part_bytes);
            let is_last = data.is_empty();
            let is_final = is_last || burst_left == 0;
            let status = (is_last && is_collapsed).then(|| DataInStatus {
                stat_sn: out.stat_sn.take(),
                status: completion.status,
                residual,
            });
            part.send(
                DataIn {
                    exp_cmd_sn: self.window.expected(),
                    max_cmd_sn: self.window.last(),
                    is_final,
                    wants_acknowledgement: false,
                    status,
                    lun: LunField::default(),
                    tag: task.command.tag,
                    transfer_tag: TargetTransferTag::NONE,
                    data_sn: task.data_sn.take(),
                    offset,
                    data: Bytes::new(),
                },
                out,
            );
            offset = offset.saturating_add(part_bytes);
            if is_final {
                burst_left = self.agreed.burst_bytes_max;
            }
        }
        if !is_collapsed {
            self.respond(task, completion, out);
        }
    }

    fn respond(&self, task: &mut Task, completion: &Completion, out: &mut Outbox) {
        let sn = out.take_sn(&self.window);
        out.send(Pdu::ScsiResponse(ScsiResponse {
            sn,
            tag: task.command.tag,
            response: 0,
            status: completion.status,
            residual: residual(task, completion),
            exp_data_sn: task.data_sn,
            sense: completion.sense.clone(),
        }));
    }

    pub(super) fn answer_send_targets(
        &mut self,
        id: SendTargetsId,
        targets: &[TargetRecord],
        out: &mut Outbox,
    ) {
        if self.exchange.is_waiting_for(id) {
            let reply = self.reply_form();
            self.exchange.answer(targets, reply, out);
        }
    }

    pub(super) fn abort_tasks(
        &mut self,
        is_concerned: impl Fn(LunField) -> bool,
        out: &mut Outbox,
    ) {
        let dropped = self.tasks.remove_where(is_concerned, u64::MAX);
        out.drop_commands(|id| dropped.iter().any(|task| task.id == id));
        for task in &dropped {
            self.release(task, out);
        }
        self.open_window();
    }

    pub(super) fn next_timeout(&self) -> Duration {
        let answer = self.config.answer_time_max;
        let ping = self.pinged_at.map_or_else(
            || self.last_heard.saturating_add(self.config.ping_after),
            |at| at.saturating_add(answer),
        );
        if self.tasks.is_collecting() {
            ping.min(self.last_data.saturating_add(answer))
        } else {
            ping
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Duration, out: &mut Outbox) -> Outcome {
        let answer = self.config.answer_time_max;
        if self.tasks.is_collecting() && now >= self.last_data.saturating_add(answer) {
            return Err(CloseReason::TimedOut {
                what: "the data of a write",
            });
        }
        match self.pinged_at {
            Some(at) if now >= at.saturating_add(answer) => {
                return Err(CloseReason::TimedOut {
                    what: "the answer to a ping",
                });
            }
            None if now >= self.last_heard.saturating_add(self.config.ping_after) => {
                self.pinged_at = Some(now);
                // RFC 7143 §11.19: a ping carries the next StatSN and does not use it up.
                let sn = out.peek_sn(&self.window);
                self.next_transfer_tag = self.next_transfer_tag.wrapping_add(1) & 0x7fff_ffff;
                out.send(Pdu::NopIn(NopIn {
                    sn,
                    lun: LunField::default(),
                    tag: InitiatorTaskTag::NONE,
                    transfer_tag: TargetTransferTag(self.next_transfer_tag),
                    data: Bytes::new(),
                }));
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

/// Whether all data of a command is there: it has none, or it came along as was agreed.
fn is_whole(command: &ScsiCommand, agreed: &Negotiated) -> bool {
    if !command.is_write || command.expected_bytes == 0 {
        return command.data.is_empty();
    }
    command.is_final
        && agreed.has_immediate_data
        && command.expected_bytes <= agreed.first_burst_bytes_max
        && u32::try_from(command.data.len()) == Ok(command.expected_bytes)
}

/// What the CDB moves against what the initiator expects, in the direction it expects.
fn residual(task: &Task, completion: &Completion) -> Residual {
    let expected = if task.command.is_write {
        task.write_bytes()
    } else {
        task.read_bytes()
    };
    Residual::of(completion.wanted_bytes, expected)
}

const fn sense_of(fault: DataFault) -> &'static [u8; 18] {
    match fault {
        DataFault::Unexpected => &UNEXPECTED_UNSOLICITED_DATA,
        DataFault::OutOfOrder => &DATA_PHASE_ERROR,
        DataFault::WrongAmount => &INCORRECT_AMOUNT_OF_DATA,
    }
}
