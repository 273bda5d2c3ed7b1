//! Tests of the copy module.

use super::*;
use proptest::prelude::*;

fn volume() -> Uuid {
    "01234567-89ab-4cde-8f01-23456789abcd".parse().unwrap()
}

fn target(kind: u8, designator: &[u8]) -> Vec<u8> {
    let mut descriptor = vec![BY_DESIGNATOR, 0, 0, 0, 1, kind, 0];
    descriptor.push(u8::try_from(designator.len()).unwrap());
    descriptor.extend(designator);
    descriptor.resize(TARGET_BYTES, 0);
    descriptor[30] = 2;
    descriptor
}

fn segment(source: u16, destination: u16) -> Vec<u8> {
    let mut data = Builder::new();
    data.u8(BLOCK_TO_BLOCK).u8(2).u16(24);
    data.u16(source).u16(destination).u16(0).u16(9);
    data.u64(5).u64(1 << 40);
    data.finish()
}

fn list(targets: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (targets, segments) = (targets.concat(), segments.concat());
    let mut data = Builder::new();
    data.u8(7)
        .u8(0)
        .u16(u16::try_from(targets.len()).unwrap())
        .u32(0);
    data.u32(length32(&segments)).u32(0);
    data.bytes(&targets).bytes(&segments);
    data.finish()
}

fn own() -> Vec<u8> {
    target(0x3, &inquiry::local_naa(&volume()))
}

#[test]
fn a_list_names_units_by_either_designator_and_says_what_to_copy() {
    let by_uuid = target(0xa, &[&[0x10, 0], &volume().as_bytes()[..]].concat());
    let bytes = list(&[own(), by_uuid], &[segment(0, 1)]);
    let plan = CopyPlan::parse(&bytes).unwrap().unwrap();
    assert_eq!(plan.list_id, Some(7));
    assert!(plan.targets.iter().all(|target| target.names(&volume())));
    let wanted = CopySegment {
        source: 0,
        destination: 1,
        source_first: 5,
        destination_first: 1 << 40,
        blocks: 9,
        counts_destination: true,
    };
    assert_eq!(plan.segments, [wanted]);
    let mut without_id = bytes;
    without_id[1] = 0x18;
    let plan = CopyPlan::parse(&without_id).unwrap().unwrap();
    assert_eq!(plan.list_id, None);
}

#[test]
fn each_mistake_has_its_own_sense() {
    let good = list(&[own()], &[segment(0, 0)]);
    assert_eq!(CopyPlan::parse(&[]), Ok(None));
    assert_eq!(CopyPlan::parse(&list(&[own()], &[])), Ok(None));
    for length in [1, 15, 40, good.len() - 1] {
        let refused = CopyPlan::parse(&good[..length]);
        assert_eq!(refused, Err(Sense::PARAMETER_LIST_LENGTH), "{length}");
    }
    let many = |targets: usize, segments: usize| {
        CopyPlan::parse(&list(&vec![own(); targets], &vec![segment(0, 0); segments]))
    };
    assert_eq!(many(17, 1), Err(Sense::TOO_MANY_COPY_TARGETS));
    assert_eq!(many(1, 17), Err(Sense::TOO_MANY_COPY_SEGMENTS));
    assert_eq!(many(17, 17), Err(Sense::PARAMETER_LIST_LENGTH));
    assert!(many(16, 16).is_ok());
    for (at, byte, wanted) in [
        (16, 0xe0, Sense::UNSUPPORTED_COPY_TARGET),
        (48, 0x01, Sense::UNSUPPORTED_COPY_SEGMENT),
        (55, 0x01, Sense::UNREACHABLE_COPY_TARGET),
        (15, 0x01, Sense::INLINE_DATA),
        (1, 0x08, Sense::INVALID_FIELD_IN_PARAMETERS),
    ] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(CopyPlan::parse(&bad), Err(wanted), "{at}");
    }
    for (at, byte) in [(17, 0x01), (21, 0x02), (21, 0x13), (23, 7), (23, 21)] {
        let mut other = good.clone();
        other[at] = byte;
        let plan = CopyPlan::parse(&other).unwrap().unwrap();
        assert!(!plan.targets[0].names(&volume()), "{at} {byte:x}");
    }
}

#[test]
fn what_is_reported_has_the_lengths_it_says() {
    let data = operating_parameters(1_024);
    assert_eq!(
        data[..4],
        u32::try_from(data.len() - 4).unwrap().to_be_bytes()
    );
    assert_eq!(
        (data[9], data[11], data[43], &data[44..]),
        (16, 16, 2, &[0x02, 0xe4][..])
    );
    let page = vital_page();
    let mut at = 0;
    let mut kinds = Vec::new();
    while at < page.len() {
        kinds.push(u16::from_be_bytes([page[at], page[at + 1]]));
        at += 4 + usize::from(u16::from_be_bytes([page[at + 2], page[at + 3]]));
    }
    assert_eq!((at, kinds), (page.len(), vec![1, 4, 8, 0x0c, 0x8001]));
    let ended = CopyStatus::Ended {
        progress: CopyProgress {
            segments: 2,
            bytes: 5 << 30,
        },
        is_whole: true,
    };
    assert_eq!(ended.answer(64), [0, 0, 0, 8, 1, 0, 2, 1, 0, 0x50, 0, 0]);
    assert_eq!(CopyStatus::Running.answer(5), [0, 0, 0, 8, 0]);
}

proptest! {
    #[test]
    fn no_list_panics(
        header in any::<[u8; 4]>(), body in prop::collection::vec(any::<u8>(), 0..200), lengths in any::<[u8; 2]>()
    ) {
        let mut list = header.to_vec();
        list.extend([0; 7]);
        list.push(lengths[0]);
        list.extend([0; 4]);
        list.extend(body);
        if let Ok(Some(plan)) = CopyPlan::parse(&list) {
            prop_assert!(plan.segments.iter().all(|one| one.source.max(one.destination) < plan.targets.len()));
        }
    }
}
