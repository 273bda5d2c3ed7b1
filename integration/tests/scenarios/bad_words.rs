//! Words that must not mean more than they may: signed URLs, names with markup, manifests.

use crate::bad_input::until_closed;
use crate::connection::Connection;
use crate::curl::Curl;
use crate::needs::{need, tool};
use crate::object::{LOGIN, system};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_integration::system::run;
use std::path::Path;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "bad_input::a_signed_url_opens_what_it_signs_and_nothing_else",
        signed_urls,
    ),
    (
        "bad_input::names_with_markup_are_escaped_wherever_they_come_back",
        markup,
    ),
    (
        "bad_input::manifests_that_are_no_json_or_lead_nowhere_are_refused",
        manifests,
    ),
];

/// What Python's own `hmac` makes of these lines.
fn signature(key: &str, lines: &[&str]) -> Result<String> {
    let program = "import hmac, sys; print(hmac.new(sys.argv[1].encode(), '\\n'.join(sys.argv[2:]).encode(), 'sha256').hexdigest())";
    let arguments = [&["-c", program, key][..], lines].concat();
    let output = run(Path::new("python3"), &arguments, &[])?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A signed URL, what is asked for with it, and what is answered.
#[derive(Clone, Copy)]
struct Case {
    key: &'static str,
    signed: &'static str,
    method: &'static str,
    path: &'static str,
    asked: &'static str,
    expires: &'static str,
    query: &'static str,
    header: &'static str,
    wanted: u16,
}

const KEY: &str = "key of the account";
const OVER: &str = "1000000000";
const USUAL: Case = Case {
    key: KEY,
    signed: "GET",
    method: "GET",
    path: "/c/o",
    asked: "/c/o",
    expires: "99999999999",
    query: "",
    header: "X-A: b",
    wanted: 200,
};

const CASES: [Case; 24] = [
    Case {
        key: KEY,
        signed: "GET",
        method: "GET",
        wanted: 200,
        ..USUAL
    },
    Case {
        key: "key of /c",
        signed: "GET",
        method: "GET",
        wanted: 200,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "HEAD",
        wanted: 200,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "PUT",
        method: "HEAD",
        wanted: 200,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "DELETE",
        method: "HEAD",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: "key of /d",
        signed: "GET",
        method: "GET",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: "",
        signed: "GET",
        method: "GET",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "GET",
        expires: OVER,
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "PUT",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "DELETE",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "POST",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "HEAD",
        method: "GET",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "PUT",
        method: "GET",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "GET",
        asked: "/c/other",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "GET",
        asked: "/d/o",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "GET",
        query: "&temp_url_prefix=o",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "GET",
        query: "&temp_url_ip_range=127.0.0.1",
        wanted: 401,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "PUT",
        method: "PUT",
        path: "/c/new",
        asked: "/c/new",
        header: "X-Object-Manifest: d/o",
        wanted: 400,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "PUT",
        method: "PUT",
        path: "/c/new",
        asked: "/c/new",
        header: "X-Symlink-Target: d/o",
        wanted: 400,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "PUT",
        method: "PUT",
        path: "/c/new",
        asked: "/c/new",
        header: "X-Copy-From: d/o",
        wanted: 400,
        ..USUAL
    },
    Case {
        key: "key of /c",
        signed: "PUT",
        method: "PUT",
        path: "/c/new",
        asked: "/c/new",
        header: "X-Copy-From: d/o",
        wanted: 400,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "PUT",
        method: "PUT",
        path: "/c/new",
        asked: "/c/new",
        query: "&multipart-manifest=put",
        wanted: 201,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "GET",
        method: "GET",
        query: "&multipart-manifest=get",
        wanted: 200,
        ..USUAL
    },
    Case {
        key: KEY,
        signed: "POST",
        method: "POST",
        query: "&bulk-delete",
        wanted: 202,
        ..USUAL
    },
];

fn signed_urls() -> Result<Outcome> {
    need!(tool("python3"));
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    for path in ["/c", "/d"] {
        curl.put(path, "")?;
        curl.put(&format!("{path}/o"), "jar")?;
        let key = format!("X-Container-Meta-Temp-URL-Key: key of {path}");
        let (status, _) = curl.call(path, &["-X", "POST", "-H", &key])?;
        ensure!(status == 204, "{status}");
    }
    let account = format!("X-Account-Meta-Temp-URL-Key: {KEY}");
    curl.call("", &["-X", "POST", "-H", &account])?;
    let anybody = Curl {
        token: String::new(),
        url: curl.url.clone(),
    };
    let (_, base) = curl.url.split_once("/v1/").context("no /v1/")?;
    for (number, case) in CASES.into_iter().enumerate() {
        let path = format!("/v1/{base}{}", case.path);
        let signature = signature(case.key, &[case.signed, case.expires, &path])?;
        let target = format!(
            "{}?temp_url_sig={signature}&temp_url_expires={}{}",
            case.asked, case.expires, case.query
        );
        let more: &[&str] = match case.method {
            "HEAD" => &["-I"],
            "PUT" => &["-d", "[]"],
            _ => &[],
        };
        let arguments = ["-X", case.method, "-o", "/dev/null", "-H", case.header];
        let (status, _) = anybody.call(&target, &[&arguments[..], more].concat())?;
        ensure!(
            status == case.wanted,
            "case {number}: {} signed, {} asked for {}{}: {status}, wanted {}",
            case.signed,
            case.method,
            case.asked,
            case.query,
            case.wanted
        );
    }
    ensure!(curl.download("/c/new")? == b"[]", "a manifest was made");
    Ok(Outcome::Passed)
}

const MARKUP: &str = "<script>alert(\"1\")</script>&'";
const MARKUP_ENCODED: &str = "%3Cscript%3Ealert(%221%22)%3C%2Fscript%3E%26'";

/// A page for a browser, XML, and what is said of names that are not there.
fn places(container: &str, object: &str) -> Vec<(String, &'static [&'static str])> {
    vec![
        (format!("{container}/"), &["-i"]),
        (format!("{container}?format=xml"), &["-i"]),
        ("?format=xml".to_owned(), &["-i"]),
        (format!("/{MARKUP_ENCODED}"), &["-i"]),
        (format!("{object}-none"), &["-i"]),
        (
            format!("/none/{MARKUP_ENCODED}"),
            &["-i", "-X", "PUT", "-d", "x"],
        ),
        (format!("{container}?limit={MARKUP_ENCODED}"), &["-i"]),
        (
            format!("{container}?delimiter=/&format=xml&prefix=%3C"),
            &["-i"],
        ),
        (
            "?bulk-delete".to_owned(),
            &[
                "-i",
                "-X",
                "POST",
                "-H",
                "Accept: application/xml",
                "-d",
                "none/<script>alert",
            ],
        ),
        (
            format!("/c?{MARKUP_ENCODED}"),
            &["-i", "-X", "PUT", "-H", "X-Storage-Policy: <script>alert"],
        ),
        (
            object.to_owned(),
            &["-i", "-X", "COPY", "-H", "Destination: <script>alert/x"],
        ),
        (object.to_owned(), &["-i", "-H", "Range: <script>alert"]),
        (
            object.to_owned(),
            &[
                "-i",
                "-X",
                "PUT",
                "-H",
                "X-Delete-At: <script>alert",
                "-d",
                "x",
            ],
        ),
    ]
}

fn markup() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    let container = format!("/{}", MARKUP_ENCODED.replace("%2F", ""));
    let object = format!("{container}/{MARKUP_ENCODED}");
    let broken = "%0d%0aSet-Cookie:%20a=b";
    let public = ["-X", "PUT", "-H", "X-Container-Read: .r:*,.rlistings"];
    let website = ["-H", "X-Container-Meta-Web-Listings: true"];
    let label = format!("X-Container-Meta-Web-Listings-Label: {MARKUP}");
    let css = format!("X-Container-Meta-Web-Listings-CSS: {MARKUP}");
    let put = [&public[..], &website[..], &["-H", &label, "-H", &css]].concat();
    let (status, said) = curl.call(&container, &put)?;
    ensure!(status == 201, "{status} {said}");
    curl.put(&object, "jar")?;
    curl.put(&format!("{container}/{broken}"), "jar")?;
    let anybody = Curl {
        token: String::new(),
        url: curl.url.clone(),
    };
    let is_raw = |body: &str| body.contains("<script>alert") || body.contains("\r\nSet-Cookie");
    for (path, arguments) in places(&container, &object) {
        for who in [&curl, &anybody] {
            let (_, answer) = who.call(&path, arguments)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
            let is_plain = head.to_lowercase().contains("content-type: text/plain");
            ensure!(is_plain || !is_raw(body), "{path}: {answer}");
            // What its owner set is shown as it is; nothing of it ends a line.
            ensure!(!head.contains("\nSet-Cookie"), "{path}: {head}");
        }
    }
    let (_, listing) = curl.call(&format!("{container}?format=json"), &[])?;
    let listing: serde_json::Value = serde_json::from_str(&listing)?;
    ensure!(
        listing[0]["name"] == "\r\nSet-Cookie: a=b" && listing[1]["name"] == MARKUP,
        "{listing}"
    );
    Ok(Outcome::Passed)
}

/// Documents that are no manifest; each is 400.
const NO_MANIFESTS: [(&str, &str); 11] = [
    ("no number", "[{\"path\":\"/c/s\",\"size_bytes\":NaN}]"),
    (
        "too large a number",
        "[{\"path\":\"/c/s\",\"size_bytes\":99999999999999999999}]",
    ),
    (
        "a number of many digits",
        "[{\"path\":\"/c/s\",\"size_bytes\":1e999}]",
    ),
    ("a negative size", "[{\"path\":\"/c/s\",\"size_bytes\":-1}]"),
    ("a key twice", "[{\"path\":\"/c/s\",\"path\":\"/c/none\"}]"),
    ("a segment that is not there", "[{\"path\":\"/c/none\"}]"),
    ("a key nobody knows", "[{\"path\":\"/c/s\",\"x\":1}]"),
    ("a path that leads out", "[{\"path\":\"/../etc/passwd\"}]"),
    ("a name of the system", "[{\"path\":\"/\\u0000c/s\"}]"),
    ("nothing but bytes", "[{\"data\":\"YWJj\"}]"),
    ("half a document", "[{\"path\":\"/c/s\""),
];

fn manifests() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    curl.put("/c/s", "jar")?;
    let segment = "{\"path\":\"/c/s\"}";
    let many = format!("[{}]", vec![segment; 1_001].join(","));
    let deep = "[".repeat(200_000);
    let deep_object = "{\"a\":".repeat(200_000);
    let mut connection = Connection::open(system.addresses.objects, &curl)?;
    let computed = [
        ("depth", deep.as_str(), 400),
        ("depth of objects", &deep_object, 400),
        ("1,001 segments", &many, 413),
    ];
    let written = NO_MANIFESTS.map(|(name, manifest)| (name, manifest, 400));
    for (name, manifest, wanted) in written.into_iter().chain(computed) {
        let path = "/c/m?multipart-manifest=put";
        let answer = connection.request("PUT", path, &[], manifest.as_bytes())?;
        ensure!(answer.status == wanted, "{name}: {answer:?}");
        let (status, _) = curl.call("/c/m", &[])?;
        ensure!(status == 404, "{name}: something was made");
    }
    let (_, base) = curl.url.split_once("/v1/").context("no /v1/")?;
    let long = format!(
        "PUT /v1/{base}/c/m?multipart-manifest=put HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {}\r\nContent-Length: {}\r\n\r\n",
        curl.token,
        (8 << 20) + 1
    );
    let answer = until_closed(&system, long.as_bytes())?;
    ensure!(
        answer.starts_with("HTTP/1.1 413 "),
        "too many bytes: {answer}"
    );
    circles(&curl)
}

/// Manifests in a circle, of both kinds, and links.
fn circles(curl: &Curl) -> Result<Outcome> {
    let put = |name: &str, header: &str, body: &str| {
        let path = format!("/c/{name}");
        curl.call(&path, &["-X", "PUT", "-H", header, "--data-binary", body])
    };
    for name in ["a", "b"] {
        curl.put(&format!("/c/{name}"), "jar")?;
    }
    for (name, other) in [("a", "b"), ("b", "a")] {
        let body = format!("[{{\"path\":\"/c/{other}\"}}]");
        put(&format!("{name}?multipart-manifest=put"), "X-A: b", &body)?;
        put(
            &format!("l{name}"),
            &format!("X-Symlink-Target: c/l{other}"),
            "",
        )?;
    }
    put("d/1", "X-Object-Manifest: c/d/", "")?;
    for (name, wanted) in [("a", 409), ("la", 409), ("d/1", 200)] {
        let (status, body) = curl.call(&format!("/c/{name}"), &[])?;
        ensure!(status == wanted && body.len() < 4_096, "{name}: {status}");
    }
    Ok(Outcome::Passed)
}
