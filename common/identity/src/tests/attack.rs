//! What an attacker tries.

use super::{Bench, login};
use crate::keys::Purpose;
use crate::token::{self, Claims};
use crate::{KeyRing, VerifyError};
use http::Method;
use onggi_common_host::SystemEntropy;
use onggi_common_service::http::{Handler, full};
use serde_json::json;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

#[tokio::test]
async fn forged_foreign_and_cut_tokens_are_refused_alike() {
    let bench = Bench::new();
    let demo = bench.demo().await;
    let claims = bench.identity.verifier().claims(&demo).unwrap();
    let raised = Claims {
        roles: vec!["admin".to_owned()],
        ..claims
    };
    let other_ring = KeyRing::generate(&SystemEntropy);
    let mut flipped = demo.clone();
    flipped.replace_range(60..61, if &demo[60..61] == "A" { "B" } else { "A" });
    let mut answers = Vec::new();
    for forged in [
        token::sign(&raised, &other_ring.derive(Purpose::Tokens)).unwrap(),
        token::sign(&raised, &bench.ring.derive(Purpose::Feed)).unwrap(),
        flipped,
        demo[..demo.len() - 4].to_owned(),
        "x".repeat(7_000),
        String::new(),
    ] {
        let got = bench.get(&forged, "/v3/users").await;
        assert_eq!(got.status, 401, "{forged:.40}");
        answers.push(got.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn identity_headers_of_a_client_mean_nothing() {
    let bench = Bench::new();
    let demo = bench.demo().await;
    let headers = [
        ("x-auth-token", demo.as_str()),
        ("x-roles", "admin"),
        ("x-user-id", "admin"),
        ("x-is-admin-project", "True"),
        ("x-identity-status", "Confirmed"),
        ("x-service-roles", "service"),
    ];
    assert_eq!(
        bench
            .send(Method::GET, "/v3/users", &headers, "")
            .await
            .status,
        403
    );
    assert_eq!(
        bench
            .send(Method::GET, "/v3/users", &headers[1..], "")
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn bombs_are_refused_before_they_cost_anything() {
    let bench = Bench::new();
    let long_password = login("admin", &"x".repeat(1 << 20), None).to_string();
    assert_eq!(
        bench
            .send(Method::POST, "/v3/auth/tokens", &[], &long_password)
            .await
            .status,
        413
    );
    let password_over_the_limit = login("admin", &"x".repeat(5_000), None).to_string();
    assert_eq!(
        bench
            .send(
                Method::POST,
                "/v3/auth/tokens",
                &[],
                &password_over_the_limit
            )
            .await
            .status,
        401
    );
    for bomb in [
        "[".repeat(100_000),
        "{\"auth\":".repeat(10_000),
        r#"{"auth":{},"auth":{}}"#.to_owned(),
    ] {
        let got = bench
            .send(Method::POST, "/v3/auth/tokens", &[], &bomb)
            .await;
        assert_eq!(got.status, 400, "{bomb:.20}");
    }
    let huge_header = "x".repeat(60_000);
    assert_eq!(bench.get(&huge_header, "/v3/users").await.status, 401);
}

#[tokio::test]
async fn a_flood_of_logins_is_answered_a_few_at_a_time_and_others_go_on() {
    let bench = Arc::new(Bench::new());
    let admin = bench.admin().await;
    let flood: Vec<_> = (0..40)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.log_in_raw("nobody", "x", "y").await.status })
        })
        .collect();
    // Answered while the flood waits for its turns.
    assert_eq!(bench.get(&admin, "/v3/auth/projects").await.status, 200);
    for login in flood {
        assert_eq!(login.await.unwrap(), 401);
    }
}

#[tokio::test]
async fn a_link_carries_no_foreign_host_with_credentials_in_it() {
    let bench = Bench::new();
    let request = http::Request::get("/v3").header("host", "user:secret@evil.example");
    let answer = bench.identity.handle(request.body(full("")).unwrap()).await;
    let body = onggi_common_service::http::collect(answer.into_body(), 1 << 16)
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&body).contains("http://127.0.0.1:5000/v3/"));
}

/// Everything this test program logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log() -> Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        lines
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .init();
        log
    })
    .clone()
}

#[tokio::test]
async fn a_planted_secret_is_in_no_log_and_no_answer() {
    let log = log();
    let bench = Bench::new();
    let secret = "planted-secret-5d1f";
    let admin = bench.admin().await;
    let mut answers = Vec::new();
    let user = json!({"user": {"name": "kim", "password": secret}});
    let made = bench.post(&admin, "/v3/users", &user).await;
    let id = made.json()["user"]["id"].as_str().unwrap().to_owned();
    answers.push(made);
    let token = bench
        .post("", "/v3/auth/tokens", &login("kim", secret, None))
        .await;
    let token_text = token.header("x-subject-token").to_owned();
    answers.push(token);
    answers.push(
        bench
            .post("", "/v3/auth/tokens", &login("nobody", secret, Some("x")))
            .await,
    );
    answers.push(
        bench
            .send(
                Method::GET,
                "/auth/v1.0",
                &[("x-auth-user", "a:b"), ("x-auth-key", secret)],
                "",
            )
            .await,
    );
    for body in [
        format!(r#"{{"auth": {{"identity": {{"methods": "{secret}"}}}}}}"#),
        format!(r#"{{"auth": "{secret}"}}"#),
        format!(
            r#"{{"auth": {{"identity": {{"methods": ["password"], "password": {{"user": {{"name": "kim", "password": {{"x": "{secret}"}}}}}}}}}}}}"#
        ),
        format!(r#"{{"auth" {secret}"#),
    ] {
        answers.push(
            bench
                .send(Method::POST, "/v3/auth/tokens", &[], &body)
                .await,
        );
    }
    let change = json!({"user": {"original_password": secret, "password": format!("{secret}-2")}});
    answers.push(
        bench
            .post("", &format!("/v3/users/{id}/password"), &change)
            .await,
    );
    answers.push(bench.get(&admin, "/v3/users").await);
    answers.push(
        bench
            .get(&format!("{token_text}{secret}"), "/v3/users")
            .await,
    );
    for answer in &answers {
        let shown = format!("{} {:?}", answer.text, answer.headers);
        assert!(
            !shown.contains(secret) && !shown.contains("argon2"),
            "{shown}"
        );
    }
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("a user was created"), "the log is captured");
    assert!(!logged.contains(secret), "a log line has the password");
    assert!(!logged.contains(&token_text), "a log line has the token");
    assert!(
        !logged.contains(&bench.admin_password()),
        "a log line has the generated password"
    );
}

#[tokio::test]
async fn a_verifier_of_another_cluster_believes_nothing() {
    let bench = Bench::new();
    let token = bench.demo().await;
    let other = KeyRing::generate(&SystemEntropy);
    let list = Arc::new(crate::revocation::Revocations::own(
        "run".to_owned(),
        Vec::new(),
    ));
    let verifier = crate::Verifier::with_revocations(&other, Arc::clone(&bench.clock) as _, list);
    assert!(matches!(
        verifier.verify(&token),
        Err(VerifyError::Token(_))
    ));
}
