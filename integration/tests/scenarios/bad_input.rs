//! Requests that must be refused over HTTP, and headers that must not be believed.

use crate::connection::Connection;
use crate::curl::Curl;
use crate::object::{LOGIN, system};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_integration::system::System;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "bad_input::requests_that_servers_read_differently_are_refused",
        smuggling,
    ),
    (
        "bad_input::what_clients_say_of_themselves_and_of_the_time_is_not_believed",
        forged_headers,
    ),
    (
        "bad_input::metadata_does_not_grow_beyond_its_limits_by_many_posts",
        many_posts,
    ),
];

/// How long a server may take to answer or to close; generous, for busy machines.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// What a server sends in answer to these bytes until it closes; an error when it does not close.
pub(crate) fn until_closed(system: &System, bytes: &[u8]) -> Result<String> {
    let mut socket = TcpStream::connect(system.addresses.objects)?;
    socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    socket.write_all(bytes)?;
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            // It closed before it had read all.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error).context(String::from_utf8_lossy(&answer).into_owned()),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What stands behind the first lines of a PUT, and how it is called.
const SMUGGLED: [(&str, &str); 18] = [
    (
        "a length and a coding",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding and a length",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths",
        "Content-Length: 3\r\nContent-Length: 0\r\n\r\njar",
    ),
    (
        "a length twice",
        "Content-Length: 3\r\nContent-Length: 3\r\n\r\njar",
    ),
    ("a list of lengths", "Content-Length: 3, 3\r\n\r\njar"),
    ("a signed length", "Content-Length: +3\r\n\r\njar"),
    ("a blank before the colon", "Content-Length : 3\r\n\r\njar"),
    (
        "two codings",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding behind chunks",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding of another name",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a line that goes on",
        "X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    ),
    ("bare line feeds", "Content-Length: 0\n\n"),
    (
        "a bare line feed within",
        "X-A: b\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a bare carriage return",
        "X-A: b\rc\r\nContent-Length: 0\r\n\r\n",
    ),
    ("a NUL", "X-A: b\0c\r\nContent-Length: 0\r\n\r\n"),
    (
        "a chunk of more bytes than can be",
        "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    ),
    (
        "a negative chunk",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    ),
    (
        "a chunk that is longer than it says",
        "Transfer-Encoding: chunked\r\n\r\n1\r\njar\r\n0\r\n\r\n",
    ),
];

fn smuggling() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let (_, base) = curl.url.split_once("/v1/").context("no /v1/")?;
    let put = |name: &str, rest: &str| {
        format!(
            "PUT /v1/{base}/c/{name} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {}\r\n{rest}",
            curl.token
        )
    };
    // What another server would take for the next request.
    let inner = put("inner", "Content-Length: 0\r\n\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\njar\r\n0\r\n\r\n";
    for (name, rest) in SMUGGLED {
        let bad = put("outer", rest) + &inner;
        // Alone, and behind a good request of the same connection.
        for (before, expected) in [(String::new(), 1), (put("first", chunked), 2)] {
            let answer = until_closed(&system, (before + &bad).as_bytes())
                .with_context(|| format!("{name}: the connection stays"))?;
            let answers = answer.matches("HTTP/1.1 ").count();
            let last = answer.rsplit("HTTP/1.1 ").next().unwrap_or_default();
            ensure!(
                last.starts_with('4') && answers == expected,
                "{name}: {answer}"
            );
        }
        let (status, _) = curl.call("/c/inner", &[])?;
        ensure!(status == 404, "{name}: the inner request was carried out");
    }
    oversized(&system, &curl)
}

/// Heads above every limit.
fn oversized(system: &System, curl: &Curl) -> Result<Outcome> {
    let (_, base) = curl.url.split_once("/v1/").context("no /v1/")?;
    for (name, request) in [
        (
            "a long header",
            format!("GET / HTTP/1.1\r\nX-A: {}\r\n\r\n", "a".repeat(70 << 10)),
        ),
        (
            "many headers",
            format!(
                "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
                "A: b\r\n".repeat(201)
            ),
        ),
        (
            "a long target",
            format!(
                "GET /v1/{base}/c/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                "n".repeat(9_000)
            ),
        ),
        (
            "a longer target",
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "n".repeat(70 << 10)),
        ),
        (
            "a target without an end",
            format!("GET /{}", "n".repeat(300 << 10)),
        ),
    ] {
        let answer = until_closed(system, request.as_bytes()).context(name)?;
        ensure!(answer.starts_with("HTTP/1.1 4"), "{name}: {answer:.200}");
    }
    Ok(Outcome::Passed)
}

fn forged_headers() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let stranger = Curl {
        token: String::new(),
        url: curl.url.clone(),
    };
    let claims = [
        "X-Roles: admin,ResellerAdmin",
        "X-User-Id: test:tester",
        "X-User-Name: tester",
        "X-Project-Id: test",
        "X-Tenant-Id: test",
        "X-Is-Admin-Project: True",
        "X-Identity-Status: Confirmed",
        "X-Backend-Allow-Reserved-Names: true",
        "X-Backend-Owner: true",
        "Remote-User: test:tester,.admin",
    ];
    let mut all = Vec::new();
    for claim in claims {
        let (status, _) = stranger.call("/c", &["-H", claim])?;
        ensure!(status == 401, "{claim}: {status}");
        all.extend(["-H", claim]);
    }
    let (status, _) = stranger.call("/c", &all)?;
    ensure!(status == 401, "all of them: {status}");
    let kept = [
        "X-Object-Sysmeta-Slo-Etag: forged",
        "X-Object-Transient-Sysmeta-A: forged",
        "X-Container-Sysmeta-A: forged",
        "X-Account-Sysmeta-A: forged",
        "X-Onggi-A: forged",
        "X-Backend-Storage-Policy-Index: 7",
    ];
    let mut put = vec!["-X", "PUT", "--data-binary", "jar"];
    put.extend(kept.iter().flat_map(|header| ["-H", header]));
    let (status, said) = curl.call("/c/o", &put)?;
    ensure!(status == 201, "{status} {said}");
    let (_, head) = curl.call("/c/o", &["-I"])?;
    ensure!(!head.contains("forged"), "{head}");
    // Neither of long ago nor of a time to come: each is put now.
    for stamp in ["1", "9999999999.99999", "-1", "soon"] {
        let header = format!("X-Timestamp: {stamp}");
        let put = ["-X", "PUT", "-H", &header, "--data-binary", stamp];
        let (status, said) = curl.call("/c/timed", &put)?;
        ensure!(status == 201, "{stamp}: {status} {said}");
        ensure!(curl.download("/c/timed")? == stamp.as_bytes(), "{stamp}");
        let (status, _) = curl.call("/c/timed", &["-X", "DELETE", "-H", &header])?;
        ensure!(status == 204, "{stamp}: {status}");
        let (status, _) = curl.call("/c/timed", &[])?;
        ensure!(status == 404, "{stamp}: it is still there");
    }
    Ok(Outcome::Passed)
}

fn many_posts() -> Result<Outcome> {
    const POSTS: usize = 60;
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    curl.put("/c/o", "jar")?;
    let mut connection = Connection::open(system.addresses.objects, &curl)?;
    for (path, kind) in [("", "Account"), ("/c", "Container"), ("/c/o", "Object")] {
        let mut refused = 0;
        for post in 0..POSTS {
            let names: Vec<String> = (0..9)
                .map(|n| format!("X-{kind}-Meta-P{post}-{n}"))
                .collect();
            let headers: Vec<(&str, &str)> =
                names.iter().map(|name| (name.as_str(), "v")).collect();
            let answer = connection.request("POST", path, &headers, b"")?;
            refused += usize::from(answer.status == 400);
            ensure!(
                matches!(answer.status, 202 | 204 | 400),
                "{kind}: {answer:?}"
            );
        }
        let head = connection.request("HEAD", path, &[], b"")?;
        let prefix = format!("x-{}-meta-p", kind.to_lowercase());
        let items = head
            .headers
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix));
        let items = items.count();
        // Each POST to an object replaces what was there; to the others it adds.
        let (wanted, wanted_refused) = if kind == "Object" {
            (9, 0)
        } else {
            (90, POSTS - 10)
        };
        ensure!(
            (items, refused) == (wanted, wanted_refused),
            "{kind}: {items} items, {refused} refused"
        );
    }
    Ok(Outcome::Passed)
}
