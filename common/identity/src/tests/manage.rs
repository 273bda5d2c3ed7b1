//! Users, projects, roles, grants and the catalogue, as the `openstack` client manages them.

use super::Bench;
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn version_documents_are_where_clients_look() {
    let bench = Bench::new();
    let root = bench.get("", "/").await;
    assert_eq!(root.status, 300);
    let entry = &root.json()["versions"]["values"][0];
    assert_eq!(
        (entry["id"].as_str(), entry["status"].as_str()),
        (Some("v3.14"), Some("stable"))
    );
    assert_eq!(entry["links"][0]["href"], "http://id.example:5000/v3/");
    for path in ["/v3", "/v3/"] {
        let got = bench.get("", path).await;
        assert_eq!((got.status.as_u16(), &got.json()["version"]), (200, entry));
    }
    assert_eq!(bench.get("", "/v2.0").await.status, 404);
    assert_eq!(bench.put("", "/v3").await.status, 405);
}

#[tokio::test]
async fn a_user_is_made_found_changed_and_deleted() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let body = json!({"user": {"name": "kim", "email": "kim@example.org", "description": "d", "password": "pw"}});
    let made = bench.post(&admin, "/v3/users", &body).await;
    assert_eq!(made.status, 201);
    let user = made.json()["user"].clone();
    let id = user["id"].as_str().unwrap();
    let expected = json!({
        "id": id, "name": "kim", "email": "kim@example.org", "description": "d", "domain_id": "default",
        "enabled": true, "options": {}, "password_expires_at": null,
        "links": {"self": format!("http://id.example:5000/v3/users/{id}")},
    });
    assert_eq!(user, expected);
    assert_eq!(bench.post(&admin, "/v3/users", &body).await.status, 409);
    let found = bench
        .get(&admin, "/v3/users?name=kim&domain_id=default")
        .await
        .json();
    assert_eq!(found["users"], json!([expected]));
    assert_eq!(found["links"]["next"], Value::Null);
    assert_eq!(
        found["links"]["self"],
        "http://id.example:5000/v3/users?name=kim&domain_id=default"
    );
    assert_eq!(
        bench.get(&admin, "/v3/users?name=nobody").await.json()["users"],
        json!([])
    );
    let path = format!("/v3/users/{id}");
    let changed = bench
        .patch(
            &admin,
            &path,
            &json!({"user": {"name": "kim2", "email": null}}),
        )
        .await
        .json();
    assert_eq!(
        (&changed["user"]["name"], &changed["user"]["email"]),
        (&json!("kim2"), &Value::Null)
    );
    assert_eq!(
        bench.get(&admin, "/v3/users?name=kim").await.json()["users"],
        json!([])
    );
    // The old name is free again.
    assert_eq!(
        bench
            .post(&admin, "/v3/users", &json!({"user": {"name": "kim"}}))
            .await
            .status,
        201
    );
    assert_eq!(
        bench
            .patch(&admin, &path, &json!({"user": {"name": "kim"}}))
            .await
            .status,
        409
    );
    assert_eq!(bench.delete(&admin, &path).await.status, 204);
    let gone = bench.get(&admin, &path).await;
    assert_eq!(
        (gone.status.as_u16(), gone.message()),
        (404, format!("Could not find user: {id}."))
    );
}

#[tokio::test]
async fn a_user_sees_and_changes_itself_only() {
    let bench = Bench::new();
    let (kim, _) = bench.person("kim", "pw-kim", "member").await;
    let (lee, _) = bench.person("lee", "pw-lee", "manager").await;
    let token = bench.log_in("kim", "pw-kim", "kim-project").await;
    assert_eq!(
        bench.get(&token, &format!("/v3/users/{kim}")).await.status,
        200
    );
    assert_eq!(
        bench
            .get(&token, &format!("/v3/users/{kim}/projects"))
            .await
            .json()["projects"][0]["name"],
        "kim-project"
    );
    let refused = [
        bench.get(&token, &format!("/v3/users/{lee}")).await,
        bench
            .get(&token, &format!("/v3/users/{lee}/projects"))
            .await,
        bench.get(&token, "/v3/users").await,
        bench.get(&token, "/v3/projects").await,
        bench.get(&token, "/v3/role_assignments").await,
        bench.get(&token, "/v3/endpoints").await,
        bench
            .patch(
                &token,
                &format!("/v3/users/{kim}"),
                &json!({"user": {"enabled": true}}),
            )
            .await,
        bench.delete(&token, &format!("/v3/users/{lee}")).await,
        bench
            .post(&token, "/v3/users", &json!({"user": {"name": "x"}}))
            .await,
        bench
            .put(&token, &format!("/v3/system/users/{kim}/roles/x"))
            .await,
    ];
    for got in refused {
        assert_eq!(got.status, 403, "{got:?}");
        assert!(
            got.message()
                .starts_with("You are not authorized to perform the requested action: identity:")
        );
    }
    let change = |old: &str| json!({"user": {"original_password": old, "password": "pw-new"}});
    let path = format!("/v3/users/{kim}/password");
    assert_eq!(
        bench.post(&token, &path, &change("wrong")).await.status,
        401
    );
    assert_eq!(
        bench.post(&token, &path, &change("pw-kim")).await.status,
        204
    );
    assert_eq!(
        bench
            .log_in_raw("kim", "pw-kim", "kim-project")
            .await
            .status,
        401
    );
    bench.log_in("kim", "pw-new", "kim-project").await;
}

#[tokio::test]
async fn a_project_is_made_found_tagged_changed_and_deleted() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let body = json!({"project": {"name": "jars", "description": "d", "tags": ["blue"], "cost_centre": 7}});
    let made = bench.post(&admin, "/v3/projects", &body).await.json();
    let id = made["project"]["id"].as_str().unwrap();
    let expected = json!({
        "id": id, "name": "jars", "description": "d", "domain_id": "default", "parent_id": "default",
        "enabled": true, "is_domain": false, "tags": ["blue"], "options": {}, "cost_centre": 7,
        "links": {"self": format!("http://id.example:5000/v3/projects/{id}")},
    });
    assert_eq!(made["project"], expected);
    assert_eq!(bench.post(&admin, "/v3/projects", &body).await.status, 409);
    assert_eq!(
        bench
            .get(&admin, "/v3/projects?name=jars&enabled=true")
            .await
            .json()["projects"],
        json!([expected])
    );
    let path = format!("/v3/projects/{id}");
    assert_eq!(
        bench.put(&admin, &format!("{path}/tags/red")).await.status,
        201
    );
    assert_eq!(
        bench.get(&admin, &format!("{path}/tags")).await.json()["tags"],
        json!(["blue", "red"])
    );
    assert_eq!(
        bench
            .delete(&admin, &format!("{path}/tags/blue"))
            .await
            .status,
        204
    );
    assert_eq!(
        bench.get(&admin, &format!("{path}/tags/blue")).await.status,
        404
    );
    assert_eq!(
        bench.get(&admin, "/v3/projects?tags=red").await.json()["projects"][0]["id"],
        id
    );
    let changed = bench
        .patch(&admin, &path, &json!({"project": {"description": "e"}}))
        .await
        .json();
    assert_eq!(
        (
            &changed["project"]["description"],
            &changed["project"]["cost_centre"]
        ),
        (&json!("e"), &json!(7))
    );
    assert_eq!(bench.delete(&admin, &path).await.status, 204);
    assert_eq!(bench.get(&admin, &path).await.status, 404);
}

#[tokio::test]
async fn roles_are_granted_listed_and_taken_back() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let (user, project) = bench.person("kim", "pw", "member").await;
    let (member, reader) = (
        bench.role_id(&admin, "member").await,
        bench.role_id(&admin, "reader").await,
    );
    let base = format!("/v3/projects/{project}/users/{user}/roles");
    assert_eq!(
        bench.get(&admin, &base).await.json()["roles"][0]["name"],
        "member"
    );
    let head = bench
        .send(
            Method::HEAD,
            &format!("{base}/{member}"),
            &[("x-auth-token", &admin)],
            "",
        )
        .await;
    assert_eq!(head.status, 204);
    let not_granted = bench.get(&admin, &format!("{base}/{reader}")).await;
    assert_eq!(not_granted.status, 404);
    assert!(
        not_granted
            .message()
            .starts_with("Could not find role assignment with role: ")
    );
    assert_eq!(
        bench
            .delete(&admin, &format!("{base}/{member}"))
            .await
            .status,
        204
    );
    assert_eq!(
        bench
            .delete(&admin, &format!("{base}/{member}"))
            .await
            .status,
        404
    );
    for path in [
        format!("/v3/projects/nowhere/users/{user}/roles/{member}"),
        format!("/v3/projects/{project}/users/nobody/roles/{member}"),
        format!("{base}/nothing"),
    ] {
        assert_eq!(bench.put(&admin, &path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn assignments_are_listed_by_id_or_by_name_and_with_what_they_imply() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let (user, project) = bench.person("kim", "pw", "member").await;
    let member = bench.role_id(&admin, "member").await;
    let base = format!("/v3/projects/{project}/users/{user}/roles");
    let query = format!("/v3/role_assignments?user.id={user}&scope.project.id={project}");
    let plain = bench.get(&admin, &query).await.json();
    assert_eq!(plain["role_assignments"].as_array().unwrap().len(), 1);
    assert_eq!(
        plain["role_assignments"][0],
        json!({
            "role": {"id": member}, "user": {"id": user}, "scope": {"project": {"id": project}},
            "links": {"assignment": format!("http://id.example:5000{base}/{member}")},
        })
    );
    let named = bench
        .get(&admin, &format!("{query}&effective&include_names=True"))
        .await
        .json();
    let named = named["role_assignments"].as_array().unwrap();
    let mut roles: Vec<_> = named
        .iter()
        .map(|entry| entry["role"]["name"].as_str().unwrap())
        .collect();
    roles.sort_unstable();
    assert_eq!(roles, ["member", "reader"]);
    assert_eq!(named[0]["user"]["domain"]["name"], "Default");
    assert_eq!(named[0]["scope"]["project"]["name"], "kim-project");
}

#[tokio::test]
async fn built_in_roles_stay() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let path = format!("/v3/roles/{}", bench.role_id(&admin, "admin").await);
    assert_eq!(bench.delete(&admin, &path).await.status, 403);
    assert_eq!(
        bench
            .patch(&admin, &path, &json!({"role": {"name": "boss"}}))
            .await
            .status,
        403
    );
    assert_eq!(
        bench
            .patch(&admin, &path, &json!({"role": {"description": "all"}}))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn services_and_endpoints_shape_the_catalogue() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let made = bench
        .post(
            &admin,
            "/v3/services",
            &json!({"service": {"type": "compute", "name": "nova"}}),
        )
        .await
        .json();
    let service = made["service"]["id"].as_str().unwrap();
    let endpoint = json!({"endpoint": {
        "service_id": service, "interface": "public", "region_id": "RegionTwo", "url": "http://n/v2/%(tenant_id)s",
    }});
    let made = bench.post(&admin, "/v3/endpoints", &endpoint).await;
    assert_eq!(made.status, 201, "{made:?}");
    let endpoint_id = made.json()["endpoint"]["id"].as_str().unwrap().to_owned();
    assert_eq!(bench.get(&admin, "/v3/regions/RegionTwo").await.status, 200);
    let catalog = bench.get(&admin, "/v3/auth/catalog").await.json();
    let nova = catalog["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["type"] == "compute")
        .unwrap()
        .clone();
    let url = nova["endpoints"][0]["url"].as_str().unwrap();
    assert!(
        url.starts_with("http://n/v2/") && url.len() == "http://n/v2/".len() + 32,
        "{url}"
    );
    let filter = format!("/v3/endpoints?service_id={service}&interface=public");
    assert_eq!(
        bench.get(&admin, &filter).await.json()["endpoints"][0]["id"],
        endpoint_id
    );
    assert_eq!(
        bench.delete(&admin, "/v3/regions/RegionTwo").await.status,
        409
    );
    let off = json!({"endpoint": {"enabled": false}});
    assert_eq!(
        bench
            .patch(&admin, &format!("/v3/endpoints/{endpoint_id}"), &off)
            .await
            .status,
        200
    );
    let catalog = bench.get(&admin, "/v3/auth/catalog").await.text;
    assert!(!catalog.contains("http://n/"), "{catalog}");
    assert_eq!(
        bench
            .delete(&admin, &format!("/v3/services/{service}"))
            .await
            .status,
        204
    );
    assert_eq!(
        bench
            .get(&admin, &format!("/v3/endpoints/{endpoint_id}"))
            .await
            .status,
        404
    );
    assert_eq!(
        bench.delete(&admin, "/v3/regions/RegionTwo").await.status,
        204
    );
}

#[tokio::test]
async fn of_many_who_take_a_name_at_once_one_gets_it() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let body = json!({"project": {"name": "wanted"}});
    let all = (0..16).map(|_| bench.post(&admin, "/v3/projects", &body));
    let mut made = 0;
    for got in futures_all(all).await {
        assert!(got.status == 201 || got.status == 409, "{got:?}");
        made += usize::from(got.status == 201);
    }
    assert_eq!(made, 1);
}

/// Runs futures at the same time, on this task.
async fn futures_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_done = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(ready) => *output = Some(ready),
                    std::task::Poll::Pending => is_done = false,
                }
            }
        }
        if is_done {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

/// Sends bodies that are refused, each with what the message names.
async fn refused(bench: &Bench, path: &str, cases: &[(Value, &str)]) {
    let admin = bench.admin().await;
    for (body, part) in cases {
        let got = bench.post(&admin, path, body).await;
        assert_eq!(got.status, 400, "{body:.80} {got:?}");
        assert!(got.message().contains(part), "{body:.80} {}", got.message());
    }
}

#[tokio::test]
async fn malformed_users_are_400_and_the_message_names_the_field() {
    let user = |fields: Value| json!({ "user": fields });
    let cases = [
        (json!({}), "user"),
        (user(json!([])), "user"),
        (user(json!({})), "name"),
        (user(json!({"name": ""})), "name"),
        (user(json!({"name": 7})), "name"),
        (user(json!({"name": "x".repeat(300)})), "name"),
        (user(json!({"name": "a\u{0}b"})), "name"),
        (user(json!({"name": "a\r\nb"})), "name"),
        (user(json!({"name": "x", "enabled": "yes"})), "enabled"),
        (
            user(json!({"name": "x", "password": "y".repeat(5_000)})),
            "password",
        ),
    ];
    let bench = Bench::new();
    refused(&bench, "/v3/users", &cases).await;
    let admin = bench.admin().await;
    let elsewhere = user(json!({"name": "x", "domain_id": "elsewhere"}));
    assert_eq!(
        bench.post(&admin, "/v3/users", &elsewhere).await.status,
        404
    );
}

#[tokio::test]
async fn other_malformed_bodies_are_400_and_the_message_names_the_field() {
    let bench = Bench::new();
    let project = |fields: Value| json!({ "project": fields });
    let cases = [
        (project(json!({"name": "p".repeat(65)})), "name"),
        (project(json!({"name": "p", "is_domain": true})), "domain"),
        (project(json!({"name": "p", "tags": ["a,b"]})), "tag"),
        (
            project(json!({"name": "p", "x": "y".repeat(40_000)})),
            "attributes",
        ),
    ];
    refused(&bench, "/v3/projects", &cases).await;
    let endpoint = json!({"endpoint": {"url": "http://x"}});
    refused(&bench, "/v3/endpoints", &[(endpoint, "service_id")]).await;
    let no_password = json!({"auth": {"identity": {"methods": ["password"]}}});
    let cases = [(json!({"auth": {}}), "identity"), (no_password, "password")];
    refused(&bench, "/v3/auth/tokens", &cases).await;
}

#[tokio::test]
async fn doubtful_paths_are_refused() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    for (path, status) in [
        ("/v3/users/%ff", 400),
        ("/v3/users/..%2f..%2fetc", 404),
        ("/v3/a/b/c/d/e/f/g/h/i/j/k/l/m/n", 404),
        ("/v3/users?name=%00", 400),
        ("/v3/groups", 404),
    ] {
        let got = bench.get(&admin, path).await;
        assert_eq!(got.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn a_domain_keeps_its_names_to_itself_and_goes_with_all_that_is_in_it() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let made = bench
        .post(&admin, "/v3/domains", &json!({"domain": {"name": "other"}}))
        .await;
    assert_eq!(made.status, 201);
    let domain = made.json()["domain"]["id"].as_str().unwrap().to_owned();
    let again = json!({"domain": {"name": "other"}});
    assert_eq!(bench.post(&admin, "/v3/domains", &again).await.status, 409);
    // A user and a project of names that the default domain has, too.
    let user = json!({"user": {"name": "demo", "domain_id": domain, "password": "pw"}});
    let user = bench.post(&admin, "/v3/users", &user).await.json();
    let project = json!({"project": {"name": "demo", "domain_id": domain}});
    let project = bench.post(&admin, "/v3/projects", &project).await.json();
    let (user, project) = (&user["user"]["id"], &project["project"]["id"]);
    let (user, project) = (user.as_str().unwrap(), project.as_str().unwrap());
    let role = bench.role_id(&admin, "member").await;
    let grant = format!("/v3/projects/{project}/users/{user}/roles/{role}");
    assert_eq!(bench.put(&admin, &grant).await.status, 204);
    let login = json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": "demo", "domain": {"name": "other"}, "password": "pw",
        }}},
        "scope": {"project": {"name": "demo", "domain": {"name": "other"}}},
    }});
    let got = bench.post("", "/v3/auth/tokens", &login).await;
    assert_eq!(got.status, 201);
    assert_eq!(got.json()["token"]["project"]["id"], project);
    assert_eq!(got.json()["token"]["user"]["domain"]["name"], "other");
    let token = got.header("x-subject-token").to_owned();
    assert!(bench.serves(&token).await);
    // Only what is disabled can be deleted, and the default domain is neither.
    let path = format!("/v3/domains/{domain}");
    assert_eq!(bench.delete(&admin, &path).await.status, 403);
    let off = json!({"domain": {"enabled": false}});
    let default = "/v3/domains/default";
    assert_eq!(bench.patch(&admin, default, &off).await.status, 403);
    assert_eq!(bench.delete(&admin, default).await.status, 403);
    assert_eq!(bench.patch(&admin, &path, &off).await.status, 200);
    assert!(!bench.serves(&token).await);
    let refused = bench.post("", "/v3/auth/tokens", &login).await;
    assert_eq!(refused.status, 401);
    let demo = bench.demo().await;
    assert!(bench.serves(&demo).await, "the default domain's demo");
    for (method, at) in [("POST", "/v3/domains"), ("DELETE", path.as_str())] {
        let got = if method == "POST" {
            bench.post(&demo, at, &again).await
        } else {
            bench.delete(&demo, at).await
        };
        assert_eq!(got.status, 403, "{method}");
    }
    assert_eq!(bench.delete(&admin, &path).await.status, 204);
    for gone in [
        path,
        format!("/v3/users/{user}"),
        format!("/v3/projects/{project}"),
    ] {
        assert_eq!(bench.get(&admin, &gone).await.status, 404, "{gone}");
    }
    assert_eq!(bench.post(&admin, "/v3/domains", &again).await.status, 201);
}
