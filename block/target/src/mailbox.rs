//! Messages to a data thread: new connections, finished jobs, orders to cut.

use crate::medium::Finished;
use crate::portal::Entrance;
use onggi_block_iscsi::TaskId;
use onggi_block_iscsi::connection::TaskManagementId;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Names a connection for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What a data thread is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A connection that was accepted: it is yours.
    Accepted { socket: OwnedFd, entrance: Entrance },
    /// A job for one of your connections has ended.
    Finished {
        connection: ConnectionId,
        task: TaskId,
        finished: Finished,
    },
    /// End this connection.
    Cut { connection: ConnectionId },
    /// A session that this connection's session replaces is gone.
    Replaced { connection: ConnectionId },
    /// Another session reset the unit: this connection's tasks are void.
    AbortTasks { connection: ConnectionId },
    /// The same, and the notice is let go of when none of them touches the medium any more.
    AbortTasksFor {
        connection: ConnectionId,
        notice: Arc<Notice>,
    },
    /// The tasks of the other sessions that this request voids have left the medium.
    AbortedElsewhere {
        connection: ConnectionId,
        request: TaskManagementId,
    },
    /// Ask this connection's initiator to log out within this time.
    RequestLogout {
        connection: ConnectionId,
        within: Duration,
    },
    /// Ask the initiators to log out within this time.
    Drain { within: Duration },
    /// End everything and return.
    Stop,
}

/// Tells a connection that a task management request of it is done elsewhere, when the last who has it lets go.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) connection: ConnectionId,
    pub(crate) request: TaskManagementId,
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.mailbox.post(Message::AbortedElsewhere {
            connection: self.connection,
            request: self.request,
        });
    }
}

/// Where messages to a data thread wait.
#[derive(Debug)]
pub(crate) struct Mailbox {
    messages: Mutex<Vec<Message>>,
    bell: OwnedFd,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            messages: Mutex::new(Vec::new()),
            bell,
        })
    }

    /// Leaves a message and rings if nobody has rung yet.
    pub(crate) fn post(&self, message: Message) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = messages.is_empty();
        messages.push(message);
        drop(messages);
        if was_empty && let Err(errno) = rustix::io::write(&self.bell, &1u64.to_ne_bytes()) {
            // Only a full counter could fail, and then it is ringing.
            tracing::debug!(%errno, "ringing a data thread");
        }
    }

    /// The messages so far; the bell is silent until the next one.
    pub(crate) fn take(&self) -> Vec<Message> {
        let mut count = [0; 8];
        match rustix::io::read(&self.bell, &mut count) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => tracing::debug!(%errno, "reading a data thread's bell"),
        }
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Readable when there are messages.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_order_and_ring_once() {
        let mailbox = Mailbox::new().unwrap();
        for number in 0..3 {
            mailbox.post(Message::Cut {
                connection: ConnectionId(number),
            });
        }
        let numbers: Vec<u64> = mailbox
            .take()
            .into_iter()
            .map(|message| match message {
                Message::Cut { connection } => connection.0,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(
            rustix::io::read(&mailbox.bell, &mut [0; 8]),
            Err(Errno::AGAIN)
        );
    }
}
