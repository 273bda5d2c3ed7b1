//! Swift's limits, as `/info` reports them.

/// Bytes of an account name.
pub const ACCOUNT_NAME_BYTES_MAX: usize = 256;
/// Bytes of a container name.
pub const CONTAINER_NAME_BYTES_MAX: usize = 256;
/// Bytes of an object name.
pub const OBJECT_NAME_BYTES_MAX: usize = 1024;
/// User metadata items of one account, container or object.
pub const META_COUNT_MAX: usize = 90;
/// Bytes of a user metadata name, without its prefix.
pub const META_NAME_BYTES_MAX: usize = 128;
/// Bytes of a user metadata value.
pub const META_VALUE_BYTES_MAX: usize = 256;
/// Bytes of all user metadata names and values together.
pub const META_OVERALL_BYTES_MAX: usize = 4096;
/// Removed user metadata items that an account or container remembers, so that the removals win over replicas that have not
/// heard of them.
pub const META_REMOVED_MAX: usize = 200;
/// Bytes of any header value.
pub const HEADER_VALUE_BYTES_MAX: usize = 8192;
/// Bytes of one object: 5 GiB and two, as Swift's default has it.
pub const OBJECT_BYTES_MAX: u64 = 5_368_709_122;
/// Names in one page of an account's listing.
pub const ACCOUNT_LISTING_MAX: usize = 10_000;
/// Names in one page of a container's listing.
pub const CONTAINER_LISTING_MAX: usize = 10_000;
/// Byte ranges of one request that touch the body.
pub const RANGES_MAX: usize = 50;
/// Pairs among those that overlap.
pub const RANGE_OVERLAPS_MAX: usize = 2;
/// From so many ranges on they must come in ascending order.
pub const RANGES_OUT_OF_ORDER_MAX: usize = 8;
/// Entity tags one condition may name.
pub const CONDITION_TAGS_MAX: usize = 100;
/// Bytes of a container's read or write ACL.
pub const ACL_BYTES_MAX: usize = 8192;
