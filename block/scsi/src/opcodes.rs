//! The one opcode table: for each command its length, usage map, reservation rule and parser.
//!
//! REPORT SUPPORTED OPERATION CODES answers from the same table, so what it says is what is parsed.

mod parse;

use crate::cdb::{Cdb, CdbBytes, SanitizeAction};
use crate::reservation::{InAction, OutAction, Rule};
use crate::sense::Sense;
use parse::{
    compare_and_write, copy_parameters, copy_status, extended_copy, get_lba_status, inquiry,
    log_sense, mode_select6, mode_select10, mode_sense6, mode_sense10, or_write, persistent_in,
    persistent_out, prefetch, read, read_capacity10, read_capacity16, read_defect_data10,
    read_defect_data12, read6, release6, release10, report_luns, report_opcodes,
    report_port_groups, report_task_management, request_sense, reserve6, reserve10, sanitize,
    set_port_groups, span10, span12, span16, start_stop_unit, synchronize_cache, unmap, verify,
    write, write_and_verify, write_atomic, write_same10, write_same16, write6,
};

type Parse = fn(CdbBytes) -> Result<Cdb, Sense>;

/// One command.
pub(crate) struct Entry {
    pub(crate) opcode: u8,
    pub(crate) service_action: Option<u8>,
    /// How another nexus's reservation concerns it.
    pub(crate) rule: Rule,
    pub(crate) parse: Parse,
    /// CDB USAGE DATA (SPC-5 §6.36): the bits of each byte that are evaluated; its length is the CDB's.
    pub(crate) usage: &'static [u8],
}

/// The bits of the CONTROL byte that are evaluated: NACA, and only to refuse it.
const C: u8 = 0x04;
const RANGE10: [u8; 10] = [0x2a, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, C];

/// A range command's usage map with another opcode and flag bits.
const fn usage10(opcode: u8, flags: u8) -> [u8; 10] {
    let mut map = RANGE10;
    map[0] = opcode;
    map[1] = flags;
    map
}

const fn usage12(opcode: u8, flags: u8) -> [u8; 12] {
    [
        opcode, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, C,
    ]
}

const fn usage16(opcode: u8, flags: u8) -> [u8; 16] {
    let f = 0xff;
    [opcode, flags, f, f, f, f, f, f, f, f, f, f, f, f, 0, C]
}

macro_rules! entry {
    ($opcode:expr, $rule:ident, $parse:expr, $usage:expr) => {
        Entry {
            opcode: $opcode,
            service_action: None,
            rule: Rule::$rule,
            parse: $parse,
            usage: &$usage,
        }
    };
    ($opcode:expr, $action:expr, $rule:ident, $parse:expr, $usage:expr) => {
        Entry {
            opcode: $opcode,
            service_action: Some($action),
            rule: Rule::$rule,
            parse: $parse,
            usage: &$usage,
        }
    };
}

const RESERVE10: [u8; 10] = [0x56, 0x1e, 0, 0, 0, 0, 0, 0, 0, C];
const PR_OUT: [u8; 10] = [0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, C];
const SANITIZE: [u8; 10] = [0x48, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, C];
const COPY_RESULTS: [u8; 16] = [
    0x84, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C,
];
const PR_IN: [u8; 10] = [0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, C];

/// Every command there is, in order of operation code and service action.
pub(crate) static TABLE: &[Entry] = &[
    entry!(
        0x00,
        TestUnitReady,
        |_| Ok(Cdb::TestUnitReady),
        [0x00, 0, 0, 0, 0, C]
    ),
    entry!(0x03, Allowed, request_sense, [0x03, 0x01, 0, 0, 0xff, C]),
    entry!(0x08, Read, read6, [0x08, 0x1f, 0xff, 0xff, 0xff, C]),
    entry!(0x0a, Write, write6, [0x0a, 0x1f, 0xff, 0xff, 0xff, C]),
    entry!(0x12, Allowed, inquiry, [0x12, 0x01, 0xff, 0xff, 0xff, C]),
    entry!(0x15, Write, mode_select6, [0x15, 0x11, 0, 0, 0xff, C]),
    entry!(0x16, Reserve, reserve6, [0x16, 0, 0, 0, 0, C]),
    entry!(0x17, Reserve, release6, [0x17, 0, 0, 0, 0, C]),
    entry!(0x1a, Read, mode_sense6, [0x1a, 0x08, 0xff, 0xff, 0xff, C]),
    entry!(0x1b, Start, start_stop_unit, [0x1b, 0x01, 0, 0x0f, 0xf7, C]),
    entry!(
        0x25,
        Allowed,
        read_capacity10,
        [0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, C]
    ),
    entry!(0x28, Read, |b| read(b, span10(b)), usage10(0x28, 0xf8)),
    entry!(0x2a, Write, |b| write(b, span10(b)), usage10(0x2a, 0xf8)),
    entry!(
        0x2e,
        Write,
        |b| write_and_verify(b, span10(b)),
        usage10(0x2e, 0xf6)
    ),
    entry!(0x2f, Read, |b| verify(b, span10(b)), usage10(0x2f, 0xf6)),
    entry!(0x34, Read, |b| prefetch(span10(b)), usage10(0x34, 0x02)),
    entry!(
        0x35,
        Write,
        |b| synchronize_cache(span10(b)),
        usage10(0x35, 0)
    ),
    entry!(
        0x37,
        Read,
        read_defect_data10,
        [0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, C]
    ),
    entry!(0x41, Write, write_same10, usage10(0x41, 0xf8)),
    entry!(
        0x42,
        Write,
        unmap,
        [0x42, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, C]
    ),
    entry!(
        0x48,
        0x01,
        Write,
        |b| sanitize(b, SanitizeAction::Overwrite),
        SANITIZE
    ),
    entry!(
        0x48,
        0x02,
        Write,
        |b| sanitize(b, SanitizeAction::BlockErase),
        SANITIZE
    ),
    entry!(
        0x48,
        0x1f,
        Write,
        |b| sanitize(b, SanitizeAction::ExitFailureMode),
        SANITIZE
    ),
    entry!(
        0x4d,
        Allowed,
        log_sense,
        [0x4d, 0x03, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, C]
    ),
    entry!(
        0x55,
        Write,
        mode_select10,
        [0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, C]
    ),
    entry!(0x56, Reserve, reserve10, RESERVE10),
    entry!(
        0x57,
        Reserve,
        release10,
        [0x57, 0x1e, 0, 0, 0, 0, 0, 0, 0, C]
    ),
    entry!(
        0x5a,
        Read,
        mode_sense10,
        [0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, C]
    ),
    entry!(
        0x5e,
        0x00,
        Persistent,
        |b| persistent_in(b, InAction::ReadKeys),
        PR_IN
    ),
    entry!(
        0x5e,
        0x01,
        Persistent,
        |b| persistent_in(b, InAction::ReadReservation),
        PR_IN
    ),
    entry!(
        0x5e,
        0x02,
        Persistent,
        |b| persistent_in(b, InAction::ReportCapabilities),
        PR_IN
    ),
    entry!(
        0x5e,
        0x03,
        Persistent,
        |b| persistent_in(b, InAction::ReadFullStatus),
        PR_IN
    ),
    entry!(
        0x5f,
        0x00,
        Persistent,
        |b| persistent_out(b, OutAction::Register),
        PR_OUT
    ),
    entry!(
        0x5f,
        0x01,
        Persistent,
        |b| persistent_out(b, OutAction::Reserve),
        PR_OUT
    ),
    entry!(
        0x5f,
        0x02,
        Persistent,
        |b| persistent_out(b, OutAction::Release),
        PR_OUT
    ),
    entry!(
        0x5f,
        0x03,
        Persistent,
        |b| persistent_out(b, OutAction::Clear),
        PR_OUT
    ),
    entry!(
        0x5f,
        0x04,
        Persistent,
        |b| persistent_out(b, OutAction::Preempt),
        PR_OUT
    ),
    entry!(
        0x5f,
        0x05,
        Persistent,
        |b| persistent_out(b, OutAction::PreemptAndAbort),
        PR_OUT
    ),
    entry!(
        0x5f,
        0x06,
        Persistent,
        |b| persistent_out(b, OutAction::RegisterAndIgnore),
        PR_OUT
    ),
    entry!(
        0x5f,
        0x07,
        Persistent,
        |b| persistent_out(b, OutAction::RegisterAndMove),
        PR_OUT
    ),
    entry!(
        0x83,
        0x00,
        Write,
        extended_copy,
        [
            0x83, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C
        ]
    ),
    entry!(0x84, 0x00, Write, copy_status, COPY_RESULTS),
    entry!(0x84, 0x03, Write, copy_parameters, COPY_RESULTS),
    entry!(0x88, Read, |b| read(b, span16(b)), usage16(0x88, 0xf8)),
    entry!(
        0x89,
        Write,
        compare_and_write,
        [
            0x89, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0, C
        ]
    ),
    entry!(0x8a, Write, |b| write(b, span16(b)), usage16(0x8a, 0xf8)),
    entry!(0x8b, Write, or_write, usage16(0x8b, 0xf8)),
    entry!(
        0x8e,
        Write,
        |b| write_and_verify(b, span16(b)),
        usage16(0x8e, 0xf6)
    ),
    entry!(0x8f, Read, |b| verify(b, span16(b)), usage16(0x8f, 0xf6)),
    entry!(0x90, Read, |b| prefetch(span16(b)), usage16(0x90, 0x02)),
    entry!(
        0x91,
        Write,
        |b| synchronize_cache(span16(b)),
        usage16(0x91, 0)
    ),
    entry!(0x93, Write, write_same16, usage16(0x93, 0xf9)),
    entry!(0x9c, Write, write_atomic, usage16(0x9c, 0xf8)),
    entry!(
        0x9e,
        0x10,
        Allowed,
        read_capacity16,
        [
            0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C
        ]
    ),
    entry!(0x9e, 0x12, Read, get_lba_status, usage16(0x9e, 0x1f)),
    entry!(
        0xa0,
        Allowed,
        report_luns,
        [0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C]
    ),
    entry!(
        0xa3,
        0x0a,
        Allowed,
        report_port_groups,
        [0xa3, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C]
    ),
    entry!(
        0xa3,
        0x0c,
        Read,
        report_opcodes,
        [
            0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, C
        ]
    ),
    entry!(
        0xa3,
        0x0d,
        Read,
        report_task_management,
        [0xa3, 0x1f, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C]
    ),
    entry!(
        0xa4,
        0x0a,
        Write,
        set_port_groups,
        [0xa4, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C]
    ),
    entry!(0xa8, Read, |b| read(b, span12(b)), usage12(0xa8, 0xf8)),
    entry!(0xaa, Write, |b| write(b, span12(b)), usage12(0xaa, 0xf8)),
    entry!(
        0xae,
        Write,
        |b| write_and_verify(b, span12(b)),
        usage12(0xae, 0xf6)
    ),
    entry!(0xaf, Read, |b| verify(b, span12(b)), usage12(0xaf, 0xf6)),
    entry!(
        0xb7,
        Read,
        read_defect_data12,
        [0xb7, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C]
    ),
];

const NONE: u8 = u8::MAX;

/// For each operation code the place of its first entry in the table.
static INDEX: [u8; 256] = index();

#[expect(
    clippy::cast_possible_truncation,
    reason = "the assertion bounds it, and try_from is not const"
)]
const fn index() -> [u8; 256] {
    let mut map = [NONE; 256];
    let mut at = TABLE.len();
    assert!(at < NONE as usize, "places in the table fit a byte");
    while at > 0 {
        at -= 1;
        map[TABLE[at].opcode as usize] = at as u8;
    }
    map
}

fn entries(opcode: u8) -> &'static [Entry] {
    let first = usize::from(INDEX[usize::from(opcode)]);
    let rest = TABLE.get(first..).unwrap_or_default();
    let count = rest
        .iter()
        .take_while(|entry| entry.opcode == opcode)
        .count();
    rest.get(..count).unwrap_or_default()
}

/// The entry for a CDB.
pub(crate) fn find(bytes: CdbBytes) -> Result<&'static Entry, Sense> {
    let entries = entries(bytes.opcode());
    let action = bytes.byte::<1>() & 0x1f;
    match entries {
        [] => Err(Sense::INVALID_OPCODE),
        [only] if only.service_action.is_none() => Ok(only),
        _ => entries
            .iter()
            .find(|entry| entry.service_action == Some(action))
            .ok_or(Sense::INVALID_FIELD_IN_CDB),
    }
}

/// The entries of one operation code.
pub(crate) fn of(opcode: u8) -> &'static [Entry] {
    entries(opcode)
}

impl Entry {
    // SAM-5 §5.2: NACA set where the device has no ACA is an invalid field.
    pub(crate) fn check_control(&self, bytes: CdbBytes) -> Result<(), Sense> {
        let control = self
            .usage
            .len()
            .checked_sub(1)
            .and_then(|last| bytes.bytes().get(last));
        if control.is_some_and(|control| control & C != 0) {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_usage_map_begins_with_its_opcode() {
        for pair in TABLE.windows(2) {
            assert!(
                (pair[0].opcode, pair[0].service_action) < (pair[1].opcode, pair[1].service_action)
            );
        }
        for entry in TABLE {
            assert_eq!(entry.usage[0], entry.opcode);
            let length = match entry.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                _ => 12,
            };
            assert_eq!(entry.usage.len(), length, "{:x}", entry.opcode);
        }
    }

    #[test]
    fn every_entry_is_found_by_its_own_cdb() {
        for entry in TABLE {
            let bytes = CdbBytes::new(&[entry.opcode, entry.service_action.unwrap_or(0)]);
            let found = find(bytes).ok().unwrap();
            assert_eq!(
                (found.opcode, found.service_action),
                (entry.opcode, entry.service_action)
            );
        }
    }
}
