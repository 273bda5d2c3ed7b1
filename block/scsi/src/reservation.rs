//! Reservations: RESERVE (6) (or (10), which is the same) and persistent ones, and which commands they shut out (SPC-4 §5.13).
//!
//! Registrations are kept per initiator port (name and ISID) and target port (portal group). With APTPL everything here but RESERVE (6) is kept on stable
//! storage by the shell before the command is answered: [`SavedReservations`].

mod out;
mod parameters;
mod report;
mod saved;
mod transport_id;

pub(crate) use out::Around;
pub use saved::{SavedError, SavedReservations};

use crate::attention::UnitAttention;
use crate::logical_unit::Nexus;
use crate::sense::Sense;
use std::collections::BTreeMap;

/// How many initiator ports may be registered with a unit.
pub const REGISTRATIONS_MAX: usize = 128;

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

/// The service actions of PERSISTENT RESERVE OUT.
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
    /// PREEMPT AND ABORT.
    PreemptAndAbort,
    /// REGISTER AND IGNORE EXISTING KEY.
    RegisterAndIgnore,
    /// REGISTER AND MOVE.
    RegisterAndMove,
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
    /// The type with this code.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
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

    /// Its code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
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
    /// APTPL of the last REGISTER.
    persists: bool,
    reserved6: Option<Nexus>,
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
}

#[cfg(test)]
mod tests;
