//! Containers copied between two clusters, set up with the stock client.

use crate::curl::Curl;
use crate::needs::{need, stock_client};
use crate::object::{LOGIN, random_file};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_integration::system::{ObjectOptions, Options, System, User, run};
use serde_json::Value;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "container_sync::two_clusters_end_equal_whatever_is_killed_meanwhile",
    two_clusters,
)];

/// What both clusters' operators have agreed on.
const REALM_KEY: &str = "a-realm-key-that-is-in-no-log";
/// What both containers' owner has set.
const CONTAINER_KEY: &str = "a-container-key-that-is-in-no-log";
/// How long changes may take to arrive, a cluster's start included.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);

fn system(realms: &Path, current: &'static str, nodes: usize) -> Result<System> {
    System::start(Options {
        object: Some(ObjectOptions {
            nodes,
            devices: nodes,
            replicas: nodes,
            port: 0,
            storage_domain: None,
            policies: &[],
        }),
        container_sync: Some((realms.to_owned(), current)),
        users: vec![User {
            account: "test",
            user: "tester",
            key: None,
            groups: &[".admin"],
        }],
        ..Options::default()
    })
}

/// One of the two clusters, and the stock client that speaks to it.
struct Side {
    system: System,
    swift: PathBuf,
    session: OnceCell<Curl>,
}

impl Side {
    fn swift(&self, arguments: &[&str]) -> Result<String> {
        let output = run(&self.swift, arguments, &self.system.v1(LOGIN))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One session for all requests: its token outlives the daemons.
    fn curl(&self) -> Result<&Curl> {
        if let Some(known) = self.session.get() {
            return Ok(known);
        }
        let curl = Curl::login(&self.system, LOGIN)?;
        Ok(self.session.get_or_init(|| curl))
    }

    /// A container's listing with everything it says, times among it.
    fn listing(&self, container: &str) -> Result<Value> {
        let (status, body) = self
            .curl()?
            .call(&format!("/{container}?format=json"), &[])?;
        ensure!(status == 200, "{status} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    fn upload(&self, folder: &Path, name: &str, bytes: usize, more: &[&str]) -> Result<Vec<u8>> {
        let path = folder.join("upload");
        let content = random_file(&path, bytes)?;
        let path = path.to_str().context("path")?;
        let arguments = [&["upload", "c", path, "--object-name", name], more].concat();
        self.swift(&arguments)?;
        Ok(content)
    }

    /// Kills the first storage node; its supervisor starts it again.
    fn kill_node(&self) -> Result<()> {
        let pids = self.system.pids()?;
        let name = pids.keys().find(|name| name.starts_with("node"));
        self.system.kill(name.context("no storage node runs")?)
    }
}

/// Waits until both list the same, times and tags among it, and until that is so many lines.
fn await_equal(a: &Side, b: &Side, container: &str, count: usize) -> Result<()> {
    let deadline = Instant::now() + ARRIVAL_MAX;
    loop {
        let (here, there) = (a.listing(container)?, b.listing(container)?);
        if here == there && here.as_array().is_some_and(|lines| lines.len() == count) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{container}: {here:#}\nand there: {there:#}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn await_bytes(side: &Side, path: &str, content: &[u8]) -> Result<()> {
    let deadline = Instant::now() + ARRIVAL_MAX;
    loop {
        match side.curl()?.download(path) {
            Ok(bytes) if bytes == content => return Ok(()),
            Ok(_) | Err(_) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(200));
            }
            Ok(bytes) => anyhow::bail!("{path} has {} other bytes", bytes.len()),
            Err(error) => return Err(error),
        }
    }
}

fn two_clusters() -> Result<Outcome> {
    let swift = need!(stock_client("swift"));
    let folder = tempfile::tempdir()?;
    let realms = folder.path().join("container-sync-realms.conf");
    let head = format!("[DEFAULT]\nmtime_check_interval = 0.5\n[realm1]\nkey = {REALM_KEY}\n");
    durable::replace(&realms, head.as_bytes(), Visibility::Owner)?;
    let side = |current, nodes| -> Result<Side> {
        Ok(Side {
            system: system(&realms, current, nodes)?,
            swift: swift.clone(),
            session: OnceCell::new(),
        })
    };
    let (a, mut b) = (side("//realm1/a", 3)?, side("//realm1/b", 1)?);
    let clusters = format!(
        "{head}cluster_a = http://{}/v1/\ncluster_b = http://{}/v1/\n",
        a.system.addresses.objects, b.system.addresses.objects
    );
    durable::replace(&realms, clusters.as_bytes(), Visibility::Owner)?;
    await_realms(&a)?;
    await_realms(&b)?;
    refusals(&a)?;
    for (side, other) in [(&a, "b"), (&b, "a")] {
        for container in ["c", "c_segments"] {
            let to = format!("//REALM1/{other}/AUTH_test/{container}");
            side.swift(&["post", container, "-t", &to, "-k", CONTAINER_KEY])?;
        }
    }
    let folder = folder.path();
    let small = a.upload(folder, "small", 10, &["-H", "X-Object-Meta-Color: blue"])?;
    let jar = a.upload(folder, "옹기/jar 1%", 3 << 20, &[])?;
    let large = a.upload(folder, "large", 5 << 19, &["-S", "1048576", "--use-slo"])?;
    let back = b.upload(folder, "from b", 70 << 10, &[])?;
    link(&a)?;
    await_equal(&a, &b, "c_segments", 3)?;
    await_equal(&a, &b, "c", 5)?;
    for side in [&a, &b] {
        for (path, content) in [
            ("/c/small", &small),
            ("/c/%EC%98%B9%EA%B8%B0/jar%201%25", &jar),
            ("/c/large", &large),
            ("/c/from%20b", &back),
            ("/c/link", &small),
        ] {
            await_bytes(side, path, content)?;
        }
    }
    let stat = b.swift(&["stat", "c", "small"])?;
    ensure!(stat.contains("Meta Color: blue"), "{stat}");
    apart(&a, &mut b, folder)?;
    forged(&b)?;
    for side in [&a, &b] {
        let log = std::fs::read_to_string(side.system.log())?;
        for key in [REALM_KEY, CONTAINER_KEY] {
            ensure!(!log.contains(key), "a key is in the log");
        }
    }
    Ok(Outcome::Passed)
}

/// Waits until `/info` names both clusters, its own as such.
fn await_realms(side: &Side) -> Result<()> {
    let deadline = Instant::now() + ARRIVAL_MAX;
    let url = format!("http://{}/info", side.system.addresses.objects);
    loop {
        let output = run(Path::new("curl"), &["-sS", "-m", "20", &url], &[])?;
        let info: Value = serde_json::from_slice(&output.stdout)?;
        let clusters = &info["container_sync"]["realms"]["REALM1"]["clusters"];
        if clusters.as_object().is_some_and(|known| known.len() == 2) {
            let current = clusters.as_object().into_iter().flatten();
            let current = current.filter(|(_, said)| said["current"] == true).count();
            ensure!(current == 1, "{clusters}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{info}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What leads nowhere is refused when it is set.
fn refusals(side: &Side) -> Result<()> {
    let curl = side.curl()?;
    for (to, words) in [
        ("//realm1/a", "Invalid X-Container-Sync-To format"),
        ("//nowhere/a/AUTH_test/c", "No realm key for 'nowhere'"),
        (
            "//realm1/x/AUTH_test/c",
            "No cluster endpoint for 'realm1' 'x'",
        ),
        (
            "http://127.0.0.1/v1/AUTH_test/c",
            "Full URLs are not allowed",
        ),
    ] {
        let header = format!("X-Container-Sync-To: {to}");
        let (status, body) = curl.call("/bad", &["-X", "PUT", "-H", &header])?;
        ensure!(
            status == 400 && body.starts_with(words),
            "{to}: {status} {body}"
        );
    }
    let (status, _) = curl.call("/bad", &["-I"])?;
    ensure!(status == 404, "a refused container was made: {status}");
    Ok(())
}

fn link(side: &Side) -> Result<()> {
    let target = [
        "-X",
        "PUT",
        "-H",
        "X-Symlink-Target: c/small",
        "-H",
        "Content-Length: 0",
    ];
    let (status, body) = side.curl()?.call("/c/link", &target)?;
    ensure!(status == 201, "{status} {body}");
    Ok(())
}

/// Changes of every kind while the other cluster is away, and a node that is killed while it sends them.
fn apart(a: &Side, b: &mut Side, folder: &Path) -> Result<()> {
    b.system.stop()?;
    let (curl, mut made) = (a.curl()?, Vec::new());
    for n in 0..40usize {
        let path = folder.join("many");
        made.push(random_file(&path, 1 << (n % 18))?);
        let from = format!("@{}", path.display());
        curl.put(&format!("/c/many/{n:02}"), &from)?;
    }
    a.swift(&["delete", "c", "from b"])?;
    a.swift(&["post", "c", "small", "-m", "Color:green"])?;
    a.kill_node()?;
    b.system.launch()?;
    let changed = b.upload(folder, "from b again", 1_000, &[])?;
    a.kill_node().or_else(|_| a.system.await_health("30s"))?;
    a.system.await_health("60s")?;
    await_equal(a, b, "c", 45)?;
    for (n, content) in made.iter().enumerate() {
        await_bytes(b, &format!("/c/many/{n:02}"), content)?;
    }
    await_bytes(a, "/c/from%20b%20again", &changed)?;
    let deadline = Instant::now() + ARRIVAL_MAX;
    while !b
        .swift(&["stat", "c", "small"])?
        .contains("Meta Color: green")
    {
        ensure!(Instant::now() < deadline, "the POST did not arrive");
    }
    // Equal times are what ends it: nothing is sent back and forth.
    let before = (a.listing("c")?, b.listing("c")?);
    await_equal(a, b, "c", 45)?;
    ensure!(
        before == (a.listing("c")?, b.listing("c")?),
        "it goes on changing"
    );
    Ok(())
}

/// Who has no key neither writes nor says when.
fn forged(side: &Side) -> Result<()> {
    let url = format!(
        "http://{}/v1/AUTH_test/c/forged",
        side.system.addresses.objects
    );
    let arguments = [
        "-sS",
        "-i",
        "-m",
        "20",
        "-X",
        "PUT",
        "-H",
        "X-Timestamp: 1700000000.00000",
        "-H",
        "X-Container-Sync-Auth: realm1 nonce 0000000000000000000000000000000000000000",
        "-d",
        "x",
        &url,
    ];
    let said = run(Path::new("curl"), &arguments, &[])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let is_told = said.starts_with("HTTP/1.1 401")
        && said.contains("SwiftContainerSync realm=\"AUTH_test\"")
        && said.ends_with(
            "X-Container-Sync-Auth header not valid; contact cluster operator for support.",
        );
    ensure!(is_told, "{said}");
    let owner = [
        "-X",
        "PUT",
        "-H",
        "X-Timestamp: 1700000000.00000",
        "-d",
        "x",
        "-i",
    ];
    let (_, said) = side.curl()?.call("/c/stamped", &owner)?;
    ensure!(
        said.contains("201 Created") && !said.contains("1700000000"),
        "{said}"
    );
    Ok(())
}
