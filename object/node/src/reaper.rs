//! The reaper: deletes what is in accounts that were deleted.
//!
//! An account is deleted by a mark. From then on each of its primaries looks, pass after pass, which containers the account
//! still lists, and takes those of its share: it lists a container on its replicas, deletes its objects under every policy
//! the replicas name, and then the container. Each deletion is one as a proxy makes it: stamped anew, acknowledged by a
//! quorum, with handoffs for nodes that are away, so that replication brings nothing back. What cannot be deleted now stays
//! listed, and comes with the next pass; so nothing has to be remembered. The shares of primaries that do not answer are
//! taken over by the others.
//!
//! A container or object that was being put when its account was deleted dies as well. The container's account hears of it,
//! also when it is deleted. An object whose container was faster to go has a pending row on its device: no container hears
//! of it. Each pass looks whether such objects are of a deleted account.

mod contents;

use crate::disks::{Disk, DiskError};
use crate::passes::repeat;
use crate::progress::Progress;
use crate::quorum::Copies;
use crate::server::Node;
use core::sync::atomic::Ordering;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_common_units::Timestamp;
use onggi_object_client::InfoAnswer;
use onggi_object_device::{ObjectKey, RosterKey, RosterRow};
use onggi_object_model::{AccountName, ContainerName, ContainerPath, ListingEntry, ListingQuery};
use onggi_object_ring::PathHash;
use onggi_object_wire::account;
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::replication::Scope;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// The pause between passes unless told otherwise.
pub const REAP_INTERVAL: Duration = Duration::from_secs(60);
/// Objects and containers that are deleted in a second, for each device, unless told otherwise.
pub const REAP_RATE: u32 = 500;
/// Accounts, or containers of one, that are read in one go.
const PAGE: usize = 1_000;
/// An account that is not gone so long after it could be reaped is told of in the log.
const REAP_WARN_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// How deleted accounts are reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The pause between passes.
    pub interval: Duration,
    /// How long an account stays whole after it was deleted.
    pub delay: Duration,
    /// Objects and containers deleted in a second, for each device; 0 stops the reaper.
    pub rate: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interval: REAP_INTERVAL,
            delay: Duration::ZERO,
            rate: REAP_RATE,
        }
    }
}

/// Holds deletions back to a rate.
pub(crate) struct Pace {
    /// `None`: as fast as it goes.
    each: Option<Duration>,
    next: Instant,
}

impl Pace {
    fn new(rate: Option<u32>) -> Self {
        Self {
            each: rate.map(|rate| Duration::from_secs(1) / rate.max(1)),
            next: Instant::now(),
        }
    }

    /// Waits until so many more may be deleted.
    pub(crate) async fn spend(&mut self, count: usize) {
        let Some(each) = self.each else { return };
        tokio::time::sleep_until(self.next).await;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.next = Instant::now() + each.saturating_mul(count);
    }
}

impl Node {
    /// Makes passes until the drain begins.
    pub async fn reap(self: Arc<Self>, options: Options, drain: Drain) {
        if options.rate == 0 {
            return;
        }
        let pass = || self.reap_all(options.delay, Some(options.rate));
        repeat(options.interval, &drain, pass).await;
    }

    /// One pass over the accounts of all devices, as fast as it goes.
    pub async fn reap_once(&self, delay: Duration) {
        self.reap_all(delay, None).await;
    }

    async fn reap_all(&self, delay: Duration, rate: Option<u32>) {
        for disk in self.disks.serving() {
            let mut pace = Pace::new(rate);
            if let Err(error) = self.reap_disk(disk, delay, &mut pace).await {
                tracing::error!(device = %disk.name, %error, "deleted accounts stay for now");
            }
        }
    }

    async fn reap_disk(
        &self,
        disk: &Disk,
        delay: Duration,
        pace: &mut Pace,
    ) -> Result<(), DiskError> {
        let mut after: Option<RosterKey> = None;
        let mut unreaped = 0;
        loop {
            let from = after;
            let page = disk
                .call(move |device| device.deleted_accounts(from.as_ref(), PAGE))
                .await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (key, row) in page {
                let is_due = self.is_due(row.delete_timestamp, delay);
                if !is_due || !self.reap_account(disk, key, &row, pace).await? {
                    unreaped += 1;
                }
            }
        }
        disk.progress().unreaped.store(unreaped, Ordering::Relaxed);
        self.reap_strays(disk, delay, pace).await
    }

    fn is_due(&self, deleted: Timestamp, delay: Duration) -> bool {
        deleted.to_utc().saturating_add(delay) <= self.clock.now()
    }

    /// Deletes this device's share of an account; whether nothing of that is left.
    async fn reap_account(
        &self,
        disk: &Disk,
        key: RosterKey,
        row: &RosterRow,
        pace: &mut Pace,
    ) -> Result<bool, DiskError> {
        let Some(copies) = self.copies(Scope::Accounts, &key.hash) else {
            return Ok(false);
        };
        // A handoff leaves it to the primaries.
        let Some(share) = self.share(disk, &copies, &row.account).await else {
            return Ok(true);
        };
        let mut query = ListingQuery {
            with_reserved: true,
            ..ListingQuery::page(PAGE)
        };
        let (mut gone, mut left) = (0, 0);
        loop {
            let asked = query.clone();
            let page = disk
                .call(move |device| device.list::<CountedContainer>(&key, &asked))
                .await?;
            let Some(last) = page.names().last() else {
                break;
            };
            last.clone_into(&mut query.marker);
            for name in own_containers(page.entries) {
                let container: ContainerName = name;
                let path = ContainerPath {
                    account: row.account.clone(),
                    container,
                };
                let hash = self.hash.container(&path);
                if !share.has(&hash) {
                    continue;
                }
                let progress = disk.progress();
                if self.reap_container(progress, &path, &copies, pace).await {
                    gone += 1;
                } else {
                    left += 1;
                }
            }
        }
        Progress::add(&disk.progress().reaped_containers, gone);
        if gone + left > 0 {
            tracing::info!(account = %row.account, gone, left, "reaped containers of a deleted account");
        }
        if left > 0 && self.is_due(row.delete_timestamp, REAP_WARN_AFTER) {
            let since = row.delete_timestamp.to_utc().iso_z();
            tracing::warn!(account = %row.account, left, since, "a deleted account is still not gone");
        }
        Ok(left == 0)
    }

    /// Which containers are this device's, given who else answers; `None` when it is no primary of the account.
    async fn share(&self, disk: &Disk, copies: &Copies, account: &AccountName) -> Option<Share> {
        let is_own = |place: &onggi_object_wire::Place| {
            place.address == self.address && place.device == disk.name
        };
        let primaries = copies.primaries();
        primaries.iter().find(|place| is_own(place))?;
        let head = account::Head {
            account: account.clone(),
        };
        let caller = self.caller();
        let asked = primaries.iter().map(|place| {
            let (caller, head) = (&caller, &head);
            async move {
                let call = caller.nodes.head_account(place, head);
                is_own(place) || caller.called(place, call).await.is_some()
            }
        });
        let answers = crate::replicator::join_all(asked).await;
        let there: Vec<_> = primaries
            .iter()
            .zip(answers)
            .filter(|(_, is_there)| *is_there)
            .map(|(place, _)| place)
            .collect();
        let ordinal = there.iter().position(|place| is_own(place))?;
        Some(Share {
            ordinal,
            count: there.len(),
        })
    }

    /// Deletes objects that no container hears of, and whose account was deleted.
    async fn reap_strays(
        &self,
        disk: &Disk,
        delay: Duration,
        pace: &mut Pace,
    ) -> Result<(), DiskError> {
        let mut deleted: HashMap<AccountName, bool> = HashMap::new();
        let mut after: Option<ObjectKey> = None;
        loop {
            let from = after;
            let page = disk
                .call(move |device| device.pending_objects(from.as_ref(), PAGE))
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.key);
            for pending in page.into_iter().filter(|pending| !pending.record.deleted) {
                let account = &pending.container.account;
                let is_deleted = match deleted.get(account) {
                    Some(known) => *known,
                    None => {
                        let is_deleted = self.is_account_deleted(account, delay).await;
                        deleted.insert(account.clone(), is_deleted);
                        is_deleted
                    }
                };
                if is_deleted {
                    pace.spend(1).await;
                    let path = contents::object_path(&pending.container, pending.record.name);
                    let (policy, newest) = (pending.key.policy, pending.record.data_timestamp);
                    let is_gone = self.delete_everywhere(policy, &path, newest).await;
                    Progress::add(&disk.progress().reaped, usize::from(is_gone));
                }
            }
        }
    }

    /// Whether a quorum of an account's primaries says that it was deleted so long ago.
    async fn is_account_deleted(&self, account: &AccountName, delay: Duration) -> bool {
        let Some(copies) = self.copies(Scope::Accounts, &self.hash.account(account)) else {
            return false;
        };
        let head = account::Head {
            account: account.clone(),
        };
        let caller = self.caller();
        let answers = copies.read(
            &caller,
            |place| caller.nodes.head_account(place, &head),
            |answer| !matches!(answer, InfoAnswer::Failed { .. }),
        );
        let infos = answers.await.into_iter().flatten();
        let infos = infos.filter_map(|answer| match answer {
            InfoAnswer::Found(info) | InfoAnswer::Missing(Some(info)) => Some(*info),
            InfoAnswer::Missing(None) | InfoAnswer::Failed { .. } => None,
        });
        let merged = infos.reduce(|mut sum, info| {
            onggi_object_replica::merge::account_info(&mut sum, &info);
            sum
        });
        merged.is_some_and(|info| info.is_deleted() && self.is_due(info.delete_timestamp, delay))
    }
}

/// A device's part of an account's containers.
struct Share {
    ordinal: usize,
    count: usize,
}

impl Share {
    fn has(&self, hash: &PathHash) -> bool {
        let word = hash.as_bytes().last_chunk::<4>().copied();
        let word = u32::from_be_bytes(word.unwrap_or_default());
        usize::try_from(word).unwrap_or(0) % self.count.max(1) == self.ordinal
    }
}

fn own_containers(
    entries: Vec<ListingEntry<onggi_object_model::AccountEntry>>,
) -> impl Iterator<Item = ContainerName> {
    entries.into_iter().filter_map(|entry| match entry {
        ListingEntry::Item(item) => item.name.parse().ok(),
        ListingEntry::Subdir(_) => None,
    })
}
