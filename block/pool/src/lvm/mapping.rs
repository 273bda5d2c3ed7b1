//! From a volume's physical extents to the bytes of the medium.

use crate::lvm::report::{Group, LogicalVolume, PhysicalVolume, Segment};
use onggi_block_medium::{Extent, ExtentMap, ExtentMapError};

/// Why a volume cannot be mapped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MappingError {
    /// Its extents are not plainly on our device.
    Unmappable(String),
    /// They are no map.
    Extents(ExtentMapError),
}

/// The map of a volume's first `count` extents.
///
/// All of the volume's segments are looked at, also those behind `count`: a volume that is not wholly on our device is
/// not one of this pool.
pub(crate) fn map(
    group: &Group,
    volume: &LogicalVolume,
    count: u64,
) -> Result<ExtentMap, MappingError> {
    let unmappable = |reason: String| Err(MappingError::Unmappable(reason));
    let [device] = group.physical.as_slice() else {
        return unmappable(format!(
            "its group has {} devices, only one is served",
            group.physical.len()
        ));
    };
    let mut extents = Vec::new();
    for segment in &volume.segments {
        if segment.kind != "linear" {
            return unmappable(format!(
                "it has a segment of kind {}, which needs device-mapper",
                segment.kind
            ));
        }
        extents.push(extent(group, device, segment)?);
    }
    let limit = group.extents(count).bytes();
    extents.retain(|extent| extent.volume_offset < limit);
    for extent in &mut extents {
        extent.length = extent.length.min(limit - extent.volume_offset);
    }
    ExtentMap::new(extents).map_err(MappingError::Extents)
}

fn extent(
    group: &Group,
    device: &PhysicalVolume,
    segment: &Segment,
) -> Result<Extent, MappingError> {
    let unmappable = |reason: String| Err(MappingError::Unmappable(reason));
    let [range] = segment.ranges.as_slice() else {
        return unmappable(format!(
            "a linear segment with {} ranges",
            segment.ranges.len()
        ));
    };
    if range.device != device.name {
        return unmappable(format!("a segment lies on {}", range.device.display()));
    }
    if range.last - range.first + 1 != segment.count || range.last >= device.extent_count {
        return unmappable(format!(
            "a segment of {} extents lies at {}-{}",
            segment.count, range.first, range.last
        ));
    }
    let size = group.extent_size.bytes();
    let product = |count: u64| size.checked_mul(count);
    let start =
        product(range.first).and_then(|offset| offset.checked_add(device.extents_start.bytes()));
    let (Some(volume_offset), Some(medium_offset), Some(length)) =
        (product(segment.start), start, product(segment.count))
    else {
        return unmappable("its offsets are too large".to_owned());
    };
    Ok(Extent {
        volume_offset,
        medium_offset,
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lvm::report::ExtentRange;
    use onggi_common_units::ByteCount;
    use std::path::PathBuf;

    const MIB: u64 = 1 << 20;

    fn segment(start: u64, first: u64, last: u64) -> Segment {
        let ranges = vec![ExtentRange {
            device: "/dev/loop0".into(),
            first,
            last,
        }];
        Segment {
            kind: "linear".to_owned(),
            start,
            count: last - first + 1,
            ranges,
        }
    }

    fn group() -> Group {
        let device = PhysicalVolume {
            name: PathBuf::from("/dev/loop0"),
            uuid: "p".to_owned(),
            extents_start: ByteCount::from_mib(17),
            extent_count: 100,
            device_size: ByteCount::from_mib(500),
        };
        Group {
            name: "g".to_owned(),
            uuid: "u".to_owned(),
            seqno: 1,
            extent_size: ByteCount::from_mib(4),
            extent_count: 100,
            free_count: 70,
            tags: vec![],
            missing_count: 0,
            physical: vec![device],
            logical: vec![],
        }
    }

    fn volume(segments: Vec<Segment>) -> LogicalVolume {
        LogicalVolume {
            name: "volume-a".to_owned(),
            uuid: "v".to_owned(),
            size: ByteCount::from_mib(0),
            tags: vec![],
            is_active: false,
            used_hundredths_percent: None,
            segments,
        }
    }

    #[test]
    fn extents_lie_at_the_start_plus_their_number_times_their_size() {
        let map = map(
            &group(),
            &volume(vec![segment(0, 0, 1), segment(2, 23, 32)]),
            12,
        )
        .unwrap();
        let expected = [
            Extent {
                volume_offset: 0,
                medium_offset: 17 * MIB,
                length: 8 * MIB,
            },
            Extent {
                volume_offset: 8 * MIB,
                medium_offset: (17 + 92) * MIB,
                length: 40 * MIB,
            },
        ];
        assert_eq!(map.extents(), expected);
    }

    #[test]
    fn only_the_first_extents_are_mapped_when_fewer_are_asked_for() {
        let map = map(
            &group(),
            &volume(vec![segment(0, 0, 1), segment(2, 23, 32)]),
            3,
        )
        .unwrap();
        assert_eq!(map.size(), ByteCount::from_mib(12));
        assert_eq!(map.extents()[1].length, 4 * MIB);
    }

    #[test]
    fn what_is_not_plainly_on_our_device_is_refused() {
        let mut elsewhere = segment(0, 0, 1);
        elsewhere.ranges[0].device = "/dev/sdb".into();
        let mut thin = segment(0, 0, 1);
        thin.kind = "thin".to_owned();
        let mut miscounted = segment(0, 0, 1);
        miscounted.count = 3;
        for bad in [elsewhere, thin, miscounted, segment(0, 99, 100)] {
            let outcome = map(&group(), &volume(vec![bad]), 2);
            assert!(
                matches!(outcome, Err(MappingError::Unmappable(_))),
                "{outcome:?}"
            );
        }
        assert!(matches!(
            map(&group(), &volume(vec![]), 1),
            Err(MappingError::Extents(_))
        ));
        let mut two = group();
        two.physical.push(two.physical[0].clone());
        assert!(matches!(
            map(&two, &volume(vec![segment(0, 0, 1)]), 2),
            Err(MappingError::Unmappable(_))
        ));
    }
}
