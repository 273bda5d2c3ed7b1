//! What of the reservations outlives the target's process (APTPL).

use super::{PersistentReservation, REGISTRATIONS_MAX, Reservations};
use crate::logical_unit::Nexus;

/// Registrations and the reservation, as they are kept on stable storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedReservations {
    /// The registered initiator ports and their keys.
    pub registrations: Vec<(Nexus, u64)>,
    /// The reservation, if there is one.
    pub reservation: Option<PersistentReservation>,
}

/// Saved reservations that cannot have been made by PERSISTENT RESERVE OUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// More registrations than there may be.
    #[error("{count} registrations are more than {REGISTRATIONS_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A registration has no key, or is there twice.
    #[error("a registration has no key or is there twice")]
    Registration,
    /// Nobody registered holds the reservation.
    #[error("the holder of the reservation is not registered")]
    Holder,
}

impl Reservations {
    /// What is to be kept across a loss of power: `None` when that was not asked for.
    pub(crate) fn saved(&self) -> Option<SavedReservations> {
        self.persists.then(|| SavedReservations {
            registrations: self
                .registrations
                .iter()
                .map(|(nexus, key)| (nexus.clone(), *key))
                .collect(),
            reservation: self.reservation.clone(),
        })
    }

    /// The reservations as they were kept.
    pub(crate) fn restore(saved: SavedReservations) -> Result<Self, SavedError> {
        let count = saved.registrations.len();
        if count > REGISTRATIONS_MAX {
            return Err(SavedError::TooMany { count });
        }
        let mut state = Self {
            persists: true,
            reservation: saved.reservation,
            ..Self::default()
        };
        for (nexus, key) in saved.registrations {
            if key == 0 || state.registrations.insert(nexus, key).is_some() {
                return Err(SavedError::Registration);
            }
        }
        let holds = state.reservation.as_ref().is_none_or(|held| {
            if held.kind.is_all_registrants() {
                !state.registrations.is_empty()
            } else {
                state.registrations.contains_key(&held.holder)
            }
        });
        if holds {
            Ok(state)
        } else {
            Err(SavedError::Holder)
        }
    }
}
