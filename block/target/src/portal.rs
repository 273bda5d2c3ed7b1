//! Portals: where initiators connect. One thread accepts for all of them and hands connections to the data threads.

use crate::driver::{Door, hand_over};
use crate::options::Limits;
use onggi_common_host::{in_use, nearby};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long accepting pauses when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The listeners, bound.
#[derive(Debug)]
pub(crate) struct Portals {
    listeners: Vec<Listening>,
}

#[derive(Debug)]
struct Listening {
    listener: TcpListener,
    portal: Portal,
    /// How many connections came through it and are open.
    open: Arc<AtomicUsize>,
}

/// A portal and its portal group tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portal {
    pub(crate) address: SocketAddr,
    pub(crate) group: u16,
}

/// How a connection came in; it holds a place at its portal as long as this lives.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) peer: SocketAddr,
    pub(crate) portal: Portal,
    _place: Place,
}

#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place, if there are fewer than `most` taken.
    fn take(open: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(open));
        let before = open.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The thread that accepts.
#[derive(Debug)]
pub(crate) struct Acceptor {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Portals {
    /// Binds these addresses.
    pub(crate) fn bind(portals: &[Portal]) -> Result<Self, (SocketAddr, io::Error)> {
        let mut listeners = Vec::new();
        for Portal { address, group } in portals.iter().copied() {
            let bind = || -> io::Result<Listening> {
                let listener = in_use::listen(address)?;
                let address = listener.local_addr()?;
                let (portal, open) = (Portal { address, group }, Arc::default());
                Ok(Listening {
                    listener,
                    portal,
                    open,
                })
            };
            listeners.push(bind().map_err(|error| (address, error))?);
        }
        Ok(Self { listeners })
    }

    /// The portals with the ports that were really taken.
    pub(crate) fn bound(&self) -> Vec<Portal> {
        self.listeners.iter().map(|each| each.portal).collect()
    }

    /// Starts accepting.
    pub(crate) fn accept(self, doors: Vec<Door>, limits: Limits) -> io::Result<Acceptor> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || accept(&self.listeners, &told, &doors, &limits))?;
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

fn accept(listeners: &[Listening], stop: &OwnedFd, doors: &[Door], limits: &Limits) {
    let mut watched: Vec<PollFd<'_>> = Vec::with_capacity(listeners.len() + 1);
    loop {
        watched.clear();
        watched.push(PollFd::new(stop, PollFlags::IN));
        watched.extend(
            listeners
                .iter()
                .map(|each| PollFd::new(&each.listener, PollFlags::IN)),
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
        for (_, listening) in ready {
            accept_one(listening, doors, limits);
        }
    }
}

fn accept_one(listening: &Listening, doors: &[Door], limits: &Limits) {
    let portal = listening.portal;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = match acceptfrom_with(listening.listener.as_fd(), flags) {
        Ok(accepted) => accepted,
        // The initiator was gone before it was accepted.
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
        Err(errno) => {
            tracing::warn!(%errno, portal = %portal.address, "accepting a connection failed");
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
    nearby::unpaced(&socket);
    let place = Place::take(&listening.open, limits.connections_per_portal_max);
    let is_taken = place.is_some_and(|_place| {
        let entrance = Entrance {
            peer,
            portal,
            _place,
        };
        hand_over(doors, socket, entrance, limits.connections_max)
    });
    if !is_taken {
        tracing::warn!(%peer, portal = %portal.address, "connection refused: there are as many as there may be");
    }
}
