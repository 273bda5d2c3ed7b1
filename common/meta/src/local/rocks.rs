//! The local store on RocksDB.
//!
//! | file | what |
//! |---|---|
//! | `FORMAT` | the marker: format version, whether the store is whole, its tables. Written before and after the rest, so that a directory that held a store is never taken for an empty one |
//! | `db/` | RocksDB's files: one column family per table, one write-ahead log for all |
//! | `TORN` | what was cut off the log after the last power cut that tore a write |
//!
//! M3: the log is read so that only a record cut short at its very end may be dropped (that is what a crash leaves); a
//! checksum that does not hold, a log the manifest knows and the directory lacks, a missing table, table file or blob file
//! is an error. A write that a power cut has torn is cut off before (`rocks/torn.rs`). What cannot be noticed: the newest log cut
//! short at the end of a record, or its last block's length fields flipped, look like a crash.

use super::marker::{DB_DIR, Marker, Phase};
use super::{Batch, Durability, Order, Read, Store, Visitor, Write};
use crate::error::{ADVICE_DAMAGED, OpenError, StoreError};
use crate::key::{KEY_BYTES_MAX, KeyRange, TableName};
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use onggi_common_host::durable;
use onggi_common_units::ByteCount;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, DBRecoveryMode, ErrorKind, FlushOptions, ReadOptions, ReadTier, WriteBatch,
    WriteOptions,
};
use rows::{Looked, RowCache};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

mod damage;
mod garbage;
mod rows;
mod torn;

/// With so many writes from one look to the next a store is at rest.
const REST_WRITES_MAX: u64 = 1_000;
/// So often it is found at rest before its recent rows leave memory.
const REST_LOOKS: u32 = 6;
/// Rows that were not wanted for so many to twice as many looks are not kept any more.
const ROWS_LOOKS: u32 = 12;
/// Less than this is left in memory.
const FLUSH_BYTES_MIN: u64 = 1 << 20;
const MEMTABLE_BYTES: &str = "rocksdb.cur-size-active-mem-table";

/// How the store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its tables. One that is new is made; one that is not named any more stays.
    pub tables: Vec<TableOptions>,
    /// How much memory its cache of blocks may take.
    pub cache: ByteCount,
    /// How much memory recent writes may take before they go to table files.
    pub write_buffers: ByteCount,
}

/// One table.
#[derive(Debug, Clone, Copy)]
pub struct TableOptions {
    /// Its name.
    pub name: TableName,
    /// Values from this size on go to blob files: compaction then moves only their addresses.
    pub blobs_from: Option<ByteCount>,
    /// How much memory the rows that were read last may take as they are, beside the cache of blocks.
    pub rows_cached: Option<ByteCount>,
}

impl Options {
    /// Tables without blob files, 32 MiB of cache, 64 MiB of write buffers.
    #[must_use]
    pub fn new(tables: &[TableName]) -> Self {
        let tables = tables.iter().map(|name| TableOptions {
            name: *name,
            blobs_from: None,
            rows_cached: None,
        });
        Self {
            tables: tables.collect(),
            cache: ByteCount::from_mib(32),
            write_buffers: ByteCount::from_mib(64),
        }
    }

    /// One more table, whose values from `size` on go to blob files.
    #[must_use]
    pub fn with_blobs(mut self, name: TableName, size: ByteCount) -> Self {
        self.tables.push(TableOptions {
            name,
            blobs_from: Some(size),
            rows_cached: None,
        });
        self
    }

    /// A table of whose rows those that were read last are kept in so much memory: one that is named already, or one more.
    #[must_use]
    pub fn with_rows_cached(mut self, name: TableName, size: ByteCount) -> Self {
        match self.tables.iter_mut().find(|table| table.name == name) {
            Some(table) => table.rows_cached = Some(size),
            None => self.tables.push(TableOptions {
                name,
                blobs_from: None,
                rows_cached: Some(size),
            }),
        }
        self
    }
}

/// A store on RocksDB.
pub struct RocksStore {
    db: DB,
    directory: PathBuf,
    /// What damage was met; from then on nothing is answered.
    damage: OnceLock<String>,
    on_disk: torn::Watermark,
    blobs: Vec<garbage::Blobs>,
    tables: Vec<TableName>,
    rows: Vec<RowCache>,
    /// The cache of blocks, and how many bytes it takes.
    cache: (Cache, usize),
    /// The last write when the store was tended last.
    tended: AtomicU64,
    looks_at_rest: AtomicU32,
    looks: AtomicU32,
    synced: WriteOptions,
    lazy: WriteOptions,
}

/// A snapshot of it.
struct RocksSnapshot<'a> {
    store: &'a RocksStore,
    snapshot: rocksdb::Snapshot<'a>,
}

impl RocksStore {
    /// Opens the store in a directory, making it when the directory is empty or not there.
    ///
    /// # Errors
    /// When the store is damaged, in use, of a newer format, or the machine refuses.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, OpenError> {
        let marker = prepare(directory)?;
        let db_path = directory.join(DB_DIR);
        let is_new = marker.phase == Phase::Making;
        let db_options = database_options(options, is_new);
        let names = table_names(&db_options, &db_path, &marker, options)
            .map_err(|error| damage::open_error(directory, error))?;
        if let Some(missing) = marker.tables.iter().find(|table| !names.contains(*table)) {
            let detail = format!("it no longer knows table {missing}");
            return Err(damage::damaged(directory, "MANIFEST", detail, None));
        }
        let cache_bytes = usize::try_from(options.cache.bytes()).unwrap_or(usize::MAX);
        let cache = Cache::new_lru_cache(cache_bytes);
        let open = || {
            let descriptors = names.iter().map(|name| {
                let declared = options
                    .tables
                    .iter()
                    .find(|table| table.name.as_str() == name);
                ColumnFamilyDescriptor::new(name, table_options(&cache, declared))
            });
            DB::open_cf_descriptors(&db_options, &db_path, descriptors)
                .map_err(|error| damage::open_error(directory, error))
        };
        let db = match open() {
            // Who comes so far has had the lock: nobody else writes the log.
            Err(OpenError::Damaged { .. }) if torn::cut(directory)? => open()?,
            opened => opened?,
        };
        damage::check_blob_files(directory, &db, &names)?;
        let ready = Marker {
            phase: Phase::Ready,
            tables: names,
        };
        if marker != ready {
            ready.write(directory)?;
        }
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        // What was in logs has gone to table files.
        let on_disk = torn::Watermark::new(db.latest_sequence_number());
        Ok(Self {
            db,
            cache: (cache, cache_bytes),
            on_disk,
            tended: AtomicU64::new(0),
            looks_at_rest: AtomicU32::new(0),
            looks: AtomicU32::new(0),
            tables: options.tables.iter().map(|table| table.name).collect(),
            rows: options
                .tables
                .iter()
                .filter_map(|table| Some(RowCache::new(table.name, table.rows_cached?)))
                .collect(),
            blobs: options
                .tables
                .iter()
                .filter(|table| table.blobs_from.is_some())
                .map(|table| garbage::Blobs::new(table.name))
                .collect(),
            directory: directory.to_owned(),
            damage: OnceLock::new(),
            synced,
            lazy: WriteOptions::default(),
        })
    }

    fn table(&self, table: TableName) -> Result<&ColumnFamily, StoreError> {
        if let Some(detail) = self.damage.get() {
            return Err(StoreError::damaged(&self.directory, detail.clone()));
        }
        self.db
            .cf_handle(table.as_str())
            .ok_or(StoreError::UnknownTable { table })
    }

    /// A row that is kept, or what reading it from its table says; `None` when that says nothing.
    fn get_through(
        &self,
        table: TableName,
        key: &[u8],
        read: impl FnOnce(&ColumnFamily) -> Result<Option<Option<Vec<u8>>>, StoreError>,
    ) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        let family = self.table(table)?;
        let Some(rows) = self.rows.iter().find(|rows| rows.table() == table) else {
            return read(family);
        };
        let ticket = match rows.look(key) {
            Looked::Row(value) => return Ok(Some(Some(value))),
            Looked::Unknown(ticket) => ticket,
        };
        let found = read(family)?;
        if let Some(Some(value)) = &found {
            ticket.keep(key, value);
        }
        Ok(found)
    }

    fn failed(&self, operation: &'static str, error: rocksdb::Error) -> StoreError {
        let error = damage::store_error(&self.directory, operation, error);
        if let StoreError::Damaged { detail, .. } = &error {
            // Another thread may have met damage first: then its word stands.
            drop(self.damage.set(detail.clone()));
        }
        error
    }

    /// Writes the tables' recent rows to table files and merges the files of a range, which gives back the space of what
    /// was deleted in it. Slow: for maintenance.
    ///
    /// # Errors
    /// When the table is unknown or the machine refuses.
    pub fn compact(&self, table: TableName, range: &KeyRange) -> Result<(), StoreError> {
        let family = self.table(table)?;
        self.db
            .flush_cf(family)
            .map_err(|error| self.failed("flushing", error))?;
        self.db
            .compact_range_cf(family, Some(range.start()), range.end());
        Ok(())
    }

    /// Begins to write recent rows to table files when hardly any came for some time: that gives their memory back, and the
    /// next start has less of the log to read. What was written a moment ago is often read soon, from memory.
    fn flush_at_rest(&self) -> Result<(), StoreError> {
        let last = self.db.latest_sequence_number();
        let before = self.tended.swap(last, Ordering::Relaxed);
        if last.saturating_sub(before) > REST_WRITES_MAX {
            self.looks_at_rest.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let looks = self.looks_at_rest.fetch_add(1, Ordering::Relaxed);
        if looks < REST_LOOKS {
            return Ok(());
        }
        if looks == REST_LOOKS {
            self.empty_cache();
        }
        let mut options = FlushOptions::default();
        options.set_wait(false);
        for table in &self.tables {
            let family = self.table(*table)?;
            let bytes = self.db.property_int_value_cf(family, MEMTABLE_BYTES);
            let bytes = bytes.map_err(|error| self.failed("looking at recent rows", error))?;
            if bytes.unwrap_or(0) >= FLUSH_BYTES_MIN {
                self.db
                    .flush_cf_opt(family, &options)
                    .map_err(|error| self.failed("flushing", error))?;
            }
        }
        Ok(())
    }

    /// Gives the memory of the cache of blocks back. What is wanted again fills it again.
    fn empty_cache(&self) {
        let (cache, bytes) = &self.cache;
        let mut cache = cache.clone();
        cache.set_capacity(0);
        cache.set_capacity(*bytes);
    }

    #[cfg(test)]
    pub(super) fn blocks_cached(&self) -> usize {
        self.cache.0.get_usage()
    }

    fn stage(&self, batch: &Batch) -> Result<WriteBatch, StoreError> {
        let mut staged = WriteBatch::with_capacity_bytes(batch.bytes());
        staged.put_log_data(self.on_disk.mark());
        for write in batch.writes() {
            let family = self.table(write.table())?;
            match write {
                Write::Put { key, value, .. } => staged.put_cf(family, key, value),
                Write::Delete { key, .. } => staged.delete_cf(family, key),
                Write::DeleteRange { range, .. } if range.is_empty() => {}
                Write::DeleteRange { range, .. } => match range.end() {
                    Some(end) => staged.delete_range_cf(family, range.start(), end),
                    // RocksDB knows no open end; no key is as long as this one, so none is greater.
                    None => {
                        let end = [u8::MAX; KEY_BYTES_MAX + 1];
                        staged.delete_range_cf(family, range.start(), end.as_slice());
                    }
                },
            }
        }
        Ok(staged)
    }

    fn walk(
        &self,
        mut rows: DBRawIterator<'_>,
        order: Order,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        match order {
            Order::Ascending => rows.seek_to_first(),
            Order::Descending => rows.seek_to_last(),
        }
        while let Some((key, value)) = rows.item() {
            if let ControlFlow::Break(()) = visitor(key, value) {
                return Ok(());
            }
            match order {
                Order::Ascending => rows.next(),
                Order::Descending => rows.prev(),
            }
        }
        rows.status().map_err(|error| self.failed("reading", error))
    }
}

/// Reads the marker, or makes one, and refuses what a store cannot be opened in.
fn prepare(directory: &Path) -> Result<Marker, OpenError> {
    let machine = |operation| {
        move |source: durable::DurableError| OpenError::Machine {
            operation,
            store: directory.to_owned(),
            source: source.into(),
        }
    };
    durable::create_dir_all(directory).map_err(machine("making a directory for"))?;
    let marker = match Marker::read(directory)? {
        Some(marker) => marker,
        None => {
            damage::refuse_foreign(directory)?;
            let marker = Marker {
                phase: Phase::Making,
                tables: BTreeSet::new(),
            };
            marker.write(directory)?;
            marker
        }
    };
    match marker.phase {
        Phase::Ready => damage::check_files(directory)?,
        Phase::Making => durable::create_dir_all(&directory.join(DB_DIR))
            .map_err(machine("making a directory for"))?,
    }
    Ok(marker)
}

/// The column families to open: those on the disk, and those asked for.
fn table_names(
    options: &rocksdb::Options,
    db_path: &Path,
    marker: &Marker,
    wanted: &Options,
) -> Result<BTreeSet<String>, rocksdb::Error> {
    let mut names = match DB::list_cf(options, db_path) {
        Ok(names) => names.into_iter().collect(),
        // A store that is still being made may have no manifest yet.
        Err(_) if marker.phase == Phase::Making => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    names.remove(rocksdb::DEFAULT_COLUMN_FAMILY_NAME);
    if marker.phase == Phase::Making || names.is_superset(&marker.tables) {
        names.extend(wanted.tables.iter().map(|table| table.name.to_string()));
    }
    Ok(names)
}

fn database_options(options: &Options, is_new: bool) -> rocksdb::Options {
    let mut db = rocksdb::Options::default();
    db.create_if_missing(is_new);
    db.create_missing_column_families(true);
    db.set_paranoid_checks(true);
    // "TolerateCorruptedTailRecords" drops a record cut short at the end of the log and nothing else: a record that is
    // whole and whose checksum does not hold is an error, at the end too. "AbsoluteConsistency" would not open after a
    // crash in the middle of a write; "PointInTime", the default, would silently stop at any damage.
    db.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_db_write_buffer_size(
        usize::try_from(options.write_buffers.bytes()).unwrap_or(usize::MAX),
    );
    db.set_max_total_wal_size(options.write_buffers.bytes().saturating_mul(4));
    db.set_max_background_jobs(2);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 << 20);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

fn table_options(cache: &Cache, declared: Option<&TableOptions>) -> rocksdb::Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut table = rocksdb::Options::default();
    table.set_block_based_table_factory(&blocks);
    table.set_compression_type(DBCompressionType::Lz4);
    if let Some(declared) = declared
        && let Some(size) = declared.blobs_from
    {
        table.set_enable_blob_files(true);
        table.set_min_blob_size(size.bytes());
        // Blob files go as a whole: smaller ones give back the space of deleted values sooner.
        table.set_blob_file_size(64 << 20);
        // The same budget as for blocks. What is kept as it is needs no second copy.
        if declared.rows_cached.is_none() {
            table.set_blob_cache(cache);
        }
        // Switched on while there is garbage to collect.
        table.set_enable_blob_gc(false);
    }
    table
}

fn read_options(range: &KeyRange) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(range.start());
    if let Some(end) = range.end() {
        options.set_iterate_upper_bound(end);
    }
    options
}

impl Read for RocksStore {
    fn get_cached(
        &self,
        table: TableName,
        key: &[u8],
    ) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        let read = |family: &ColumnFamily| {
            let mut options = ReadOptions::default();
            options.set_read_tier(ReadTier::BlockCache);
            match self.db.get_cf_opt(family, key, &options) {
                Ok(value) => Ok(Some(value)),
                Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
                Err(error) => Err(self.failed("reading", error)),
            }
        };
        self.get_through(table, key, read)
    }

    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = |family: &ColumnFamily| {
            let value = self.db.get_cf(family, key);
            value
                .map(Some)
                .map_err(|error| self.failed("reading", error))
        };
        Ok(self.get_through(table, key, read)?.flatten())
    }

    fn get_stored(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        self.db
            .get_cf_opt(self.table(table)?, key, &options)
            .map_err(|error| self.failed("reading", error))
    }

    fn visit(
        &self,
        table: TableName,
        range: &KeyRange,
        order: Order,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let family = self.table(table)?;
        if range.is_empty() {
            return Ok(());
        }
        self.walk(
            self.db.raw_iterator_cf_opt(family, read_options(range)),
            order,
            visitor,
        )
    }
}

impl Read for RocksSnapshot<'_> {
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let family = self.store.table(table)?;
        self.snapshot
            .get_cf(family, key)
            .map_err(|error| self.store.failed("reading", error))
    }

    fn visit(
        &self,
        table: TableName,
        range: &KeyRange,
        order: Order,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let family = self.store.table(table)?;
        if range.is_empty() {
            return Ok(());
        }
        let rows = self
            .snapshot
            .raw_iterator_cf_opt(family, read_options(range));
        self.store.walk(rows, order, visitor)
    }
}

impl Store for RocksStore {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        batch.check()?;
        let staged = self.stage(batch)?;
        let options = match durability {
            Durability::Synced => &self.synced,
            Durability::Lazy => &self.lazy,
        };
        let changing: Vec<_> = self.rows.iter().map(|rows| rows.change(batch)).collect();
        let before = self.db.latest_sequence_number();
        // From many threads at once RocksDB makes one write and one sync of what has gathered.
        self.db
            .write_opt(staged, options)
            .map_err(|error| self.failed("writing", error))?;
        drop(changing);
        if durability == Durability::Synced {
            self.on_disk.rise(before);
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        Box::new(RocksSnapshot {
            store: self,
            snapshot: self.db.snapshot(),
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        let before = self.db.latest_sequence_number();
        self.db
            .flush_wal(true)
            .map_err(|error| self.failed("syncing", error))?;
        self.on_disk.rise(before);
        Ok(())
    }

    fn tend(&self) -> Result<(), StoreError> {
        self.flush_at_rest()?;
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        if looks.is_multiple_of(ROWS_LOOKS) {
            self.rows.iter().for_each(RowCache::age);
        }
        self.blobs
            .iter()
            .try_for_each(|blobs| self.tend_blobs(blobs))
    }

    fn location(&self) -> &Path {
        &self.directory
    }
}

impl core::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RocksStore")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}
