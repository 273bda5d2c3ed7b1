//! What somebody else still has, for a moment.
//!
//! A process that was killed ends a little later than it is seen to be gone: its memory is given back before its
//! sockets and locks are. One that is started in its place would find its address and its stores in use.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(100);
const PAUSES_MAX: u32 = 100;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Tries this until it is no longer in use, for ten seconds at most. It sleeps: not for a thread others wait for.
///
/// # Errors
/// Any other error at once; that of the last try when it stays in use.
pub fn awaited<T, E: core::fmt::Display>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for pauses in 0..PAUSES_MAX {
        match attempt() {
            Err(error) if is_in_use(&error) => {
                if pauses == 1 {
                    tracing::warn!(%error, "still in use; it is tried for ten seconds");
                }
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
    attempt()
}

/// A listener at this address, once nobody else listens there.
///
/// # Errors
/// When the address stays in use for ten seconds, or cannot be had at all.
pub fn listen(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let listener = awaited(
        || TcpListener::bind(&address),
        |error| error.kind() == io::ErrorKind::AddrInUse,
    )?;
    // What the standard library asks for is little for a burst of connections.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn an_address_is_had_as_soon_as_its_last_user_is_gone() {
        let before = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = before.local_addr().unwrap();
        let ending = std::thread::spawn(move || {
            std::thread::sleep(PAUSE * 3);
            drop(before);
        });
        assert_eq!(listen(address).unwrap().local_addr().unwrap(), address);
        ending.join().unwrap();
    }

    #[test]
    fn any_other_error_is_told_at_once() {
        let start = Instant::now();
        // A documentation address, which no machine has.
        let error = listen("192.0.2.1:9").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(start.elapsed() < PAUSE * PAUSES_MAX);
    }
}
