//! Objects: the stock client, our own, and nodes that are killed.

use crate::curl::Curl;
use crate::needs::{need, stock_client};
use crate::served::Served;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_integration::system::{Options, System, program, run};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "object::the_stock_swift_client_posts_uploads_lists_downloads",
        stock_client_round_trip,
    ),
    ("object::objctl_does_the_same", objctl_round_trip),
    (
        "object::listings_take_markers_prefixes_and_delimiters",
        listings,
    ),
    (
        "object::a_killed_node_is_not_noticed_and_catches_up",
        node_killed,
    ),
    (
        "object::acknowledged_objects_outlive_a_crash_of_everything",
        everything_killed,
    ),
    (
        "object::wrong_requests_get_the_status_clients_expect",
        wrong_requests,
    ),
    (
        "object::an_upload_that_breaks_off_changes_nothing",
        broken_off,
    ),
    ("object::a_storage_port_answers_nobody_else", storage_port),
    ("object::a_served_cluster_describes_itself", served_cluster),
];

/// The account's administrator in every system here.
pub(crate) const LOGIN: &str = "test:tester";

pub(crate) fn system() -> Result<System> {
    System::start(Options::objects(4, 4))
}

pub(crate) fn random_file(path: &Path, bytes: usize) -> Result<Vec<u8>> {
    let mut content = vec![0; bytes];
    SystemEntropy.fill(&mut content);
    durable::replace(path, &content, Visibility::World)?;
    Ok(content)
}

pub(crate) fn text(output: &onggi_common_host::run::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stock_client_round_trip() -> Result<Outcome> {
    let swift = need!(stock_client("swift"));
    let system = system()?;
    let environment = system.v1(LOGIN);
    let folder = tempfile::tempdir()?;
    let run = |arguments: &[&str]| run(&swift, arguments, &environment);
    run(&["post", "c1"])?;
    for (name, bytes) in [
        ("small", 10),
        ("empty", 0),
        ("large", 9 << 20),
        ("옹기 jar", 70 << 10),
    ] {
        let path = folder.path().join(name);
        let content = random_file(&path, bytes)?;
        let path_text = path.to_str().context("a path that is no UTF-8")?;
        run(&["upload", "c1", path_text, "--object-name", name])?;
        let back = folder.path().join("back");
        run(&["download", "c1", name, "-o", back.to_str().context("path")?])?;
        ensure!(
            std::fs::read(&back)? == content,
            "{name} came back different"
        );
    }
    let listing = text(&run(&["list", "c1", "--lh"])?);
    ensure!(
        listing.contains("9.0M") && listing.contains("옹기 jar"),
        "{listing}"
    );
    run(&["post", "c1", "small", "-m", "Color:blue"])?;
    let stat = text(&run(&["stat", "c1", "small"])?);
    ensure!(
        stat.contains("Meta Color: blue") && stat.contains("Content Length: 10"),
        "{stat}"
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let account = text(&run(&["stat"])?);
        if account.contains("Containers: 1") && account.contains("Objects: 4") {
            break;
        }
        ensure!(Instant::now() < deadline, "{account}");
    }
    run(&["delete", "c1", "small"])?;
    ensure!(
        run(&["download", "c1", "small", "-o", "-"]).is_err(),
        "a deleted object was served"
    );
    run(&["delete", "c1"])?;
    ensure!(
        text(&run(&["list"])?).is_empty(),
        "a deleted container is listed"
    );
    Ok(Outcome::Passed)
}

fn objctl_round_trip() -> Result<Outcome> {
    let system = system()?;
    let objctl = program("objctl")?;
    let environment = system.v1(LOGIN);
    let folder = tempfile::tempdir()?;
    let run = |arguments: &[&str]| run(&objctl, arguments, &environment);
    run(&["post", "c1"])?;
    let path = folder.path().join("FILE");
    let content = random_file(&path, 5 << 20)?;
    run(&[
        "upload",
        "c1",
        path.to_str().context("path")?,
        "--object-name",
        "FILE",
    ])?;
    let listed: Value = serde_json::from_slice(&run(&["list", "c1", "--json"])?.stdout)?;
    ensure!(
        listed[0]["name"] == "FILE" && listed[0]["bytes"] == 5 << 20,
        "{listed}"
    );
    let back = folder.path().join("back");
    run(&[
        "download",
        "c1",
        "FILE",
        "-o",
        back.to_str().context("path")?,
    ])?;
    ensure!(
        std::fs::read(&back)? == content,
        "the object came back different"
    );
    run(&["stat", "c1", "FILE"])?;
    run(&["delete", "c1", "FILE"])?;
    ensure!(
        run(&["download", "c1", "FILE", "-o", "-"]).is_err(),
        "a deleted object was served"
    );
    // A command that is wrong has an exit code and one line that says what to do, and no key in it.
    let error = format!(
        "{:#}",
        run(&["list", "nowhere"])
            .err()
            .context("a missing container was listed")?
    );
    ensure!(
        !error.contains(&system.keys[LOGIN]),
        "the key is in the error"
    );
    Ok(Outcome::Passed)
}

fn listings() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    for name in ["a", "b", "photos/1", "photos/2", "photos/old/3", "z"] {
        curl.put(&format!("/c/{name}"), "x")?;
    }
    for (query, wanted) in [
        ("", "a\nb\nphotos/1\nphotos/2\nphotos/old/3\nz\n"),
        ("?limit=2", "a\nb\n"),
        ("?marker=b&limit=2", "photos/1\nphotos/2\n"),
        ("?marker=b&end_marker=photos/2", "photos/1\n"),
        ("?prefix=photos/", "photos/1\nphotos/2\nphotos/old/3\n"),
        ("?delimiter=/", "a\nb\nphotos/\nz\n"),
        (
            "?prefix=photos/&delimiter=/",
            "photos/1\nphotos/2\nphotos/old/\n",
        ),
    ] {
        let (status, body) = curl.call(&format!("/c{query}"), &[])?;
        ensure!(
            status == 200 && body == wanted,
            "{query}: {status} {body:?}, wanted {wanted:?}"
        );
    }
    let (_, body) = curl.call("/c?format=json&delimiter=/&prefix=p", &[])?;
    let json: Value = serde_json::from_str(&body)?;
    ensure!(
        json == serde_json::json!([{ "subdir": "photos/" }]),
        "{json}"
    );
    // A container tells its account after it has answered, so the account's totals follow within seconds.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (_, body) = curl.call("?format=json", &[])?;
        let json: Value = serde_json::from_str(&body)?;
        if json[0]["name"] == "c" && json[0]["count"] == 6 && json[0]["bytes"] == 6 {
            break;
        }
        ensure!(Instant::now() < deadline, "{json}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(Outcome::Passed)
}

/// Which devices hold an object, as `onggid object locate` finds them: primaries that hold it, and all primaries.
pub(crate) fn copies(system: &System, path: &str) -> Result<(usize, usize)> {
    let onggid = program("onggid")?;
    let config = system.config();
    let config = config.to_str().context("path")?;
    let output = run(
        &onggid,
        &["object", "locate", path, "--json", "--config", config],
        &[],
    )?;
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let primaries = lines.iter().filter(|line| line["role"] == "primary");
    let (mut held, mut all) = (0, 0);
    for line in primaries {
        all += 1;
        held += usize::from(line["timestamp"].is_string());
    }
    Ok((held, all))
}

/// Stops the supervisor, so that what is killed stays away until the value is dropped.
pub(crate) struct Absence(Pid);

impl Absence {
    pub(crate) fn begin(system: &System) -> Result<Self> {
        let text = std::fs::read(system.state.join("run/processes.json"))?;
        let processes: Value = serde_json::from_slice(&text)?;
        let supervisor = processes["supervisor"].as_u64().context("no supervisor")?;
        let pid = Pid::from_raw(i32::try_from(supervisor)?).context("process 0")?;
        rustix::process::kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Absence {
    fn drop(&mut self) {
        rustix::process::kill_process(self.0, Signal::CONT)
            .expect("the supervisor is this test's own process");
    }
}

fn node_killed() -> Result<Outcome> {
    let swift = need!(stock_client("swift"));
    let system = system()?;
    let environment = system.v1(LOGIN);
    let curl = Curl::login(&system, LOGIN)?;
    let folder = tempfile::tempdir()?;
    curl.put("/c", "")?;
    for n in 0..20 {
        curl.put(&format!("/c/before{n}"), &format!("before {n}"))?;
    }
    let victim = format!("node-{}", system.addresses.nodes[1].0);
    let absence = Absence::begin(&system)?;
    system.kill(&victim)?;
    for n in 0..20 {
        curl.put(&format!("/c/during{n}"), &format!("during {n}"))?;
        let (status, body) = curl.call(&format!("/c/before{n}"), &[])?;
        ensure!(
            status == 200 && body == format!("before {n}"),
            "before{n}: {status} {body}"
        );
    }
    let path = folder.path().join("large");
    let content = random_file(&path, 3 << 20)?;
    run(
        &swift,
        &[
            "upload",
            "c",
            path.to_str().context("path")?,
            "--object-name",
            "large",
        ],
        &environment,
    )?;
    let (status, _) = curl.call("/c/before0", &["-X", "DELETE"])?;
    ensure!(status == 204, "DELETE: {status}");
    let (_, listing) = curl.call("/c", &[])?;
    ensure!(
        listing.lines().count() == 40,
        "listing has {} lines",
        listing.lines().count()
    );
    drop(absence);
    system.await_health("30s")?;
    await_copies(&system, &curl)?;
    let back = folder.path().join("back");
    let back_text = back.to_str().context("path")?;
    run(
        &swift,
        &["download", "c", "large", "-o", back_text],
        &environment,
    )?;
    ensure!(
        std::fs::read(&back)? == content,
        "the large object came back different"
    );
    let (status, _) = curl.call("/c/before0", &[])?;
    ensure!(
        status == 404,
        "a deletion that one node slept through came back: {status}"
    );
    Ok(Outcome::Passed)
}

/// Waits until every primary holds what was uploaded while one was away.
fn await_copies(system: &System, curl: &Curl) -> Result<()> {
    let account = curl.url.rsplit('/').next().context("account")?.to_owned();
    let deadline = Instant::now() + Duration::from_secs(60);
    let names = (0..20)
        .map(|n| format!("during{n}"))
        .chain(["large".to_owned()]);
    for name in names {
        loop {
            let (held, all) = copies(system, &format!("{account}/c/{name}"))?;
            if held == all {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{name}: {held} of {all} primaries hold it a minute after"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

fn everything_killed() -> Result<Outcome> {
    let mut system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    for n in 0..30 {
        curl.put(&format!("/c/o{n}"), &format!("{n}").repeat(1 + n * 1_500))?;
    }
    system.crash()?;
    system.launch()?;
    let curl = Curl::login(&system, LOGIN)?;
    for n in 0..30 {
        let (status, body) = curl.call(&format!("/c/o{n}"), &[])?;
        ensure!(
            status == 200 && body == format!("{n}").repeat(1 + n * 1_500),
            "o{n}: {status}"
        );
    }
    let (_, listing) = curl.call("/c", &[])?;
    ensure!(listing.lines().count() == 30, "{listing}");
    Ok(Outcome::Passed)
}

// A body shorter than its Content-Length, small and past what is kept in the database.
fn broken_off() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    curl.put("/c/old", "jar")?;
    let account = curl.url.rsplit('/').next().context("no account")?;
    for (name, sent) in [("new", 3), ("old", 3), ("old", 3 << 20)] {
        let mut socket = TcpStream::connect(system.addresses.objects)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(
            socket,
            "PUT /v1/{account}/c/{name} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {}\r\nContent-Length: {}\r\n\r\n",
            curl.token,
            sent + 1
        )?;
        socket.write_all(&vec![b'n'; sent])?;
        socket.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        // 499, or nothing any more.
        drop(socket.read_to_string(&mut answer));
        ensure!(!answer.starts_with("HTTP/1.1 2"), "{name}: {answer}");
    }
    let (status, _) = curl.call("/c/new", &[])?;
    ensure!(status == 404, "an upload that broke off is there: {status}");
    ensure!(curl.download("/c/old")? == b"jar", "the old bytes are gone");
    let (_, listing) = curl.call("/c", &[])?;
    ensure!(listing == "old\n", "{listing:?}");
    Ok(Outcome::Passed)
}

fn wrong_requests() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let long_name = format!("/c/{}", "n".repeat(1_025));
    let long_container = format!("/{}", "n".repeat(257));
    let put = ["-X", "PUT", "--data-binary", "jar"];
    let wrong_etag = [&put[..], &["-H", "ETag: 00000000000000000000000000000000"]].concat();
    let two_lengths = [
        &put[..],
        &["-H", "Content-Length: 3", "-H", "Content-Length: 4"],
    ]
    .concat();
    let exists = [&put[..], &["-H", "If-None-Match: *"]].concat();
    let too_many = ["-X", "POST", "-H", "X-Container-Meta-A: 1"];
    let past = [&put[..], &["-H", "X-Delete-After: -1"]].concat();
    let long = format!("X-Object-Meta-A: {}", "a".repeat(8_193));
    let is_long = ["-H", long.as_str()];
    let overlapping = ["-H", "Range: bytes=0-1,1-2,0-2,0-2,1-1,0-0"];
    // The object's own tag, as a weak one.
    let weak = ["-H", "If-Match: W/\"68995fcbf432492d15484d04a9d2ac40\""];
    curl.put("/c/there", "jar")?;
    let cases: &[(&str, &[&str], u16)] = &[
        (&long_name, &put, 400),
        (&long_container, &put, 400),
        ("/c/etag", &wrong_etag, 422),
        ("/c/two", &two_lengths, 400),
        ("/c/there", &exists, 412),
        ("/nowhere/o", &put, 404),
        ("/nowhere", &[], 404),
        ("/c/nothing", &[], 404),
        ("/c/nothing", &["-X", "DELETE"], 404),
        ("/c", &["-X", "DELETE"], 409),
        ("/c?limit=10001", &[], 412),
        ("/c/bad%00name", &put, 412),
        ("/c/bad%ffname", &put, 412),
        ("/c/there", &["-H", "Range: bytes=5-"], 416),
        ("/c/there", &overlapping, 416),
        ("/c/there", &weak, 412),
        ("/c/there", &is_long, 400),
        ("/c/past", &past, 400),
        ("/c/a<b>`?c=<`>", &put, 201),
        ("/c/a%3Cb%3E%60", &[], 200),
        ("/c/a%3Cb%3E%60", &["-X", "DELETE"], 204),
        ("/c/there", &["-H", "If-None-Match: *"], 304),
        ("/c/there", &["-X", "BREW"], 405),
        ("/c", &too_many, 204),
    ];
    for (path, arguments, wanted) in cases {
        let (status, body) = curl.call(path, arguments)?;
        ensure!(
            status == *wanted,
            "{arguments:?} {path:.40}: {status}, wanted {wanted}: {body:.200}"
        );
    }
    refuses_strangers(&curl)?;
    // A name with .. is an ordinary name: it is kept, and nothing outside is touched.
    curl.put("/c/../../etc/passwd", "jar")?;
    let (status, body) = curl.call("/c/../../etc/passwd", &[])?;
    ensure!(status == 200 && body == "jar", "{status} {body}");
    let (_, listing) = curl.call("/c", &[])?;
    ensure!(listing == "../../etc/passwd\nthere\n", "{listing:?}");
    made_again(&curl)?;
    Ok(Outcome::Passed)
}

/// A token that nobody gave out opens nothing.
fn refuses_strangers(curl: &Curl) -> Result<()> {
    let stranger = Curl {
        token: "forged".to_owned(),
        url: curl.url.clone(),
    };
    for (path, arguments) in [
        ("/c", &[][..]),
        ("/c/there", &["-H", "X-Auth-Token: forged"][..]),
        ("/c/new", &["-X", "PUT", "--data-binary", "jar"][..]),
    ] {
        let (status, _) = stranger.call(path, arguments)?;
        ensure!(status == 401, "a forged token got {status} for {path}");
    }
    Ok(())
}

/// A container that is made again after its deletion has none of the old one's rights and metadata.
fn made_again(curl: &Curl) -> Result<()> {
    let put = [
        "-X",
        "PUT",
        "-H",
        "X-Container-Read: .r:*",
        "-H",
        "X-Container-Meta-Jar: brown",
    ];
    for (arguments, wanted) in [
        (&put[..], 201),
        (&["-X", "DELETE"][..], 204),
        (&["-X", "PUT"][..], 201),
    ] {
        let (status, _) = curl.call("/again", arguments)?;
        ensure!(status == wanted, "{arguments:?}: {status}");
    }
    let (_, head) = curl.call("/again", &["-I"])?;
    let head = head.to_lowercase();
    ensure!(
        !head.contains("x-container-read") && !head.contains("jar"),
        "{head}"
    );
    Ok(())
}

fn storage_port() -> Result<Outcome> {
    let system = system()?;
    let node = system.addresses.nodes[0].0;
    for path in [
        "/",
        "/v1/a/c/o",
        "/d1/0/AUTH_test/c/o",
        "/healthcheck/../d1",
    ] {
        let url = format!("http://{node}{path}");
        for method in ["GET", "PUT", "DELETE", "REPLICATE"] {
            let arguments = [
                "-sS",
                "-m",
                "10",
                "--path-as-is",
                "-X",
                method,
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &url,
            ];
            let status = text(&run(Path::new("curl"), &arguments, &[])?);
            ensure!(status == "403", "{method} {url}: {status}");
        }
    }
    Ok(Outcome::Passed)
}

fn served_cluster() -> Result<Outcome> {
    for arguments in [
        &["cluster", "--nodes", "2", "--devices", "3", "--separate"][..],
        &["swift-functional"],
    ] {
        let served = Served::start(arguments)?;
        let user = format!("X-Auth-User: {}", served.text("user")?);
        let key = format!("X-Auth-Key: {}", served.text("key")?);
        let auth = served.text("auth_v1")?;
        let answer = run(
            Path::new("curl"),
            &["-sS", "-i", "-m", "20", "-H", &user, "-H", &key, auth],
            &[],
        )?;
        let answer = text(&answer).to_lowercase();
        let url = format!("x-storage-url: {}", served.text("storage_url")?).to_lowercase();
        ensure!(
            answer.contains("x-auth-token: ") && answer.contains(&url),
            "{answer}"
        );
        let nodes = served.description["nodes"].as_array().context("no nodes")?;
        let devices: usize = nodes
            .iter()
            .filter_map(|node| node["devices"].as_array())
            .map(Vec::len)
            .sum();
        ensure!(
            devices == if nodes.len() == 2 { 3 } else { 4 },
            "{devices} devices on {} nodes",
            nodes.len()
        );
        served.stop()?;
    }
    Ok(Outcome::Passed)
}
