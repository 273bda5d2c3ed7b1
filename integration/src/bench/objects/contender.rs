//! The clusters that are measured: four nodes with a device each, three copies of everything.

use super::swift::Swift;
use crate::http::{Connection, Head};
use crate::system::{ObjectOptions, Options, System, User};
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const USER: &str = "test:tester";
const KEY: &str = "testing";

/// A cluster that runs.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    /// `X-Auth-Token` with its value and the line's end.
    pub(super) token_line: String,
    /// The account's path.
    pub(super) account: String,
    folder: PathBuf,
    cluster: Cluster,
}

#[derive(Debug)]
enum Cluster {
    Onggi(Box<System>),
    Swift(Swift),
}

impl Contender {
    /// This build, one process for each node, or all in one.
    pub(super) fn onggi(folder: &Path, single_process: bool) -> Result<Self> {
        let folder = folder.join("onggi");
        let system = System::start(Options {
            object: Some(ObjectOptions {
                nodes: 4,
                devices: 4,
                replicas: 3,
                port: 0,
                storage_domain: None,
                policies: &[],
            }),
            single_process,
            object_settings: Some("part_power = 8"),
            users: vec![User {
                account: "test",
                user: "tester",
                key: Some(KEY),
                groups: &[".admin"],
            }],
            state: Some(folder.clone()),
            ..Options::default()
        })?;
        let address = system.addresses.objects;
        Self::log_in("onggi", address, folder, Cluster::Onggi(Box::new(system)))
    }

    /// OpenStack Swift from its package; none when that is not installed.
    pub(super) fn swift(folder: &Path) -> Result<Option<Self>> {
        let folder = folder.join("swift");
        let Some(swift) = Swift::start(&folder, (USER, KEY))? else {
            return Ok(None);
        };
        let address = swift.address;
        Self::log_in("swift", address, folder, Cluster::Swift(swift)).map(Some)
    }

    fn log_in(
        name: &'static str,
        address: SocketAddr,
        folder: PathBuf,
        cluster: Cluster,
    ) -> Result<Self> {
        let headers = format!("X-Auth-User: {USER}\r\nX-Auth-Key: {KEY}\r\n");
        let answer = Connection::open(address)?.request(
            &Head {
                method: "GET",
                path: "/auth/v1.0",
                headers: &headers,
            },
            &[],
            0,
        )?;
        ensure!(
            answer.status == 200,
            "{name}: {} to the login",
            answer.status
        );
        let token = answer.header("x-auth-token").context("no token")?;
        let url = answer.header("x-storage-url").context("no storage URL")?;
        let path = url
            .splitn(4, '/')
            .nth(3)
            .context("no path in the storage URL")?;
        Ok(Self {
            name,
            address,
            token_line: format!("X-Auth-Token: {token}\r\n"),
            account: format!("/{path}"),
            folder,
            cluster,
        })
    }

    // Servers fork workers: all descendants count.
    fn processes(&self) -> Result<BTreeSet<u32>> {
        let mut found: BTreeSet<u32> = match &self.cluster {
            Cluster::Onggi(system) => system.pids()?.into_values().collect(),
            Cluster::Swift(swift) => swift.pids().collect(),
        };
        let parents = parents()?;
        loop {
            let before = found.len();
            for (child, parent) in &parents {
                if found.contains(parent) {
                    found.insert(*child);
                }
            }
            if found.len() == before {
                return Ok(found);
            }
        }
    }

    /// The processor time of all its processes, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let per_second = f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?);
        let mut ticks = 0.0;
        for pid in self.processes()? {
            // A worker may have ended since.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let fields = stat.rsplit(')').next().unwrap_or_default();
            for field in fields.split_whitespace().skip(11).take(2) {
                ticks += field.parse::<f64>()?;
            }
        }
        Ok(ticks / per_second)
    }

    /// What its processes have written to disks, in bytes.
    pub(super) fn written_bytes(&self) -> Result<f64> {
        self.sum("io", "write_bytes:")
    }

    /// The memory of all its processes, shared pages counted once, in MiB.
    pub(super) fn memory_mib(&self) -> Result<f64> {
        Ok(self.sum("smaps_rollup", "Pss:")? / 1024.0)
    }

    fn sum(&self, file: &str, label: &str) -> Result<f64> {
        let mut sum = 0.0;
        for pid in self.processes()? {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(label));
            let value = line.and_then(|line| line.split_whitespace().next());
            sum += value.map_or(Ok(0.0), str::parse)?;
        }
        Ok(sum)
    }

    /// How much room its files take, in bytes.
    pub(super) fn disk_bytes(&self) -> Result<f64> {
        use std::os::unix::fs::MetadataExt as _;
        let (mut folders, mut blocks) = (vec![self.folder.clone()], 0u64);
        while let Some(folder) = folders.pop() {
            // Files come and go while this looks.
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                blocks += meta.blocks();
                if meta.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(f64::from(u32::try_from(blocks)?) * 512.0)
    }

    /// Stops all its processes for as long as the answer lives, so that what it does beside requests is not measured as
    /// another's.
    pub(super) fn pause(&self) -> Result<Paused> {
        let pids = self.processes()?.into_iter();
        let pids = pids.filter_map(|pid| Pid::from_raw(pid.try_into().ok()?));
        let paused = Paused(pids.collect());
        paused.signal(Signal::STOP);
        Ok(paused)
    }

    /// Ends it in order.
    pub(super) fn stop(self) -> Result<()> {
        match self.cluster {
            Cluster::Onggi(mut system) => system.stop(),
            Cluster::Swift(swift) => swift.stop(),
        }
    }
}

/// Processes that are stopped.
pub(super) struct Paused(Vec<Pid>);

impl Paused {
    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            match kill_process(*pid, signal) {
                // A worker may have ended since.
                Ok(()) | Err(_) => {}
            }
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

// Each process's parent.
fn parents() -> Result<BTreeMap<u32, u32>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        if let Some(parent) = fields.split_whitespace().nth(1) {
            parents.insert(pid, parent.parse()?);
        }
    }
    Ok(parents)
}
