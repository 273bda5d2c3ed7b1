//! Grey failure: a storage node that is stopped (SIGSTOP) still takes connections and answers nothing.

use crate::connection::Connection;
use crate::curl::Curl;
use crate::object::{LOGIN, copies, system};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "grey::a_stopped_node_is_hardly_noticed_and_catches_up",
    stopped_node,
)];

/// Requests under way at a time.
const WORKERS: usize = 16;
/// Requests of each: PUT, GET, HEAD of the same object, and so on. Before, and while a node is stopped: 10,000 together.
const REQUESTS_BEFORE: usize = 120;
const REQUESTS: usize = 627;
/// The requests begin so long after the node was stopped, and may take so long.
const NOTICED_AFTER: Duration = Duration::from_secs(5);
const SERVED_WITHIN: Duration = Duration::from_secs(60);

/// What one worker saw: how long each request took, and those that were not served.
fn work(
    host: SocketAddr,
    curl: &Curl,
    (worker, requests): (usize, usize),
) -> Result<(Vec<Duration>, Vec<String>)> {
    let mut client = Connection::open(host, curl)?;
    let (mut times, mut refused) = (Vec::new(), Vec::new());
    for number in 0..requests {
        let path = format!("/c/w{worker}-{}", number / 3);
        let method = ["PUT", "GET", "HEAD"][number % 3];
        let body: &[u8] = if method == "PUT" { &[b'j'; 4_096] } else { b"" };
        let begun = Instant::now();
        let status = client.request(method, &path, &[], body)?.status;
        times.push(begun.elapsed());
        if !(200..300).contains(&status) {
            refused.push(format!("{method} {path}: {status}"));
        }
    }
    Ok((times, refused))
}

fn all_work(
    host: SocketAddr,
    curl: &Curl,
    requests: usize,
) -> Result<(Vec<Duration>, Vec<String>)> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || work(host, curl, (worker, requests))))
            .collect();
        let (mut times, mut refused) = (Vec::new(), Vec::new());
        for worker in workers {
            let done = worker.join();
            let (took, bad) = done.map_err(|_panic| anyhow::anyhow!("a worker broke"))??;
            times.extend(took);
            refused.extend(bad);
        }
        times.sort_unstable();
        Ok((times, refused))
    })
}

fn stopped_node() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let victim = format!("node-{}", system.addresses.nodes[1].0);
    let host = system.addresses.objects;
    for (name, signal, requests) in [
        ("all well", None, REQUESTS_BEFORE),
        ("one of four stopped", Some(Signal::STOP), REQUESTS),
    ] {
        if let Some(signal) = signal {
            system.signal(&victim, signal)?;
            std::thread::sleep(NOTICED_AFTER);
        }
        let begun = Instant::now();
        let worked = all_work(host, &curl, requests);
        let took = begun.elapsed();
        if worked.is_err() {
            system.signal(&victim, Signal::CONT)?;
        }
        let (times, refused) = worked?;
        let at = |share: usize| times[(times.len() - 1) * share / 1_000];
        println!(
            "    {name}: {} requests in {took:?}, {} not served, p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
            times.len(),
            refused.len(),
            at(500),
            at(990),
            at(999),
            at(1_000)
        );
        if refused.len() * 1_000 > times.len() {
            system.signal(&victim, Signal::CONT)?;
        }
        ensure!(refused.len() * 1_000 <= times.len(), "{name}: {refused:?}");
        // A limit that only a node that is waited for again and again can miss.
        ensure!(took < SERVED_WITHIN, "{name}: {took:?}");
    }
    system.signal(&victim, Signal::CONT)?;
    let account = curl.url.rsplit('/').next().context("account")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    for worker in 0..WORKERS {
        let path = format!("{account}/c/w{worker}-{}", REQUESTS / 3 - 1);
        while {
            let (held, all) = copies(&system, &path)?;
            held != all
        } {
            ensure!(Instant::now() < deadline, "{path} is not on all primaries");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(Outcome::Passed)
}
