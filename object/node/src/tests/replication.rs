//! Copies that went missing come back, and stand-ins go home.

use super::{Cluster, OBJECTS, at, container_path, object_path, pattern};
use onggi_common_host::{Clock as _, SystemClock};
use onggi_common_units::{Timestamp, UtcTime};
use onggi_object_client::GetAnswer;
use onggi_object_model::{Etag, Metadata, ObjectRecord, PolicyIndex};
use onggi_object_wire::object::{Post, Which};
use onggi_object_wire::replication::Scope;
use std::os::unix::fs::FileExt as _;

/// The only large body of a device.
fn body_file(device: &std::path::Path) -> std::path::PathBuf {
    let shelves = std::fs::read_dir(device.join("bodies")).unwrap();
    let mut files = shelves.flat_map(|shelf| std::fs::read_dir(shelf.unwrap().path()).unwrap());
    files.next().unwrap().unwrap().path()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_gets_everything_back() {
    let mut cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let containers = cluster.container_homes();
    for number in 0..12 {
        let path = object_path(&format!("o{number}"));
        let body = pattern(if number % 4 == 0 {
            700_000
        } else {
            1_000 + number
        });
        let (homes, _) = cluster.homes(&path);
        for (home, listing) in homes.iter().zip(&containers) {
            assert!(
                cluster
                    .put(home, &path, 5, &body, vec![listing.clone()])
                    .await
                    .is_stored()
            );
        }
    }
    cluster.replicate().await;
    let counts = |cluster: &Cluster, index: usize| {
        let disk = cluster.node(index).disks.iter().next().unwrap().clone();
        let scopes = [OBJECTS, Scope::Containers, Scope::Accounts];
        scopes.map(|scope| disk.device().digests(scope, 16))
    };
    let before = counts(&cluster, 0);
    cluster.stop(0).await;
    cluster.wipe(0);
    cluster.start(0).await;
    assert_ne!(counts(&cluster, 0), before);
    cluster.replicate().await;
    assert_eq!(counts(&cluster, 0), before);
    for number in 0..12 {
        let path = object_path(&format!("o{number}"));
        let body = pattern(if number % 4 == 0 {
            700_000
        } else {
            1_000 + number
        });
        for home in cluster.homes(&path).0 {
            assert_eq!(cluster.bytes(&home, &path).await.unwrap(), body);
        }
    }
    for container in &containers {
        assert_eq!(cluster.names(container).await.unwrap().len(), 12);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handoff_goes_home_and_is_dropped_only_when_every_primary_has_it() {
    let mut cluster = Cluster::new().await;
    let (small, large) = (object_path("small"), object_path("large"));
    for (path, body) in [(&small, pattern(100)), (&large, pattern(300_000))] {
        let (homes, handoff) = cluster.homes(path);
        let away = cluster.index_of(&homes[0]);
        cluster.stop(away).await;
        for place in [&homes[1], &handoff] {
            assert!(
                cluster
                    .put(place, path, 5, &body, Vec::new())
                    .await
                    .is_stored()
            );
        }
        // One primary is away: the stand-in stays, and the others get what they lack.
        cluster.replicate().await;
        assert_eq!(cluster.bytes(&homes[2], path).await.unwrap(), body);
        assert_eq!(cluster.bytes(&handoff, path).await.unwrap(), body);
        cluster.start(away).await;
        cluster.replicate().await;
        for home in &homes {
            assert_eq!(cluster.bytes(home, path).await.unwrap(), body);
        }
        assert_eq!(cluster.bytes(&handoff, path).await, None);
        let stand_in = cluster.node(cluster.index_of(&handoff));
        let handoff_disk = stand_in.disks.iter().next().unwrap();
        let key = stand_in.object_key(&Which::whole(PolicyIndex::default(), path.clone()));
        assert_eq!(handoff_disk.device().get_object(&key).unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_stand_in_has_goes_to_all_primaries_that_are_there() {
    for missing in 0..3 {
        let mut cluster = Cluster::new().await;
        let path = object_path("o");
        let (homes, handoff) = cluster.homes(&path);
        let away = cluster.index_of(&homes[missing]);
        cluster.stop(away).await;
        let body = pattern(100);
        let put = cluster.put(&handoff, &path, 5, &body, Vec::new()).await;
        assert!(put.is_stored());
        cluster.replicate().await;
        for home in homes.iter().filter(|home| **home != homes[missing]) {
            assert_eq!(cluster.bytes(home, &path).await.unwrap(), body);
        }
        assert_eq!(cluster.bytes(&handoff, &path).await.unwrap(), body);

        // It gives them no more than that until there is something new, or the one that was away is there.
        let kept = |cluster: &Cluster| {
            let node = cluster.node(cluster.index_of(&handoff));
            let disk = node.disks.iter().next().unwrap();
            disk.given().lock().unwrap().len()
        };
        assert_eq!(kept(&cluster), 1);
        let newer = pattern(101);
        let put = cluster.put(&handoff, &path, 6, &newer, Vec::new()).await;
        assert!(put.is_stored());
        cluster.replicate().await;
        for home in homes.iter().filter(|home| **home != homes[missing]) {
            assert_eq!(cluster.bytes(home, &path).await.unwrap(), newer);
        }
        cluster.start(away).await;
        cluster.replicate().await;
        for home in &homes {
            assert_eq!(cluster.bytes(home, &path).await.unwrap(), newer);
        }
        assert_eq!(cluster.bytes(&handoff, &path).await, None);
        assert_eq!(kept(&cluster), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_and_metadata_win_on_every_replica() {
    let cluster = Cluster::new().await;
    let (gone, changed) = (object_path("gone"), object_path("changed"));
    for path in [&gone, &changed] {
        for home in cluster.homes(path).0 {
            cluster
                .put(&home, path, 5, &pattern(200_000), Vec::new())
                .await;
        }
    }
    let (gone_homes, changed_homes) = (cluster.homes(&gone).0, cluster.homes(&changed).0);
    assert!(cluster.delete(&gone_homes[1], &gone, 6).await.is_stored());
    let mut metadata = Metadata::default();
    metadata.insert("x-object-meta-jar", "brown");
    let which = Which::whole(PolicyIndex::default(), changed.clone());
    let content_type = Some("image/png".to_owned());
    let post = Post {
        which,
        timestamp: at(7),
        content_type,
        metadata,
        listing: Vec::new(),
    };
    assert!(
        cluster
            .nodes
            .post_object(&changed_homes[2], &post)
            .await
            .unwrap()
            .is_stored()
    );
    cluster.replicate().await;
    for home in &gone_homes {
        let answer = cluster.get(home, &gone).await;
        assert!(
            matches!(answer, GetAnswer::Missing { tombstone } if tombstone == Some(at(6))),
            "{answer:?}"
        );
    }
    for home in &changed_homes {
        let answer = cluster.get(home, &changed).await;
        let GetAnswer::Found { found, .. } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(found.info.metadata.get("x-object-meta-jar"), Some("brown"));
        assert_eq!(found.info.content_type, "image/png");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_body_is_never_served_and_heals_from_a_replica() {
    let cluster = Cluster::new().await;
    let path = object_path("o");
    let (homes, _) = cluster.homes(&path);
    let body = pattern(400_000);
    for home in &homes {
        cluster.put(home, &path, 5, &body, Vec::new()).await;
    }
    let index = cluster.index_of(&homes[0]);
    let file = body_file(&cluster.device_dir(index));
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&[0xee], 10).unwrap();
    // The auditor finds it before any reader does.
    cluster.node(index).audit_once().await;
    let answer = cluster.get(&homes[0], &path).await;
    assert!(matches!(answer, GetAnswer::Damaged { .. }), "{answer:?}");
    cluster.replicate().await;
    assert_eq!(cluster.bytes(&homes[0], &path).await.unwrap(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handoff_whose_copy_is_damaged_lets_go_of_it_once_every_primary_has_a_good_one() {
    let cluster = Cluster::new().await;
    let path = object_path("large");
    let body = pattern(300_000);
    let (homes, handoff) = cluster.homes(&path);
    cluster.put(&handoff, &path, 5, &body, Vec::new()).await;
    let index = cluster.index_of(&handoff);
    let file = body_file(&cluster.device_dir(index));
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&[0xee], 10).unwrap();
    cluster.node(index).audit_once().await;
    let rows = || {
        let disk = cluster.node(index).disks.iter().next().unwrap().clone();
        let units = disk.device().digests(OBJECTS, 0);
        units.values().map(|sum| sum.count).sum::<u64>()
    };
    cluster.put(&homes[0], &path, 5, &body, Vec::new()).await;
    cluster.node(index).replicate_once().await;
    assert_eq!(rows(), 1, "two primaries have nothing yet");
    cluster.replicate().await;
    cluster.replicate().await;
    assert_eq!(rows(), 0);
    for home in &homes {
        assert_eq!(cluster.bytes(home, &path).await.unwrap(), body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_drifted_apart_converge() {
    let cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let containers = cluster.container_homes();
    // Each replica hears of other objects.
    for (number, container) in containers.iter().enumerate() {
        let path = object_path(&format!("o{number}"));
        let (homes, _) = cluster.homes(&path);
        cluster
            .put(&homes[0], &path, 5, b"jar", vec![container.clone()])
            .await;
    }
    for round in 0..3 {
        cluster.replicate().await;
        for container in &containers {
            assert_eq!(
                cluster.names(container).await.unwrap(),
                ["o0", "o1", "o2"],
                "{round}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_made_on_a_handoff_goes_home() {
    let cluster = Cluster::new().await;
    let partition = cluster
        .ring
        .partition(&cluster.hash.container(&container_path()));
    let handoff = cluster
        .ring
        .handoffs(partition)
        .find_map(crate::rings::place)
        .unwrap();
    cluster.put_container(&handoff, 1).await;
    cluster.replicate().await;
    for home in cluster.container_homes() {
        assert_eq!(cluster.names(&home).await.unwrap(), Vec::<String>::new());
    }
    assert_eq!(cluster.names(&handoff).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_container_is_not_sent_to_those_who_have_it_but_for_the_latest_news() {
    let cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let homes = cluster.container_homes();
    let device = |home: usize| {
        let node = cluster.node(cluster.index_of(&homes[home]));
        let disk = node.disks.serving().next().unwrap();
        (disk.device(), node.container_key(&container_path()))
    };
    let record = |name: &str, stamp| ObjectRecord {
        name: name.parse().unwrap(),
        data_timestamp: stamp,
        content_type_timestamp: stamp,
        metadata_timestamp: stamp,
        deleted: false,
        length: 1,
        etag: Etag::EMPTY,
        content_type: String::new(),
        annotations: Metadata::default(),
    };
    let tell = |home: usize, records: &[ObjectRecord]| {
        let (device, key) = device(home);
        let told = device.merge_records(&key, None, records).unwrap();
        assert!(told.is_some());
    };
    let has = |home: usize, name: &str| {
        let (device, key) = device(home);
        device.record::<ObjectRecord>(&key, name).unwrap().is_some()
    };
    let many = |prefix: &str| -> Vec<ObjectRecord> {
        let names = (0..1_500).map(|number| format!("{prefix}{number:04}"));
        names.map(|name| record(&name, at(5))).collect()
    };
    // Ahead of this clock: it stays news for as long as this takes.
    let soon = SystemClock::new().now().seconds() + 30;
    let soon = Timestamp::from_utc(UtcTime::from_seconds(soon));
    let mut old = many("o");
    for (home, name) in ["n0", "n1", "n2"].into_iter().enumerate() {
        tell(home, &old[..700]);
        tell(home, &[record(name, soon)]);
        tell(home, &old[700..]);
        old.reverse();
    }
    cluster.replicate().await;
    assert!(has(0, "n0") && has(1, "n1") && has(2, "n2"));
    assert!(!has(1, "n0") && !has(2, "n1") && !has(0, "n2"));
    // Something that is no news is missing, among much that is not.
    let late = many("p");
    tell(0, &late);
    for home in [1, 2] {
        tell(home, &late[1..]);
    }
    cluster.replicate().await;
    for home in 0..3 {
        for name in ["p0000", "n0"] {
            assert!(has(home, name), "{name} at {home}");
        }
    }
    // What stays news stays out, until it is old or there is little else.
    assert!(!has(0, "n1") && !has(0, "n2"));
    cluster.replicate().await;
    tell(1, &[record("q", at(6))]);
    cluster.replicate().await;
    assert!(has(0, "q") && has(2, "q"));
}
