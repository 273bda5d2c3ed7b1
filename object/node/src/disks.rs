//! The node's devices, and the blocking threads their calls run on.

use crate::options::Options;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use onggi_common_host::Entropy;
use onggi_common_units::UtcTime;
use onggi_object_device::{Device, DeviceError, DeviceOptions, OpenError};
use onggi_object_wire::DeviceName;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Calls to one device at a time; more wait without a thread.
const CALLS_MAX: usize = 64;

/// One device and how many calls it may still take.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) name: DeviceName,
    device: Arc<Device>,
    slots: Arc<Semaphore>,
    /// Whether it was away so long that it may hold what was deleted and reclaimed: it is not read from until it has been
    /// compared with its peers.
    is_rejoining: Arc<AtomicBool>,
}

/// A call to a device that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The process is ending, or the call panicked.
    #[error("a call to the device was cut off")]
    CutOff,
}

impl DiskError {
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Device(error) if error.is_full())
    }
}

impl Disk {
    /// Makes a call to the device on a blocking thread.
    pub(crate) async fn call<T, F>(&self, act: F) -> Result<T, DiskError>
    where
        T: Send + 'static,
        F: FnOnce(&Device) -> Result<T, DeviceError> + Send + 'static,
    {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.ok().ok_or(DiskError::CutOff)?;
        let device = Arc::clone(&self.device);
        let called = tokio::task::spawn_blocking(move || {
            let outcome = act(&device);
            drop(slot);
            outcome
        });
        Ok(called.await.ok().ok_or(DiskError::CutOff)??)
    }

    /// Whether reads of objects have to ask others.
    pub(crate) fn is_rejoining(&self) -> bool {
        self.is_rejoining.load(Ordering::Relaxed)
    }

    /// A pass of the replicator has compared all of it.
    pub(crate) fn on_compared(&self) {
        if self.is_rejoining.swap(false, Ordering::Relaxed) {
            tracing::info!(device = %self.name, "the device has been compared with its peers and is read from again");
        }
    }

    /// What needs no disk: digests are in memory.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

/// Whether a device was away so long that others may have reclaimed tombstones it never saw.
fn was_away(device: &Device, options: &Options, now: UtcTime) -> bool {
    const DAY: Duration = Duration::from_secs(86_400);
    let age = DAY * u32::from(options.reclaim_age_days);
    match device.alive_at() {
        Ok(Some(alive)) => now.since(alive) >= age,
        // A device of a build before, or a new one: nobody reclaimed anything without it.
        Ok(None) => false,
        Err(error) => {
            tracing::warn!(%error, "when the device was alive last is not known");
            true
        }
    }
}

/// The devices that are there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disks(BTreeMap<DeviceName, Disk>);

impl Disks {
    /// Opens the devices. One that cannot be opened is left out, with its reason: the node lives on.
    pub(crate) fn open(
        options: &Options,
        entropy: &dyn Entropy,
        now: UtcTime,
    ) -> (Self, Vec<(DeviceName, OpenError)>) {
        let mut disks = BTreeMap::new();
        let mut failed = Vec::new();
        for name in &options.devices {
            let directory = options.devices_dir.join(name.as_str());
            let device_options = DeviceOptions {
                directory,
                reserve: options.reserve,
            };
            match Device::open(&device_options, entropy) {
                Ok(device) => {
                    let slots = Arc::new(Semaphore::new(CALLS_MAX));
                    let is_rejoining = was_away(&device, options, now);
                    if is_rejoining {
                        tracing::warn!(device = %name, "the device was away longer than reclaim_age: it is compared with its peers before it is read from");
                    }
                    let disk = Disk {
                        name: name.clone(),
                        device: Arc::new(device),
                        slots,
                        is_rejoining: Arc::new(AtomicBool::new(is_rejoining)),
                    };
                    disks.insert(name.clone(), disk);
                }
                Err(error) => failed.push((name.clone(), error)),
            }
        }
        (Self(disks), failed)
    }

    pub(crate) fn get(&self, name: &DeviceName) -> Option<&Disk> {
        self.0.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Disk> {
        self.0.values()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
