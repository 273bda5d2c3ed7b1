//! Rows of one table as they were read last, in front of RocksDB.
//!
//! RocksDB looks for a row in its memtables and in the index, filter and data block of a table file for each level: some
//! microseconds, also when all of it is in memory. What is wanted often is kept here as it was found, in a bounded number of
//! bytes.
//!
//! What is here is never older than what RocksDB says: a row that is being written is taken out before the write and not put
//! in again until the write has come to its end, and what a reader has found is kept only when no write of its shard has
//! ended since it began to look. So no reader sees an older value than another one saw before.

use super::super::{Batch, Write};
use crate::key::{KeyRange, TableName};
use core::hash::BuildHasher as _;
use onggi_common_units::ByteCount;
use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts with a lock of their own.
const SHARDS: usize = 16;
/// What a row takes beside its key and value: its places in a map and in the allocator.
const ROW_OVERHEAD_BYTES: usize = 96;
/// A row of more than this share of a shard is not kept.
const SHARE_MAX: usize = 8;
/// Of so many rows that would push others out one is kept: what is wanted often comes in soon, and a walk through more rows
/// than there is room for pushes few out.
const KEPT_OF: u32 = 8;

/// The rows of one table.
#[derive(Debug)]
pub(super) struct RowCache {
    table: TableName,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

/// When there is no room the clock's hand goes round: a row that was wanted since it came by last stays, another goes.
#[derive(Debug)]
struct Shard {
    places: HashMap<Arc<[u8]>, usize>,
    slots: Vec<Option<Kept>>,
    free: Vec<usize>,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    /// Rows that would have pushed others out.
    refused: u32,
    /// Keys that are being written, and by how many.
    changing: HashMap<Vec<u8>, u32>,
    /// Ranges that are being deleted.
    clearing: u32,
    /// Writes that have come to their end.
    changes: u64,
}

#[derive(Debug)]
struct Kept {
    key: Arc<[u8]>,
    value: Box<[u8]>,
    is_wanted: bool,
}

/// What is known of a row.
pub(super) enum Looked<'a> {
    /// Its value.
    Row(Vec<u8>),
    /// Nothing: it is to be read, and may be kept.
    Unknown(Ticket<'a>),
}

/// For a row that is being read.
pub(super) struct Ticket<'a> {
    cache: &'a RowCache,
    shard: usize,
    /// The shard's changes when the reading began.
    changes: u64,
}

/// A batch that is being written: until this is dropped none of its rows is here.
pub(super) struct Changing<'a> {
    cache: &'a RowCache,
    batch: &'a Batch,
}

impl RowCache {
    pub(super) fn new(table: TableName, size: ByteCount) -> Self {
        let size = usize::try_from(size.bytes()).unwrap_or(usize::MAX);
        let shard = || {
            Mutex::new(Shard {
                places: HashMap::new(),
                slots: Vec::new(),
                free: Vec::new(),
                hand: 0,
                bytes: 0,
                bytes_max: size / SHARDS,
                refused: 0,
                changing: HashMap::new(),
                clearing: 0,
                changes: 0,
            })
        };
        Self {
            table,
            hasher: RandomState::new(),
            shards: core::iter::repeat_with(shard).take(SHARDS).collect(),
        }
    }

    pub(super) fn table(&self) -> TableName {
        self.table
    }

    /// The row, if it is here.
    pub(super) fn look(&self, key: &[u8]) -> Looked<'_> {
        let shard = self.shard_of(key);
        let mut rows = self.lock(shard);
        match rows.find(key) {
            Some(value) => Looked::Row(value),
            None => Looked::Unknown(Ticket {
                cache: self,
                shard,
                changes: rows.changes,
            }),
        }
    }

    /// Forgets the rows that were not wanted since this was called last.
    pub(super) fn age(&self) {
        for shard in 0..SHARDS {
            self.lock(shard).age();
        }
    }

    /// Takes the rows of a batch out before it is written.
    pub(super) fn change<'a>(&'a self, batch: &'a Batch) -> Changing<'a> {
        self.each(batch, Shard::begin, Shard::begin_clearing);
        Changing { cache: self, batch }
    }

    /// Calls one function for each key of the batch, and another for each shard and range.
    fn each(
        &self,
        batch: &Batch,
        on_key: impl Fn(&mut Shard, &[u8]),
        on_range: impl Fn(&mut Shard, &KeyRange),
    ) {
        let writes = batch.writes().iter();
        for write in writes.filter(|write| write.table() == self.table) {
            match write {
                Write::Put { key, .. } | Write::Delete { key, .. } => {
                    on_key(&mut self.lock(self.shard_of(key)), key);
                }
                Write::DeleteRange { range, .. } => {
                    for shard in 0..SHARDS {
                        on_range(&mut self.lock(shard), range);
                    }
                }
            }
        }
    }

    fn shard_of(&self, key: &[u8]) -> usize {
        // The remainder by a small number fits.
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a shard's number is below SHARDS, and there are as many"
    )]
    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        // No step in between leaves what is not true.
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// Keeps what was found, unless it may have changed.
    pub(super) fn keep(self, key: &[u8], value: &[u8]) {
        let mut rows = self.cache.lock(self.shard);
        if rows.changes == self.changes {
            rows.keep(key, value);
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.cache
            .each(self.batch, Shard::end, |shard, _range| shard.end_clearing());
    }
}

impl Shard {
    fn find(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let place = *self.places.get(key)?;
        let kept = self.slots.get_mut(place)?.as_mut()?;
        kept.is_wanted = true;
        Some(kept.value.to_vec())
    }

    fn keep(&mut self, key: &[u8], value: &[u8]) {
        if self.clearing > 0 || self.changing.contains_key(key) || self.places.contains_key(key) {
            return;
        }
        let cost = cost(key, value);
        if cost > self.bytes_max / SHARE_MAX || !self.is_admitted(cost) {
            return;
        }
        self.make_room(cost);
        let key: Arc<[u8]> = key.into();
        let kept = Some(Kept {
            key: Arc::clone(&key),
            value: value.into(),
            is_wanted: false,
        });
        let place = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(place) {
            Some(slot) => *slot = kept,
            None => self.slots.push(kept),
        }
        self.places.insert(key, place);
        self.bytes += cost;
    }

    /// Whether one more row may come in: always while there is room.
    fn is_admitted(&mut self, cost: usize) -> bool {
        if self.bytes + cost <= self.bytes_max {
            return true;
        }
        self.refused = (self.refused + 1) % KEPT_OF;
        self.refused == 0
    }

    fn make_room(&mut self, cost: usize) {
        while self.bytes + cost > self.bytes_max && !self.places.is_empty() {
            self.hand = (self.hand + 1) % self.slots.len();
            self.pass(self.hand);
        }
    }

    /// The hand passes a place.
    fn pass(&mut self, place: usize) {
        match self.slots.get_mut(place) {
            Some(Some(kept)) if kept.is_wanted => kept.is_wanted = false,
            Some(slot) => {
                if let Some(kept) = slot.take() {
                    self.forget(place, &kept);
                }
            }
            None => {}
        }
    }

    /// What is left to do when a row has been taken from its place.
    fn forget(&mut self, place: usize, kept: &Kept) {
        self.places.remove(&kept.key);
        self.free.push(place);
        self.bytes -= cost(&kept.key, &kept.value);
    }

    /// Lets the hand go round once, and gives back memory that is not needed any more.
    fn age(&mut self) {
        for place in 0..self.slots.len() {
            self.pass(place);
        }
        if self.places.is_empty() {
            self.places = HashMap::new();
            self.slots = Vec::new();
            self.free = Vec::new();
            self.hand = 0;
        }
    }

    fn take_out(&mut self, key: &[u8]) {
        let place = self.places.get(key).copied();
        let slot = place.and_then(|place| Some((place, self.slots.get_mut(place)?.take()?)));
        if let Some((place, kept)) = slot {
            self.forget(place, &kept);
        }
    }

    fn begin(&mut self, key: &[u8]) {
        self.take_out(key);
        *self.changing.entry(key.to_vec()).or_default() += 1;
    }

    fn end(&mut self, key: &[u8]) {
        self.changes = self.changes.wrapping_add(1);
        if let Some(writers) = self.changing.get_mut(key) {
            *writers -= 1;
            if *writers == 0 {
                self.changing.remove(key);
            }
        }
    }

    fn begin_clearing(&mut self, range: &KeyRange) {
        self.clearing += 1;
        for place in 0..self.slots.len() {
            let slot = self.slots.get_mut(place);
            let kept = slot.and_then(|slot| slot.take_if(|kept| range.contains(&kept.key)));
            if let Some(kept) = kept {
                self.forget(place, &kept);
            }
        }
    }

    fn end_clearing(&mut self) {
        self.changes = self.changes.wrapping_add(1);
        self.clearing -= 1;
    }
}

const fn cost(key: &[u8], value: &[u8]) -> usize {
    ROW_OVERHEAD_BYTES + key.len() + value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JARS: TableName = TableName::new("jars");
    const LIDS: TableName = TableName::new("lids");

    fn cache(bytes: u64) -> RowCache {
        RowCache::new(JARS, ByteCount::new(bytes))
    }

    fn ticket<'a>(rows: &'a RowCache, key: &[u8]) -> Ticket<'a> {
        match rows.look(key) {
            Looked::Row(value) => panic!("{value:?} is here"),
            Looked::Unknown(ticket) => ticket,
        }
    }

    fn keep(rows: &RowCache, key: &[u8], value: &[u8]) {
        ticket(rows, key).keep(key, value);
    }

    fn row(rows: &RowCache, key: &[u8]) -> Option<Vec<u8>> {
        match rows.look(key) {
            Looked::Row(value) => Some(value),
            Looked::Unknown(_) => None,
        }
    }

    #[test]
    fn a_row_is_away_while_it_is_written_and_only_it() {
        let rows = cache(1 << 20);
        keep(&rows, b"a", b"1");
        keep(&rows, b"b", b"1");
        let mut batch = Batch::new();
        batch.put(JARS, b"a", b"2").delete(LIDS, b"b");
        let first = rows.change(&batch);
        let second = rows.change(&batch);
        keep(&rows, b"a", b"1");
        drop(first);
        keep(&rows, b"a", b"2");
        assert_eq!(row(&rows, b"a"), None, "another writes it still");
        drop(second);
        keep(&rows, b"a", b"2");
        assert_eq!(row(&rows, b"a").as_deref(), Some(b"2".as_slice()));
        assert_eq!(row(&rows, b"b").as_deref(), Some(b"1".as_slice()));
    }

    #[test]
    fn what_was_read_across_a_write_is_not_kept() {
        let rows = cache(1 << 20);
        let mut batch = Batch::new();
        batch.delete(JARS, b"a");
        let before = ticket(&rows, b"a");
        let changing = rows.change(&batch);
        let during = ticket(&rows, b"a");
        drop(changing);
        before.keep(b"a", b"1");
        assert_eq!(row(&rows, b"a"), None);
        during.keep(b"a", b"1");
        assert_eq!(row(&rows, b"a"), None);
    }

    #[test]
    fn a_range_takes_out_what_is_in_it() {
        let rows = cache(1 << 20);
        for key in [b"a", b"b", b"c"] {
            keep(&rows, key, b"1");
        }
        let mut batch = Batch::new();
        batch.delete_range(JARS, KeyRange::between(b"b", b"c"));
        let across = ticket(&rows, b"bb");
        let changing = rows.change(&batch);
        keep(&rows, b"b", b"1");
        drop(changing);
        across.keep(b"bb", b"1");
        let left = [b"a".as_slice(), b"b", b"bb", b"c"].map(|key| row(&rows, key).is_some());
        assert_eq!(left, [true, false, false, true]);
    }

    #[test]
    fn it_stays_within_its_memory_and_keeps_what_is_wanted() {
        const SIZE: usize = 1 << 20;
        let rows = cache(SIZE as u64);
        let wanted = b"wanted";
        keep(&rows, wanted, b"1");
        for number in 0u32..20_000 {
            keep(&rows, &number.to_be_bytes(), &[7; 300]);
            if number % 100 == 0 {
                assert!(row(&rows, wanted).is_some(), "lost after {number}");
            }
        }
        let mut bytes = 0;
        for shard in 0..SHARDS {
            let shard = rows.lock(shard);
            let kept = shard.slots.iter().flatten();
            let all: usize = kept.map(|kept| cost(&kept.key, &kept.value)).sum();
            assert_eq!(all, shard.bytes);
            assert_eq!(shard.places.len() + shard.free.len(), shard.slots.len());
            bytes += all;
            assert!(shard.changing.is_empty());
        }
        assert!(bytes <= SIZE && bytes > SIZE / 4 * 3, "{bytes} bytes");
        rows.age();
        rows.age();
        assert_eq!(row(&rows, wanted), None);
        keep(&rows, wanted, b"1");
        assert!(row(&rows, wanted).is_some(), "there is room");
        let large = vec![7; SIZE / SHARDS / SHARE_MAX];
        keep(&rows, b"large", &large);
        assert_eq!(row(&rows, b"large"), None);
    }

    #[test]
    fn a_walk_through_more_rows_than_fit_finds_a_good_part_of_them() {
        const ROWS: u32 = 4_000;
        let each = cost(&[0; 4], &[7; 100]) as u64;
        let rows = cache(each * u64::from(ROWS) / 2);
        let mut found = 0;
        for _ in 0..10 {
            found = 0;
            for number in 0..ROWS {
                let key = number.to_be_bytes();
                match rows.look(&key) {
                    Looked::Row(_) => found += 1,
                    Looked::Unknown(ticket) => ticket.keep(&key, &[7; 100]),
                }
            }
        }
        assert!(found > ROWS / 3, "{found} of {ROWS}, with room for half");
    }
}
