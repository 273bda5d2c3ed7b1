//! INQUIRY: who the unit is and what it can do.

use crate::copy;
use crate::media::Provisioning;
use crate::range::Capacity;
use crate::sense::Sense;
use crate::wire::{Builder, cut, length16};
use onggi_common_units::Uuid;
use std::sync::Arc;

/// The most data one READ, WRITE or VERIFY moves: what a session must be able to buffer.
pub const TRANSFER_BYTES_MAX: u32 = 4 << 20;
/// The most blocks of a COMPARE AND WRITE: what its one-byte length can say.
pub const COMPARE_BLOCKS_MAX: u8 = 255;
/// The most an UNMAP command gives back, all its descriptors together.
pub const UNMAP_BYTES_MAX: u64 = 512 << 20;
/// The most descriptors in an UNMAP command.
pub const UNMAP_DESCRIPTORS_MAX: u16 = 256;
/// The most a WRITE SAME fills.
pub const WRITE_SAME_BYTES_MAX: u64 = 16 << 20;
/// The most a WRITE ATOMIC writes.
pub const ATOMIC_BYTES_MAX: u64 = 1 << 20;
/// Space is counted in units of 2^11 blocks: 1 MiB of blocks of 512 bytes.
pub(crate) const THRESHOLD_EXPONENT: u8 = 11;
/// The granularity in which space is given back: a page of the usual file system.
const UNMAP_GRANULARITY_BYTES: u32 = 4_096;

const VENDOR: &str = "ONGGI";
const PRODUCT: &str = "Volume";
const REVISION: &str = "0001";

/// What makes a unit this unit, wherever and by however many paths it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The volume: serial number and world-wide names come from it.
    pub volume: Uuid,
    /// The target's name.
    pub target: Arc<str>,
    /// The tags of the iSCSI portal groups it is reached through, each a target port and a target port group.
    pub portal_groups: Vec<u16>,
}

/// What INQUIRY tells of a unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) identity: &'a Identity,
    /// The target port it is asked through.
    pub(crate) port: u16,
    pub(crate) capacity: Capacity,
    pub(crate) provisioning: Provisioning,
}

const PAGES: [u8; 8] = [0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2];

/// The answer to INQUIRY.
pub(crate) fn answer(
    subject: Subject<'_>,
    page: Option<u8>,
    allocation: u32,
) -> Result<Vec<u8>, Sense> {
    let Some(page) = page else {
        return Ok(cut(standard(), allocation));
    };
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => subject.identity.volume.to_string().into_bytes(),
        0x83 => identification(subject.identity, subject.port),
        0x86 => extended(),
        0x8f => copy::vital_page(),
        0xb0 => block_limits(subject.capacity, subject.provisioning),
        0xb1 => characteristics(),
        0xb2 => provisioning(subject.provisioning),
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    };
    let mut data = Builder::new();
    data.u8(0).u8(page).u16(length16(&body)).bytes(&body);
    Ok(cut(data.finish(), allocation))
}

/// The answer to INQUIRY for a logical unit number that has no unit (SPC-5 §6.7.2: peripheral qualifier 3).
pub(crate) fn missing(page: Option<u8>, allocation: u32) -> Result<Vec<u8>, Sense> {
    const NOBODY: u8 = 0x7f;
    match page {
        None => {
            let mut data = standard();
            if let Some(first) = data.first_mut() {
                *first = NOBODY;
            }
            Ok(cut(data, allocation))
        }
        Some(0x00) => Ok(cut(vec![NOBODY, 0, 0, 1, 0], allocation)),
        Some(_) => Err(Sense::INVALID_FIELD_IN_CDB),
    }
}

fn standard() -> Vec<u8> {
    let mut data = Builder::new();
    // Direct access block device, not removable, SPC-4; HISUP and response data format 2; 91 bytes follow.
    data.u8(0).u8(0).u8(0x06).u8(0x12).u8(91);
    // Byte 5: TPGS 11b, implicit and explicit asymmetric access; 3PC, EXTENDED COPY. Byte 7: CMDQUE.
    data.u8(0x38).u8(0).u8(0x02);
    data.padded(VENDOR, 8)
        .padded(PRODUCT, 16)
        .padded(REVISION, 4)
        .zeros(22);
    // Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3, none of a particular draft.
    data.u16(0x00a0)
        .u16(0x0960)
        .u16(0x0460)
        .u16(0x04c0)
        .zeros(8)
        .zeros(22);
    data.finish()
}

// Bits of the UUID that are random in version 4, so that 60 of them keep their strength.
pub(crate) fn local_naa(volume: &Uuid) -> [u8; 8] {
    let [a, b, c, d, e, f, _, _, _, _, _, _, _, _, y, z] = *volume.as_bytes();
    let mut naa = [0x30 | (y & 0x0f), a, b, c, d, e, f, z];
    // An id with nothing in these places must not become the all-zero name.
    if naa == [0x30, 0, 0, 0, 0, 0, 0, 0] {
        naa[7] = 1;
    }
    naa
}

fn identification(identity: &Identity, port: u16) -> Vec<u8> {
    // Designator header: protocol and code set, PIV, association and type, reserved, length.
    fn designator(data: &mut Builder, code_set: u8, kind: u8, bytes: &[u8]) {
        let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        data.u8(code_set).u8(kind).u8(0).u8(length).bytes(bytes);
    }
    const BINARY: u8 = 0x51;
    const UTF8: u8 = 0x53;
    const LOGICAL_UNIT: u8 = 0x00;
    const PORT: u8 = 0x90;
    const TARGET: u8 = 0xa0;
    let mut data = Builder::new();
    designator(
        &mut data,
        0x01,
        LOGICAL_UNIT | 0x3,
        &local_naa(&identity.volume),
    );
    let mut vendor = Builder::new();
    let vendor = vendor
        .padded(VENDOR, 8)
        .bytes(identity.volume.to_string().as_bytes())
        .finish();
    designator(&mut data, 0x02, LOGICAL_UNIT | 0x1, &vendor);
    let mut uuid = Builder::new();
    // SPC-5 §7.7.6.13: UUID designator, a locally made UUID.
    let uuid = uuid
        .u8(0x10)
        .u8(0)
        .bytes(identity.volume.as_bytes())
        .finish();
    designator(&mut data, 0x01, LOGICAL_UNIT | 0xa, &uuid);
    let [high, low] = port.to_be_bytes();
    designator(&mut data, BINARY, PORT | 0x4, &[0, 0, high, low]);
    designator(&mut data, BINARY, PORT | 0x5, &[0, 0, high, low]);
    // SCSI name strings are ended by a zero and filled to four bytes.
    let name = |text: String| {
        let mut bytes = text.into_bytes();
        let length = bytes.len().saturating_add(1).next_multiple_of(4);
        bytes.resize(length, 0);
        bytes
    };
    let port = format!("{},t,0x{port:04x}", identity.target);
    designator(&mut data, UTF8, PORT | 0x8, &name(port));
    designator(
        &mut data,
        UTF8,
        TARGET | 0x8,
        &name(identity.target.to_string()),
    );
    data.finish()
}

fn extended() -> Vec<u8> {
    let mut data = Builder::new();
    // SIMPSUP; V_SUP: there is a volatile cache.
    data.u8(0).u8(0x01).u8(0x01).zeros(57);
    data.finish()
}

/// How many blocks a number of bytes is, for a field of 32 bits.
pub(crate) fn blocks32(capacity: Capacity, bytes: u64) -> u32 {
    u32::try_from(capacity.block_size().blocks_in(bytes)).unwrap_or(u32::MAX)
}

fn block_limits(capacity: Capacity, provisioning: Provisioning) -> Vec<u8> {
    let mut data = Builder::new();
    let transfer = blocks32(capacity, u64::from(TRANSFER_BYTES_MAX));
    let granularity = blocks32(capacity, u64::from(UNMAP_GRANULARITY_BYTES));
    let transfer_granularity = u16::try_from(granularity).unwrap_or(1);
    // WSNZ: WRITE SAME of no blocks is refused.
    data.u8(0x01)
        .u8(COMPARE_BLOCKS_MAX)
        .u16(transfer_granularity);
    data.u32(transfer).u32(transfer / 4).u32(0);
    match provisioning {
        Provisioning::Thin | Provisioning::Resource => {
            let unmap = blocks32(capacity, UNMAP_BYTES_MAX);
            data.u32(unmap)
                .u32(u32::from(UNMAP_DESCRIPTORS_MAX))
                .u32(granularity)
                .u32(0x8000_0000);
        }
        Provisioning::Full => {
            data.zeros(16);
        }
    }
    data.u64(capacity.block_size().blocks_in(WRITE_SAME_BYTES_MAX));
    // WRITE ATOMIC: any alignment and length up to the maximum, no boundaries within.
    data.u32(blocks32(capacity, ATOMIC_BYTES_MAX)).zeros(16);
    data.finish()
}

fn characteristics() -> Vec<u8> {
    let mut data = Builder::new();
    // Non-rotating medium. WABEREQ 01b: after a block erase, blocks can be read.
    data.u16(1).u8(0).u8(0x40).zeros(56);
    data.finish()
}

fn provisioning(provisioning: Provisioning) -> Vec<u8> {
    match provisioning {
        // LBPU, LBPWS, LBPWS10, LBPRZ = 1; thin, counted in units of the threshold exponent.
        Provisioning::Thin => vec![THRESHOLD_EXPONENT, 0xe4, 2, 0],
        // The same, but every block has its place.
        Provisioning::Resource => vec![0, 0xe4, 1, 0],
        Provisioning::Full => vec![0, 0, 0, 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::BlockSize;
    use onggi_common_units::ByteCount;

    fn identity() -> Identity {
        let volume = "01234567-89ab-4cde-8f01-23456789abcd".parse().unwrap();
        Identity {
            volume,
            target: Arc::from("iqn.2026-11.org.onggi:v"),
            portal_groups: vec![1],
        }
    }

    fn page(page: Option<u8>, allocation: u32) -> Result<Vec<u8>, Sense> {
        let identity = identity();
        let capacity = Capacity::new(ByteCount::from_mib(1), BlockSize::B512).unwrap();
        answer(
            Subject {
                identity: &identity,
                port: 1,
                capacity,
                provisioning: Provisioning::Thin,
            },
            page,
            allocation,
        )
    }

    #[test]
    fn standard_data_is_96_bytes_and_says_so() {
        let data = page(None, 255).unwrap();
        assert_eq!((data.len(), data[4]), (96, 91));
        assert_eq!(&data[8..36], b"ONGGI   Volume          0001");
        assert_eq!(page(None, 5).unwrap().len(), 5);
    }

    #[test]
    fn every_page_listed_is_there_and_no_other() {
        let listed = page(Some(0), 255).unwrap()[4..].to_vec();
        for code in 0..=u8::MAX {
            let answer = page(Some(code), 1_024);
            assert_eq!(answer.is_ok(), listed.contains(&code), "{code:x}");
            if let Ok(data) = answer {
                assert_eq!(
                    usize::from(u16::from_be_bytes([data[2], data[3]])),
                    data.len() - 4
                );
            }
        }
        for (code, length) in [(0x86, 64), (0xb0, 64), (0xb1, 64), (0xb2, 8)] {
            assert_eq!(page(Some(code), 255).unwrap().len(), length, "{code:x}");
        }
    }

    #[test]
    fn the_serial_is_the_volume_and_the_names_are_stable() {
        assert_eq!(
            &page(Some(0x80), 255).unwrap()[4..],
            b"01234567-89ab-4cde-8f01-23456789abcd"
        );
        let data = page(Some(0x83), 1_024).unwrap();
        assert_eq!(
            data[4..16],
            [
                0x01, 0x03, 0, 8, 0x3b, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd
            ]
        );
        let mut at = 4;
        let mut kinds = Vec::new();
        while at < data.len() {
            kinds.push(data[at + 1] & 0x3f);
            at += 4 + usize::from(data[at + 3]);
        }
        assert_eq!(at, data.len());
        assert_eq!(kinds, [0x03, 0x01, 0x0a, 0x14, 0x15, 0x18, 0x28]);
    }

    #[test]
    fn a_missing_unit_answers_with_qualifier_3() {
        assert_eq!(missing(None, 255).unwrap()[0], 0x7f);
        assert!(missing(Some(0x83), 255).is_err());
    }
}
