//! A container that two sides made with two policies.

use super::reaping::{OTHER, PASSES_MAX, PAUSE, bytes_of, container_at, object_at};
use super::{Cluster, at};
use http_body_util::BodyExt as _;
use onggi_object_client::{GetAnswer, InfoAnswer, ListAnswer, WriteAnswer};
use onggi_object_model::{ListingQuery, ObjectPath, PolicyIndex};
use onggi_object_wire::object::{Delete, Get, Which};
use onggi_object_wire::{Place, container};

const FIRST: PolicyIndex = PolicyIndex::new(0);

impl Cluster {
    async fn reconcile(&self) {
        for node in self.up() {
            node.reconcile_once().await;
        }
    }

    /// Lets nodes do what they do by turns until there is nothing more to look at.
    async fn reconcile_all(&self) {
        for _ in 0..PASSES_MAX {
            self.replicate().await;
            self.update().await;
            self.reconcile().await;
            if self.notes() == 0 {
                // Copies that a quorum did not need.
                self.replicate().await;
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("something is left after {PASSES_MAX} passes");
    }

    /// Notes on all devices.
    fn notes(&self) -> usize {
        self.sum(|device| device.misplaced(None, 1_000).unwrap().len())
    }

    fn moved(&self) -> u64 {
        self.told(|device| device.reconciled)
    }

    /// The bytes every device of a policy's primaries has of an object.
    async fn everywhere(&self, policy: PolicyIndex, path: &ObjectPath) -> Vec<Option<Vec<u8>>> {
        let mut all = Vec::new();
        for home in self.objects_of(policy, path) {
            let get = Get {
                which: Which::whole(policy, path.clone()),
                range: None,
                version: None,
            };
            all.push(match self.nodes.get_object(&home, &get).await.unwrap() {
                GetAnswer::Found { body, .. } => {
                    Some(body.collect().await.unwrap().to_bytes().to_vec())
                }
                GetAnswer::Missing { .. } => None,
                other => panic!("{other:?}"),
            });
        }
        all
    }

    async fn delete_on(&self, policy: PolicyIndex, path: &ObjectPath, ticks: u64, told: &[Place]) {
        for home in self.objects_of(policy, path) {
            let delete = Delete {
                which: Which::whole(policy, path.clone()),
                timestamp: at(ticks),
                commit: None,
                listing: told.to_vec(),
            };
            let answer = self.nodes.delete_object(&home, &delete).await.unwrap();
            assert!(matches!(answer, WriteAnswer::NotFound { .. }), "{answer:?}");
        }
    }

    /// What each primary of the container lists, and its policy.
    async fn listings(&self) -> Vec<(PolicyIndex, Vec<String>)> {
        let mut all = Vec::new();
        for home in self.containers_of(&container_at("c")) {
            let list = container::List {
                path: container_at("c"),
                query: ListingQuery::page(1_000),
            };
            match self.nodes.list_container(&home, &list).await.unwrap() {
                ListAnswer::Found { info, listing } => {
                    let names = listing.names().map(str::to_owned).collect();
                    all.push((info.policy, names));
                }
                other => panic!("{other:?}"),
            }
        }
        all
    }
}

fn object(name: &str) -> ObjectPath {
    object_at("c", name)
}

/// One replica of the container has the first policy, which was chosen first, and two have the other one. What was put on
/// either side was acknowledged there.
async fn divided(cluster: &Cluster) {
    cluster.add_policy();
    cluster.make_account().await;
    let homes = cluster.containers_of(&container_at("c"));
    let (one, two) = homes.split_at(1);
    cluster.make_container_on(&homes[0], "c", FIRST, 1).await;
    for home in two {
        cluster.make_container_on(home, "c", OTHER, 2).await;
    }
    // It was made again on this side, which chose first all the same.
    cluster.make_container_on(&homes[0], "c", FIRST, 3).await;
    for (name, policy, ticks) in [
        ("here", FIRST, 5),
        ("there", OTHER, 6),
        ("small", OTHER, 7),
        ("newer-there", FIRST, 5),
        ("newer-there", OTHER, 8),
        ("newer-here", OTHER, 5),
        ("newer-here", FIRST, 9),
        ("deleted-there", FIRST, 5),
    ] {
        let told = if policy == FIRST { one } else { two };
        let path = object(name);
        let places = cluster.objects_of(policy, &path);
        cluster.put_on(&places, (policy, &path), ticks, told).await;
    }
    cluster
        .delete_on(OTHER, &object("deleted-there"), 10, two)
        .await;
}

/// What is acknowledged, and when it was put.
const KEPT: [(&str, u64); 5] = [
    ("here", 5),
    ("newer-here", 9),
    ("newer-there", 8),
    ("small", 7),
    ("there", 6),
];

async fn assert_reconciled(cluster: &Cluster) {
    let names: Vec<String> = KEPT.iter().map(|(name, _)| (*name).to_owned()).collect();
    for listing in cluster.listings().await {
        assert_eq!(listing, (FIRST, names.clone()));
    }
    for (name, ticks) in KEPT {
        let path = object(name);
        let bytes = Some(bytes_of(ticks).to_vec());
        for held in cluster.everywhere(FIRST, &path).await {
            assert!(held == bytes, "{name}");
        }
        assert_eq!(cluster.copies_of(OTHER, &path).await, 0, "{name}");
    }
    for policy in [FIRST, OTHER] {
        let copies = cluster.copies_of(policy, &object("deleted-there")).await;
        assert_eq!(copies, 0, "a deletion on the other side is lost");
    }
    assert_eq!(cluster.notes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_sides_put_under_two_policies_is_under_one_in_the_end() {
    let cluster = Cluster::new().await;
    divided(&cluster).await;
    for _ in 0..2 {
        cluster.replicate().await;
        cluster.update().await;
    }
    for (policy, names) in cluster.listings().await {
        assert_eq!((policy, names.len()), (FIRST, KEPT.len()));
    }
    assert_eq!(cluster.copies_of(FIRST, &object("there")).await, 0);
    assert!(cluster.notes() > 0);
    cluster.reconcile().await;
    assert_reconciled(&cluster).await;
    assert_eq!(
        cluster.moved(),
        4,
        "three objects and a deletion, each once"
    );
    cluster.replicate().await;
    cluster.update().await;
    cluster.reconcile().await;
    assert_reconciled(&cluster).await;
    assert_eq!(cluster.moved(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_under_the_wrong_policy_is_moved_too() {
    let cluster = Cluster::new().await;
    divided(&cluster).await;
    cluster.reconcile_all().await;
    // By a proxy that remembered the policy of before.
    let path = object("late");
    let places = cluster.objects_of(OTHER, &path);
    let told = cluster.containers_of(&container_at("c"));
    cluster.put_on(&places, (OTHER, &path), 20, &told).await;
    assert_eq!(cluster.notes(), 3);
    cluster.reconcile_all().await;
    assert_eq!(cluster.copies_of(FIRST, &path).await, 3);
    assert_eq!(cluster.copies_of(OTHER, &path).await, 0);
    cluster.delete_on_right(&path).await;
    cluster.reconcile_all().await;
    assert_eq!(cluster.copies_of(FIRST, &path).await, 0, "it came back");
    assert_eq!(cluster.notes(), 0);
}

impl Cluster {
    async fn delete_on_right(&self, path: &ObjectPath) {
        for home in self.objects_of(FIRST, path) {
            let delete = Delete {
                which: Which::whole(FIRST, path.clone()),
                timestamp: at(30),
                commit: None,
                listing: self.containers_of(&path.container_path()),
            };
            let answer = self.nodes.delete_object(&home, &delete).await.unwrap();
            assert!(answer.is_stored(), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_where_nodes_are_away() {
    for away in 0..4 {
        let mut cluster = Cluster::new().await;
        divided(&cluster).await;
        cluster.replicate().await;
        cluster.stop(away).await;
        cluster.reconcile().await;
        let other = (away + 1) % 4;
        cluster.stop(other).await;
        // Two of four: for some objects that is no quorum.
        cluster.reconcile().await;
        cluster.start(away).await;
        cluster.start(other).await;
        cluster.reconcile_all().await;
        assert_reconciled(&cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_made_anew_with_another_policy_gives_nothing_back() {
    let cluster = Cluster::new().await;
    cluster.add_policy();
    cluster.make_account().await;
    cluster.make_container("c", OTHER, 1).await;
    let path = object("o");
    let homes = cluster.containers_of(&container_at("c"));
    let places = cluster.objects_of(OTHER, &path);
    cluster.put_on(&places, (OTHER, &path), 5, &homes).await;
    // One replica hears neither of the object's end, nor of the container's.
    for home in cluster.objects_of(OTHER, &path) {
        let delete = Delete {
            which: Which::whole(OTHER, path.clone()),
            timestamp: at(10),
            commit: None,
            listing: homes[1..].to_vec(),
        };
        assert!(
            cluster
                .nodes
                .delete_object(&home, &delete)
                .await
                .unwrap()
                .is_stored()
        );
    }
    for home in &homes[1..] {
        let delete = container::Delete {
            path: container_at("c"),
            timestamp: at(11),
            account: Vec::new(),
        };
        cluster.nodes.delete_container(home, &delete).await.unwrap();
        cluster.make_container_on(home, "c", FIRST, 12).await;
    }
    for _ in 0..2 {
        cluster.reconcile_all().await;
    }
    for listing in cluster.listings().await {
        assert_eq!(listing, (FIRST, Vec::new()));
    }
    for policy in [FIRST, OTHER] {
        assert_eq!(cluster.copies_of(policy, &path).await, 0);
    }
    let head = container::Head {
        path: container_at("c"),
    };
    for home in &homes {
        match cluster.nodes.head_container(home, &head).await.unwrap() {
            InfoAnswer::Found(info) => assert_eq!(info.policy, FIRST),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cluster.notes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_not_heard_of_the_first_policy_moves_nothing_to_its_own() {
    let cluster = Cluster::new().await;
    divided(&cluster).await;
    // Those with the other policy hear of an object, and not yet that another policy was chosen first.
    let path = object("told");
    let homes = cluster.containers_of(&container_at("c"));
    let places = cluster.objects_of(FIRST, &path);
    cluster
        .put_on(&places, (FIRST, &path), 20, &homes[1..])
        .await;
    assert!(cluster.notes() > 0);
    cluster.reconcile().await;
    assert_eq!(cluster.moved(), 0);
    assert_eq!(cluster.copies_of(FIRST, &path).await, 3);
    cluster.reconcile_all().await;
    assert_eq!(cluster.copies_of(FIRST, &path).await, 3, "it is lost");
    assert_eq!(cluster.copies_of(OTHER, &path).await, 0);
}
