//! `integration/bench objects`: the speed of this build's object store, beside OpenStack Swift.
//!
//! Both clusters have four nodes with one device each on the same disk, three copies of everything, and answer a PUT when
//! it is on stable storage. Within a workload the runs alternate, and whoever is not measured is stopped: its daemons would
//! take processor time from the other. Clients and servers share the processors.

mod contender;
mod swift;

use super::table::{self, Row, median};
use super::{Measured, median_of};
use crate::http::{Connection, Head};
use anyhow::{Context as _, Result, ensure};
use contender::{Contender, Paused};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const CLIENTS: usize = 16;
const SMALL_BYTES: usize = 4 << 10;
const LARGE_BYTES: usize = 64 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// The large objects of a run.
const LARGE_COUNT: usize = 4;
/// The names of a listing: the most that one request gives.
const NAMES: usize = 10_000;
const LISTINGS: usize = 50;
const ANSWER_SECONDS_MAX: i64 = 120;
/// How long clusters have after their start: daemons that begin with all there is have begun then.
const WARM_UP: Duration = Duration::from_secs(8);
/// How long a cluster that was stopped has before it is asked anything.
const RECOVERY: Duration = Duration::from_secs(1);
/// How long it is then asked before it is measured, where a workload is one of many short requests: its memory may have been
/// taken from it meanwhile, and its caches are those of the workload before.
const LEAD_IN: Duration = Duration::from_secs(1);

/// What `bench objects` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct ObjectsBench {
    /// Runs of each workload and cluster; medians are printed
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of one run with small objects
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Only workloads whose name contains one of these (small objects are always put)
    #[arg(long = "workload")]
    workloads: Vec<String>,
    /// Not beside Swift, although it is installed
    #[arg(long)]
    alone: bool,
    /// The proxy and all nodes of this build in one process
    #[arg(long)]
    together: bool,
    /// A folder for both clusters; a temporary one when none is given
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Get,
    Head,
    Delete,
    PutLarge,
    GetLarge,
    List,
}

const WORKLOADS: [(&str, Kind); 7] = [
    ("put-4k-c16", Kind::Put),
    ("get-4k-c16", Kind::Get),
    ("head-4k-c16", Kind::Head),
    ("delete-4k-c16", Kind::Delete),
    ("put-64m-c1", Kind::PutLarge),
    ("get-64m-c1", Kind::GetLarge),
    ("list-10k-c1", Kind::List),
];

impl Kind {
    const fn clients(self) -> usize {
        match self {
            Self::Put | Self::Get | Self::Head | Self::Delete => CLIENTS,
            Self::PutLarge | Self::GetLarge | Self::List => 1,
        }
    }

    const fn method(self) -> &'static str {
        match self {
            Self::Put | Self::PutLarge => "PUT",
            Self::Get | Self::GetLarge | Self::List => "GET",
            Self::Head => "HEAD",
            Self::Delete => "DELETE",
        }
    }

    const fn status(self) -> u16 {
        match self {
            Self::Put | Self::PutLarge => 201,
            Self::Get | Self::GetLarge | Self::List | Self::Head => 200,
            Self::Delete => 204,
        }
    }

    /// What the body of an answer has, where that is known.
    const fn answer_bytes(self) -> Option<usize> {
        match self {
            Self::Get => Some(SMALL_BYTES),
            Self::GetLarge => Some(LARGE_BYTES),
            Self::Put | Self::Head | Self::Delete | Self::PutLarge | Self::List => None,
        }
    }
}

/// Requests of one kind against one cluster.
#[derive(Debug, Clone, Copy)]
struct Load<'a> {
    kind: Kind,
    container: &'a str,
    /// Names there are, or are made.
    names: usize,
    time: Duration,
    piece: &'a [u8],
    times: usize,
}

/// A cluster and what was measured of it.
#[derive(Debug)]
struct Side {
    contender: Contender,
    runs: Vec<Vec<Measured>>,
    /// Bytes written, and bytes of disk taken, for each small object.
    written: Vec<f64>,
    stored: Vec<f64>,
}

/// Measures and prints.
///
/// # Errors
/// When a cluster does not start, or answers a request otherwise than it should.
pub fn objects(options: &ObjectsBench, mut print: impl FnMut(&str)) -> Result<()> {
    ensure!(
        options.runs > 0 && options.seconds > 0.05,
        "at least one run, of at least 0.05 seconds"
    );
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("onggi-bench-");
    let folder = match &options.folder {
        Some(folder) => builder.tempdir_in(folder)?,
        None => builder.tempdir()?,
    };
    let mut contenders = vec![Contender::onggi(folder.path(), options.together)?];
    if !options.alone {
        match Contender::swift(folder.path())? {
            Some(swift) => contenders.push(swift),
            None => print(
                "Swift is not installed (integration/test does that) or memcached: measuring alone",
            ),
        }
    }
    let mut sides: Vec<Side> = contenders
        .into_iter()
        .map(|contender| Side {
            contender,
            runs: vec![Vec::new(); WORKLOADS.len()],
            written: Vec::new(),
            stored: Vec::new(),
        })
        .collect();
    for side in &sides {
        side.prepare(options.is_chosen("list-10k-c1"))?;
    }
    std::thread::sleep(WARM_UP);
    for run in 0..options.runs {
        run_all(&mut sides, run, options)?;
    }
    print(&table::head((sides.len() > 1).then_some("swift"), false));
    for (index, (name, _)) in WORKLOADS.iter().enumerate() {
        if options.is_chosen(name) {
            let mut medians = sides.iter().map(|side| median_of(&side.runs[index]));
            let row = Row {
                workload: name,
                ours: medians.next().context("no cluster")?,
                theirs: medians.next(),
                bare: None,
            };
            print(&row.text());
        }
    }
    print(table::LEGEND);
    for side in sides {
        print(&format!(
            "{}: {:.0} MiB of memory (PSS); for each 4 KiB object {:.1} KiB written and {:.1} KiB of disk taken",
            side.contender.name,
            side.contender.memory_mib()?,
            median(side.written) / 1024.0,
            median(side.stored) / 1024.0,
        ));
        side.contender.stop()?;
    }
    Ok(())
}

impl ObjectsBench {
    fn is_chosen(&self, name: &str) -> bool {
        let wanted = &self.workloads;
        wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
    }
}

// What later workloads need of earlier ones is made also where nobody wants to see it.
fn run_all(sides: &mut [Side], run: usize, options: &ObjectsBench) -> Result<()> {
    let container = format!("bench-{run}");
    let piece: Vec<u8> = (0..=250).cycle().take(PIECE_BYTES).collect();
    for side in &*sides {
        side.put_container(&container)?;
    }
    let mut small = vec![0; sides.len()];
    for (index, (name, kind)) in WORKLOADS.into_iter().enumerate() {
        let makes_large = kind == Kind::PutLarge && options.is_chosen("get-64m-c1");
        if !(options.is_chosen(name) || kind == Kind::Put || makes_large) {
            continue;
        }
        for (place, small) in small.iter_mut().enumerate() {
            let paused = pause_others(sides, place)?;
            let side = &mut sides[place];
            let (bytes, names) = match kind {
                Kind::Put => (SMALL_BYTES, usize::MAX),
                Kind::PutLarge => (PIECE_BYTES, LARGE_COUNT),
                Kind::GetLarge => (0, LARGE_COUNT),
                Kind::List => (0, LISTINGS),
                Kind::Get | Kind::Head | Kind::Delete => (0, *small),
            };
            let load = Load {
                kind,
                container: if kind == Kind::List {
                    "names"
                } else {
                    &container
                },
                names,
                time: Duration::from_secs_f64(options.seconds),
                piece: &piece[..bytes],
                times: if kind == Kind::PutLarge {
                    LARGE_BYTES / PIECE_BYTES
                } else {
                    1
                },
            };
            let (measured, count) = side
                .measure(load)
                .with_context(|| format!("{name} on {}", side.contender.name))?;
            side.runs[index].push(measured);
            if kind == Kind::Put {
                *small = count;
            }
            drop(paused);
        }
    }
    Ok(())
}

/// Stops all but one, which has a moment to find its way back.
fn pause_others(sides: &[Side], place: usize) -> Result<Vec<Paused>> {
    let others = sides
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != place);
    let paused: Result<Vec<Paused>> = others.map(|(_, side)| side.contender.pause()).collect();
    if sides.len() > 1 {
        std::thread::sleep(RECOVERY);
    }
    paused
}

impl Side {
    fn prepare(&self, lists: bool) -> Result<()> {
        if !lists {
            return Ok(());
        }
        self.put_container("names")?;
        let load = Load {
            kind: Kind::Put,
            container: "names",
            names: NAMES,
            time: Duration::from_secs(600),
            piece: &[],
            times: 1,
        };
        let count = drive(&self.contender, load)?.names;
        ensure!(count == NAMES, "only {count} names were made");
        Ok(())
    }

    fn put_container(&self, name: &str) -> Result<()> {
        let path = format!("{}/{name}", self.contender.account);
        let head = Head {
            method: "PUT",
            path: &path,
            headers: &self.contender.token_line,
        };
        let answer = Connection::open(self.contender.address)?.request(&head, &[], 0)?;
        ensure!(
            matches!(answer.status, 201 | 202),
            "{} to a new container",
            answer.status
        );
        Ok(())
    }

    fn measure(&mut self, load: Load<'_>) -> Result<(Measured, usize)> {
        let is_put = load.kind == Kind::Put;
        let contender = &self.contender;
        let before = (contender.written_bytes()?, contender.disk_bytes()?);
        let Driven {
            mut latencies,
            names,
            begun,
            cpu,
        } = drive(contender, load)?;
        let time = begun.elapsed().as_secs_f64();
        let cpu = contender.cpu_seconds()? - cpu;
        ensure!(
            names > 0 && !latencies.is_empty(),
            "not one request was answered"
        );
        let requests = f64::from(u32::try_from(latencies.len())?);
        if is_put {
            let after = (contender.written_bytes()?, contender.disk_bytes()?);
            let made = f64::from(u32::try_from(names)?);
            self.written.push((after.0 - before.0) / made);
            self.stored.push((after.1 - before.1) / made);
        }
        latencies.sort_unstable();
        let at = |share: usize| latencies[(latencies.len() - 1) * share / 100].as_secs_f64() * 1e6;
        let measured = Measured {
            per_second: requests / time,
            p50: at(50),
            p99: at(99),
            server_cpu: cpu * 1e6 / requests,
        };
        Ok((measured, names))
    }
}

/// What a load came to.
struct Driven {
    /// Of the requests that were counted.
    latencies: Vec<Duration>,
    /// How many names were used.
    names: usize,
    /// When counting began.
    begun: Instant,
    /// The servers' processor time until then, in seconds.
    cpu: f64,
}

/// One client of several.
struct Client {
    connection: Connection,
    /// When its request was sent; `None` when it sends no more.
    sent: Option<Instant>,
}

// Sends requests over as many connections as the kind has until the time or the names are over. One thread serves them all:
// clients that wait for each other's processor would be measured as well.
fn drive(contender: &Contender, load: Load<'_>) -> Result<Driven> {
    let Load { kind, .. } = load;
    let mut next = 0;
    let mut begun = Instant::now();
    let mut cpu = contender.cpu_seconds()?;
    let mut is_counted = kind.clients() == 1;
    let count_from = begun + LEAD_IN;
    let end = begun + load.time + if is_counted { Duration::ZERO } else { LEAD_IN };
    let mut latencies = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..kind.clients() {
        let connection = Connection::open(contender.address)?;
        let mut client = Client {
            connection,
            sent: None,
        };
        client.send(contender, load, &mut next)?;
        clients.push(client);
    }
    loop {
        let waiting: Vec<usize> = (0..clients.len())
            .filter(|index| clients[*index].sent.is_some())
            .collect();
        if waiting.is_empty() {
            return Ok(Driven {
                latencies,
                names: next.min(load.names),
                begun,
                cpu,
            });
        }
        if !is_counted && Instant::now() >= count_from {
            is_counted = true;
            latencies.clear();
            (begun, cpu) = (Instant::now(), contender.cpu_seconds()?);
        }
        for index in answered(&clients, waiting)? {
            let client = &mut clients[index];
            latencies.extend(client.take(kind)?);
            if Instant::now() < end || kind.clients() == 1 {
                client.send(contender, load, &mut next)?;
            }
        }
    }
}

// Those of the waiting clients whose answers have come.
fn answered(clients: &[Client], waiting: Vec<usize>) -> Result<Vec<usize>> {
    let [_, _, ..] = waiting[..] else {
        return Ok(waiting);
    };
    let mut polled: Vec<PollFd<'_>> = waiting
        .iter()
        .map(|index| PollFd::new(clients[*index].connection.socket(), PollFlags::IN))
        .collect();
    let limit = Timespec {
        tv_sec: ANSWER_SECONDS_MAX,
        tv_nsec: 0,
    };
    let count = poll(&mut polled, Some(&limit))?;
    ensure!(count > 0, "no answer for {ANSWER_SECONDS_MAX} seconds");
    let ready = waiting.into_iter().zip(&polled);
    let ready = ready.filter(|(_, polled)| !polled.revents().is_empty());
    Ok(ready.map(|(index, _)| index).collect())
}

impl Client {
    // Sends the next request, unless the names are over.
    fn send(&mut self, contender: &Contender, load: Load<'_>, next: &mut usize) -> Result<()> {
        let Load {
            kind,
            names,
            container,
            ..
        } = load;
        let mut number = *next;
        match kind {
            // Read again and again, in an order that no cache of the latest could serve.
            Kind::Get | Kind::Head => number = number.wrapping_mul(0x9e37_79b1) % names.max(1),
            _ if number >= names => return Ok(()),
            _ => {}
        }
        *next += 1;
        let account = &contender.account;
        let path = match kind {
            Kind::List => format!("{account}/{container}?limit={NAMES}"),
            Kind::PutLarge | Kind::GetLarge => format!("{account}/{container}/large-{number}"),
            _ => format!("{account}/{container}/object-{number:08}"),
        };
        let head = Head {
            method: kind.method(),
            path: &path,
            headers: &contender.token_line,
        };
        self.sent = Some(Instant::now());
        self.connection.send(&head, load.piece, load.times)
    }

    // Takes the answer of the request under way: how long it took.
    fn take(&mut self, kind: Kind) -> Result<Option<Duration>> {
        let answer = self.connection.answer(kind.method())?;
        let took = self.sent.take().map(|sent| sent.elapsed());
        let status = answer.status;
        ensure!(status == kind.status(), "{}: {status}", kind.method());
        if let Some(bytes) = kind.answer_bytes() {
            ensure!(
                answer.body_bytes == u64::try_from(bytes)?,
                "{} bytes came",
                answer.body_bytes
            );
        }
        Ok(took)
    }
}
