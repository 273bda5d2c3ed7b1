//! The epoll driver: wait, receive, let the peer work, send everything it has to say in one gathering write.

use super::outgoing::Next;
use super::placement::{Placement, WakeUp};
use super::spare;
use crate::mailbox::{ConnectionId, Message};
use crate::peer::{Peer, Thread};
use crate::portal::Entrance;
use bytes::BytesMut;
use onggi_block_iscsi::TargetConfig;
use onggi_block_iscsi::pdu::EncodedPdu;
use onggi_common_host::Clock;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The events taken from the kernel at a time.
const EVENTS_MAX: usize = 128;
/// The PDUs gathered into one write: four pieces each stay below the kernel's limit of 1,024.
const GATHERED_PDUS_MAX: usize = 128;
/// And the bytes: what is gathered no longer counts as the connection's backlog, so it must not be much.
const GATHERED_BYTES_MAX: usize = 4 << 20;
/// The room made for a receive before and after login.
const LOGIN_RECEIVE_BYTES: usize = 2 << 10;
const RECEIVE_BYTES_MIN: usize = 16 << 10;
const RECEIVE_BYTES_MAX: usize = 512 << 10;
/// How often time limits are looked at, in seconds.
const TICK_SECONDS: i64 = 1;
/// With so few wake-ups between two ticks the thread has nothing to do: spare buffers are given back.
const IDLE_WAKE_UPS_MAX: u64 = 4;
/// What a wake-up may move and still be called small.
const QUIET_BYTES_MAX: usize = 16 << 10;
/// How long jobs may take to end when the thread is stopped.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// The mailbox's bell among the connections.
const BELL: u64 = 0;
/// And the timer.
const TIMER: u64 = u64::MAX;

/// Makes connection ids; 0 is the bell's, the last one the timer's.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A connection with its socket.
#[derive(Debug)]
struct Line {
    /// Absent once it is closed and only jobs under way keep the peer.
    socket: Option<OwnedFd>,
    peer: Peer,
    queue: VecDeque<EncodedPdu>,
    queued_bytes: usize,
    /// How much of the queue's first PDU is sent.
    sent_bytes: usize,
    registered: epoll::EventFlags,
    /// Since when the socket has taken nothing of what waits.
    stalled_since: Option<Duration>,
    /// What was received and sent since it was last looked at.
    moved_bytes: usize,
}

/// A data thread's own state.
pub(crate) struct DataThread {
    thread: Thread,
    clock: Arc<dyn Clock>,
    config: TargetConfig,
    epoll: OwnedFd,
    lines: HashMap<ConnectionId, Line>,
    /// Connections that have not logged in, oldest first.
    logins: BTreeSet<ConnectionId>,
    logins_max: usize,
    load: Arc<AtomicUsize>,
    /// Ticks while there is something to time out. A limit on each wait would arm a timer of the kernel each time, which
    /// in a virtual machine is an exit to its host.
    timer: OwnedFd,
    is_ticking: bool,
    /// Since the last tick.
    wake_ups: u64,
    stop_by: Option<Duration>,
}

impl DataThread {
    /// A thread's state; `logins_max` is this thread's share of the limit.
    pub(crate) fn new(
        thread: Thread,
        clock: Arc<dyn Clock>,
        config: TargetConfig,
        load: Arc<AtomicUsize>,
        logins_max: usize,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            thread.mailbox.bell(),
            epoll::EventData::new_u64(BELL),
            epoll::EventFlags::IN,
        )?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        epoll::add(
            &epoll,
            &timer,
            epoll::EventData::new_u64(TIMER),
            epoll::EventFlags::IN,
        )?;
        let (lines, logins, stop_by) = (HashMap::new(), BTreeSet::new(), None);
        Ok(Self {
            thread,
            clock,
            config,
            epoll,
            lines,
            logins,
            logins_max,
            load,
            timer,
            is_ticking: false,
            wake_ups: 0,
            stop_by,
        })
    }

    /// Serves until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let mut placement = Placement::new();
        loop {
            events.clear();
            if let Err(errno) = self.wait(&mut events)
                && errno != Errno::INTR
            {
                tracing::error!(%errno, "waiting for connections failed");
                return;
            }
            self.thread.now = self.clock.monotonic();
            self.wake_ups += 1;
            for event in &events {
                match event.data.u64() {
                    BELL => self.take_messages(),
                    TIMER => self.tick(),
                    id => self.serve(ConnectionId(id), event.flags),
                }
            }
            self.place(&mut placement, &events);
            if self
                .stop_by
                .is_some_and(|limit| self.lines.is_empty() || self.thread.now >= limit)
            {
                return;
            }
        }
    }

    // Nothing to time out, nothing to wake up for.
    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> Result<(), Errno> {
        let ticks = !self.lines.is_empty() || self.stop_by.is_some();
        if ticks != self.is_ticking {
            let every = rustix::time::Timespec {
                tv_sec: if ticks { TICK_SECONDS } else { 0 },
                tv_nsec: 0,
            };
            let times = Itimerspec {
                it_interval: every,
                it_value: every,
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times)?;
            self.is_ticking = ticks;
        }
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), None)?;
        Ok(())
    }

    // Tells the placement what the wake-up was about.
    fn place(&mut self, placement: &mut Placement, events: &[epoll::Event]) {
        let [event] = events else {
            placement.woke(WakeUp::Busy, None::<&OwnedFd>);
            return;
        };
        let id = event.data.u64();
        if id == TIMER {
            return;
        }
        let Some(line) = self.lines.get_mut(&ConnectionId(id)) else {
            placement.woke(WakeUp::Busy, None::<&OwnedFd>);
            return;
        };
        let wake_up = if line.was_quiet() {
            WakeUp::Quiet(id)
        } else {
            WakeUp::Busy
        };
        placement.woke(wake_up, line.socket.as_ref());
    }

    fn take_messages(&mut self) {
        // Connections that got a result are served once, however many results they got.
        let mut touched = BTreeSet::new();
        for message in self.thread.mailbox.take() {
            match message {
                Message::Accepted { socket, entrance } => self.accept(socket, entrance),
                Message::Finished {
                    connection,
                    task,
                    finished,
                } => {
                    if let Some(line) = self.lines.get_mut(&connection) {
                        line.peer.finished(task, finished);
                        touched.insert(connection);
                    }
                }
                Message::Cut { connection } => self.with(connection, &mut touched, Peer::close),
                Message::Replaced { connection } => {
                    self.with(connection, &mut touched, Peer::replaced)
                }
                Message::AbortTasks { connection } => {
                    self.with(connection, &mut touched, Peer::abort_tasks)
                }
                Message::AbortTasksFor { connection, notice } => {
                    let tell = |peer: &mut Peer| peer.abort_tasks_for(notice);
                    self.with(connection, &mut touched, tell);
                }
                Message::AbortedElsewhere {
                    connection,
                    request,
                } => self.with(connection, &mut touched, |peer| {
                    peer.aborted_elsewhere(request);
                }),
                Message::RequestLogout { connection, within } => {
                    self.with(connection, &mut touched, |peer| {
                        peer.connection().request_logout(within);
                    });
                }
                Message::Drain { within } => {
                    for (id, line) in &mut self.lines {
                        line.peer.connection().request_logout(within);
                        touched.insert(*id);
                    }
                }
                Message::Stop => {
                    self.stop_by = Some(self.thread.now + STOP_TIME_MAX);
                    for (id, line) in &mut self.lines {
                        // Told if the socket takes it at once; not waited for.
                        line.peer.connection().drop_session();
                        line.work(&mut self.thread);
                        line.peer.close();
                        touched.insert(*id);
                    }
                }
            }
        }
        for id in touched {
            self.serve(id, epoll::EventFlags::empty());
        }
    }

    fn with(
        &mut self,
        id: ConnectionId,
        touched: &mut BTreeSet<ConnectionId>,
        act: impl FnOnce(&mut Peer),
    ) {
        if let Some(line) = self.lines.get_mut(&id) {
            act(&mut line.peer);
            touched.insert(id);
        }
    }

    fn accept(&mut self, socket: OwnedFd, entrance: Entrance) {
        let id = ConnectionId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let registered = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if self.stop_by.is_some() {
            self.load.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        if let Err(errno) = epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(id.0),
            registered,
        ) {
            tracing::warn!(%errno, "a connection could not be watched");
            self.load.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        // Strangers may hold at most so many places: the one that has had its place longest gives way.
        if self.logins.len() >= self.logins_max
            && let Some(oldest) = self.logins.first().copied()
        {
            if let Some(line) = self.lines.get_mut(&oldest) {
                line.peer.close();
            }
            self.serve(oldest, epoll::EventFlags::empty());
        }
        let peer = Peer::new(id, entrance, self.config.clone(), self.thread.now);
        let line = Line {
            socket: Some(socket),
            peer,
            queue: VecDeque::new(),
            queued_bytes: 0,
            sent_bytes: 0,
            registered,
            stalled_since: None,
            moved_bytes: 0,
        };
        self.lines.insert(id, line);
        self.logins.insert(id);
        self.serve(id, registered);
    }

    // One round for one connection: take what came, work, send, and see what is next.
    fn serve(&mut self, id: ConnectionId, ready: epoll::EventFlags) {
        use epoll::EventFlags as Flags;
        let Some(line) = self.lines.get_mut(&id) else {
            return;
        };
        if ready.intersects(Flags::IN | Flags::RDHUP | Flags::HUP | Flags::ERR) {
            line.receive(&self.thread);
        }
        line.work(&mut self.thread);
        line.peer.account(&mut self.thread);
        if !line.peer.is_in_login() || line.peer.is_closed() {
            self.logins.remove(&id);
        }
        if line.is_finished() {
            // Closing the descriptor takes it out of the epoll set.
            line.socket = None;
            if line.peer.is_idle() {
                self.forget(id);
            }
            return;
        }
        if let Err(errno) = line.register(&self.epoll, id, &self.thread) {
            tracing::warn!(%errno, "a connection can no longer be watched");
            line.socket = None;
            line.peer.close();
            if line.peer.is_idle() {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: ConnectionId) {
        self.logins.remove(&id);
        if let Some(line) = self.lines.remove(&id) {
            self.load.fetch_sub(1, Ordering::Relaxed);
            line.peer.end(&mut self.thread);
        }
    }

    fn tick(&mut self) {
        // Only how often it rang could be read, and once is enough.
        rustix::io::read(&self.timer, &mut [0; 8]).ok();
        let now = self.thread.now;
        if std::mem::replace(&mut self.wake_ups, 0) <= IDLE_WAKE_UPS_MAX {
            self.thread.buffers.shrink();
        }
        let stall_max = self.thread.shared.limits.answer_time_max;
        let mut due = Vec::new();
        for (id, line) in &mut self.lines {
            line.shrink();
            let is_stalled = line
                .stalled_since
                .is_some_and(|since| now.saturating_sub(since) >= stall_max);
            if is_stalled {
                tracing::info!(
                    connection = id.0,
                    "the initiator takes no answers: connection closed"
                );
                line.peer.close();
                line.forget_queue();
            }
            // What was not read for want of memory may be read again.
            let is_unread = !line.registered.contains(epoll::EventFlags::IN);
            if (is_unread && line.peer.wants_input(&self.thread))
                || is_stalled
                || line
                    .peer
                    .connection()
                    .poll_timeout()
                    .is_some_and(|limit| now >= limit)
            {
                line.peer.connection().handle_timeout(now);
                due.push(*id);
            }
        }
        for id in due {
            self.serve(id, epoll::EventFlags::empty());
        }
    }
}

impl Line {
    fn receive(&mut self, thread: &Thread) {
        let Some(socket) = &self.socket else { return };
        if !self.peer.wants_input(thread) {
            return;
        }
        let is_in_login = self.peer.is_in_login();
        let connection = self.peer.connection();
        let least = if is_in_login {
            LOGIN_RECEIVE_BYTES
        } else {
            RECEIVE_BYTES_MIN
        };
        let room = connection.wanted_bytes().clamp(least, RECEIVE_BYTES_MAX);
        let buffer = connection.receive_buffer();
        buffer.reserve(room);
        match spare::receive(socket, buffer) {
            Ok(0) => self.lose(),
            Ok(count) => {
                self.moved_bytes += count;
                connection.received(thread.now);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.lose(),
        }
    }

    // The initiator is gone: there is nobody to say anything to.
    fn lose(&mut self) {
        self.peer.close();
        self.forget_queue();
    }

    // What is sent makes room for more to be done, so both go on until neither does.
    fn work(&mut self, thread: &mut Thread) {
        loop {
            self.peer.pump(thread);
            match self.send() {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    self.lose();
                    self.peer.pump(thread);
                    return;
                }
            }
        }
        if self.queue.is_empty() {
            self.stalled_since = None;
        } else if self.stalled_since.is_none() {
            self.stalled_since = Some(thread.now);
        }
    }

    // True when something was sent and the socket took all of it.
    fn send(&mut self) -> io::Result<bool> {
        let Some(socket) = self.socket.as_ref() else {
            self.forget_queue();
            return Ok(false);
        };
        while self.queue.len() < GATHERED_PDUS_MAX && self.queued_bytes < GATHERED_BYTES_MAX {
            let Some(pdu) = self.peer.transmit() else {
                break;
            };
            self.queued_bytes += pdu.len();
            self.queue.push_back(pdu);
        }
        if self.queue.is_empty() {
            return Ok(false);
        }
        while !self.queue.is_empty() {
            let sent = Next::of(&self.queue, self.sent_bytes).send(socket)?;
            if sent.count > 0 {
                self.sent_bytes += sent.count;
                self.moved_bytes += sent.count;
                self.stalled_since = None;
            }
            while let Some(first) = self.queue.front()
                && self.sent_bytes >= first.len()
            {
                self.sent_bytes -= first.len();
                self.queued_bytes -= first.len();
                self.queue.pop_front();
            }
            if !sent.is_whole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    // Whether what was done since this was last asked is one small command, from its arrival to its answer.
    fn was_quiet(&mut self) -> bool {
        let moved_bytes = std::mem::take(&mut self.moved_bytes);
        let commands = self.peer.take_command_count();
        commands == 1
            && moved_bytes <= QUIET_BYTES_MAX
            && self.queue.is_empty()
            && self.peer.is_idle()
    }

    // A connection that waits for nothing needs no room for it; an active one asks for it again.
    fn shrink(&mut self) {
        let buffer = self.peer.connection().receive_buffer();
        if buffer.is_empty() {
            *buffer = BytesMut::new();
        }
    }

    fn forget_queue(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.sent_bytes = 0;
    }

    // Nothing comes or goes any more.
    fn is_finished(&self) -> bool {
        self.peer.is_closed()
            && (self.queue.is_empty() || self.socket.is_none() || self.peer.is_cut())
    }

    fn register(
        &mut self,
        epoll: &OwnedFd,
        id: ConnectionId,
        thread: &Thread,
    ) -> Result<(), Errno> {
        use epoll::EventFlags as Flags;
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let mut wanted = Flags::empty();
        if self.peer.wants_input(thread) {
            wanted |= Flags::IN | Flags::RDHUP;
        }
        if !self.queue.is_empty() {
            wanted |= Flags::OUT;
        }
        if wanted != self.registered {
            epoll::modify(epoll, socket, epoll::EventData::new_u64(id.0), wanted)?;
            self.registered = wanted;
        }
        Ok(())
    }
}
