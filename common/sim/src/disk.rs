//! A disk that outlives the programs on it: a store in memory that can be slow, hang, fail, lose what was not synced, rot.
//!
//! [`Disk::open`] gives a program the store. When the program ends ([`Disk::stop`]) or the power goes
//! ([`Disk::power_cut`]), that store answers nothing any more, and the next program opens what is left.

use crate::random::Random;
use crate::world::World;
use core::ops::Range;
use core::time::Duration;
use onggi_common_meta::error::StoreError;
use onggi_common_meta::local::{Batch, Durability, MemoryStore, Order, Read, Store, Visitor};
use onggi_common_meta::{KeyRange, TableName};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How long a call takes when it takes any time.
const CALL: Range<Duration> = Duration::from_micros(500)..Duration::from_millis(6);
/// How many calls of a thousand take any.
const SLOW_PER_MILLE: u64 = 300;

/// Looks on at batches before they are applied.
pub type Watch = Arc<dyn Fn(&Batch, &MemoryStore) + Send + Sync>;

struct State {
    store: Arc<MemoryStore>,
    random: Random,
    /// Which program's store answers.
    life: u64,
    is_hanging: bool,
    /// Writes fail, and from the first failed one on the store takes none until it is opened again.
    fails_writes: bool,
    is_out_of_service: bool,
    /// After so many more writes the power goes, in the middle of one.
    cut_after: Option<u64>,
    /// A fault for controls: nothing is synced, whatever is asked for.
    forgets_syncs: bool,
    watch: Option<Watch>,
}

/// A disk.
pub struct Disk {
    world: Arc<World>,
    tables: Vec<TableName>,
    state: Mutex<State>,
    changed: Notify,
    cut: Notify,
}

impl core::fmt::Debug for Disk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

/// The program the call is of has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

fn machine(operation: &'static str, text: &'static str) -> StoreError {
    StoreError::Machine {
        operation,
        store: Path::new("in memory").to_owned(),
        source: Box::new(io::Error::other(text)),
    }
}

impl Disk {
    /// An empty disk for a store with these tables.
    #[must_use]
    pub fn new(world: &Arc<World>, tables: &[TableName]) -> Arc<Self> {
        let state = State {
            store: Arc::new(MemoryStore::new(tables)),
            random: world.fork(),
            life: 0,
            is_hanging: false,
            fails_writes: false,
            is_out_of_service: false,
            cut_after: None,
            forgets_syncs: false,
            watch: None,
        };
        Arc::new(Self {
            world: Arc::clone(world),
            tables: tables.to_vec(),
            state: Mutex::new(state),
            changed: Notify::new(),
            cut: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls this for each batch that is written.
    pub fn watch(&self, watch: Watch) {
        self.lock().watch = Some(watch);
    }

    /// What is on the disk now, for checks from outside.
    #[must_use]
    pub fn contents(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.lock().store)
    }

    /// The store for a program that starts. That of the program before answers nothing any more.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> SimStore {
        let mut state = self.lock();
        state.life += 1;
        state.is_out_of_service = false;
        let (disk, life) = (Arc::clone(self), state.life);
        SimStore { disk, life }
    }

    /// The program ends; the machine goes on, so that nothing is lost.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.cut_after = None;
        drop(state);
        self.changed.notify_waiters();
    }

    /// The power goes: of what was not synced any number of last batches is lost.
    pub fn power_cut(&self) {
        self.lock().lose(&self.world);
        self.changed.notify_waiters();
    }

    /// The power goes at one of the next writes. [`Disk::on_cut`] says when.
    pub fn cut_after(&self, writes: u64) {
        self.lock().cut_after = Some(writes);
    }

    /// Takes [`Disk::cut_after`] back.
    pub fn spare(&self) {
        self.lock().cut_after = None;
    }

    /// Resolves when the power has gone by [`Disk::cut_after`].
    pub async fn on_cut(&self) {
        self.cut.notified().await;
    }

    /// Calls wait until this is taken back.
    pub fn set_hanging(&self, is_hanging: bool) {
        self.lock().is_hanging = is_hanging;
        self.changed.notify_waiters();
    }

    /// Whether calls wait, or writes fail.
    #[must_use]
    pub fn is_ill(&self) -> bool {
        let state = self.lock();
        state.is_hanging || state.fails_writes || state.is_out_of_service
    }

    /// Writes fail until this is taken back and the store is opened again.
    pub fn set_failing(&self, fails_writes: bool) {
        self.lock().fails_writes = fails_writes;
    }

    /// Nothing is synced from now on, although it is said to be.
    pub fn forget_syncs(&self) {
        self.lock().forgets_syncs = true;
    }

    /// Another, empty disk is put in the place of this one.
    pub fn replace(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.store = Arc::new(MemoryStore::new(&self.tables));
    }

    /// Flips a bit of one value of a table, of those whose keys may be chosen; its key. `None` when there is none.
    pub fn rot(&self, table: TableName, may_rot: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let store = self.contents();
        let mut rows = Vec::new();
        let visited = store.visit(
            table,
            &KeyRange::all(),
            Order::Ascending,
            &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                core::ops::ControlFlow::Continue(())
            },
        );
        visited.ok()?;
        rows.retain(|(key, value)| !value.is_empty() && may_rot(key));
        let mut state = self.lock();
        let index = state.random.index(rows.len());
        let (key, mut value) = rows.into_iter().nth(index)?;
        let at = state.random.index(value.len());
        if let Some(byte) = value.get_mut(at) {
            *byte ^= 1 << state.random.index(8);
        }
        let mut batch = Batch::new();
        batch.put(table, key.clone(), value);
        store.write(&batch, Durability::Synced).ok()?;
        Some(key)
    }

    /// Waits for the time a call takes.
    ///
    /// # Errors
    /// When the program that opened the store in this life has ended.
    pub async fn pass(&self, life: u64) -> Result<(), Ended> {
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.lock();
                if state.life != life {
                    return Err(Ended);
                }
                if state.is_hanging {
                    None
                } else if state.random.per_mille(SLOW_PER_MILLE) {
                    Some(state.random.span(&CALL))
                } else {
                    return Ok(());
                }
            };
            match wait {
                None => changed.await,
                Some(time) => {
                    tokio::time::sleep(time).await;
                    let state = self.lock();
                    if state.life == life && !state.is_hanging {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl State {
    fn lose(&mut self, world: &World) {
        self.life += 1;
        self.cut_after = None;
        let lazy = self.store.lazy_batch_count();
        let kept = self.random.index(lazy + 1);
        world.count(&[lazy as u64, kept as u64]);
        self.store = Arc::new(self.store.after_power_cut(kept));
    }
}

/// A program's hold of the store on a disk.
#[derive(Debug)]
pub struct SimStore {
    disk: Arc<Disk>,
    life: u64,
}

impl SimStore {
    /// Which life of the disk it is of.
    #[must_use]
    pub const fn life(&self) -> u64 {
        self.life
    }

    fn store(&self, operation: &'static str) -> Result<Arc<MemoryStore>, StoreError> {
        let state = self.disk.lock();
        if state.life == self.life {
            Ok(Arc::clone(&state.store))
        } else {
            Err(machine(operation, "the machine is off"))
        }
    }

    /// What a write meets; `None` when it may go on.
    fn fault(&self, batch: &Batch) -> Option<StoreError> {
        let mut state = self.disk.lock();
        if state.is_out_of_service {
            return Some(StoreError::OutOfService {
                store: Path::new("in memory").to_owned(),
                reason: "an input or output error".to_owned(),
            });
        }
        if state.fails_writes {
            state.is_out_of_service = true;
            return Some(machine("writing", "an input or output error"));
        }
        match state.cut_after {
            Some(0) => {
                // Nobody hears of the write, which may be whole on the disk all the same.
                let store = Arc::clone(&state.store);
                if state.random.per_mille(500) {
                    drop(store.write(batch, Durability::Lazy));
                }
                state.lose(&self.disk.world);
                drop(state);
                self.disk.cut.notify_one();
                self.disk.changed.notify_waiters();
                Some(machine("writing", "the power went"))
            }
            left => {
                state.cut_after = left.map(|left| left - 1);
                None
            }
        }
    }
}

impl Read for SimStore {
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store("reading")?.get(table, key)
    }

    fn visit(
        &self,
        table: TableName,
        range: &KeyRange,
        order: Order,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        self.store("reading")?.visit(table, range, order, visitor)
    }
}

impl Store for SimStore {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        let store = self.store("writing")?;
        if let Some(error) = self.fault(batch) {
            return Err(error);
        }
        let (watch, forgets_syncs) = {
            let state = self.disk.lock();
            (state.watch.clone(), state.forgets_syncs)
        };
        if let Some(watch) = watch {
            watch(batch, &store);
        }
        let durability = if forgets_syncs {
            Durability::Lazy
        } else {
            durability
        };
        store.write(batch, durability)
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        match self.store("reading") {
            Ok(store) => Box::new(store.after_power_cut(store.lazy_batch_count())),
            Err(_off) => Box::new(Nothing),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        let store = self.store("syncing")?;
        if self.disk.lock().forgets_syncs {
            return Ok(());
        }
        store.sync()
    }

    fn location(&self) -> &Path {
        Path::new("in memory")
    }
}

/// The store of a program that has ended.
struct Nothing;

impl Read for Nothing {
    fn get(&self, _table: TableName, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Err(machine("reading", "the machine is off"))
    }

    fn visit(
        &self,
        _table: TableName,
        _range: &KeyRange,
        _order: Order,
        _visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        Err(machine("reading", "the machine is off"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world;

    const ROWS: TableName = TableName::new("rows");

    fn batch(key: &str) -> Batch {
        let mut batch = Batch::new();
        batch.put(ROWS, key.as_bytes(), b"value".as_slice());
        batch
    }

    fn has(store: &dyn Read, key: &str) -> bool {
        store.get(ROWS, key.as_bytes()).unwrap().is_some()
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_ends_the_program() {
        world::run(1, async |world| {
            let disk = Disk::new(&world, &[ROWS]);
            let store = disk.open();
            store.write(&batch("a"), Durability::Synced).unwrap();
            let mut lost = 0;
            for round in 0..20 {
                let store = disk.open();
                let key = format!("b{round}");
                store.write(&batch(&key), Durability::Lazy).unwrap();
                disk.power_cut();
                assert!(store.get(ROWS, b"a").is_err() && disk.pass(store.life()).await.is_err());
                let store = disk.open();
                assert!(has(&store, "a"));
                lost += u32::from(!has(&store, &key));
            }
            assert!((1..20).contains(&lost), "{lost}");
        });
    }

    #[test]
    fn the_power_goes_in_the_middle_of_a_write() {
        world::run(2, async |world| {
            let disk = Disk::new(&world, &[ROWS]);
            let store = disk.open();
            disk.cut_after(1);
            store.write(&batch("a"), Durability::Synced).unwrap();
            assert!(store.write(&batch("b"), Durability::Synced).is_err());
            disk.on_cut().await;
            assert!(has(&disk.open(), "a"));
        });
    }

    #[test]
    fn a_forgetful_disk_loses_what_it_said_was_synced_and_a_failing_one_says_no() {
        world::run(3, async |world| {
            let disk = Disk::new(&world, &[ROWS]);
            disk.forget_syncs();
            let mut lost = 0;
            for round in 0..20 {
                let store = disk.open();
                let key = format!("a{round}");
                store.write(&batch(&key), Durability::Synced).unwrap();
                disk.power_cut();
                lost += u32::from(!has(&disk.open(), &key));
            }
            assert!(lost > 0);
            let store = disk.open();
            disk.set_failing(true);
            assert!(store.write(&batch("b"), Durability::Synced).is_err());
            disk.set_failing(false);
            assert!(store.write(&batch("b"), Durability::Synced).is_err());
            disk.open().write(&batch("b"), Durability::Synced).unwrap();
            assert!(disk.rot(ROWS, |_| true).is_some() && disk.rot(ROWS, |_| false).is_none());
        });
    }

    #[test]
    fn a_hanging_disk_lets_nothing_pass_until_it_goes_on() {
        world::run(4, async |world| {
            let disk = Disk::new(&world, &[ROWS]);
            let life = disk.open().life();
            disk.set_hanging(true);
            let second = Duration::from_secs(1);
            assert!(tokio::time::timeout(second, disk.pass(life)).await.is_err());
            disk.set_hanging(false);
            disk.pass(life).await.unwrap();
        });
    }
}
