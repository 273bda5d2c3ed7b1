//! Sends the containers that are to be copied to other clusters: each change of an object as a PUT or a DELETE with the
//! time it was made at.
//!
//! Every primary of a container keeps two points in its own change log. Behind `tried` come changes it has not looked at:
//! it sends those whose share is its own, so that the primaries divide the work. Between `settled` and `tried` it looks
//! at all of them, so that what another primary failed to send, or never heard of, arrives. Most are there by then, which
//! costs a HEAD. `settled` passes no change that is not known to be there, and is written after it is; so a crash repeats
//! work and forgets nothing. A change that cannot be sent holds back the point and nothing behind it.

mod peer;
mod row;

use crate::container::container_row;
use crate::disks::Disk;
use crate::server::Node;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_common_units::Secret;
use onggi_object_device::container_sync::{SYNC_KEY, SYNC_TO};
use onggi_object_device::{RosterKey, SyncPoints};
use onggi_object_model::{ContainerPath, ObjectRecord};
use onggi_object_wire::realms::Destination;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{ClusterKeys, DeviceName, Realms};
use peer::Peers;
use row::{Route, RowError};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Containers under way at a time.
const CONTAINERS_AT_ONCE: usize = 4;
/// Containers, and changes of one, that are read in one go.
const PAGE: usize = 200;
/// Changes remembered as sent behind one that could not be; more of them cost a HEAD again.
const REMEMBERED_MAX: usize = 10_000;
/// After so many failed passes a container waits no longer than before.
const BACKOFF_DOUBLINGS_MAX: u32 = 3;

/// How containers are sent.
#[derive(Debug, Clone)]
pub struct Options {
    /// The realms of the moment.
    pub realms: watch::Receiver<Arc<Realms>>,
    /// The cluster's own proxy, `host:port`: objects are read through it.
    pub proxy: String,
    /// The cluster's keys, which sign what the proxy is asked.
    pub keys: ClusterKeys,
    /// The pause between passes.
    pub interval: Duration,
    /// How long one container is sent in a pass before others come.
    pub container_time: Duration,
    /// Objects of one container under way at a time.
    pub concurrency: usize,
    /// The certificates, as PEM, that other clusters' are checked against.
    pub ca_file: PathBuf,
}

/// What is known of one container until the process ends.
#[derive(Debug, Default)]
struct State {
    /// Changes behind `settled` that are known to be there.
    sent: BTreeSet<u64>,
    failed_passes: u32,
    not_before: Option<Instant>,
    is_seen: bool,
}

type States = Mutex<HashMap<(DeviceName, RosterKey), State>>;

/// The sender of a node.
pub(crate) struct Sender {
    node: Arc<Node>,
    options: Options,
    peers: Arc<Peers>,
    states: States,
}

/// One container on its way.
struct Work {
    disk: Disk,
    key: RosterKey,
    route: Arc<Route>,
    /// This device's place among the primaries, and how many there are.
    share: (usize, usize),
    deadline: Instant,
    /// Whether the other cluster turned out to be away.
    is_away: Arc<AtomicBool>,
}

/// How a change fared in this pass.
type Fared = (u64, Result<(), RowError>);

impl Sender {
    pub(crate) fn new(node: Arc<Node>, options: Options) -> Self {
        let peers = Peers::new(&options, Arc::clone(&node.clock));
        Self {
            node,
            options,
            peers: Arc::new(peers),
            states: States::default(),
        }
    }

    /// Makes passes until the drain begins.
    pub(crate) async fn run(self: Arc<Self>, drain: Drain) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.options.interval) => {}
                () = drain.requested() => return,
            }
            tokio::select! {
                () = self.pass() => {}
                () = drain.requested() => return,
            }
        }
    }

    /// One pass over the containers of all devices.
    pub(crate) async fn pass(self: &Arc<Self>) {
        let mut tasks = JoinSet::new();
        for disk in self.node.disks.serving() {
            let mut after = None;
            loop {
                let from = after;
                let page = disk
                    .call(move |device| device.copied_containers(from.as_ref(), PAGE))
                    .await;
                let page = match page {
                    Ok(page) => page,
                    Err(error) => {
                        tracing::error!(device = %disk.name, %error, "the list of copied containers cannot be read");
                        break;
                    }
                };
                let Some(last) = page.last() else { break };
                after = Some(*last);
                for key in page {
                    while tasks.len() >= CONTAINERS_AT_ONCE {
                        tasks.join_next().await;
                    }
                    let (sender, disk) = (Arc::clone(self), disk.clone());
                    tasks.spawn(async move { sender.container(disk, key).await });
                }
            }
        }
        while tasks.join_next().await.is_some() {}
        self.with_states(|states| {
            states.retain(|_, state| core::mem::take(&mut state.is_seen));
        });
    }

    fn with_states<T>(
        &self,
        act: impl FnOnce(&mut HashMap<(DeviceName, RosterKey), State>) -> T,
    ) -> T {
        act(&mut self.states.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_state<T>(&self, disk: &Disk, key: RosterKey, act: impl FnOnce(&mut State) -> T) -> T {
        self.with_states(|states| act(states.entry((disk.name.clone(), key)).or_default()))
    }

    async fn container(&self, disk: Disk, key: RosterKey) {
        let may_try = self.with_state(&disk, key, |state| {
            state.is_seen = true;
            state.not_before.is_none_or(|at| Instant::now() >= at)
        });
        let Some((work, to)) = self.work(&disk, key).await.filter(|_| may_try) else {
            return;
        };
        let sent = self.send(&work, &to).await;
        let interval = self.options.interval;
        self.with_state(&disk, key, |state| match &sent {
            // What there was no time for comes next time.
            Ok(()) | Err(RowError::NotTried) => (state.failed_passes, state.not_before) = (0, None),
            Err(_) => {
                state.failed_passes = state
                    .failed_passes
                    .saturating_add(1)
                    .min(BACKOFF_DOUBLINGS_MAX);
                state.not_before = Some(Instant::now() + interval * (1 << state.failed_passes));
            }
        });
        if let Err(error) = sent
            && !matches!(error, RowError::NotTried)
        {
            let from = &work.route.from;
            tracing::warn!(%error, container = %from, %to, "a container could not be sent in full; it is tried again");
        }
    }

    /// What there is to do for a container, if this device is one of its primaries.
    async fn work(&self, disk: &Disk, key: RosterKey) -> Option<(Work, String)> {
        let row = container_row(disk, key).await.filter(|row| row.exists())?;
        let from = row.container_path()?;
        let to = row.metadata.get(SYNC_TO)?.to_owned();
        let container_key = Secret::new(row.metadata.get(SYNC_KEY)?);
        let places = self.node.rings.primaries(Scope::Containers, &key.hash);
        let own = |place: &onggi_object_wire::Place| {
            place.address == self.node.address && place.device == disk.name
        };
        let ordinal = places.iter().position(own)?;
        let realms = Arc::clone(&self.options.realms.borrow());
        let destination = destination(&realms, &from, &to)?;
        let peer = match self.peers.remote(&destination.endpoint) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::error!(%error, container = %from, %to, "a container cannot be sent");
                return None;
            }
        };
        let route = Route {
            from,
            destination,
            realms,
            container_key,
            peer,
            peers: Arc::clone(&self.peers),
        };
        let work = Work {
            disk: disk.clone(),
            key,
            route: Arc::new(route),
            share: (ordinal, places.len()),
            deadline: Instant::now() + self.options.container_time,
            is_away: Arc::new(AtomicBool::new(false)),
        };
        Some((work, to))
    }

    /// Sends what there is to send of a container. The first thing that failed is the error.
    async fn send(&self, work: &Work, to: &str) -> Result<(), RowError> {
        let (key, id) = (work.key, SyncPoints::destination_id(to));
        let points = work
            .disk
            .call(move |device| device.container_sync_points(&key, id));
        let mut points = points.await.map_err(RowError::disk)?;
        let settled = self.settle(work, &mut points).await;
        if work.is_away.load(Ordering::Relaxed) {
            return settled;
        }
        let tried = self.try_own(work, &mut points).await;
        settled.and(tried)
    }

    /// Looks at every change that was tried, by whomever, and moves `settled` behind those that are there.
    async fn settle(&self, work: &Work, points: &mut SyncPoints) -> Result<(), RowError> {
        let mut first_failure = Ok(());
        let mut at = points.settled;
        while at < points.tried && !work.is_over() {
            let page = work.changes(at).await?;
            let until = points.tried;
            let page: Vec<_> = page.into_iter().filter(|(n, _)| *n <= until).collect();
            at = page.last().map_or(until, |(n, _)| *n);
            let known = self.with_state(&work.disk, work.key, |state| state.sent.clone());
            let unknown = page.into_iter().filter(|(n, _)| !known.contains(n));
            let fared = self.send_all(work, unknown.collect()).await;
            let was_well = first_failure.is_ok();
            let mut reached = at;
            for (number, outcome) in fared {
                match outcome {
                    Ok(()) => self.remember(work, number),
                    Err(error) => {
                        reached = reached.min(number - 1);
                        first_failure = first_failure.and(Err(error));
                    }
                }
            }
            if was_well {
                points.settled = reached;
                work.keep(points).await?;
                self.with_state(&work.disk, work.key, |state| {
                    state.sent = state.sent.split_off(&(reached + 1));
                });
            }
        }
        first_failure
    }

    /// Sends what is new, and this device's to send.
    async fn try_own(&self, work: &Work, points: &mut SyncPoints) -> Result<(), RowError> {
        let mut first_failure = Ok(());
        while !work.is_over() {
            let page = work.changes(points.tried).await?;
            let Some(last) = page.last().map(|(n, _)| *n) else {
                break;
            };
            let own = page
                .into_iter()
                .filter(|(_, record)| self.is_own(work, record));
            let mut tried = last;
            for (number, outcome) in self.send_all(work, own.collect()).await {
                match outcome {
                    Ok(()) => self.remember(work, number),
                    Err(RowError::NotTried) => tried = tried.min(number - 1),
                    Err(error) => first_failure = first_failure.and(Err(error)),
                }
            }
            points.tried = tried;
            work.keep(points).await?;
            if tried < last {
                break;
            }
        }
        first_failure
    }

    fn is_own(&self, work: &Work, record: &ObjectRecord) -> bool {
        let (ordinal, count) = work.share;
        let path = onggi_object_model::ObjectPath {
            account: work.route.from.account.clone(),
            container: work.route.from.container.clone(),
            object: record.name.clone(),
        };
        let hash = self.node.hash.object(&path);
        let word = hash.as_bytes().first_chunk::<4>().copied();
        let word = u32::from_be_bytes(word.unwrap_or_default());
        usize::try_from(word).unwrap_or(0) % count.max(1) == ordinal
    }

    fn remember(&self, work: &Work, number: u64) {
        self.with_state(&work.disk, work.key, |state| {
            if state.sent.len() < REMEMBERED_MAX {
                state.sent.insert(number);
            }
        });
    }

    /// Sends some changes, so many at a time; how each fared, in their order.
    async fn send_all(&self, work: &Work, changes: Vec<(u64, ObjectRecord)>) -> Vec<Fared> {
        let slots = Arc::new(Semaphore::new(self.options.concurrency.max(1)));
        let mut tasks = JoinSet::new();
        let numbers: Vec<u64> = changes.iter().map(|(n, _)| *n).collect();
        for (number, record) in changes {
            let slot = Arc::clone(&slots).acquire_owned().await;
            let (route, is_away) = (Arc::clone(&work.route), Arc::clone(&work.is_away));
            if is_away.load(Ordering::Relaxed) || work.is_over() {
                break;
            }
            tasks.spawn(async move {
                let outcome = route.send(&record).await;
                if matches!(&outcome, Err(error) if error.is_peer_away()) {
                    is_away.store(true, Ordering::Relaxed);
                }
                drop(slot);
                (number, outcome)
            });
        }
        let mut fared: HashMap<u64, Result<(), RowError>> = HashMap::new();
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok((number, outcome)) => drop(fared.insert(number, outcome)),
                Err(error) => tracing::error!(%error, "sending an object was cut off"),
            }
        }
        let outcome = |number| {
            (
                number,
                fared.remove(&number).unwrap_or(Err(RowError::NotTried)),
            )
        };
        numbers.into_iter().map(outcome).collect()
    }
}

impl Work {
    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline || self.is_away.load(Ordering::Relaxed)
    }

    async fn changes(&self, after: u64) -> Result<Vec<(u64, ObjectRecord)>, RowError> {
        let key = self.key;
        let read = self
            .disk
            .call(move |device| device.numbered_changes::<ObjectRecord>(&key, after, PAGE));
        read.await.map_err(RowError::disk)
    }

    async fn keep(&self, points: &SyncPoints) -> Result<(), RowError> {
        let (key, points) = (self.key, *points);
        let kept = self
            .disk
            .call(move |device| device.set_container_sync_points(&key, &points));
        kept.await.map_err(RowError::disk)
    }
}

fn destination(realms: &Realms, from: &ContainerPath, to: &str) -> Option<Destination> {
    match realms.destination(to) {
        Ok(destination) => destination,
        Err(error) => {
            tracing::warn!(%error, container = %from, "a container's X-Container-Sync-To leads nowhere any more");
            None
        }
    }
}
