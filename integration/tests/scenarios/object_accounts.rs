//! Accounts that are deleted with everything in them.

use crate::curl::Curl;
use crate::object::{Absence, LOGIN};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::run::Run;
use onggi_integration::system::{ObjectOptions, Options, System, User, program};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("object::a_deleted_account_goes_from_every_device", deleted)];

pub(crate) const RESELLER: &str = "ops:reseller";
pub(crate) const OTHER: &str = "other:tester";
/// Nodes, each with a device.
const NODES: usize = 4;

fn start() -> Result<System> {
    let user = |account, user, groups| User {
        account,
        user,
        key: None,
        groups,
    };
    System::start(Options {
        object: Some(ObjectOptions {
            nodes: NODES,
            devices: NODES,
            replicas: 3,
            port: 0,
            storage_domain: None,
            policies: &["gold", "silver"],
        }),
        users: vec![
            user("test", "tester", &[".admin"]),
            user("other", "tester", &[".admin"]),
            user("ops", "reseller", &[".reseller_admin"]),
        ],
        ..Options::default()
    })
}

/// Two policies, a manifest with segments, versions, and a body that is a file.
fn fill(curl: &Curl) -> Result<()> {
    for (container, policy) in [("gold", "gold"), ("silver", "silver"), ("parts", "silver")] {
        let header = format!("X-Storage-Policy: {policy}");
        let (status, said) = curl.call(&format!("/{container}"), &["-X", "PUT", "-H", &header])?;
        ensure!(status == 201, "{container}: {status} {said}");
        for number in 0..15 {
            curl.put(&format!("/{container}/o{number}"), "jar")?;
        }
        curl.put(&format!("/{container}/large"), &"옹기".repeat(15_000))?;
    }
    let manifest = "[{\"path\":\"parts/o1\"},{\"path\":\"parts/o2\"}]";
    curl.put("/gold/slo?multipart-manifest=put", manifest)?;
    let (status, said) = curl.call("/gold", &["-X", "POST", "-H", "X-Versions-Enabled: true"])?;
    ensure!(status == 204, "versions: {status} {said}");
    for body in ["one", "two", "three"] {
        curl.put("/gold/o1", body)?;
    }
    Ok(())
}

/// All rows of a device at rest.
pub(crate) fn dump(device: &Path) -> Result<String> {
    let run = Run::new(program("onggid")?).args(["device", "dump"]);
    let output = run.arg(device).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a device at rest still has of an account: lines of its dump that are no trace of a deletion.
fn left(device: &Path, account: &str) -> Result<Vec<String>> {
    let text = dump(device)?;
    ensure!(text.contains(account), "{} knows nothing", device.display());
    let is_left = |line: &&str| {
        line.contains(account)
            && if ["object ", "in ", "untold "]
                .iter()
                .any(|start| line.starts_with(start))
            {
                !line.ends_with(" deleted")
            } else {
                line.contains(" there put ") || !line.contains(" records 0 ")
            }
    };
    Ok(text.lines().filter(is_left).map(str::to_owned).collect())
}

fn expect(curl: &Curl, method: &str, path: &str, wanted: u16) -> Result<()> {
    let arguments: &[&str] = if method == "HEAD" {
        &["-I"]
    } else {
        &["-X", method]
    };
    let (status, said) = curl.call(path, arguments)?;
    ensure!(
        status == wanted,
        "{method} {path:?}: {status} {said}; wanted {wanted}"
    );
    Ok(())
}

fn deleted() -> Result<Outcome> {
    let mut system = start()?;
    let curl = Curl::login(&system, LOGIN)?;
    let other = Curl::login(&system, OTHER)?;
    fill(&curl)?;
    fill(&other)?;
    let reseller = Curl {
        token: Curl::login(&system, RESELLER)?.token,
        url: curl.url.clone(),
    };
    let account = curl.url.rsplit('/').next().context("account")?.to_owned();
    expect(&curl, "DELETE", "", 403)?;
    let victim = format!("node-{}", system.addresses.nodes[1].0);
    let absence = Absence::begin(&system)?;
    system.kill(&victim)?;
    expect(&reseller, "DELETE", "?bulk", 400)?;
    expect(&reseller, "DELETE", "", 204)?;
    // As OpenStack Swift 2.38.3 answers, but for the object: that is read from the first policy until it is reaped.
    for (method, path, status) in [
        ("GET", "", 410),
        ("HEAD", "", 410),
        ("POST", "", 404),
        ("GET", "/gold", 404),
        ("HEAD", "/silver", 404),
        ("POST", "/gold", 404),
        ("PUT", "/new", 503),
        ("DELETE", "/gold", 404),
        ("GET", "/gold/o1", 404),
        ("PUT", "/gold/o1", 404),
        ("DELETE", "/gold/o1", 404),
    ] {
        expect(&curl, method, path, status)?;
    }
    expect(&reseller, "PUT", "", 403)?;
    expect(&reseller, "DELETE", "", 404)?;
    std::thread::sleep(Duration::from_secs(5));
    drop(absence);
    system.await_health("30s")?;
    gone_everywhere(&mut system, &account)?;
    let (status, body) = other.call("/silver/o3", &[])?;
    ensure!(
        status == 200 && body == "jar",
        "another account: {status} {body}"
    );
    expect(&curl, "GET", "", 410)?;
    expect(&reseller, "PUT", "", 403)?;
    Ok(Outcome::Passed)
}

/// Looks into the devices, which takes that nobody uses them, again and again until nothing is left.
pub(crate) fn gone_everywhere(system: &mut System, account: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        std::thread::sleep(Duration::from_secs(10));
        system.stop()?;
        let mut lines = Vec::new();
        let mut devices = 0;
        for entry in std::fs::read_dir(system.state.join("object/devices"))? {
            let path = entry?.path();
            if path.is_dir() {
                lines.extend(left(&path, account)?);
                devices += 1;
            }
        }
        let wanted = system.addresses.nodes.iter();
        let wanted: usize = wanted.map(|(_, devices)| devices.len()).sum();
        ensure!(devices == wanted, "{devices} devices");
        system.launch()?;
        system.await_health("30s")?;
        if lines.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} lines are left: {:?}",
            lines.len(),
            lines.first()
        );
    }
}
