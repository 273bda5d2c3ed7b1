//! Hosts of a system that are network namespaces on one bridge, so that the ways between them can be cut.
//!
//! The storage nodes are hosts of their own; the proxy, the control process and the clients share one. A thread enters a
//! host, and what it starts stays there.

use super::program;
use anyhow::{Context as _, Result, bail, ensure};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_common_host::run::Run;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Stdio};

/// What the delaying wire is made with.
const DELAY_PROGRAM: &str = "delay.py";
/// The proxy's last byte of 10.77.0.x; nodes count from 1.
const PROXY_NUMBER: u8 = 250;
const BRIDGE: &str = "bridge";

/// A host of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Where the proxy, the control process and the clients are.
    Proxy,
    /// A storage node, from 0.
    Node(u8),
}

impl Host {
    const fn number(self) -> u8 {
        match self {
            Self::Proxy => PROXY_NUMBER,
            Self::Node(index) => index + 1,
        }
    }

    /// Its address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number())
    }
}

/// A network of hosts. It is gone with the value, and so is what runs in it.
#[derive(Debug)]
pub struct Network {
    /// What the names of its namespaces begin with.
    prefix: String,
    nodes: u8,
    processes: Vec<Child>,
}

fn ip(arguments: &[&str]) -> Result<()> {
    let run = Run::new("ip").args(arguments);
    run.output()
        .map(drop)
        .with_context(|| format!("ip {}", arguments.join(" ")))
}

impl Network {
    /// Makes the hosts of a proxy and so many storage nodes.
    ///
    /// # Errors
    /// When the machine refuses: it takes root and network namespaces.
    pub fn make(nodes: u8) -> Result<Self> {
        let network = Self {
            prefix: format!("onggi-{}", SystemEntropy.alphanumeric(6)),
            nodes,
            processes: Vec::new(),
        };
        let hub = network.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", BRIDGE, "up"])?;
        for host in network.hosts() {
            network.join(host)?;
        }
        Ok(network)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    fn name(&self, host: Host) -> String {
        format!("{}-{}", self.prefix, host.number())
    }

    fn hosts(&self) -> impl Iterator<Item = Host> {
        (0..self.nodes).map(Host::Node).chain([Host::Proxy])
    }

    /// Makes a host and joins it to the bridge.
    fn join(&self, host: Host) -> Result<()> {
        let (hub, name, port) = (self.hub(), self.name(host), port(host));
        ip(&["netns", "add", &name])?;
        let wire = ["link", "add", "wire", "netns", &name, "type", "veth"];
        ip(&[&wire[..], &["peer", "name", &port, "netns", &hub]].concat())?;
        ip(&["-n", &hub, "link", "set", &port, "master", BRIDGE, "up"])?;
        let address = format!("{}/24", host.address());
        ip(&["-n", &name, "address", "add", &address, "dev", "wire"])?;
        ip(&["-n", &name, "link", "set", "wire", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        self.filter(host, "add table ip onggi")?;
        self.filter(
            host,
            "add chain ip onggi ways { type filter hook input priority 0; }",
        )
    }

    fn filter(&self, host: Host, line: &str) -> Result<()> {
        let run = Run::new("ip").args(["netns", "exec", &self.name(host), "nft", line]);
        run.output()
            .map(drop)
            .with_context(|| format!("nft {line}"))
    }

    /// Loses so many of a hundred packets on the way from one host to another; the way back stays as it is.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn lose(&self, from: Host, to: Host, percent: u8) -> Result<()> {
        ensure!(
            (1..=100).contains(&percent),
            "{percent} of a hundred packets"
        );
        let chance = match percent {
            100 => String::new(),
            _ => format!("numgen random mod 100 < {percent}"),
        };
        let rule = format!(
            "add rule ip onggi ways ip saddr {} {chance} counter drop",
            from.address()
        );
        self.filter(to, &rule)
    }

    /// All ways are open again. Returns how many packets were lost since the last time.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn heal(&self) -> Result<u64> {
        let mut lost = 0;
        for host in self.hosts() {
            let name = self.name(host);
            let list = ["netns", "exec", &name, "nft", "list", "chain"];
            let list = Run::new("ip").args(list).args(["ip", "onggi", "ways"]);
            let listed = list.output().context("reading the filter")?;
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            let counts = text.split("packets ").skip(1);
            let counts = counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
            lost += counts.sum::<u64>();
            self.filter(host, "flush chain ip onggi ways")?;
        }
        Ok(lost)
    }

    /// Puts a slow and lossy wire between a host and the bridge: each frame is late by so many seconds, and this share
    /// of them is lost. It stays for good.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn delay(&mut self, host: Host, seconds: f64, share: f64) -> Result<()> {
        let (hub, own, far) = (self.hub(), port(host), format!("far{}", host.number()));
        let near = format!("near{}", host.number());
        ip(&["-n", &hub, "link", "set", &own, "nomaster"])?;
        let pair = ["link", "add", &near, "type", "veth", "peer", "name", &far];
        ip(&[&["-n", hub.as_str()], &pair[..]].concat())?;
        ip(&["-n", &hub, "link", "set", &near, "up"])?;
        ip(&["-n", &hub, "link", "set", &far, "master", BRIDGE, "up"])?;
        let script = super::sources()?.join(DELAY_PROGRAM);
        let script = script.to_str().context("a path that is not text")?;
        for (space, interface) in [(&hub, far.as_str()), (&self.name(host), "wire")] {
            let run = Run::new("ip").args(["netns", "exec", space, "python3"]);
            run.args([script, "--plain", interface]).output()?;
        }
        let (seconds, share) = (seconds.to_string(), share.to_string());
        let line = ["netns", "exec", &hub, "python3", script, &own, &near];
        let line = [&line[..], &[&seconds, &share]].concat();
        self.processes
            .push(started(Path::new("ip"), &line, Stdio::inherit)?);
        Ok(())
    }

    /// Moves this thread, and what it starts from now on, to a host.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn enter(&self, host: Host) -> Result<()> {
        let path = Path::new("/run/netns").join(self.name(host));
        let space = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| path.display().to_string())?;
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
            .context("entering a network namespace")
    }

    /// Runs something on a host.
    ///
    /// # Errors
    /// When the host cannot be entered, or what it does fails.
    pub fn on<T: Send>(&self, host: Host, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter(host)?;
                action()
            });
            match thread.join() {
                Ok(done) => done,
                Err(_panic) => bail!("it panicked"),
            }
        })
    }

    /// Starts the processes of a system, each on its host.
    pub(super) fn launch(
        &mut self,
        config: &Path,
        nodes: &[SocketAddr],
        log: &std::fs::File,
    ) -> Result<()> {
        let mut roles = vec![
            (Host::Proxy, vec!["control".to_owned()]),
            (Host::Proxy, vec!["proxy".to_owned()]),
        ];
        for (index, address) in (0u8..).zip(nodes) {
            let arguments = ["node".to_owned(), format!("--address={address}")];
            roles.push((Host::Node(index), arguments.into()));
        }
        let onggid = program("onggid")?;
        let config = format!("--config={}", config.display());
        for (host, mut arguments) in roles {
            arguments.push(config.clone());
            let own = log.try_clone().context("sharing the log")?;
            let output = || own.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let child = self.on(host, || started(&onggid, &arguments, output))?;
            self.processes.push(child);
        }
        Ok(())
    }

    /// Ends everything that runs in the network.
    pub(super) fn end(&mut self) -> Result<()> {
        for mut child in self.processes.drain(..).rev() {
            child.kill().context("ending a process")?;
            child.wait().context("waiting for a process")?;
        }
        Ok(())
    }
}

fn port(host: Host) -> String {
    format!("port{}", host.number())
}

#[expect(
    clippy::disallowed_methods,
    reason = "these outlive the call; Run waits for the end of what it starts"
)]
fn started(program: &Path, arguments: &[&str], output: impl Fn() -> Stdio) -> Result<Child> {
    let mut command = std::process::Command::new(program);
    let command = command.args(arguments).stdin(Stdio::null());
    let child = command.stdout(output()).stderr(output()).spawn();
    child.with_context(|| format!("starting {}", program.display()))
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nobody is there to hear of it; what is left is named after the network.
        drop(self.end());
        for host in self.hosts() {
            drop(ip(&["netns", "delete", &self.name(host)]));
        }
        drop(ip(&["netns", "delete", &self.hub()]));
    }
}
