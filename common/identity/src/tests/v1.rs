//! v1 authentication, as Swift's clients and its functional tests use it.

use super::{Bench, options};
use crate::Options;
use http::Method;

#[tokio::test]
async fn a_configured_user_logs_in_as_with_tempauth() {
    let bench = Bench::new();
    for (path, user, key) in [
        ("/auth/v1.0", "x-auth-user", "x-auth-key"),
        ("/v1.0", "x-storage-user", "x-storage-pass"),
        ("/auth", "x-auth-user", "x-storage-pass"),
    ] {
        let got = bench
            .send(
                Method::GET,
                path,
                &[(user, "test:tester"), (key, "testing")],
                "",
            )
            .await;
        assert_eq!(got.status, 200, "{got:?}");
        assert_eq!(
            got.header("x-storage-url"),
            "http://127.0.0.1:8080/v1/AUTH_test"
        );
        assert_eq!(got.header("x-auth-token"), got.header("x-storage-token"));
        assert_eq!(got.header("x-auth-token-expires"), "3600");
        let caller = bench
            .identity
            .verifier()
            .verify(got.header("x-auth-token"))
            .unwrap();
        assert_eq!(caller.groups, ["test", "test:tester", "AUTH_test"]);
        assert!(caller.owns_account("AUTH_test") && !caller.is_admin());
    }
}

#[tokio::test]
async fn a_user_of_the_store_logs_in_to_its_project() {
    let bench = Bench::new();
    let (_, project) = bench.person("kim", "pw", "member").await;
    let headers = [("x-auth-user", "kim-project:kim"), ("x-auth-key", "pw")];
    let got = bench.send(Method::GET, "/auth/v1.0", &headers, "").await;
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(
        got.header("x-storage-url"),
        format!("http://127.0.0.1:8080/v1/AUTH_{project}")
    );
    let by_v1 = bench
        .identity
        .verifier()
        .verify(got.header("x-auth-token"))
        .unwrap();
    let token = bench.log_in("kim", "pw", "kim-project").await;
    let by_v3 = bench.identity.verifier().verify(&token).unwrap();
    assert_eq!(
        (&by_v1.account, &by_v1.groups, &by_v1.roles),
        (&by_v3.account, &by_v3.groups, &by_v3.roles)
    );
}

#[tokio::test]
async fn wrong_v1_logins_are_401_with_a_realm() {
    let bench = Bench::new();
    for (user, key) in [
        ("test:tester", "wrong"),
        ("test:nobody", "testing"),
        ("te\"<st:x", "zq7"),
        ("demo:demo", "wrong"),
        ("test", "testing"),
        (":", ""),
    ] {
        let got = bench
            .send(
                Method::GET,
                "/auth/v1.0",
                &[("x-auth-user", user), ("x-auth-key", key)],
                "",
            )
            .await;
        assert_eq!(got.status, 401, "{user}");
        let realm = got
            .header("www-authenticate")
            .strip_prefix("Swift realm=\"")
            .unwrap();
        assert!(
            realm
                .strip_suffix('"')
                .unwrap()
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'%'),
            "{realm}"
        );
        assert!(!got.text.contains(key) || key.is_empty());
    }
    let got = bench.send(Method::GET, "/auth/v1.0", &[], "").await;
    assert_eq!(
        (got.status.as_u16(), got.header("www-authenticate")),
        (401, "Swift realm=\"unknown\"")
    );
    assert_eq!(bench.put("", "/auth/v1.0").await.status, 405);
}

#[tokio::test]
async fn the_storage_url_keeps_the_name_the_client_used_unless_it_is_fixed() {
    let bench = Bench::new();
    let ask = async |bench: &Bench, host: &str| {
        let mut request = http::Request::get("/auth/v1.0").header("host", host);
        for (name, value) in [("x-auth-user", "test:tester"), ("x-auth-key", "testing")] {
            request = request.header(name, value);
        }
        use onggi_common_service::http::Handler;
        let request = request.body(onggi_common_service::http::empty()).unwrap();
        let answer = bench.identity.handle(request).await;
        answer.headers()["x-storage-url"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        ask(&bench, "store.example:8080").await,
        "http://store.example:8080/v1/AUTH_test"
    );
    // Asked at the identity service's own port, or with a host that is none.
    for host in [
        "store.example:5000",
        "store.example",
        "evil@store.example:8080",
        "a b:8080",
    ] {
        assert_eq!(
            ask(&bench, host).await,
            "http://127.0.0.1:8080/v1/AUTH_test",
            "{host}"
        );
    }
    let fixed = Options {
        object_url: "https://objects.example".to_owned(),
        is_object_url_fixed: true,
        ..options()
    };
    let bench = bench.restart(fixed);
    assert_eq!(
        ask(&bench, "store.example:8080").await,
        "https://objects.example/v1/AUTH_test"
    );
}

#[tokio::test]
async fn a_v1_token_opens_nothing_of_keystones() {
    let bench = Bench::new();
    let headers = [("x-auth-user", "test:tester"), ("x-auth-key", "testing")];
    let got = bench.send(Method::GET, "/auth/v1.0", &headers, "").await;
    let token = got.header("x-auth-token");
    assert_eq!(bench.get(token, "/v3/users").await.status, 403);
    let rescope =
        serde_json::json!({"auth": {"identity": {"methods": ["token"], "token": {"id": token}}}});
    assert_eq!(
        bench.post("", "/v3/auth/tokens", &rescope).await.status,
        401
    );
}
