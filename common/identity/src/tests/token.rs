//! Logging in, validating, rescoping, revoking.

use super::{Bench, login};
use core::time::Duration;
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_login_gives_the_body_keystone_gives() {
    let bench = Bench::new();
    let got = bench
        .log_in_raw("admin", &bench.admin_password(), "admin")
        .await;
    assert_eq!(got.status, 201);
    let token = &got.json()["token"];
    let mut keys: Vec<_> = token
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "audit_ids",
            "catalog",
            "expires_at",
            "is_domain",
            "issued_at",
            "methods",
            "project",
            "roles",
            "user"
        ]
    );
    assert_eq!(
        token["user"]["domain"],
        json!({"id": "default", "name": "Default"})
    );
    assert_eq!(token["user"]["password_expires_at"], Value::Null);
    assert_eq!(token["methods"], json!(["password"]));
    let mut roles: Vec<_> = token["roles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|role| role["name"].as_str().unwrap())
        .collect();
    roles.sort_unstable();
    assert_eq!(
        roles,
        ["ResellerAdmin", "admin", "manager", "member", "reader"]
    );
    let project = token["project"]["id"].as_str().unwrap();
    let swift = token["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["type"] == "object-store")
        .unwrap();
    assert_eq!(swift["name"], "swift");
    assert_eq!(swift["endpoints"][0]["interface"], "public");
    assert_eq!(
        swift["endpoints"][0]["url"],
        format!("http://127.0.0.1:8080/v1/AUTH_{project}")
    );
    assert!(token["expires_at"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn every_refused_login_gets_the_same_answer() {
    let bench = Bench::new();
    let (user_id, project_id) = bench.person("kim", "pw-kim", "member").await;
    let admin = bench.admin().await;
    bench
        .patch(
            &admin,
            &format!("/v3/users/{user_id}"),
            &json!({"user": {"enabled": false}}),
        )
        .await;
    let in_domain = |user: &str, domain: Value| {
        let mut body = login(user, &bench.admin_password(), Some("admin"));
        body["auth"]["identity"]["password"]["user"]["domain"] = domain;
        body
    };
    let with_scope = |scope: Value| {
        let mut body = login("admin", &bench.admin_password(), None);
        body["auth"]["scope"] = scope;
        body
    };
    let refused = [
        login("admin", "wrong", Some("admin")),
        login("nobody", "wrong", Some("admin")),
        login("kim", "pw-kim", Some("kim-project")),
        login("admin", &bench.admin_password(), Some("nowhere")),
        in_domain("admin", json!({"name": "Elsewhere"})),
        in_domain("admin", json!({"id": "elsewhere"})),
        with_scope(json!({"project": {"id": project_id}})),
        with_scope(json!({"domain": {"id": "default"}})),
        json!({"auth": {"identity": {"methods": ["totp"]}}}),
        json!({"auth": {"identity": {"methods": ["token"], "token": {"id": "rubbish"}}}}),
    ];
    let mut answers = Vec::new();
    for body in refused {
        let got = bench.post("", "/v3/auth/tokens", &body).await;
        assert_eq!(got.status, 401, "{body} {got:?}");
        assert_eq!(
            got.header("www-authenticate"),
            "Keystone uri=\"http://id.example:5000/v3\""
        );
        answers.push(got.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn an_unknown_user_costs_as_much_as_a_wrong_password() {
    let bench = Bench::new();
    // Bounds are wide, since the machine may be busy: without the decoy hash the ratio would be a hundred.
    let mut least = [Duration::MAX; 2];
    for _ in 0..7 {
        for (user, least) in ["admin", "nobody"].into_iter().zip(&mut least) {
            let start = tokio::time::Instant::now();
            assert_eq!(bench.log_in_raw(user, "wrong", "admin").await.status, 401);
            *least = start.elapsed().min(*least);
        }
    }
    assert!(
        least[1] * 3 > least[0] && least[0] * 3 > least[1],
        "{least:?}"
    );
}

#[tokio::test]
async fn without_a_scope_the_default_project_counts_and_unscoped_has_no_rights() {
    let bench = Bench::new();
    let password = bench.admin_password();
    let got = bench
        .post("", "/v3/auth/tokens", &login("admin", &password, None))
        .await;
    assert_eq!(got.json()["token"]["project"]["name"], "admin");
    let mut body = login("admin", &password, None);
    body["auth"]["scope"] = json!("unscoped");
    let got = bench.post("", "/v3/auth/tokens", &body).await;
    assert_eq!(got.status, 201);
    let token = got.json();
    assert!(token["token"].get("project").is_none() && token["token"].get("catalog").is_none());
    let unscoped = got.header("x-subject-token");
    assert_eq!(bench.get(unscoped, "/v3/users").await.status, 403);
    assert_eq!(
        bench.get(unscoped, "/v3/auth/projects").await.json()["projects"][0]["name"],
        "admin"
    );
    assert_eq!(bench.get(unscoped, "/v3/auth/catalog").await.status, 403);
}

#[tokio::test]
async fn rescoping_keeps_the_end_and_names_the_parent() {
    let bench = Bench::new();
    let first = bench
        .log_in_raw("admin", &bench.admin_password(), "admin")
        .await;
    bench.clock.advance(Duration::from_secs(600));
    let body = json!({"auth": {
        "identity": {"methods": ["token"], "token": {"id": first.header("x-subject-token")}},
        "scope": {"system": {"all": true}},
    }});
    let got = bench.post("", "/v3/auth/tokens", &body).await;
    assert_eq!(got.status, 201, "{got:?}");
    let (old, new) = (first.json(), got.json());
    assert_eq!(new["token"]["expires_at"], old["token"]["expires_at"]);
    assert_eq!(new["token"]["audit_ids"][1], old["token"]["audit_ids"][0]);
    assert_eq!(new["token"]["methods"], json!(["password", "token"]));
    assert_eq!(new["token"]["system"], json!({"all": true}));
}

#[tokio::test]
async fn two_methods_must_prove_one_user() {
    let bench = Bench::new();
    let demo = bench.demo().await;
    let mut body = login("admin", &bench.admin_password(), Some("admin"));
    body["auth"]["identity"]["methods"] = json!(["token", "password"]);
    body["auth"]["identity"]["token"] = json!({"id": demo});
    assert_eq!(bench.post("", "/v3/auth/tokens", &body).await.status, 401);
    body["auth"]["identity"]["token"] = json!({"id": bench.admin().await});
    assert_eq!(bench.post("", "/v3/auth/tokens", &body).await.status, 201);
}

#[tokio::test]
async fn a_token_is_shown_to_its_bearer_admins_and_services_only() {
    let bench = Bench::new();
    bench.person("cinder", "pw-cinder", "service").await;
    let (admin, demo) = (bench.admin().await, bench.demo().await);
    let service = bench.log_in("cinder", "pw-cinder", "cinder-project").await;
    let show = async |by: &str, subject: &str, method: Method| {
        let headers = [("x-auth-token", by), ("x-subject-token", subject)];
        bench.send(method, "/v3/auth/tokens", &headers, "").await
    };
    for by in [&admin, &demo, &service] {
        let got = show(by, &demo, Method::GET).await;
        assert_eq!(
            (got.status.as_u16(), got.header("x-subject-token")),
            (200, demo.as_str())
        );
        assert_eq!(got.json()["token"]["user"]["name"], "demo");
    }
    let head = show(&demo, &demo, Method::HEAD).await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    assert_eq!(show(&demo, &admin, Method::GET).await.status, 403);
    assert_eq!(show(&demo, &admin, Method::DELETE).await.status, 403);
    assert_eq!(show(&demo, "rubbish", Method::GET).await.status, 404);
    assert_eq!(show("rubbish", &demo, Method::GET).await.status, 401);
    let headers = [
        ("x-auth-token", demo.as_str()),
        ("x-subject-token", demo.as_str()),
    ];
    let without = bench.send(Method::GET, "/v3/auth/tokens?nocatalog", &headers, "");
    assert!(without.await.json()["token"].get("catalog").is_none());
}

#[tokio::test]
async fn a_revoked_token_is_dead_at_once_and_after_a_restart() {
    let bench = Bench::new();
    let (kept, revoked) = (bench.demo().await, bench.demo().await);
    let headers = [
        ("x-auth-token", revoked.as_str()),
        ("x-subject-token", revoked.as_str()),
    ];
    assert_eq!(
        bench
            .send(Method::DELETE, "/v3/auth/tokens", &headers, "")
            .await
            .status,
        204
    );
    assert!(!bench.serves(&revoked).await && bench.serves(&kept).await);
    let headers = [
        ("x-auth-token", kept.as_str()),
        ("x-subject-token", revoked.as_str()),
    ];
    assert_eq!(
        bench
            .send(Method::GET, "/v3/auth/tokens", &headers, "")
            .await
            .status,
        404
    );
    let bench = bench.restart(super::options());
    assert!(!bench.serves(&revoked).await && bench.serves(&kept).await);
}

#[tokio::test]
async fn a_token_ends_after_an_hour() {
    let bench = Bench::new();
    let token = bench.demo().await;
    bench.clock.advance(Duration::from_secs(3_599));
    assert!(bench.serves(&token).await);
    bench.clock.advance(Duration::from_secs(1));
    assert!(!bench.serves(&token).await);
}

/// What an admin sends about a user and its project.
type Change = fn(user_id: &str, project_id: &str) -> (Method, String, Value);

#[tokio::test]
async fn whatever_takes_rights_away_takes_the_tokens_away() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let changes: [(&str, Change); 7] = [
        ("disabled", |user, _| {
            (
                Method::PATCH,
                format!("/v3/users/{user}"),
                json!({"user": {"enabled": false}}),
            )
        }),
        ("new-password", |user, _| {
            (
                Method::PATCH,
                format!("/v3/users/{user}"),
                json!({"user": {"password": "other"}}),
            )
        }),
        ("own-password", |user, _| {
            let body = json!({"user": {"password": "other", "original_password": "pw"}});
            (Method::POST, format!("/v3/users/{user}/password"), body)
        }),
        ("deleted", |user, _| {
            (Method::DELETE, format!("/v3/users/{user}"), Value::Null)
        }),
        ("project-disabled", |_, project| {
            (
                Method::PATCH,
                format!("/v3/projects/{project}"),
                json!({"project": {"enabled": false}}),
            )
        }),
        ("project-deleted", |_, project| {
            (
                Method::DELETE,
                format!("/v3/projects/{project}"),
                Value::Null,
            )
        }),
        ("role-taken", |user, project| {
            (
                Method::DELETE,
                format!("/v3/projects/{project}/users/{user}/roles/ROLE"),
                Value::Null,
            )
        }),
    ];
    let role = bench.role_id(&admin, "member").await;
    for (name, change) in changes {
        let (user, project) = bench.person(name, "pw", "member").await;
        let token = bench.log_in(name, "pw", &format!("{name}-project")).await;
        assert!(bench.serves(&token).await, "{name}");
        let (method, path, body) = change(&user, &project);
        let path = path.replace("ROLE", &role);
        let got = bench
            .send(
                method,
                &path,
                &[("x-auth-token", &admin)],
                &body.to_string(),
            )
            .await;
        assert!(got.status.is_success(), "{name}: {got:?}");
        assert!(!bench.serves(&token).await, "{name}");
    }
    assert!(bench.serves(&admin).await);
}

#[tokio::test]
async fn a_deleted_role_takes_its_tokens_and_grants_away() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let role = bench
        .post(&admin, "/v3/roles", &json!({"role": {"name": "auditor"}}))
        .await
        .json();
    let role = role["role"]["id"].as_str().unwrap();
    bench.person("kim", "pw", "auditor").await;
    let token = bench.log_in("kim", "pw", "kim-project").await;
    assert_eq!(
        bench
            .delete(&admin, &format!("/v3/roles/{role}"))
            .await
            .status,
        204
    );
    assert!(!bench.serves(&token).await);
    assert_eq!(
        bench.log_in_raw("kim", "pw", "kim-project").await.status,
        401
    );
}

#[tokio::test]
async fn a_clock_set_back_locks_nobody_out() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let (user, _) = bench.person("kim", "pw", "member").await;
    bench
        .patch(
            &admin,
            &format!("/v3/users/{user}"),
            &json!({"user": {"password": "new"}}),
        )
        .await;
    bench.clock.go_back(Duration::from_secs(1_800));
    let token = bench.log_in("kim", "new", "kim-project").await;
    assert!(bench.serves(&token).await);
    let bench = bench.restart(super::options());
    let token = bench.log_in("kim", "new", "kim-project").await;
    assert!(bench.serves(&token).await);
}

#[tokio::test]
async fn a_user_who_drops_tokens_in_a_loop_does_not_fill_the_list() {
    let bench = Bench::new();
    let password_token = bench.demo().await;
    let verifier = bench.identity.verifier();
    let claims = verifier.claims(&password_token).unwrap();
    for index in 0..(crate::revocation::TOKENS_PER_USER_MAX * 2) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&index.to_be_bytes());
        let dropped = crate::token::Claims {
            audit_id: crate::token::AuditId::from_random(bytes),
            ..claims.clone()
        };
        bench.identity.realm().revoke_token(&dropped).unwrap();
    }
    assert!(verifier.revocations().event_count() <= crate::revocation::TOKENS_PER_USER_MAX + 2);
    assert!(!bench.serves(&password_token).await);
    assert!(bench.serves(&bench.demo().await).await);
}
