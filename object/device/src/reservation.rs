//! Reservations: a key kept for one conditional PUT between its two phases.
//!
//! They are synced rows and a map of the same in memory, so that ordinary writes look for them at no cost. They are
//! invisible to readers and count in no digest. One that has expired is never committed; its row stays for
//! [`KEPT_FOR`], so that whoever reserves next stamps above it, also where clocks differ by some minutes.

use crate::device::Device;
use crate::error::DeviceError;
use crate::key::ObjectKey;
use crate::tables::RESERVATION;
use core::time::Duration;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability, Limit, Order, Store};
use onggi_common_meta::table::{self, PayloadError, Record};
use onggi_common_units::{HexId, Timestamp, UtcTime};
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How long a reservation holds: longer than a commit takes, short enough that a proxy that died is not waited for long.
pub const HELD_FOR: Duration = Duration::from_secs(20);
/// How long the row of an expired one stays.
pub const KEPT_FOR: Duration = Duration::from_secs(600);
/// The most a device keeps at a time.
pub const RESERVATIONS_MAX: usize = 16_384;
const PAGE: usize = 1_024;

/// A key kept for one conditional PUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Whose it is.
    pub token: HexId,
    /// The stamp the PUT will have.
    pub stamp: Timestamp,
    /// When it stops to hold, by this node's clock.
    pub expires: UtcTime,
}

/// What reserving a key came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// The key is kept, on stable storage.
    Granted,
    /// The object is not as the PUT expects it.
    Present {
        /// The newest timestamp of its row.
        newest: Timestamp,
    },
    /// The PUT's stamp is not above this one.
    Newer {
        /// The newest timestamp there.
        newest: Timestamp,
    },
    /// Another PUT has the key.
    Taken {
        /// The stamp of that one.
        stamp: Timestamp,
    },
    /// There are [`RESERVATIONS_MAX`] already.
    TooMany,
}

/// The second phase of a conditional PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Whose reservation.
    pub token: HexId,
    /// When the bytes were put that are to be replaced; `None`: nothing may be there.
    pub expected: Option<Timestamp>,
}

impl Record for Reservation {
    const NAME: &'static str = "reservation";
    const VERSION: u16 = 1;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        let mut writer = Writer::new();
        writer.text(&self.token.to_string());
        writer.timestamp(self.stamp);
        writer.u64(self.expires.micros());
        payload.extend_from_slice(&writer.finish());
    }

    fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
        if version != Self::VERSION {
            return Ok(None);
        }
        let read = || {
            let mut reader = Reader::new(payload);
            let token = reader.text("a token")?.parse().ok();
            let reservation = Self {
                token: token.ok_or(CodecError::Malformed { what: "a token" })?,
                stamp: reader.timestamp("a stamp")?,
                expires: UtcTime::from_micros(reader.u64("an expiry")?),
            };
            reader.end("a reservation")?;
            Ok(reservation)
        };
        let failed = |error: CodecError| PayloadError {
            detail: error.to_string(),
        };
        read().map(Some).map_err(failed)
    }
}

/// The reservations of a device, as its table has them.
#[derive(Debug)]
pub(crate) struct Reservations(Mutex<BTreeMap<ObjectKey, Reservation>>);

impl Reservations {
    pub(crate) fn load(store: &dyn Store) -> Result<Self, DeviceError> {
        let mut held = BTreeMap::new();
        let mut range = KeyRange::all();
        loop {
            let page = store.scan(RESERVATION, &range, Order::Ascending, Limit::rows(PAGE))?;
            let Some(last) = page.rows.last() else {
                return Ok(Self(Mutex::new(held)));
            };
            range = range.resume_after(&last.key);
            for row in &page.rows {
                if let Some(key) = ObjectKey::from_bytes(&row.key) {
                    held.insert(key, table::decode(&row.value)?);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Reservation>> {
        // Every change is one insertion or removal: a panic leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key's reservation, held or expired.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Reservation> {
        self.lock().get(key).cloned()
    }

    /// The row is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }
}

impl Device {
    /// Reserves a key for a conditional PUT with this stamp (first phase).
    ///
    /// # Errors
    /// When there is no space, or the store refuses.
    pub fn reserve(
        &self,
        key: &ObjectKey,
        commit: &Commit,
        stamp: Timestamp,
        now: UtcTime,
    ) -> Result<Reserved, DeviceError> {
        self.space().check_small(crate::space::BATCH_BYTES)?;
        if self.reservations().lock().len() >= RESERVATIONS_MAX {
            self.sweep_reservations(now)?;
        }
        let _guard = self.stripes().lock(key.slot());
        let held = self.reservations().get(key);
        if let Some(held) = held.as_ref().filter(|held| held.token != commit.token) {
            if now < held.expires {
                return Ok(Reserved::Taken { stamp: held.stamp });
            }
            if stamp <= held.stamp {
                let newest = held.stamp;
                return Ok(Reserved::Newer { newest });
            }
        }
        let old = self.get_object(key)?;
        let newest = old.as_ref().map_or(Timestamp::ZERO, |old| old.row.newest());
        if !commit.is_met(old.as_ref().map(|old| &old.row), now) {
            return Ok(Reserved::Present { newest });
        }
        if stamp <= newest {
            return Ok(Reserved::Newer { newest });
        }
        if held.is_none() && self.reservations().lock().len() >= RESERVATIONS_MAX {
            return Ok(Reserved::TooMany);
        }
        // A reservation that was asked for again may come before the first one's answer: the higher stamp stays.
        let own = held.filter(|held| held.token == commit.token);
        let stamp = own.map_or(stamp, |own| own.stamp.max(stamp));
        let reservation = Reservation {
            token: commit.token,
            stamp,
            expires: now.saturating_add(HELD_FOR),
        };
        let mut batch = Batch::new();
        batch.put(RESERVATION, key.bytes(), table::encode(&reservation));
        self.store().write(&batch, Durability::Synced)?;
        self.reservations().lock().insert(*key, reservation);
        Ok(Reserved::Granted)
    }

    /// Gives a reservation up, if it still is this token's.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn release(&self, key: &ObjectKey, token: &HexId) -> Result<(), DeviceError> {
        let _guard = self.stripes().lock(key.slot());
        self.forget_reservation(key, |held| held.token == *token)
    }

    /// Removes the rows of reservations that expired long ago; how many.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn sweep_reservations(&self, now: UtcTime) -> Result<usize, DeviceError> {
        let is_old = |held: &Reservation| held.expires.saturating_add(KEPT_FOR) <= now;
        let old: Vec<ObjectKey> = {
            let held = self.reservations().lock();
            let old = held.iter().filter(|(_, held)| is_old(held));
            old.map(|(key, _)| *key).collect()
        };
        for key in &old {
            let _guard = self.stripes().lock(key.slot());
            self.forget_reservation(key, is_old)?;
        }
        Ok(old.len())
    }

    /// The caller holds the key's stripe.
    fn forget_reservation(
        &self,
        key: &ObjectKey,
        is_meant: impl Fn(&Reservation) -> bool,
    ) -> Result<(), DeviceError> {
        if self
            .reservations()
            .get(key)
            .is_some_and(|held| is_meant(&held))
        {
            let mut batch = Batch::new();
            batch.delete(RESERVATION, key.bytes());
            // When a power cut brings it back, it expires by itself.
            self.store().write(&batch, Durability::Lazy)?;
            self.reservations().forget(key);
        }
        Ok(())
    }
}

impl Commit {
    /// Whether a row is what the PUT expects. A device may lag behind the version that was judged, never be ahead of it.
    pub(crate) fn is_met(&self, row: Option<&onggi_object_wire::ObjectRow>, now: UtcTime) -> bool {
        let is_over = |at: u64| at <= now.seconds();
        match (row, self.expected) {
            (None, _) => true,
            (Some(row), None) => row.body.is_none() || row.delete_at().is_some_and(is_over),
            (Some(row), Some(expected)) => row.data_timestamp <= expected,
        }
    }
}
