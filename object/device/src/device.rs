//! A device, opened.

use crate::digests::{Digests, Sum};
use crate::error::{DeviceError, OpenError};
use crate::format;
use crate::horizons::Horizons;
use crate::large::Warmth;
use crate::reclaim::Aside;
use crate::reservation::Reservations;
use crate::space::Space;
use crate::split::Splits;
use crate::stripes::Stripes;
use crate::tables;
use core::sync::atomic::{AtomicU64, Ordering};
use onggi_common_host::Entropy;
use onggi_common_meta::local::{Read, RocksStore, Store};
use onggi_common_units::{ByteCount, Uuid};
use onggi_object_wire::Slot;
use onggi_object_wire::replication::Scope;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How a device is opened.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// Its directory.
    pub directory: PathBuf,
    /// How much of it stays free; a fiftieth, at most 1 GiB, unless told otherwise.
    pub reserve: Option<ByteCount>,
}

/// One device. Its calls block.
pub struct Device {
    directory: PathBuf,
    id: Uuid,
    store: Arc<dyn Store>,
    digests: Digests,
    splits: Splits,
    stripes: Stripes,
    reservations: Reservations,
    horizons: Horizons,
    warmth: Warmth,
    aside: Aside,
    space: Space,
    /// Names of body files that have no row yet: the sweep leaves them alone.
    in_flight: Mutex<HashSet<String>>,
    /// Makes names unique: random for this process, and a count.
    process: String,
    count: AtomicU64,
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Device")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Opens the device in a directory, making a new one where none was ever. This takes as long whatever it holds; bodies
    /// that a crash left without a row go with [`Device::sweep_shelf`], beside everything else.
    ///
    /// # Errors
    /// When another device, or none, is where one is expected; when it is damaged; when the machine refuses.
    pub fn open(options: &DeviceOptions, entropy: &dyn Entropy) -> Result<Self, OpenError> {
        Self::open_with(options, entropy, |path| {
            let store = RocksStore::open(path, &tables::options())?;
            Ok(Arc::new(store) as Arc<dyn Store>)
        })
    }

    /// Opens the device with a store of the caller's making: in memory, in tests and simulation.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_with(
        options: &DeviceOptions,
        entropy: &dyn Entropy,
        open_store: impl FnOnce(&Path) -> Result<Arc<dyn Store>, OpenError>,
    ) -> Result<Self, OpenError> {
        let directory = options.directory.as_path();
        let (marker, store) = format::prepare(directory, entropy, open_store)?;
        format::upgrade(directory, &marker, store.as_ref())?;
        let device = Self::with_store(options, entropy, marker.id, store)?;
        device.sweep_incoming()?;
        Ok(device)
    }

    /// The device over a store that is open. Files without rows are left alone.
    pub(crate) fn with_store(
        options: &DeviceOptions,
        entropy: &dyn Entropy,
        id: Uuid,
        store: Arc<dyn Store>,
    ) -> Result<Self, OpenError> {
        let directory = options.directory.clone();
        let digests = Digests::load(store.as_ref())?;
        let reservations = Reservations::load(store.as_ref())?;
        let horizons = Horizons::load(store.as_ref())?;
        Ok(Self {
            space: Space::new(&directory, options.reserve)?,
            directory,
            id,
            store,
            digests,
            splits: Splits::default(),
            stripes: Stripes::new(),
            reservations,
            horizons,
            warmth: Warmth::new(),
            aside: Aside::default(),
            in_flight: Mutex::new(HashSet::new()),
            process: onggi_object_wire::head::to_hex(&entropy.bytes()[..6]),
            count: AtomicU64::new(0),
        })
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The size of the file system it is on, and what is free of it.
    ///
    /// # Errors
    /// When the machine does not say.
    pub fn usage(&self) -> Result<(ByteCount, ByteCount), DeviceError> {
        crate::space::usage(&self.directory)
    }

    /// The digests of a scope by units of so many hash bits (at most the slot bits). Units without rows are left out.
    #[must_use]
    pub fn digests(&self, scope: Scope, bits: u32) -> BTreeMap<u32, Sum> {
        self.digests.units(scope, bits, 0)
    }

    /// The same without tombstones of days up to the horizon: those are settled, and each device lets go of them by itself.
    /// A unit that holds nothing else is there with an empty digest.
    #[must_use]
    pub fn digests_above(&self, scope: Scope, bits: u32, horizon: u16) -> BTreeMap<u32, Sum> {
        self.digests.units(scope, bits, horizon)
    }

    /// The slots of a unit of so many hash bits that hold anything: the one it is in, where bits are more than a slot's.
    #[must_use]
    pub fn slots_in(&self, scope: Scope, unit: u32, bits: u32) -> Vec<Slot> {
        self.digests.slots_in(scope, unit, bits)
    }

    /// The scopes that hold anything.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope> {
        self.digests.scopes()
    }

    /// How many things of a scope are there, tombstones apart.
    #[must_use]
    pub fn live_count(&self, scope: Scope) -> u64 {
        self.digests.live_count(scope)
    }

    /// Makes everything so far durable, also what was written lazily.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn sync(&self) -> Result<(), DeviceError> {
        Ok(self.store.sync()?)
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    pub(crate) fn reader(&self) -> &dyn Store {
        self.store.as_ref()
    }

    pub(crate) const fn digest_table(&self) -> &Digests {
        &self.digests
    }

    pub(crate) const fn splits(&self) -> &Splits {
        &self.splits
    }

    pub(crate) const fn stripes(&self) -> &Stripes {
        &self.stripes
    }

    pub(crate) const fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    pub(crate) const fn aside(&self) -> &Aside {
        &self.aside
    }

    pub(crate) const fn warmth(&self) -> &Warmth {
        &self.warmth
    }

    pub(crate) const fn horizons(&self) -> &Horizons {
        &self.horizons
    }

    pub(crate) const fn space(&self) -> &Space {
        &self.space
    }

    /// A name part that no other upload has had.
    pub(crate) fn unique(&self) -> String {
        format!(
            "{}-{}",
            self.process,
            self.count.fetch_add(1, Ordering::Relaxed)
        )
    }

    pub(crate) fn with_in_flight<T>(&self, act: impl FnOnce(&mut HashSet<String>) -> T) -> T {
        act(&mut self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a snapshot of the store offers, for several reads that must agree.
pub(crate) fn snapshot(device: &Device) -> Box<dyn Read + '_> {
    device.store().snapshot()
}
