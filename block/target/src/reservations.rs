//! Persistent reservations across restarts of the target (APTPL): one file for each export that asked for it.
//!
//! The file is written before the command that changed the reservations is answered, and read before the target
//! listens, so that a killed target comes back with everybody shut out who was. It is sealed like an export: what is
//! inside are names and keys by which disks are taken over. One that does not open keeps its export from being
//! served: serving a shared disk without its fence is how data is lost.

use crate::store::{Store, StoreError};
use onggi_block_scsi::{Nexus, PersistentReservation, ReservationType, SavedReservations};
use onggi_common_host::Entropy;
use onggi_common_units::Uuid;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where the reservations of one unit are kept.
#[derive(Clone)]
pub(crate) struct ReservationFile {
    pub(crate) store: Arc<Store>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) iqn: Arc<str>,
    pub(crate) volume: Uuid,
}

impl std::fmt::Debug for ReservationFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReservationFile")
            .field("iqn", &self.iqn)
            .field("volume", &self.volume)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    volume: Uuid,
    registrations: Vec<Registration>,
    reservation: Option<Held>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    initiator: String,
    isid: [u8; 6],
    key: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    initiator: String,
    isid: [u8; 6],
    kind: u8,
}

impl ReservationFile {
    /// Keeps the reservations durably, or that there is nothing to keep.
    pub(crate) fn save(&self, saved: Option<&SavedReservations>) -> Result<(), StoreError> {
        let Some(saved) = saved else {
            return self.store.remove_reservations(&self.iqn);
        };
        let registrations = saved
            .registrations
            .iter()
            .map(|(nexus, key)| Registration {
                initiator: nexus.initiator.to_string(),
                isid: nexus.isid,
                key: *key,
            })
            .collect();
        let reservation = saved.reservation.as_ref().map(|held| Held {
            initiator: held.holder.initiator.to_string(),
            isid: held.holder.isid,
            kind: held.kind.code(),
        });
        let kept = Kept {
            volume: self.volume,
            registrations,
            reservation,
        };
        let bytes = serde_json::to_vec(&kept)
            .ok()
            .ok_or_else(|| StoreError::Seal {
                iqn: self.iqn.to_string(),
            })?;
        self.store
            .put_reservations(&self.iqn, &bytes, &*self.entropy)
    }

    /// The reservations that were kept, if any were.
    pub(crate) fn load(&self) -> Result<Option<SavedReservations>, StoreError> {
        let Some(bytes) = self.store.load_reservations(&self.iqn)? else {
            return Ok(None);
        };
        let damaged = || self.store.damaged_reservations(&self.iqn);
        let kept: Kept = serde_json::from_slice(&bytes).ok().ok_or_else(damaged)?;
        if kept.volume != self.volume {
            tracing::warn!(iqn = %self.iqn, "kept reservations of another volume are not used");
            return Ok(None);
        }
        let registrations = kept
            .registrations
            .into_iter()
            .map(|one| (Nexus::new(&one.initiator, one.isid), one.key))
            .collect();
        let reservation = match kept.reservation {
            None => None,
            Some(held) => Some(PersistentReservation {
                holder: Nexus::new(&held.initiator, held.isid),
                kind: ReservationType::from_code(held.kind).ok_or_else(damaged)?,
            }),
        };
        Ok(Some(SavedReservations {
            registrations,
            reservation,
        }))
    }
}
