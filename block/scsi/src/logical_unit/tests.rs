//! Tests of the logical unit module.

use super::*;
use crate::media::Fill;
use crate::range::{BlockSize, Lba};
use onggi_common_units::ByteCount;
use proptest::prelude::*;

const BLOCKS: u64 = 2_048;

fn settings() -> Settings {
    let volume = "01234567-89ab-4cde-8f01-23456789abcd".parse().unwrap();
    Settings {
        identity: Identity {
            volume,
            target: Arc::from("iqn.2026-11.org.onggi:v"),
            portal_groups: vec![1, 2],
        },
        capacity: Capacity::new(ByteCount::new(BLOCKS * 512), BlockSize::B512).unwrap(),
        provisioning: Provisioning::Thin,
        read_only: false,
        inventory: vec![Lun::new(1).unwrap()],
    }
}

fn nexus(number: u8) -> Nexus {
    Nexus::new("iqn.2026-11.org.onggi:host", [0x80, 0, 0, 0, 0, number], 1)
}

/// A unit whose nexuses 1 and 2 have heard of its power-on.
fn unit_of(settings: Settings) -> LogicalUnit {
    let mut unit = LogicalUnit::new(settings);
    for who in [1, 2] {
        unit.attach(&nexus(who));
        assert_eq!(sense(&run(&mut unit, who, &[0; 6], &[])), (6, 0x29, 0));
    }
    unit
}

fn unit() -> LogicalUnit {
    unit_of(settings())
}

fn run(unit: &mut LogicalUnit, who: u8, cdb: &[u8], data: &[u8]) -> Outcome {
    unit.begin(&nexus(who), CdbBytes::new(cdb), data)
}

fn response(outcome: &Outcome) -> &Response {
    match outcome {
        Outcome::Complete { response, .. } => response,
        Outcome::Media { op, .. } => panic!("not complete: {op:?}"),
    }
}

fn media(outcome: &Outcome) -> &MediaOp {
    match outcome {
        Outcome::Media { op, .. } => op,
        Outcome::Complete { response, .. } => panic!("complete: {response:x?}"),
    }
}

fn sense(outcome: &Outcome) -> (u8, u8, u8) {
    let response = response(outcome);
    assert_eq!(response.status, Status::CheckCondition, "{response:x?}");
    (
        response.sense[2] & 0xf,
        response.sense[12],
        response.sense[13],
    )
}

fn cdb10(opcode: u8, flags: u8, lba: u32, count: u16) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.push(0);
    cdb.extend(count.to_be_bytes());
    cdb.push(0);
    cdb
}

fn cdb16(opcode: u8, flags: u8, lba: u64, count: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.extend(count.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}

const LBA_OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
const INVALID_FIELD: (u8, u8, u8) = (5, 0x24, 0);

#[test]
fn read10_past_the_last_block_is_lba_out_of_range() {
    let mut unit = unit();
    for (lba, count) in [
        (2_048, 1),
        (2_047, 2),
        (2_049, 0),
        (u32::MAX, 0xffff),
        (0, 2_049),
    ] {
        for opcode in [0x28, 0x2a, 0x2e, 0x2f, 0x35, 0x41, 0x34] {
            let outcome = run(&mut unit, 1, &cdb10(opcode, 0, lba, count), &[0; 512]);
            assert_eq!(
                sense(&outcome),
                LBA_OUT_OF_RANGE,
                "{opcode:x} {lba} {count}"
            );
        }
    }
}

#[test]
fn read16_whose_end_overflows_is_lba_out_of_range() {
    let mut unit = unit();
    for (lba, count) in [
        (u64::MAX, 1),
        (u64::MAX, u32::MAX),
        (1 << 63, 0),
        (u64::MAX - 1, 2),
    ] {
        for opcode in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93] {
            let outcome = run(&mut unit, 1, &cdb16(opcode, 0, lba, count), &[0; 512]);
            assert_eq!(
                sense(&outcome),
                LBA_OUT_OF_RANGE,
                "{opcode:x} {lba} {count}"
            );
        }
    }
    let status = run(&mut unit, 1, &cdb16(0x9e, 0x12, 1 << 63, 1_024), &[]);
    assert_eq!(sense(&status), LBA_OUT_OF_RANGE);
    let status = run(&mut unit, 1, &cdb16(0x9e, 0x12, BLOCKS, 1_024), &[]);
    assert_eq!(sense(&status), LBA_OUT_OF_RANGE);
}

#[test]
fn reads_and_writes_of_no_blocks_are_good_and_move_nothing() {
    let mut unit = unit();
    let outcome = run(&mut unit, 1, &cdb10(0x28, 0, 0, 0), &[]);
    let MediaOp::Read { range } = media(&outcome) else {
        panic!()
    };
    assert!(range.is_empty());
    assert!(matches!(
        outcome,
        Outcome::Media {
            wanted_bytes: 0,
            ..
        }
    ));
}

#[test]
fn a_transfer_past_the_announced_maximum_is_refused() {
    let mut unit = unit_of(Settings {
        capacity: Capacity::new(ByteCount::from_gib(1), BlockSize::B512).unwrap(),
        ..settings()
    });
    let most = inquiry::TRANSFER_BYTES_MAX / 512;
    media(&run(&mut unit, 1, &cdb16(0x88, 0, 0, most), &[]));
    for opcode in [0x88, 0x8a, 0x8e, 0x8f] {
        let outcome = run(&mut unit, 1, &cdb16(opcode, 0, 0, most + 1), &[]);
        assert_eq!(sense(&outcome), INVALID_FIELD);
    }
}

#[test]
fn a_write_with_less_data_than_its_cdb_says_writes_what_came() {
    let mut unit = unit();
    let outcome = run(&mut unit, 1, &cdb10(0x2a, 0x08, 4, 3), &[0; 700]);
    let Outcome::Media {
        op: MediaOp::Write { range, fua: true },
        wanted_bytes,
    } = outcome
    else {
        panic!()
    };
    assert_eq!(
        (range.first(), range.count(), wanted_bytes),
        (Lba::new(4), 1, 1_536)
    );
}

#[test]
fn a_read_only_unit_refuses_every_write_and_reads() {
    let mut unit = unit_of(Settings {
        read_only: true,
        ..settings()
    });
    let mut unmap = vec![0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    for cdb in [
        cdb10(0x2a, 0, 0, 1),
        cdb10(0x2e, 0, 0, 1),
        cdb10(0x41, 0, 0, 1),
        cdb16(0x8b, 0, 0, 1),
        cdb16(0x89, 0, 0, 0),
    ] {
        assert_eq!(
            sense(&run(&mut unit, 1, &cdb, &[0; 1_024])),
            (7, 0x27, 0),
            "{cdb:x?}"
        );
    }
    assert_eq!(sense(&run(&mut unit, 1, &unmap, &[0; 8])), (7, 0x27, 0));
    unmap.clear();
    media(&run(&mut unit, 1, &cdb10(0x28, 0, 0, 1), &[]));
    let mode = run(&mut unit, 1, &[0x1a, 0, 0x3f, 0, 255, 0], &[]);
    assert_eq!(response(&mode).data_in[2] & 0x80, 0x80);
}

#[test]
fn power_on_is_heard_once_and_inquiry_does_not_take_it() {
    let mut unit = LogicalUnit::new(settings());
    unit.attach(&nexus(1));
    assert_eq!(
        response(&run(&mut unit, 1, &[0x12, 0, 0, 0, 96, 0], &[])).status,
        Status::Good
    );
    assert_eq!(sense(&run(&mut unit, 1, &[0xff], &[])), (6, 0x29, 0));
    assert_eq!(sense(&run(&mut unit, 1, &[0xff], &[])), (5, 0x20, 0));
    unit.detach(&nexus(1));
    unit.attach(&nexus(1));
    let request_sense = run(&mut unit, 1, &[0x03, 0, 0, 0, 18, 0], &[]);
    assert_eq!(
        (
            response(&request_sense).data_in[2],
            response(&request_sense).data_in[13]
        ),
        (6, 7)
    );
    assert_eq!(
        response(&run(&mut unit, 1, &[0; 6], &[])).status,
        Status::Good
    );
}

#[test]
fn a_resize_is_heard_by_every_nexus_and_the_new_size_is_there() {
    let mut unit = unit();
    let generation = unit.generation();
    unit.resize(Capacity::new(ByteCount::new(BLOCKS * 1_024), BlockSize::B512).unwrap());
    assert_ne!(unit.generation(), generation);
    for who in [1, 2] {
        assert!(
            unit.view(&nexus(who))
                .begin(CdbBytes::new(&cdb10(0x28, 0, 0, 1)), 0)
                .is_none()
        );
        assert_eq!(
            sense(&run(&mut unit, who, &cdb10(0x28, 0, 0, 1), &[])),
            (6, 0x2a, 9)
        );
    }
    let capacity = run(&mut unit, 1, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    assert_eq!(response(&capacity).data_in[..4], 4_095u32.to_be_bytes());
    media(&run(&mut unit, 1, &cdb10(0x28, 0, 4_095, 1), &[]));
}

#[test]
fn a_view_answers_as_the_unit_does_until_something_changes() {
    let mut unit = unit();
    let view = unit.view(&nexus(1));
    for (cdb, data) in [
        (cdb10(0x28, 0, 7, 9), 0),
        (cdb10(0x2a, 0, 7, 9), 9 * 512),
        (cdb10(0x28, 0, 2_048, 9), 0),
        (cdb16(0x89, 0, 0, 0), 0),
        (cdb10(0x35, 0, 0, 0), 0),
    ] {
        let fast = view.begin(CdbBytes::new(&cdb), data).unwrap();
        assert_eq!(
            fast,
            run(&mut unit, 1, &cdb, &vec![0; usize::try_from(data).unwrap()])
        );
    }
    assert!(view.begin(CdbBytes::new(&[0x12]), 0).is_none());
    let before = unit.generation();
    run(&mut unit, 2, &[0x16, 0, 0, 0, 0, 0], &[]);
    assert_ne!(unit.generation(), before);
    let view = unit.view(&nexus(1));
    assert!(
        view.begin(CdbBytes::new(&cdb10(0x28, 0, 7, 9)), 0)
            .is_none()
    );
    let outcome = run(&mut unit, 1, &cdb10(0x28, 0, 7, 9), &[]);
    assert_eq!(response(&outcome).status, Status::ReservationConflict);
}

#[test]
fn mode_select_turns_the_write_cache_off_and_tells_the_others() {
    let mut unit = unit();
    let mut list = response(&run(&mut unit, 1, &[0x1a, 0x08, 0x08, 0, 255, 0], &[]))
        .data_in
        .clone();
    list[0] = 0;
    list[6] &= !0x04;
    let select = [0x15, 0x10, 0, 0, u8::try_from(list.len()).unwrap(), 0];
    assert_eq!(
        response(&run(&mut unit, 1, &select, &list)).status,
        Status::Good
    );
    let MediaOp::Write { fua, .. } = *media(&run(&mut unit, 1, &cdb10(0x2a, 0, 0, 1), &[0; 512]))
    else {
        panic!()
    };
    assert!(fua, "without a write cache every write is durable");
    assert_eq!(sense(&run(&mut unit, 2, &[0; 6], &[])), (6, 0x2a, 1));
    assert_eq!(sense(&run(&mut unit, 1, &select, &list[..4])), (5, 0x1a, 0));
}

#[test]
fn unmap_checks_its_list_before_it_touches_anything() {
    let mut unit = unit();
    let list = |said: u16, descriptors: &[(u64, u32)]| {
        let mut data = vec![0, 0];
        data.extend(said.to_be_bytes());
        data.extend([0; 4]);
        for (lba, count) in descriptors {
            data.extend(lba.to_be_bytes());
            data.extend(count.to_be_bytes());
            data.extend([0; 4]);
        }
        data
    };
    let mut unmap = |data: &[u8]| {
        let [high, low] = u16::try_from(data.len()).unwrap().to_be_bytes();
        run(&mut unit, 1, &[0x42, 0, 0, 0, 0, 0, 0, high, low, 0], data)
    };
    assert_eq!(response(&unmap(&[])).status, Status::Good);
    assert_eq!(response(&unmap(&list(0, &[]))).status, Status::Good);
    assert_eq!(response(&unmap(&list(16, &[(5, 0)]))).status, Status::Good);
    assert_eq!(sense(&unmap(&[0; 7])), (5, 0x1a, 0));
    assert_eq!(
        sense(&unmap(&list(32, &[(0, 1), (BLOCKS, 1)]))),
        LBA_OUT_OF_RANGE
    );
    assert_eq!(
        sense(&unmap(&list(16, &[(u64::MAX, u32::MAX)]))),
        LBA_OUT_OF_RANGE
    );
    assert_eq!(sense(&unmap(&list(257 * 16, &[(0, 1); 257]))), (5, 0x26, 0));
    let outcome = unmap(&list(32, &[(0, 8), (16, 8)]));
    let MediaOp::Unmap { ranges } = media(&outcome) else {
        panic!()
    };
    assert_eq!((ranges.len(), ranges[1].byte_offset()), (2, 8_192));
}

#[test]
fn a_fully_provisioned_unit_offers_no_unmap() {
    let mut unit = unit_of(Settings {
        provisioning: Provisioning::Full,
        ..settings()
    });
    assert_eq!(
        sense(&run(&mut unit, 1, &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])),
        (5, 0x20, 0)
    );
    assert_eq!(
        sense(&run(&mut unit, 1, &cdb10(0x41, 0x08, 0, 1), &[0; 512])),
        INVALID_FIELD
    );
    media(&run(&mut unit, 1, &cdb10(0x41, 0, 0, 1), &[0; 512]));
}

#[test]
fn write_same_wants_one_block_and_a_range() {
    let mut unit = unit();
    assert_eq!(
        sense(&run(&mut unit, 1, &cdb10(0x41, 0, 0, 0), &[0; 512])),
        INVALID_FIELD
    );
    assert_eq!(
        sense(&run(&mut unit, 1, &cdb10(0x41, 0, 0, 1), &[0; 511])),
        INVALID_FIELD
    );
    let outcome = run(&mut unit, 1, &cdb16(0x93, 0x09, 8, 16), &[]);
    let MediaOp::WriteSame {
        fill: Fill::Zeros,
        unmap: true,
        range,
        ..
    } = media(&outcome)
    else {
        panic!()
    };
    assert_eq!(range.byte_length(), 8_192);
}

#[test]
fn compare_and_write_wants_twice_its_range() {
    let mut unit = unit();
    let mut cdb = cdb16(0x89, 0, 8, 2);
    assert_eq!(sense(&run(&mut unit, 1, &cdb, &[0; 2_047])), INVALID_FIELD);
    let outcome = run(&mut unit, 1, &cdb, &[0; 2_048]);
    assert!(matches!(
        outcome,
        Outcome::Media {
            wanted_bytes: 2_048,
            ..
        }
    ));
    cdb = cdb16(0x89, 0, BLOCKS - 1, 2);
    assert_eq!(
        sense(&run(&mut unit, 1, &cdb, &[0; 2_048])),
        LBA_OUT_OF_RANGE
    );
}

#[test]
fn a_stopped_unit_flushes_says_so_and_starts_again() {
    let mut unit = unit();
    let outcome = run(&mut unit, 1, &[0x1b, 0, 0, 0, 0, 0], &[]);
    assert_eq!(media(&outcome), &MediaOp::Flush);
    assert_eq!(sense(&run(&mut unit, 2, &[0; 6], &[])), (2, 4, 2));
    assert_eq!(
        sense(&run(&mut unit, 2, &cdb10(0x28, 0, 0, 1), &[])),
        (2, 4, 2)
    );
    assert_eq!(
        response(&run(&mut unit, 2, &[0x12, 0, 0, 0, 96, 0], &[])).status,
        Status::Good
    );
    assert_eq!(
        response(&run(&mut unit, 2, &[0x1b, 0, 0, 0, 1, 0], &[])).status,
        Status::Good
    );
    assert_eq!(
        response(&run(&mut unit, 1, &[0; 6], &[])).status,
        Status::Good
    );
    assert_eq!(
        sense(&run(&mut unit, 1, &[0x1b, 0, 0, 0, 2, 0], &[])),
        INVALID_FIELD
    );
}

#[test]
fn a_reset_ends_reserve6_and_is_heard_by_everybody() {
    let mut unit = unit();
    run(&mut unit, 1, &[0x16, 0, 0, 0, 0, 0], &[]);
    unit.reset();
    assert_eq!(sense(&run(&mut unit, 1, &[0; 6], &[])), (6, 0x29, 3));
    assert_eq!(sense(&run(&mut unit, 2, &[0; 6], &[])), (6, 0x29, 3));
    media(&run(&mut unit, 2, &cdb10(0x28, 0, 0, 1), &[]));
}

#[test]
fn a_missing_unit_says_so_but_lists_the_others() {
    let inventory = [Lun::new(1).unwrap()];
    let missing = MissingUnit {
        inventory: &inventory,
    };
    assert_eq!(sense(&missing.begin(CdbBytes::new(&[0; 6]))), (5, 0x25, 0));
    let luns = missing.begin(CdbBytes::new(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]));
    assert_eq!(response(&luns).data_in[9], 1);
    assert_eq!(
        response(&missing.begin(CdbBytes::new(&[0x12, 0, 0, 0, 36, 0]))).data_in[0],
        0x7f
    );
}

#[test]
fn a_unit_that_is_sanitized_or_failed_to_be_answers_only_what_needs_no_medium() {
    let mut unit = unit();
    let erase = [0x48, 0x82, 0, 0, 0, 0, 0, 0, 0, 0];
    let MediaOp::Sanitize {
        range, immediate, ..
    } = media(&run(&mut unit, 1, &erase, &[])).clone()
    else {
        panic!("no sanitize")
    };
    assert!(immediate && range.count() == unit.capacity().blocks());
    let in_progress = (2, 0x04, 0x1b);
    for cdb in [
        &[0; 6][..],
        &erase,
        &cdb10(0x28, 0, 0, 1),
        &[0x1b, 0, 0, 0, 2, 0],
    ] {
        assert_eq!(sense(&run(&mut unit, 1, cdb, &[])), in_progress, "{cdb:x?}");
    }
    assert!(
        unit.view(&nexus(1))
            .begin(CdbBytes::new(&cdb10(0x28, 0, 0, 1)), 0)
            .is_none()
    );
    assert_eq!(sense(&run(&mut unit, 1, &[0x7f], &[])), (5, 0x20, 0));
    unit.sanitized(false);
    assert_eq!(sense(&run(&mut unit, 1, &[0; 6], &[])), (3, 0x31, 3));
    let exit = [0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        sense(&run(&mut unit, 1, &exit, &[])),
        (5, 0x24, 0),
        "AUSE was not set"
    );
    media(&run(&mut unit, 1, &erase, &[]));
    unit.sanitized(true);
    assert_eq!(
        response(&run(&mut unit, 1, &[0; 6], &[])).status,
        Status::Good
    );
    assert_eq!(
        response(&run(&mut unit, 1, &exit, &[])).status,
        Status::Good
    );
}

#[test]
fn a_copy_is_remembered_by_its_list_identifier_until_it_is_told() {
    let mut unit = unit();
    let mut list = vec![7, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    list.extend([0xe4, 0, 0, 0, 1, 3, 0, 8]);
    list.resize(16 + 32, 0);
    list.extend([2, 0, 0, 24]);
    list.resize(16 + 32 + 28, 0);
    let cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 76, 0, 0];
    let status = [0x84, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    assert_eq!(sense(&run(&mut unit, 1, &status, &[])), (5, 0x24, 0));
    assert!(matches!(
        media(&run(&mut unit, 1, &cdb, &list)),
        MediaOp::Copy { .. }
    ));
    assert_eq!(sense(&run(&mut unit, 1, &cdb, &list)), (5, 0x00, 0x16));
    assert_eq!(response(&run(&mut unit, 1, &status, &[])).data_in[4], 0);
    unit.copied(&nexus(1), 7, CopyProgress::default(), false);
    assert_eq!(
        sense(&run(&mut unit, 2, &status, &[])),
        (5, 0x24, 0),
        "it is not 2's"
    );
    assert_eq!(response(&run(&mut unit, 1, &status, &[])).data_in[4], 2);
    assert_eq!(
        sense(&run(&mut unit, 1, &status, &[])),
        (5, 0x24, 0),
        "it was told"
    );
}

#[test]
fn a_write_atomic_is_whole_or_refused() {
    let mut unit = unit();
    let cdb = |count: u8| [0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, count, 0, 0];
    let op = run(&mut unit, 1, &cdb(2), &[0; 1_024]);
    assert!(matches!(media(&op), MediaOp::WriteAtomic { range } if range.count() == 2));
    assert_eq!(
        sense(&run(&mut unit, 1, &cdb(2), &[0; 1_023])),
        (5, 0x24, 0)
    );
    let nothing = run(&mut unit, 1, &cdb(0), &[]);
    assert!(matches!(media(&nothing), MediaOp::Write { range, .. } if range.is_empty()));
}

#[test]
fn the_long_reserve_is_the_short_one_without_third_parties() {
    let mut unit = unit();
    let long = |opcode: u8, flags: u8| [opcode, flags, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        response(&run(&mut unit, 1, &long(0x56, 0), &[])).status,
        Status::Good
    );
    let refused = run(&mut unit, 2, &cdb10(0x28, 0, 0, 1), &[]);
    assert_eq!(response(&refused).status, Status::ReservationConflict);
    assert_eq!(
        sense(&run(&mut unit, 1, &long(0x56, 0x10), &[])),
        (5, 0x24, 0)
    );
    assert_eq!(
        response(&run(&mut unit, 1, &long(0x57, 0), &[])).status,
        Status::Good
    );
    media(&run(&mut unit, 2, &cdb10(0x28, 0, 0, 1), &[]));
}

proptest! {
    #[test]
    fn no_command_panics_or_leaves_the_medium(
        commands in prop::collection::vec((1u8..4, any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..600)), 1..40),
        known in prop::collection::vec(0usize..256, 40)
    ) {
        let mut unit = unit();
        let opcodes: Vec<u8> = opcodes::TABLE.iter().map(|entry| entry.opcode).collect();
        for ((who, mut cdb, data), at) in commands.into_iter().zip(known) {
            if let Some(opcode) = opcodes.get(at) {
                cdb[0] = *opcode;
                cdb[15] = 0;
            }
            if let Outcome::Media { op: MediaOp::Read { range } | MediaOp::Write { range, .. }, .. } =
                run(&mut unit, who, &cdb, &data)
            {
                prop_assert!(range.byte_offset() + range.byte_length() <= BLOCKS * 512);
            }
        }
    }
}

#[test]
fn a_port_group_that_is_set_is_told_to_all_and_heard_of_by_the_others() {
    let mut unit = unit();
    let set = [0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    let list = [0, 0, 0, 0, 1, 0, 0, 2];
    assert_eq!(
        response(&run(&mut unit, 1, &set, &list)).status,
        Status::Good
    );
    assert_eq!(sense(&run(&mut unit, 2, &[0; 6], &[])), (6, 0x2a, 6));
    let report = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    for who in [1, 2] {
        let outcome = run(&mut unit, who, &report, &[]);
        let told = &response(&outcome).data_in;
        assert_eq!((told[4], told[16], told[19]), (0, 1, 2));
    }
    let short = run(&mut unit, 1, &set, &list[..4]);
    assert_eq!(sense(&short), (5, 0x1a, 0));
}

#[test]
fn a_nexus_is_told_of_the_port_it_came_through() {
    let mut unit = unit();
    let inquiry = [0x12, 1, 0x83, 2, 0, 0];
    let names = |unit: &mut LogicalUnit, nexus: &Nexus| {
        let outcome = unit.begin(nexus, CdbBytes::new(&inquiry), &[]);
        String::from_utf8_lossy(&response(&outcome).data_in).into_owned()
    };
    assert!(names(&mut unit, &nexus(1)).contains(",t,0x0001"));
    assert!(names(&mut unit, &nexus(1).through(2)).contains(",t,0x0002"));
}
