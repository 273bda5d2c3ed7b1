//! Unit attentions: what an initiator must hear before its next command counts.

use crate::sense::{Sense, SenseKey};

/// Something that happened to the unit (SAM-5 §5.14, codes from SPC-5 Annex F).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitAttention {
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: this nexus sees the unit for the first time.
    PowerOn,
    /// BUS DEVICE RESET FUNCTION OCCURRED: another nexus reset the unit.
    Reset,
    /// I_T NEXUS LOSS OCCURRED: the session was gone in between.
    NexusLoss,
    /// MODE PARAMETERS CHANGED: another nexus changed them.
    ModeParametersChanged,
    /// RESERVATIONS PREEMPTED.
    ReservationsPreempted,
    /// RESERVATIONS RELEASED.
    ReservationsReleased,
    /// REGISTRATIONS PREEMPTED.
    RegistrationsPreempted,
    /// ASYMMETRIC ACCESS STATE CHANGED: another nexus set a target port group.
    AccessStateChanged,
    /// CAPACITY DATA HAS CHANGED.
    CapacityChanged,
    /// REPORTED LUNS DATA HAS CHANGED.
    ReportedLunsChanged,
}

impl UnitAttention {
    /// Its sense.
    #[must_use]
    pub const fn sense(self) -> Sense {
        let (asc, ascq) = match self {
            Self::PowerOn => (0x29, 0x00),
            Self::Reset => (0x29, 0x03),
            Self::NexusLoss => (0x29, 0x07),
            Self::ModeParametersChanged => (0x2a, 0x01),
            Self::ReservationsPreempted => (0x2a, 0x03),
            Self::ReservationsReleased => (0x2a, 0x04),
            Self::RegistrationsPreempted => (0x2a, 0x05),
            Self::AccessStateChanged => (0x2a, 0x06),
            Self::CapacityChanged => (0x2a, 0x09),
            Self::ReportedLunsChanged => (0x3f, 0x0e),
        };
        Sense::new(SenseKey::UnitAttention, asc, ascq)
    }

    // A reset or power-on tells the initiator to ask everything again, so what was pending before it is said by it.
    const fn covers_all(self) -> bool {
        matches!(self, Self::PowerOn | Self::Reset)
    }
}

/// What one nexus has not heard yet, oldest first. It is bounded because each kind is in it at most once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending(Vec<UnitAttention>);

impl Pending {
    pub(crate) fn raise(&mut self, attention: UnitAttention) {
        if attention.covers_all() {
            self.0.clear();
        }
        if !self.0.contains(&attention) {
            self.0.push(attention);
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self) -> Option<UnitAttention> {
        if self.0.is_empty() {
            None
        } else {
            Some(self.0.remove(0))
        }
    }

    // REPORT LUNS answers what this attention says (SPC-5 §6.33).
    pub(crate) fn forget_luns(&mut self) {
        self.0
            .retain(|attention| *attention != UnitAttention::ReportedLunsChanged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_waits_once_and_a_reset_replaces_what_waited() {
        let mut pending = Pending::default();
        pending.raise(UnitAttention::CapacityChanged);
        pending.raise(UnitAttention::CapacityChanged);
        pending.raise(UnitAttention::ReportedLunsChanged);
        assert_eq!(pending.take(), Some(UnitAttention::CapacityChanged));
        pending.forget_luns();
        assert!(pending.is_empty());
        pending.raise(UnitAttention::ModeParametersChanged);
        pending.raise(UnitAttention::Reset);
        assert_eq!(pending.take(), Some(UnitAttention::Reset));
        assert_eq!(pending.take(), None);
    }
}
