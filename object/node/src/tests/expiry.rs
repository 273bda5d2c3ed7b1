//! Objects whose date of deletion has come.

use super::{Cluster, OBJECTS, at, container_path, object_path};
use bytes::Bytes;
use core::time::Duration;
use onggi_object_client::GetAnswer;
use onggi_object_model::{Etag, Metadata, ObjectPath, PolicyIndex};
use onggi_object_wire::object::{Post, Put, Tail, Which};
use onggi_object_wire::{Place, Root};

/// A date of long ago, and one that never comes.
const PAST: u64 = 1_700_000_100;
const FUTURE: u64 = 9_999_999_999;

fn metadata(date: u64) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert("x-delete-at", date.to_string());
    metadata
}

async fn put(cluster: &Cluster, place: &Place, path: &ObjectPath, date: u64, listing: Vec<Place>) {
    let put = Put {
        which: Which::whole(PolicyIndex::default(), path.clone()),
        timestamp: at(5),
        content_type: "text/plain".to_owned(),
        metadata: metadata(date),
        system: Metadata::default(),
        length: Some(3),
        commit: None,
        listing,
        tail: Some(Tail {
            length: 3,
            etag: Etag::EMPTY,
            root: Root::of(b"jar"),
            system: Metadata::default(),
            settled: None,
        }),
    };
    let bytes = Bytes::from_static(b"jar");
    let answer = cluster.nodes.put_object(place, &put, bytes).await.unwrap();
    assert!(answer.is_stored());
}

async fn expire(cluster: &Cluster, place: &Place) -> u64 {
    let node = cluster.node(cluster.index_of(place));
    node.expire_once(Duration::ZERO).await
}

async fn is_there(cluster: &Cluster, place: &Place, path: &ObjectPath) -> bool {
    cluster.bytes(place, path).await.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_primary_deletes_its_own_copy_and_the_container_follows() {
    let cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let containers = cluster.container_homes();
    let (over, kept) = (object_path("over"), object_path("kept"));
    for (path, date) in [(&over, PAST), (&kept, FUTURE)] {
        for (home, listing) in cluster.homes(path).0.iter().zip(&containers) {
            put(&cluster, home, path, date, vec![listing.clone()]).await;
        }
    }
    for container in &containers {
        assert_eq!(cluster.names(container).await.unwrap().len(), 2);
    }
    let homes = cluster.homes(&over).0;
    for home in &homes {
        assert_eq!(expire(&cluster, home).await, 1);
        assert!(!is_there(&cluster, home, &over).await);
    }
    // The traces are the same without anybody having pushed one.
    let first = cluster.get(&homes[0], &over).await;
    for home in &homes {
        let answer = cluster.get(home, &over).await;
        assert!(matches!(answer, GetAnswer::Missing { .. }), "{answer:?}");
        assert_eq!(format!("{answer:?}"), format!("{first:?}"));
    }
    cluster.update().await;
    for container in &containers {
        assert_eq!(cluster.names(container).await.unwrap(), ["kept"]);
    }
    for home in cluster.homes(&kept).0 {
        assert!(is_there(&cluster, &home, &kept).await);
    }
    assert_eq!(container_path(), over.container_path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_missed_the_post_which_moved_the_date_deletes_nothing() {
    let mut cluster = Cluster::new().await;
    let path = object_path("moved");
    let homes = cluster.homes(&path).0;
    for home in &homes {
        put(&cluster, home, &path, PAST, Vec::new()).await;
    }
    for home in &homes[1..] {
        let post = Post {
            which: Which::whole(PolicyIndex::default(), path.clone()),
            timestamp: at(7),
            content_type: None,
            metadata: metadata(FUTURE),
            listing: Vec::new(),
        };
        assert!(
            cluster
                .nodes
                .post_object(home, &post)
                .await
                .unwrap()
                .is_stored()
        );
    }
    assert_eq!(expire(&cluster, &homes[0]).await, 0);
    // With one of the two away the other one still knows; with both away there is no quorum.
    for home in &homes[1..] {
        let away = cluster.index_of(home);
        cluster.stop(away).await;
        assert_eq!(expire(&cluster, &homes[0]).await, 0);
    }
    assert!(is_there(&cluster, &homes[0], &path).await);
    for home in &homes[1..] {
        let away = cluster.index_of(home);
        cluster.start(away).await;
    }
    cluster.replicate().await;
    assert_eq!(expire(&cluster, &homes[0]).await, 0);
    let disk = cluster
        .node(cluster.index_of(&homes[0]))
        .disks
        .iter()
        .next()
        .unwrap();
    assert_eq!(disk.device().live_count(OBJECTS), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handoff_leaves_it_to_the_primaries() {
    let cluster = Cluster::new().await;
    let path = object_path("over");
    let (homes, handoff) = cluster.homes(&path);
    put(&cluster, &handoff, &path, PAST, Vec::new()).await;
    assert_eq!(expire(&cluster, &handoff).await, 0);
    cluster.replicate().await;
    for home in &homes {
        assert_eq!(expire(&cluster, home).await, 1);
    }
    assert_eq!(cluster.bytes(&handoff, &path).await, None);
}
