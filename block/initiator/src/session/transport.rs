//! One connection at a time: the socket and the pure machine over it.

use super::{SessionError, SessionTimes, fresh_challenge, monotonic};
use bytes::BufMut;
use core::time::Duration;
use onggi_block_iscsi::initiator::{
    Initiator, InitiatorError, InitiatorEvent, LoginError, LoginOptions,
};
use onggi_block_iscsi::pdu::EncodedPdu;
use onggi_common_host::Clock;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;
/// How many pieces one write gathers.
const GATHER_MAX: usize = 64;
/// How often a login follows the target to another portal.
const REDIRECTS_MAX: u32 = 4;

/// A connection that is logged in, or none.
#[derive(Debug)]
pub(super) struct Transport {
    portals: Vec<String>,
    login: LoginOptions,
    times: SessionTimes,
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    portal: String,
    stream: TcpStream,
    machine: Initiator,
    unsent: VecDeque<EncodedPdu>,
    /// How much of the first unsent PDU is sent already.
    sent_bytes: usize,
}

impl Transport {
    pub(super) fn new(portals: &[String], login: LoginOptions, times: SessionTimes) -> Self {
        Self {
            portals: portals.to_vec(),
            login,
            times,
            link: None,
        }
    }

    pub(super) fn machine(&mut self) -> Option<&mut Initiator> {
        self.link.as_mut().map(|link| &mut link.machine)
    }

    /// Connects to the first portal that answers and logs in there.
    pub(super) fn connect_and_log_in(&mut self, clock: &dyn Clock) -> Result<(), SessionError> {
        self.link = None;
        let mut outcome = Err(SessionError::Connect {
            portal: "none given".to_owned(),
            source: Arc::new(io::Error::from(io::ErrorKind::AddrNotAvailable)),
        });
        for portal in self.portals.clone() {
            let attempt = self.log_in_at(&portal, clock);
            let is_done = attempt.is_ok();
            // What a target said tells more than a portal that does not answer.
            if is_done || !outcome.as_ref().is_err_and(SessionError::is_refusal) {
                outcome = attempt;
            }
            if is_done {
                break;
            }
        }
        outcome
    }

    fn log_in_at(&mut self, first: &str, clock: &dyn Clock) -> Result<(), SessionError> {
        let mut portal = first.to_owned();
        for _ in 0..REDIRECTS_MAX {
            match self.log_in_once(&portal, clock) {
                Err(SessionError::Protocol {
                    source: InitiatorError::Login(LoginError::Redirected { address, .. }),
                    ..
                }) => portal = address.split(',').next().unwrap_or_default().to_owned(),
                outcome => return outcome,
            }
        }
        let source = Arc::new(io::Error::other("too many redirects"));
        Err(SessionError::Connect { portal, source })
    }

    fn log_in_once(&mut self, portal: &str, clock: &dyn Clock) -> Result<(), SessionError> {
        let stream =
            connect(portal, self.times.connect).map_err(|source| SessionError::Connect {
                portal: portal.to_owned(),
                source: Arc::new(source),
            })?;
        // A challenge that is used twice can be answered by who listened to the first.
        self.login.challenge = fresh_challenge();
        let now = monotonic(clock);
        let mut link = Link {
            portal: portal.to_owned(),
            stream,
            machine: Initiator::new(self.login.clone(), self.times.protocol, now),
            unsent: VecDeque::new(),
            sent_bytes: 0,
        };
        loop {
            link.step(None, None, clock)?;
            match link.machine.poll_event() {
                Some(InitiatorEvent::LoggedIn(_)) => {
                    self.link = Some(link);
                    return Ok(());
                }
                Some(InitiatorEvent::Failed(source)) => {
                    return Err(SessionError::Protocol {
                        portal: portal.to_owned(),
                        source,
                    });
                }
                Some(_) | None => {}
            }
        }
    }

    /// Sends what is to be sent, and waits until something arrives, the waker is readable or a time is due.
    pub(super) fn step(
        &mut self,
        waker: BorrowedFd<'_>,
        limit: Option<Duration>,
        clock: &dyn Clock,
    ) -> Result<(), SessionError> {
        match &mut self.link {
            Some(link) => link.step(Some(waker), limit, clock),
            None => Err(SessionError::Ended),
        }
    }

    /// Gives the connection up.
    pub(super) fn drop_link(&mut self) {
        self.link = None;
    }

    pub(super) fn portal(&self) -> String {
        self.link
            .as_ref()
            .map_or_else(String::new, |link| link.portal.clone())
    }
}

impl Link {
    fn step(
        &mut self,
        waker: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
        clock: &dyn Clock,
    ) -> Result<(), SessionError> {
        let broken = |portal: &str, source: io::Error| SessionError::Broken {
            portal: portal.to_owned(),
            source: Arc::new(source),
        };
        let portal = self.portal.clone();
        self.send().map_err(|source| broken(&portal, source))?;
        let readiness = self
            .wait(waker, limit, clock)
            .map_err(|source| broken(&portal, source))?;
        if readiness.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.receive(clock)
                .map_err(|source| broken(&portal, source))?;
        }
        self.machine.handle_timeout(monotonic(clock));
        self.send().map_err(|source| broken(&portal, source))
    }

    fn wait(
        &self,
        waker: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
        clock: &dyn Clock,
    ) -> io::Result<PollFlags> {
        let now = monotonic(clock);
        let due = self
            .machine
            .poll_timeout()
            .map(|due| due.saturating_sub(now));
        let limit = match (due, limit) {
            (Some(due), Some(limit)) => Some(due.min(limit)),
            (due, limit) => due.or(limit),
        };
        let mut wanted = PollFlags::IN;
        if !self.unsent.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut descriptors = vec![PollFd::new(&self.stream, wanted)];
        descriptors.extend(waker.map(|waker| PollFd::from_borrowed_fd(waker, PollFlags::IN)));
        poll(&mut descriptors, limit)?;
        Ok(descriptors
            .first()
            .map_or(PollFlags::empty(), PollFd::revents))
    }

    fn receive(&mut self, clock: &dyn Clock) -> io::Result<()> {
        loop {
            let wanted = self.machine.wanted_bytes().max(READ_BYTES);
            let buffer = self.machine.receive_buffer();
            let start = buffer.len();
            buffer.put_bytes(0, wanted);
            let outcome = self
                .stream
                .read(buffer.get_mut(start..).unwrap_or_default());
            let received = outcome.as_ref().copied().unwrap_or(0);
            buffer.truncate(start + received);
            match outcome {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(received) => {
                    self.machine.received(monotonic(clock));
                    if received < wanted {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends as much as the socket takes, many PDUs in one call.
    fn send(&mut self) -> io::Result<()> {
        loop {
            self.unsent
                .extend(core::iter::from_fn(|| self.machine.poll_transmit()));
            if self.unsent.is_empty() {
                return Ok(());
            }
            let mut skipped = self.sent_bytes;
            let mut slices = Vec::with_capacity(GATHER_MAX);
            for slice in self.unsent.iter().flat_map(EncodedPdu::slices) {
                let part = slice.get(skipped..).unwrap_or_default();
                skipped = skipped.saturating_sub(slice.len());
                if !part.is_empty() {
                    slices.push(IoSlice::new(part));
                }
                if slices.len() == GATHER_MAX {
                    break;
                }
            }
            match self.stream.write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.forget_sent(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn forget_sent(&mut self, written: usize) {
        self.sent_bytes += written;
        while let Some(first) = self.unsent.front().map(EncodedPdu::len) {
            if self.sent_bytes < first {
                return;
            }
            self.sent_bytes -= first;
            self.unsent.pop_front();
        }
    }
}

/// Waits until one of the descriptors is ready or the time is over.
pub(super) fn poll(descriptors: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    // A little later than asked, never earlier: a timer that is polled too early spins.
    let limit = limit.map(|limit| limit.saturating_add(Duration::from_millis(1)));
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match rustix::event::poll(descriptors, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn connect(portal: &str, limit: Duration) -> io::Result<TcpStream> {
    let mut outcome = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for address in portal.to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&address, limit);
        if outcome.is_ok() {
            break;
        }
    }
    let stream = outcome?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
