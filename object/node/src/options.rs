//! What a node is told when it starts.

use crate::expirer::{EXPIRY_DELAY, EXPIRY_INTERVAL};
use crate::{container_sync, dark_data, reaper, reconciler};
use core::time::Duration;
use onggi_common_units::ByteCount;
use onggi_object_client::{LocalNodes, Timeouts};
use onggi_object_ring::HashSecrets;
use onggi_object_wire::{ClusterKeys, DeviceName};
use std::path::PathBuf;
use std::sync::Arc;

/// How a node runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its address as rings have it, `host:port`. Requests signed for another address are refused.
    pub address: String,
    /// The directory its devices are in, each in a directory of its own name.
    pub devices_dir: PathBuf,
    /// Its devices.
    pub devices: Vec<DeviceName>,
    /// The directory of `account.ring.gz`, `container.ring.gz` and `object.ring.gz` (`object-N.ring.gz` for policy N).
    pub rings_dir: PathBuf,
    /// The cluster's keys.
    pub keys: ClusterKeys,
    /// The secrets in path hashes.
    pub hash: HashSecrets,
    /// How much of each device stays free, if not the default.
    pub reserve: Option<ByteCount>,
    /// How long calls to other nodes may take.
    pub timeouts: Timeouts,
    /// The nodes of this process, which it joins.
    pub local: Arc<LocalNodes>,
    /// Whether this process serves nothing but this node.
    pub is_alone: bool,
    /// The pause between passes of the replicator.
    pub replication_interval: Duration,
    /// Bytes each device gives its peers in a second to bring them up to date; 0 for as many as it can.
    pub replication_bytes_per_second: u64,
    /// The pause between passes of the updater.
    pub update_interval: Duration,
    /// How containers are sent to other clusters; `None` for not at all.
    pub container_sync: Option<container_sync::Options>,
    /// The pause between passes of the expirer.
    pub expiry_interval: Duration,
    /// How long after its date an object is deleted.
    pub expiry_delay: Duration,
    /// How deleted accounts are reaped.
    pub reaping: reaper::Options,
    /// How objects under another policy than their container's are moved.
    pub reconciling: reconciler::Options,
    /// How objects that no container lists are searched for.
    pub dark_data: dark_data::Options,
    /// How many whole days a tombstone stays at least.
    pub reclaim_age_days: u16,
    /// Bytes the auditor reads in a second on each device; 0 stops it.
    pub audit_bytes_per_second: u64,
    /// The pause between its passes.
    pub audit_interval: Duration,
}

/// The replicator's pause unless told otherwise.
pub const REPLICATION_INTERVAL: Duration = Duration::from_secs(5);
/// What the replicator sends unless told otherwise.
pub const REPLICATION_BYTES_PER_SECOND: u64 = 100 << 20;
/// The updater's pause unless told otherwise.
pub const UPDATE_INTERVAL: Duration = Duration::from_secs(2);
/// How long tombstones stay unless told otherwise.
pub const RECLAIM_AGE_DAYS: u16 = 7;
/// What the auditor reads unless told otherwise.
pub const AUDIT_BYTES_PER_SECOND: u64 = 10 << 20;
/// The auditor's pause unless told otherwise.
pub const AUDIT_INTERVAL: Duration = Duration::from_secs(60);

impl Options {
    /// A node with its devices, everything else as usual.
    #[must_use]
    pub fn new(
        address: String,
        devices_dir: PathBuf,
        devices: Vec<DeviceName>,
        rings_dir: PathBuf,
        keys: ClusterKeys,
        hash: HashSecrets,
    ) -> Self {
        Self {
            address,
            devices_dir,
            devices,
            rings_dir,
            keys,
            hash,
            reserve: None,
            timeouts: Timeouts::default(),
            local: Arc::default(),
            is_alone: false,
            replication_interval: REPLICATION_INTERVAL,
            replication_bytes_per_second: REPLICATION_BYTES_PER_SECOND,
            update_interval: UPDATE_INTERVAL,
            container_sync: None,
            expiry_interval: EXPIRY_INTERVAL,
            expiry_delay: EXPIRY_DELAY,
            reaping: reaper::Options::default(),
            reconciling: reconciler::Options::default(),
            dark_data: dark_data::Options::default(),
            reclaim_age_days: RECLAIM_AGE_DAYS,
            audit_bytes_per_second: AUDIT_BYTES_PER_SECOND,
            audit_interval: AUDIT_INTERVAL,
        }
    }
}
