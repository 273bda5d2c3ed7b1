//! REPORT LUNS, REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS, READ CAPACITY.

use crate::cdb::{DefectForm, ReportOpcodes};
use crate::media::Provisioning;
use crate::opcodes::{self, Entry, TABLE};
use crate::range::{Capacity, Lun};
use crate::sense::Sense;
use crate::wire::{Builder, cut, length16, length32};

/// UNMAP's operation code: not offered where space cannot be given back.
const UNMAP: u8 = 0x42;

/// The answer to REPORT LUNS.
pub(crate) fn luns(inventory: &[Lun], select: u8, allocation: u32) -> Result<Vec<u8>, Sense> {
    let shown = match select {
        0x00 | 0x02 => inventory,
        // Well-known logical units only: there are none.
        0x01 => &[],
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    };
    let list: Vec<u8> = shown.iter().flat_map(|lun| lun.to_field()).collect();
    let mut data = Builder::new();
    data.u32(length32(&list)).u32(0).bytes(&list);
    Ok(cut(data.finish(), allocation))
}

/// The answer to READ CAPACITY (10): all ones asks the initiator to use the long form.
pub(crate) fn capacity10(capacity: Capacity) -> Vec<u8> {
    let mut data = Builder::new();
    let last = u32::try_from(capacity.last().number()).unwrap_or(u32::MAX);
    data.u32(last).u32(capacity.block_size().bytes());
    data.finish()
}

/// The answer to READ CAPACITY (16).
pub(crate) fn capacity16(
    capacity: Capacity,
    provisioning: Provisioning,
    allocation: u32,
) -> Vec<u8> {
    let mut data = Builder::new();
    data.u64(capacity.last().number())
        .u32(capacity.block_size().bytes())
        .u8(0);
    // Logical blocks per physical block: one. Any block can be written alone; that 4,096 bytes are a better unit is
    // told by OPTIMAL TRANSFER LENGTH GRANULARITY and OPTIMAL UNMAP GRANULARITY.
    data.u8(0);
    // LBPME and LBPRZ.
    data.u8(if provisioning.frees_space() { 0xc0 } else { 0 })
        .zeros(17);
    cut(data.finish(), allocation)
}

fn is_offered(entry: &Entry, provisioning: Provisioning) -> bool {
    provisioning.frees_space() || entry.opcode != UNMAP
}

/// The answer to REPORT SUPPORTED OPERATION CODES.
pub(crate) fn opcodes(asked: ReportOpcodes, provisioning: Provisioning) -> Result<Vec<u8>, Sense> {
    const INVALID: Sense = Sense::INVALID_FIELD_IN_CDB;
    let of_opcode = opcodes::of(asked.opcode);
    let has_actions = of_opcode.iter().any(|entry| entry.service_action.is_some());
    let exact = of_opcode.iter().find(|entry| {
        entry
            .service_action
            .is_none_or(|action| u16::from(action) == asked.service_action)
    });
    let one = match asked.options {
        0 => {
            return Ok(cut(
                all(asked.with_timeouts, provisioning),
                asked.allocation,
            ));
        }
        1 if has_actions => return Err(INVALID),
        2 if !of_opcode.is_empty() && !has_actions => return Err(INVALID),
        1 | 2 => exact,
        3 if !has_actions && asked.service_action != 0 => None,
        3 => exact,
        _ => return Err(INVALID),
    };
    let offered = one.filter(|entry| is_offered(entry, provisioning));
    Ok(cut(single(offered, asked.with_timeouts), asked.allocation))
}

// SPC-5 §6.36.3: no nominal and no recommended time limit is given.
fn timeouts(data: &mut Builder) {
    data.u16(10).zeros(10);
}

fn all(with_timeouts: bool, provisioning: Provisioning) -> Vec<u8> {
    let mut list = Builder::new();
    for entry in TABLE.iter().filter(|entry| is_offered(entry, provisioning)) {
        let serviced = u8::from(entry.service_action.is_some());
        let action = u16::from(entry.service_action.unwrap_or(0));
        let flags = serviced | if with_timeouts { 0x02 } else { 0 };
        list.u8(entry.opcode)
            .u8(0)
            .u16(action)
            .u8(0)
            .u8(flags)
            .u16(length16(entry.usage));
        if with_timeouts {
            timeouts(&mut list);
        }
    }
    let list = list.finish();
    let mut data = Builder::new();
    data.u32(length32(&list)).bytes(&list);
    data.finish()
}

fn single(entry: Option<&Entry>, with_timeouts: bool) -> Vec<u8> {
    let mut data = Builder::new();
    match entry {
        // SUPPORT 001b: not supported.
        None => data.u8(0).u8(0x01).u16(0),
        // SUPPORT 011b: as in the standard.
        Some(entry) => {
            let flags = 0x03 | if with_timeouts { 0x80 } else { 0 };
            let mut usage = entry.usage.to_vec();
            if let (Some(action), Some(second)) = (entry.service_action, usage.get_mut(1)) {
                // SPC-5 §6.36.3: the usage data holds the service action itself in its field.
                *second = *second & 0xe0 | action;
            }
            data.u8(0).u8(flags).u16(length16(&usage)).bytes(&usage)
        }
    };
    if with_timeouts && entry.is_some() {
        timeouts(&mut data);
    }
    data.finish()
}

/// The answer to READ DEFECT DATA: lists without an entry.
pub(crate) fn defects(form: DefectForm, lists: u8, allocation: u32) -> Vec<u8> {
    let mut data = Builder::new();
    data.u8(0).u8(lists).u16(0);
    if form == DefectForm::Twelve {
        data.u32(0);
    }
    cut(data.finish(), allocation)
}

/// The answer to REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
pub(crate) fn task_management(extended: bool, allocation: u32) -> Vec<u8> {
    // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET.
    let supported = 0x80 | 0x40 | 0x10 | 0x08;
    let data = if extended {
        vec![supported, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    } else {
        vec![supported, 0, 0, 0]
    };
    cut(data, allocation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::BlockSize;
    use onggi_common_units::ByteCount;

    fn asked(options: u8, opcode: u8, service_action: u16) -> ReportOpcodes {
        ReportOpcodes {
            with_timeouts: false,
            options,
            opcode,
            service_action,
            allocation: 4_096,
        }
    }

    #[test]
    fn luns_are_listed_with_their_length() {
        let inventory = [Lun::new(1).unwrap(), Lun::new(300).unwrap()];
        let data = luns(&inventory, 0, 64).unwrap();
        assert_eq!(data[..4], 16u32.to_be_bytes());
        assert_eq!(
            data[8..],
            [0, 1, 0, 0, 0, 0, 0, 0, 0x41, 0x2c, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(luns(&inventory, 1, 64).unwrap(), [0; 8]);
        assert!(luns(&inventory, 3, 64).is_err());
    }

    #[test]
    fn a_capacity_past_32_bits_sends_the_initiator_to_the_long_form() {
        let large = Capacity::new(ByteCount::new(1 << 42), BlockSize::B512).unwrap();
        assert_eq!(capacity10(large), [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
        let data = capacity16(large, Provisioning::Thin, 32);
        assert_eq!(data[..12], [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
        assert_eq!((data.len(), data[13], data[14]), (32, 0, 0xc0));
    }

    #[test]
    fn every_listed_opcode_is_reported_alone_too() {
        let list = opcodes(asked(0, 0, 0), Provisioning::Thin).unwrap();
        assert_eq!(list.len() - 4, TABLE.len() * 8);
        for entry in list[4..].chunks(8) {
            let action = u16::from_be_bytes([entry[2], entry[3]]);
            let options = if entry[5] & 1 == 1 { 2 } else { 1 };
            let one = opcodes(asked(options, entry[0], action), Provisioning::Thin).unwrap();
            assert_eq!((one[1], one[4]), (3, entry[0]));
            assert_eq!(
                one.len() - 4,
                usize::from(u16::from_be_bytes([entry[6], entry[7]]))
            );
            let wrong = opcodes(asked(3 - options, entry[0], action), Provisioning::Thin);
            assert_eq!(wrong, Err(Sense::INVALID_FIELD_IN_CDB), "{entry:x?}");
        }
    }

    #[test]
    fn what_is_not_offered_is_reported_so() {
        assert_eq!(
            opcodes(asked(1, 0x04, 0), Provisioning::Thin).unwrap(),
            [0, 1, 0, 0]
        );
        assert_eq!(
            opcodes(asked(2, 0x5f, 8), Provisioning::Thin).unwrap(),
            [0, 1, 0, 0]
        );
        assert_eq!(
            opcodes(asked(1, UNMAP, 0), Provisioning::Full).unwrap(),
            [0, 1, 0, 0]
        );
        assert!(opcodes(asked(7, 0, 0), Provisioning::Thin).is_err());
        let with_timeouts = ReportOpcodes {
            with_timeouts: true,
            ..asked(1, 0x00, 0)
        };
        assert_eq!(
            opcodes(with_timeouts, Provisioning::Thin).unwrap().len(),
            4 + 6 + 12
        );
    }
}
