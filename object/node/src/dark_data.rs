//! The search for dark data: objects that no container lists.
//!
//! Each object's batch has a pending row until its containers have heard, so there should be none. What a fault, or a builder
//! of rings, left all the same takes room for ever and is found by nobody else. The first primary of each object asks all
//! primaries of its container, slowly. Only when every one of them has answered, none lists the name, and the object is older
//! than a grace age, it is dark: then it is logged, the container is told of it again, or it is deleted by a trace with the
//! stamp of its bytes, which wins over these and over nothing later.

use crate::disks::{Disk, DiskError};
use crate::passes::repeat;
use crate::progress::Progress;
use crate::server::Node;
use core::sync::atomic::Ordering;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_common_units::{Timestamp, UtcTime};
use onggi_object_client::ListAnswer;
use onggi_object_device::ObjectKey;
use onggi_object_model::{ListingQuery, ObjectPath};
use onggi_object_wire::container;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Slot, digest::SLOT_BITS};
use std::sync::Arc;

/// The pause between passes unless told otherwise.
pub const DARK_DATA_INTERVAL: Duration = Duration::from_secs(3_600);
/// Objects looked at in a second, for each device, unless told otherwise.
pub const DARK_DATA_RATE: u32 = 10;
/// How old an object is at least unless told otherwise.
pub const GRACE_AGE: Duration = Duration::from_secs(7 * 86_400);

/// What is done with dark data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// It is logged.
    #[default]
    Log,
    /// Its container is told of it again, if there is one.
    Tell,
    /// It is deleted.
    Delete,
}

/// How dark data is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What is done with it.
    pub action: Action,
    /// The pause between passes.
    pub interval: Duration,
    /// How old an object is at least.
    pub grace_age: Duration,
    /// Objects looked at in a second, for each device; 0 stops the search.
    pub rate: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            action: Action::Log,
            interval: DARK_DATA_INTERVAL,
            grace_age: GRACE_AGE,
            rate: DARK_DATA_RATE,
        }
    }
}

/// An object that is asked about.
struct Candidate {
    key: ObjectKey,
    path: ObjectPath,
    data_timestamp: Timestamp,
}

/// What a container's primaries say of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Some list it, or not all have said so.
    Listed,
    /// None lists it.
    Dark,
    /// None has the container.
    NoContainer,
}

impl Node {
    /// Makes passes until the drain begins.
    pub async fn search_dark(self: Arc<Self>, options: Options, drain: Drain) {
        if options.rate == 0 {
            return;
        }
        let pass = || self.search_all(options, Duration::from_secs(1) / options.rate);
        repeat(options.interval, &drain, pass).await;
    }

    /// One pass over all devices, as fast as it goes.
    pub async fn search_dark_once(&self, options: Options) {
        self.search_all(options, Duration::ZERO).await;
    }

    async fn search_all(&self, options: Options, pause: Duration) {
        for disk in self.disks.serving() {
            if let Err(error) = self.search_disk(disk, options, pause).await {
                tracing::error!(device = %disk.name, %error, "dark data is not searched for now");
            }
        }
    }

    async fn search_disk(
        &self,
        disk: &Disk,
        options: Options,
        pause: Duration,
    ) -> Result<(), DiskError> {
        let mut found = 0;
        for scope in disk.device().scopes() {
            let Scope::Objects(policy) = scope else {
                continue;
            };
            let slots = disk.device().digests(scope, SLOT_BITS).into_keys();
            for slot in slots.filter_map(Slot::new) {
                let rows = disk.call(move |device| {
                    let mut rows = Vec::new();
                    device.visit_objects(policy, slot, &mut |key, stored| {
                        if stored.row.body.is_some() {
                            let path = stored.row.path.clone();
                            let data_timestamp = stored.row.data_timestamp;
                            rows.push(Candidate {
                                key: *key,
                                path,
                                data_timestamp,
                            });
                        }
                    })?;
                    Ok(rows)
                });
                let oldest = |one: &Candidate| self.is_asked_about(disk, one, options.grace_age);
                for candidate in rows.await?.into_iter().filter(oldest) {
                    tokio::time::sleep(pause).await;
                    let word = self.asked(&candidate.path).await;
                    if word != Word::Listed {
                        found += 1;
                        self.answer_dark(disk, &candidate, word, options.action)
                            .await?;
                    }
                }
            }
        }
        disk.progress().dark.store(found, Ordering::Relaxed);
        Ok(())
    }

    /// Whether an object is old enough, and this device its first primary.
    fn is_asked_about(&self, disk: &Disk, candidate: &Candidate, grace_age: Duration) -> bool {
        let age: UtcTime = candidate.data_timestamp.to_utc();
        let scope = Scope::Objects(candidate.key.policy);
        let primaries = self.rings.primaries(scope, &candidate.key.hash);
        let is_own = |place: &onggi_object_wire::Place| {
            place.address == self.address && place.device == disk.name
        };
        age.saturating_add(grace_age) <= self.clock.now() && primaries.first().is_some_and(is_own)
    }

    async fn asked(&self, path: &ObjectPath) -> Word {
        let container = path.container_path();
        let Some(copies) = self.copies(Scope::Containers, &self.hash.container(&container)) else {
            return Word::Listed;
        };
        let name = path.object.as_str();
        // The name itself comes first among those that begin with it.
        let list = container::List {
            path: container,
            query: ListingQuery {
                prefix: name.to_owned(),
                with_reserved: true,
                ..ListingQuery::page(1)
            },
        };
        let caller = self.caller();
        let answers = copies.read(
            &caller,
            |place| caller.nodes.list_container(place, &list),
            |answer| !matches!(answer, ListAnswer::Failed { .. }),
        );
        let answers = answers.await.unwrap_or_default();
        if answers.is_empty() || answers.len() < copies.primaries().len() {
            return Word::Listed;
        }
        let mut word = Word::NoContainer;
        for answer in answers {
            if let ListAnswer::Found { listing, .. } = answer {
                if listing.names().next() == Some(name) {
                    return Word::Listed;
                }
                word = Word::Dark;
            }
        }
        word
    }

    async fn answer_dark(
        &self,
        disk: &Disk,
        candidate: &Candidate,
        word: Word,
        action: Action,
    ) -> Result<(), DiskError> {
        let Candidate {
            key,
            path,
            data_timestamp,
        } = candidate;
        tracing::warn!(%path, policy = %key.policy, put = %data_timestamp, ?action, "no container lists an object");
        let is_settled = match action {
            Action::Tell if word == Word::Dark => {
                let (key, stamp, now) = (*key, *data_timestamp, self.clock.now());
                disk.call(move |device| device.tell_again(&key, stamp, now))
                    .await?
            }
            Action::Delete => match self.copies(Scope::Objects(key.policy), &key.hash) {
                Some(copies) => {
                    let buried = self.bury(key.policy, path, *data_timestamp, copies);
                    buried.await.is_some()
                }
                None => false,
            },
            Action::Log | Action::Tell => false,
        };
        Progress::add(&disk.progress().dark_settled, usize::from(is_settled));
        Ok(())
    }
}
