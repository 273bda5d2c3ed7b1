//! Threads for what may wait for the disk: flushes, reads past the page cache, unmapping.
//!
//! The queue is bounded by what connections may have outstanding. Flushes of one unit are put together: however many
//! sessions ask, at most one thread flushes it, so that one busy volume does not take all threads.

use crate::copying::{self, CopyWork};
use crate::mailbox::{ConnectionId, Mailbox, Message};
use crate::medium::{Finished, Job, ShareIndex, carry_out};
use crate::unit::{AfterFlush, Unit};
use onggi_block_iscsi::TaskId;
use onggi_block_scsi::{CopyPlan, MediaFailure, MediaOp, MediaResult};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Where the result of a job goes.
#[derive(Debug, Clone)]
pub(crate) struct ReplyTo {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) connection: ConnectionId,
    pub(crate) task: TaskId,
}

impl ReplyTo {
    fn send(self, finished: Finished) {
        let Self {
            mailbox,
            connection,
            task,
        } = self;
        mailbox.post(Message::Finished {
            connection,
            task,
            finished,
        });
    }
}

/// An answer that waits for a flush.
#[derive(Debug)]
pub(crate) struct DurableReply {
    pub(crate) to: ReplyTo,
    pub(crate) finished: Finished,
}

impl AfterFlush for DurableReply {
    fn flushed(self: Box<Self>, is_durable: bool) {
        let Self { to, mut finished } = *self;
        finished.needs_flush = false;
        if !is_durable && finished.result == MediaResult::Done {
            finished.result = MediaResult::Failed(MediaFailure::Write);
        }
        to.send(finished);
    }
}

#[derive(Debug)]
enum Work {
    Job {
        job: Box<Job>,
        unit: Arc<Unit>,
        to: ReplyTo,
    },
    Copy {
        plan: Box<CopyPlan>,
        work: CopyWork,
        unit: Arc<Unit>,
        to: ReplyTo,
    },
    Flush {
        unit: Arc<Unit>,
    },
}

#[derive(Debug, Default)]
struct Queue {
    works: VecDeque<Work>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

/// The threads.
#[derive(Debug)]
pub(crate) struct MediaPool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl MediaPool {
    /// Starts so many threads; theirs are the shares from `first_share` on.
    pub(crate) fn start(count: usize, first_share: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for index in 0..count.max(1) {
            let shared = Arc::clone(&shared);
            let share = ShareIndex(first_share + index);
            let thread = std::thread::Builder::new().name(format!("media-{index}"));
            threads.push(thread.spawn(move || work(&shared, share))?);
        }
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
        })
    }

    fn submit(&self, work: Work) {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .works
            .push_back(work);
        self.shared.filled.notify_one();
    }

    /// Takes a job.
    pub(crate) fn run(&self, job: Job, unit: &Arc<Unit>, to: ReplyTo) {
        self.submit(Work::Job {
            job: Box::new(job),
            unit: Arc::clone(unit),
            to,
        });
    }

    /// Takes a copy between units.
    pub(crate) fn copy(
        &self,
        (plan, work): (Box<CopyPlan>, CopyWork),
        unit: &Arc<Unit>,
        to: ReplyTo,
    ) {
        let unit = Arc::clone(unit);
        self.submit(Work::Copy {
            plan,
            work,
            unit,
            to,
        });
    }

    /// Sees that a unit's flushes are run.
    pub(crate) fn flush(&self, unit: &Arc<Unit>) {
        self.submit(Work::Flush {
            unit: Arc::clone(unit),
        });
    }

    /// Finishes what is queued and ends the threads.
    pub(crate) fn stop(&self) {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_closed = true;
        self.shared.filled.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a media thread panicked");
            }
        }
    }
}

fn next(shared: &Shared) -> Option<Work> {
    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(work) = queue.works.pop_front() {
            return Some(work);
        }
        if queue.is_closed {
            return None;
        }
        queue = shared
            .filled
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

// It may take hours, so it has a thread of its own: a unit has at most one at a time.
fn sanitize(job: Job, unit: Arc<Unit>, to: ReplyTo, share: ShareIndex) {
    let is_immediate = matches!(
        job.op,
        MediaOp::Sanitize {
            immediate: true,
            ..
        }
    );
    let begun = unit.begin_sanitize(&job);
    if begun.result != MediaResult::Done {
        to.send(begun);
        return;
    }
    let (same_unit, same_to) = (Arc::clone(&unit), to.clone());
    let carry_out = move || {
        if is_immediate {
            to.send(begun);
            unit.sanitize(&job, share);
        } else {
            to.send(unit.sanitize(&job, share));
        }
    };
    let thread = std::thread::Builder::new().name("sanitize".to_owned());
    if let Err(error) = thread.spawn(carry_out) {
        tracing::error!(%error, "no thread for a sanitize");
        same_to.send(same_unit.give_sanitize_up());
    }
}

fn work(shared: &Shared, share: ShareIndex) {
    while let Some(work) = next(shared) {
        match work {
            Work::Flush { unit } => unit.run_flushes(),
            Work::Copy {
                plan,
                work,
                unit,
                to,
            } => to.send(copying::copy(&unit, &plan, &work, share)),
            Work::Job { job, unit, to } => {
                if matches!(job.op, MediaOp::Sanitize { .. }) {
                    sanitize(*job, unit, to, share);
                    continue;
                }
                let finished = unit.perform(&job).unwrap_or_else(|| carry_out(&job, share));
                if finished.needs_flush {
                    let reply = Box::new(DurableReply { to, finished });
                    if unit.await_flush(job.medium, reply) {
                        unit.run_flushes();
                    }
                } else {
                    to.send(finished);
                }
            }
        }
    }
}
