//! M1, M3: a write that a power cut has torn is dropped whole, and damage of what was acknowledged stays an error.

use super::*;
use onggi_common_host::durable::{self, Visibility};
use std::path::PathBuf;

const SECTOR: usize = 512;

/// A store whose rows are only in its log: synced ones of 3,000 bytes each, none of them zero.
fn logged(rows: u8) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for row in 1..=rows {
        let mut batch = Batch::new();
        batch.put(JARS, [row], vec![row; 3_000]);
        store.write(&batch, Durability::Synced).unwrap();
    }
    drop(store);
    let log = newest_log(dir.path());
    (dir, log)
}

fn newest_log(dir: &Path) -> PathBuf {
    let logs = std::fs::read_dir(dir.join("db")).unwrap();
    logs.map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .max()
        .unwrap()
}

/// Where a row's value begins and ends in the log.
fn value_of(log: &[u8], row: u8) -> core::ops::Range<usize> {
    let is_value = |at: &usize| log[*at..].starts_with(&[row; 64]);
    let begin = (0..log.len()).find(is_value).unwrap();
    let length = log[begin..].iter().take_while(|byte| **byte == row).count();
    begin..begin + length
}

/// The file's sectors that lie within these bytes.
fn sectors(bytes: core::ops::Range<usize>) -> impl Iterator<Item = core::ops::Range<usize>> {
    let first = bytes.start.div_ceil(SECTOR) * SECTOR;
    let begins = (first..bytes.end).step_by(SECTOR);
    begins
        .map(|begin| begin..begin + SECTOR)
        .filter(move |sector| sector.end <= bytes.end)
}

fn change(log: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(log).unwrap();
    change(&mut bytes);
    durable::replace(log, &bytes, Visibility::World).unwrap();
}

fn rows(dir: &tempfile::TempDir) -> Vec<u8> {
    let store = open(dir.path());
    let page = store
        .scan(JARS, &KeyRange::all(), Order::Ascending, Limit::rows(1_000))
        .unwrap();
    page.rows.iter().map(|row| row.key[0]).collect()
}

#[test]
fn m1_any_sector_missing_from_the_last_write_loses_that_write_only() {
    for missing in 0..4 {
        let (dir, log) = logged(30);
        change(&log, |bytes| {
            let value = value_of(bytes, 30);
            let sector = sectors(value).nth(missing).unwrap();
            bytes[sector].fill(0);
        });
        assert_eq!(rows(&dir), (1..30).collect::<Vec<u8>>(), "{missing}");
        assert!(dir.path().join("TORN").is_file());
        // It is as good as new.
        let store = open(dir.path());
        put(&store, &[99], b"new");
        drop(store);
        assert_eq!(rows(&dir).last(), Some(&99));
    }
}

#[test]
fn m1_a_sector_written_to_its_middle_is_torn_too() {
    let (dir, log) = logged(3);
    change(&log, |bytes| {
        let value = value_of(bytes, 3);
        let sector = sectors(value).next().unwrap();
        bytes[sector.start + 200..sector.end].fill(0);
    });
    assert_eq!(rows(&dir), [1, 2]);
}

#[test]
fn m1_a_record_whose_header_is_missing_hides_nothing_before_it() {
    let (dir, log) = logged(30);
    change(&log, |bytes| {
        let value = value_of(bytes, 30);
        let begin = value_of(bytes, 29).end;
        bytes[begin..value.start + 1_000].fill(0);
    });
    assert_eq!(rows(&dir), (1..30).collect::<Vec<u8>>());
}

#[test]
fn m3_zeros_in_what_a_later_write_says_was_on_the_disk_are_damage() {
    for damaged in [1, 5, 11, 25, 28] {
        let (dir, log) = logged(30);
        let before = std::fs::read(&log).unwrap();
        change(&log, |bytes| {
            let value = value_of(bytes, damaged);
            let sector = sectors(value).next().unwrap();
            bytes[sector].fill(0);
        });
        let damaged_log = std::fs::read(&log).unwrap();
        assert_ne!(before, damaged_log);
        let error = RocksStore::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert_eq!(
            std::fs::read(&log).unwrap(),
            damaged_log,
            "it stays as it is"
        );
        assert!(!dir.path().join("TORN").exists());
    }
}

#[test]
fn m3_a_flipped_bit_in_the_last_write_is_damage() {
    let (dir, log) = logged(30);
    change(&log, |bytes| {
        let value = value_of(bytes, 30);
        bytes[value.start + 700] ^= 1;
    });
    let error = RocksStore::open(dir.path(), &options()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

/// What looks like the record of a batch that says of all before it that it was on stable storage.
fn forged(tag: u8, length: u8) -> Vec<u8> {
    let mut mark = vec![3, length, tag];
    mark.extend_from_slice(&(u64::MAX >> 1).to_le_bytes());
    mark.resize(2 + usize::from(length), 7);
    let sequence = (u64::MAX >> 1) + 1;
    let payload = [&sequence.to_le_bytes()[..], &1u32.to_le_bytes(), &mark].concat();
    let summed = crc32c::crc32c(&[&[1], payload.as_slice()].concat());
    let masked = summed.rotate_right(15).wrapping_add(0xa282_ead8);
    let length = u16::try_from(payload.len()).unwrap();
    [
        &masked.to_le_bytes()[..],
        &length.to_le_bytes(),
        &[1],
        &payload,
    ]
    .concat()
}

#[test]
fn m1_what_a_client_has_sent_proves_no_damage() {
    for forged in [forged(b'S', 9), forged(b'T', 17)] {
        let (dir, _) = logged(29);
        let store = open(dir.path());
        put(&store, &[29], b"x");
        let mut batch = Batch::new();
        let value = [vec![30; 2_000], forged.clone(), vec![30; 100], forged].concat();
        batch.put(JARS, [30], value);
        store.write(&batch, Durability::Synced).unwrap();
        drop(store);
        let log = newest_log(dir.path());
        change(&log, |bytes| {
            let sector = sectors(value_of(bytes, 30)).next().unwrap();
            bytes[sector].fill(0);
        });
        assert_eq!(rows(&dir), (1..30).collect::<Vec<u8>>());
        assert!(dir.path().join("TORN").is_file());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Sectors of the last write stay or are lost by chance, as a power cut leaves them.
    #[test]
    fn m1_whatever_a_cut_leaves_of_the_last_write(kept in proptest::collection::vec(any::<bool>(), 8), tail in 0usize..3_000) {
        let (dir, log) = logged(20);
        change(&log, |bytes| {
            let begin = value_of(bytes, 19).end;
            bytes.truncate(bytes.len() - tail.min(bytes.len() - begin));
            for (place, sector) in (begin / SECTOR..).zip(&kept) {
                if !sector {
                    let end = ((place + 1) * SECTOR).min(bytes.len());
                    let from = (place * SECTOR).max(begin).min(end);
                    bytes[from..end].fill(0);
                }
            }
        });
        let rows = rows(&dir);
        let acknowledged: Vec<u8> = (1..20).collect();
        prop_assert!(rows.starts_with(&acknowledged), "{:?}", rows);
    }
}
