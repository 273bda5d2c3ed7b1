//! The rings, read from their files and read again when these change.

use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_model::PolicyIndex;
use onggi_object_ring::{Device, DeviceId, PathHash, Ring};
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{DeviceName, Place};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The largest ring file that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Which version of a file was read: its length and its time of change.
type Seen = (u64, SystemTime);

#[derive(Debug, Clone, Default)]
struct Loaded {
    ring: Option<Arc<Ring>>,
    seen: Option<Seen>,
}

/// The rings of a cluster.
#[derive(Debug)]
pub struct Rings {
    directory: PathBuf,
    loaded: RwLock<HashMap<Scope, Loaded>>,
}

fn file_name(scope: Scope) -> String {
    match scope {
        Scope::Accounts => "account.ring.gz".to_owned(),
        Scope::Containers => "container.ring.gz".to_owned(),
        Scope::Objects(policy) if policy == PolicyIndex::default() => "object.ring.gz".to_owned(),
        Scope::Objects(policy) => format!("object-{policy}.ring.gz"),
    }
}

fn seen(path: &Path) -> Option<Seen> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// Where a ring's device is, as calls want it. `None` when its name is none.
#[must_use]
pub fn place(device: &Device) -> Option<Place> {
    let name: DeviceName = device.device.parse().ok()?;
    Some(Place {
        address: device.address(),
        device: name,
    })
}

impl Rings {
    /// The rings in a directory. A ring that is not there yet is taken up when it comes.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            loaded: RwLock::new(HashMap::new()),
        }
    }

    /// The ring of a scope, if there is one.
    #[must_use]
    pub fn ring(&self, scope: Scope) -> Option<Arc<Ring>> {
        {
            let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = loaded.get(&scope) {
                return known.ring.clone();
            }
        }
        self.look(scope);
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.get(&scope).and_then(|known| known.ring.clone())
    }

    /// Reads the scope's file if it has changed. A file that cannot be read leaves the ring as it was.
    fn look(&self, scope: Scope) {
        let path = self.directory.join(file_name(scope));
        let now = seen(&path);
        let before = {
            let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
            loaded.get(&scope).cloned()
        };
        if before.as_ref().is_some_and(|before| before.seen == now) {
            return;
        }
        let mut next = Loaded {
            ring: before.and_then(|before| before.ring),
            seen: now,
        };
        if now.is_some_and(|(bytes, _)| bytes <= FILE_BYTES_MAX) {
            let bytes = std::fs::read(&path).map_err(|error| error.to_string());
            let ring = bytes.and_then(|bytes| Ring::from_bytes(&bytes).map_err(|e| e.to_string()));
            match ring {
                Ok(ring) => {
                    tracing::info!(path = %path.display(), version = ring.version(), "took up a ring");
                    next.ring = Some(Arc::new(ring));
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), error, "a ring cannot be read; the one before stays");
                }
            }
        }
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.insert(scope, next);
    }

    /// Looks at all files that were ever asked for.
    pub(crate) fn look_again(&self) {
        let scopes: Vec<Scope> = {
            let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
            loaded.keys().copied().collect()
        };
        for scope in scopes {
            self.look(scope);
        }
    }

    /// Looks for changed files until the drain begins.
    pub async fn watch(self: Arc<Self>, drain: Drain) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = drain.requested() => return,
            }
            let rings = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || rings.look_again()).await;
            if let Err(error) = looked {
                tracing::error!(%error, "looking for changed rings failed");
            }
        }
    }

    /// The primaries of a hash.
    #[must_use]
    pub fn primaries(&self, scope: Scope, hash: &PathHash) -> Vec<Place> {
        let Some(ring) = self.ring(scope) else {
            return Vec::new();
        };
        let partition = ring.partition(hash);
        ring.primaries(partition)
            .into_iter()
            .filter_map(place)
            .collect()
    }

    /// The number a device has in a ring.
    #[must_use]
    pub fn device_id(ring: &Ring, address: &str, device: &DeviceName) -> Option<DeviceId> {
        let own = |known: &&Device| known.address() == address && known.device == device.as_str();
        ring.devices().find(own).map(|device| device.id)
    }
}
