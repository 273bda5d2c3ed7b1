//! Bytes that fail their checksum are quarantined and never given out (O4).

use super::{at, body_files, delete, digest, key, on_both, pattern, put, read};
use crate::large::body_path;
use crate::{Device, DeviceError, Location, Merged};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

const LENGTH: usize = 300_000;

fn body_file(device: &Device) -> PathBuf {
    match device.get_object(&key(1)).unwrap().unwrap().location {
        Location::File(name) => body_path(device.directory(), &name),
        other => panic!("a large body is in a file, not {other:?}"),
    }
}

fn flip(path: &PathBuf, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// Reads as much as comes, and how it ended.
fn read_until_damage(device: &Device) -> (Vec<u8>, Option<DeviceError>) {
    let stored = device.get_object(&key(1)).unwrap().unwrap();
    let mut bytes = Vec::new();
    let mut reader = match device.open_body(&key(1), &stored, &[]) {
        Ok(reader) => reader,
        Err(error) => return (bytes, Some(error)),
    };
    loop {
        match reader.next(device) {
            Ok(Some(block)) => bytes.extend_from_slice(&block),
            Ok(None) => return (bytes, None),
            Err(error) => return (bytes, Some(error)),
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_file_is_never_served() {
    on_both(|device| {
        let mut ticks = 10;
        put(device, 1, ticks, &pattern(LENGTH));
        let file_bytes = body_file(device).metadata().unwrap().len();
        for offset in [
            0,
            70_000,
            LENGTH as u64 - 1,
            LENGTH as u64,
            file_bytes - 61,
            file_bytes - 50,
            file_bytes - 1,
        ] {
            let healthy = digest(device);
            flip(&body_file(device), offset);
            let (served, error) = read_until_damage(device);
            assert!(
                matches!(error, Some(DeviceError::Damaged { .. })),
                "{offset}"
            );
            assert_eq!(served, pattern(LENGTH)[..served.len()], "{offset}");
            let stored = device.get_object(&key(1)).unwrap().unwrap();
            assert_eq!(stored.location, Location::Quarantined, "{offset}");
            assert_ne!(digest(device), healthy, "peers notice");
            assert_eq!(body_files(device), 0);
            // The same bytes from a peer heal it.
            assert!(matches!(
                put(device, 1, ticks, &pattern(LENGTH)),
                Merged::Changed { .. }
            ));
            assert_eq!(digest(device), healthy, "{offset}");
            assert_eq!(read(device, 1, &[]).unwrap(), pattern(LENGTH));
            ticks += 1;
            put(device, 1, ticks, &pattern(LENGTH));
        }
        let quarantine = device.directory().join("quarantine");
        assert_eq!(std::fs::read_dir(quarantine).unwrap().count(), 7);
    });
}

#[test]
fn what_is_read_past_the_page_cache_is_verified_too() {
    const LONG: usize = 5_000_001;
    on_both(|device| {
        for (ticks, reads_before) in [(1, 0), (2, 1), (3, 2)] {
            put(device, 1, ticks, &pattern(LONG));
            for _ in 0..reads_before {
                assert!(read(device, 1, &[]).unwrap() == pattern(LONG));
            }
            flip(&body_file(device), 3_000_000);
            let (served, error) = read_until_damage(device);
            assert!(matches!(error, Some(DeviceError::Damaged { .. })));
            assert!(served == pattern(LONG)[..served.len()]);
        }
    });
}

#[test]
fn a_missing_or_cut_file_is_damage() {
    on_both(|device| {
        put(device, 1, 1, &pattern(LENGTH));
        std::fs::remove_file(body_file(device)).unwrap();
        assert!(matches!(
            read_until_damage(device).1,
            Some(DeviceError::Damaged { .. })
        ));
        put(device, 1, 2, &pattern(LENGTH));
        let file = OpenOptions::new()
            .write(true)
            .open(body_file(device))
            .unwrap();
        file.set_len(LENGTH as u64).unwrap();
        assert!(matches!(
            read_until_damage(device).1,
            Some(DeviceError::Damaged { .. })
        ));
    });
}

#[test]
fn a_quarantined_object_can_be_deleted_and_put_again() {
    on_both(|device| {
        put(device, 1, 1, &pattern(LENGTH));
        flip(&body_file(device), 5);
        drop(read_until_damage(device));
        assert!(matches!(
            delete(device, 1, 2),
            Merged::Changed {
                was_there: true,
                ..
            }
        ));
        assert!(matches!(put(device, 1, 3, b"new"), Merged::Changed { .. }));
        assert_eq!(read(device, 1, &[]).unwrap(), b"new");
        let stored = device.get_object(&key(1)).unwrap().unwrap();
        assert_eq!(stored.row.data_timestamp, at(3));
    });
}

#[test]
fn reading_a_body_that_was_replaced_meanwhile_quarantines_nothing() {
    on_both(|device| {
        put(device, 1, 1, &pattern(LENGTH));
        let old = device.get_object(&key(1)).unwrap().unwrap();
        put(device, 1, 2, &pattern(LENGTH + 1));
        assert!(device.open_body(&key(1), &old, &[]).is_err());
        assert_eq!(read(device, 1, &[]).unwrap(), pattern(LENGTH + 1));
    });
}
