//! The workload of invariant M1: threads commit transactions to a control store in the guest.
//!
//! Each of [`THREADS`] threads has [`ROWS`] rows of its own and a [`Plan`] that follows from the seed. When a transaction
//! was committed it puts a mark with its number, that of the transaction and the revision, and only then begins the
//! next. Half-way the store is closed and opened again.

use super::marks::MarkWriter;
use super::random::Random;
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::SystemClock;
use onggi_common_meta::TableName;
use onggi_common_meta::control::{Embedded, Revision, Store as _, Transaction, TxnId, rocks};
use onggi_common_units::Uuid;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many threads commit at a time.
pub const THREADS: u64 = 3;
/// How many rows each of them has.
pub const ROWS: usize = 8;
/// The table they are in.
pub const TABLE: TableName = TableName::new("workload");

const VALUE_BYTES_MAX: u64 = 3_000;

/// What a transaction does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Writes it with so many bytes.
    Put {
        /// Which.
        row: usize,
        /// Bytes.
        length: usize,
    },
    /// Removes it.
    Delete {
        /// Which.
        row: usize,
    },
}

/// The rows of a thread: the transaction that wrote each, and the length.
pub type State = [Option<(usize, usize)>; ROWS];

/// The transactions of one thread; the number of a transaction is its place.
#[derive(Debug)]
pub struct Plan {
    /// Whose it is.
    pub thread: u64,
    /// What each does, never twice to one row.
    pub transactions: Vec<Vec<Step>>,
    /// The rows before each, and after the last.
    pub states: Vec<State>,
}

impl Plan {
    /// The plan that follows from a seed.
    #[must_use]
    pub fn new(seed: u64, thread: u64, count: usize) -> Self {
        let mut random = Random::new(seed.wrapping_add(thread));
        let mut state = State::default();
        let (mut transactions, mut states) = (Vec::with_capacity(count), vec![state]);
        for number in 0..count {
            let mut steps = Vec::new();
            for (row, value) in state.iter_mut().enumerate() {
                match random.below(8) {
                    0..=2 => {
                        let length = usize::try_from(random.below(VALUE_BYTES_MAX)).unwrap_or(0);
                        *value = Some((number, length));
                        steps.push(Step::Put { row, length });
                    }
                    3 => {
                        *value = None;
                        steps.push(Step::Delete { row });
                    }
                    _ => {}
                }
            }
            transactions.push(steps);
            states.push(state);
        }
        Self {
            thread,
            transactions,
            states,
        }
    }
}

/// What a transaction writes to a row.
#[must_use]
pub fn content(thread: u64, number: usize, row: usize, length: usize) -> Vec<u8> {
    let seed = thread.rotate_left(48) ^ (row as u64).rotate_left(32) ^ number as u64;
    let mut random = Random::new(seed);
    let words = (0..length.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes());
    words.take(length).collect()
}

/// The key of a row.
#[must_use]
pub fn key(thread: u64, row: usize) -> Vec<u8> {
    format!("{thread}-{row}").into_bytes()
}

/// The name of a transaction.
#[must_use]
pub fn id(thread: u64, number: usize) -> TxnId {
    let bytes = (u128::from(thread + 1) << 64 | number as u128).to_be_bytes();
    TxnId(Uuid::from_bytes(bytes))
}

/// Where the workload finds what it needs, in the guest.
#[derive(Debug, Clone)]
pub struct Place {
    /// The store's folder.
    pub store: PathBuf,
    /// The disk that takes the marks.
    pub disk: PathBuf,
    /// Where on the disk the marks go.
    pub marks: u64,
}

/// Opens a control store.
///
/// # Errors
/// When it is damaged or the machine refuses.
pub fn open(folder: &Path) -> Result<Embedded> {
    rocks::open(folder, Arc::new(SystemClock::new())).context("opening the control store")
}

/// Commits until the plans of all threads are carried out.
///
/// # Errors
/// When the store refuses anything.
pub fn run(place: &Place, seed: u64, count: usize) -> Result<()> {
    let plans: Vec<_> = (0..THREADS)
        .map(|thread| Plan::new(seed, thread, count))
        .collect();
    for numbers in [0..count / 2, count / 2..count] {
        let store = open(&place.store)?;
        std::thread::scope(|scope| {
            let threads = plans.iter().map(|plan| {
                let (store, numbers) = (&store, numbers.clone());
                scope.spawn(move || work(place, store, plan, numbers))
            });
            // All of them are started before the first is waited for.
            let threads: Vec<_> = threads.collect();
            for thread in threads {
                match thread.join() {
                    Ok(outcome) => outcome?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

fn work(place: &Place, store: &Embedded, plan: &Plan, numbers: Range<usize>) -> Result<()> {
    let marks = MarkWriter::open(&place.disk, place.marks)?;
    for number in numbers {
        let revision = store.commit(&transaction(store, plan, number)?);
        let revision = revision.with_context(|| format!("transaction {number}"))?;
        let mark = [plan.thread, u64::try_from(number)?, revision.number()];
        marks.put(&mark.map(u64::to_le_bytes).concat())?;
    }
    Ok(())
}

/// A transaction whose rows must be as the plan has left them.
fn transaction(store: &Embedded, plan: &Plan, number: usize) -> Result<Transaction> {
    let mut made = Transaction::new(id(plan.thread, number));
    let before = &plan.states[number];
    for step in &plan.transactions[number] {
        let (Step::Put { row, .. } | Step::Delete { row }) = *step;
        let key = key(plan.thread, row);
        let found = store.get(TABLE, &key)?;
        ensure!(
            found.is_some() == before[row].is_some(),
            "row {row} is not as it was left"
        );
        made = match found {
            Some(found) => made.at(TABLE, key.clone(), found.revision),
            None => made.absent(TABLE, key.clone()),
        };
        made = match *step {
            Step::Put { length, .. } => {
                made.put(TABLE, key, content(plan.thread, number, row, length))
            }
            Step::Delete { .. } => made.delete(TABLE, key),
        };
    }
    Ok(made)
}

/// A mark, read: thread, transaction, revision.
///
/// # Errors
/// When it is none.
pub fn parse_mark(mark: &[u8]) -> Result<(u64, usize, Revision)> {
    let (numbers, rest) = mark.as_chunks::<8>();
    let [thread, number, revision] = numbers else {
        anyhow::bail!("a foreign mark");
    };
    ensure!(rest.is_empty(), "a foreign mark");
    Ok((
        u64::from_le_bytes(*thread),
        usize::try_from(u64::from_le_bytes(*number))?,
        Revision::new(u64::from_le_bytes(*revision)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_is_carried_out() {
        let plan = Plan::new(7, 1, 40);
        assert_eq!(plan.transactions, Plan::new(7, 1, 40).transactions);
        assert_ne!(plan.transactions, Plan::new(8, 1, 40).transactions);
        let store = Embedded::in_memory(Arc::new(SystemClock::new()));
        for number in 0..40 {
            store
                .commit(&transaction(&store, &plan, number).unwrap())
                .unwrap();
            for (row, wanted) in plan.states[number + 1].iter().enumerate() {
                let found = store.get(TABLE, &key(1, row)).unwrap();
                let wanted = wanted.map(|(by, length)| content(1, by, row, length));
                assert_eq!(found.map(|row| row.value), wanted);
            }
        }
    }

    #[test]
    fn transactions_have_names_of_their_own() {
        assert_ne!(id(0, 1), id(1, 0));
        assert_ne!(id(0, 1), id(0, 2));
    }
}
