//! Tests of lookups and of the file format.

use super::*;
use crate::builder::{NewDevice, RingBuilder};
use onggi_common_units::UtcTime;
use proptest::prelude::*;

fn built(zones: u32, nodes: u32, power: u8, replicas: f64) -> Ring {
    let power = PartPower::new(power).unwrap();
    let mut builder = RingBuilder::new(power, replicas, 1).unwrap();
    for zone in 1..=zones {
        for node in 1..=nodes {
            let new = NewDevice::new(1, zone, &format!("10.0.{zone}.{node}"), 6200, "d1", 100.0);
            builder.add(new).unwrap();
        }
    }
    builder.rebalance(7, UtcTime::EPOCH).unwrap();
    builder.ring().unwrap()
}

#[test]
fn handoffs_are_every_other_device_once_other_zones_first() {
    let ring = built(4, 2, 6, 3.0);
    for number in 0..64 {
        let partition = Partition::new(number);
        let primaries = ring.primaries(partition);
        let zones: HashSet<u32> = primaries.iter().map(|device| device.zone).collect();
        assert_eq!((primaries.len(), zones.len()), (3, 3));
        let handoffs: Vec<&Device> = ring.handoffs(partition).collect();
        assert_eq!(handoffs.len(), 5);
        assert!(
            !zones.contains(&handoffs[0].zone),
            "the first handoff is in the fourth zone"
        );
        let all: HashSet<DeviceId> = primaries
            .iter()
            .chain(&handoffs)
            .map(|device| device.id)
            .collect();
        assert_eq!(all.len(), 8);
    }
}

#[test]
fn one_partition_and_one_device_work() {
    let ring = built(1, 1, 0, 1.0);
    assert_eq!(ring.primaries(Partition::new(0)).len(), 1);
    assert_eq!(ring.handoffs(Partition::new(0)).count(), 0);
    assert_eq!(ring.partitions_of(DeviceId::new(0)).count(), 1);
}

#[test]
fn a_ring_survives_its_file() {
    for replicas in [1.0, 2.5, 3.0] {
        let ring = built(3, 2, 5, replicas);
        assert_eq!(Ring::from_bytes(&ring.to_bytes()).unwrap(), ring);
        assert_eq!(
            ring.to_bytes(),
            Ring::from_bytes(&ring.to_bytes()).unwrap().to_bytes()
        );
    }
}

#[test]
fn damaged_ring_files_are_refused_with_a_reason() {
    let bytes = built(3, 2, 5, 3.0).to_bytes();
    assert!(Ring::from_bytes(b"").is_err());
    assert!(Ring::from_bytes(&bytes[..bytes.len() / 2]).is_err());
    let plain = crate::file::decompress(&bytes).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut plain = plain.clone();
        plain[at] = byte;
        Ring::from_bytes(&crate::file::compress(&plain))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(changed(0, b'X'), "this is no ring file");
    assert_eq!(
        changed(5, 2),
        "ring file version 2 is not known; version 1 is"
    );
    assert!(changed(6, 0x7f).contains("cut short"));
    assert!(changed(plain.len() - 1, 0x7f).contains("does not exist"));
    let short = crate::file::compress(&plain[..plain.len() - 64]);
    assert!(
        Ring::from_bytes(&short)
            .unwrap_err()
            .to_string()
            .contains("bytes")
    );
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(Ring::from_bytes(&bytes));
        drop(Ring::from_bytes(&crate::file::compress(&bytes)));
        let mut framed = b"R1NG\0\x01\0\0\0\x20".to_vec();
        framed.extend_from_slice(&bytes);
        drop(Ring::from_bytes(&crate::file::compress(&framed)));
    }
}
