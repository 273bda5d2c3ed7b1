//! A TCP relay in front of a server that a test can cut: what a network does to a portal.

use anyhow::{Context as _, Result};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What is moved at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// What the relay does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Silent,
    Closed,
    Ended,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    server: SocketAddr,
    streams: Vec<TcpStream>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A relay on 127.0.0.1, which ends with the value.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts a relay on a free port. The server may come later: a connection it refuses is closed.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let listener =
            TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("a relay's port")?;
        let address = listener.local_addr().context("a relay's port")?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mode: Mode::Open,
                server,
                streams: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let thread = std::thread::spawn(move || accepting.accept(&listener));
        Ok(Self {
            shared,
            address,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes its connections and every new one: the server's process is gone.
    pub fn close(&self) {
        self.shared.enter(Mode::Closed);
    }

    /// Moves nothing any more, and tells nobody: the cable is pulled.
    pub fn silence(&self) {
        self.shared.enter(Mode::Silent);
    }

    /// Works again.
    pub fn open(&self) {
        self.shared.enter(Mode::Open);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.enter(Mode::Ended);
        // Wakes the accepting thread; if that fails, it ended already.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, mode: Mode) {
        let mut state = self.lock();
        state.mode = mode;
        if matches!(mode, Mode::Closed | Mode::Ended) {
            for stream in state.streams.drain(..) {
                // One that was closed by its other end is closed enough.
                drop(stream.shutdown(Shutdown::Both));
            }
        }
        self.changed.notify_all();
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().flatten() {
            let server = {
                let state = self.lock();
                match state.mode {
                    Mode::Ended => return,
                    Mode::Closed => continue,
                    Mode::Open | Mode::Silent => state.server,
                }
            };
            let Ok(server) = TcpStream::connect(server) else {
                continue;
            };
            // Without copies of the streams the connection could not be cut: it is closed instead.
            let copies = [client.try_clone(), server.try_clone()];
            let [Ok(client_again), Ok(server_again)] = copies else {
                continue;
            };
            for stream in [&client, &server] {
                drop(stream.set_nodelay(true));
                self.lock().streams.extend(stream.try_clone());
            }
            for (from, to) in [(client, server_again), (server, client_again)] {
                let shared = Arc::clone(&self);
                std::thread::spawn(move || shared.carry(from, to));
            }
        }
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            let mut state = self.lock();
            while state.mode == Mode::Silent {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            if to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        // The other direction ends, too; it may have done so first.
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn echo_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while let Ok(1) = stream.read(&mut byte) {
                        drop(stream.write_all(&byte));
                    }
                });
            }
        });
        address
    }

    #[test]
    fn a_relay_carries_falls_silent_closes_and_works_again() {
        let relay = Relay::start(echo_server()).unwrap();
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        let mut byte = [0];
        stream.write_all(b"a").unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a");
        relay.silence();
        stream.write_all(b"b").unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert!(stream.read_exact(&mut byte).is_err());
        stream.set_read_timeout(None).unwrap();
        relay.open();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b", "nothing was lost");
        relay.close();
        assert!(matches!(stream.read(&mut byte), Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(relay.address()).unwrap();
        assert!(matches!(refused.read(&mut byte), Ok(0) | Err(_)));
        relay.open();
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        stream.write_all(b"c").unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"c");
    }
}
