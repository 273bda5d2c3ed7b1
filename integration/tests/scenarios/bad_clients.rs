//! Clients that break off or are slow: nothing stays behind, and others are served.

use crate::connection::Connection;
use crate::curl::Curl;
use crate::object::{LOGIN, system};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_integration::system::System;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "bad_input::ten_thousand_reads_that_break_off_leave_nothing_behind",
        aborted_reads,
    ),
    (
        "bad_input::a_thousand_slow_connections_harm_nobody",
        slow_connections,
    ),
];

/// A number of a process's status.
fn status_of(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.with_context(|| format!("no {name}"))?;
    Ok(number.trim().trim_end_matches(" kB").parse()?)
}

/// Open descriptors of each process.
fn descriptors(system: &System) -> Result<BTreeMap<String, usize>> {
    let count = |(name, pid)| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
        Ok((name, open.count()))
    };
    system.pids()?.into_iter().map(count).collect()
}

fn aborted_reads() -> Result<Outcome> {
    const READS: usize = 10_000;
    const AT_A_TIME: usize = 8;
    /// Connections between processes that may stay for the next request, and memory that allocators keep.
    const DESCRIPTORS_LEFT: usize = 64;
    const MEMORY_LEFT_KIB: u64 = 64 << 10;
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let mut connection = Connection::open(system.addresses.objects, &curl)?;
    let body = vec![b'j'; 4 << 20];
    let answer = connection.request("PUT", "/c/o", &[], &body)?;
    ensure!(answer.status == 201, "{answer:?}");
    let (_, base) = curl.url.split_once("/v1/").context("no /v1/")?;
    let request = format!(
        "GET /v1/{base}/c/o HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {}\r\n\r\n",
        curl.token
    );
    let abort = |count: usize| {
        std::thread::scope(|scope| {
            let client = || -> Result<()> {
                for _ in 0..count / AT_A_TIME {
                    let mut socket = TcpStream::connect(system.addresses.objects)?;
                    socket.write_all(request.as_bytes())?;
                    let mut first = [0; 12];
                    socket.read_exact(&mut first)?;
                    ensure!(first.starts_with(b"HTTP/1.1 200"), "it was not served");
                    // What was not read resets the connection.
                }
                Ok(())
            };
            let clients: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(client)).collect();
            clients.into_iter().try_for_each(|client| {
                let ended = client.join();
                ended.map_err(|_panic| anyhow::anyhow!("a client broke"))?
            })
        })
    };
    abort(READS / 10)?;
    let proxy = system.pids()?["proxy"];
    let (before, memory) = (descriptors(&system)?, status_of(proxy, "VmRSS:")?);
    abort(READS)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = descriptors(&system)?;
        let grown = now.iter().any(|(name, count)| {
            *count > before.get(name).copied().unwrap_or_default() + DESCRIPTORS_LEFT
        });
        let memory_now = status_of(proxy, "VmRSS:")?;
        if !grown && memory_now < memory + MEMORY_LEFT_KIB {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "{before:?} became {now:?}, {memory} KiB {memory_now} KiB"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let back = curl.download("/c/o")?;
    ensure!(back == body, "it came back different");
    Ok(Outcome::Passed)
}

/// Sends a byte on each connection.
fn drip(sockets: &mut Vec<TcpStream>, byte: u8) {
    sockets.retain_mut(|socket| socket.write_all(&[byte]).is_ok());
}

fn slow_connections() -> Result<Outcome> {
    const SLOW: usize = 1_000;
    /// What a connection may hold before anybody is known, and what serving others takes.
    const MEMORY_EACH_KIB: u64 = 64;
    const MEMORY_BESIDE_KIB: u64 = 64 << 10;
    if !crate::needs::long() {
        let reason = "it takes a minute and a half (integration/test --long)";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let mut others = Connection::open(system.addresses.objects, &curl)?;
    others.request("PUT", "/c/o", &[], b"jar")?;
    let proxy = system.pids()?["proxy"];
    let before = status_of(proxy, "VmRSS:")?;
    let open = || -> Result<TcpStream> {
        let socket = TcpStream::connect(system.addresses.objects)?;
        socket.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(socket)
    };
    let mut heads: Vec<TcpStream> = (0..SLOW).map(|_| open()).collect::<Result<_>>()?;
    for socket in &mut heads {
        socket.write_all(b"GET /v1/AUTH_test/c/o HTTP/1.1\r\nX-A: ")?;
    }
    let (_, base) = curl.url.split_once("/v1/").context("no /v1/")?;
    let mut bodies: Vec<TcpStream> = (0..SLOW).map(|_| open()).collect::<Result<_>>()?;
    for (number, socket) in bodies.iter_mut().enumerate() {
        let head = format!(
            "PUT /v1/{base}/c/slow{number} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {}\r\nContent-Length: 9\r\n\r\nj",
            curl.token
        );
        socket.write_all(head.as_bytes())?;
    }
    // A head that is not there after 30 s is given up although a byte comes every second; others are served meanwhile.
    let started = Instant::now();
    let mut served = 0usize;
    while started.elapsed() < Duration::from_secs(40) {
        drip(&mut heads, b'b');
        let second = Instant::now();
        while second.elapsed() < Duration::from_secs(1) {
            let answer = others.request("GET", "/c/o", &[], b"")?;
            ensure!(answer.status == 200 && answer.body == b"jar", "{answer:?}");
            let put = others.request("PUT", "/c/other", &[], b"jar")?;
            ensure!(put.status == 201, "{put:?}");
            served += 2;
        }
    }
    ensure!(heads.is_empty(), "{} slow heads stay", heads.len());
    let grown = status_of(proxy, "VmRSS:")?.saturating_sub(before);
    let bound = MEMORY_BESIDE_KIB + 2 * MEMORY_EACH_KIB * u64::try_from(SLOW)?;
    println!("    {served} requests of others served; {grown} KiB more");
    ensure!(grown < bound, "{grown} KiB for {} connections", 2 * SLOW);
    // A body that stalls is given up after 60 s, with 408.
    for socket in &mut bodies {
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    }
    let (_, listing) = curl.call("/c", &[])?;
    ensure!(listing == "o\nother\n", "{listing}");
    Ok(Outcome::Passed)
}
