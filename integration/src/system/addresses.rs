//! Where the parts of a system listen.

use super::Options;
use anyhow::{Context as _, Result, bail, ensure};
use std::net::{SocketAddr, TcpListener};

/// Where everything of a system listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Identity.
    pub identity: SocketAddr,
    /// The volume API.
    pub volumes: SocketAddr,
    /// The iSCSI portal.
    pub portal: SocketAddr,
    /// The object API.
    pub objects: SocketAddr,
    /// The storage nodes and their devices.
    pub nodes: Vec<(SocketAddr, Vec<String>)>,
}

/// A free port of a host: this one, or any for 0.
///
/// # Errors
/// When it is in use.
pub fn free_port(host: [u8; 4], port: u16) -> Result<u16> {
    let listener = TcpListener::bind(SocketAddr::from((host, port)))
        .with_context(|| format!("port {port} of {host:?} is in use"))?;
    Ok(listener.local_addr()?.port())
}

/// A port that is free on 127.0.0.1 to 127.0.0.`count`.
fn common_free_port(count: u8) -> Result<u16> {
    for _ in 0..64 {
        let port = free_port([127, 0, 0, 1], 0)?;
        if (2..=count).all(|n| free_port([127, 0, 0, n], port).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no port is free on 127.0.0.1 to 127.0.0.{count}")
}

impl Addresses {
    pub(super) fn pick(options: &Options) -> Result<Self> {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let object = options.object.as_ref();
        let (nodes, devices) = object.map_or((0, 0), |object| (object.nodes, object.devices));
        ensure!(
            nodes <= 250 && devices >= nodes,
            "{devices} devices for {nodes} nodes"
        );
        let node_count = u8::try_from(nodes)?;
        let node_port = common_free_port(node_count.max(1))?;
        let mut node_list: Vec<(SocketAddr, Vec<String>)> = (1..=node_count)
            .map(|n| (SocketAddr::from(([127, 0, 0, n], node_port)), Vec::new()))
            .collect();
        for device in 0..devices {
            node_list[device % nodes].1.push(format!("d{}", device + 1));
        }
        Ok(Self {
            identity: local(free_port([127, 0, 0, 1], 0)?),
            volumes: local(free_port([127, 0, 0, 1], 0)?),
            portal: local(free_port([127, 0, 0, 1], 0)?),
            objects: local(free_port(
                [127, 0, 0, 1],
                object.map_or(0, |object| object.port),
            )?),
            nodes: node_list,
        })
    }
}
