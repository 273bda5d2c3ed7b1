//! Portals: where initiators connect. One thread accepts for all of them and hands connections to the data threads.

use crate::driver::{Door, hand_over};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long accepting pauses when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The listeners, bound.
#[derive(Debug)]
pub(crate) struct Portals {
    listeners: Vec<(TcpListener, SocketAddr)>,
}

/// The thread that accepts.
#[derive(Debug)]
pub(crate) struct Acceptor {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Portals {
    /// Binds these addresses.
    pub(crate) fn bind(addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let mut listeners = Vec::new();
        for address in addresses {
            let bind = || -> io::Result<(TcpListener, SocketAddr)> {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let bound = listener.local_addr()?;
                Ok((listener, bound))
            };
            listeners.push(bind().map_err(|error| (*address, error))?);
        }
        Ok(Self { listeners })
    }

    /// The addresses with the ports that were really taken.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address).collect()
    }

    /// Starts accepting.
    pub(crate) fn accept(self, doors: Vec<Door>, connections_max: usize) -> io::Result<Acceptor> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || accept(&self.listeners, &told, &doors, connections_max))?;
        Ok(Acceptor { stop, thread })
    }
}

impl Acceptor {
    /// Closes the portals.
    pub(crate) fn stop(self) {
        if let Err(errno) = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()) {
            tracing::error!(%errno, "the accepting thread cannot be told to stop");
            return;
        }
        if self.thread.join().is_err() {
            tracing::error!("the accepting thread panicked");
        }
    }
}

fn accept(
    listeners: &[(TcpListener, SocketAddr)],
    stop: &OwnedFd,
    doors: &[Door],
    connections_max: usize,
) {
    let mut watched: Vec<PollFd<'_>> = Vec::with_capacity(listeners.len() + 1);
    loop {
        watched.clear();
        watched.push(PollFd::new(stop, PollFlags::IN));
        watched.extend(
            listeners
                .iter()
                .map(|(listener, _)| PollFd::new(listener, PollFlags::IN)),
        );
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!(%errno, "waiting for connections failed");
                return;
            }
        }
        if watched
            .first()
            .is_some_and(|stop| !stop.revents().is_empty())
        {
            return;
        }
        let ready = watched
            .iter()
            .skip(1)
            .zip(listeners)
            .filter(|(watch, _)| !watch.revents().is_empty());
        for (_, (listener, portal)) in ready {
            accept_one(listener, *portal, doors, connections_max);
        }
    }
}

fn accept_one(listener: &TcpListener, portal: SocketAddr, doors: &[Door], connections_max: usize) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = match acceptfrom_with(listener.as_fd(), flags) {
        Ok(accepted) => accepted,
        // The initiator was gone before it was accepted.
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
        Err(errno) => {
            tracing::warn!(%errno, %portal, "accepting a connection failed");
            std::thread::sleep(PAUSE);
            return;
        }
    };
    let Some(Ok(peer)) = address.map(SocketAddr::try_from) else {
        return;
    };
    if let Err(errno) = rustix::net::sockopt::set_tcp_nodelay(&socket, true) {
        tracing::debug!(%errno, "TCP_NODELAY was refused");
    }
    if !hand_over(doors, socket, (peer, portal), connections_max) {
        tracing::warn!(%peer, %portal, "connection refused: there are as many as there may be");
    }
}
