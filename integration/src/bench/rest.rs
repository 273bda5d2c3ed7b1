//! `integration/bench rest`: what a cluster of this build costs that has nothing to do, and how soon it is back.
//!
//! Four nodes with a device each and three copies, as in `bench objects`, with a part power of 12 and without the auditor,
//! which reads all the time. It is filled with empty objects; then only the replicators go on, each pass comparing all
//! partitions with all peers.

use crate::http::{Connection, Head};
use crate::system::{Options, System};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 16;
/// Containers the objects are spread over.
const CONTAINERS: usize = 100;
const USER: &str = "test:tester";
/// How long replicas may take until they hold the same, after the last write.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);

/// What `bench rest` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct RestBench {
    /// Objects in the cluster
    #[arg(long, default_value_t = 1_000_000)]
    objects: usize,
    /// Seconds it is watched for
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// A folder for the cluster; a temporary one when none is given
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// What the nodes have used and done so far.
struct Used {
    cpu_seconds: f64,
    loopback_bytes: f64,
    passes: f64,
    pushed: u64,
}

/// Fills, watches and prints.
///
/// # Errors
/// When the cluster does not start, refuses an object, or does not come to rest.
pub fn rest(options: &RestBench, mut print: impl FnMut(&str)) -> Result<()> {
    ensure!(
        options.seconds >= 10,
        "passes are 5 s apart: watch for at least 10"
    );
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("onggi-bench-");
    let folder = match &options.folder {
        Some(folder) => builder.tempdir_in(folder)?,
        None => builder.tempdir()?,
    };
    let mut system = System::start(Options {
        object_settings: Some("part_power = 12\naudit_rate = \"0\""),
        state: Some(folder.path().join("onggi")),
        ..Options::objects(4, 4)
    })?;
    let begin = Instant::now();
    fill(&system, options.objects)?;
    print(&format!(
        "{} objects were put in {:.0} s",
        options.objects,
        begin.elapsed().as_secs_f64()
    ));
    settle(&system)?;
    let before = used(&system)?;
    std::thread::sleep(Duration::from_secs(options.seconds));
    let after = used(&system)?;
    ensure!(
        after.pushed == before.pushed,
        "the replicas were not at rest"
    );
    let passes = after.passes - before.passes;
    ensure!(passes > 0.0, "no pass came to its end");
    print(&format!(
        "a node's pass at rest: {:.1} ms of processor time and {:.1} KiB of traffic ({passes} passes of {} nodes)",
        (after.cpu_seconds - before.cpu_seconds) * 1e3 / passes,
        (after.loopback_bytes - before.loopback_bytes) / 1024.0 / passes,
        system.addresses.nodes.len(),
    ));
    print(&format!(
        "memory of the nodes and the proxy: {:.0} MiB (PSS)",
        memory_mib(&system)?
    ));
    system.stop()?;
    let begin = Instant::now();
    system.launch()?;
    print(&format!(
        "all of it serves again {:.2} s after its start",
        begin.elapsed().as_secs_f64()
    ));
    print(&format!(
        "memory then: {:.0} MiB (PSS)",
        memory_mib(&system)?
    ));
    system.stop()
}

fn fill(system: &System, objects: usize) -> Result<()> {
    let address = system.addresses.objects;
    let key = system.keys.get(USER).context("no key")?;
    let headers = format!("X-Auth-User: {USER}\r\nX-Auth-Key: {key}\r\n");
    let login = Head {
        method: "GET",
        path: "/auth/v1.0",
        headers: &headers,
    };
    let answer = Connection::open(address)?.request(&login, &[], 0)?;
    let token = answer.header("x-auth-token").context("no token")?;
    let url = answer.header("x-storage-url").context("no storage URL")?;
    let account = url.splitn(4, '/').nth(3).context("no path in it")?;
    let token = format!("X-Auth-Token: {token}\r\n");
    let mut connection = Connection::open(address)?;
    for container in 0..CONTAINERS {
        put(&mut connection, &token, &format!("/{account}/c{container}"))?;
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = || -> Result<()> {
            let mut connection = Connection::open(address)?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= objects {
                    return Ok(());
                }
                let container = number % CONTAINERS;
                let path = format!("/{account}/c{container}/object-{number:08}");
                put(&mut connection, &token, &path)?;
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        for client in clients {
            let Ok(outcome) = client.join() else {
                bail!("a client panicked");
            };
            outcome?;
        }
        Ok(())
    })
}

fn put(connection: &mut Connection, token: &str, path: &str) -> Result<()> {
    let head = Head {
        method: "PUT",
        path,
        headers: token,
    };
    let answer = connection.request(&head, &[], 0)?;
    ensure!(
        matches!(answer.status, 201 | 202),
        "{path}: {}",
        answer.status
    );
    Ok(())
}

/// What a node says of itself.
fn status(address: SocketAddr) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(serde_json::from_str(body)?)
}

/// Passes that came to their end, and what they pushed, of all devices together.
fn passes(system: &System) -> Result<(u64, u64)> {
    let (mut passes, mut pushed) = (0, 0);
    for (address, _) in &system.addresses.nodes {
        let status = status(*address)?;
        for device in status["devices"].as_array().context("no devices")? {
            let number = |value: &Value| value.as_u64().context("no number");
            passes += number(&device["replication"]["passes"])?;
            pushed += number(&device["pushed"])?;
            ensure!(device["untold"] == 0, "a container has not been told");
        }
    }
    Ok((passes, pushed))
}

/// Waits until two passes of each node have pushed nothing.
fn settle(system: &System) -> Result<()> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    let nodes = u64::try_from(system.addresses.nodes.len())?;
    let mut since = passes(system);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = passes(system);
        match (&since, &now) {
            (Ok(since), Ok(now)) if since.1 == now.1 => {
                if now.0 >= since.0 + 3 * nodes {
                    return Ok(());
                }
            }
            _ => {
                ensure!(
                    Instant::now() < deadline,
                    "the replicas do not come to rest"
                );
                since = now;
            }
        }
    }
}

fn used(system: &System) -> Result<Used> {
    let (passes, pushed) = passes(system)?;
    let per_second = f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?);
    let mut ticks = 0.0;
    for (name, pid) in system.pids()? {
        if !name.starts_with("node-") {
            continue;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<f64>()?;
        }
    }
    let devices = std::fs::read_to_string("/proc/net/dev")?;
    let loopback = devices
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("lo:"));
    let received = loopback.and_then(|line| line.split_whitespace().next());
    Ok(Used {
        cpu_seconds: ticks / per_second,
        loopback_bytes: received.context("no loopback")?.parse()?,
        passes: f64::from(u32::try_from(passes)?),
        pushed,
    })
}

fn memory_mib(system: &System) -> Result<f64> {
    let mut kib = 0.0;
    for (name, pid) in system.pids()? {
        if name.starts_with("node-") || name == "proxy" {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            let value = line.and_then(|line| line.split_whitespace().next());
            kib += value.context("no PSS")?.parse::<f64>()?;
        }
    }
    Ok(kib / 1024.0)
}
