//! The reconciler: moves objects that are under another policy than their container's.
//!
//! A container's replicas note which names may be ([`onggi_object_device::misplaced`]). Once all its primaries have one policy,
//! and not before, for each name the reconciler asks the
//! devices of both policies. What is newer under the wrong one is copied to the right one as it is, with its stamps: bytes
//! or the trace of a deletion. Only when W primaries have it there, the wrong one gets a trace with the stamp of the bytes:
//! it wins over them and over nothing later, and is told from a deletion, which is newer. The container is told nothing: it lists the name already, with
//! these stamps. A note goes when the right policy has what the container lists; so nothing that only a stand-in has is
//! forgotten while that is away. Every replica that has a note acts upon it, which changes nothing the second time.

mod moving;

use crate::disks::{Disk, DiskError};
use crate::passes::repeat;
use crate::server::Node;
use core::sync::atomic::Ordering;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_common_units::UtcTime;
use onggi_object_client::InfoAnswer;
use onggi_object_device::RosterKey;
use onggi_object_device::misplaced::Misplaced;
use onggi_object_model::{ContainerInfo, ObjectName, ObjectPath, ObjectRecord};
use onggi_object_wire::container;
use onggi_object_wire::replication::Scope;
use std::sync::Arc;

/// The pause between passes unless told otherwise.
pub const RECONCILE_INTERVAL: Duration = Duration::from_secs(30);
/// Names looked at in a second, for each device, unless told otherwise.
pub const RECONCILE_RATE: u32 = 100;
/// Notes read in one go, and names of a container that get a note of their own at a time.
const PAGE: usize = 1_000;
const DAY: Duration = Duration::from_secs(86_400);

/// How misplaced objects are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The pause between passes.
    pub interval: Duration,
    /// Names looked at in a second, for each device; 0 stops the reconciler.
    pub rate: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interval: RECONCILE_INTERVAL,
            rate: RECONCILE_RATE,
        }
    }
}

impl Node {
    /// Makes passes until the drain begins.
    pub async fn reconcile(self: Arc<Self>, options: Options, drain: Drain) {
        if options.rate == 0 {
            return;
        }
        let pass = || self.reconcile_all(Some(options.rate));
        repeat(options.interval, &drain, pass).await;
    }

    /// One pass over the notes of all devices, as fast as it goes.
    pub async fn reconcile_once(&self) {
        self.reconcile_all(None).await;
    }

    async fn reconcile_all(&self, rate: Option<u32>) {
        for disk in self.disks.serving() {
            if let Err(error) = self.reconcile_disk(disk, rate).await {
                tracing::error!(device = %disk.name, %error, "misplaced objects stay for now");
            }
        }
    }

    async fn reconcile_disk(&self, disk: &Disk, rate: Option<u32>) -> Result<(), DiskError> {
        let pause = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
        let mut after: Option<Misplaced> = None;
        let mut left = 0;
        // Notes of one container stand side by side.
        let mut settled: Option<(RosterKey, bool)> = None;
        loop {
            let from = after.clone();
            let page = disk
                .call(move |device| device.misplaced(from.as_ref(), PAGE))
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            for note in page {
                if note.is_whole() {
                    // The notes of its names come behind it, and are read next.
                    after = Some(note.clone());
                    let spread = move |device: &onggi_object_device::Device| {
                        device.spread_misplaced::<ObjectRecord>(&note, PAGE)
                    };
                    disk.call(spread).await?;
                    break;
                }
                tokio::time::sleep(pause).await;
                let is_settled = match settled {
                    Some((key, is_settled)) if key == note.container => is_settled,
                    _ => self.is_policy_settled(disk, note.container).await?,
                };
                settled = Some((note.container, is_settled));
                left += u64::from(!is_settled || !self.reconcile_name(disk, note).await?);
            }
        }
        disk.progress().unreconciled.store(left, Ordering::Relaxed);
        Ok(())
    }

    /// Whether every primary of a container has the policy that this device has. A replica that has not heard of the one
    /// chosen first would move objects away from it, and the traces it leaves there would win over what is moved back.
    async fn is_policy_settled(&self, disk: &Disk, key: RosterKey) -> Result<bool, DiskError> {
        let row = disk.call(move |device| device.roster(&key)).await?;
        let row = row.filter(onggi_object_device::RosterRow::exists);
        let Some((path, own)) = row.and_then(|row| Some((row.container_path()?, row.policy)))
        else {
            // Of a container that is not there nothing is moved to another policy, and notes go.
            return Ok(true);
        };
        let Some(copies) = self.copies(Scope::Containers, &key.hash) else {
            return Ok(false);
        };
        let (caller, head) = (self.caller(), container::Head { path });
        let answers = copies.read(
            &caller,
            |place| caller.nodes.head_container(place, &head),
            |answer| !matches!(answer, InfoAnswer::Failed { .. }),
        );
        let answers = answers.await.unwrap_or_default();
        let has_own = |answer: &InfoAnswer<ContainerInfo>| match answer {
            InfoAnswer::Found(info) | InfoAnswer::Missing(Some(info)) => info.policy == own,
            InfoAnswer::Missing(None) | InfoAnswer::Failed { .. } => false,
        };
        Ok(answers.len() == copies.primaries().len() && answers.iter().all(has_own))
    }

    /// Looks at one name; whether there is nothing left to do.
    async fn reconcile_name(&self, disk: &Disk, note: Misplaced) -> Result<bool, DiskError> {
        let (key, name) = (note.container, note.name.clone());
        let (row, record) = disk
            .call(move |device| {
                let record = device.record::<ObjectRecord>(&key, &name)?;
                Ok((device.roster(&key)?, record))
            })
            .await?;
        // What was taken away here stands elsewhere, with notes of its own.
        let known = row.zip(record).filter(|(row, _)| row.policy != note.policy);
        let path = known.as_ref().and_then(|(row, record)| {
            let path = row.container_path()?;
            Some(object_path(path, record.name.clone()))
        });
        let (Some((row, record)), Some(path)) = (known, path) else {
            disk.call(move |device| device.forget_misplaced(&note))
                .await?;
            return Ok(true);
        };
        let looked = self.reconcile_object(&path, note.policy, row.policy).await;
        if looked.is_some_and(|looked| looked.is_moved) {
            disk.progress().reconciled.fetch_add(1, Ordering::Relaxed);
            tracing::info!(%path, from = %note.policy, to = %row.policy, "moved what was under another policy than its container's");
        }
        let is_done = looked.is_some_and(|looked| {
            looked.newest >= record.data_timestamp || (record.deleted && !looked.is_there)
        });
        let now = self.clock.now();
        let age = DAY * u32::from(self.reclaim_age_days);
        let is_old = note.since > UtcTime::EPOCH && now.since(note.since) > age;
        if is_old && !is_done {
            tracing::warn!(%path, policy = %note.policy, "an object that its container lists is under neither policy");
        }
        if is_done || is_old {
            disk.call(move |device| device.forget_misplaced(&note))
                .await?;
        } else if note.since == UtcTime::EPOCH {
            disk.call(move |device| device.date_misplaced(&note, now))
                .await?;
        }
        Ok(is_done || is_old)
    }
}

fn object_path(container: onggi_object_model::ContainerPath, object: ObjectName) -> ObjectPath {
    ObjectPath {
        account: container.account,
        container: container.container,
        object,
    }
}
