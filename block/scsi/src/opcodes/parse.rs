//! The parsers of the opcode table: fields of a CDB to a [`Cdb`].

use crate::cdb::{
    ByteCheck, Cdb, CdbBytes, DefectForm, LogSense, ModeForm, ModeSense, ReportOpcodes,
    SanitizeAction, Span,
};
use crate::reservation::{InAction, OutAction, OutRequest};
use crate::sense::Sense;

pub(super) fn span6(b: CdbBytes) -> Span {
    // SBC-3: 0 in the one-byte transfer length means 256 blocks.
    let count = match b.byte::<4>() {
        0 => 256,
        count => u32::from(count),
    };
    Span {
        first: u64::from(b.u24::<1>() & 0x1f_ffff),
        count,
    }
}

pub(super) fn span10(b: CdbBytes) -> Span {
    Span {
        first: u64::from(b.u32::<2>()),
        count: u32::from(b.u16::<7>()),
    }
}

pub(super) fn span12(b: CdbBytes) -> Span {
    Span {
        first: u64::from(b.u32::<2>()),
        count: b.u32::<6>(),
    }
}

pub(super) fn span16(b: CdbBytes) -> Span {
    Span {
        first: b.u64::<2>(),
        count: b.u32::<10>(),
    }
}

// The unit has no protection information, so that RDPROTECT, WRPROTECT and VRPROTECT must be zero (SBC-4 §4.21).
pub(super) fn unprotected(b: CdbBytes) -> Result<(), Sense> {
    if b.byte::<1>() >> 5 == 0 {
        Ok(())
    } else {
        Err(Sense::INVALID_FIELD_IN_CDB)
    }
}

pub(super) fn read6(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::Read(span6(b)))
}

pub(super) fn write6(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::Write {
        span: span6(b),
        fua: false,
    })
}

// FUA in a READ asks for the medium's bytes. The cache above it is the only way to them and never older, so there is
// nothing else to do; DPO is a hint.
pub(super) fn read(b: CdbBytes, span: Span) -> Result<Cdb, Sense> {
    unprotected(b)?;
    Ok(Cdb::Read(span))
}

pub(super) fn write(b: CdbBytes, span: Span) -> Result<Cdb, Sense> {
    unprotected(b)?;
    Ok(Cdb::Write {
        span,
        fua: b.bit::<1, 3>(),
    })
}

pub(super) fn byte_check(b: CdbBytes) -> Result<ByteCheck, Sense> {
    match b.byte::<1>() >> 1 & 0b11 {
        0b00 => Ok(ByteCheck::None),
        0b01 => Ok(ByteCheck::Data),
        0b11 => Ok(ByteCheck::OneBlock),
        _ => Err(Sense::INVALID_FIELD_IN_CDB),
    }
}

pub(super) fn write_and_verify(b: CdbBytes, span: Span) -> Result<Cdb, Sense> {
    unprotected(b)?;
    match byte_check(b)? {
        ByteCheck::OneBlock => Err(Sense::INVALID_FIELD_IN_CDB),
        check => Ok(Cdb::WriteAndVerify { span, check }),
    }
}

pub(super) fn verify(b: CdbBytes, span: Span) -> Result<Cdb, Sense> {
    unprotected(b)?;
    Ok(Cdb::Verify {
        span,
        check: byte_check(b)?,
    })
}

pub(super) fn prefetch(span: Span) -> Result<Cdb, Sense> {
    Ok(Cdb::Prefetch { span })
}

// IMMED allows an early answer and does not ask for it: the answer always comes when everything is durable.
pub(super) fn synchronize_cache(span: Span) -> Result<Cdb, Sense> {
    Ok(Cdb::SynchronizeCache { span })
}

// ANCHOR would keep the space; this target has no anchored blocks (ANC_SUP = 0).
pub(super) fn write_same10(b: CdbBytes) -> Result<Cdb, Sense> {
    unprotected(b)?;
    if b.bit::<1, 4>() {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::WriteSame {
        span: span10(b),
        unmap: b.bit::<1, 3>(),
        no_data: false,
    })
}

pub(super) fn write_same16(b: CdbBytes) -> Result<Cdb, Sense> {
    unprotected(b)?;
    if b.bit::<1, 4>() {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::WriteSame {
        span: span16(b),
        unmap: b.bit::<1, 3>(),
        no_data: b.bit::<1, 0>(),
    })
}

pub(super) fn unmap(b: CdbBytes) -> Result<Cdb, Sense> {
    if b.bit::<1, 0>() {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::Unmap {
        length: b.u16::<7>(),
    })
}

pub(super) fn compare_and_write(b: CdbBytes) -> Result<Cdb, Sense> {
    unprotected(b)?;
    let span = Span {
        first: b.u64::<2>(),
        count: u32::from(b.byte::<13>()),
    };
    Ok(Cdb::CompareAndWrite {
        span,
        fua: b.bit::<1, 3>(),
    })
}

pub(super) fn or_write(b: CdbBytes) -> Result<Cdb, Sense> {
    unprotected(b)?;
    Ok(Cdb::OrWrite {
        span: span16(b),
        fua: b.bit::<1, 3>(),
    })
}

// An atomic boundary would cut the write into parts that are atomic each; none is offered (VPD B0h).
pub(super) fn write_atomic(b: CdbBytes) -> Result<Cdb, Sense> {
    unprotected(b)?;
    if b.u16::<10>() != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    let span = Span {
        first: b.u64::<2>(),
        count: u32::from(b.u16::<12>()),
    };
    Ok(Cdb::WriteAtomic {
        span,
        fua: b.bit::<1, 3>(),
    })
}

// ZNR is about zoned devices.
pub(super) fn sanitize(b: CdbBytes, action: SanitizeAction) -> Result<Cdb, Sense> {
    let is_reserved = (3..7).any(|at| b.bytes().get(at).is_some_and(|byte| *byte != 0));
    if b.bit::<1, 6>() || b.byte::<2>() != 0 || is_reserved {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::Sanitize {
        action,
        immediate: b.bit::<1, 7>(),
        unrestricted_exit: b.bit::<1, 5>(),
        length: b.u16::<7>(),
    })
}

pub(super) fn extended_copy(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ExtendedCopy {
        length: b.u32::<10>(),
    })
}

pub(super) fn copy_status(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::CopyStatus {
        list_id: b.byte::<2>(),
        allocation: b.u32::<10>(),
    })
}

pub(super) fn copy_parameters(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::CopyParameters {
        allocation: b.u32::<10>(),
    })
}

// SP would save parameters, PPC is obsolete.
pub(super) fn log_sense(b: CdbBytes) -> Result<Cdb, Sense> {
    if b.byte::<1>() & 0x03 != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::LogSense(LogSense {
        control: b.byte::<2>() >> 6,
        page: b.byte::<2>() & 0x3f,
        subpage: b.byte::<3>(),
        pointer: b.u16::<5>(),
        allocation: u32::from(b.u16::<7>()),
    }))
}

pub(super) fn read_defect_data10(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ReadDefectData {
        form: DefectForm::Ten,
        lists: b.byte::<2>() & 0x1f,
        allocation: u32::from(b.u16::<7>()),
    })
}

pub(super) fn read_defect_data12(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ReadDefectData {
        form: DefectForm::Twelve,
        lists: b.byte::<1>() & 0x1f,
        allocation: b.u32::<6>(),
    })
}

// PARAMETER DATA FORMAT 000b: length only; 001b: the extended header.
pub(super) fn report_port_groups(b: CdbBytes) -> Result<Cdb, Sense> {
    let format = b.byte::<1>() >> 5;
    if format > 1 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::ReportTargetPortGroups {
        extended: format == 1,
        allocation: b.u32::<6>(),
    })
}

pub(super) fn set_port_groups(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::SetTargetPortGroups {
        length: b.u32::<6>(),
    })
}

pub(super) fn get_lba_status(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::GetLbaStatus {
        first: b.u64::<2>(),
        allocation: b.u32::<10>(),
    })
}

pub(super) fn request_sense(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::RequestSense {
        descriptor: b.bit::<1, 0>(),
        allocation: u32::from(b.byte::<4>()),
    })
}

pub(super) fn inquiry(b: CdbBytes) -> Result<Cdb, Sense> {
    let (vital, page) = (b.bit::<1, 0>(), b.byte::<2>());
    // SPC-5 §6.7: a page code without EVPD, and the obsolete CMDDT bit, are invalid fields.
    if b.bit::<1, 1>() || (!vital && page != 0) {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::Inquiry {
        page: vital.then_some(page),
        allocation: u32::from(b.u16::<3>()),
    })
}

pub(super) fn report_luns(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ReportLuns {
        select: b.byte::<2>(),
        allocation: b.u32::<6>(),
    })
}

// PMI is obsolete; with it clear the address must be zero (SBC-3 §5.15).
pub(super) fn read_capacity10(b: CdbBytes) -> Result<Cdb, Sense> {
    if !b.bit::<8, 0>() && b.u32::<2>() != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::ReadCapacity10)
}

pub(super) fn read_capacity16(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ReadCapacity16 {
        allocation: b.u32::<10>(),
    })
}

pub(super) fn mode_sense6(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ModeSense(ModeSense {
        form: ModeForm::Six,
        no_block_descriptor: b.bit::<1, 3>(),
        long_block_descriptor: false,
        control: b.byte::<2>() >> 6,
        page: b.byte::<2>() & 0x3f,
        subpage: b.byte::<3>(),
        allocation: u32::from(b.byte::<4>()),
    }))
}

pub(super) fn mode_sense10(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ModeSense(ModeSense {
        form: ModeForm::Ten,
        no_block_descriptor: b.bit::<1, 3>(),
        long_block_descriptor: b.bit::<1, 4>(),
        control: b.byte::<2>() >> 6,
        page: b.byte::<2>() & 0x3f,
        subpage: b.byte::<3>(),
        allocation: u32::from(b.u16::<7>()),
    }))
}

// PF must be set, for the pages are in the standard's format; SP must not, for nothing is saved.
pub(super) fn mode_select_flags(b: CdbBytes) -> Result<(), Sense> {
    if b.bit::<1, 0>() || !b.bit::<1, 4>() {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(())
}

pub(super) fn mode_select6(b: CdbBytes) -> Result<Cdb, Sense> {
    mode_select_flags(b)?;
    Ok(Cdb::ModeSelect {
        form: ModeForm::Six,
        length: u16::from(b.byte::<4>()),
    })
}

pub(super) fn mode_select10(b: CdbBytes) -> Result<Cdb, Sense> {
    mode_select_flags(b)?;
    Ok(Cdb::ModeSelect {
        form: ModeForm::Ten,
        length: b.u16::<7>(),
    })
}

// The medium is not removable, so that LOEJ is an invalid field; power conditions are not supported.
pub(super) fn start_stop_unit(b: CdbBytes) -> Result<Cdb, Sense> {
    let (power_condition, eject) = (b.byte::<4>() >> 4, b.bit::<4, 1>());
    if power_condition != 0 || eject {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Cdb::StartStopUnit {
        start: b.bit::<4, 0>(),
        no_flush: b.bit::<4, 2>(),
    })
}

// Third-party and extent reservations are long obsolete.
pub(super) fn reserve6(b: CdbBytes) -> Result<Cdb, Sense> {
    if b.byte::<1>() & 0x1f != 0 {
        Err(Sense::INVALID_FIELD_IN_CDB)
    } else {
        Ok(Cdb::Reserve6)
    }
}

pub(super) fn release6(b: CdbBytes) -> Result<Cdb, Sense> {
    if b.byte::<1>() & 0x1f != 0 {
        Err(Sense::INVALID_FIELD_IN_CDB)
    } else {
        Ok(Cdb::Release6)
    }
}

// The long forms differ in naming a third party, which is obsolete: 3RDPTY and LONGID.
fn names_nobody(b: CdbBytes) -> Result<(), Sense> {
    if b.byte::<1>() & 0x1e != 0 {
        Err(Sense::INVALID_FIELD_IN_CDB)
    } else {
        Ok(())
    }
}

pub(super) fn reserve10(b: CdbBytes) -> Result<Cdb, Sense> {
    names_nobody(b).map(|()| Cdb::Reserve6)
}

pub(super) fn release10(b: CdbBytes) -> Result<Cdb, Sense> {
    names_nobody(b).map(|()| Cdb::Release6)
}

pub(super) fn persistent_in(b: CdbBytes, action: InAction) -> Result<Cdb, Sense> {
    Ok(Cdb::PersistentReserveIn {
        action,
        allocation: u32::from(b.u16::<7>()),
    })
}

pub(super) fn persistent_out(b: CdbBytes, action: OutAction) -> Result<Cdb, Sense> {
    Ok(Cdb::PersistentReserveOut(OutRequest {
        action,
        scope: b.byte::<2>() >> 4,
        kind: b.byte::<2>() & 0x0f,
        length: b.u32::<5>(),
    }))
}

pub(super) fn report_opcodes(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ReportSupportedOpcodes(ReportOpcodes {
        with_timeouts: b.bit::<2, 7>(),
        options: b.byte::<2>() & 0x07,
        opcode: b.byte::<3>(),
        service_action: b.u16::<4>(),
        allocation: b.u32::<6>(),
    }))
}

pub(super) fn report_task_management(b: CdbBytes) -> Result<Cdb, Sense> {
    Ok(Cdb::ReportSupportedTaskManagement {
        extended: b.bit::<2, 7>(),
        allocation: b.u32::<6>(),
    })
}
