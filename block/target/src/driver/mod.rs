//! Data threads: each owns its connections and moves their bytes. Nothing in here knows iSCSI.
//!
//! The driver is epoll with inline page-cache I/O. What a connection is, [`crate::peer::Peer`] knows; a driver on
//! io_uring would take the same peers and messages.

mod epoll;
mod outgoing;
mod placement;
mod spare;

pub(crate) use epoll::DataThread;

use crate::mailbox::{Mailbox, Message};
use crate::portal::Entrance;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The door to a data thread.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) mailbox: Arc<Mailbox>,
    /// How many connections it has or is about to have.
    pub(crate) load: Arc<AtomicUsize>,
}

/// Gives an accepted connection to the thread with the fewest; false when there are as many as there may be.
pub(crate) fn hand_over(
    doors: &[Door],
    socket: OwnedFd,
    entrance: Entrance,
    connections_max: usize,
) -> bool {
    let total: usize = doors
        .iter()
        .map(|door| door.load.load(Ordering::Relaxed))
        .sum();
    let Some(door) = doors
        .iter()
        .min_by_key(|door| door.load.load(Ordering::Relaxed))
    else {
        return false;
    };
    if total >= connections_max {
        return false;
    }
    door.load.fetch_add(1, Ordering::Relaxed);
    door.mailbox.post(Message::Accepted { socket, entrance });
    true
}
