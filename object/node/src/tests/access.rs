//! A storage port answers members of its cluster and nobody else.

use super::requests::put_head;
use super::{Cluster, object_path, timeouts};
use onggi_common_host::{SystemClock, SystemEntropy};
use onggi_object_client::{HttpClient, Nodes, WriteAnswer};
use onggi_object_wire::ClusterKeys;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn talk(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    answer
}

/// A client that speaks HTTP only.
fn http(keys: ClusterKeys) -> Nodes {
    let clock = Arc::new(SystemClock::new());
    let client = HttpClient::new(keys, clock, &SystemEntropy, timeouts());
    Nodes::new(Arc::new(client), timeouts())
}

fn status(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer.get(..12).unwrap_or(answer)).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_403_and_learn_nothing() {
    let cluster = Cluster::new().await;
    let address = cluster.members[0].options.address.clone();
    let requests = [
        format!("GET /2/d1/object HTTP/1.1\r\nhost: {address}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n"),
        format!(
            "PUT /2/d1/object HTTP/1.1\r\nhost: {address}\r\nx-onggi-authorization: key=00,mac=00\r\ncontent-length: 0\r\n\r\n"
        ),
        "GET /2/d9/nothing HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
    ];
    let mut answers = Vec::new();
    for request in &requests {
        let answer = talk(&address, request.as_bytes()).await;
        assert_eq!(status(&answer), "HTTP/1.1 403", "{request}");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("date:"))
            .map(str::to_owned);
        answers.push(lines.collect::<Vec<String>>());
    }
    answers.dedup();
    assert_eq!(
        answers.len(),
        1,
        "whether a device is there is nobody's business: {answers:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_keys_do_not_open() {
    let cluster = Cluster::new().await;
    let path = object_path("o");
    let (homes, _) = cluster.homes(&path);
    let keys = ClusterKeys::derive(&["another"]).unwrap();
    let answer = http(keys)
        .put_object(&homes[0], &put_head(&path), "jar".into())
        .await
        .unwrap();
    assert!(
        matches!(answer, WriteAnswer::Failed { status } if status == 403),
        "{answer:?}"
    );
    assert_eq!(cluster.bytes(&homes[0], &path).await, None);
}

/// Passes one connection on to a node and keeps what the client sent.
async fn tap(listener: TcpListener, node: String) -> Vec<u8> {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut upstream = TcpStream::connect(&node).await.unwrap();
    let mut seen = vec![0; 64 << 10];
    let count = client.read(&mut seen).await.unwrap();
    seen.truncate(count);
    upstream.write_all(&seen).await.unwrap();
    let mut answer = vec![0; 64 << 10];
    let count = upstream.read(&mut answer).await.unwrap();
    client.write_all(&answer[..count]).await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_seen_on_the_wire_cannot_be_sent_again() {
    let mut cluster = Cluster::new().await;
    let path = object_path("o");
    // The tap stands at the node's address; the node listens elsewhere under the same name.
    let address = cluster.members[0].options.address.clone();
    cluster.stop(0).await;
    let listener = TcpListener::bind(&address).await.unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = elsewhere.local_addr().unwrap().to_string();
    cluster.serve(0, elsewhere).await;
    let tapped = tokio::spawn(tap(listener, node.clone()));
    let place = onggi_object_wire::Place {
        address,
        device: "d1".parse().unwrap(),
    };
    let answer = http(super::keys())
        .put_object(&place, &put_head(&path), "jar".into())
        .await
        .unwrap();
    assert!(answer.is_stored(), "{answer:?}");
    let seen = tapped.await.unwrap();
    assert!(seen.ends_with(b"jar"));
    assert_eq!(status(&talk(&node, &seen).await), "HTTP/1.1 403");
    let mut changed = seen.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    assert_eq!(status(&talk(&node, &changed).await), "HTTP/1.1 403");
}
