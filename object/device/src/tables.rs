//! The tables of a device's store.

use onggi_common_meta::TableName;
use onggi_common_meta::local::rocks::Options;
use onggi_common_units::ByteCount;

/// Object rows.
pub const OBJECT: TableName = TableName::new("object");
/// Small bodies.
pub const BODY: TableName = TableName::new("body");
/// Digests of slots.
pub const DIGEST: TableName = TableName::new("digest");
/// Containers and accounts.
pub const ROSTER: TableName = TableName::new("roster");
/// Their records.
pub const RECORD: TableName = TableName::new("record");
/// Their change logs.
pub const CHANGE: TableName = TableName::new("change");
/// How far peers have come in them.
pub const SYNC: TableName = TableName::new("sync");
/// What others still have to be told.
pub const PENDING: TableName = TableName::new("pending");

/// Keys kept for conditional PUTs.
pub const RESERVATION: TableName = TableName::new("reservation");

/// Objects with a date of deletion, in the order of the dates.
pub const EXPIRY: TableName = TableName::new("expiry");

/// Up to which day tombstones are settled, by slot.
pub const HORIZON: TableName = TableName::new("horizon");

/// All of them, for a store in memory.
pub const ALL: [TableName; 11] = [
    OBJECT,
    BODY,
    DIGEST,
    ROSTER,
    RECORD,
    CHANGE,
    SYNC,
    PENDING,
    RESERVATION,
    EXPIRY,
    HORIZON,
];

/// Bodies from this size on go to RocksDB's blob files.
const BLOBS_FROM: ByteCount = ByteCount::from_kib(2);
/// Memory of one device's cache of blocks.
const CACHE: ByteCount = ByteCount::from_mib(24);
/// Memory of the small bodies that are read often. Given back at rest.
const BODIES_CACHED: ByteCount = ByteCount::from_mib(24);
/// Memory of the objects' rows that are read often: some forty thousand. Given back at rest.
const ROWS_CACHED: ByteCount = ByteCount::from_mib(16);
/// Memory of one device's recent writes.
const WRITE_BUFFERS: ByteCount = ByteCount::from_mib(32);

/// How RocksDB keeps them.
#[must_use]
pub fn options() -> Options {
    let plain = [
        DIGEST,
        ROSTER,
        RECORD,
        CHANGE,
        SYNC,
        PENDING,
        RESERVATION,
        EXPIRY,
        HORIZON,
    ];
    let mut options = Options::new(&plain)
        .with_rows_cached(OBJECT, ROWS_CACHED)
        .with_blobs(BODY, BLOBS_FROM)
        .with_rows_cached(BODY, BODIES_CACHED);
    options.cache = CACHE;
    options.write_buffers = WRITE_BUFFERS;
    options
}
