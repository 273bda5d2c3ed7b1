//! What is in a deleted account: a container with its objects.

use super::Pace;
use crate::progress::Progress;
use crate::quorum::Copies;
use crate::server::Node;
use onggi_common_units::Timestamp;
use onggi_object_client::{ContainerAnswer, ListAnswer, WriteAnswer};
use onggi_object_model::{
    ContainerInfo, ContainerPath, Listing, ListingEntry, ListingQuery, ObjectEntry, ObjectName,
    ObjectPath, PolicyIndex, StampedMetadata,
};
use onggi_object_replica::{Failure, Outcome, Reply};
use onggi_object_wire::container;
use onggi_object_wire::object::{Delete, Which};
use onggi_object_wire::replication::Scope;
use std::collections::{BTreeMap, BTreeSet};

/// Objects of a page of a container's listing.
const PAGE: usize = 1_000;
/// Deletions of objects under way at a time.
const OBJECTS_AT_ONCE: usize = 16;
/// How often a deletion is stamped anew, above something newer that it met.
const ROUNDS_MAX: usize = 4;

pub(super) fn object_path(container: &ContainerPath, object: ObjectName) -> ObjectPath {
    ObjectPath {
        account: container.account.clone(),
        container: container.container.clone(),
        object,
    }
}

/// What the replicas of a container say they hold.
#[derive(Default)]
struct Held {
    /// Names, and the newest stamp any replica has of each.
    objects: BTreeMap<ObjectName, Timestamp>,
    policies: BTreeSet<PolicyIndex>,
    newest: Timestamp,
    /// Where the next page begins, if there is one.
    next: Option<String>,
}

impl Held {
    fn add_info(&mut self, info: &ContainerInfo) {
        self.newest = self
            .newest
            .max(info.put_timestamp.max(info.delete_timestamp));
        if info.put_timestamp > Timestamp::ZERO {
            self.policies.insert(info.policy);
        }
    }

    fn add_page(&mut self, info: &ContainerInfo, page: Listing<ObjectEntry>, limit: usize) {
        self.add_info(info);
        if page.entries.len() >= limit {
            let last = page.names().last().map(str::to_owned);
            self.next = [self.next.take(), last].into_iter().flatten().min();
        }
        for entry in page.entries {
            let ListingEntry::Item(item) = entry else {
                continue;
            };
            if let Ok(name) = item.name.parse::<ObjectName>() {
                let newest = self.objects.entry(name).or_default();
                *newest = (*newest).max(item.last_modified);
            }
        }
    }
}

impl Node {
    /// Deletes a container with all its objects; whether it is gone.
    pub(super) async fn reap_container(
        &self,
        progress: &Progress,
        path: &ContainerPath,
        account: &Copies,
        pace: &mut Pace,
    ) -> bool {
        let mut marker = String::new();
        let (mut policies, mut is_whole) = (BTreeSet::new(), true);
        loop {
            let Some(held) = self.held(path, marker, PAGE).await else {
                return false;
            };
            policies.extend(held.policies.iter().copied());
            let objects: Vec<(ObjectName, Timestamp)> = held.objects.into_iter().collect();
            for some in objects.chunks(OBJECTS_AT_ONCE) {
                pace.spend(some.len()).await;
                let deletions = some.iter().map(|(name, newest)| {
                    let object = object_path(path, name.clone());
                    self.delete_under(&policies, object, *newest)
                });
                let done = crate::replicator::join_all(deletions).await;
                let gone = done.iter().filter(|is_gone| **is_gone).count();
                Progress::add(&progress.reaped, gone);
                is_whole &= gone == some.len();
            }
            match held.next {
                Some(next) => marker = next,
                None => break,
            }
        }
        if !is_whole {
            return false;
        }
        // A replica that has not heard yet would refuse, after others have deleted it.
        match self.held(path, String::new(), 1).await {
            Some(held) if held.objects.is_empty() => {
                pace.spend(1).await;
                self.delete_container_everywhere(path, account, &held).await
            }
            Some(_) | None => false,
        }
    }

    /// A page of what the container's primaries list, all of them together; `None` when too few answer.
    async fn held(&self, path: &ContainerPath, marker: String, limit: usize) -> Option<Held> {
        let copies = self.copies(Scope::Containers, &self.hash.container(path))?;
        let list = container::List {
            path: path.clone(),
            query: ListingQuery {
                marker,
                with_reserved: true,
                ..ListingQuery::page(limit)
            },
        };
        let caller = self.caller();
        let answers = copies.read(
            &caller,
            |place| caller.nodes.list_container(place, &list),
            |answer| !matches!(answer, ListAnswer::Failed { .. }),
        );
        let mut held = Held::default();
        for answer in answers.await? {
            match answer {
                ListAnswer::Found { info, listing } => held.add_page(&info, listing, limit),
                ListAnswer::Missing(Some(info)) => held.add_info(&info),
                ListAnswer::Missing(None) | ListAnswer::Failed { .. } => {}
            }
        }
        Some(held)
    }

    async fn delete_under(
        &self,
        policies: &BTreeSet<PolicyIndex>,
        path: ObjectPath,
        newest: Timestamp,
    ) -> bool {
        let mut is_gone = true;
        for policy in policies {
            is_gone &= self.delete_everywhere(*policy, &path, newest).await;
        }
        is_gone
    }

    /// Deletes an object as a proxy does, above what is known of it; whether a quorum has the deletion.
    pub(super) async fn delete_everywhere(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        newest: Timestamp,
    ) -> bool {
        let container = self.hash.container(&path.container_path());
        let listing = self.rings.primaries(Scope::Containers, &container);
        let mut above = newest;
        for _ in 0..ROUNDS_MAX {
            let Some(copies) = self.copies(Scope::Objects(policy), &self.hash.object(path)) else {
                return false;
            };
            let delete = Delete {
                which: Which::whole(policy, path.clone()),
                timestamp: self.now().max(above.next().unwrap_or(above)),
                commit: None,
                listing: Vec::new(),
            };
            let this = self.caller();
            let outcome = copies.write(&listing, |place, listing| {
                let (this, delete) = (
                    this.clone(),
                    Delete {
                        listing,
                        ..delete.clone()
                    },
                );
                async move {
                    let call = this.nodes.delete_object(&place, &delete);
                    this.called(&place, call)
                        .await
                        .map(|answer| object_reply(&answer))
                }
            });
            match outcome.await {
                Outcome::Stored { .. } => return true,
                Outcome::Failed(Failure::Newer { newest }) => above = above.max(newest),
                Outcome::Failed(_) => return false,
            }
        }
        false
    }

    async fn delete_container_everywhere(
        &self,
        path: &ContainerPath,
        account: &Copies,
        held: &Held,
    ) -> bool {
        let Some(copies) = self.copies(Scope::Containers, &self.hash.container(path)) else {
            return false;
        };
        let delete = container::Delete {
            path: path.clone(),
            timestamp: self.now().max(held.newest.next().unwrap_or(held.newest)),
            account: Vec::new(),
        };
        let this = self.caller();
        let told = account.primaries();
        let outcome = copies.clone().write(&told, |place, account| {
            let (this, delete) = (
                this.clone(),
                container::Delete {
                    account,
                    ..delete.clone()
                },
            );
            async move {
                let call = this.nodes.delete_container(&place, &delete);
                this.called(&place, call)
                    .await
                    .map(|answer| container_reply(&answer))
            }
        });
        match outcome.await {
            Outcome::Stored { .. } => true,
            Outcome::Failed(Failure::ConditionFailed) => {
                // Something came in meanwhile. Replicas that have deleted the container get it back, so that it stays listed
                // and is looked at again.
                self.restore_container(path, copies, held, &told).await;
                false
            }
            Outcome::Failed(_) => false,
        }
    }

    async fn restore_container(
        &self,
        path: &ContainerPath,
        copies: Copies,
        held: &Held,
        told: &[onggi_object_wire::Place],
    ) {
        let put = container::Put {
            path: path.clone(),
            timestamp: self.now().next().unwrap_or_else(|| self.now()),
            policy: None,
            default_policy: held.policies.first().copied().unwrap_or_default(),
            metadata: StampedMetadata::default(),
            account: Vec::new(),
        };
        let this = self.caller();
        let outcome = copies.write(told, |place, account| {
            let (this, put) = (
                this.clone(),
                container::Put {
                    account,
                    ..put.clone()
                },
            );
            async move {
                let call = this.nodes.put_container(&place, &put);
                this.called(&place, call)
                    .await
                    .map(|answer| container_reply(&answer))
            }
        });
        if let Outcome::Failed(failure) = outcome.await {
            tracing::warn!(%path, ?failure, "a container that could not be deleted everywhere is not back everywhere");
        }
    }
}

const fn object_reply(answer: &WriteAnswer) -> Reply {
    match answer {
        WriteAnswer::Written { .. } => Reply::Stored { existed: true },
        // It has left a tombstone all the same, or a newer one is there.
        WriteAnswer::NotFound { .. } => Reply::Stored { existed: false },
        WriteAnswer::Newer { newest } | WriteAnswer::Reserved { stamp: newest } => {
            Reply::Newer { newest: *newest }
        }
        WriteAnswer::Present { .. }
        | WriteAnswer::WrongBody
        | WriteAnswer::Full
        | WriteAnswer::Failed { .. } => Reply::Failed,
    }
}

const fn container_reply(answer: &ContainerAnswer) -> Reply {
    match answer {
        ContainerAnswer::Made { .. } | ContainerAnswer::NotFound => {
            Reply::Stored { existed: false }
        }
        ContainerAnswer::Done { .. } => Reply::Stored { existed: true },
        ContainerAnswer::Conflict | ContainerAnswer::Deleted => Reply::ConditionFailed,
        ContainerAnswer::Full | ContainerAnswer::Failed { .. } => Reply::Failed,
    }
}
