//! The auditor: reads every body again, slowly. What fails its checksum is quarantined, and the replicators of its peers
//! bring a good copy.

use crate::disks::Disk;
use crate::server::Node;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_device::{DeviceError, ObjectKey, StoredObject};
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Slot, digest::SLOT_BITS};
use std::sync::Arc;

/// The pause between passes, and after a device that holds nothing.
const PASS_INTERVAL: Duration = Duration::from_secs(60);
/// A row's own cost, so that many empty objects are not free.
const ROW_BYTES: u64 = 4 << 10;

impl Node {
    /// Audits all devices until the drain begins.
    pub async fn audit(self: Arc<Self>, bytes_per_second: u64, drain: Drain) {
        if bytes_per_second == 0 {
            return;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(PASS_INTERVAL) => {}
                () = drain.requested() => return,
            }
            for disk in self.disks.iter() {
                tokio::select! {
                    () = self.audit_disk(disk, Some(bytes_per_second)) => {}
                    () = drain.requested() => return,
                }
            }
        }
    }

    /// Audits everything once, as fast as it goes.
    pub async fn audit_once(&self) {
        for disk in self.disks.iter() {
            self.audit_disk(disk, None).await;
        }
    }

    async fn audit_disk(&self, disk: &Disk, bytes_per_second: Option<u64>) {
        for scope in disk.device().scopes() {
            let Scope::Objects(policy) = scope else {
                continue;
            };
            for slot in disk
                .device()
                .digests(scope, SLOT_BITS)
                .into_keys()
                .filter_map(Slot::new)
            {
                let audited = disk.call(move |device| {
                    let mut objects: Vec<(ObjectKey, StoredObject)> = Vec::new();
                    device.visit_objects(policy, slot, &mut |key, stored| {
                        objects.push((*key, stored.clone()));
                    })?;
                    let mut bytes = 0u64;
                    for (key, stored) in objects.iter().filter(|(_, one)| one.row.body.is_some()) {
                        bytes = bytes.saturating_add(audit_object(device, key, stored)?);
                    }
                    Ok(bytes)
                });
                match (audited.await, bytes_per_second) {
                    (Ok(bytes), Some(rate)) => {
                        let millis = bytes.saturating_mul(1_000) / rate.max(1);
                        tokio::time::sleep(Duration::from_millis(millis)).await;
                    }
                    (Ok(_), None) => {}
                    (Err(error), _) => {
                        tracing::error!(device = %disk.name, %error, "auditing failed");
                    }
                }
            }
        }
    }
}

fn audit_object(
    device: &onggi_object_device::Device,
    key: &ObjectKey,
    stored: &StoredObject,
) -> Result<u64, DeviceError> {
    let mut bytes = ROW_BYTES;
    let opened = device.open_body(key, stored, &[]);
    let read = opened.and_then(|mut reader| {
        while let Some(block) = reader.next(device)? {
            bytes = bytes.saturating_add(block.len() as u64);
        }
        Ok(())
    });
    match read {
        // Damage is quarantined and logged where it is met.
        Ok(()) | Err(DeviceError::Damaged { .. }) => Ok(bytes),
        Err(error) => Err(error),
    }
}
