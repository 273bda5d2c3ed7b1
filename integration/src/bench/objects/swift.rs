//! OpenStack Swift beside which objects are measured: four nodes on 127.0.0.1 to 127.0.0.4, one device and one process
//! of each kind of server for each, a proxy with two workers and memcached; the filters of Swift's sample configuration.

use crate::system::free_port;
use anyhow::{Context as _, Result, bail, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::run::Run;
use rustix::process::{Pid, Signal};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const NODES: u8 = 4;
const KINDS: [&str; 3] = ["object", "container", "account"];
const START_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(100);
const PIPELINE: &str = "catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk tempurl ratelimit \
tempauth copy container-quotas account-quotas slo dlo versioned_writes symlink proxy-logging proxy-server";

/// A running Swift; its end is the end of its processes.
#[derive(Debug)]
pub(super) struct Swift {
    pub(super) address: SocketAddr,
    servers: Vec<Child>,
}

/// Where its parts are.
#[derive(Debug)]
struct Layout {
    folder: PathBuf,
    programs: PathBuf,
    memcached: u16,
    /// One for each kind, the same on every node.
    ports: [u16; 3],
    proxy: u16,
}

impl Swift {
    /// Starts it; none when Swift or memcached is not installed.
    pub(super) fn start(folder: &Path, (user, key): (&str, &str)) -> Result<Option<Self>> {
        let peers = std::env::var_os("ONGGI_PEERS").map(PathBuf::from);
        let Some(programs) = peers.filter(|programs| programs.join("swift-proxy-server").is_file())
        else {
            return Ok(None);
        };
        let memcached = PathBuf::from("/usr/bin/memcached");
        if !memcached.is_file() {
            return Ok(None);
        }
        let any = || free_port([127, 0, 0, 1], 0);
        let layout = Layout {
            folder: folder.to_owned(),
            programs,
            memcached: any()?,
            ports: [any()?, any()?, any()?],
            proxy: any()?,
        };
        layout.write_configuration(user, key)?;
        layout.write_rings()?;
        let port = layout.memcached.to_string();
        let mut swift = Self {
            address: SocketAddr::from(([127, 0, 0, 1], layout.proxy)),
            servers: Vec::new(),
        };
        swift.run(
            &memcached,
            &["-u", "root", "-l", "127.0.0.1", "-U", "0", "-p", &port],
        )?;
        for node in 1..=NODES {
            for kind in KINDS {
                let file = layout.file(&format!("{kind}-{node}.conf"))?;
                swift.run(
                    &layout.programs.join(format!("swift-{kind}-server")),
                    &[&file],
                )?;
            }
        }
        let file = layout.file("proxy.conf")?;
        swift.run(&layout.programs.join("swift-proxy-server"), &[&file])?;
        swift.await_servers(&layout)?;
        Ok(Some(swift))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a server outlives the call; Run waits for the end of what it starts"
    )]
    fn run(&mut self, program: &Path, arguments: &[&str]) -> Result<()> {
        let child = std::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        self.servers.push(child);
        Ok(())
    }

    fn await_servers(&mut self, layout: &Layout) -> Result<()> {
        let mut wanted = vec![self.address];
        for node in 1..=NODES {
            wanted.extend(
                layout
                    .ports
                    .map(|port| SocketAddr::from(([127, 0, 0, node], port))),
            );
        }
        let deadline = Instant::now() + START_TIME_MAX;
        while !wanted
            .iter()
            .all(|address| TcpStream::connect(address).is_ok())
        {
            for server in &mut self.servers {
                if let Some(status) = server.try_wait()? {
                    bail!("a server of Swift ended with {status}");
                }
            }
            ensure!(Instant::now() < deadline, "Swift does not start");
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.servers.iter().map(Child::id)
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> Result<()> {
        for server in &self.servers {
            let pid = Pid::from_raw(i32::try_from(server.id())?).context("process 0")?;
            rustix::process::kill_process(pid, Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP_TIME_MAX;
        for server in &mut self.servers {
            while server.try_wait()?.is_none() {
                ensure!(Instant::now() < deadline, "Swift does not end");
                std::thread::sleep(STEP);
            }
        }
        Ok(())
    }
}

impl Drop for Swift {
    fn drop(&mut self) {
        // After an orderly stop there is nothing left to end.
        for server in &mut self.servers {
            drop(server.kill());
            drop(server.wait());
        }
    }
}

impl Layout {
    fn file(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        let text = path.to_str().context("the folder's name is not UTF-8")?;
        Ok(text.to_owned())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        durable::replace(&self.folder.join(name), text.as_bytes(), Visibility::World)?;
        Ok(())
    }

    fn write_configuration(&self, user: &str, key: &str) -> Result<()> {
        durable::create_dir_all(&self.folder)?;
        let folder = self.folder.display();
        self.write(
            "swift.conf",
            "[swift-hash]\nswift_hash_path_prefix = bench\nswift_hash_path_suffix = bench\n\
             [storage-policy:0]\nname = bench\ndefault = yes\n",
        )?;
        let common = format!("swift_dir = {folder}\nuser = root\nlog_level = CRITICAL\n");
        for node in 1..=NODES {
            durable::create_dir_all(&self.folder.join(format!("srv/{node}/d{node}")))?;
            for (kind, port) in KINDS.into_iter().zip(self.ports) {
                let text = format!(
                    "[DEFAULT]\n{common}devices = {folder}/srv/{node}\nmount_check = false\n\
                     bind_ip = 127.0.0.{node}\nbind_port = {port}\nworkers = 1\n\
                     recon_cache_path = {folder}/recon\n[pipeline:main]\npipeline = {kind}-server\n\
                     [app:{kind}-server]\nuse = egg:swift#{kind}\n"
                );
                self.write(&format!("{kind}-{node}.conf"), &text)?;
            }
        }
        let (account, name) = user.split_once(':').context("no account in the user")?;
        let mut text = format!(
            "[DEFAULT]\n{common}bind_ip = 127.0.0.1\nbind_port = {}\nworkers = 2\n\
             [pipeline:main]\npipeline = {PIPELINE}\n\
             [app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n\
             [filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:{}\n\
             [filter:tempauth]\nuse = egg:swift#tempauth\nuser_{account}_{name} = {key} .admin\n",
            self.proxy, self.memcached
        );
        let mut written = vec!["cache", "tempauth", "proxy-server"];
        for filter in PIPELINE.split_whitespace() {
            if !written.contains(&filter) {
                let entry = filter.replace('-', "_");
                writeln!(text, "[filter:{filter}]\nuse = egg:swift#{entry}")?;
                written.push(filter);
            }
        }
        self.write("proxy.conf", &text)
    }

    fn write_rings(&self) -> Result<()> {
        let builder = self.programs.join("swift-ring-builder");
        let say = |words: &[&str]| -> Result<()> {
            Run::new(&builder).args(words).output()?;
            Ok(())
        };
        for (kind, port) in KINDS.into_iter().zip(self.ports) {
            let file = self.file(&format!("{kind}.builder"))?;
            say(&[&file, "create", "10", "3", "0"])?;
            for node in 1..=NODES {
                let device = format!("r1z{node}-127.0.0.{node}:{port}/d{node}");
                say(&[&file, "add", &device, "1"])?;
            }
            say(&[&file, "rebalance", "42"])?;
        }
        Ok(())
    }
}
