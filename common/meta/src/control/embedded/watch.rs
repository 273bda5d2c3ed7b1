//! Watches: a place in the log, and waiting for it to grow. A watcher that does not ask costs nothing.

use super::super::log::{LOG, LogEntry, log_from, log_revision, row_key, table_prefix};
use super::super::{Change, ReadError, Revision, Watch};
use super::{Shared, oldest_of, read_stored};
use crate::error::StoreError;
use crate::key::TableName;
use crate::local::Order;
use core::ops::ControlFlow;
use core::time::Duration;
use std::sync::{Arc, PoisonError};

/// How many changes one answer holds before it ends with the commit it is in.
const CHANGES_PER_ANSWER: usize = 1_000;

struct LogWatch {
    shared: Arc<Shared>,
    prefix: Vec<u8>,
    key_start: usize,
    next: Revision,
}

pub(super) fn start(
    shared: &Arc<Shared>,
    table: TableName,
    prefix: &[u8],
    from: Revision,
) -> Result<Box<dyn Watch>, ReadError> {
    let oldest = shared.lock_current()?.oldest();
    if from < oldest {
        return Err(ReadError::Compacted {
            asked: from,
            oldest,
        });
    }
    Ok(Box::new(LogWatch {
        shared: Arc::clone(shared),
        prefix: row_key(table, prefix),
        key_start: table_prefix(table).len(),
        next: from,
    }))
}

impl LogWatch {
    /// Reads the log from where the watch is up to `head`.
    fn read(&mut self, head: Revision) -> Result<Vec<Change>, StoreError> {
        let store = self.shared.store.as_ref();
        let mut changes = Vec::new();
        let mut damage = None;
        let (mut next, prefix, key_start) = (self.next, &self.prefix, self.key_start);
        store.visit(
            LOG,
            &log_from(self.next),
            Order::Ascending,
            &mut |key, value| {
                let Some(revision) = log_revision(key).filter(|revision| *revision <= head) else {
                    return ControlFlow::Break(());
                };
                match read_stored::<LogEntry>(store, "the log", value) {
                    Ok(entry) => {
                        let seen = entry
                            .changes
                            .into_iter()
                            .filter(|c| c.row_key.starts_with(prefix));
                        changes.extend(seen.map(|change| Change {
                            revision,
                            key: change.row_key.get(key_start..).unwrap_or_default().to_vec(),
                            value: change.value,
                        }));
                        next = revision.next();
                    }
                    Err(error) => damage = Some(error),
                }
                if damage.is_some() || changes.len() >= CHANGES_PER_ANSWER {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )?;
        self.next = next;
        damage.map_or(Ok(changes), Err)
    }
}

impl Watch for LogWatch {
    fn next(&mut self, wait: Duration) -> Result<Vec<Change>, ReadError> {
        let shared = Arc::clone(&self.shared);
        let end = shared.clock.monotonic().saturating_add(wait);
        loop {
            let state = shared.lock_current()?;
            shared.begin(&state, None)?;
            let head = state.head;
            if self.next <= head {
                // Under the lock, so that nothing between the oldest and the newest is trimmed while it is read.
                let oldest = oldest_of(head, state.history.len());
                if self.next < oldest {
                    return Err(ReadError::Compacted {
                        asked: self.next,
                        oldest,
                    });
                }
                let changes = self.read(head)?;
                if !changes.is_empty() {
                    return Ok(changes);
                }
                continue;
            }
            let now = shared.clock.monotonic();
            if now >= end {
                return Ok(Vec::new());
            }
            let expiry = Duration::from_millis(state.next_expiry_ms());
            let pause = end
                .min(expiry)
                .saturating_sub(now)
                .max(Duration::from_millis(1));
            drop(
                shared
                    .committed
                    .wait_timeout(state, pause)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }
}
