//! Writes that race for one name, as a single node sees them.

use super::requests::put_head;
use super::*;
use onggi_common_units::HexId;
use onggi_object_wire::object::{Commit, Release, Reserve, Settled};

fn claim(digit: &str, expected: Option<Timestamp>) -> Commit {
    Commit {
        token: digit.repeat(32).parse::<HexId>().unwrap(),
        expected,
    }
}

async fn reserve(cluster: &Cluster, home: &Place, ticks: u64, commit: Commit) -> WriteAnswer {
    let reserve = Reserve {
        which: Which::whole(PolicyIndex::default(), object_path("o")),
        timestamp: at(ticks),
        commit,
    };
    cluster.nodes.reserve_object(home, &reserve).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_deletion_is_done_where_a_later_one_is() {
    let cluster = Cluster::new().await;
    let path = object_path("o");
    let home = &cluster.homes(&path).0[0];
    let gone = WriteAnswer::NotFound { listed: Vec::new() };
    assert_eq!(cluster.delete(home, &path, 5).await, gone);
    assert_eq!(cluster.delete(home, &path, 3).await, gone);
    cluster.put(home, &path, 9, b"jar", Vec::new()).await;
    let newest = at(9);
    assert_eq!(
        cluster.delete(home, &path, 7).await,
        WriteAnswer::Newer { newest }
    );
    assert_eq!(cluster.bytes(home, &path).await.unwrap(), b"jar");
}

/// Without the wait the deletions would be there first, and the racer would have to begin again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_racer_comes_above_a_stream_of_deletions() {
    let cluster = Cluster::new().await;
    let path = object_path("o");
    let home = &cluster.homes(&path).0[0];
    cluster.delete(home, &path, 50).await;
    let mine = claim("1", None);
    let below = reserve(&cluster, home, 40, mine).await;
    assert_eq!(below, WriteAnswer::Newer { newest: at(50) });
    let (deleted, stored) = tokio::join!(cluster.delete(home, &path, 70), async {
        assert!(reserve(&cluster, home, 60, mine).await.is_stored());
        // What was asked for first may come last; the higher stamp stays.
        assert!(reserve(&cluster, home, 51, mine).await.is_stored());
        let put = Put {
            timestamp: at(60),
            commit: Some(mine),
            ..put_head(&path)
        };
        cluster
            .nodes
            .put_object(home, &put, "jar".into())
            .await
            .unwrap()
    });
    assert!(stored.is_stored(), "{stored:?}");
    assert!(deleted.is_stored(), "it found something: {deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_racer_that_gives_up_holds_nobody() {
    let cluster = Cluster::new().await;
    let path = object_path("o");
    let home = &cluster.homes(&path).0[0];
    let mine = claim("1", None);
    assert!(reserve(&cluster, home, 4, mine).await.is_stored());
    let release = Release {
        which: Which::whole(PolicyIndex::default(), path.clone()),
        token: mine.token,
    };
    cluster.nodes.release_object(home, &release).await.unwrap();
    let put = cluster.put(home, &path, 3, b"jar", Vec::new()).await;
    assert!(put.is_stored(), "{put:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_put_settles_its_stamp_at_its_end() {
    let cluster = Cluster::new().await;
    let path = object_path("o");
    let home = &cluster.homes(&path).0[0];
    let body = pattern(200_000);
    let (early, mine) = (claim("1", Some(at(2))), claim("2", None));
    let head = Put {
        commit: Some(early),
        length: Some(200_000),
        tail: None,
        ..put_head(&path)
    };
    let stream = cluster.nodes.stream(home, Resource::Object, &head).unwrap();
    for piece in body.chunks(50_000) {
        stream.send(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert!(reserve(&cluster, home, 9, mine).await.is_stored());
    let tail = Tail {
        length: 200_000,
        etag: Etag::EMPTY,
        root: Root::of(&body),
        system: Metadata::default(),
        settled: Some(Settled {
            timestamp: at(9),
            commit: mine,
        }),
    };
    let stored = stream.finish(&tail).await.unwrap();
    assert!(stored.is_stored(), "{stored:?}");
    let GetAnswer::Found { found, .. } = cluster.get(home, &path).await else {
        panic!("it is not there");
    };
    assert_eq!(found.info.data_timestamp, at(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_deletion_needs_its_reservation_and_the_object_it_expects() {
    let cluster = Cluster::new().await;
    let path = object_path("o");
    let home = &cluster.homes(&path).0[0];
    cluster.put(home, &path, 5, b"jar", Vec::new()).await;
    let delete = |ticks, commit| {
        let delete = Delete {
            which: Which::whole(PolicyIndex::default(), path.clone()),
            timestamp: at(ticks),
            commit: Some(commit),
            listing: Vec::new(),
        };
        let nodes = cluster.nodes.clone();
        async move { nodes.delete_object(home, &delete).await.unwrap() }
    };
    let mine = claim("1", Some(at(5)));
    let unreserved = delete(9, mine).await;
    assert!(
        matches!(unreserved, WriteAnswer::Failed { status } if status == 410),
        "{unreserved:?}"
    );
    assert!(reserve(&cluster, home, 9, mine).await.is_stored());
    // A PUT above the reservation comes in between: the deletion was before it.
    cluster.put(home, &path, 20, b"kimchi", Vec::new()).await;
    assert_eq!(delete(9, mine).await, WriteAnswer::Newer { newest: at(20) });
    let again = claim("2", Some(at(20)));
    assert!(reserve(&cluster, home, 21, again).await.is_stored());
    assert!(delete(21, again).await.is_stored());
    assert_eq!(cluster.bytes(home, &path).await, None);
}
