//! From an export spec to a unit that can be served: its medium opened, its kept reservations back.

use crate::export::ExportSpec;
use crate::kept::{AtomicWrite, Keeper};
use crate::medium::{FileMedium, Medium, MediumError};
use crate::registry::{RegistryError, Surroundings};
use crate::store::Store;
use crate::unit::Unit;
use onggi_block_medium::MediumKind;
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

// A file's space comes from a file system that others use: unmapping gives it back, and writing may find it full. So
// it is with the extents of a volume group on a file, whose holes are the file's. A disk has a place for every block.
fn provisioning(medium: &FileMedium) -> Provisioning {
    match (medium.kind(), medium.frees_space()) {
        (MediumKind::File, true) => Provisioning::Thin,
        (MediumKind::Device, true) => Provisioning::Resource,
        (MediumKind::File | MediumKind::Device, false) => Provisioning::Full,
    }
}

// Written again from its beginning: whatever of it was on the medium, all of it is now.
fn finish_atomic(medium: &FileMedium, write: &AtomicWrite) -> Result<(), MediumError> {
    tracing::info!(
        offset = write.offset,
        "an atomic write that was cut off is finished"
    );
    medium.write(write.offset, &write.bytes)?;
    medium.flush()
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
                portal_groups: self.surroundings.portal_groups.clone(),
            },
            capacity,
            provisioning: provisioning(&medium),
            read_only: spec.read_only,
            inventory: vec![lun],
        });
        let kept = Keeper {
            store: Arc::clone(&self.store),
            entropy: Arc::clone(&self.entropy),
            iqn: target,
            volume: spec.volume,
        };
        if let Some(saved) = kept.reservations()? {
            logical = logical.with_reservations(saved)?;
        }
        if let Some(unrestricted_exit) = kept.sanitizing()? {
            logical = logical.with_failed_sanitize(unrestricted_exit);
        }
        if let Some(write) = kept.atomic()? {
            finish_atomic(&medium, &write)?;
            kept.end_atomic()?;
        }
        let unit = Unit::new(lun, logical, Arc::new(medium), self.surroundings.threads);
        Ok(Arc::new(unit.keeping(
            kept,
            self.surroundings.sanitize_bytes_per_second,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::spec;
    use onggi_common_host::SystemEntropy;

    #[test]
    fn an_atomic_write_that_was_cut_off_is_finished_before_the_unit_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &dir.path().join("key"), &SystemEntropy).unwrap();
        let surroundings = Surroundings {
            portal_groups: vec![1],
            threads: 1,
            sanitize_bytes_per_second: 1 << 30,
        };
        let opener = Opener {
            store: Arc::new(store),
            entropy: Arc::new(SystemEntropy),
            surroundings,
        };
        let spec = spec(dir.path(), 1);
        let keeper = |volume| Keeper {
            store: Arc::clone(&opener.store),
            entropy: Arc::new(SystemEntropy),
            iqn: Arc::from(spec.iqn.as_str()),
            volume,
        };
        keeper(spec.volume)
            .begin_atomic(4_096, &[7; 1_024])
            .unwrap();
        opener.open(&spec).unwrap();
        let bytes = std::fs::read(&spec.medium.path).unwrap();
        assert_eq!(bytes[4_096..5_120], [7; 1_024]);
        assert_eq!((bytes[4_095], bytes[5_120]), (0, 0));
        assert_eq!(keeper(spec.volume).atomic().unwrap(), None);
        // One of another volume that had this name is nobody's any more.
        keeper(onggi_common_units::Uuid::from_bytes([9; 16]))
            .begin_atomic(0, &[9; 512])
            .unwrap();
        opener.open(&spec).unwrap();
        assert_eq!(std::fs::read(&spec.medium.path).unwrap()[0], 0);
    }
}
