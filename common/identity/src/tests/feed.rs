//! Another process's verifier, fed over HTTP.

use super::Bench;
use crate::{FeedError, KeyRing, RevocationFeed, Verifier, VerifyError};
use core::time::Duration;
use http::Method;
use onggi_common_host::{Clock, SystemEntropy};
use onggi_common_service::Drain;
use onggi_common_service::http::{Limits, serve};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

async fn listen(bench: &Bench, drain: &Drain) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = serve(
        listener,
        Arc::clone(&bench.identity),
        Limits::default(),
        drain.clone(),
    );
    (url, tokio::spawn(server))
}

fn other_process(bench: &Bench, ring: &KeyRing, url: &str) -> (Arc<Verifier>, RevocationFeed) {
    let clock = Arc::clone(&bench.clock) as Arc<dyn Clock>;
    let verifier = Arc::new(Verifier::new(ring, Arc::clone(&clock)));
    let feed = RevocationFeed::new(url, ring, &verifier, clock, Arc::new(SystemEntropy)).unwrap();
    (verifier, feed)
}

async fn revoke(bench: &Bench, token: &str) {
    let headers = [("x-auth-token", token), ("x-subject-token", token)];
    assert_eq!(
        bench
            .send(Method::DELETE, "/v3/auth/tokens", &headers, "")
            .await
            .status,
        204
    );
}

#[tokio::test]
async fn a_revocation_reaches_other_processes_and_the_list_outlives_the_service() {
    let bench = Bench::new();
    let drain = Drain::new();
    let (url, server) = listen(&bench, &drain).await;
    let (verifier, feed) = other_process(&bench, &bench.ring, &url);
    let (kept, first, second) = (bench.demo().await, bench.demo().await, bench.demo().await);
    assert_eq!(verifier.verify(&kept), Err(VerifyError::NotReady));
    revoke(&bench, &first).await;
    feed.pull().await.unwrap();
    assert_eq!(verifier.verify(&first), Err(VerifyError::Revoked));
    assert_eq!(verifier.verify(&second).unwrap().user_name, "demo");
    revoke(&bench, &second).await;
    feed.pull().await.unwrap();
    assert_eq!(verifier.verify(&second), Err(VerifyError::Revoked));
    drain.begin();
    server.await.unwrap();
    assert!(matches!(
        feed.pull().await,
        Err(FeedError::Connection { .. })
    ));
    assert!(verifier.verify(&kept).is_ok());
    assert_eq!(verifier.verify(&first), Err(VerifyError::Revoked));
}

#[tokio::test]
async fn the_feeds_task_keeps_up_by_itself_and_ends_with_the_drain() {
    let bench = Bench::new();
    let drain = Drain::new();
    let (url, _) = listen(&bench, &drain).await;
    let (verifier, feed) = other_process(&bench, &bench.ring, &url);
    let token = bench.demo().await;
    let task = tokio::spawn(feed.run(drain.clone()));
    let wait = async |wanted: fn(&Result<Arc<crate::Caller>, VerifyError>) -> bool| {
        let check = async {
            while !wanted(&verifier.verify(&token)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), check)
            .await
            .unwrap();
    };
    wait(|seen| seen.is_ok()).await;
    revoke(&bench, &token).await;
    wait(|seen| *seen == Err(VerifyError::Revoked)).await;
    drain.begin();
    task.await.unwrap();
}

#[tokio::test]
async fn strangers_get_no_list_and_strangers_lists_are_not_believed() {
    let bench = Bench::new();
    let drain = Drain::new();
    let (url, _) = listen(&bench, &drain).await;
    let stranger = KeyRing::generate(&SystemEntropy);
    let (verifier, feed) = other_process(&bench, &stranger, &url);
    assert!(matches!(feed.pull().await, Err(FeedError::Refused { status }) if status == 401));
    assert!(!verifier.revocations().is_known());
    assert_eq!(bench.get("", "/onggi/revocations").await.status, 401);
    assert_eq!(
        bench
            .get(&bench.admin().await, "/onggi/revocations")
            .await
            .status,
        401
    );
    // Someone else at the address who answers an empty list.
    let liar = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let liar_url = format!("http://{}", liar.local_addr().unwrap());
    tokio::spawn(serve(
        liar,
        Arc::new(Liar),
        Limits::default(),
        drain.clone(),
    ));
    let (verifier, feed) = other_process(&bench, &bench.ring, &liar_url);
    assert!(matches!(feed.pull().await, Err(FeedError::Unsigned)));
    assert!(!verifier.revocations().is_known());
    drain.begin();
}

struct Liar;

impl onggi_common_service::http::Handler for Liar {
    async fn handle(
        &self,
        _: onggi_common_service::http::Request,
    ) -> onggi_common_service::http::Response {
        let list = r#"{"instance":"x","count":0,"is_whole":true,"events":[]}"#;
        http::Response::new(onggi_common_service::http::full(list))
    }
}
