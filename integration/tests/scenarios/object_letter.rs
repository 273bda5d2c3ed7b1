//! Answers to the letter, as Swift 2.38.3 gives them to the same requests.

use crate::connection::Connection;
use crate::curl::Curl;
use crate::object::{LOGIN, system};
use crate::{Outcome, Scenario};
use anyhow::{Result, ensure};
use onggi_integration::system::{ObjectOptions, Options, System, User};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("object::answers_are_swifts_to_the_letter", to_the_letter),
    (
        "object::an_account_tells_its_totals_by_policy",
        totals_by_policy,
    ),
];

/// A request and what is answered: the status, and words that are in the head or the body.
type Expected<'a> = (
    &'a str,
    &'a str,
    &'a [(&'a str, &'a str)],
    &'a str,
    u16,
    &'a str,
);

const JSON: (&str, &str) = ("Accept", "application/json");

/// What is sent and is too long to be written.
struct Documents {
    many: String,
    long_line: String,
    long: String,
}

impl Documents {
    fn new() -> Self {
        Self {
            many: format!("[{}]", vec!["{\"path\":\"/c/o\"}"; 1_001].join(",")),
            long_line: format!("c/{}\n", "o".repeat(4_000)),
            long: format!("/c?x={}", "y".repeat(9_000)),
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    fn cases(&self) -> Vec<Expected<'_>> {
        vec![
            ("GET", &self.long, &[], "", 414, ""),
            ("GET", "/c", &[], "", 200, "vary: Accept"),
            ("HEAD", "/c", &[], "", 204, "vary: Accept"),
            ("GET", "", &[], "", 200, "vary: Accept"),
            ("HEAD", "", &[], "", 204, "vary: Accept"),
            (
                "OPTIONS",
                "",
                &[("Origin", "http://a.example")],
                "",
                200,
                "allow: ",
            ),
            (
                "PUT",
                "/c/x",
                &[("X-Static-Large-Object", "true")],
                "x",
                400,
                "X-Static-Large-Object is a reserved header",
            ),
            (
                "PUT",
                "/c/x",
                &[("Content-Type", "text/plain;swift_bytes=5")],
                "x",
                400,
                "swift_* is not a valid parameter name",
            ),
            (
                "PUT",
                "/c/x",
                &[("X-Object-Manifest", "/c/o")],
                "",
                400,
                "container/prefix",
            ),
            (
                "PUT",
                "/c/dlo",
                &[("X-Object-Manifest", "none/x")],
                "",
                201,
                "",
            ),
            ("GET", "/c/dlo", &[], "", 404, ""),
            (
                "PUT",
                "/c/dlo",
                &[("X-Object-Manifest", "c/x")],
                "",
                201,
                "",
            ),
            ("GET", "/c/dlo", &[], "", 200, "content-length: 0"),
            (
                "PUT",
                "/c/x",
                &[("X-Symlink-Target", "/c/o")],
                "",
                412,
                "<container name>/<object name>",
            ),
            (
                "PUT",
                "/c/x?multipart-manifest=put",
                &[],
                &self.many,
                413,
                "",
            ),
            (
                "PUT",
                "/c/x?multipart-manifest=put",
                &[],
                "[{\"path\":\"c/none\"}]",
                400,
                "Errors:\nc/none, 404 Not Found\n",
            ),
            (
                "DELETE",
                "/c/o?multipart-manifest=delete",
                &[JSON],
                "",
                200,
                "[[\"/c/o\",\"Not an SLO manifest\"]]",
            ),
            (
                "DELETE",
                "/c/o?multipart-manifest=delete",
                &[JSON],
                "",
                200,
                "\"Number Deleted\":0",
            ),
            (
                "DELETE",
                "/c/o?multipart-manifest=delete",
                &[JSON],
                "",
                200,
                "\"Response Status\":\"400 Bad Request\"",
            ),
            (
                "POST",
                "?bulk-delete",
                &[],
                &self.long_line,
                200,
                "Response Status: 400 Bad Request",
            ),
            (
                "POST",
                "/c",
                &[(
                    "X-Container-Read",
                    " .ref: *.a.example , .r:-B.example,test2 ",
                )],
                "",
                204,
                "",
            ),
            (
                "HEAD",
                "/c",
                &[],
                "",
                204,
                "x-container-read: .r:.a.example,.r:-B.example,test2",
            ),
        ]
    }
}

/// What is read, copied and listed, and on what conditions.
const READS: &[Expected<'static>] = &[
    (
        "GET",
        "/c/none",
        &[("If-Match", "*")],
        "",
        412,
        "content-length: 0",
    ),
    ("GET", "/c/none", &[("If-Match", "x")], "", 404, "Not Found"),
    (
        "GET",
        "/c/o",
        &[("If-Match", "x")],
        "",
        412,
        "content-length: 0",
    ),
    (
        "PUT",
        "/c/o",
        &[("If-None-Match", "*")],
        "jar",
        412,
        "<h1>Precondition Failed</h1>",
    ),
    ("COPY", "/c/o", &[], "", 412, "Destination header required"),
    (
        "COPY",
        "/c/o",
        &[("Destination", "c/n"), ("If-None-Match", "*")],
        "",
        304,
        "",
    ),
    (
        "COPY",
        "/c/o",
        &[("Destination", "c/n"), ("If-Match", "*")],
        "",
        201,
        "x-copied-from: c/o",
    ),
    (
        "GET",
        "/c?prefix=zz&format=xml",
        &[],
        "",
        200,
        "<container name=\"c\" />",
    ),
    (
        "GET",
        "",
        &[("Accept", "text/xml")],
        "",
        200,
        "content-type: text/xml; charset=utf-8",
    ),
    (
        "GET",
        "",
        &[("Accept", "text/xml")],
        "",
        200,
        "\n<account name=\"AUTH_test\">\n<container>",
    ),
    (
        "GET",
        "/c",
        &[("Accept", "image/png")],
        "",
        406,
        "<h1>Not Acceptable</h1>",
    ),
    (
        "GET",
        "/c",
        &[("Accept", "bogus")],
        "",
        400,
        "Invalid Accept header",
    ),
    ("HEAD", "/none", &[], "", 404, "content-length: 0"),
];

/// What is written, and in what words it is refused.
const WRITES: &[Expected<'static>] = &[
    (
        "PUT",
        "/c/twice",
        &[("X-Object-Meta-A", "one"), ("x-object-meta-a", "two")],
        "",
        201,
        "",
    ),
    ("HEAD", "/c/twice", &[], "", 200, "x-object-meta-a: one,two"),
    ("PUT", "/c", &[], "", 202, "<h1>Accepted</h1>"),
    ("POST", "/c/o", &[], "", 202, "<h1>Accepted</h1>"),
    (
        "PUT",
        "/d",
        &[("X-Storage-Policy", "none")],
        "",
        400,
        "Invalid X-Storage-Policy 'none'",
    ),
    (
        "POST",
        "/c",
        &[("X-Container-Read", "a, .r:")],
        "",
        400,
        "in ACL: '.r:'",
    ),
    (
        "POST",
        "/c",
        &[("X-Container-Write", ".r:*")],
        "",
        400,
        "write ACL: '.r:*'",
    ),
    ("DELETE", "/c", &[], "", 409, "<h1>Conflict</h1>"),
    (
        "POST",
        "?bulk-delete",
        &[("Accept", "image/png")],
        "c/none",
        200,
        "406 Not Acceptable",
    ),
];

/// Manifests of nothing, and manifests that are none.
const MANIFESTS: &[Expected<'static>] = &[
    (
        "PUT",
        "/c/empty?multipart-manifest=put",
        &[],
        "[]",
        201,
        "d41d8cd98f00b204e9800998ecf8427e",
    ),
    ("GET", "/c/empty", &[], "", 200, "content-length: 0"),
    (
        "HEAD",
        "/c/empty",
        &[],
        "",
        200,
        "x-static-large-object: True",
    ),
    (
        "GET",
        "/c/empty?multipart-manifest=get",
        &[],
        "",
        200,
        "\n[]",
    ),
    ("GET", "/c/empty", &[("Range", "bytes=0-1")], "", 416, ""),
    (
        "GET",
        "/c/empty?part-number=1",
        &[],
        "",
        416,
        "part number is not satisfiable",
    ),
    (
        "PUT",
        "/c/sub?multipart-manifest=put",
        &[],
        "[{\"path\":\"/c/empty\"}]",
        201,
        "",
    ),
    ("GET", "/c/sub", &[], "", 200, "content-length: 0"),
    (
        "PUT",
        "/c/m?multipart-manifest=put",
        &[],
        "[{\"path\":\"/c/o\"}]",
        201,
        "",
    ),
    (
        "GET",
        "/c/m?part-number=1",
        &[("Range", "bytes=0-0")],
        "",
        400,
        "not supported with part number queries",
    ),
    (
        "PUT",
        "/c/m?multipart-manifest=put",
        &[],
        "{}",
        400,
        "Manifest must be a list.\n",
    ),
    (
        "PUT",
        "/c/m?multipart-manifest=put",
        &[],
        "[{\"path\":\"/c/none\"}]",
        400,
        "Errors:\n/c/none, 404 Not Found\n",
    ),
    (
        "PUT",
        "/c/m?multipart-manifest=put",
        &[],
        "[{\"path\":\"/c/o\",\"range\":\"0-1,2-3\"}]",
        400,
        "Index 0: multiple ranges (only one allowed)\n",
    ),
    (
        "PUT",
        "/c/m?multipart-manifest=put",
        &[],
        "[{\"data\":\"\"},{\"path\":\"/c/o\"}]",
        400,
        "Index 0: too small; each segment must be at least 1 byte.\n",
    ),
];

/// Versions, by what names them.
const VERSIONS: &[Expected<'static>] = &[
    ("PUT", "/v", &[("X-Versions-Enabled", "true")], "", 201, ""),
    ("PUT", "/v/o", &[], "jar", 201, "x-object-version-id: "),
    (
        "COPY",
        "/v/o",
        &[("Destination", "c/v")],
        "",
        201,
        "x-copied-from-version-id: ",
    ),
    (
        "GET",
        "/c/o?version-id=null",
        &[],
        "",
        200,
        "x-object-version-id: null",
    ),
    (
        "POST",
        "/v/o?version-id=null",
        &[],
        "",
        400,
        "POST to a specific version is not allowed",
    ),
    (
        "DELETE",
        "/v",
        &[],
        "",
        409,
        "Delete all versions before deleting container.",
    ),
];

fn to_the_letter() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    curl.put("/c/o", "jar")?;
    // curl says no length when there is no body.
    for arguments in [["-X", "POST"], ["-X", "DELETE"]] {
        let (status, said) = curl.call("?bulk-delete", &arguments)?;
        let is_told = said.contains("Response Status: 411 Length Required");
        ensure!(status == 200 && is_told, "{arguments:?}: {status} {said}");
    }
    let documents = Documents::new();
    let mut connection = Connection::open(system.addresses.objects, &curl)?;
    let tables = [READS, WRITES, MANIFESTS, VERSIONS];
    let cases = documents.cases().into_iter();
    for (method, path, headers, body, status, words) in
        cases.chain(tables.into_iter().flatten().copied())
    {
        let answer = connection.request(method, path, headers, body.as_bytes())?;
        let head = answer.headers.iter();
        let head: String = head
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect();
        let said = head + &String::from_utf8_lossy(&answer.body);
        ensure!(
            answer.status == status && said.contains(words),
            "{method} {path:.60} {headers:?}: {} {said}; wanted {status} {words}",
            answer.status
        );
    }
    Ok(Outcome::Passed)
}

fn totals_by_policy() -> Result<Outcome> {
    let system = System::start(Options {
        object: Some(ObjectOptions {
            nodes: 1,
            devices: 1,
            replicas: 1,
            port: 0,
            storage_domain: None,
            policies: &["gold", "Silver"],
        }),
        users: vec![User {
            account: "test",
            user: "tester",
            key: None,
            groups: &[".admin"],
        }],
        ..Options::default()
    })?;
    let curl = Curl::login(&system, LOGIN)?;
    for (path, policy) in [("/a", "gold"), ("/b", "silver"), ("/c", "silver")] {
        let header = format!("X-Storage-Policy: {policy}");
        let (status, said) = curl.call(path, &["-X", "PUT", "-H", &header])?;
        ensure!(status == 201, "{status} {said}");
        curl.put(&format!("{path}/o"), "jar")?;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (_, head) = curl.call("", &["-I"])?;
        let head = head.to_lowercase();
        let says = |line: &str| head.contains(&format!("x-account-storage-policy-{line}\r\n"));
        let is_told = says("gold-container-count: 1")
            && says("gold-object-count: 1")
            && says("gold-bytes-used: 3")
            && says("silver-container-count: 2")
            && says("silver-object-count: 2")
            && says("silver-bytes-used: 6");
        if is_told {
            return Ok(Outcome::Passed);
        }
        // Containers tell their account a little later.
        ensure!(Instant::now() < deadline, "{head}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
