//! Reservations: RESERVE (6) and persistent ones, and which commands they shut out (SPC-4 §5.13).
//!
//! Registrations are kept per initiator port (name and ISID). There is one target port group whose portals are one
//! target port, so ALL_TG_PT has nothing to say; APTPL is refused as long as nothing is kept across a restart.

use crate::attention::UnitAttention;
use crate::logical_unit::Nexus;
use crate::sense::Sense;
use crate::wire::{Builder, length16, length32, u64_at};
use std::collections::BTreeMap;

/// How many initiator ports may be registered with a unit.
pub const REGISTRATIONS_MAX: usize = 128;
/// The parameter list of PERSISTENT RESERVE OUT without TransportIDs.
const OUT_PARAMETERS_BYTES: usize = 24;
/// The relative target port identifier of our one target port.
const TARGET_PORT: u16 = 1;

/// How another nexus's reservation concerns a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Not at all.
    Allowed,
    /// TEST UNIT READY: only RESERVE (6) shuts it out.
    TestUnitReady,
    /// It reads: exclusive access shuts it out.
    Read,
    /// It changes something: every reservation shuts it out.
    Write,
    /// START STOP UNIT: starting is allowed.
    Start,
    /// RESERVE (6) and RELEASE (6): the handler decides.
    Reserve,
    /// PERSISTENT RESERVE IN and OUT: the handler decides; RESERVE (6) shuts them out.
    Persistent,
}

/// The service actions of PERSISTENT RESERVE IN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InAction {
    /// READ KEYS.
    ReadKeys,
    /// READ RESERVATION.
    ReadReservation,
    /// REPORT CAPABILITIES.
    ReportCapabilities,
    /// READ FULL STATUS.
    ReadFullStatus,
}

/// The service actions of PERSISTENT RESERVE OUT that are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutAction {
    /// REGISTER.
    Register,
    /// RESERVE.
    Reserve,
    /// RELEASE.
    Release,
    /// CLEAR.
    Clear,
    /// PREEMPT.
    Preempt,
    /// REGISTER AND IGNORE EXISTING KEY.
    RegisterAndIgnore,
}

/// The fields of a PERSISTENT RESERVE OUT CDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutRequest {
    /// SERVICE ACTION.
    pub action: OutAction,
    /// SCOPE.
    pub scope: u8,
    /// TYPE.
    pub kind: u8,
    /// PARAMETER LIST LENGTH.
    pub length: u32,
}

/// What a persistent reservation shuts out, and whom it lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationType {
    /// Others may read.
    WriteExclusive,
    /// Others may neither read nor write.
    ExclusiveAccess,
    /// Registered ones may do everything, others read.
    WriteExclusiveRegistrantsOnly,
    /// Registered ones may do everything, others nothing.
    ExclusiveAccessRegistrantsOnly,
    /// As the former; every registered one holds it.
    WriteExclusiveAllRegistrants,
    /// As the former; every registered one holds it.
    ExclusiveAccessAllRegistrants,
}

impl ReservationType {
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrantsOnly,
            6 => Self::ExclusiveAccessRegistrantsOnly,
            7 => Self::WriteExclusiveAllRegistrants,
            8 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    const fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrantsOnly => 5,
            Self::ExclusiveAccessRegistrantsOnly => 6,
            Self::WriteExclusiveAllRegistrants => 7,
            Self::ExclusiveAccessAllRegistrants => 8,
        }
    }

    const fn lets_others_read(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive
                | Self::WriteExclusiveRegistrantsOnly
                | Self::WriteExclusiveAllRegistrants
        )
    }

    const fn is_all_registrants(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }

    const fn lets_registrants_in(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }
}

/// How a reservation command ended when it was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Conflict,
    Check(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

/// Who must hear of what was done.
pub(crate) type Notices = Vec<(Nexus, UnitAttention)>;

/// A persistent reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistentReservation {
    /// Who made it; with an all-registrants type every registered one holds it.
    pub holder: Nexus,
    /// What it shuts out.
    pub kind: ReservationType,
}

/// The reservations of a unit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reservations {
    registrations: BTreeMap<Nexus, u64>,
    reservation: Option<PersistentReservation>,
    generation: u32,
    reserved6: Option<Nexus>,
}

struct OutParameters {
    key: u64,
    service_key: u64,
}

impl OutParameters {
    fn parse(request: OutRequest, data: &[u8]) -> Result<Self, Sense> {
        let wanted = usize::try_from(request.length).unwrap_or(usize::MAX);
        if wanted != OUT_PARAMETERS_BYTES || data.len() < wanted {
            return Err(Sense::PARAMETER_LIST_LENGTH);
        }
        let (Some(key), Some(service_key), Some(flags)) =
            (u64_at(data, 0), u64_at(data, 8), data.get(20))
        else {
            return Err(Sense::PARAMETER_LIST_LENGTH);
        };
        // SPEC_I_PT, ALL_TG_PT and APTPL: not offered, and REPORT CAPABILITIES says so.
        if flags & 0b1101 != 0 {
            return Err(Sense::INVALID_FIELD_IN_PARAMETERS);
        }
        Ok(Self { key, service_key })
    }
}

impl Reservations {
    pub(crate) fn is_registered(&self, nexus: &Nexus) -> bool {
        self.registrations.contains_key(nexus)
    }

    fn is_holder(&self, nexus: &Nexus) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.is_all_registrants() {
                self.registrations.contains_key(nexus)
            } else {
                reservation.holder == *nexus
            }
        })
    }

    /// Whether somebody else's reservation shuts this command of this nexus out.
    pub(crate) fn conflicts(&self, rule: Rule, is_start: bool, nexus: &Nexus) -> bool {
        if let Some(holder) = &self.reserved6
            && holder != nexus
        {
            return !matches!(rule, Rule::Allowed | Rule::Reserve);
        }
        let Some(reservation) = &self.reservation else {
            return false;
        };
        if self.is_holder(nexus) {
            return false;
        }
        let let_in = reservation.kind.lets_registrants_in() && self.is_registered(nexus);
        match rule {
            Rule::Allowed | Rule::TestUnitReady | Rule::Reserve | Rule::Persistent => false,
            Rule::Read => !let_in && !reservation.kind.lets_others_read(),
            Rule::Write => !let_in,
            Rule::Start => !let_in && !is_start,
        }
    }

    /// RESERVE (6).
    pub(crate) fn reserve6(&mut self, nexus: &Nexus) -> Result<(), Refusal> {
        // SPC-4 §5.13.3 with CRH = 0: persistent registrations shut the old reservations out.
        if !self.registrations.is_empty() {
            return Err(Refusal::Conflict);
        }
        match &self.reserved6 {
            Some(holder) if holder != nexus => Err(Refusal::Conflict),
            Some(_) | None => {
                self.reserved6 = Some(nexus.clone());
                Ok(())
            }
        }
    }

    /// RELEASE (6). Releasing what one does not hold changes nothing and is no error.
    pub(crate) fn release6(&mut self, nexus: &Nexus) -> Result<(), Refusal> {
        if !self.registrations.is_empty() {
            return Err(Refusal::Conflict);
        }
        self.forget_nexus(nexus);
        Ok(())
    }

    /// A nexus is gone: its RESERVE (6) goes with it, persistent registrations stay.
    pub(crate) fn forget_nexus(&mut self, nexus: &Nexus) {
        if self.reserved6.as_ref() == Some(nexus) {
            self.reserved6 = None;
        }
    }

    /// The unit was reset: RESERVE (6) ends, persistent registrations stay.
    pub(crate) fn reset(&mut self) {
        self.reserved6 = None;
    }

    /// PERSISTENT RESERVE OUT.
    pub(crate) fn persistent_out(
        &mut self,
        nexus: &Nexus,
        request: OutRequest,
        data: &[u8],
    ) -> Result<Notices, Refusal> {
        let parameters = OutParameters::parse(request, data)?;
        match request.action {
            OutAction::Register => {
                self.register(nexus, Some(parameters.key), parameters.service_key)
            }
            OutAction::RegisterAndIgnore => self.register(nexus, None, parameters.service_key),
            OutAction::Reserve => self.reserve(nexus, parameters.key, request),
            OutAction::Release => self.release(nexus, parameters.key, request),
            OutAction::Clear => self.clear(nexus, parameters.key),
            OutAction::Preempt => self.preempt(nexus, &parameters, request),
        }
    }

    fn check_key(&self, nexus: &Nexus, key: u64) -> Result<(), Refusal> {
        if self.registrations.get(nexus) == Some(&key) {
            Ok(())
        } else {
            Err(Refusal::Conflict)
        }
    }

    fn others(&self, nexus: &Nexus, attention: UnitAttention) -> Notices {
        let others = self.registrations.keys().filter(|other| *other != nexus);
        others.map(|other| (other.clone(), attention)).collect()
    }

    fn register(
        &mut self,
        nexus: &Nexus,
        key: Option<u64>,
        service_key: u64,
    ) -> Result<Notices, Refusal> {
        let registered = self.registrations.get(nexus).copied();
        if key.is_some_and(|key| key != registered.unwrap_or(0)) {
            return Err(Refusal::Conflict);
        }
        let notices = match (registered, service_key) {
            (None, 0) => return Ok(Notices::new()),
            (Some(_), 0) => self.unregister(nexus),
            (None, _) if self.registrations.len() >= REGISTRATIONS_MAX => {
                return Err(Sense::INSUFFICIENT_REGISTRATIONS.into());
            }
            (_, service_key) => {
                self.registrations.insert(nexus.clone(), service_key);
                Notices::new()
            }
        };
        self.generation = self.generation.wrapping_add(1);
        Ok(notices)
    }

    // SPC-4 §5.13.11.3: only a registrants-only reservation that ends this way is announced, and to the others alone.
    fn unregister(&mut self, nexus: &Nexus) -> Notices {
        self.registrations.remove(nexus);
        let Some(reservation) = &self.reservation else {
            return Notices::new();
        };
        let ends = if reservation.kind.is_all_registrants() {
            self.registrations.is_empty()
        } else {
            reservation.holder == *nexus
        };
        if !ends {
            return Notices::new();
        }
        let announced = reservation.kind.lets_registrants_in();
        self.reservation = None;
        if announced {
            self.others(nexus, UnitAttention::ReservationsReleased)
        } else {
            Notices::new()
        }
    }

    fn reserve(
        &mut self,
        nexus: &Nexus,
        key: u64,
        request: OutRequest,
    ) -> Result<Notices, Refusal> {
        let kind = reservation_type(request)?;
        self.check_key(nexus, key)?;
        match &self.reservation {
            Some(reservation) if self.is_holder(nexus) && reservation.kind == kind => {}
            Some(_) => return Err(Refusal::Conflict),
            None => {
                self.reservation = Some(PersistentReservation {
                    holder: nexus.clone(),
                    kind,
                })
            }
        }
        Ok(Notices::new())
    }

    fn release(
        &mut self,
        nexus: &Nexus,
        key: u64,
        request: OutRequest,
    ) -> Result<Notices, Refusal> {
        self.check_key(nexus, key)?;
        if !self.is_holder(nexus) {
            return Ok(Notices::new());
        }
        let Some(reservation) = &self.reservation else {
            return Ok(Notices::new());
        };
        let held = reservation.kind;
        if request.scope != 0 || request.kind != held.code() {
            return Err(Sense::INVALID_RELEASE.into());
        }
        self.reservation = None;
        Ok(if held.lets_registrants_in() {
            self.others(nexus, UnitAttention::ReservationsReleased)
        } else {
            Notices::new()
        })
    }

    fn clear(&mut self, nexus: &Nexus, key: u64) -> Result<Notices, Refusal> {
        self.check_key(nexus, key)?;
        let notices = self.others(nexus, UnitAttention::ReservationsPreempted);
        self.registrations.clear();
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        Ok(notices)
    }

    fn preempt(
        &mut self,
        nexus: &Nexus,
        parameters: &OutParameters,
        request: OutRequest,
    ) -> Result<Notices, Refusal> {
        self.check_key(nexus, parameters.key)?;
        let victim = parameters.service_key;
        let held = self.reservation.as_ref().map(|reservation| {
            (
                reservation.kind,
                self.registrations.get(&reservation.holder).copied(),
            )
        });
        let takes_over = match held {
            Some((kind, _)) if kind.is_all_registrants() => victim == 0,
            Some((_, key)) => key == Some(victim),
            None => false,
        };
        if victim == 0 && !takes_over {
            return Err(Sense::INVALID_FIELD_IN_PARAMETERS.into());
        }
        let kind = if takes_over {
            Some(reservation_type(request)?)
        } else {
            None
        };
        let removed: Vec<Nexus> = self
            .registrations
            .iter()
            .filter(|(other, key)| *other != nexus && (victim == 0 || **key == victim))
            .map(|(other, _)| other.clone())
            .collect();
        if removed.is_empty() && !takes_over && parameters.key != victim {
            return Err(Refusal::Conflict);
        }
        for gone in &removed {
            self.registrations.remove(gone);
        }
        let mut notices: Notices = removed
            .into_iter()
            .map(|gone| (gone, UnitAttention::RegistrationsPreempted))
            .collect();
        if let Some(kind) = kind {
            if held.is_some_and(|(before, _)| before != kind) {
                notices.extend(self.others(nexus, UnitAttention::ReservationsReleased));
            }
            self.reservation = Some(PersistentReservation {
                holder: nexus.clone(),
                kind,
            });
        } else if self.registrations.is_empty() {
            self.reservation = None;
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(notices)
    }

    /// PERSISTENT RESERVE IN.
    pub(crate) fn persistent_in(&self, action: InAction) -> Vec<u8> {
        match action {
            InAction::ReadKeys => {
                let mut keys = Builder::new();
                self.registrations.values().for_each(|key| {
                    keys.u64(*key);
                });
                self.with_generation(&keys.finish())
            }
            InAction::ReadReservation => self.with_generation(&self.reservation_descriptor()),
            InAction::ReportCapabilities => capabilities(),
            InAction::ReadFullStatus => self.with_generation(&self.full_status()),
        }
    }

    fn with_generation(&self, body: &[u8]) -> Vec<u8> {
        let mut data = Builder::new();
        data.u32(self.generation).u32(length32(body)).bytes(body);
        data.finish()
    }

    fn reservation_descriptor(&self) -> Vec<u8> {
        let Some(reservation) = &self.reservation else {
            return Vec::new();
        };
        // SPC-4 §6.15.3.3: the key of an all-registrants reservation is zero.
        let key = if reservation.kind.is_all_registrants() {
            0
        } else {
            self.registrations
                .get(&reservation.holder)
                .copied()
                .unwrap_or(0)
        };
        let mut data = Builder::new();
        data.u64(key)
            .u32(0)
            .u8(0)
            .u8(reservation.kind.code())
            .u16(0);
        data.finish()
    }

    fn full_status(&self) -> Vec<u8> {
        let mut data = Builder::new();
        for (nexus, key) in &self.registrations {
            let holds = self.is_holder(nexus);
            let kind = self
                .reservation
                .as_ref()
                .filter(|_| holds)
                .map_or(0, |held| held.kind.code());
            let transport_id = transport_id(nexus);
            data.u64(*key)
                .u32(0)
                .u8(u8::from(holds))
                .u8(kind)
                .u32(0)
                .u16(TARGET_PORT);
            data.u32(length32(&transport_id)).bytes(&transport_id);
        }
        data.finish()
    }
}

fn reservation_type(request: OutRequest) -> Result<ReservationType, Sense> {
    if request.scope != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    ReservationType::from_code(request.kind).ok_or(Sense::INVALID_FIELD_IN_CDB)
}

fn capabilities() -> Vec<u8> {
    // TMV, and the mask of all six types (SPC-4 table 177); nothing of CRH, SIP_C, ATP_C, PTPL_C.
    vec![0, 8, 0x00, 0x80, 0xea, 0x01, 0, 0]
}

// SPC-4 §7.6.4.6: an iSCSI initiator port is its name, ",i,0x" and the ISID, ended by a zero, filled to four bytes.
fn transport_id(nexus: &Nexus) -> Vec<u8> {
    const NAME_BYTES_MIN: usize = 20;
    let isid: String = nexus
        .isid
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut name = format!("{},i,0x{isid}\0", nexus.initiator).into_bytes();
    let length = name.len().next_multiple_of(4).max(NAME_BYTES_MIN);
    name.resize(length, 0);
    let mut data = Builder::new();
    data.u8(0x45).u8(0).u16(length16(&name)).bytes(&name);
    data.finish()
}

#[cfg(test)]
mod tests;
