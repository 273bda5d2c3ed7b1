//! Connections that do not leave the machine.
//!
//! Some systems pace what they send by what they believe the path can carry (BBR). A path within the machine has no
//! bottleneck to be found: there, looking for one costs timers, and every now and then some milliseconds in which nearly
//! nothing is sent.

use rustix::net::{getpeername, getsockname, sockopt};
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// In every kernel, and allowed to everybody.
const UNPACED: &str = "reno";

/// Sends as fast as the peer takes it, when the peer is on this machine; other connections are left as the system has
/// them.
pub fn unpaced(socket: impl AsFd) {
    if is_within(&socket)
        && let Err(error) = sockopt::set_tcp_congestion(&socket, UNPACED)
    {
        tracing::debug!(%error, "a connection within the machine is paced like any other");
    }
}

fn is_within(socket: impl AsFd) -> bool {
    let peer = getpeername(&socket).ok().flatten();
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let own = getsockname(&socket).ok();
    let own = own.and_then(|own| SocketAddr::try_from(own).ok());
    match (peer, own) {
        (Some(peer), Some(own)) => peer.ip().is_loopback() || peer.ip() == own.ip(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn both_ends_within_the_machine_are_unpaced_and_what_is_no_connection_is_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            unpaced(end);
            assert_eq!(sockopt::tcp_congestion(end).unwrap(), UNPACED);
        }
        assert!(!is_within(&listener));
        unpaced(std::fs::File::open("/dev/null").unwrap());
    }
}
