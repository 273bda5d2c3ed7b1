//! `[block.target]`: portals and what initiators may take of the target.

use super::loopback;
use core::num::{NonZeroU8, NonZeroU16};
use onggi_common_units::ByteCount;
use serde::Deserialize;
use std::net::SocketAddr;

/// `[block.target]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The portals; each serves every volume.
    #[serde(default = "default_portals")]
    pub portals: Vec<SocketAddr>,
    /// What initiators are told instead, when they reach the portals by other addresses; default: the portals.
    #[serde(default)]
    pub advertised: Vec<SocketAddr>,
    /// More portal groups (the portals above are group 1), for networks that have nothing to do with each other.
    #[serde(default)]
    pub groups: Vec<PortalGroup>,
    /// Whether initiators that know no other hash may use MD5 for CHAP.
    #[serde(default = "default_chap_md5")]
    pub chap_md5: bool,
    /// Threads that carry data; default: one per core, at most four.
    pub threads: Option<NonZeroU8>,
    /// What initiators may take.
    #[serde(default)]
    pub limits: TargetLimits,
}

/// `[[block.target.groups]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortalGroup {
    /// The portal group tag: 2 or more, another one for each group.
    pub tag: u16,
    /// The portals; each serves every volume.
    pub portals: Vec<SocketAddr>,
    /// What initiators are told instead; default: the portals.
    #[serde(default)]
    pub advertised: Vec<SocketAddr>,
}

/// `[block.target.limits]`; what is absent has the target's own default.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetLimits {
    /// Connections open at a time.
    pub connections: Option<NonZeroU16>,
    /// Connections open at a time through one portal.
    pub connections_per_portal: Option<NonZeroU16>,
    /// Sessions of one volume.
    pub sessions_per_volume: Option<NonZeroU16>,
    /// Sessions of one initiator name, at all volumes together.
    pub sessions_per_initiator: Option<NonZeroU16>,
    /// Commands an initiator may have outstanding in a session.
    pub commands_per_session: Option<NonZeroU16>,
    /// Memory for the data of one session's commands, before no more of them are read.
    pub session_memory: Option<ByteCount>,
    /// Memory for the data of all sessions' commands, before each has to do with 256 KiB.
    pub memory: Option<ByteCount>,
    /// Bytes a SANITIZE overwrites in a second.
    pub sanitize_speed: Option<ByteCount>,
}

const fn default_chap_md5() -> bool {
    true
}

fn default_portals() -> Vec<SocketAddr> {
    vec![loopback(3260)]
}

impl Default for Target {
    fn default() -> Self {
        Self {
            portals: default_portals(),
            advertised: Vec::new(),
            groups: Vec::new(),
            chap_md5: default_chap_md5(),
            threads: None,
            limits: TargetLimits::default(),
        }
    }
}
