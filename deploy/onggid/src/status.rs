//! `onggid status`: what runs, and whether it answers.

use crate::state::StateFolder;
use crate::supervise;
use anyhow::{Context as _, Result};
use core::time::Duration;
use onggi_common_service::Config;
use onggi_object_node::progress::{DeviceState, DeviceStatus, NodeStatus, STATUS_PATH};
use serde::Serialize;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Instant;

/// How long one process may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// The longest answer of a node about its devices.
const STATUS_BYTES_MAX: u64 = 4 << 20;

/// One process, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Line {
    process: String,
    pid: Option<u32>,
    addresses: Vec<SocketAddr>,
    state: &'static str,
    detail: String,
    /// The devices of a storage node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    devices: Vec<DeviceStatus>,
}

/// Parses `30s`, `2m` or a bare number of seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let count: u32 = digits
        .parse()
        .ok()
        .ok_or("write a number of seconds, for example 30s")?;
    Ok(Duration::from_secs(u64::from(count) * unit))
}

/// Prints the table; with `wait`, tries until everything answers or the time is over.
pub(crate) fn show(config: &Config, wait: Option<Duration>, json: bool) -> Result<ExitCode> {
    let deadline = Instant::now() + wait.unwrap_or_default();
    let lines = loop {
        let lines = look(config);
        let healthy = lines.iter().all(|line| line.state == "up");
        if (healthy && !lines.is_empty()) || Instant::now() >= deadline {
            break lines;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        println!("{:<24} {:>8}  {:<6} ADDRESS", "PROCESS", "PID", "STATE");
        for line in &lines {
            let addresses: Vec<_> = line.addresses.iter().map(ToString::to_string).collect();
            let pid = line
                .pid
                .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let detail = if line.detail.is_empty() {
                String::new()
            } else {
                format!("  {}", line.detail)
            };
            println!(
                "{:<24} {pid:>8}  {:<6} {}{detail}",
                line.process,
                line.state,
                addresses.join(" ")
            );
            for device in &line.devices {
                println!("  {}", of_device(device));
            }
        }
    }
    let healthy = !lines.is_empty() && lines.iter().all(|line| line.state == "up");
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn look(config: &Config) -> Vec<Line> {
    let processes = StateFolder::open(&config.state)
        .ok()
        .and_then(|folder| folder.read_processes());
    let roles = supervise::roles(config);
    let single = processes
        .as_ref()
        .and_then(|processes| processes.pids.get("all").copied());
    let pid_of = |name: &str| single.or_else(|| processes.as_ref()?.pids.get(name).copied());
    roles
        .into_iter()
        .map(|role| {
            let (http, plain) = listeners(config, &role.name);
            let checked = http
                .iter()
                .map(|address| ask(*address))
                .chain(plain.iter().map(|address| reach(*address)));
            let failure = checked.filter_map(Result::err).next();
            let node = role.name.strip_prefix("node-");
            let node = node.and_then(|address| address.parse().ok());
            // A node that does not say is shown without its devices.
            let told = node.filter(|_| failure.is_none()).map(tell);
            Line {
                devices: told.and_then(Result::ok).unwrap_or_default(),
                pid: pid_of(&role.name),
                addresses: http.into_iter().chain(plain).collect(),
                state: if failure.is_none() { "up" } else { "down" },
                detail: failure
                    .map(|error| format!("{error:#}"))
                    .unwrap_or_default(),
                process: role.name,
            }
        })
        .collect()
}

/// Where a process answers `/healthcheck`, and where it only listens.
fn listeners(config: &Config, name: &str) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let block = config.block.as_ref();
    match name {
        "control" => (
            [config.identity.listen]
                .into_iter()
                .chain(block.map(|block| block.listen))
                .collect(),
            Vec::new(),
        ),
        "proxy" => (
            config.object.iter().map(|object| object.listen).collect(),
            Vec::new(),
        ),
        "target" => (
            Vec::new(),
            block
                .map(|block| block.target.portals.clone())
                .unwrap_or_default(),
        ),
        node => (
            Vec::new(),
            node.strip_prefix("node-")
                .and_then(|address| address.parse().ok())
                .into_iter()
                .collect(),
        ),
    }
}

fn reach(address: SocketAddr) -> Result<()> {
    TcpStream::connect_timeout(&address, ANSWER_TIME_MAX)
        .map(drop)
        .with_context(|| address.to_string())
}

fn ask(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIME_MAX)
        .with_context(|| address.to_string())?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream
        .write_all(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream
        .read_exact(&mut answer)
        .with_context(|| format!("{address} does not answer"))?;
    anyhow::ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{address} is not healthy"
    );
    Ok(())
}

/// What a storage node tells of its devices.
fn tell(address: SocketAddr) -> Result<Vec<DeviceStatus>> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIME_MAX)?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    let request =
        format!("GET {STATUS_PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(STATUS_BYTES_MAX).read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no body")?;
    let status: NodeStatus = serde_json::from_str(body)?;
    Ok(status.devices)
}

/// One line about a device.
fn of_device(device: &DeviceStatus) -> String {
    let state = match device.state {
        DeviceState::Serving => "serving",
        DeviceState::Rejoining => "rejoining",
        DeviceState::OutOfService => "out of service",
    };
    let mut text = format!("{:<22} {state}", device.name);
    if let Some(reason) = &device.reason {
        text += &format!(": {reason}");
    }
    let free = device.bytes_free.saturating_mul(100);
    if let Some(free) = free.checked_div(device.bytes_total) {
        text += &format!(", {free}% free");
    }
    let replication = &device.replication;
    if replication.left_millis > 0 {
        text += &format!(
            ", replicating {} of {} partitions, {} s left",
            replication.steps_done,
            replication.steps,
            replication.left_millis.div_ceil(1_000)
        );
    } else if replication.passes > 0 {
        text += &format!(
            ", replicated {} times, last in {} ms",
            replication.passes, replication.last_millis
        );
    }
    for (count, what) in [
        (device.untold, "updates wait"),
        (device.unexpired, "expired objects wait"),
        (device.unreaped, "deleted accounts wait"),
        (device.unreconciled, "misplaced objects wait"),
        (device.dark, "objects are listed by no container"),
        (device.audited_damaged, "bodies were damaged"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_have_units() {
        assert_eq!(parse_seconds("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_seconds("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_seconds("5"), Ok(Duration::from_secs(5)));
        assert!(parse_seconds("soon").is_err() && parse_seconds("-1s").is_err());
    }
}
