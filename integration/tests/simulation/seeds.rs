//! Many seeds, one seed again, and deliberate faults that the checks have to find.

use crate::check;
use crate::client::Client;
use crate::cluster::{CLIENTS, Cluster, Shape, lock};
use crate::history::History;
use crate::lies::Lies;
use crate::nemesis;
use core::sync::atomic::{AtomicU64, Ordering};
use http::StatusCode;
use onggi_common_sim::world;
use std::sync::{Arc, Mutex};

/// Seeds of an ordinary run.
const SEEDS: u64 = 200;
/// Seeds of the long one.
const SEEDS_LONG: u64 = 10_000;
/// Seeds in which a deliberate fault has to be found.
const SEEDS_FAULTY: u64 = 60;
/// What each client does.
const STEPS: usize = 30;

/// What one seed came to.
pub(crate) struct Report {
    pub(crate) seed: u64,
    trace: u64,
    violations: Vec<String>,
    lines: Vec<String>,
    done: usize,
    reads: u64,
    bound_reads: u64,
}

impl Report {
    fn show(&self) -> String {
        let replay =
            "cargo test --release -p onggi-integration --test simulation one_seed -- --nocapture";
        format!(
            "seed {}: {}\n    again: ONGGI_SEED={} {replay}",
            self.seed,
            self.violations.join("\n    "),
            self.seed
        )
    }
}

fn run(seed: u64, shape: Shape) -> Report {
    world::run(seed, async |world| {
        let cluster = Cluster::new(&world, shape.in_seed(seed));
        let history: Arc<Mutex<History>> = Arc::default();
        let client = |index| Client {
            cluster: Arc::clone(&cluster),
            index,
            history: Arc::clone(&history),
        };
        assert_eq!(client(0).make_container().await, StatusCode::CREATED);
        let trouble = tokio::spawn(nemesis::trouble(Arc::clone(&cluster)));
        let working: Vec<_> = (0..CLIENTS)
            .map(|index| tokio::spawn(client(index).work(STEPS)))
            .collect();
        for client in working {
            client.await.unwrap();
        }
        trouble.abort();
        check::quiesce(&cluster).await;
        for index in 0..CLIENTS {
            check::judge(&client(index)).await;
        }
        let violations = check::violations(&cluster, &history);
        let history = lock(&history);
        Report {
            seed,
            trace: world.trace(),
            violations,
            lines: world.lines(),
            done: history.done_count(),
            reads: history.reads,
            bound_reads: history.bound_reads,
        }
    })
}

/// Runs seeds on all processors; the reports of those that found something, and sums over all.
fn run_all(seeds: u64, shape: Shape) -> (Vec<Report>, [u64; 3]) {
    let (next, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let sums = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let report = run(seed, shape);
                    let numbers = [report.done as u64, report.reads, report.bound_reads];
                    for (sum, number) in sums.iter().zip(numbers) {
                        sum.fetch_add(number, Ordering::Relaxed);
                    }
                    if seed % 500 == 499 {
                        println!("{} seeds were begun", seed + 1);
                    }
                    if !report.violations.is_empty() {
                        println!("{}", report.show());
                        lock(&found).push(report);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    (found, sums.map(AtomicU64::into_inner))
}

#[test]
fn no_seed_breaks_a_promise() {
    let is_long = std::env::var_os("ONGGI_LONG").is_some();
    let seeds = std::env::var("ONGGI_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let seeds = seeds.unwrap_or(if is_long { SEEDS_LONG } else { SEEDS });
    let (found, [done, reads, bound]) = run_all(seeds, Shape::default());
    println!(
        "{seeds} seeds: {done} writes acknowledged, {reads} reads judged, {bound} of them bound to see a write"
    );
    let shown: Vec<String> = found.iter().map(Report::show).collect();
    assert!(
        found.is_empty(),
        "{} of {seeds} seeds:\n{}",
        found.len(),
        shown.join("\n")
    );
    assert!(
        done > seeds * 20 && bound > seeds * 3,
        "too little happened"
    );
}

#[test]
fn one_seed_shows_what_happened() {
    let Some(seed) = std::env::var("ONGGI_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
    else {
        println!("skipped, because ONGGI_SEED names no seed");
        return;
    };
    let report = run(seed, Shape::default());
    println!("{}", report.lines.join("\n"));
    println!(
        "trace {:016x}, {} writes acknowledged, {} reads",
        report.trace, report.done, report.reads
    );
    assert!(report.violations.is_empty(), "{}", report.show());
}

#[test]
fn a_seed_gives_the_same_trace_again() {
    for seed in [1, 2, 3, 4, 5] {
        let (one, other) = (run(seed, Shape::default()), run(seed, Shape::default()));
        let differing = one
            .lines
            .iter()
            .zip(&other.lines)
            .find(|(one, other)| one != other);
        assert_eq!(one.trace, other.trace, "seed {seed}: {differing:#?}");
    }
}

/// Whether a deliberate fault is found, as what it is.
fn is_found(lies: Lies, sign: &str) {
    let shape = Shape {
        lies,
        ..Shape::default()
    };
    for seed in 0..SEEDS_FAULTY {
        let report = run(seed, shape);
        if report
            .violations
            .iter()
            .any(|violation| violation.starts_with(sign))
        {
            println!("{lies:?}: found with seed {seed}: {}", report.violations[0]);
            return;
        }
    }
    panic!("{lies:?} was not found in {SEEDS_FAULTY} seeds");
}

#[test]
fn control_acknowledging_before_the_sync_is_found() {
    is_found(Lies::ForgetSyncs, "O1");
}

#[test]
fn control_acknowledging_and_keeping_nothing_is_found() {
    is_found(Lies::KeepNothing, "O1");
}

#[test]
fn control_dropping_handoffs_early_is_found() {
    is_found(Lies::DropPushes, "O5");
}

#[test]
fn control_serving_rotten_bytes_is_found() {
    is_found(Lies::ServeRot, "O4");
}

#[test]
fn control_reclaiming_tombstones_early_is_found() {
    for power in [6, 18] {
        let found = crate::cases::a_deletion_and_days(power, Lies::ReclaimEarly);
        assert!(found.iter().any(|what| what.starts_with("O6")), "{found:?}");
        let found = crate::cases::a_deletion_and_days(power, Lies::None);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn control_agreeing_without_looking_is_found() {
    for power in [6, 18] {
        let found = crate::cases::a_primary_misses_a_deletion(power, Lies::AgreeAlways);
        assert!(found.iter().any(|what| what.starts_with("O2")), "{found:?}");
        let found = crate::cases::a_primary_misses_a_deletion(power, Lies::None);
        assert!(found.is_empty(), "{found:?}");
    }
}
