//! Accounts that were deleted with everything in them.

use super::{Cluster, account_name, at, ring};
use bytes::Bytes;
use core::time::Duration;
use onggi_common_host::durable::{self, Visibility};
use onggi_object_client::{ContainerAnswer, GetAnswer, InfoAnswer, WriteAnswer};
use onggi_object_model::{ContainerPath, Etag, Metadata, ObjectPath, PolicyIndex, StampedMetadata};
use onggi_object_wire::object::{Get, Put, Tail, Which};
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Place, Root, account, container};

/// Passes of everything until what has to happen must have happened.
pub(super) const PASSES_MAX: u32 = 30;
/// The pause between two: after so many of them a node that was slow is asked again.
pub(super) const PAUSE: Duration = Duration::from_millis(300);

pub(super) const OTHER: PolicyIndex = PolicyIndex::new(1);

pub(super) fn container_at(name: &str) -> ContainerPath {
    ContainerPath {
        account: account_name(),
        container: name.parse().unwrap(),
    }
}

/// What is put at a moment: of even ones more than one piece of a stream.
pub(super) fn bytes_of(ticks: u64) -> Bytes {
    let times = if ticks.is_multiple_of(2) { 8_000 } else { 1 };
    Bytes::from(format!("jar {ticks} ").repeat(times))
}

pub(super) fn object_at(container: &str, name: &str) -> ObjectPath {
    let ContainerPath { account, container } = container_at(container);
    ObjectPath {
        account,
        container,
        object: name.parse().unwrap(),
    }
}

impl Cluster {
    /// A second policy, with a ring like the first one's.
    pub(super) fn add_policy(&self) {
        let addresses: Vec<String> = self
            .members
            .iter()
            .map(|member| member.options.address.clone())
            .collect();
        let path = self.members[0].options.rings_dir.join("object-1.ring.gz");
        durable::replace(&path, &ring(&addresses, 4).to_bytes(), Visibility::World).unwrap();
    }

    pub(super) fn places(&self, scope: Scope, hash: &onggi_object_ring::PathHash) -> Vec<Place> {
        self.up().next().unwrap().rings.primaries(scope, hash)
    }

    pub(super) fn containers_of(&self, path: &ContainerPath) -> Vec<Place> {
        self.places(Scope::Containers, &self.hash.container(path))
    }

    pub(super) fn objects_of(&self, policy: PolicyIndex, path: &ObjectPath) -> Vec<Place> {
        self.places(Scope::Objects(policy), &self.hash.object(path))
    }

    pub(super) async fn make_account(&self) {
        for home in self.account_homes() {
            let put = account::Put {
                account: account_name(),
                timestamp: at(0),
                metadata: StampedMetadata::default(),
            };
            self.nodes.put_account(&home, &put).await.unwrap();
        }
    }

    pub(super) async fn make_container(&self, name: &str, policy: PolicyIndex, ticks: u64) {
        let path = container_at(name);
        for home in self.containers_of(&path) {
            self.make_container_on(&home, name, policy, ticks).await;
        }
    }

    pub(super) async fn make_container_on(
        &self,
        home: &Place,
        name: &str,
        policy: PolicyIndex,
        ticks: u64,
    ) {
        let put = container::Put {
            path: container_at(name),
            timestamp: at(ticks),
            policy: Some(policy),
            default_policy: policy,
            metadata: StampedMetadata::default(),
            account: self.account_homes(),
        };
        let answer = self.nodes.put_container(home, &put).await.unwrap();
        let is_made = matches!(
            answer,
            ContainerAnswer::Made { .. } | ContainerAnswer::Done { .. }
        );
        assert!(is_made, "{answer:?}");
    }

    /// Puts an object on these devices, each of which tells these containers.
    pub(super) async fn put_on(
        &self,
        homes: &[Place],
        (policy, path): (PolicyIndex, &ObjectPath),
        ticks: u64,
        told: &[Place],
    ) {
        let bytes = bytes_of(ticks);
        for home in homes {
            let put = Put {
                which: Which::whole(policy, path.clone()),
                timestamp: at(ticks),
                content_type: "text/plain".to_owned(),
                metadata: Metadata::default(),
                system: Metadata::default(),
                length: Some(bytes.len() as u64),
                commit: None,
                listing: told.to_vec(),
                tail: Some(Tail {
                    length: bytes.len() as u64,
                    etag: Etag::EMPTY,
                    root: Root::of(&bytes),
                    system: Metadata::default(),
                    settled: None,
                }),
            };
            let bytes = bytes.clone();
            let answer = self.nodes.put_object(home, &put, bytes).await.unwrap();
            assert!(matches!(answer, WriteAnswer::Written { .. }), "{answer:?}");
        }
    }

    pub(super) async fn put_object(&self, policy: PolicyIndex, path: &ObjectPath) {
        let homes = self.objects_of(policy, path);
        let told = self.containers_of(&path.container_path());
        self.put_on(&homes, (policy, path), 5, &told).await;
    }

    async fn delete_account(&self, ticks: u64) {
        for home in self.account_homes() {
            let delete = account::Delete {
                account: account_name(),
                timestamp: at(ticks),
            };
            let up = self.members[self.index_of(&home)].node.is_some();
            if up {
                let answer = self.nodes.delete_account(&home, &delete).await.unwrap();
                assert!(matches!(answer, ContainerAnswer::Done { .. }), "{answer:?}");
            }
        }
    }

    async fn reap(&self) {
        for node in self.up() {
            node.reap_once(Duration::ZERO).await;
        }
    }

    /// Lets nodes do what they do by turns until nothing is left of these: one that is slow is left alone for a while, and what
    /// was for it comes later.
    async fn reap_until_gone(&self, objects: &[(PolicyIndex, ObjectPath)]) {
        for _ in 0..PASSES_MAX {
            self.reap().await;
            self.replicate().await;
            self.update().await;
            let mut copies = 0;
            for (policy, path) in objects {
                copies += self.copies_of(*policy, path).await;
            }
            if copies == 0 && self.listed().await == 0 && self.pending() == 0 {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("something is left after {PASSES_MAX} passes");
    }

    /// How many devices still have the bytes of an object, handoffs among them.
    pub(super) async fn copies_of(&self, policy: PolicyIndex, path: &ObjectPath) -> usize {
        let mut count = 0;
        for member in self.members.iter().filter(|member| member.node.is_some()) {
            let place = Place {
                address: member.options.address.clone(),
                device: "d1".parse().unwrap(),
            };
            let get = Get {
                which: Which::whole(policy, path.clone()),
                range: None,
                version: None,
            };
            let answer = self.nodes.head_object(&place, &get).await.unwrap();
            count += usize::from(matches!(answer, GetAnswer::Found { .. }));
        }
        count
    }

    /// Containers that the account's primaries list.
    async fn listed(&self) -> u64 {
        let mut most = 0;
        for home in self.account_homes() {
            let head = account::Head {
                account: account_name(),
            };
            match self.nodes.head_account(&home, &head).await.unwrap() {
                InfoAnswer::Missing(Some(info)) => {
                    assert!(info.is_deleted());
                    most = most.max(info.container_count);
                }
                other => panic!("{other:?}"),
            }
        }
        most
    }

    /// Pending rows of objects on all devices.
    fn pending(&self) -> usize {
        self.sum(|device| device.pending_objects(None, 1_000).unwrap().len())
    }
}

/// Three containers under two policies, with objects.
async fn filled(cluster: &Cluster) -> Vec<(PolicyIndex, ObjectPath)> {
    cluster.add_policy();
    cluster.make_account().await;
    let mut objects = Vec::new();
    for (name, policy) in [
        ("c", PolicyIndex::default()),
        ("d", OTHER),
        ("\u{0}versions\u{0}d", OTHER),
    ] {
        cluster.make_container(name, policy, 1).await;
        for object in ["a", "b/c", "\u{0}seg"] {
            let path = object_at(name, object);
            cluster.put_object(policy, &path).await;
            assert_eq!(cluster.copies_of(policy, &path).await, 3);
            objects.push((policy, path));
        }
    }
    cluster.update().await;
    objects
}

async fn assert_gone(cluster: &Cluster, objects: &[(PolicyIndex, ObjectPath)]) {
    for (policy, path) in objects {
        assert_eq!(cluster.copies_of(*policy, path).await, 0, "{path}");
        for home in cluster.containers_of(&path.container_path()) {
            let head = container::Head {
                path: path.container_path(),
            };
            match cluster.nodes.head_container(&home, &head).await.unwrap() {
                InfoAnswer::Missing(Some(info)) => assert_eq!(info.object_count, 0),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(cluster.listed().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_account_is_reaped_with_all_it_holds() {
    let cluster = Cluster::new().await;
    let objects = filled(&cluster).await;
    cluster.reap().await;
    for (policy, path) in &objects {
        let copies = cluster.copies_of(*policy, path).await;
        assert_eq!(copies, 3, "nobody deleted the account: {path}");
    }
    cluster.delete_account(10).await;
    for home in cluster.account_homes() {
        let put = account::Put {
            account: account_name(),
            timestamp: at(20),
            metadata: StampedMetadata::default(),
        };
        let answer = cluster.nodes.put_account(&home, &put).await.unwrap();
        assert_eq!(answer, ContainerAnswer::Deleted);
    }
    // Not before its time.
    for node in cluster.up() {
        node.reap_once(Duration::from_secs(1_000_000_000)).await;
    }
    assert_eq!(cluster.listed().await, 3);
    for (policy, path) in &objects {
        assert_eq!(cluster.copies_of(*policy, path).await, 3, "{path}");
    }
    cluster.reap_until_gone(&objects).await;
    assert_gone(&cluster, &objects).await;
    cluster.reap().await;
    let done = (
        cluster.told(|device| device.reaped),
        cluster.told(|device| device.reaped_containers),
        cluster.told(|device| device.unreaped),
    );
    assert!(done.0 >= 9 && done.1 >= 3 && done.2 == 0, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reaping_does_without_one_node_and_what_it_holds_goes_when_it_is_back() {
    for away in 0..4 {
        let mut cluster = Cluster::new().await;
        let objects = filled(&cluster).await;
        cluster.stop(away).await;
        cluster.delete_account(10).await;
        for _ in 0..PASSES_MAX {
            cluster.reap().await;
            let mut copies = 0;
            for (policy, path) in &objects {
                copies += cluster.copies_of(*policy, path).await;
            }
            if copies == 0 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        for (policy, path) in &objects {
            assert_eq!(cluster.copies_of(*policy, path).await, 0, "{path}");
        }
        cluster.start(away).await;
        cluster.reap_until_gone(&objects).await;
        assert_gone(&cluster, &objects).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reaped_now_is_reaped_later() {
    let mut cluster = Cluster::new().await;
    let objects = filled(&cluster).await;
    cluster.delete_account(10).await;
    // Nobody hears of a deletion but one node.
    for away in 1..4 {
        cluster.stop(away).await;
    }
    cluster.reap().await;
    for away in 1..4 {
        cluster.start(away).await;
    }
    let mut kept = 0;
    for (policy, path) in &objects {
        kept += cluster.copies_of(*policy, path).await;
    }
    assert!(kept > 0, "a quorum was not there");
    cluster.reap_until_gone(&objects).await;
    assert_gone(&cluster, &objects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_put_when_its_account_was_deleted_dies_too() {
    let cluster = Cluster::new().await;
    let mut objects = filled(&cluster).await;
    cluster.delete_account(10).await;
    cluster.reap_until_gone(&objects).await;
    // An object whose container is gone, and a container that was made too late, with an object.
    let stray = object_at("c", "late");
    cluster.put_object(PolicyIndex::default(), &stray).await;
    cluster.make_container("late", OTHER, 30).await;
    let late = object_at("late", "o");
    cluster.put_object(OTHER, &late).await;
    cluster.update().await;
    assert_eq!(cluster.listed().await, 1);
    assert!(cluster.pending() > 0, "no container hears of the stray");
    objects.extend([(PolicyIndex::default(), stray), (OTHER, late)]);
    cluster.reap_until_gone(&objects).await;
    assert_gone(&cluster, &objects).await;
}
