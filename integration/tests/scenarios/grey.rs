//! Grey failure: a storage node that is stopped (SIGSTOP) still takes connections and answers nothing.

use crate::curl::Curl;
use crate::object::{LOGIN, copies, system};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "grey::a_stopped_node_is_hardly_noticed_and_catches_up",
    stopped_node,
)];

/// Requests under way at a time.
const WORKERS: usize = 16;
/// Requests of each: PUT, GET, HEAD of the same object, and so on.
const REQUESTS: usize = 120;
/// One request may take so long; generous, for busy machines.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(20);

/// One connection that is kept.
struct Client {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
    base: String,
    token: String,
}

impl Client {
    fn connect(host: SocketAddr, curl: &Curl) -> Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REQUEST_TIME_MAX))?;
        let (_, base) = curl.url.split_once("/v1/").context("no /v1/ in the URL")?;
        Ok(Self {
            stream: BufReader::new(stream),
            host,
            base: format!("/v1/{base}"),
            token: curl.token.clone(),
        })
    }

    /// The status of the answer; its body is read and let go.
    fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<u16> {
        let Self {
            host, base, token, ..
        } = self;
        let mut bytes = format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: {host}\r\nX-Auth-Token: {token}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("no status line")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        if method != "HEAD" {
            let mut rest = vec![0; length];
            self.stream.read_exact(&mut rest)?;
        }
        Ok(status)
    }
}

/// What one worker saw: how long each request took, and those that were not served.
fn work(host: SocketAddr, curl: &Curl, worker: usize) -> Result<(Vec<Duration>, Vec<String>)> {
    let mut client = Client::connect(host, curl)?;
    let (mut times, mut refused) = (Vec::new(), Vec::new());
    for number in 0..REQUESTS {
        let path = format!("/c/w{worker}-{}", number / 3);
        let method = ["PUT", "GET", "HEAD"][number % 3];
        let body: &[u8] = if method == "PUT" { &[b'j'; 4_096] } else { b"" };
        let begun = Instant::now();
        let status = client.request(method, &path, body)?;
        times.push(begun.elapsed());
        if !(200..300).contains(&status) {
            refused.push(format!("{method} {path}: {status}"));
        }
    }
    Ok((times, refused))
}

fn all_work(host: SocketAddr, curl: &Curl) -> Result<(Vec<Duration>, Vec<String>)> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || work(host, curl, worker)))
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
    for (name, signal) in [
        ("all well", None),
        ("one of four stopped", Some(Signal::STOP)),
    ] {
        if let Some(signal) = signal {
            system.signal(&victim, signal)?;
        }
        let worked = all_work(host, &curl);
        if worked.is_err() {
            system.signal(&victim, Signal::CONT)?;
        }
        let (times, refused) = worked?;
        let at = |share: usize| times[(times.len() - 1) * share / 1_000];
        println!(
            "    {name}: {} requests, {} not served, p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
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
