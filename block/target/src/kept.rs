//! What of a unit outlives the target's process: reservations that were asked to (APTPL), that it is being sanitized,
//! and an atomic write that may be half done.
//!
//! Each is a file of its own, written before the command it belongs to goes on, and read before the target listens.
//! They are sealed like exports: inside are keys by which disks are taken over, and a volume's bytes. One that does not
//! open keeps its export from being served: a shared disk without its fence, or a half-done atomic write taken for a
//! whole one, is how data is lost.

use crate::store::{Store, StoreError};
use onggi_block_scsi::{Nexus, PersistentReservation, ReservationType, SavedReservations};
use onggi_common_host::Entropy;
use onggi_common_units::Uuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Reservations,
    Sanitizing,
    AtomicWrite,
}

impl Kind {
    /// The directory of its files, and their suffix.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reservations => "reservations",
            Self::Sanitizing => "sanitizing",
            Self::AtomicWrite => "atomic",
        }
    }

    pub(crate) const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Reservations => b"ONGGIPR1",
            Self::Sanitizing => b"ONGGISA1",
            Self::AtomicWrite => b"ONGGIAW1",
        }
    }

    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Reservations, Self::Sanitizing, Self::AtomicWrite];
}

/// Where what outlives the process is kept for one unit.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) store: Arc<Store>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) iqn: Arc<str>,
    pub(crate) volume: Uuid,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("iqn", &self.iqn)
            .field("volume", &self.volume)
            .finish_non_exhaustive()
    }
}

/// Bytes that were to be written in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AtomicWrite {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reservations {
    volume: Uuid,
    registrations: Vec<Registration>,
    reservation: Option<Held>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    initiator: String,
    isid: [u8; 6],
    #[serde(default = "usual_port")]
    port: u16,
    key: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    initiator: String,
    isid: [u8; 6],
    #[serde(default = "usual_port")]
    port: u16,
    kind: u8,
}

// What is kept by a release that knew of one port only is about the portal group that there is by default.
const fn usual_port() -> u16 {
    1
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sanitizing {
    volume: Uuid,
    unrestricted_exit: bool,
}

impl Keeper {
    fn put(&self, kind: Kind, plain: &[u8]) -> Result<(), StoreError> {
        self.store.put_kept(kind, &self.iqn, plain, &*self.entropy)
    }

    fn put_json(&self, kind: Kind, kept: &impl Serialize) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(kept)
            .ok()
            .ok_or_else(|| StoreError::Seal {
                iqn: self.iqn.to_string(),
            })?;
        self.put(kind, &bytes)
    }

    fn remove(&self, kind: Kind) -> Result<(), StoreError> {
        self.store.remove_kept(kind, &self.iqn)
    }

    fn damaged(&self, kind: Kind) -> StoreError {
        self.store.damaged_kept(kind, &self.iqn)
    }

    fn load_json<T: DeserializeOwned>(
        &self,
        kind: Kind,
        volume: impl FnOnce(&T) -> Uuid,
    ) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.store.load_kept(kind, &self.iqn)? else {
            return Ok(None);
        };
        let kept: Option<T> = serde_json::from_slice(&bytes).ok();
        let kept = kept.ok_or_else(|| self.damaged(kind))?;
        Ok(self.is_ours(volume(&kept)).then_some(kept))
    }

    fn is_ours(&self, volume: Uuid) -> bool {
        if volume != self.volume {
            tracing::warn!(iqn = %self.iqn, "what was kept of another volume is not used");
        }
        volume == self.volume
    }

    /// Keeps the reservations durably, or that there is nothing to keep.
    pub(crate) fn save_reservations(
        &self,
        saved: Option<&SavedReservations>,
    ) -> Result<(), StoreError> {
        let Some(saved) = saved else {
            return self.remove(Kind::Reservations);
        };
        let registrations = saved
            .registrations
            .iter()
            .map(|(nexus, key)| Registration {
                initiator: nexus.initiator.to_string(),
                isid: nexus.isid,
                port: nexus.port,
                key: *key,
            })
            .collect();
        let reservation = saved.reservation.as_ref().map(|held| Held {
            initiator: held.holder.initiator.to_string(),
            isid: held.holder.isid,
            port: held.holder.port,
            kind: held.kind.code(),
        });
        let kept = Reservations {
            volume: self.volume,
            registrations,
            reservation,
        };
        self.put_json(Kind::Reservations, &kept)
    }

    /// The reservations that were kept, if any were.
    pub(crate) fn reservations(&self) -> Result<Option<SavedReservations>, StoreError> {
        let kind = Kind::Reservations;
        let kept = self.load_json(kind, |kept: &Reservations| kept.volume)?;
        let Some(kept) = kept else {
            return Ok(None);
        };
        let registrations = kept
            .registrations
            .into_iter()
            .map(|one| (Nexus::new(&one.initiator, one.isid, one.port), one.key))
            .collect();
        let reservation = match kept.reservation {
            None => None,
            Some(held) => Some(PersistentReservation {
                holder: Nexus::new(&held.initiator, held.isid, held.port),
                kind: ReservationType::from_code(held.kind).ok_or_else(|| self.damaged(kind))?,
            }),
        };
        Ok(Some(SavedReservations {
            registrations,
            reservation,
        }))
    }

    /// Keeps that sanitizing has begun.
    pub(crate) fn begin_sanitize(&self, unrestricted_exit: bool) -> Result<(), StoreError> {
        let kept = Sanitizing {
            volume: self.volume,
            unrestricted_exit,
        };
        self.put_json(Kind::Sanitizing, &kept)
    }

    /// Keeps that sanitizing has ended.
    pub(crate) fn end_sanitize(&self) -> Result<(), StoreError> {
        self.remove(Kind::Sanitizing)
    }

    /// Whether sanitizing had begun and not ended, and if so whether a failure may be left unrestricted.
    pub(crate) fn sanitizing(&self) -> Result<Option<bool>, StoreError> {
        let kept = self.load_json(Kind::Sanitizing, |kept: &Sanitizing| kept.volume)?;
        Ok(kept.map(|kept| kept.unrestricted_exit))
    }

    /// Keeps what is about to be written in one step.
    pub(crate) fn begin_atomic(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let plain = [self.volume.as_bytes(), &offset.to_be_bytes()[..], bytes].concat();
        self.put(Kind::AtomicWrite, &plain)
    }

    /// Keeps that it is written, durably.
    pub(crate) fn end_atomic(&self) -> Result<(), StoreError> {
        self.remove(Kind::AtomicWrite)
    }

    /// The write that had begun and may be half done.
    pub(crate) fn atomic(&self) -> Result<Option<AtomicWrite>, StoreError> {
        let kind = Kind::AtomicWrite;
        let Some(plain) = self.store.load_kept(kind, &self.iqn)? else {
            return Ok(None);
        };
        let damaged = || self.damaged(kind);
        let (volume, rest) = plain.split_first_chunk().ok_or_else(damaged)?;
        let (offset, bytes) = rest.split_first_chunk().ok_or_else(damaged)?;
        Ok(self
            .is_ours(Uuid::from_bytes(*volume))
            .then(|| AtomicWrite {
                offset: u64::from_be_bytes(*offset),
                bytes: bytes.to_vec(),
            }))
    }
}
