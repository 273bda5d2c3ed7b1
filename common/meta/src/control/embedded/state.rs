//! What an open store knows without asking: its newest revision, its history's extent, its leases.

use super::super::log::{LEASES, LOG, LogEntry, TXNS, log_revision};
use super::super::{LeaseId, Revision, TxnId};
use crate::error::StoreError;
use crate::key::KeyRange;
use crate::local::{self, Batch, Order};
use crate::table::decode;
use core::ops::ControlFlow;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

/// How many commits the history keeps.
pub const HISTORY_REVISIONS_MAX: usize = 10_000;
/// How many bytes of history are kept. The newest commit is kept whatever its size.
pub const HISTORY_BYTES_MAX: usize = 64 << 20;
/// No lease runs out: further away than any clock goes.
const NEVER_MS: u64 = u64::MAX;

pub(super) struct State {
    pub(super) head: Revision,
    pub(super) history: VecDeque<Kept>,
    pub(super) history_bytes: usize,
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    pub(super) failed: Option<String>,
}

/// One log entry that is kept.
pub(super) struct Kept {
    pub(super) bytes: usize,
    pub(super) txn: Option<TxnId>,
}

pub(super) struct Lease {
    pub(super) ttl: Duration,
    pub(super) deadline: Duration,
}

impl State {
    pub(super) fn load(store: &dyn local::Store, now: Duration) -> Result<Self, StoreError> {
        let mut state = Self {
            head: Revision::ZERO,
            history: VecDeque::new(),
            history_bytes: 0,
            leases: BTreeMap::new(),
            failed: None,
        };
        let mut damage: Option<String> = None;
        store.visit(
            LOG,
            &KeyRange::all(),
            Order::Ascending,
            &mut |key, value| match state.load_entry(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(detail) => {
                    damage = Some(detail);
                    ControlFlow::Break(())
                }
            },
        )?;
        if let Some(detail) = damage {
            return Err(StoreError::damaged(store.location(), detail));
        }
        state.load_leases(store, now)?;
        Ok(state)
    }

    fn load_entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let revision = log_revision(key).ok_or("a key of the log is no revision")?;
        if !self.history.is_empty() && revision != self.head.next() {
            return Err(format!(
                "the log goes from revision {} to {revision}",
                self.head
            ));
        }
        let entry: LogEntry =
            decode(value).map_err(|error| format!("revision {revision} of the log: {error}"))?;
        self.head = revision;
        self.keep(value.len(), entry.txn);
        Ok(())
    }

    fn load_leases(&mut self, store: &dyn local::Store, now: Duration) -> Result<(), StoreError> {
        let mut damaged = false;
        store.visit(
            LEASES,
            &KeyRange::all(),
            Order::Ascending,
            &mut |key, value| {
                if let (Ok(id), Ok(ttl)) = (key.try_into(), value.try_into()) {
                    let ttl = Duration::from_millis(u64::from_le_bytes(ttl));
                    let lease = Lease {
                        ttl,
                        deadline: now.saturating_add(ttl),
                    };
                    self.leases.insert(LeaseId(u64::from_be_bytes(id)), lease);
                    return ControlFlow::Continue(());
                }
                damaged = true;
                ControlFlow::Break(())
            },
        )?;
        if damaged {
            return Err(StoreError::damaged(
                store.location(),
                "a row of the leases is no lease",
            ));
        }
        Ok(())
    }

    pub(super) fn keep(&mut self, bytes: usize, txn: Option<TxnId>) {
        self.history_bytes = self.history_bytes.saturating_add(bytes);
        self.history.push_back(Kept { bytes, txn });
    }

    /// The oldest commit whose changes are kept.
    pub(super) fn oldest(&self) -> Revision {
        oldest_of(self.head, self.history.len())
    }

    pub(super) fn next_expiry_ms(&self) -> u64 {
        let soonest = self.leases.values().map(|lease| lease.deadline).min();
        soonest.map_or(NEVER_MS, |deadline| {
            u64::try_from(deadline.as_millis()).unwrap_or(NEVER_MS)
        })
    }
}

/// The first of `count` revisions that end with `head`.
pub(super) fn oldest_of(head: Revision, count: usize) -> Revision {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    Revision::new((head.number() + 1).saturating_sub(count))
}

/// Removes from the log what no longer fits beside `bytes` more, and says how many entries that is.
pub(super) fn forget_oldest(state: &State, bytes: usize, batch: &mut Batch) -> usize {
    let mut total = state.history_bytes.saturating_add(bytes);
    let mut revision = state.oldest();
    let mut dropped = 0;
    for kept in &state.history {
        let count = state.history.len() - dropped + 1;
        if count <= HISTORY_REVISIONS_MAX && total <= HISTORY_BYTES_MAX {
            break;
        }
        batch.delete(LOG, revision.number().to_be_bytes());
        if let Some(TxnId(id)) = kept.txn {
            batch.delete(TXNS, *id.as_bytes());
        }
        total = total.saturating_sub(kept.bytes);
        revision = revision.next();
        dropped += 1;
    }
    dropped
}
