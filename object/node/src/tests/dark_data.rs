//! Objects that no container lists.

use super::Cluster;
use super::reaping::{OTHER, container_at, object_at};
use crate::dark_data::{Action, Options};
use core::time::Duration;
use onggi_object_client::WriteAnswer;
use onggi_object_model::{ObjectPath, PolicyIndex};
use onggi_object_wire::Place;

const FIRST: PolicyIndex = PolicyIndex::new(0);
/// The stamps of tests are of long ago.
const GRACE_AGE: Duration = Duration::from_secs(86_400);

impl Cluster {
    async fn search(&self, action: Action) {
        let options = Options {
            action,
            grace_age: GRACE_AGE,
            ..Options::default()
        };
        for node in self.up() {
            node.search_dark_once(options).await;
        }
    }

    /// Objects found by the last search, and all that were settled.
    fn dark(&self) -> (u64, u64) {
        (
            self.told(|device| device.dark),
            self.told(|device| device.dark_settled),
        )
    }

    /// Puts an object that these containers hear of, and forgets that any other has to.
    async fn put_told(&self, path: &ObjectPath, told: &[Place]) {
        let homes = self.objects_of(FIRST, path);
        self.put_on(&homes, (FIRST, path), 5, told).await;
        for node in self.up() {
            for disk in node.disks.serving() {
                let pending = disk.device().pending_objects(None, 1_000).unwrap();
                disk.device().forget_pending_objects(&pending).unwrap();
            }
        }
    }

    async fn names_of_c(&self) -> Vec<Option<Vec<String>>> {
        let mut all = Vec::new();
        for home in self.container_homes() {
            all.push(self.names(&home).await);
        }
        all
    }
}

/// One object that is listed everywhere, one that one replica lists, and two that none does: one of them in a container that
/// is not there.
async fn with_dark_data() -> (Cluster, [ObjectPath; 4]) {
    let cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let homes = cluster.container_homes();
    let paths = [
        object_at("c", "listed"),
        object_at("c", "once"),
        object_at("c", "dark"),
        object_at("nowhere", "dark"),
    ];
    let [listed, once, dark, nowhere] = &paths;
    cluster.put_told(listed, &homes).await;
    cluster.put_told(once, &homes[..1]).await;
    cluster.put_told(dark, &[]).await;
    cluster.put_told(nowhere, &[]).await;
    // Its name begins like that of one that is dark.
    cluster.put_told(&object_at("c", "darker"), &homes).await;
    let listing: Vec<String> = ["darker", "listed"].map(str::to_owned).into();
    assert_eq!(cluster.names(&homes[1]).await, Some(listing));
    (cluster, paths)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_container_lists_is_found_and_stays() {
    let (cluster, paths) = with_dark_data().await;
    cluster.search(Action::Log).await;
    assert_eq!(cluster.dark(), (2, 0));
    for path in &paths {
        assert_eq!(cluster.copies_of(FIRST, path).await, 3, "{path}");
    }
    let young = Options {
        action: Action::Delete,
        grace_age: Duration::from_secs(100 * 365 * 86_400),
        ..Options::default()
    };
    for node in cluster.up() {
        node.search_dark_once(young).await;
    }
    assert_eq!(cluster.dark(), (0, 0));
    assert_eq!(cluster.copies_of(FIRST, &paths[2]).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_container_is_told_of_it_again() {
    let (cluster, paths) = with_dark_data().await;
    cluster.search(Action::Tell).await;
    assert_eq!(cluster.dark(), (2, 1), "one container is not there");
    cluster.update().await;
    for names in cluster.names_of_c().await {
        assert!(names.unwrap().contains(&"dark".to_owned()));
    }
    cluster.search(Action::Tell).await;
    assert_eq!(cluster.dark(), (1, 1));
    for path in &paths {
        assert_eq!(cluster.copies_of(FIRST, path).await, 3, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_deleted_and_nothing_else() {
    let (cluster, paths) = with_dark_data().await;
    let before = cluster.names_of_c().await;
    cluster.search(Action::Delete).await;
    assert_eq!(cluster.dark(), (2, 2));
    for (path, copies) in paths.iter().zip([3, 3, 0, 0]) {
        assert_eq!(cluster.copies_of(FIRST, path).await, copies, "{path}");
    }
    assert_eq!(cluster.names_of_c().await, before);
    // It can be put again, also with a stamp right above that of the bytes.
    for home in cluster.objects_of(FIRST, &paths[2]) {
        let homes = cluster.container_homes();
        let answer = cluster.put(&home, &paths[2], 6, b"jar", homes).await;
        assert!(matches!(answer, WriteAnswer::Written { .. }), "{answer:?}");
    }
    cluster.search(Action::Delete).await;
    assert_eq!(cluster.dark(), (0, 2));
    assert_eq!(cluster.copies_of(FIRST, &paths[2]).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dark_while_a_primary_of_its_container_is_away() {
    let (mut cluster, paths) = with_dark_data().await;
    let [_, _, dark, _] = &paths;
    let home = cluster.container_homes().remove(2);
    let away = cluster.index_of(&home);
    cluster.stop(away).await;
    cluster.search(Action::Delete).await;
    cluster.start(away).await;
    assert_eq!(cluster.copies_of(FIRST, dark).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_another_policy_than_its_container_is_listed_all_the_same() {
    let cluster = Cluster::new().await;
    cluster.add_policy();
    cluster.make_account_and_container().await;
    let path = object_at("c", "misplaced");
    let told = cluster.containers_of(&container_at("c"));
    let homes = cluster.objects_of(OTHER, &path);
    cluster.put_on(&homes, (OTHER, &path), 5, &told).await;
    cluster.search(Action::Delete).await;
    assert_eq!(cluster.dark(), (0, 0));
    assert_eq!(cluster.copies_of(OTHER, &path).await, 3);
}
