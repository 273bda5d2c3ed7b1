//! The expirer: deletes objects whose `X-Delete-At` has come.
//!
//! Each primary deletes its own copy. It takes what is due from its index, in the order of the dates, asks the other
//! primaries whether they know anything newer, and deletes what a read quorum has nothing against: a POST that moved the
//! date is on a write quorum, so that one of those asked has it. The trace is the same on every device, and stamped below
//! any later write. A date is acted upon only [`EXPIRY_DELAY`] after it, when every write that began before it is over and
//! clocks may differ.

use crate::disks::{Disk, DiskError};
use crate::passes::repeat;
use crate::push::Peer;
use crate::rings::{Rings, place};
use crate::server::Node;
use core::sync::atomic::Ordering;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_device::{Due, ObjectKey};
use onggi_object_model::PolicyIndex;
use onggi_object_replica::Quorum;
use onggi_object_wire::Place;
use onggi_object_wire::expiry::{DUE_MAX, DueKey};
use onggi_object_wire::replication::Scope;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The pause between passes unless told otherwise.
pub const EXPIRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long after its date an object is deleted unless told otherwise: longer than a write may take (30 s) and than
/// clocks may differ (60 s).
pub const EXPIRY_DELAY: Duration = Duration::from_secs(120);
/// Deletions of one page that go on side by side: they share their syncs.
const DELETIONS_AT_ONCE: usize = 16;

/// An object that is due, and who has a say.
struct Candidate {
    due: Due,
    peers: Vec<Place>,
    /// How many primaries, this one among them, know nothing newer.
    agreed: usize,
    needed: usize,
    is_vetoed: bool,
}

impl Node {
    /// Makes passes until the drain begins.
    pub async fn expire(self: Arc<Self>, interval: Duration, delay: Duration, drain: Drain) {
        let pass = || async {
            self.expire_once(delay).await;
        };
        repeat(interval, &drain, pass).await;
    }

    /// Deletes what is due on all devices, once; how many objects.
    pub async fn expire_once(&self, delay: Duration) -> u64 {
        let mut expired = 0;
        for disk in self.disks.serving() {
            match self.expire_disk(disk, delay).await {
                Ok(0) => {}
                Ok(count) => {
                    tracing::info!(device = %disk.name, count, "deleted objects whose date had come");
                    expired += count;
                }
                Err(error) => {
                    tracing::error!(device = %disk.name, %error, "objects whose date has come stay for now");
                }
            }
        }
        expired
    }

    async fn expire_disk(&self, disk: &Disk, delay: Duration) -> Result<u64, DiskError> {
        let now = self.clock.now().seconds();
        let second = now.saturating_sub(delay.as_secs());
        let mut after: Option<(u64, ObjectKey)> = None;
        let (mut expired, mut due) = (0, 0);
        let progress = disk.progress();
        loop {
            let from = after;
            let page = disk
                .call(move |device| device.due(second, from, DUE_MAX))
                .await?;
            let Some(last) = page.last() else {
                let waiting = due - expired.min(due);
                progress.unexpired.store(waiting, Ordering::Relaxed);
                return Ok(expired);
            };
            after = Some((last.delete_at, last.key));
            due += u64::try_from(page.len()).unwrap_or(u64::MAX);
            let count = self.expire_page(disk, page).await?;
            progress.expired.fetch_add(count, Ordering::Relaxed);
            expired += count;
        }
    }

    async fn expire_page(&self, disk: &Disk, page: Vec<Due>) -> Result<u64, DiskError> {
        let mut candidates: Vec<Candidate> = page
            .into_iter()
            .filter_map(|due| self.candidate(disk, due))
            .collect();
        let mut asked: BTreeMap<(Place, PolicyIndex), Vec<usize>> = BTreeMap::new();
        for (index, candidate) in candidates.iter().enumerate() {
            for peer in &candidate.peers {
                let about = (peer.clone(), candidate.due.key.policy);
                asked.entry(about).or_default().push(index);
            }
        }
        let calls = asked.into_iter().map(|((place, policy), indices)| {
            let keys = indices.iter().filter_map(|index| candidates.get(*index));
            let keys: Vec<DueKey> = keys.map(|candidate| due_key(&candidate.due)).collect();
            let peer = Peer {
                node: self,
                disk,
                place,
            };
            async move { (peer.newer_than_due(policy, &keys).await, indices) }
        });
        for (answer, indices) in crate::replicator::join_all(calls).await {
            let newer = match answer {
                Ok(newer) => newer,
                // Another one may answer; else the objects wait.
                Err(error) => {
                    tracing::debug!(device = %disk.name, %error, "a peer was not asked about dates");
                    continue;
                }
            };
            for (position, index) in (0u32..).zip(indices) {
                if let Some(candidate) = candidates.get_mut(index) {
                    let is_newer = newer.contains(&position);
                    candidate.is_vetoed |= is_newer;
                    candidate.agreed += usize::from(!is_newer);
                }
            }
        }
        candidates.retain(|candidate| !candidate.is_vetoed && candidate.agreed >= candidate.needed);
        delete(disk, candidates).await
    }

    /// `None` when this device is no primary of it: its copy goes home, and is deleted there.
    fn candidate(&self, disk: &Disk, due: Due) -> Option<Candidate> {
        let ring = self.rings.ring(Scope::Objects(due.key.policy))?;
        let own = Rings::device_id(&ring, &self.address, &disk.name)?;
        let primaries = ring.primaries(ring.partition(&due.key.hash));
        if !primaries.iter().any(|device| device.id == own) {
            return None;
        }
        let others = primaries.iter().filter(|device| device.id != own);
        Some(Candidate {
            due,
            peers: others.filter_map(|device| place(device)).collect(),
            agreed: 1,
            needed: Quorum::of(primaries.len()).reads(),
            is_vetoed: false,
        })
    }
}

const fn due_key(due: &Due) -> DueKey {
    DueKey {
        hash: *due.key.hash.as_bytes(),
        fragment: due.key.fragment,
        data_timestamp: due.data_timestamp,
        metadata_timestamp: due.metadata_timestamp,
    }
}

async fn delete(disk: &Disk, candidates: Vec<Candidate>) -> Result<u64, DiskError> {
    let share = candidates.len().div_ceil(DELETIONS_AT_ONCE).max(1);
    let mut tasks = JoinSet::new();
    for some in candidates.chunks(share) {
        let due: Vec<Due> = some.iter().map(|candidate| candidate.due).collect();
        let disk = disk.clone();
        tasks.spawn(async move {
            let deleted = disk.call(move |device| {
                let mut count = 0u64;
                for due in &due {
                    count += u64::from(device.expire(due)?);
                }
                Ok(count)
            });
            deleted.await
        });
    }
    let mut count = 0;
    while let Some(joined) = tasks.join_next().await {
        count += joined.ok().ok_or(DiskError::CutOff)??;
    }
    Ok(count)
}
