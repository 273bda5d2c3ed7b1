//! A network of named hosts whose connections are streams of bytes.
//!
//! Bytes of one connection arrive in order, as TCP's do; those of different connections overtake each other. A lost
//! segment comes later, a way that is blocked delivers nothing until it is open again, a cut connection is reset at both
//! ends and what was on the way is gone. Ways are blocked in one direction at a time.

use crate::random::Random;
use crate::world::World;
use bytes::Bytes;
use core::ops::Range;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

/// Bytes on the way in one direction before a writer has to wait.
const WINDOW_BYTES: usize = 256 << 10;
/// After this time a lost segment is sent again; each time later.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// How often one segment is lost at most.
const LOSSES_MAX: u32 = 6;
/// Connections that wait to be accepted.
const BACKLOG_MAX: usize = 1_024;

/// A machine of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(usize);

/// How the network behaves.
#[derive(Debug, Clone)]
pub struct Weather {
    /// How long a segment takes.
    pub latency: Range<Duration>,
    /// How many segments of a thousand are lost, each time they are sent.
    pub loss_per_mille: u64,
    /// How many segments of a thousand cut their connection.
    pub cuts_per_mille: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(50)..Duration::from_millis(2),
            loss_per_mille: 0,
            cuts_per_mille: 0,
        }
    }
}

#[derive(Debug)]
struct Machine {
    address: String,
    is_on: bool,
    listener: Option<mpsc::Sender<(SimStream, Host)>>,
}

/// One direction of a connection.
#[derive(Debug)]
struct Pipe {
    from: Host,
    to: Host,
    queue: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// When the last segment arrives: none overtakes it.
    last_at: Instant,
    is_closed: bool,
    is_reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    machines: Vec<Machine>,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    blocked: BTreeSet<(Host, Host)>,
    /// When something was last wrong between two hosts, the lesser one first.
    disturbed: BTreeMap<(Host, Host), Instant>,
    weather: Weather,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    world: Arc<World>,
    random: Mutex<Random>,
    state: Mutex<State>,
}

impl State {
    fn is_open(&self, from: Host, to: Host) -> bool {
        let is_on = |host: Host| {
            self.machines
                .get(host.0)
                .is_some_and(|machine| machine.is_on)
        };
        is_on(from) && is_on(to) && !self.blocked.contains(&(from, to))
    }

    fn disturb(&mut self, one: Host, other: Host) {
        let pair = (one.min(other), one.max(other));
        self.disturbed.insert(pair, Instant::now());
    }

    fn disturb_all(&mut self, host: Host) {
        for other in (0..self.machines.len()).map(Host) {
            self.disturb(host, other);
        }
    }

    fn reset(&mut self, is_meant: impl Fn(&Pipe) -> bool) {
        for pipe in self.pipes.values_mut().filter(|pipe| is_meant(pipe)) {
            pipe.is_reset = true;
            pipe.queue.clear();
            pipe.bytes = 0;
            pipe.wake();
        }
    }

    fn wake_all(&mut self) {
        for pipe in self.pipes.values_mut() {
            pipe.wake();
        }
    }
}

impl Network {
    /// A network without hosts.
    #[must_use]
    pub fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            random: Mutex::new(world.fork()),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose<T>(&self, choice: impl FnOnce(&mut Random) -> T) -> T {
        choice(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a machine with an address.
    pub fn add(&self, address: &str) -> Host {
        let mut state = self.lock();
        state.machines.push(Machine {
            address: address.to_owned(),
            is_on: true,
            listener: None,
        });
        Host(state.machines.len() - 1)
    }

    /// Begins to listen on a machine's address.
    pub fn listen(&self, host: Host) -> mpsc::Receiver<(SimStream, Host)> {
        let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
        let mut state = self.lock();
        if let Some(machine) = state.machines.get_mut(host.0) {
            machine.listener = Some(sender);
        }
        state.disturb_all(host);
        drop(state);
        receiver
    }

    /// Sets how the network behaves from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Blocks one way.
    pub fn block(&self, from: Host, to: Host) {
        let mut state = self.lock();
        state.blocked.insert((from, to));
        state.disturb(from, to);
    }

    /// Opens one way again: what waited arrives.
    pub fn open(&self, from: Host, to: Host) {
        let mut state = self.lock();
        if state.blocked.remove(&(from, to)) {
            state.disturb(from, to);
            state.wake_all();
        }
    }

    /// Opens all ways.
    pub fn open_all(&self) {
        let mut state = self.lock();
        for (from, to) in core::mem::take(&mut state.blocked) {
            state.disturb(from, to);
        }
        state.wake_all();
    }

    /// The program on a machine ends: its connections are reset, new ones refused.
    pub fn stop(&self, host: Host) {
        let mut state = self.lock();
        if let Some(machine) = state.machines.get_mut(host.0) {
            machine.listener = None;
        }
        state.reset(|pipe| pipe.from == host || pipe.to == host);
        state.disturb_all(host);
    }

    /// The machine loses its power: nobody hears from it, peers' connections hang.
    pub fn power_off(&self, host: Host) {
        let mut state = self.lock();
        if let Some(machine) = state.machines.get_mut(host.0) {
            machine.listener = None;
            machine.is_on = false;
        }
        // Its own ends are gone with it.
        state.reset(|pipe| pipe.to == host);
        state.disturb_all(host);
    }

    /// The machine is there again, and knows nothing of connections before.
    pub fn power_on(&self, host: Host) {
        let mut state = self.lock();
        if let Some(machine) = state
            .machines
            .get_mut(host.0)
            .filter(|machine| !machine.is_on)
        {
            machine.is_on = true;
            state.reset(|pipe| pipe.from == host || pipe.to == host);
            state.disturb_all(host);
        }
    }

    /// Remembers that something else is wrong with a machine.
    pub fn disturb(&self, host: Host) {
        self.lock().disturb_all(host);
    }

    /// Whether bytes go both ways between two hosts, and the second listens.
    #[must_use]
    pub fn is_well(&self, from: Host, to: Host) -> bool {
        let state = self.lock();
        let listens = state
            .machines
            .get(to.0)
            .is_some_and(|machine| machine.listener.is_some());
        listens && state.is_open(from, to) && state.is_open(to, from)
    }

    /// Whether nothing was wrong between two hosts since then.
    #[must_use]
    pub fn is_well_since(&self, from: Host, to: Host, since: Instant) -> bool {
        let pair = (from.min(to), from.max(to));
        let last = self.lock().disturbed.get(&pair).copied();
        self.is_well(from, to) && last.is_none_or(|last| last < since)
    }

    /// Connects one host to the address of another.
    ///
    /// # Errors
    /// When nobody listens there. While the way is blocked it waits: time limits are the caller's.
    pub async fn connect(self: &Arc<Self>, from: Host, address: &str) -> io::Result<SimStream> {
        let machine = {
            let state = self.lock();
            state
                .machines
                .iter()
                .position(|machine| machine.address == address)
        };
        let to = Host(machine.ok_or(io::ErrorKind::AddrNotAvailable)?);
        loop {
            let weather = self.lock().weather.clone();
            let trip = self.choose(|random| random.span(&weather.latency));
            tokio::time::sleep(trip * 2).await;
            let (is_open, listener) = {
                let state = self.lock();
                let is_open = state.is_open(from, to) && state.is_open(to, from);
                (is_open, state.machines[to.0].listener.clone())
            };
            if !is_open {
                tokio::time::sleep(RETRANSMISSION).await;
                continue;
            }
            let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (near, far) = self.pair(from, to);
            self.world.count(&[from.0 as u64, to.0 as u64, near.reads]);
            let refused = |_gone| io::Error::from(io::ErrorKind::ConnectionRefused);
            listener.try_send((far, from)).map_err(refused)?;
            return Ok(near);
        }
    }

    fn pair(self: &Arc<Self>, from: Host, to: Host) -> (SimStream, SimStream) {
        let mut state = self.lock();
        let mut pipe = |from, to| {
            let id = state.next_pipe;
            state.next_pipe += 1;
            let pipe = Pipe {
                from,
                to,
                queue: VecDeque::new(),
                bytes: 0,
                last_at: Instant::now(),
                is_closed: false,
                is_reset: false,
                reader: None,
                writer: None,
            };
            state.pipes.insert(id, pipe);
            id
        };
        let (there, back) = (pipe(from, to), pipe(to, from));
        let stream = |reads, writes| SimStream {
            network: Arc::clone(self),
            reads,
            writes,
            sleep: None,
        };
        (stream(back, there), stream(there, back))
    }

    /// When a segment that is sent now arrives; `None` when its connection is cut.
    fn travel(&self, state: &mut State, from: Host, to: Host) -> Option<Duration> {
        let weather = &state.weather;
        let (is_cut, mut time, losses) = self.choose(|random| {
            let is_cut = random.per_mille(weather.cuts_per_mille);
            let time = random.span(&weather.latency);
            let mut losses = 0;
            while losses < LOSSES_MAX && random.per_mille(weather.loss_per_mille) {
                losses += 1;
            }
            (is_cut, time, losses)
        });
        for loss in 0..losses {
            time += RETRANSMISSION * (1 << loss);
        }
        if is_cut || losses > 0 {
            state.disturb(from, to);
        }
        (!is_cut).then_some(time)
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct SimStream {
    network: Arc<Network>,
    reads: u64,
    writes: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// What a reader finds.
enum Found {
    Bytes,
    End,
    Reset,
    Later(Instant),
    Nothing,
}

impl SimStream {
    fn look(&self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Found {
        let mut state = self.network.lock();
        let Some(ends) = state
            .pipes
            .get(&self.reads)
            .map(|pipe| (pipe.from, pipe.to))
        else {
            return Found::Reset;
        };
        let is_open = state.is_open(ends.0, ends.1);
        let Some(pipe) = state.pipes.get_mut(&self.reads) else {
            return Found::Reset;
        };
        if pipe.is_reset {
            return Found::Reset;
        }
        let found = match pipe.queue.front_mut() {
            _ if !is_open => Found::Nothing,
            None if pipe.is_closed => Found::End,
            None => Found::Nothing,
            Some((at, _)) if *at > Instant::now() => Found::Later(*at),
            Some((_, bytes)) => {
                let taken = bytes.split_to(bytes.len().min(buffer.remaining()));
                if bytes.is_empty() {
                    pipe.queue.pop_front();
                }
                pipe.bytes -= taken.len();
                buffer.put_slice(&taken);
                if let Some(writer) = pipe.writer.take() {
                    writer.wake();
                }
                Found::Bytes
            }
        };
        if matches!(found, Found::Nothing | Found::Later(_)) {
            pipe.reader = Some(context.waker().clone());
        }
        found
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.look(context, buffer) {
                Found::Bytes | Found::End => return Poll::Ready(Ok(())),
                Found::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Found::Nothing => return Poll::Pending,
                Found::Later(at) => {
                    let sleep = self
                        .sleep
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                    if sleep.deadline() != at {
                        sleep.as_mut().reset(at);
                    }
                    if sleep.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.network.lock();
        let state = &mut *state;
        let Some(pipe) = state.pipes.get_mut(&self.writes) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if pipe.is_reset || pipe.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(pipe.bytes);
        if room == 0 {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (from, to, count) = (pipe.from, pipe.to, room.min(bytes.len()));
        let Some(time) = self.network.travel(state, from, to) else {
            self.network.world.count(&[self.writes, u64::MAX]);
            let (reads, writes) = (self.reads, self.writes);
            for id in [reads, writes] {
                if let Some(pipe) = state.pipes.get_mut(&id) {
                    pipe.is_reset = true;
                    pipe.queue.clear();
                    pipe.wake();
                }
            }
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if let Some(pipe) = state.pipes.get_mut(&self.writes) {
            let at = pipe.last_at.max(Instant::now() + time);
            pipe.last_at = at;
            pipe.bytes += count;
            pipe.queue
                .push_back((at, Bytes::copy_from_slice(&bytes[..count])));
            if let Some(reader) = pipe.reader.take() {
                reader.wake();
            }
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            self.network
                .world
                .count(&[self.writes, count as u64, micros]);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.network.lock();
        if let Some(pipe) = state.pipes.get_mut(&self.writes) {
            pipe.is_closed = true;
            pipe.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        let state = &mut *state;
        // What was sent still arrives; what comes is not taken any more.
        if let Some(pipe) = state.pipes.get_mut(&self.writes) {
            pipe.is_closed = true;
            pipe.wake();
        }
        if let Some(mut pipe) = state.pipes.remove(&self.reads) {
            pipe.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn connected(world: &Arc<World>) -> (Arc<Network>, SimStream, SimStream, [Host; 2]) {
        let network = Network::new(world);
        let hosts = [network.add("a:1"), network.add("b:1")];
        let mut listener = network.listen(hosts[1]);
        let near = network.connect(hosts[0], "b:1").await.unwrap();
        let (far, from) = listener.recv().await.unwrap();
        assert_eq!(from, hosts[0]);
        (network, near, far, hosts)
    }

    #[test]
    fn bytes_arrive_in_order_through_loss_and_ends_are_heard() {
        world::run(3, async |world| {
            let (network, mut near, mut far, _) = connected(&world).await;
            let loss_per_mille = 300;
            network.set_weather(Weather {
                loss_per_mille,
                ..Weather::default()
            });
            let sent: Vec<u8> = (0..600_000u32).map(|n| n.to_le_bytes()[0]).collect();
            let expected = sent.clone();
            let writing = tokio::spawn(async move {
                near.write_all(&sent).await.unwrap();
            });
            let mut taken = Vec::new();
            far.read_to_end(&mut taken).await.unwrap();
            writing.await.unwrap();
            assert!(taken == expected && far.write_all(b"x").await.is_err());
        });
    }

    #[test]
    fn a_way_is_blocked_in_one_direction_and_delivers_afterwards() {
        world::run(4, async |world| {
            let (network, mut near, mut far, [a, b]) = connected(&world).await;
            let before = Instant::now();
            network.block(a, b);
            near.write_all(b"jar").await.unwrap();
            far.write_all(b"lid").await.unwrap();
            let mut three = [0; 3];
            near.read_exact(&mut three).await.unwrap();
            assert_eq!(&three, b"lid");
            let second = Duration::from_secs(1);
            assert!(
                tokio::time::timeout(second, far.read_exact(&mut three))
                    .await
                    .is_err()
            );
            network.open(a, b);
            far.read_exact(&mut three).await.unwrap();
            assert_eq!(&three, b"jar");
            assert!(network.is_well(a, b) && !network.is_well_since(a, b, before));
        });
    }

    #[test]
    fn a_stopped_program_refuses_and_a_dead_machine_is_silent() {
        world::run(5, async |world| {
            let (network, mut near, _far, [a, b]) = connected(&world).await;
            network.power_off(b);
            let second = Duration::from_secs(1);
            assert!(tokio::time::timeout(second, near.read_u8()).await.is_err());
            assert!(
                tokio::time::timeout(second, network.connect(a, "b:1"))
                    .await
                    .is_err()
            );
            network.power_on(b);
            assert!(near.read_u8().await.is_err());
            let refused = network.connect(a, "b:1").await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
