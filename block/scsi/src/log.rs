//! LOG SENSE: how much space a thin unit uses, and how much there is (SBC-4 §6.4.5).

use crate::cdb::LogSense;
use crate::inquiry::THRESHOLD_EXPONENT;
use crate::media::Provisioning;
use crate::range::Capacity;
use crate::sense::Sense;
use crate::wire::{Builder, cut, length16};

const SUPPORTED: u8 = 0x00;
/// Logical block provisioning.
const PROVISIONING: u8 = 0x0c;
const ALL_SUBPAGES: u8 = 0xff;

/// The space behind a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceUsage {
    /// Bytes the unit has its own place for.
    pub used_bytes: u64,
    /// Bytes that could still be had, by this unit and by others that share the space.
    pub available_bytes: u64,
}

/// What a LOG SENSE wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This, which is known.
    Page(Vec<u8>),
    /// The provisioning page, for which the medium must be asked.
    Usage,
}

/// What comes of a LOG SENSE.
pub(crate) fn sense(asked: LogSense, provisioning: Provisioning) -> Result<Wanted, Sense> {
    let pages: &[u8] = if provisioning == Provisioning::Thin {
        &[SUPPORTED, PROVISIONING]
    } else {
        &[SUPPORTED]
    };
    // Cumulative values are all there is: nothing is saved, there are no thresholds and no defaults to ask for.
    if !matches!(asked.control, 0b00 | 0b01) {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    match (asked.page, asked.subpage) {
        (SUPPORTED, 0) => Ok(page(asked, pages)),
        (SUPPORTED, ALL_SUBPAGES) => {
            let mut both = vec![SUPPORTED, 0, SUPPORTED, ALL_SUBPAGES];
            both.extend(pages.iter().skip(1).flat_map(|code| [*code, 0]));
            Ok(page(asked, &both))
        }
        (PROVISIONING, 0) if pages.contains(&PROVISIONING) && asked.pointer <= 2 => {
            Ok(Wanted::Usage)
        }
        _ => Err(Sense::INVALID_FIELD_IN_CDB),
    }
}

fn header(data: &mut Builder, page: u8, subpage: u8, body: &[u8]) {
    // DS: nothing of it is saved. SPF: this is a subpage.
    let spf = if subpage == 0 { 0 } else { 0x40 };
    data.u8(0x80 | spf | page)
        .u8(subpage)
        .u16(length16(body))
        .bytes(body);
}

fn page(asked: LogSense, body: &[u8]) -> Wanted {
    let mut data = Builder::new();
    header(&mut data, asked.page, asked.subpage, body);
    Wanted::Page(cut(data.finish(), asked.allocation))
}

/// The provisioning page, from the parameter `pointer` on.
pub(crate) fn provisioning(
    usage: SpaceUsage,
    capacity: Capacity,
    pointer: u16,
    allocation: u32,
) -> Vec<u8> {
    const DEDICATED: u8 = 0b01;
    const SHARED: u8 = 0b10;
    // Binary, and a list: FORMAT AND LINKING 11b.
    const CONTROL: u8 = 0x03;
    let count = |bytes: u64| {
        let blocks = capacity.block_size().blocks_in(bytes);
        u32::try_from(blocks >> THRESHOLD_EXPONENT).unwrap_or(u32::MAX)
    };
    let mut body = Builder::new();
    for (code, bytes, scope) in [
        (1, usage.available_bytes, SHARED),
        (2, usage.used_bytes, DEDICATED),
    ] {
        if code >= pointer {
            body.u16(code).u8(CONTROL).u8(8);
            body.u32(count(bytes)).u8(scope).zeros(3);
        }
    }
    let mut data = Builder::new();
    header(&mut data, PROVISIONING, 0, &body.finish());
    cut(data.finish(), allocation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::BlockSize;
    use onggi_common_units::ByteCount;

    fn asked(page: u8, subpage: u8) -> LogSense {
        LogSense {
            control: 1,
            page,
            subpage,
            pointer: 0,
            allocation: 255,
        }
    }

    #[test]
    fn pages_are_listed_and_only_a_thin_unit_has_the_provisioning_page() {
        let thin = sense(asked(0, 0), Provisioning::Thin);
        assert_eq!(thin, Ok(Wanted::Page(vec![0x80, 0, 0, 2, 0, 0x0c])));
        let subpages = sense(asked(0, 0xff), Provisioning::Thin);
        let listed = vec![0xc0, 0xff, 0, 6, 0, 0, 0, 0xff, 0x0c, 0];
        assert_eq!(subpages, Ok(Wanted::Page(listed)));
        assert_eq!(sense(asked(0x0c, 0), Provisioning::Thin), Ok(Wanted::Usage));
        let full = sense(asked(0, 0), Provisioning::Full);
        assert_eq!(full, Ok(Wanted::Page(vec![0x80, 0, 0, 1, 0])));
        for (page, subpage) in [(0x0c, 0), (0x0d, 0), (0, 1)] {
            assert!(sense(asked(page, subpage), Provisioning::Full).is_err());
        }
        let saved = LogSense {
            control: 2,
            ..asked(0, 0)
        };
        assert!(sense(saved, Provisioning::Thin).is_err());
    }

    #[test]
    fn space_is_counted_in_mebibytes() {
        let capacity = Capacity::new(ByteCount::from_mib(64), BlockSize::B512).unwrap();
        let usage = SpaceUsage {
            used_bytes: 3 << 20,
            available_bytes: 5 << 30,
        };
        let data = provisioning(usage, capacity, 0, 255);
        assert_eq!(data[..4], [0x8c, 0, 0, 24]);
        assert_eq!(data[4..16], [0, 1, 3, 8, 0, 0, 0x14, 0, 2, 0, 0, 0]);
        assert_eq!(data[16..], [0, 2, 3, 8, 0, 0, 0, 3, 1, 0, 0, 0]);
        assert_eq!(provisioning(usage, capacity, 2, 255).len(), 16);
    }
}
