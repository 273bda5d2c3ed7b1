//! What proxies ask of one node.

use super::{Cluster, account_name, at, container_path, object_path, pattern};
use http_body_util::BodyExt as _;
use onggi_object_client::{ContainerAnswer, GetAnswer, InfoAnswer, ListAnswer, WriteAnswer};
use onggi_object_model::{ByteRange, ListingQuery, Metadata, PolicyIndex};
use onggi_object_wire::object::{Get, Post, Wanted, Which};
use onggi_object_wire::{account, container};

fn get(name: &str) -> Get {
    let which = Which::whole(PolicyIndex::default(), object_path(name));
    Get {
        which,
        range: None,
        version: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_put_read_changed_and_deleted() {
    let cluster = Cluster::new().await;
    let path = object_path("한/o");
    let (homes, _) = cluster.homes(&path);
    let home = &homes[0];
    for (ticks, length) in [(1, 0), (2, 5), (3, 65_536), (4, 3_000_000)] {
        let body = pattern(length);
        let answer = cluster.put(home, &path, ticks, &body, Vec::new()).await;
        assert!(answer.is_stored(), "{answer:?}");
        assert_eq!(cluster.bytes(home, &path).await.unwrap(), body);
    }
    let older = cluster.put(home, &path, 2, b"older", Vec::new()).await;
    assert_eq!(older, WriteAnswer::Newer { newest: at(4) });

    let mut metadata = Metadata::default();
    metadata.insert("x-object-meta-jar", "brown");
    let which = Which::whole(PolicyIndex::default(), path.clone());
    let listing = Vec::new();
    let post = Post {
        which,
        timestamp: at(5),
        content_type: None,
        metadata,
        listing,
    };
    assert!(
        cluster
            .nodes
            .post_object(home, &post)
            .await
            .unwrap()
            .is_stored()
    );
    let head = cluster.nodes.head_object(home, &get("한/o")).await.unwrap();
    let GetAnswer::Found { found, .. } = head else {
        panic!("{head:?}")
    };
    assert_eq!(found.info.metadata.get("x-object-meta-jar"), Some("brown"));
    assert_eq!(
        (found.info.length, found.info.data_timestamp),
        (3_000_000, at(4))
    );

    assert!(cluster.delete(home, &path, 6).await.is_stored());
    assert!(matches!(
        cluster.delete(home, &path, 7).await,
        WriteAnswer::NotFound { .. }
    ));
    let gone = cluster.get(home, &path).await;
    assert!(
        matches!(gone, GetAnswer::Missing { tombstone } if tombstone == Some(at(7))),
        "{gone:?}"
    );
    assert_eq!(
        cluster.put(home, &path, 6, b"late", Vec::new()).await,
        WriteAnswer::Newer { newest: at(7) }
    );
    assert!(matches!(
        cluster.nodes.post_object(home, &post).await.unwrap(),
        WriteAnswer::NotFound { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_versions_are_picked() {
    let cluster = Cluster::new().await;
    let (homes, _) = cluster.homes(&object_path("o"));
    let body = pattern(1_000_000);
    cluster
        .put(&homes[0], &object_path("o"), 1, &body, Vec::new())
        .await;
    let header = |text: &str| Get {
        range: Some(Wanted::Header(text.to_owned())),
        ..get("o")
    };
    let cases = [
        (header("bytes=100-199"), &body[100..200]),
        (header("bytes=-10"), &body[999_990..]),
        (header("nonsense"), &body[..]),
        (
            Get {
                range: ByteRange::new(65_530, 140_000).map(Wanted::Exact),
                ..get("o")
            },
            &body[65_530..140_000],
        ),
        (
            Get {
                version: Some(at(1)),
                ..get("o")
            },
            &body[..],
        ),
    ];
    for (get, expected) in cases {
        let answer = cluster.nodes.get_object(&homes[0], &get).await.unwrap();
        let GetAnswer::Found { body, .. } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(body.collect().await.unwrap().to_bytes(), expected);
    }
    let two = cluster
        .nodes
        .get_object(&homes[0], &header("bytes=0-1,10-11"))
        .await
        .unwrap();
    let GetAnswer::Found { found, body: bytes } = two else {
        panic!("{two:?}")
    };
    assert_eq!(found.ranges.len(), 2);
    assert_eq!(bytes.collect().await.unwrap().to_bytes().len(), 4);
    let past = cluster
        .nodes
        .get_object(&homes[0], &header("bytes=1000000-"))
        .await
        .unwrap();
    assert!(matches!(past, GetAnswer::Unsatisfiable { .. }), "{past:?}");
    let other = Get {
        version: Some(at(2)),
        ..get("o")
    };
    let other = cluster.nodes.get_object(&homes[0], &other).await.unwrap();
    assert!(matches!(other, GetAnswer::OtherVersion), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_listed_before_it_is_answered() {
    let cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let containers = cluster.container_homes();
    let path = object_path("o");
    let (homes, _) = cluster.homes(&path);
    for (home, listing) in homes.iter().zip(&containers) {
        let answer = cluster
            .put(home, &path, 5, b"jar", vec![listing.clone()])
            .await;
        assert_eq!(
            answer,
            WriteAnswer::Written {
                listed: vec![listing.clone()]
            }
        );
        assert_eq!(cluster.names(listing).await.unwrap(), ["o"]);
    }
    let head = container::Head {
        path: container_path(),
    };
    let info = cluster
        .nodes
        .head_container(&containers[0], &head)
        .await
        .unwrap();
    let InfoAnswer::Found(info) = info else {
        panic!("{info:?}")
    };
    assert_eq!((info.object_count, info.bytes_used), (1, 3));
    // The account hears of it from the updater.
    cluster.update().await;
    for home in cluster.account_homes() {
        let query = ListingQuery::page(10);
        let list = account::List {
            account: account_name(),
            query,
        };
        let listed = cluster.nodes.list_account(&home, &list).await.unwrap();
        let ListAnswer::Found { info, listing } = listed else {
            panic!("{listed:?}")
        };
        assert_eq!(
            (info.container_count, info.object_count, info.bytes_used),
            (1, 1, 3)
        );
        assert_eq!(listing.entries.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_away_is_told_later() {
    let mut cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let containers = cluster.container_homes();
    let path = object_path("o");
    let (homes, _) = cluster.homes(&path);
    let away = cluster.index_of(&containers[0]);
    let home = homes
        .iter()
        .find(|home| cluster.index_of(home) != away)
        .unwrap()
        .clone();
    cluster.stop(away).await;
    let answer = cluster
        .put(&home, &path, 5, b"jar", vec![containers[0].clone()])
        .await;
    assert_eq!(answer, WriteAnswer::Written { listed: Vec::new() });
    cluster.start(away).await;
    assert_eq!(
        cluster.names(&containers[0]).await.unwrap(),
        Vec::<String>::new()
    );
    cluster.update().await;
    for container in &containers {
        assert_eq!(cluster.names(container).await.unwrap(), ["o"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_deleted_only_when_empty_and_can_be_made_again() {
    let cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let home = &cluster.container_homes()[0];
    let path = object_path("o");
    let (homes, _) = cluster.homes(&path);
    cluster
        .put(&homes[0], &path, 5, b"jar", vec![home.clone()])
        .await;
    let delete = |ticks| container::Delete {
        path: container_path(),
        timestamp: at(ticks),
        account: Vec::new(),
    };
    let full = cluster
        .nodes
        .delete_container(home, &delete(6))
        .await
        .unwrap();
    assert_eq!(full, ContainerAnswer::Conflict);
    let which = Which::whole(PolicyIndex::default(), path.clone());
    let listing = vec![home.clone()];
    let gone = onggi_object_wire::object::Delete {
        which,
        timestamp: at(7),
        listing,
        commit: None,
    };
    assert!(
        cluster
            .nodes
            .delete_object(&homes[0], &gone)
            .await
            .unwrap()
            .is_stored()
    );
    let empty = cluster
        .nodes
        .delete_container(home, &delete(8))
        .await
        .unwrap();
    assert!(matches!(empty, ContainerAnswer::Done { .. }), "{empty:?}");
    assert_eq!(cluster.names(home).await, None);
    assert_eq!(
        cluster.put_container(home, 7).await,
        ContainerAnswer::Conflict
    );
    assert!(matches!(
        cluster.put_container(home, 9).await,
        ContainerAnswer::Made { .. }
    ));
    assert_eq!(cluster.names(home).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_and_absent_devices_are_refused() {
    let cluster = Cluster::new().await;
    let path = object_path("o");
    let (homes, _) = cluster.homes(&path);
    let mut absent = homes[0].clone();
    absent.device = "d9".parse().unwrap();
    assert_eq!(
        cluster.put(&absent, &path, 1, b"jar", Vec::new()).await,
        WriteAnswer::Full
    );
    let mut put = put_head(&path);
    put.tail = put
        .tail
        .map(|tail| onggi_object_wire::object::Tail { length: 4, ..tail });
    let answer = cluster
        .nodes
        .put_object(&homes[0], &put, "jar".into())
        .await
        .unwrap();
    assert_eq!(answer, WriteAnswer::WrongBody);
    assert_eq!(cluster.bytes(&homes[0], &path).await, None);
    let ahead = onggi_object_wire::object::Put {
        timestamp: "9999999999.00000".parse().unwrap(),
        ..put_head(&path)
    };
    let answer = cluster
        .nodes
        .put_object(&homes[0], &ahead, "jar".into())
        .await
        .unwrap();
    assert!(
        matches!(answer, WriteAnswer::Failed { status } if status == 400),
        "{answer:?}"
    );
}

pub(super) fn put_head(path: &onggi_object_model::ObjectPath) -> onggi_object_wire::object::Put {
    onggi_object_wire::object::Put {
        which: Which::whole(PolicyIndex::default(), path.clone()),
        timestamp: at(1),
        content_type: String::new(),
        metadata: Metadata::default(),
        system: Metadata::default(),
        length: Some(3),
        commit: None,
        listing: Vec::new(),
        tail: Some(onggi_object_wire::object::Tail {
            length: 3,
            etag: onggi_object_model::Etag::EMPTY,
            root: onggi_object_wire::Root::of(b"jar"),
            system: Metadata::default(),
            settled: None,
        }),
    }
}
