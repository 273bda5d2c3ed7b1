//! The auditor: reads every body again, slowly. What fails its checksum is quarantined, and the replicators of its peers
//! bring a good copy.

use crate::disks::Disk;
use crate::passes::repeat;
use crate::progress::Progress;
use crate::server::Node;
use core::sync::atomic::Ordering;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_device::{DeviceError, ObjectKey, StoredObject};
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Slot, digest::SLOT_BITS};
use std::sync::Arc;

/// A row's own cost, so that many empty objects are not free.
const ROW_BYTES: u64 = 4 << 10;

impl Node {
    /// Audits all devices until the drain begins.
    pub async fn audit(self: Arc<Self>, bytes_per_second: u64, interval: Duration, drain: Drain) {
        if bytes_per_second == 0 {
            return;
        }
        let pass = || self.audit_all(Some(bytes_per_second));
        repeat(interval, &drain, pass).await;
    }

    /// Audits everything once, as fast as it goes.
    pub async fn audit_once(&self) {
        self.audit_all(None).await;
    }

    async fn audit_all(&self, bytes_per_second: Option<u64>) {
        for disk in self.disks.serving() {
            self.audit_disk(disk, bytes_per_second).await;
        }
    }

    async fn audit_disk(&self, disk: &Disk, bytes_per_second: Option<u64>) {
        let progress = disk.progress();
        progress.audit.begin(self.clock.monotonic());
        for scope in disk.device().scopes() {
            let Scope::Objects(policy) = scope else {
                continue;
            };
            let slots = disk.device().digests(scope, SLOT_BITS).into_keys();
            let slots: Vec<Slot> = slots.filter_map(Slot::new).collect();
            progress.audit.expect(slots.len());
            for slot in slots {
                let audited = disk.call(move |device| {
                    let mut objects: Vec<(ObjectKey, StoredObject)> = Vec::new();
                    device.visit_objects(policy, slot, &mut |key, stored| {
                        objects.push((*key, stored.clone()));
                    })?;
                    let mut audited = Audited::default();
                    for (key, stored) in objects.iter().filter(|(_, one)| one.row.body.is_some()) {
                        audit_object(device, key, stored, &mut audited)?;
                    }
                    Ok(audited)
                });
                match audited.await {
                    Ok(Audited { bytes, damaged }) => {
                        progress.audited_bytes.fetch_add(bytes, Ordering::Relaxed);
                        Progress::add(&progress.audited_damaged, damaged);
                        if let Some(rate) = bytes_per_second {
                            let millis = bytes.saturating_mul(1_000) / rate.max(1);
                            tokio::time::sleep(Duration::from_millis(millis)).await;
                        }
                    }
                    Err(error) => {
                        tracing::error!(device = %disk.name, %error, "auditing failed");
                    }
                }
                progress.audit.step(1);
            }
        }
        progress.audit.end(self.clock.monotonic());
    }
}

/// What was read again.
#[derive(Debug, Default)]
struct Audited {
    bytes: u64,
    damaged: usize,
}

fn audit_object(
    device: &onggi_object_device::Device,
    key: &ObjectKey,
    stored: &StoredObject,
    audited: &mut Audited,
) -> Result<(), DeviceError> {
    audited.bytes = audited.bytes.saturating_add(ROW_BYTES);
    let opened = device.open_body(key, stored, &[]);
    let read = opened.and_then(|mut reader| {
        while let Some(block) = reader.next(device)? {
            audited.bytes = audited.bytes.saturating_add(block.len() as u64);
        }
        Ok(())
    });
    match read {
        // Damage is quarantined and logged where it is met.
        Err(DeviceError::Damaged { .. }) => {
            audited.damaged += 1;
            Ok(())
        }
        read => read,
    }
}
