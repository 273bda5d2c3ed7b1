//! The checker of invariants M1 and M2: a transaction that was acknowledged is there with all its rows, one that was
//! under way is there whole or not at all.

use super::control::{self, Plan, ROWS, State, TABLE, THREADS};
use super::mounted::Mounter;
use super::replay::Check;
use anyhow::{Context as _, Result, ensure};
use onggi_common_meta::KeyRange;
use onggi_common_meta::control::{At, Embedded, Outcome, Revision, Store as _};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Checks the control store of the workload with this seed and number of transactions.
#[derive(Debug)]
pub struct ControlCheck {
    plans: Vec<Plan>,
    /// How many transactions of each thread were acknowledged, and the revision of the last.
    acknowledged: Vec<(usize, Revision)>,
    mounter: Mounter,
    store: PathBuf,
}

impl ControlCheck {
    /// The checker of the store in the folder `store` of the mounted file systems.
    #[must_use]
    pub fn new((seed, count): (u64, usize), mounter: Mounter, store: PathBuf) -> Self {
        let plans: Vec<_> = (0..THREADS)
            .map(|thread| Plan::new(seed, thread, count))
            .collect();
        Self {
            acknowledged: vec![(0, Revision::ZERO); plans.len()],
            plans,
            mounter,
            store,
        }
    }

    fn compare(&self, store: &Embedded) -> Result<Option<String>> {
        let page = store.scan(TABLE, &KeyRange::all(), At::Now, usize::MAX)?;
        let rows: BTreeMap<_, _> = page
            .rows
            .into_iter()
            .map(|row| (row.key, row.value))
            .collect();
        for (plan, (count, revision)) in self.plans.iter().zip(&self.acknowledged) {
            let thread = plan.thread;
            // The thread began at most one more transaction than was acknowledged to it.
            let states = plan.states.iter().skip(*count).take(2);
            let wrong: Vec<_> = states.map(|state| differs(&rows, thread, state)).collect();
            if wrong.iter().all(Option::is_some) {
                let wrong: Vec<_> = wrong.into_iter().flatten().collect();
                return Ok(Some(format!(
                    "thread {thread} with {count} acknowledged transactions: {}",
                    wrong.join(", or ")
                )));
            }
            let Some(last) = count.checked_sub(1) else {
                continue;
            };
            let outcome = store.outcome(control::id(thread, last))?;
            if outcome != Outcome::Committed(*revision) || page.revision < *revision {
                return Ok(Some(format!(
                    "transaction {last} of thread {thread} made revision {revision}; now it is {outcome:?}, the store at {}",
                    page.revision
                )));
            }
        }
        Ok(None)
    }
}

fn differs(rows: &BTreeMap<Vec<u8>, Vec<u8>>, thread: u64, state: &State) -> Option<String> {
    (0..ROWS).find_map(|row| {
        let found = rows.get(&control::key(thread, row));
        let wanted = state[row].map(|(by, length)| control::content(thread, by, row, length));
        (found != wanted.as_ref()).then(|| {
            let found = found.map(Vec::len);
            format!(
                "row {row} has {found:?} bytes that are not those of {:?}",
                state[row]
            )
        })
    })
}

impl Check for ControlCheck {
    fn acknowledge(&mut self, mark: &[u8]) -> Result<()> {
        let (thread, number, revision) = control::parse_mark(mark)?;
        let acknowledged = self.acknowledged.get_mut(usize::try_from(thread)?);
        let acknowledged = acknowledged.context("a mark of no thread")?;
        ensure!(number == acknowledged.0, "marks that are out of order");
        *acknowledged = (number + 1, revision);
        Ok(())
    }

    fn check(&mut self, disk: &[u8]) -> Result<Option<String>> {
        self.mounter.look(disk, |root| {
            // What was never acknowledged need not be there; before the first mark no cut is made.
            match control::open(&root.join(&self.store)) {
                Ok(store) => self.compare(&store),
                Err(error) => Ok(Some(format!("{error:#}"))),
            }
        })
    }

    fn repaired(&self) -> usize {
        self.mounter.repaired()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::SystemClock;
    use onggi_common_meta::control::{Transaction, TxnId};
    use onggi_common_units::Uuid;
    use std::sync::Arc;

    fn checker() -> ControlCheck {
        ControlCheck::new(
            (5, 30),
            Mounter::new(PathBuf::new(), Vec::new()),
            PathBuf::new(),
        )
    }

    fn mark(thread: u64, number: u64, revision: u64) -> Vec<u8> {
        [thread, number, revision].map(u64::to_le_bytes).concat()
    }

    /// A store with the rows of the first thread after so many transactions, and the mark of the last.
    fn store_after(check: &mut ControlCheck, end: usize) -> Embedded {
        let store = Embedded::in_memory(Arc::new(SystemClock::new()));
        for number in 0..end {
            let mut made = Transaction::new(control::id(0, number));
            let states = &check.plans[0].states;
            let changes = states[number].iter().zip(&states[number + 1]);
            for (row, (before, after)) in changes.enumerate() {
                let key = control::key(0, row);
                made = match (*before, *after) {
                    (before, after) if before == after => made,
                    (_, Some((by, length))) => {
                        made.put(TABLE, key, control::content(0, by, row, length))
                    }
                    (_, None) => made.delete(TABLE, key),
                };
            }
            let revision = store.commit(&made).unwrap();
            let number = u64::try_from(number).unwrap();
            check
                .acknowledge(&mark(0, number, revision.number()))
                .unwrap();
        }
        store
    }

    #[test]
    fn what_was_acknowledged_is_right_and_a_changed_row_or_outcome_is_found() {
        let mut check = checker();
        let store = store_after(&mut check, 20);
        assert_eq!(check.compare(&store).unwrap(), None);
        let row = check.plans[0].states[20].iter().position(Option::is_some);
        let key = control::key(0, row.unwrap());
        let other = Transaction::new(TxnId(Uuid::from_bytes([9; 16]))).put(TABLE, key, *b"?");
        store.commit(&other).unwrap();
        assert!(check.compare(&store).unwrap().is_some());
        let mut check = checker();
        let store = store_after(&mut check, 20);
        check.acknowledged[0].1 = Revision::new(99);
        assert!(check.compare(&store).unwrap().is_some());
    }

    #[test]
    fn marks_that_make_no_sense_are_refused() {
        let mut check = checker();
        assert!(check.acknowledge(b"?").is_err());
        assert!(check.acknowledge(&mark(9, 0, 1)).is_err());
        assert!(check.acknowledge(&mark(0, 1, 1)).is_err());
    }
}
