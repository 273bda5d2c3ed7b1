//! The parameter lists of PERSISTENT RESERVE OUT (SPC-4 §6.16.3 and §6.16.4).

use super::transport_id::{self, Named};
use super::{OutAction, OutRequest, REGISTRATIONS_MAX};
use crate::sense::Sense;
use crate::wire::{u16_at, u32_at, u64_at};

/// The parameter list without TransportIDs, and where they begin.
const BASIC_BYTES: usize = 24;
const SPEC_I_PT: u8 = 0x08;
pub(super) const ALL_TG_PT: u8 = 0x04;
const APTPL: u8 = 0x01;
const UNREG: u8 = 0x02;

/// The list of every service action but REGISTER AND MOVE.
#[derive(Debug)]
pub(super) struct Basic {
    pub(super) key: u64,
    pub(super) service_key: u64,
    /// APTPL: keep everything across a loss of power.
    pub(super) persists: bool,
    /// ALL_TG_PT: through every target port.
    pub(super) all_ports: bool,
    /// SPEC_I_PT: who else is registered.
    pub(super) others: Option<Vec<Named>>,
}

/// The list of REGISTER AND MOVE.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) key: u64,
    pub(super) service_key: u64,
    pub(super) persists: bool,
    /// UNREG: the mover's own registration ends.
    pub(super) unregisters: bool,
    pub(super) target_port: u16,
    pub(super) to: Named,
}

// As much of the data as the CDB says there is.
fn list(request: OutRequest, data: &[u8]) -> Result<&[u8], Sense> {
    let wanted = usize::try_from(request.length).unwrap_or(usize::MAX);
    data.get(..wanted)
        .filter(|list| list.len() >= BASIC_BYTES)
        .ok_or(Sense::PARAMETER_LIST_LENGTH)
}

fn keys(list: &[u8]) -> Result<(u64, u64), Sense> {
    match (u64_at(list, 0), u64_at(list, 8)) {
        (Some(key), Some(service_key)) => Ok((key, service_key)),
        _ => Err(Sense::PARAMETER_LIST_LENGTH),
    }
}

impl Basic {
    pub(super) fn parse(request: OutRequest, data: &[u8]) -> Result<Self, Sense> {
        let list = list(request, data)?;
        let (key, service_key) = keys(list)?;
        let flags = list.get(20).copied().unwrap_or(0);
        let others = match (flags & SPEC_I_PT != 0, request.action) {
            (false, _) if list.len() == BASIC_BYTES => None,
            (false, _) => return Err(Sense::PARAMETER_LIST_LENGTH),
            (true, OutAction::Register) => Some(transport_ids(list)?),
            (true, _) => return Err(Sense::INVALID_FIELD_IN_PARAMETERS),
        };
        Ok(Self {
            key,
            service_key,
            persists: flags & APTPL != 0,
            all_ports: flags & ALL_TG_PT != 0,
            others,
        })
    }
}

fn transport_ids(list: &[u8]) -> Result<Vec<Named>, Sense> {
    const LENGTH: Sense = Sense::PARAMETER_LIST_LENGTH;
    let length = u32_at(list, BASIC_BYTES).ok_or(LENGTH)?;
    let mut rest = list.get(BASIC_BYTES.saturating_add(4)..).ok_or(LENGTH)?;
    if usize::try_from(length) != Ok(rest.len()) {
        return Err(LENGTH);
    }
    let mut named = Vec::new();
    while !rest.is_empty() {
        if named.len() >= REGISTRATIONS_MAX {
            return Err(Sense::INSUFFICIENT_REGISTRATIONS);
        }
        let (one, after) = transport_id::parse(rest)?;
        named.push(one);
        rest = after;
    }
    Ok(named)
}

impl Move {
    pub(super) fn parse(request: OutRequest, data: &[u8]) -> Result<Self, Sense> {
        const LENGTH: Sense = Sense::PARAMETER_LIST_LENGTH;
        let list = list(request, data)?;
        let (key, service_key) = keys(list)?;
        let flags = list.get(17).copied().unwrap_or(0);
        let (Some(target_port), Some(length)) = (u16_at(list, 18), u32_at(list, 20)) else {
            return Err(LENGTH);
        };
        let id = list.get(BASIC_BYTES..).unwrap_or_default();
        if usize::try_from(length) != Ok(id.len()) || id.is_empty() {
            return Err(LENGTH);
        }
        let (to, rest) = transport_id::parse(id)?;
        if !rest.is_empty() {
            return Err(Sense::INVALID_FIELD_IN_PARAMETERS);
        }
        Ok(Self {
            key,
            service_key,
            persists: flags & APTPL != 0,
            unregisters: flags & UNREG != 0,
            target_port,
            to,
        })
    }
}
