//! Task management: what is aborted, and when that is said to be done.

use super::{Peer, Stage, Thread};
use crate::mailbox::Notice;
use onggi_block_iscsi::connection::TaskManagementId;
use onggi_block_iscsi::pdu::{TaskManagementFunction, TaskManagementResponseCode};
use onggi_block_iscsi::{TaskId, TaskManagement};
use onggi_block_scsi::Lun;
use std::collections::HashSet;
use std::sync::Arc;

/// A task management request that is answered when these tasks have left the medium.
#[derive(Debug)]
pub(super) struct Abort {
    id: TaskManagementId,
    tasks: HashSet<TaskId>,
    /// Tasks of other sessions have not left it yet.
    is_awaiting_others: bool,
    /// All sessions of the target end once it is answered.
    ends_sessions: bool,
}

/// Another session waits until these tasks have left the medium.
#[derive(Debug)]
pub(super) struct Awaited {
    tasks: HashSet<TaskId>,
    _notice: Arc<Notice>,
}

impl Peer {
    /// A task has left the medium; whether its initiator was told that it is aborted.
    pub(super) fn leave(&mut self, task: TaskId) -> bool {
        self.notices.retain_mut(|awaited| {
            awaited.tasks.remove(&task);
            !awaited.tasks.is_empty()
        });
        let is_aborted = self.aborts.iter().any(|abort| abort.tasks.contains(&task));
        if is_aborted {
            for abort in &mut self.aborts {
                abort.tasks.remove(&task);
            }
            self.answer_aborts();
        }
        is_aborted
    }

    fn answer_aborts(&mut self) {
        let connection = &mut self.connection;
        self.aborts.retain(|abort| {
            let is_done = abort.tasks.is_empty() && !abort.is_awaiting_others;
            if is_done {
                connection.answer_task_management(abort.id, TaskManagementResponseCode::Complete);
            }
            if is_done && abort.ends_sessions {
                connection.drop_session();
            }
            !is_done
        });
    }

    /// The tasks of other sessions that a request voids have left the medium.
    pub(crate) fn aborted_elsewhere(&mut self, request: TaskManagementId) {
        for abort in self.aborts.iter_mut().filter(|abort| abort.id == request) {
            abort.is_awaiting_others = false;
        }
        self.answer_aborts();
    }

    /// Another session reset the unit.
    pub(crate) fn abort_tasks(&mut self) {
        self.connection.abort_tasks(|_| true);
    }

    /// Another session reset the unit and waits until nothing of this one touches the medium.
    pub(crate) fn abort_tasks_for(&mut self, notice: Arc<Notice>) {
        self.abort_tasks();
        let tasks = self.tasks_that_end();
        if !tasks.is_empty() {
            self.notices.push(Awaited {
                tasks,
                _notice: notice,
            });
        }
    }

    // An aborted task is gone for the initiator when the answer comes, so the answer waits for jobs under way: RFC 7143
    // §4.2.3.3, a write of it must not reach the medium afterwards.
    pub(super) fn task_management(&mut self, request: TaskManagement, thread: &Thread) {
        use TaskManagementFunction as Function;
        let Stage::Normal(normal) = &self.stage else {
            return;
        };
        let names_unit = Lun::from_field(request.lun.0) == Some(normal.unit.lun());
        let mut is_awaiting_others = false;
        let ends_sessions = request.function == Function::TargetColdReset;
        let tasks: HashSet<TaskId> = match request.function {
            Function::AbortTask => {
                let task = request.referenced.filter(|task| self.ends(task));
                let Some(task) = task else {
                    // It was answered before its abort was looked at: both came in one go.
                    let response = TaskManagementResponseCode::TaskDoesNotExist;
                    self.connection.answer_task_management(request.id, response);
                    return;
                };
                HashSet::from([task])
            }
            Function::AbortTaskSet | Function::ClearTaskSet | Function::LogicalUnitReset
                if !names_unit =>
            {
                let response = TaskManagementResponseCode::LunDoesNotExist;
                self.connection.answer_task_management(request.id, response);
                return;
            }
            Function::AbortTaskSet => self.tasks_that_end(),
            // A target has one unit, and who may log in may use it: so a reset of the target is one of the unit.
            Function::ClearTaskSet
            | Function::LogicalUnitReset
            | Function::TargetWarmReset
            | Function::TargetColdReset => {
                let notice = Arc::new(Notice {
                    mailbox: Arc::clone(&thread.mailbox),
                    connection: self.id,
                    request: request.id,
                });
                let sessions = &thread.shared.sessions;
                let target = normal.target.as_str();
                sessions.abort_others(target, self.id, &notice);
                is_awaiting_others = true;
                if request.function != Function::ClearTaskSet {
                    normal.unit.reset();
                }
                if ends_sessions {
                    sessions.cut_others(target, self.id);
                }
                self.tasks_that_end()
            }
            Function::ClearAca
            | Function::TaskReassign
            | Function::QueryTask
            | Function::QueryTaskSet
            | Function::NexusReset
            | Function::QueryAsynchronousEvent
            | Function::Other(_) => {
                let response = TaskManagementResponseCode::NotSupported;
                self.connection.answer_task_management(request.id, response);
                return;
            }
        };
        self.aborts.push(Abort {
            id: request.id,
            tasks,
            is_awaiting_others,
            ends_sessions,
        });
        self.answer_aborts();
    }

    fn ends(&self, task: &TaskId) -> bool {
        let task = self.outstanding.get(task);
        task.is_some_and(|task| !task.outlives_session())
    }

    fn tasks_that_end(&self) -> HashSet<TaskId> {
        let tasks = self.outstanding.keys().copied();
        tasks.filter(|task| self.ends(task)).collect()
    }
}
