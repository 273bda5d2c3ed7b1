//! `integration/bench`: how fast this build is, beside its peers.
//!
//! `iscsi`: the speed of this build's iSCSI target, beside Debian's `tgtd` and beside bare TCP.
//!
//! Both targets serve a sparse file of the same size through the page cache. Within a workload the runs alternate, ours,
//! theirs, ours, theirs, so that what else the machine does meets both; what is printed are medians. Client and
//! servers share the machine's processors, so the numbers are of the pair: ratios say more than absolutes.

mod client;
mod contender;
mod loopback;
mod objects;
mod open;
mod rest;
mod table;

pub use objects::{ObjectsBench, objects};
pub use open::{OpenBench, open};
pub use rest::{RestBench, rest};

use anyhow::{Context as _, Result, bail, ensure};
use client::Session;
use contender::Contender;
use onggi_common_units::ByteCount;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use table::Row;

/// The most commands a session keeps in flight: both targets take so many without closing the window.
const DEPTH_MAX: usize = 64;
/// Of each run so much is not counted: the part in which caches and queues fill.
const WARM_UP_SHARE: u32 = 10;

/// What `bench iscsi` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct IscsiBench {
    /// Runs of each workload and target; medians are printed
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of one run
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The volume's size; it is written once before measuring
    #[arg(long, default_value = "1G", value_parser = crate::parse_size)]
    size: ByteCount,
    /// Only workloads whose name contains one of these
    #[arg(long = "workload")]
    workloads: Vec<String>,
    /// Not beside tgtd, although it is installed
    #[arg(long)]
    alone: bool,
    /// A folder for the volumes; a temporary one when none is given
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// What a workload does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// So many percent reads.
    Mixed(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) access: Access,
    pub(crate) is_random: bool,
    pub(crate) block_bytes: u32,
    /// Commands in flight in each session.
    pub(crate) depth: usize,
    pub(crate) sessions: usize,
}

const fn random(name: &'static str, access: Access, depth: usize, sessions: usize) -> Workload {
    Workload {
        name,
        access,
        is_random: true,
        block_bytes: 4096,
        depth,
        sessions,
    }
}

const fn sequential(name: &'static str, access: Access) -> Workload {
    Workload {
        name,
        access,
        is_random: false,
        block_bytes: 1 << 20,
        depth: 8,
        sessions: 1,
    }
}

const WORKLOADS: [Workload; 9] = [
    random("randread-4k-qd1", Access::Read, 1, 1),
    random("randwrite-4k-qd1", Access::Write, 1, 1),
    random("randread-4k-qd32", Access::Read, 32, 1),
    random("randwrite-4k-qd32", Access::Write, 32, 1),
    random("randrw70-4k-qd32", Access::Mixed(70), 32, 1),
    random("randread-4k-qd32x4", Access::Read, 32, 4),
    random("randwrite-4k-qd32x4", Access::Write, 32, 4),
    sequential("seqread-1m-qd8", Access::Read),
    sequential("seqwrite-1m-qd8", Access::Write),
];

/// What one run gave.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    /// In microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Processor time of the server for one request, in microseconds.
    pub(crate) server_cpu: f64,
}

/// Measures and prints.
///
/// # Errors
/// When a target does not start, or answers a command with anything but GOOD.
pub fn iscsi(options: &IscsiBench, mut print: impl FnMut(&str)) -> Result<()> {
    ensure!(
        options.runs > 0 && options.seconds > 0.05,
        "at least one run, of at least 0.05 seconds"
    );
    let span = options.size.bytes();
    ensure!(span >= 64 << 20, "a volume of at least 64M");
    let chosen: Vec<Workload> = WORKLOADS
        .into_iter()
        .filter(|workload| is_chosen(workload, &options.workloads))
        .collect();
    ensure!(!chosen.is_empty(), "no workload is called so");
    let seconds = Duration::from_secs_f64(options.seconds);
    let folder = match &options.folder {
        Some(folder) => tempfile::Builder::new()
            .prefix("onggi-bench-")
            .tempdir_in(folder)?,
        None => tempfile::Builder::new().prefix("onggi-bench-").tempdir()?,
    };
    let mut contenders = vec![Contender::onggi(folder.path(), options.size)?];
    if !options.alone {
        match Contender::tgtd(folder.path(), options.size)? {
            Some(tgtd) => contenders.push(tgtd),
            None => {
                print("tgtd is not installed (package tgt) or this is not root: measuring alone")
            }
        }
    }
    for contender in &contenders {
        fill(contender, span).with_context(|| format!("filling {}", contender.name))?;
    }
    print(&table::head((contenders.len() > 1).then_some("tgtd"), true));
    for workload in chosen {
        let row = compare(&workload, &contenders, seconds, options)?;
        print(&row.text());
    }
    print(table::LEGEND);
    print(table::BARE);
    contenders.into_iter().try_for_each(Contender::stop)
}

fn is_chosen(workload: &Workload, wanted: &[String]) -> bool {
    wanted.is_empty()
        || wanted
            .iter()
            .any(|part| workload.name.contains(part.as_str()))
}

fn compare(
    workload: &Workload,
    contenders: &[Contender],
    seconds: Duration,
    options: &IscsiBench,
) -> Result<Row> {
    let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); contenders.len()];
    let mut bare = Vec::new();
    for _ in 0..options.runs {
        for (contender, runs) in contenders.iter().zip(&mut runs) {
            let measured = measure(contender, workload, seconds, options.size.bytes());
            runs.push(
                measured.with_context(|| format!("{} on {}", workload.name, contender.name))?,
            );
        }
        bare.push(loopback::exchange(workload, seconds.mul_f64(0.5))?);
    }
    let mut medians = runs.iter().map(|runs| median_of(runs));
    Ok(Row {
        workload: workload.name,
        ours: medians.next().context("no target")?,
        theirs: medians.next(),
        bare: Some(loopback::Bare {
            per_second: table::median(bare.iter().map(|run| run.per_second).collect()),
            p99: table::median(bare.iter().map(|run| run.p99).collect()),
        }),
    })
}

fn median_of(runs: &[Measured]) -> Measured {
    let of = |value: fn(&Measured) -> f64| table::median(runs.iter().map(value).collect());
    Measured {
        per_second: of(|run| run.per_second),
        p50: of(|run| run.p50),
        p99: of(|run| run.p99),
        server_cpu: of(|run| run.server_cpu),
    }
}

fn fill(contender: &Contender, span: u64) -> Result<()> {
    let workload = Workload {
        depth: 4,
        ..sequential("fill", Access::Write)
    };
    let mut session = Session::log_in(&contender.endpoint, workload, (0, span), 0)?;
    session.run_once()
}

fn measure(
    contender: &Contender,
    workload: &Workload,
    seconds: Duration,
    span: u64,
) -> Result<Measured> {
    ensure!(workload.depth <= DEPTH_MAX, "{} in flight", workload.depth);
    let count = u64::try_from(workload.sessions)?;
    let mut sessions = Vec::new();
    for number in 0..count {
        // Sequential sessions have a part each; random ones share the whole.
        let (first, length) = if workload.is_random {
            (0, span)
        } else {
            let part = span / count / (1 << 20) * (1 << 20);
            (number * part, part)
        };
        let session = Session::log_in(&contender.endpoint, *workload, (first, length), number)?;
        sessions.push(session);
    }
    let cpu_before = contender.cpu_seconds()?;
    let begin = Instant::now();
    let (counted_from, end) = (begin + seconds / WARM_UP_SHARE, begin + seconds);
    let threads: Vec<_> = sessions
        .into_iter()
        .map(|mut session| std::thread::spawn(move || session.run_until(counted_from, end)))
        .collect();
    let (mut latencies, mut requests) = (Vec::new(), 0u64);
    for thread in threads {
        let Ok(outcome) = thread.join() else {
            bail!("a session's thread panicked");
        };
        let outcome = outcome?;
        requests += outcome.requests;
        latencies.extend(outcome.latencies);
    }
    let cpu = contender.cpu_seconds()? - cpu_before;
    ensure!(
        !latencies.is_empty(),
        "not one request was answered in time"
    );
    latencies.sort_unstable();
    let at = |share: usize| f64::from(latencies[(latencies.len() - 1) * share / 100]) / 1e3;
    let counted = u32::try_from(latencies.len())?;
    Ok(Measured {
        per_second: f64::from(counted) / (end - counted_from).as_secs_f64(),
        p50: at(50),
        p99: at(99),
        server_cpu: cpu * 1e6 / f64::from(u32::try_from(requests.max(1))?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_chosen_by_a_part_of_their_name() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&part| part.to_owned()).collect();
            WORKLOADS
                .iter()
                .filter(|workload| is_chosen(workload, &wanted))
                .count()
        };
        assert_eq!(names(&[]), WORKLOADS.len());
        assert_eq!(names(&["seq"]), 2);
        assert_eq!(names(&["qd1", "seqread"]), 3);
        assert_eq!(names(&["fill"]), 0);
    }
}
