//! What a target process is told at its start.

use core::time::Duration;
use onggi_block_iscsi::login::ChapPolicy;
use std::net::SocketAddr;
use std::path::PathBuf;

/// How a target runs. The daemon makes it of its configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one. All of them are one portal group.
    pub portals: Vec<SocketAddr>,
    /// The addresses SendTargets tells, in place of those listened on (for a portal at 0.0.0.0 or behind NAT).
    pub advertised: Vec<SocketAddr>,
    /// The portal group tag.
    pub portal_group: u16,
    /// More portal groups, for networks that have nothing to do with each other. The same volumes are behind each.
    pub other_groups: Vec<PortalGroup>,
    /// Which hashes are taken for CHAP.
    pub chap: ChapPolicy,
    /// The control socket.
    pub socket: PathBuf,
    /// The directory that holds the exports across restarts.
    pub state_dir: PathBuf,
    /// The file with the key that seals secrets, 32 bytes in hexadecimal; made at first start.
    pub key_file: PathBuf,
    /// Threads that carry connections. Zero takes one per processor, at most eight.
    pub data_threads: usize,
    /// Threads that do what may block: flushes, reads past the page cache, unmapping.
    pub media_threads: usize,
    /// Limits on what peers may take.
    pub limits: Limits,
}

/// Portals that are a portal group of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalGroup {
    /// The portal group tag, another one for each group.
    pub tag: u16,
    /// Where to listen.
    pub portals: Vec<SocketAddr>,
    /// The addresses SendTargets tells, in place of those listened on.
    pub advertised: Vec<SocketAddr>,
}

/// What initiators may take from the target, all together or each.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at a time.
    pub connections_max: usize,
    /// Connections open at a time through one portal: a flood at one leaves places for those who come to another.
    pub connections_per_portal_max: usize,
    /// Connections that have not logged in; the oldest gives way to a new one.
    pub logins_max: usize,
    /// Sessions logged in to one target.
    pub sessions_per_target_max: usize,
    /// Sessions of one initiator name, at all targets together.
    pub sessions_per_initiator_max: usize,
    /// Commands an initiator may have outstanding on a connection.
    pub tasks_per_connection_max: u32,
    /// Bytes a connection may hold in buffers before its socket is no longer read.
    pub connection_bytes_max: usize,
    /// Bytes all connections together may hold before each may hold no more than `connection_bytes_min`.
    pub bytes_max: usize,
    /// Bytes a connection may hold in any case.
    pub connection_bytes_min: usize,
    /// How long a login may take.
    pub login_time_max: Duration,
    /// How long a session may be silent before it is pinged.
    pub idle_time_max: Duration,
    /// How long an answer to a ping, or promised data, may take.
    pub answer_time_max: Duration,
    /// Bytes a SANITIZE overwrites in a second, so that it leaves the disk to the other volumes.
    pub sanitize_bytes_per_second: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 2_048,
            connections_per_portal_max: 1_536,
            logins_max: 256,
            sessions_per_target_max: 64,
            sessions_per_initiator_max: 1_024,
            tasks_per_connection_max: 128,
            connection_bytes_max: 32 << 20,
            bytes_max: 1 << 30,
            connection_bytes_min: 256 << 10,
            login_time_max: Duration::from_secs(15),
            idle_time_max: Duration::from_secs(30),
            answer_time_max: Duration::from_secs(30),
            sanitize_bytes_per_second: 512 << 20,
        }
    }
}

impl Options {
    /// Options with the usual limits for a target whose state lives in `state_dir`.
    #[must_use]
    pub fn new(portals: Vec<SocketAddr>, state_dir: PathBuf) -> Self {
        Self {
            portals,
            advertised: Vec::new(),
            portal_group: 1,
            other_groups: Vec::new(),
            chap: ChapPolicy::default(),
            socket: state_dir.join("target.sock"),
            key_file: state_dir.join("target.key"),
            state_dir,
            data_threads: 0,
            media_threads: 4,
            limits: Limits::default(),
        }
    }
}
