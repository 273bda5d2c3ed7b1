//! From an export spec to a unit that can be served: its medium opened, its kept reservations back.

use crate::export::ExportSpec;
use crate::medium::{FileMedium, Medium};
use crate::registry::{RegistryError, Surroundings};
use crate::reservations::ReservationFile;
use crate::store::Store;
use crate::unit::Unit;
use onggi_block_scsi::{BlockSize, Capacity, Identity, LogicalUnit, Lun, Provisioning, Settings};
use onggi_common_host::Entropy;
use std::sync::Arc;

/// What it takes to open units.
pub(crate) struct Opener {
    pub(crate) store: Arc<Store>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) surroundings: Surroundings,
}

/// The capacity a spec's medium makes.
pub(crate) fn capacity_of(spec: &ExportSpec) -> Result<Capacity, RegistryError> {
    Ok(Capacity::new(
        spec.medium.size(),
        BlockSize::new(spec.block_size)?,
    )?)
}

impl Opener {
    /// The unit of a spec.
    pub(crate) fn open(&self, spec: &ExportSpec) -> Result<Arc<Unit>, RegistryError> {
        let lun = Lun::new(u64::from(spec.lun))?;
        let capacity = capacity_of(spec)?;
        let medium = FileMedium::open(&spec.medium, spec.read_only)?;
        let target: Arc<str> = Arc::from(spec.iqn.as_str());
        let mut logical = LogicalUnit::new(Settings {
            identity: Identity {
                volume: spec.volume,
                target: Arc::clone(&target),
                port_group: self.surroundings.portal_group,
            },
            capacity,
            provisioning: if medium.frees_space() {
                Provisioning::Thin
            } else {
                Provisioning::Full
            },
            read_only: spec.read_only,
            inventory: vec![lun],
        });
        let kept = ReservationFile {
            store: Arc::clone(&self.store),
            entropy: Arc::clone(&self.entropy),
            iqn: target,
            volume: spec.volume,
        };
        if let Some(saved) = kept.load()? {
            logical = logical.with_reservations(saved)?;
        }
        let unit = Unit::new(lun, logical, Arc::new(medium), self.surroundings.threads);
        Ok(Arc::new(unit.keeping(kept)))
    }
}
