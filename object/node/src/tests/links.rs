//! Links between processes: what they carry, what they refuse, and how they end.

use super::requests::put_head;
use super::{Cluster, keys, object_path, pattern, timeouts};
use bytes::Bytes;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use http_body_util::BodyExt as _;
use onggi_common_host::{SystemClock, SystemEntropy};
use onggi_object_client::{
    CallError, GetAnswer, LocalNodes, Nodes, Timeouts, Transport, WriteAnswer,
};
use onggi_object_model::PolicyIndex;
use onggi_object_wire::body::BodyHash;
use onggi_object_wire::link::PREFACE;
use onggi_object_wire::object::{Get, Which};
use onggi_object_wire::{ChunkHasher, ClusterKeys, Place};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

fn transport(keys: ClusterKeys, timeouts: Timeouts) -> Nodes {
    let clock = Arc::new(SystemClock::new());
    let local = Arc::new(LocalNodes::default());
    let transport = Transport::new(keys, clock, &SystemEntropy, timeouts, local);
    Nodes::new(Arc::new(transport), timeouts)
}

fn get(name: &str) -> Get {
    Get {
        which: Which::whole(PolicyIndex::default(), object_path(name)),
        range: None,
        version: None,
    }
}

/// Stands at a node's address and passes connections on; the node listens elsewhere under the same name.
struct Tap {
    place: Place,
    is_frozen: Arc<AtomicBool>,
    seen: Arc<tokio::sync::Mutex<Vec<Vec<u8>>>>,
    node: String,
}

impl Tap {
    async fn at_first_node(cluster: &mut Cluster) -> Self {
        let address = cluster.members[0].options.address.clone();
        cluster.stop(0).await;
        let listener = TcpListener::bind(&address).await.unwrap();
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = elsewhere.local_addr().unwrap().to_string();
        cluster.serve(0, elsewhere).await;
        let tap = Self {
            place: Place {
                address,
                device: "d1".parse().unwrap(),
            },
            is_frozen: Arc::default(),
            seen: Arc::default(),
            node: node.clone(),
        };
        let (frozen, seen) = (Arc::clone(&tap.is_frozen), Arc::clone(&tap.seen));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (frozen, seen, node) = (Arc::clone(&frozen), Arc::clone(&seen), node.clone());
                tokio::spawn(async move {
                    let _ended = pass_on(client, &node, &frozen, &seen).await;
                });
            }
        });
        tap
    }
}

/// Passes a connection on; while everything is frozen, nothing of what was open then ever moves again.
async fn pass_on(
    mut client: TcpStream,
    node: &str,
    frozen: &AtomicBool,
    seen: &tokio::sync::Mutex<Vec<Vec<u8>>>,
) -> io::Result<()> {
    let mut upstream = TcpStream::connect(node).await?;
    let mut first = vec![0; 4_096];
    let count = client.read(&mut first).await?;
    first.truncate(count);
    seen.lock().await.push(first.clone());
    upstream.write_all(&first).await?;
    let thaws = async {
        while !frozen.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        ended = copy_bidirectional(&mut client, &mut upstream) => ended.map(|_| ()),
        () = thaws => {
            // Held open, and silent.
            core::future::pending::<()>().await;
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_calls_share_a_connection_and_long_answers_come_over_http() {
    let mut cluster = Cluster::new().await;
    let tap = Tap::at_first_node(&mut cluster).await;
    let nodes = transport(keys(), timeouts());
    let mut puts = Vec::new();
    for number in 0..40 {
        let (nodes, place) = (nodes.clone(), tap.place.clone());
        puts.push(tokio::spawn(async move {
            let path = object_path(&format!("o{number}"));
            nodes
                .put_object(&place, &put_head(&path), "jar".into())
                .await
        }));
    }
    for put in puts {
        assert!(put.await.unwrap().unwrap().is_stored());
    }
    let seen = tap.seen.lock().await.clone();
    assert_eq!(seen.len(), 1, "one connection for all");
    assert!(seen[0].starts_with(PREFACE));

    let body = pattern(300_000);
    let path = object_path("large");
    let answer = cluster.put(&tap.place, &path, 2, &body, Vec::new()).await;
    assert!(answer.is_stored(), "{answer:?}");
    let GetAnswer::Found { body: read, .. } =
        nodes.get_object(&tap.place, &get("large")).await.unwrap()
    else {
        panic!("it is there")
    };
    let read = http_body_util::BodyExt::collect(read).await.unwrap();
    assert_eq!(read.to_bytes(), body);
    let seen = tap.seen.lock().await;
    assert!(seen.last().unwrap().starts_with(b"GET "));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_link_and_no_byte() {
    let mut cluster = Cluster::new().await;
    let tap = Tap::at_first_node(&mut cluster).await;
    let (path, jar) = (object_path("o"), "jar");
    let stranger = transport(ClusterKeys::derive(&["another"]).unwrap(), timeouts());
    let refused = stranger
        .put_object(&tap.place, &put_head(&path), jar.into())
        .await;
    assert!(
        matches!(refused, Err(CallError::Connect { .. })),
        "{refused:?}"
    );
    assert_eq!(cluster.bytes(&tap.place, &path).await, None);

    let nodes = transport(keys(), timeouts());
    let put = nodes
        .put_object(&tap.place, &put_head(&path), jar.into())
        .await;
    assert!(put.unwrap().is_stored());
    let greeting = tap.seen.lock().await.last().unwrap().clone();
    assert!(greeting.starts_with(PREFACE));
    // Seen on the wire, the greeting opens nothing a second time; neither does one that was cut or changed.
    let (cut, mut changed) = (greeting[..30].to_vec(), greeting.clone());
    let last = changed.len() - 1;
    changed[last] ^= 1;
    for bytes in [
        greeting,
        cut,
        changed,
        [PREFACE.as_slice(), &[0xff; 64]].concat(),
    ] {
        let mut stream = TcpStream::connect(&tap.node).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        assert!(answer.is_empty(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_restarted_is_reached_again() {
    let mut cluster = Cluster::new().await;
    let place = Place {
        address: cluster.members[0].options.address.clone(),
        device: "d1".parse().unwrap(),
    };
    let nodes = transport(keys(), timeouts());
    let path = object_path("o");
    let put = nodes
        .put_object(&place, &put_head(&path), "jar".into())
        .await;
    assert!(put.unwrap().is_stored());
    cluster.stop(0).await;
    let gone = nodes.head_object(&place, &get("o")).await;
    assert!(
        matches!(
            gone,
            Err(CallError::Connect { .. } | CallError::Lost { .. })
        ),
        "{gone:?}"
    );
    cluster.start(0).await;
    let there = nodes.head_object(&place, &get("o")).await.unwrap();
    assert!(matches!(there, GetAnswer::Found { .. }), "{there:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_comes_is_left_for_a_new_one() {
    let mut cluster = Cluster::new().await;
    let tap = Tap::at_first_node(&mut cluster).await;
    let short = Timeouts {
        answer: Duration::from_millis(400),
        ..timeouts()
    };
    let nodes = transport(keys(), short);
    let path = object_path("o");
    let put = nodes
        .put_object(&tap.place, &put_head(&path), "jar".into())
        .await;
    assert!(put.unwrap().is_stored());
    tap.is_frozen.store(true, Ordering::Relaxed);
    // Until the tap has seen it, an answer may still come.
    let silent = loop {
        match nodes.head_object(&tap.place, &get("o")).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(matches!(silent, CallError::TimedOut { .. }), "{silent:?}");
    tap.is_frozen.store(false, Ordering::Relaxed);
    let there = nodes.head_object(&tap.place, &get("o")).await.unwrap();
    assert!(matches!(there, GetAnswer::Found { .. }), "{there:?}");
}

/// A body is hashed once in a process: the node takes what its sender found, if it is a hash of such a body at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_hashed_in_the_process_is_not_hashed_again() {
    let cluster = Cluster::new().await;
    let member = &cluster.members[0];
    let local = Arc::new(LocalNodes::default());
    local.add(&member.options.address, member.node.clone().unwrap());
    let clock = Arc::new(SystemClock::new());
    let transport = Transport::new(keys(), clock, &SystemEntropy, timeouts(), local);
    let nodes = Nodes::new(Arc::new(transport), timeouts());
    let place = Place {
        address: member.options.address.clone(),
        device: "d1".parse().unwrap(),
    };
    let body = pattern(700_000);
    let (hash, other) = (hash_of(&body), hash_of(&body[1..]));
    let without_chunks = BodyHash {
        hashes: Vec::new(),
        ..hash.clone()
    };
    let other_root = BodyHash {
        root: other.root,
        ..hash.clone()
    };
    for (name, told, is_taken) in [
        ("own", hash.clone(), true),
        ("shorter", other, false),
        ("without-chunks", without_chunks, false),
        ("other-root", other_root, false),
    ] {
        let mut head = put_head(&object_path(name));
        let mut tail = head.tail.take().unwrap();
        head.length = Some(body.len() as u64);
        (tail.length, tail.root) = (hash.length, hash.root);
        let stream = nodes.begin_put_object(&place, &head).unwrap();
        for piece in body.chunks(300_000) {
            stream.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let answer = stream.finish(&tail, Arc::new(told)).await.unwrap();
        let is_written = matches!(answer, WriteAnswer::Written { .. });
        assert_eq!(is_written, is_taken, "{name}: {answer:?}");
        let found = nodes.get_object(&place, &get(name)).await.unwrap();
        match found {
            GetAnswer::Found { body: found, .. } if is_taken => {
                let bytes = found.collect().await.unwrap().to_bytes();
                assert!(bytes == body);
            }
            found => assert!(!is_taken, "{name}: {found:?}"),
        }
    }
}

fn hash_of(body: &[u8]) -> BodyHash {
    let mut hasher = ChunkHasher::new();
    hasher.update(body);
    hasher.finish()
}
