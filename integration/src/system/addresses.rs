//! Where the parts of a system listen.

use super::{Host, Options};
use anyhow::{Context as _, Result, bail, ensure};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

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
    Ok(Picked::default().pick(host, port)?.port())
}

/// Ports that are kept until all have been picked, so that none is picked twice.
#[derive(Default)]
struct Picked(Vec<TcpListener>);

/// The machine gives ports from 32768 on to connections by itself; one of these stays free while a daemon starts again.
const PORTS: core::ops::Range<u16> = 10_000..32_000;
const TRIES_MAX: usize = 256;

/// A listener at any free port of a host.
fn any(host: [u8; 4]) -> Result<TcpListener> {
    let span = PORTS.end - PORTS.start;
    for _ in 0..TRIES_MAX {
        let mut random = [0; 2];
        SystemEntropy.fill(&mut random);
        let port = PORTS.start + u16::from_le_bytes(random) % span;
        if let Ok(listener) = TcpListener::bind(SocketAddr::from((host, port))) {
            return Ok(listener);
        }
    }
    bail!("no port of {host:?} is free")
}

impl Picked {
    fn pick(&mut self, host: [u8; 4], port: u16) -> Result<SocketAddr> {
        let listener = match port {
            0 => any(host)?,
            _ => TcpListener::bind(SocketAddr::from((host, port)))
                .with_context(|| format!("port {port} of {host:?} is in use"))?,
        };
        let address = listener.local_addr()?;
        self.0.push(listener);
        Ok(address)
    }

    fn local(&mut self, port: u16) -> Result<SocketAddr> {
        self.pick([127, 0, 0, 1], port)
    }

    /// A port that is free on 127.0.0.1 to 127.0.0.`count`.
    fn common(&mut self, count: u8) -> Result<u16> {
        for _ in 0..64 {
            let port = self.local(0)?.port();
            let mut others = (2..=count).map(|n| self.pick([127, 0, 0, n], port));
            if others.all(|picked| picked.is_ok()) {
                return Ok(port);
            }
        }
        bail!("no port is free on 127.0.0.1 to 127.0.0.{count}")
    }
}

impl Addresses {
    pub(super) fn pick(options: &Options) -> Result<Self> {
        let mut picked = Picked::default();
        let object = options.object.as_ref();
        let (nodes, devices) = object.map_or((0, 0), |object| (object.nodes, object.devices));
        ensure!(
            nodes <= 250 && devices >= nodes,
            "{devices} devices for {nodes} nodes"
        );
        let node_count = u8::try_from(nodes)?;
        let node_port = picked.common(node_count.max(1))?;
        let host = |n: u8| match options.hosts {
            true => Host::Node(n - 1).address(),
            false => Ipv4Addr::new(127, 0, 0, n),
        };
        let mut node_list: Vec<(SocketAddr, Vec<String>)> = (1..=node_count)
            .map(|n| (SocketAddr::from((host(n), node_port)), Vec::new()))
            .collect();
        for device in 0..devices {
            node_list[device % nodes].1.push(format!("d{}", device + 1));
        }
        Ok(Self {
            identity: picked.local(0)?,
            volumes: picked.local(0)?,
            portal: picked.local(0)?,
            objects: picked.local(object.map_or(0, |object| object.port))?,
            nodes: node_list,
        })
    }
}
