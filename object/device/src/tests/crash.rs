//! Whatever was acknowledged before a `kill -9` is whole afterwards (O1, O3).

use super::{key, open_rocks, pattern, put_row, read};
use crate::{Merge, NewRow, ObjectKey};
use core::time::Duration;
use onggi_common_host::run::{Run, RunError};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "ONGGI_DEVICE_CRASH_DIRECTORY";
const WRITERS: u8 = 4;
const ROUNDS_MAX: u64 = 30;
const LENGTHS: [usize; 4] = [10, 4_096, 65_536, 300_000];

fn acknowledged(directory: &Path, writer: u8) -> PathBuf {
    directory.join(format!("acknowledged-{writer}"))
}

/// Writes objects until it is killed, and notes each one that was acknowledged.
#[test]
fn the_writer_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        // Alone this is no test: the next one starts it as a process of its own.
        return;
    };
    let device = open_rocks(&directory.join("d1"));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (device, directory) = (&device, &directory);
            scope.spawn(move || {
                let path = acknowledged(directory, writer);
                let mut notes = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .unwrap();
                for round in 1u64.. {
                    let number = writer * 8 + u8::try_from(round % 8).unwrap();
                    let length = LENGTHS[usize::try_from(round % 4).unwrap()];
                    let ticks = next_ticks(device, &key(number));
                    let bytes = body(ticks, length);
                    let mut upload = device.begin_upload(key(number), None).unwrap();
                    upload.write(device, &bytes).unwrap();
                    let new = NewRow {
                        row: put_row(number, ticks, &bytes),
                        body: Some(upload.finish()),
                    };
                    device
                        .merge_object(&key(number), new, Merge::default())
                        .unwrap();
                    // In one write, which a kill does not cut.
                    let line = format!("{number} {ticks} {length}\n");
                    notes.write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

fn next_ticks(device: &crate::Device, key: &ObjectKey) -> u64 {
    let stored = device.get_object(key).unwrap();
    stored.map_or(1, |stored| stored.row.data_timestamp.ticks() + 1)
}

fn body(ticks: u64, length: usize) -> Vec<u8> {
    let mut bytes = pattern(length);
    bytes[..8].copy_from_slice(&ticks.to_be_bytes());
    bytes
}

#[test]
fn what_was_acknowledged_before_a_kill_is_whole_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    // On a busy machine the writer may be killed before it has written anything.
    let lines = || {
        let notes = std::fs::read_to_string(acknowledged(dir.path(), 0));
        notes.unwrap_or_default().lines().count()
    };
    for round in (0..ROUNDS_MAX).take_while(|round| *round < 4 || lines() <= 10) {
        let child = Run::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "tests::crash::the_writer_that_is_killed",
                "--nocapture",
            ])
            .env(DIRECTORY, dir.path())
            .time_limit(Duration::from_millis(400 + round * 97));
        // The time limit is what kills it.
        assert!(matches!(child.output(), Err(RunError::TimedOut { .. })));
        let device = open_rocks(&dir.path().join("d1"));
        device.sweep().unwrap();
        for writer in 0..WRITERS {
            let notes =
                std::fs::read_to_string(acknowledged(dir.path(), writer)).unwrap_or_default();
            for line in notes.lines() {
                let fields: Vec<u64> = line
                    .split(' ')
                    .map(|field| field.parse().unwrap())
                    .collect();
                let number = u8::try_from(fields[0]).unwrap();
                let stored = device
                    .get_object(&key(number))
                    .unwrap()
                    .expect("an acknowledged object is there");
                assert!(
                    stored.row.data_timestamp.ticks() >= fields[1],
                    "an older object came back"
                );
            }
        }
        for number in 0..WRITERS * 8 {
            // Whatever is there, acknowledged or not, is whole.
            if let Some(bytes) = read(&device, number, &[]) {
                let ticks = device
                    .get_object(&key(number))
                    .unwrap()
                    .unwrap()
                    .row
                    .data_timestamp
                    .ticks();
                assert_eq!(bytes, body(ticks, bytes.len()));
            }
        }
    }
    assert!(lines() > 10, "the writer got nowhere");
}
