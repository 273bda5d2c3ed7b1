//! Tests of the server module.

use super::*;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use onggi_block_manager::{Backend as PoolBackend, Options};
use onggi_block_pool::FilePool;
use onggi_block_pool::file::FileOptions;
use onggi_block_volume::QuotaLimits;
use onggi_common_host::{Clock, SystemClock, SystemEntropy};
use onggi_common_identity::KeyRing;
use onggi_common_identity::keys::Purpose;
use onggi_common_identity::revocation::Revocations;
use onggi_common_identity::token::{self, AuditId, Claims, Methods, Scope as TokenScope};
use onggi_common_meta::control::Embedded;
use onggi_common_service::http::empty;
use onggi_common_units::{ByteCount, UtcTime};
use serde_json::{Value, json};

const PROJECT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const NOWHERE: &str = "ffffffff-ffff-4fff-bfff-ffffffffffff";

/// The API over a real manager with a pool of files, and no target.
struct World {
    api: Api,
    manager: Arc<Manager>,
    ring: KeyRing,
    directory: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    fn message(&self) -> String {
        Fault::message_of(&self.json()).unwrap_or("").to_owned()
    }
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let pool = FilePool::open(FileOptions {
            name: "files".to_owned(),
            directory: directory.path().join("pool"),
            reserve: ByteCount::ZERO,
        });
        let options = Options {
            store: Arc::new(Embedded::in_memory(Arc::clone(&clock))),
            backends: vec![PoolBackend {
                name: "file".to_owned(),
                pool: Arc::new(pool.unwrap()),
            }],
            target_socket: directory.path().join("no-target.sock"),
            advertised: vec!["127.0.0.1:3260".parse().unwrap()],
            key_file: directory.path().join("seal.key"),
            host: "here".to_owned(),
            availability_zone: "nova".to_owned(),
            limits: QuotaLimits {
                volumes: Some(4),
                gigabytes: Some(100),
                per_volume_gigabytes: Some(50),
            },
            over_subscription_percent: 2_000,
            workers: 1,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            fail_point: None,
        };
        let manager = Arc::new(Manager::start(options).unwrap());
        let ring = KeyRing::generate(entropy.as_ref());
        let revocations = Arc::new(Revocations::own("test".to_owned(), Vec::new()));
        let verifier = Arc::new(Verifier::with_revocations(&ring, clock, revocations));
        let api = Api::new(Arc::clone(&manager), verifier, entropy);
        Self {
            api,
            manager,
            ring,
            directory,
        }
    }

    fn token(&self, project: &str, roles: &[&str]) -> String {
        let claims = Claims {
            user_id: "u".repeat(32),
            user_name: "demo".to_owned(),
            user_domain_id: "default".to_owned(),
            scope: TokenScope::Project {
                id: project.to_owned(),
                name: "jars".to_owned(),
                domain_id: "default".to_owned(),
            },
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            methods: Methods::PASSWORD,
            issued_at: UtcTime::EPOCH,
            expires_at: UtcTime::from_seconds(9_000_000_000),
            audit_id: AuditId::from_random([0; 16]),
            parent_audit_id: None,
        };
        token::sign(&claims, &self.ring.derive(Purpose::Tokens)).unwrap()
    }

    fn member(&self) -> String {
        self.token(PROJECT, &["member", "reader"])
    }

    fn admin(&self) -> String {
        self.token(OTHER, &["admin", "manager", "member", "reader"])
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Reply {
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1:8776");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(empty, |bytes| full(bytes.to_vec()));
        let response = self.api.handle(request.body(body).unwrap()).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            text,
        }
    }

    /// A call as a member at the newest microversion.
    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        self.call_as(&self.member(), method, path, body).await
    }

    async fn call_as(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        let bytes = body.map(|body| serde_json::to_vec(&body).unwrap());
        let headers = [
            ("x-auth-token", token),
            ("openstack-api-version", "volume 3.71"),
        ];
        self.send(method, &format!("/v3/{path}"), &headers, bytes.as_deref())
            .await
    }

    /// Makes a volume and waits until it is there.
    async fn volume(&self, name: &str) -> String {
        let body = json!({"volume": {"size": 1, "name": name}});
        let reply = self.call("POST", "volumes", Some(body)).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        self.settle().await;
        reply.json()["volume"]["id"].as_str().unwrap().to_owned()
    }

    async fn settle(&self) {
        let manager = Arc::clone(&self.manager);
        tokio::task::spawn_blocking(move || manager.wait_idle())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn versions_are_told_to_anybody() {
    let world = World::new();
    let root = world.send("GET", "/", &[], None).await;
    assert_eq!(
        (root.status, root.json()["versions"][0]["version"].as_str()),
        (300, Some("3.71"))
    );
    let v3 = world.send("GET", "/v3/", &[], None).await;
    assert_eq!((v3.status, v3.json()), (200, root.json()));
    let short = world.send("GET", "/v3", &[], None).await;
    assert_eq!(
        (short.status, short.headers["location"].to_str().unwrap()),
        (302, "http://127.0.0.1:8776/v3/")
    );
}

#[tokio::test]
async fn without_a_valid_token_nothing_is_told() {
    let world = World::new();
    let forged = KeyRing::generate(&SystemEntropy);
    let other = World {
        ring: forged,
        ..World::new()
    };
    for headers in [
        vec![],
        vec![("x-auth-token", "gibberish")],
        vec![("x-auth-token", "")],
    ] {
        let reply = world.send("GET", "/v3/volumes", &headers, None).await;
        assert_eq!(reply.status, 401, "{headers:?}");
        assert!(reply.headers.contains_key("www-authenticate"));
    }
    let token = other.member();
    let reply = world
        .send("GET", "/v3/volumes", &[("x-auth-token", &token)], None)
        .await;
    assert_eq!(reply.status, 401);
}

#[tokio::test]
async fn identity_headers_of_a_client_count_for_nothing() {
    let world = World::new();
    let token = world.token(PROJECT, &["reader"]);
    let headers = [
        ("x-auth-token", token.as_str()),
        ("x-roles", "admin"),
        ("x-is-admin-project", "True"),
    ];
    assert_eq!(
        world
            .send("GET", "/v3/os-services", &headers, None)
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn a_volume_is_made_shown_changed_and_deleted() {
    let world = World::new();
    let id = world.volume("jar").await;
    let shown = world
        .call("GET", &format!("volumes/{id}"), None)
        .await
        .json();
    let volume = &shown["volume"];
    assert_eq!(
        (volume["status"].as_str(), volume["name"].as_str()),
        (Some("available"), Some("jar"))
    );
    assert_eq!(volume["os-vol-tenant-attr:tenant_id"], PROJECT);
    assert_eq!(volume.get("os-vol-host-attr:host"), None);
    assert_eq!(volume["volume_type"], "__DEFAULT__");
    let listed = world.call("GET", "volumes/detail", None).await.json();
    assert_eq!(listed["volumes"][0], *volume);
    let body = json!({"volume": {"name": "pot", "metadata": {"a": "b"}}});
    let changed = world
        .call("PUT", &format!("volumes/{id}"), Some(body))
        .await;
    assert_eq!(
        (changed.status, changed.json()["volume"]["name"].as_str()),
        (200, Some("pot"))
    );
    let deleted = world.call("DELETE", &format!("volumes/{id}"), None).await;
    assert_eq!((deleted.status, deleted.text.as_str()), (202, ""));
    world.settle().await;
    let gone = world.call("GET", &format!("volumes/{id}"), None).await;
    assert_eq!(
        (gone.status, gone.message()),
        (404, format!("Volume {id} could not be found."))
    );
}

#[tokio::test]
async fn both_path_forms_work_and_another_projects_path_does_not() {
    let world = World::new();
    let id = world.volume("jar").await;
    let own = world
        .call("GET", &format!("{PROJECT}/volumes/{id}"), None)
        .await;
    assert_eq!(own.status, 200);
    let link = own.json()["volume"]["links"][0]["href"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        link,
        format!("http://127.0.0.1:8776/v3/{PROJECT}/volumes/{id}")
    );
    let other = world
        .call("GET", &format!("{OTHER}/volumes/{id}"), None)
        .await;
    assert_eq!(
        (other.status, other.message().as_str()),
        (400, "Malformed request url")
    );
}

#[tokio::test]
async fn another_projects_volume_looks_like_none() {
    let world = World::new();
    let id = world.volume("jar").await;
    let stranger = world.token(OTHER, &["member", "reader"]);
    for (method, path, body) in [
        ("GET", format!("volumes/{id}"), None),
        ("DELETE", format!("volumes/{id}"), None),
        (
            "PUT",
            format!("volumes/{id}"),
            Some(json!({"volume": {"name": "mine"}})),
        ),
        ("GET", format!("volumes/{id}/metadata"), None),
        (
            "POST",
            format!("volumes/{id}/metadata"),
            Some(json!({"metadata": {"a": "b"}})),
        ),
        (
            "POST",
            format!("volumes/{id}/action"),
            Some(json!({"os-extend": {"new_size": 2}})),
        ),
        (
            "POST",
            format!("volumes/{id}/action"),
            Some(json!({"os-retype": {}})),
        ),
        (
            "POST",
            "attachments".to_owned(),
            Some(json!({"attachment": {"volume_uuid": id}})),
        ),
    ] {
        let reply = world.call_as(&stranger, method, &path, body.clone()).await;
        assert_eq!(
            (reply.status, reply.message()),
            (404, format!("Volume {id} could not be found.")),
            "{method} {path}"
        );
        let nothing = world
            .call_as(&stranger, method, &path.replace(&id, NOWHERE), body)
            .await;
        assert_eq!(nothing.status, 404, "{method} {path}");
    }
    let theirs = world
        .call_as(&stranger, "GET", "volumes/detail?all_tenants=1", None)
        .await;
    assert_eq!(theirs.json()["volumes"], json!([]));
    let all = world
        .call_as(&world.admin(), "GET", "volumes/detail?all_tenants=1", None)
        .await;
    assert_eq!(
        all.json()["volumes"][0]["os-vol-host-attr:host"],
        "here@file#files"
    );
}

#[tokio::test]
async fn a_reader_looks_and_changes_nothing() {
    let world = World::new();
    let id = world.volume("jar").await;
    let reader = world.token(PROJECT, &["reader"]);
    assert_eq!(
        world.call_as(&reader, "GET", "volumes", None).await.status,
        200
    );
    let body = json!({"volume": {"size": 1}});
    assert_eq!(
        world
            .call_as(&reader, "POST", "volumes", Some(body))
            .await
            .status,
        403
    );
    assert_eq!(
        world
            .call_as(&reader, "DELETE", &format!("volumes/{id}"), None)
            .await
            .status,
        403
    );
    let nobody = world.token(PROJECT, &[]);
    assert_eq!(
        world.call_as(&nobody, "GET", "volumes", None).await.status,
        403
    );
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_the_version() {
    let world = World::new();
    for (path, status) in [
        ("volumes", 200),
        ("volumes/x", 404),
        ("nowhere", 404),
        ("volumes?limit=x", 400),
    ] {
        let reply = world.call("GET", path, None).await;
        assert_eq!(reply.status, status, "{path}");
        let id = reply.headers["x-openstack-request-id"].to_str().unwrap();
        assert!(
            id.starts_with("req-") && reply.headers["x-compute-request-id"] == id,
            "{path}"
        );
        assert_eq!(reply.headers["openstack-api-version"], "volume 3.71");
        assert_eq!(reply.headers["vary"], "OpenStack-API-Version");
    }
}

#[tokio::test]
async fn microversions_out_of_range_are_not_acceptable() {
    let world = World::new();
    let token = world.member();
    for (asked, status) in [
        ("volume 3.99", 406),
        ("volume 2.0", 406),
        ("volume x", 400),
        ("volume latest", 200),
    ] {
        let headers = [
            ("x-auth-token", token.as_str()),
            ("openstack-api-version", asked),
        ];
        assert_eq!(
            world
                .send("GET", "/v3/volumes", &headers, None)
                .await
                .status,
            status,
            "{asked}"
        );
    }
    let headers = [
        ("x-auth-token", token.as_str()),
        ("openstack-api-version", "volume 3.26"),
    ];
    assert_eq!(
        world
            .send("GET", "/v3/attachments", &headers, None)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn paths_and_methods_that_lead_nowhere_say_so() {
    let world = World::new();
    let nowhere = world.call("GET", "nowhere", None).await;
    assert_eq!(nowhere.status, 404);
    assert!(nowhere.text.contains("<html>"));
    let method = world.call("DELETE", "volumes", None).await;
    assert_eq!(
        (method.status, method.headers["allow"].to_str().unwrap()),
        (405, "GET, POST")
    );
}

#[tokio::test]
async fn sizes_and_names_that_cannot_be_are_refused() {
    let world = World::new();
    for (volume, part) in [
        (json!({"size": 0}), "0 is less than the minimum of 1"),
        (json!({"size": -1}), "-1 is less than the minimum of 1"),
        (
            json!({"size": 1_000_000_000_000_000_000u64}),
            "greater than the maximum of 2147483647",
        ),
        (json!({"size": "x"}), "'x' does not match '^[0-9]+$'"),
        (json!({"size": null}), "Invalid volume size provided"),
        (
            json!({"size": 1, "name": "n".repeat(256)}),
            "name has 256 characters, more than 255.",
        ),
        (json!({"size": 1, "volume_type": "gold"}), ""),
        (
            json!({"size": 1, "availability_zone": "moon"}),
            "Availability zone 'moon' is invalid.",
        ),
        (
            json!({"size": 1, "metadata": {"k": 1}}),
            "is not of type 'string'",
        ),
        (
            json!({"size": 1, "colour": "red"}),
            "('colour' was unexpected)",
        ),
    ] {
        let reply = world
            .call("POST", "volumes", Some(json!({"volume": volume})))
            .await;
        let expected = if volume.get("volume_type").is_some() {
            404
        } else {
            400
        };
        assert_eq!(reply.status, expected, "{volume}: {reply:?}");
        assert!(
            reply.message().contains(part),
            "{volume}: {}",
            reply.message()
        );
    }
    assert_eq!(
        world.call("GET", "volumes", None).await.json()["volumes"],
        json!([])
    );
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_refused() {
    let world = World::new();
    let token = world.member();
    let bomb = "[".repeat(100_000);
    let deep = format!("{}1{}", "{\"a\":".repeat(1_000), "}".repeat(1_000));
    let long = format!(
        "{{\"volume\": {{\"size\": 1, \"name\": \"{}\"}}}}",
        "x".repeat(200_000)
    );
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("null", 400),
        ("[]", 400),
        ("{\"volume\": {\"size\": NaN}}", 400),
        ("{\"volume\": {\"size\": 1, \"size\": 2}}", 400),
        (bomb.as_str(), 400),
        (deep.as_str(), 400),
        (long.as_str(), 413),
    ] {
        let headers = [
            ("x-auth-token", token.as_str()),
            ("content-type", "application/json"),
        ];
        let reply = world
            .send("POST", "/v3/volumes", &headers, Some(body.as_bytes()))
            .await;
        assert_eq!(reply.status, status, "{body:.60}: {reply:?}");
    }
    let xml = [
        ("x-auth-token", token.as_str()),
        ("content-type", "application/xml"),
    ];
    assert_eq!(
        world
            .send("POST", "/v3/volumes", &xml, Some(b"<volume/>"))
            .await
            .status,
        415
    );
}

#[tokio::test]
async fn a_quota_is_kept_and_shown() {
    let world = World::new();
    for name in ["a", "b", "c", "d"] {
        world.volume(name).await;
    }
    let over = world
        .call("POST", "volumes", Some(json!({"volume": {"size": 1}})))
        .await;
    assert_eq!(
        (over.status, over.headers["retry-after"].to_str().unwrap()),
        (413, "0")
    );
    assert!(
        over.message().starts_with("VolumeLimitExceeded"),
        "{}",
        over.message()
    );
    let limits = world.call("GET", "limits", None).await.json();
    assert_eq!(limits["limits"]["absolute"]["totalVolumesUsed"], 4);
    let set = world
        .call("GET", &format!("os-quota-sets/{PROJECT}?usage=True"), None)
        .await
        .json();
    assert_eq!(
        set["quota_set"]["gigabytes"],
        json!({"limit": 100, "in_use": 4, "reserved": 0})
    );
    assert_eq!(
        world
            .call("GET", &format!("os-quota-sets/{OTHER}"), None)
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn a_size_past_every_limit_is_refused_at_once() {
    let world = World::new();
    let large = world
        .call("POST", "volumes", Some(json!({"volume": {"size": 51}})))
        .await;
    assert_eq!(large.status, 413);
    assert!(
        large.message().contains("VolumeSizeExceedsLimit"),
        "{}",
        large.message()
    );
}

#[tokio::test]
async fn listings_page_sort_and_filter() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.volume(name).await;
    }
    let names = |reply: &Reply| -> Vec<String> {
        let volumes = reply.json()["volumes"].as_array().unwrap().clone();
        volumes
            .iter()
            .map(|volume| volume["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&world.call("GET", "volumes?sort=name:asc", None).await),
        ["a", "b", "c"]
    );
    assert_eq!(
        names(&world.call("GET", "volumes", None).await),
        ["c", "b", "a"]
    );
    let first = world
        .call("GET", "volumes?sort=name:asc&limit=2&with_count=True", None)
        .await;
    assert_eq!(
        (names(&first), first.json()["count"].as_u64()),
        (vec!["a".to_owned(), "b".to_owned()], Some(3))
    );
    let next = first.json()["volumes_links"][0]["href"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = next
        .strip_prefix("http://127.0.0.1:8776/v3/")
        .unwrap()
        .to_owned();
    assert_eq!(names(&world.call("GET", &path, None).await), ["c"]);
    assert_eq!(
        names(&world.call("GET", "volumes?name=b", None).await),
        ["b"]
    );
    assert_eq!(
        names(
            &world
                .call("GET", "volumes?limit=99999999999999999999", None)
                .await
        )
        .len(),
        3
    );
    for (query, status) in [
        (format!("marker={NOWHERE}"), 404),
        ("limit=-1".to_owned(), 400),
        ("sort=colour".to_owned(), 400),
        ("colour=red".to_owned(), 400),
        ("all_tenants=perhaps".to_owned(), 400),
    ] {
        assert_eq!(
            world
                .call("GET", &format!("volumes?{query}"), None)
                .await
                .status,
            status,
            "{query}"
        );
    }
}

#[tokio::test]
async fn metadata_is_merged_replaced_and_removed() {
    let world = World::new();
    let id = world.volume("jar").await;
    let path = format!("volumes/{id}/metadata");
    let merged = world
        .call(
            "POST",
            &path,
            Some(json!({"metadata": {"a": "1", "b": "2"}})),
        )
        .await;
    assert_eq!(
        (merged.status, merged.json()),
        (200, json!({"metadata": {"a": "1", "b": "2"}}))
    );
    let item = world
        .call(
            "PUT",
            &format!("{path}/a"),
            Some(json!({"meta": {"a": "3"}})),
        )
        .await;
    assert_eq!(item.json(), json!({"meta": {"a": "3"}}));
    assert_eq!(
        world.call("GET", &format!("{path}/a"), None).await.json(),
        json!({"meta": {"a": "3"}})
    );
    assert_eq!(
        world
            .call("DELETE", &format!("{path}/a"), None)
            .await
            .status,
        200
    );
    assert_eq!(
        world
            .call("DELETE", &format!("{path}/a"), None)
            .await
            .status,
        404
    );
    let mismatch = world
        .call(
            "PUT",
            &format!("{path}/a"),
            Some(json!({"meta": {"c": "3"}})),
        )
        .await;
    assert_eq!(mismatch.status, 400);
    let replaced = world
        .call("PUT", &path, Some(json!({"metadata": {"c": "4"}})))
        .await;
    assert_eq!(replaced.json(), json!({"metadata": {"c": "4"}}));
    for start in [0, 100] {
        let many: serde_json::Map<String, Value> = (start..start + 100)
            .map(|n| (format!("k{n}"), json!("v")))
            .collect();
        let reply = world
            .call("POST", &path, Some(json!({"metadata": many})))
            .await;
        assert_eq!(
            reply.status,
            if start == 0 { 200 } else { 400 },
            "{}",
            reply.message()
        );
    }
}

#[tokio::test]
async fn an_attachment_is_reserved_shown_and_released() {
    let world = World::new();
    let id = world.volume("jar").await;
    let body = json!({"attachment": {"volume_uuid": id, "mode": "rw"}});
    let made = world.call("POST", "attachments", Some(body.clone())).await;
    assert_eq!(made.status, 200, "{made:?}");
    let attachment = made.json()["attachment"].clone();
    assert_eq!(
        (
            attachment["status"].as_str(),
            &attachment["connection_info"]
        ),
        (Some("reserved"), &json!({}))
    );
    let again = world.call("POST", "attachments", Some(body)).await;
    assert_eq!(again.status, 400, "{again:?}");
    let deletion = world.call("DELETE", &format!("volumes/{id}"), None).await;
    assert_eq!(deletion.status, 400);
    assert!(
        deletion
            .message()
            .starts_with("Invalid volume: Volume status must be available or error")
    );
    let path = format!("attachments/{}", attachment["id"].as_str().unwrap());
    assert_eq!(world.call("GET", &path, None).await.status, 200);
    let listed = world
        .call("GET", &format!("attachments?volume_id={id}"), None)
        .await
        .json();
    assert_eq!(listed["attachments"].as_array().unwrap().len(), 1);
    // No target runs here, so nobody can be let in, and everything stays as it was.
    let connector =
        json!({"attachment": {"connector": {"host": "h", "initiator": "iqn.2026-11.io.onggi:h"}}});
    assert_eq!(world.call("PUT", &path, Some(connector)).await.status, 503);
    assert_eq!(
        world
            .call(
                "PUT",
                &path,
                Some(json!({"attachment": {"connector": {"host": "h"}}}))
            )
            .await
            .status,
        400
    );
    let released = world.call("DELETE", &path, None).await;
    assert_eq!(
        (released.status, released.json()),
        (200, json!({"attachments": []}))
    );
    assert_eq!(world.call("GET", &path, None).await.status, 404);
    assert_eq!(
        world
            .call("GET", &format!("volumes/{id}"), None)
            .await
            .json()["volume"]["status"],
        "available"
    );
}

#[tokio::test]
async fn a_volume_grows_and_does_not_shrink() {
    let world = World::new();
    let id = world.volume("jar").await;
    let path = format!("volumes/{id}/action");
    let grown = world
        .call("POST", &path, Some(json!({"os-extend": {"new_size": 2}})))
        .await;
    assert_eq!(grown.status, 202, "{grown:?}");
    world.settle().await;
    let volume = world
        .call("GET", &format!("volumes/{id}"), None)
        .await
        .json()["volume"]
        .clone();
    assert_eq!(
        (volume["size"].as_u64(), volume["status"].as_str()),
        (Some(2), Some("available"))
    );
    let shrunk = world
        .call("POST", &path, Some(json!({"os-extend": {"new_size": 1}})))
        .await;
    assert_eq!(
        (
            shrunk.status,
            shrunk.message().contains("(current: 2, extended: 1)")
        ),
        (400, true)
    );
}

#[tokio::test]
async fn what_is_not_built_says_so_and_what_is_empty_is_empty() {
    let world = World::new();
    let id = world.volume("jar").await;
    for (path, key) in [
        ("snapshots/detail", "snapshots"),
        ("backups", "backups"),
        ("messages", "messages"),
        ("extensions", "extensions"),
    ] {
        let reply = world.call("GET", path, None).await;
        assert_eq!(
            (reply.status, &reply.json()[key]),
            (200, &json!([])),
            "{path}"
        );
    }
    assert_eq!(
        world
            .call("GET", &format!("snapshots/{NOWHERE}"), None)
            .await
            .status,
        404
    );
    for (path, body) in [
        (
            "snapshots".to_owned(),
            json!({"snapshot": {"volume_id": id}}),
        ),
        ("backups".to_owned(), json!({"backup": {"volume_id": id}})),
        (
            "volumes".to_owned(),
            json!({"volume": {"source_volid": id}}),
        ),
        (
            "volumes".to_owned(),
            json!({"volume": {"size": 1, "imageRef": "x"}}),
        ),
        (
            format!("volumes/{id}/action"),
            json!({"os-retype": {"new_type": "x"}}),
        ),
        (format!("volumes/{id}/action"), json!({"os-reserve": null})),
    ] {
        let reply = world.call("POST", &path, Some(body)).await;
        assert_eq!(reply.status, 501, "{path}: {reply:?}");
        assert!(
            reply.message().starts_with("This service cannot"),
            "{}",
            reply.message()
        );
    }
    let missing = json!({"volume": {"size": 1, "snapshot_id": NOWHERE}});
    assert_eq!(
        world.call("POST", "volumes", Some(missing)).await.status,
        404
    );
}

#[tokio::test]
async fn the_catalogue_is_served() {
    let world = World::new();
    let types = world.call("GET", "types", None).await.json();
    assert_eq!(types["volume_types"][0]["name"], "__DEFAULT__");
    let id = types["volume_types"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        world.call("GET", &format!("types/{id}"), None).await.json()["volume_type"]["id"],
        id.as_str()
    );
    assert_eq!(
        world.call("GET", "types/default", None).await.json()["volume_type"]["id"],
        id.as_str()
    );
    assert_eq!(world.call("GET", "types/gold", None).await.status, 404);
    let zones = world.call("GET", "os-availability-zone", None).await.json();
    assert_eq!(zones["availabilityZoneInfo"][0]["zoneName"], "nova");
    assert_eq!(world.call("GET", "os-services", None).await.status, 403);
    let admin = world.admin();
    let services = world
        .call_as(&admin, "GET", "os-services", None)
        .await
        .json();
    assert_eq!(services["services"][1]["host"], "here@file");
    assert_eq!(services["services"][1]["state"], "down", "no target runs");
    let pools = world
        .call_as(&admin, "GET", "scheduler-stats/get_pools?detail=true", None)
        .await
        .json();
    assert_eq!(pools["pools"][0]["name"], "here@file#files");
    let filters = world
        .call("GET", "resource_filters?resource=pool", None)
        .await
        .json();
    assert_eq!(
        filters["resource_filters"][0]["filters"],
        json!(["name", "volume_type"])
    );
    let summary = world.call("GET", "volumes/summary", None).await.json();
    assert_eq!(summary["volume-summary"]["total_count"], 0);
}

#[tokio::test]
async fn what_went_wrong_with_a_volume_is_told_as_a_message() {
    let world = World::new();
    let id = world.volume("jar").await;
    let bytes = world.directory.path().join(format!("pool/volume-{id}"));
    std::fs::remove_file(bytes).unwrap();
    let path = format!("volumes/{id}/action");
    let grow = json!({"os-extend": {"new_size": 2}});
    assert_eq!(world.call("POST", &path, Some(grow)).await.status, 202);
    world.settle().await;
    let listed = world.call("GET", "messages", None).await.json();
    let message = &listed["messages"][0];
    assert_eq!(message["resource_uuid"], id, "{listed}");
    assert_eq!(message["event_id"], "VOLUME_VOLUME_007_001");
    let one = world.call("GET", &format!("messages/{id}"), None).await;
    assert_eq!(&one.json()["message"], message);
    let other = world
        .call("GET", "messages?resource_uuid=somebody", None)
        .await;
    assert_eq!(other.json()["messages"], json!([]));
    let missing = world
        .call("GET", &format!("messages/{NOWHERE}"), None)
        .await;
    assert_eq!(missing.status, 404);
    // Another project sees neither the list entry nor the message.
    let stranger = world.token(OTHER, &["member", "reader"]);
    let listed = world.call_as(&stranger, "GET", "messages", None).await;
    assert_eq!(listed.json()["messages"], json!([]));
    let hidden = world
        .call_as(&stranger, "GET", &format!("messages/{id}"), None)
        .await;
    assert_eq!(hidden.status, 404);
}
