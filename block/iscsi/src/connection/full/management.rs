//! Task management: aborts, resets and queries, and what they do to the tasks of this connection.

use super::FullFeature;
use crate::connection::event::{Event, TaskId, TaskManagement, TaskManagementId};
use crate::connection::outbox::Outbox;
use crate::connection::task::{Task, TaskState};
use crate::name::{InitiatorTaskTag, LunField, TargetTransferTag};
use crate::pdu::{
    NopOut, Pdu, RejectReason, RequestSn, TaskManagementFunction, TaskManagementRequest,
    TaskManagementResponse, TaskManagementResponseCode,
};
use crate::serial::{CmdSn, StatSn};
use bytes::Bytes;

/// The most task management requests that wait for the shell.
const TASK_MANAGEMENT_MAX: usize = 32;

impl FullFeature {
    pub(super) fn task_management(&mut self, request: TaskManagementRequest, out: &mut Outbox) {
        use TaskManagementFunction as Function;
        if self.requests.len() >= TASK_MANAGEMENT_MAX {
            return out.reject(RejectReason::TooManyImmediate, &self.window);
        }
        let mut referenced = None;
        match request.function {
            Function::AbortTask => match self.referenced(&request, out) {
                Ok(task) => referenced = Some(task),
                Err(response) => return self.send_task_management(&request, response, out),
            },
            Function::TaskReassign => {
                let response = TaskManagementResponseCode::ReassignNotSupported;
                return self.send_task_management(&request, response, out);
            }
            _ => {}
        }
        let id = TaskManagementId(self.take_id());
        let (function, lun) = (request.function, request.lun);
        self.requests.insert(id, request);
        out.event(Event::TaskManagement(TaskManagement {
            id,
            function,
            lun,
            referenced,
        }));
    }

    /// The running task that is meant, or the answer when there is none.
    fn referenced(
        &mut self,
        request: &TaskManagementRequest,
        out: &mut Outbox,
    ) -> Result<TaskId, TaskManagementResponseCode> {
        let tag = request.referenced_tag;
        let task = self
            .tasks
            .get_mut(tag)
            .filter(|task| task.command.lun == request.lun);
        match task.map(|task| (task.id, matches!(task.state, TaskState::Running))) {
            Some((id, true)) => Ok(id),
            Some((_, false)) => {
                if let Some(task) = self.tasks.remove(tag) {
                    self.release(&task, out);
                    self.open_window();
                }
                Err(TaskManagementResponseCode::Complete)
            }
            // RFC 7143 §11.5.1: a command of the window that has not come yet counts as aborted once it comes.
            None if self.window.contains(request.ref_cmd_sn)
                && request.ref_cmd_sn < request.sn.cmd_sn =>
            {
                self.skip(request.ref_cmd_sn);
                Err(TaskManagementResponseCode::Complete)
            }
            None => Err(TaskManagementResponseCode::TaskDoesNotExist),
        }
    }

    /// A command that was aborted before its turn leaves an empty place.
    fn skip(&mut self, number: CmdSn) {
        let nop = NopOut {
            sn: RequestSn {
                is_immediate: false,
                cmd_sn: number,
                exp_stat_sn: StatSn::default(),
            },
            lun: LunField::default(),
            tag: InitiatorTaskTag::NONE,
            transfer_tag: TargetTransferTag::NONE,
            data: Bytes::new(),
        };
        self.early.insert(number.value(), Pdu::NopOut(nop));
    }

    pub(in crate::connection) fn answer_task_management(
        &mut self,
        id: TaskManagementId,
        response: TaskManagementResponseCode,
        out: &mut Outbox,
    ) {
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        if response == TaskManagementResponseCode::Complete {
            self.drop_tasks_of(&request, id, out);
        }
        self.send_task_management(&request, response, out);
    }

    fn drop_tasks_of(
        &mut self,
        request: &TaskManagementRequest,
        id: TaskManagementId,
        out: &mut Outbox,
    ) {
        use TaskManagementFunction as Function;
        let dropped = match request.function {
            Function::AbortTask => {
                let is_older = |task: &&mut Task| task.id.0 < id.0;
                let tag = request.referenced_tag;
                let is_there = self.tasks.get_mut(tag).filter(is_older).is_some();
                if is_there {
                    self.tasks.remove(tag).into_iter().collect()
                } else {
                    Vec::new()
                }
            }
            Function::AbortTaskSet
            | Function::ClearTaskSet
            | Function::LogicalUnitReset
            | Function::NexusReset => self.tasks.remove_where(|lun| lun == request.lun, id.0),
            Function::TargetWarmReset | Function::TargetColdReset => {
                self.tasks.remove_where(|_| true, id.0)
            }
            Function::ClearAca
            | Function::TaskReassign
            | Function::QueryTask
            | Function::QueryTaskSet
            | Function::QueryAsynchronousEvent
            | Function::Other(_) => Vec::new(),
        };
        for task in &dropped {
            self.release(task, out);
        }
        self.open_window();
    }

    fn send_task_management(
        &self,
        request: &TaskManagementRequest,
        response: TaskManagementResponseCode,
        out: &mut Outbox,
    ) {
        let sn = out.take_sn(&self.window);
        let tag = request.tag;
        out.send(Pdu::TaskManagementResponse(TaskManagementResponse {
            sn,
            tag,
            response,
        }));
    }
}
