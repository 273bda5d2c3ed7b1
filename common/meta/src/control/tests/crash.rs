//! M1 and M2 over `kill -9`: the test binary runs itself as the victim.

use super::*;
use onggi_common_host::SystemClock;
use onggi_common_host::run::{Run, RunError};
use std::io::Write as _;
use std::path::Path;

const VICTIM: &str = "ONGGI_TEST_CONTROL_VICTIM";

fn open(directory: &Path) -> Embedded {
    rocks::open(directory, Arc::new(SystemClock::new())).unwrap()
}

/// Not a test of its own: the process that is killed.
#[test]
fn victim() {
    let Ok(argument) = std::env::var(VICTIM) else {
        return;
    };
    let (directory, life) = argument.rsplit_once(':').unwrap();
    let life: u64 = life.parse().unwrap();
    let store = open(Path::new(directory));
    let acknowledged = AtomicU64::new(0);
    let start = store
        .scan(JARS, &KeyRange::all(), At::Now, 1)
        .unwrap()
        .revision
        .number();
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (store, acknowledged) = (&store, &acknowledged);
            scope.spawn(move || {
                for row in 0.. {
                    let number = (start << 20) + (thread << 10) + row;
                    let key = number.to_be_bytes();
                    let both = Transaction::new(id(number))
                        .put(JARS, key, key)
                        .put(LIDS, key, key);
                    let revision = store.commit(&both).unwrap();
                    let line = format!("ack {number} {revision}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    if acknowledged.fetch_add(1, Ordering::SeqCst) + 1 == life {
                        let itself = rustix::process::getpid();
                        rustix::process::kill_process(itself, rustix::process::Signal::KILL)
                            .unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn m1_acknowledged_transactions_their_outcomes_and_history_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for life in [1u64, 5, 100] {
        let run = Run::new(std::env::current_exe().unwrap())
            .args(["--exact", "control::tests::crash::victim", "--nocapture"])
            .env(VICTIM, format!("{}:{life}", dir.path().display()));
        let Err(RunError::Failed {
            code: None, stdout, ..
        }) = run.output()
        else {
            panic!("the victim outlived its kill");
        };
        let store = open(dir.path());
        let mut count = 0;
        let stdout = String::from_utf8(stdout).unwrap();
        for (_, line) in stdout.lines().filter_map(|line| line.split_once("ack ")) {
            let Some((number, revision)) = line.split_once(' ') else {
                continue;
            };
            let number: u64 = number.parse().unwrap();
            let revision = Revision::new(revision.parse().unwrap());
            let row = store.get(JARS, &number.to_be_bytes()).unwrap().unwrap();
            assert_eq!(row.revision, revision);
            assert_eq!(
                store.outcome(id(number)).unwrap(),
                Outcome::Committed(revision)
            );
            count += 1;
        }
        assert!(count >= life);
        let all = |table| {
            store
                .scan(table, &KeyRange::all(), At::Now, PAGE_ROWS_MAX)
                .unwrap()
        };
        assert_eq!(all(JARS), all(LIDS));
    }
}
