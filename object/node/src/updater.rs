//! The updater: tells containers about objects and accounts about containers where a request could not.
//!
//! What is untold stands in the device's pending rows, written with the change itself. A row that cannot be told waits
//! longer each time; it goes when every primary heard it.

use crate::container::container_row;
use crate::disks::Disk;
use crate::progress::Progress;
use crate::server::Node;
use core::sync::atomic::Ordering;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_device::{PendingObject, RosterKey};
use onggi_object_model::{ContainerPath, ObjectRecord, PolicyIndex};
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Place, account, container};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Pending rows looked at in one go.
const PAGE: usize = 1_000;
/// Records told in one message.
const RECORDS_AT_ONCE: usize = 500;
/// After so many failed passes a device is asked only every so many passes.
const BACKOFF_PASSES_MAX: u32 = 16;

/// How patient to be with each device that does not answer.
#[derive(Debug, Default)]
struct Patience {
    pass: u32,
    failed: HashMap<Place, (u32, u32)>,
}

impl Patience {
    fn may_try(&self, place: &Place) -> bool {
        self.failed
            .get(place)
            .is_none_or(|(_, next)| self.pass >= *next)
    }

    fn on_answer(&mut self, place: &Place) {
        self.failed.remove(place);
    }

    fn on_failure(&mut self, place: &Place) {
        let (count, next) = self.failed.entry(place.clone()).or_default();
        *count = count.saturating_add(1).min(BACKOFF_PASSES_MAX.ilog2());
        *next = self.pass.saturating_add(1 << *count);
    }
}

impl Node {
    /// Makes passes until the drain begins.
    pub async fn update(self: Arc<Self>, interval: Duration, drain: Drain) {
        let mut patience = Patience::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = drain.requested() => return,
            }
            patience.pass = patience.pass.saturating_add(1);
            for disk in self.disks.serving() {
                tokio::select! {
                    () = self.tell(disk, &mut patience) => {}
                    () = drain.requested() => return,
                }
            }
        }
    }

    /// Tells everything that is pending on all devices once, whoever failed before.
    pub async fn update_once(&self) {
        for disk in self.disks.serving() {
            self.tell(disk, &mut Patience::default()).await;
        }
    }

    async fn tell(&self, disk: &Disk, patience: &mut Patience) {
        let now = self.clock.now();
        let swept = disk
            .call(move |device| device.sweep_reservations(now))
            .await;
        if let Err(error) = swept {
            tracing::warn!(device = %disk.name, %error, "expired reservations stay for now");
        }
        let mut after = None;
        let mut untold = 0;
        loop {
            let from = after;
            let page = disk
                .call(move |device| device.pending_objects(from.as_ref(), PAGE))
                .await;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(device = %disk.name, %error, "pending rows cannot be read");
                    return;
                }
            };
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            let count = page.len();
            let told = self.tell_containers(disk, page, patience).await;
            Progress::add(&disk.progress().told, told);
            untold += count.saturating_sub(told);
        }
        let waiting = u64::try_from(untold).unwrap_or(u64::MAX);
        disk.progress().untold.store(waiting, Ordering::Relaxed);
        self.tell_accounts(disk, patience).await;
    }

    /// How many of them every primary of their containers has heard.
    async fn tell_containers(
        &self,
        disk: &Disk,
        page: Vec<PendingObject>,
        patience: &mut Patience,
    ) -> usize {
        let mut count = 0;
        let mut grouped: BTreeMap<(ContainerPath, PolicyIndex, u16), Vec<PendingObject>> =
            BTreeMap::new();
        for pending in page {
            let path = pending.container.clone();
            let group = (path, pending.key.policy, pending.known());
            grouped.entry(group).or_default().push(pending);
        }
        for ((path, policy, known), pending) in grouped {
            let places = self
                .rings
                .primaries(Scope::Containers, &self.hash.container(&path));
            let head = container::Rows {
                path,
                policy,
                known,
            };
            for some in pending.chunks(RECORDS_AT_ONCE) {
                let records: Vec<ObjectRecord> =
                    some.iter().map(|pending| pending.record.clone()).collect();
                let mut is_told = !places.is_empty();
                for place in &places {
                    is_told &= patience.may_try(place)
                        && self.tell_container(place, &head, &records, patience).await;
                }
                if is_told {
                    count += some.len();
                    let told = some.to_vec();
                    let forgotten = disk
                        .call(move |device| device.forget_pending_objects(&told))
                        .await;
                    if let Err(error) = forgotten {
                        tracing::warn!(device = %disk.name, %error, "told rows stay pending");
                    }
                }
            }
        }
        count
    }

    async fn tell_container(
        &self,
        place: &Place,
        head: &container::Rows,
        records: &[ObjectRecord],
        patience: &mut Patience,
    ) -> bool {
        match self.nodes.post_object_records(place, head, records).await {
            Ok(is_there) => {
                patience.on_answer(place);
                is_there
            }
            Err(error) => {
                tracing::debug!(%place, %error, "a container was not told");
                patience.on_failure(place);
                false
            }
        }
    }

    async fn tell_accounts(&self, disk: &Disk, patience: &mut Patience) {
        let mut after: Option<RosterKey> = None;
        loop {
            let from = after;
            let page = disk
                .call(move |device| device.pending_containers(from.as_ref(), PAGE))
                .await;
            let Ok(page) = page else { return };
            let Some(last) = page.last() else { return };
            after = Some(*last);
            for key in page {
                self.tell_account(disk, key, patience).await;
            }
        }
    }

    async fn tell_account(&self, disk: &Disk, key: RosterKey, patience: &mut Patience) {
        let Some(row) = container_row(disk, key).await else {
            return;
        };
        let Some(record) = row.record(self.now()) else {
            return;
        };
        let places = self
            .rings
            .primaries(Scope::Accounts, &self.hash.account(&row.account));
        let head = account::Rows {
            account: row.account.clone(),
            known: disk
                .device()
                .horizon(Scope::Containers, key.hash.as_bytes()),
        };
        let mut is_told = !places.is_empty();
        for place in &places {
            if !patience.may_try(place) {
                is_told = false;
                continue;
            }
            let told = self
                .nodes
                .post_container_records(place, &head, core::slice::from_ref(&record))
                .await;
            match told {
                Ok(is_there) => {
                    patience.on_answer(place);
                    is_told &= is_there;
                }
                Err(error) => {
                    tracing::debug!(%place, %error, "an account was not told");
                    patience.on_failure(place);
                    is_told = false;
                }
            }
        }
        if is_told {
            let forgotten = disk
                .call(move |device| device.forget_pending_container(&key, &row))
                .await;
            if let Err(error) = forgotten {
                tracing::warn!(device = %disk.name, %error, "a told container stays pending");
            }
        }
    }
}
