//! Group commit: changes that came together are written with one sync.
//!
//! A sync costs as much for a hundred changes as for one, and changes of one container all touch its row. So whoever has
//! several waiting hands them over together ([`Device::commit`]): those that do not get in each other's way go into one
//! batch, records of one container are merged into its row at once, and what must come after another change of the same
//! stripe goes into the next batch. Nothing is seen or acknowledged before its batch is on stable storage (O1, O3).

use crate::device::Device;
use crate::digests;
use crate::error::DeviceError;
use crate::key::{ObjectKey, RosterKey};
use crate::large;
use crate::object::{Guard, Merge, Merged, Prepared, StagedObject};
use crate::pending::{PendingObject, Tell};
use crate::reservation::Commit;
use crate::roster::News;
use crate::space::{BATCH_BYTES, Room};
use crate::stripes::Stripes;
use crate::tables::RESERVATION;
use onggi_common_meta::local::{Batch, Durability};
use onggi_object_model::{ObjectRecord, PolicyIndex};
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::rows::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How much of deletions news has heard whose client waits for it: see [`Device::merge_news`].
const JUST_ASKED: u16 = u16::MAX;

/// One change that can be written together with others.
#[derive(Debug)]
pub enum Change {
    /// An object's row is merged, as [`Device::merge_object`] does it.
    Object {
        /// Its key.
        key: ObjectKey,
        /// The row and its bytes.
        prepared: Box<Prepared>,
        /// How.
        how: Merge,
    },
    /// Records are merged into a container that is there.
    ObjectRecords {
        /// The container.
        key: RosterKey,
        /// The policy the objects are under.
        policy: PolicyIndex,
        /// The records.
        records: Vec<ObjectRecord>,
        /// The last day of whose deletions they have heard: see [`Device::merge_news`].
        known: u16,
    },
    /// Records are merged into an account that is there.
    ContainerRecords {
        /// The account.
        key: RosterKey,
        /// The records.
        records: Vec<CountedContainer>,
        /// The last day of whose deletions they have heard: see [`Device::merge_news`].
        known: u16,
    },
    /// A container was told: see [`Device::forget_pending_objects`].
    Told(Box<PendingObject>),
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// An object's row.
    Object {
        /// What became of it.
        merged: Merged,
        /// Whether the container's copy on this device lists it as it is now.
        is_listed: bool,
    },
    /// Records: whether the container or account is there.
    Records {
        /// Whether.
        is_there: bool,
    },
    /// A pending row that is not needed any more.
    Told,
}

/// What changes of a batch that share a container's or account's row have in common: whose it is, how much they have heard,
/// and the policy of the objects they are about.
type Bunch = (RosterKey, u16, Option<PolicyIndex>);

/// What a change came to; changes are answered in the order in which they were given.
pub type Outcome = Result<Committed, DeviceError>;

impl Change {
    /// The stripe of the object's row it changes.
    fn own_stripe(&self) -> Option<usize> {
        match self {
            Self::Object { key, .. } => Some(Stripes::index(key.slot())),
            Self::Told(pending) => Some(Stripes::index(pending.key.slot())),
            Self::ObjectRecords { .. } | Self::ContainerRecords { .. } => None,
        }
    }

    /// The container or account whose row several changes of a batch may share, when they have heard as much.
    fn roster(&self) -> Option<Bunch> {
        match self {
            Self::ObjectRecords {
                key, known, policy, ..
            } => Some((*key, *known, Some(*policy))),
            Self::ContainerRecords { key, known, .. } => Some((*key, *known, None)),
            Self::Object { key, how, .. } => Some((how.tell?.here?, JUST_ASKED, Some(key.policy))),
            Self::Told(_) => None,
        }
    }

    /// How many bytes it brings, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const ROW_BYTES: usize = 512;
        match self {
            Self::Object { prepared, .. } => prepared.bytes().saturating_add(ROW_BYTES),
            Self::ObjectRecords { records, .. } => records.len().saturating_mul(ROW_BYTES),
            Self::ContainerRecords { records, .. } => records.len().saturating_mul(ROW_BYTES),
            Self::Told(_) => ROW_BYTES,
        }
    }
}

/// Changes that do not get in each other's way, with their places among those that were given.
#[derive(Default)]
struct Round {
    changes: Vec<(usize, Change)>,
    /// The stripes taken, and the container or account whose records share one.
    taken: BTreeMap<usize, Option<Bunch>>,
}

impl Round {
    /// Takes the change, or gives it back when another one of the round is in its way.
    fn take(&mut self, place: usize, change: Change) -> Option<Change> {
        let (own, roster) = (change.own_stripe(), change.roster());
        let shared = roster.map(|(key, ..)| Stripes::index(key.slot()));
        let is_own_free = own.is_none_or(|stripe| !self.taken.contains_key(&stripe));
        let in_the_way = shared.filter(|stripe| {
            let owner = self.taken.get(stripe);
            owner.is_some_and(|owner| *owner != roster)
        });
        if !is_own_free || in_the_way.is_some() {
            // What comes later for these stripes comes after this one. Records of one roster may change their order.
            let waited_for = own.into_iter().chain(in_the_way);
            self.taken.extend(waited_for.map(|stripe| (stripe, None)));
            return Some(change);
        }
        // An object whose stripe is that of its container shares it with nobody.
        self.taken.extend(shared.map(|stripe| (stripe, roster)));
        self.taken.extend(own.map(|stripe| (stripe, None)));
        self.changes.push((place, change));
        None
    }
}

/// A batch in the making, and what is to be done and told when it is written.
#[derive(Default)]
struct Group {
    batch: Batch,
    needs_sync: bool,
    digests: Vec<digests::Change>,
    released: Vec<ObjectKey>,
    outcomes: BTreeMap<usize, Outcome>,
    /// Files no row names any more.
    left_files: Vec<String>,
}

impl Group {
    fn add(&mut self, batch: Batch, digests: Option<digests::Change>) {
        self.batch.append(batch);
        self.digests.extend(digests);
        self.needs_sync = true;
    }

    /// Several changes fail for one reason.
    fn refuse(&mut self, places: Vec<usize>, error: DeviceError) {
        let error = Arc::new(error);
        for place in places {
            let error = DeviceError::InGroup(Arc::clone(&error));
            self.outcomes.insert(place, Err(error));
        }
    }

    /// Nothing was written: every change that would have been fails for the same reason.
    fn fail(&mut self, error: DeviceError) {
        self.left_files.clear();
        let error = Arc::new(error);
        for outcome in self.outcomes.values_mut() {
            if outcome.is_ok() {
                *outcome = Err(DeviceError::InGroup(Arc::clone(&error)));
            }
        }
    }
}

/// News of an object whose container may be here.
struct Listing {
    place: usize,
    /// What is remembered for those who are to be told by messages.
    pending: PendingObject,
    /// Whether anybody is, even when it is listed here.
    is_elsewhere: bool,
}

/// Records of one container or account, from all changes of a round that bring some.
struct Joined<R> {
    records: Vec<R>,
    /// The changes that bring nothing else.
    places: Vec<usize>,
    /// The objects that are in the same batch.
    listings: Vec<Listing>,
}

impl<R> Default for Joined<R> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            places: Vec::new(),
            listings: Vec::new(),
        }
    }
}

type JoinedBy<R> = BTreeMap<Bunch, Joined<R>>;

impl<R> Joined<R> {
    fn add(&mut self, place: usize, records: Vec<R>) {
        self.records.extend(records);
        self.places.push(place);
    }
}

/// Adds what a container is to be told to its records in this batch, or to what is remembered.
fn list(
    place: usize,
    tell: Tell,
    pending: PendingObject,
    objects: &mut JoinedBy<ObjectRecord>,
    group: &mut Group,
) {
    let Some(container) = tell.here else {
        pending.stage(&mut group.batch);
        return;
    };
    let bunch = (container, JUST_ASKED, Some(pending.key.policy));
    let joined = objects.entry(bunch).or_default();
    joined.records.push(pending.record.clone());
    joined.listings.push(Listing {
        place,
        pending,
        is_elsewhere: tell.elsewhere,
    });
}

impl Listing {
    /// The container's row is in the batch, or is not there.
    fn settle(self, is_there: bool, group: &mut Group) {
        if !is_there || self.is_elsewhere {
            self.pending.stage(&mut group.batch);
        }
        if let Some(Ok(Committed::Object { is_listed, .. })) = group.outcomes.get_mut(&self.place) {
            *is_listed = is_there;
        }
    }
}

impl Device {
    /// Carries out changes with as few syncs as their order allows. Each is on stable storage when this returns, or has
    /// its error.
    pub fn commit(&self, changes: Vec<Change>) -> Vec<Outcome> {
        let count = changes.len();
        let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
        let mut waiting: Vec<(usize, Change)> = changes.into_iter().enumerate().collect();
        while !waiting.is_empty() {
            let mut round = Round::default();
            let mut later = Vec::new();
            for (place, change) in waiting {
                if let Some(change) = round.take(place, change) {
                    later.push((place, change));
                }
            }
            outcomes.extend(self.commit_round(round));
            waiting = later;
        }
        debug_assert_eq!(outcomes.len(), count, "every change has its outcome");
        outcomes.into_values().collect()
    }

    fn commit_round(&self, round: Round) -> BTreeMap<usize, Outcome> {
        let stripes: BTreeSet<usize> = round.taken.keys().copied().collect();
        let mut group = Group::default();
        {
            let _guards = self.stripes().lock_all(&stripes);
            self.stage_round(round.changes, &mut group);
            let durability = if group.needs_sync {
                Durability::Synced
            } else {
                // When a power cut brings a pending row back, the container is told once more, which changes nothing.
                Durability::Lazy
            };
            let batch = core::mem::take(&mut group.batch);
            let written = if batch.is_empty() {
                Ok(())
            } else {
                self.store().write(&batch, durability)
            };
            match written {
                Ok(()) => {
                    for change in core::mem::take(&mut group.digests) {
                        self.digest_table().keep(change);
                    }
                    for key in &group.released {
                        self.reservations().forget(key);
                    }
                }
                Err(error) => group.fail(error.into()),
            }
        }
        for name in &group.left_files {
            // The sweep finds it again.
            if let Err(error) = large::remove(self.directory(), name) {
                tracing::warn!(%error, name, "a body that no row names could not be removed");
            }
        }
        group.outcomes
    }

    fn stage_round(&self, changes: Vec<(usize, Change)>, group: &mut Group) {
        let room = match self.space().room() {
            Ok(room) => room,
            Err(error) => {
                return self.give_up(changes, error, group);
            }
        };
        let mut objects: JoinedBy<ObjectRecord> = BTreeMap::new();
        let mut containers: JoinedBy<CountedContainer> = BTreeMap::new();
        for (place, change) in changes {
            match change {
                Change::Object { key, prepared, how } => {
                    let staged = self.stage_one(room, &key, *prepared, how, group);
                    let outcome = staged.map(|(merged, news)| {
                        if let Some((tell, pending)) = how.tell.zip(news) {
                            list(place, tell, pending, &mut objects, group);
                        }
                        Committed::Object {
                            merged,
                            is_listed: false,
                        }
                    });
                    group.outcomes.insert(place, outcome);
                }
                Change::ObjectRecords {
                    key,
                    policy,
                    records,
                    known,
                } => {
                    let bunch = (key, known, Some(policy));
                    objects.entry(bunch).or_default().add(place, records);
                }
                Change::ContainerRecords {
                    key,
                    records,
                    known,
                } => {
                    containers
                        .entry((key, known, None))
                        .or_default()
                        .add(place, records);
                }
                Change::Told(pending) => {
                    let outcome = self.stage_told(&pending, &mut group.batch);
                    group.outcomes.insert(place, outcome);
                }
            }
        }
        self.stage_joined(room, objects, group);
        self.stage_joined(room, containers, group);
    }

    fn give_up(&self, changes: Vec<(usize, Change)>, error: DeviceError, group: &mut Group) {
        let mut places = Vec::with_capacity(changes.len());
        for (place, change) in changes {
            if let Change::Object { prepared, .. } = change
                && let Some(name) = prepared.file_name()
            {
                self.with_in_flight(|names| names.remove(name));
            }
            places.push(place);
        }
        group.refuse(places, error);
    }

    fn stage_one(
        &self,
        room: Room<'_>,
        key: &ObjectKey,
        prepared: Prepared,
        how: Merge,
        group: &mut Group,
    ) -> Result<(Merged, Option<PendingObject>), DeviceError> {
        let mut batch = Batch::new();
        let file_name = prepared.file_name().map(str::to_owned);
        let has_room = if prepared.has_body() && !how.if_present {
            room.check(BATCH_BYTES)
        } else {
            room.check_small(BATCH_BYTES)
        };
        let staged = has_room.and_then(|()| self.stage_object(key, prepared, how, &mut batch));
        if let Some(name) = &file_name {
            self.with_in_flight(|names| names.remove(name));
        }
        let StagedObject {
            merged,
            digests,
            news,
            left_file,
        } = staged?;
        let is_kept = matches!(&merged, Merged::Changed { taken, .. } if taken.data);
        if !is_kept {
            group.left_files.extend(file_name);
        }
        group.left_files.extend(left_file);
        // Whatever a commit comes to, its reservation is of no use any more, and would keep others out until it expires.
        let is_own = |commit: Commit| {
            let held = self.reservations().get(key);
            held.is_some_and(|held| held.token == commit.token)
        };
        let is_spent = match how.guard {
            Guard::Commit { commit, .. } => merged != Merged::Lapsed && is_own(commit),
            Guard::None | Guard::Above { .. } => false,
        };
        if is_spent {
            batch.delete(RESERVATION, key.bytes());
            group.released.push(*key);
        }
        if digests.is_some() {
            group.add(batch, digests);
        } else if is_spent {
            // When a power cut brings the reservation back, it expires by itself.
            group.batch.append(batch);
        }
        Ok((merged, news))
    }

    fn stage_joined<R: Record>(&self, room: Room<'_>, joined: JoinedBy<R>, group: &mut Group) {
        for ((key, known, policy), joined) in joined {
            let news = News {
                theirs: None,
                records: &joined.records,
                known,
                policy,
            };
            let mut batch = Batch::new();
            let staged = room
                .check_small(BATCH_BYTES)
                .and_then(|()| self.stage_records(&key, news, &mut batch));
            match staged {
                Ok((row, digests)) => {
                    let is_there = row.is_some();
                    // A note of a misplaced object is written also where the record is known.
                    if !batch.is_empty() {
                        group.add(batch, digests);
                    }
                    for place in joined.places {
                        let outcome = Ok(Committed::Records { is_there });
                        group.outcomes.insert(place, outcome);
                    }
                    for listing in joined.listings {
                        listing.settle(is_there, group);
                    }
                }
                Err(error) => {
                    if !joined.listings.is_empty() {
                        tracing::warn!(%error, "objects are not listed here yet; the container is told later");
                    }
                    for listing in joined.listings {
                        listing.settle(false, group);
                    }
                    group.refuse(joined.places, error);
                }
            }
        }
    }

    fn stage_told(&self, pending: &PendingObject, batch: &mut Batch) -> Outcome {
        pending.stage_forgotten(self, batch)?;
        Ok(Committed::Told)
    }
}
