//! M1: what was acknowledged is there after `kill -9`. The test binary runs itself as the victim.

use super::*;
use onggi_common_host::run::{Run, RunError};
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

const VICTIM: &str = "ONGGI_TEST_LOCAL_VICTIM";
const WRITERS: u32 = 4;

fn key(writer: u32, row: u32) -> Vec<u8> {
    [writer.to_be_bytes(), row.to_be_bytes()].concat()
}

/// Values of changing sizes, some in blob files.
fn value(writer: u32, row: u32) -> Vec<u8> {
    vec![row.to_le_bytes()[0]; usize::try_from((writer * 1_237 + row * 811) % 3_000).unwrap()]
}

/// Not a test of its own: the process that is killed. It acknowledges on its standard output.
#[test]
fn victim() {
    let Ok(argument) = std::env::var(VICTIM) else {
        return;
    };
    let (directory, life) = argument.rsplit_once(':').unwrap();
    let life: u32 = life.parse().unwrap();
    let store = open(Path::new(directory));
    let acknowledged = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, acknowledged) = (&store, &acknowledged);
            scope.spawn(move || {
                for row in 0.. {
                    let mut batch = Batch::new();
                    batch.put(JARS, key(writer, row), value(writer, row));
                    batch.put(LIDS, key(writer, row), value(writer, row));
                    store.write(&batch, Durability::Synced).unwrap();
                    let line = format!("ack {writer} {row}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    if acknowledged.fetch_add(1, Ordering::SeqCst) + 1 == life {
                        rustix::process::kill_process(
                            rustix::process::getpid(),
                            rustix::process::Signal::KILL,
                        )
                        .unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn m1_every_acknowledged_batch_is_there_after_kill_9_and_no_batch_is_half_there() {
    let dir = tempfile::tempdir().unwrap();
    // The same store, several lives: what an earlier one acknowledged stays too.
    for life in [1u32, 7, 60, 400] {
        let argument = format!("{}:{life}", dir.path().display());
        let run = Run::new(std::env::current_exe().unwrap())
            .args(["--exact", "local::tests::crash::victim", "--nocapture"])
            .env(VICTIM, argument);
        let Err(RunError::Failed {
            code: None, stdout, ..
        }) = run.output()
        else {
            panic!("the victim outlived its kill");
        };
        let store = open(dir.path());
        let stdout = String::from_utf8(stdout).unwrap();
        let mut count = 0;
        for line in stdout.lines().filter_map(|line| line.split_once("ack ")) {
            let Some((writer, row)) = line.1.split_once(' ') else {
                continue;
            };
            let (writer, row) = (writer.parse().unwrap(), row.parse().unwrap());
            assert_eq!(
                store.get(JARS, &key(writer, row)).unwrap(),
                Some(value(writer, row))
            );
            count += 1;
        }
        assert!(
            count >= life,
            "{count} of {life} acknowledgements were seen"
        );
        let all = |table| {
            store.scan(
                table,
                &KeyRange::all(),
                Order::Ascending,
                Limit {
                    rows: 1 << 20,
                    bytes: 1 << 30,
                },
            )
        };
        assert_eq!(all(JARS).unwrap(), all(LIDS).unwrap());
    }
}
