//! The reconciler and the reaper where things go wrong: a divided cluster, nodes that are killed in the middle of a pass, a
//! disk that is full meanwhile.

use crate::curl::{Curl, Seen, Sent};
use crate::faults::SmallDisk;
use crate::needs::{need, tool};
use crate::object::{LOGIN, copies};
use crate::object_accounts::{OTHER, RESELLER, dump, gone_everywhere};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::run::Run;
use onggi_integration::system::{ObjectOptions, Options, System, User, program};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "object::a_container_made_on_two_sides_has_all_objects_of_both",
        divided,
    ),
    (
        "object::a_reconciler_that_is_killed_in_its_pass_moves_the_rest_later",
        reconciler_killed,
    ),
    (
        "object::a_reconciler_on_full_disks_moves_the_rest_later",
        reconciler_on_full_disks,
    ),
    (
        "object::a_reaper_that_is_killed_in_its_pass_reaps_the_rest_later",
        reaper_killed,
    ),
    (
        "object::a_reaper_on_full_disks_reaps_the_rest_later",
        reaper_on_full_disks,
    ),
];

/// Nodes, each with a device, and copies: of four, two on either side are enough to say that a container is not there, and
/// with one that stands in to make it.
const NODES: usize = 6;
const REPLICAS: usize = 4;
/// Containers that are tried: where their copies belong differs, and not each can be made on both sides.
const CONTAINERS: usize = 24;
/// So many have to be.
const CONTAINERS_MIN: usize = 2;
/// Objects of each container: some of each kind.
const OBJECTS: usize = 18;
/// How long a daemon may take until nothing is left to do.
const DONE_WITHIN: Duration = Duration::from_secs(300);
const LARGE_BYTES: usize = 120_000;
/// Objects of each container of the account that is deleted: the reaper takes 16 at a time.
const REAPED_OBJECTS: usize = 120;
/// What makes the daemons so slow that a pass can be caught.
const SLOW: &str = "part_power = 8\nreap_interval_seconds = 1\nreap_rate = 4\nreconcile_interval_seconds = 1\nreconcile_rate = 3";
/// All devices share a file system of this size, where a disk is to be full.
const DISK: &str = "1G";

fn start(settings: Option<&'static str>, state: Option<PathBuf>) -> Result<System> {
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
            replicas: REPLICAS,
            port: 0,
            storage_domain: None,
            policies: &["gold", "silver"],
        }),
        object_settings: settings,
        state,
        users: vec![
            user("test", "tester", &[".admin"]),
            user("other", "tester", &[".admin"]),
            user("ops", "reseller", &[".reseller_admin"]),
        ],
        ..Options::default()
    })
}

/// Sums of what all devices say of a number.
fn told(system: &System, what: &str) -> Result<u64> {
    let run = Run::new(program("onggid")?).args(["status", "--json", "--config"]);
    let told = match run.arg(system.config()).output() {
        Ok(output) => output.stdout,
        Err(onggi_common_host::run::RunError::Failed { stdout, .. }) => stdout,
        Err(error) => return Err(error.into()),
    };
    let lines: Vec<Value> = serde_json::from_slice(&told)?;
    let devices = lines.iter().filter_map(|line| line["devices"].as_array());
    Ok(devices
        .flatten()
        .filter_map(|device| device[what].as_u64())
        .sum())
}

fn await_told(system: &System, what: &str) -> Result<()> {
    let deadline = Instant::now() + DONE_WITHIN;
    while told(system, what)? == 0 {
        ensure!(Instant::now() < deadline, "nothing was {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Where a node listens, and its devices.
type NodeOf = (std::net::SocketAddr, Vec<String>);

/// What both sides have acknowledged: each path, and its bytes if it is there.
type Acknowledged = BTreeMap<String, Option<String>>;

/// A cluster whose two sides have had no word from each other for a while: only the nodes of one ran at a time.
struct Divided {
    system: System,
    acknowledged: Acknowledged,
    /// What was answered with 503, so that it may be or not.
    uncertain: BTreeSet<String>,
    containers: Vec<String>,
    all: Vec<NodeOf>,
}

impl Divided {
    fn make(settings: Option<&'static str>, state: Option<PathBuf>) -> Result<Self> {
        let system = start(settings, state)?;
        let curl = Curl::login(&system, LOGIN)?;
        let mut acknowledged = Acknowledged::new();
        fill_untouched(&curl, OBJECTS, &mut acknowledged)?;
        let account = curl.url.rsplit('/').next().context("account")?.to_owned();
        // What is below is about what both sides know: the account is everywhere it belongs.
        std::thread::sleep(Duration::from_secs(8));
        let mut this = Self {
            all: system.addresses.nodes.clone(),
            system,
            acknowledged,
            uncertain: BTreeSet::new(),
            containers: (0..CONTAINERS).map(|number| format!("c{number}")).collect(),
        };
        let (one, other) = this.sides(&account)?;
        this.run(&one)?;
        this.write("gold", 0)?;
        this.run(&other)?;
        this.write("silver", 1)?;
        this.run(&one)?;
        this.write("gold", 2)?;
        let count = this.containers.len();
        ensure!(
            count >= CONTAINERS_MIN,
            "only {count} were made on both sides"
        );
        println!(
            "    {count} containers were made on both sides; {} writes acknowledged, {} not",
            this.acknowledged.len(),
            this.uncertain.len()
        );
        this.run(&this.all.clone())?;
        Ok(this)
    }

    /// Two sides, each with half of the account's copies.
    fn sides(&mut self, account: &str) -> Result<(Vec<NodeOf>, Vec<NodeOf>)> {
        self.system.stop()?;
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for node in &self.all {
            let devices = self.system.state.join("object/devices");
            let text = dump(&devices.join(&node.1[0]))?;
            let has = text.contains(&format!("\naccount {account} "));
            if has { &mut with } else { &mut without }.push(node.clone());
        }
        ensure!(with.len() == REPLICAS, "{} have the account", with.len());
        let cut = |nodes: &mut Vec<NodeOf>| nodes.split_off(nodes.len() / 2);
        let mut other = cut(&mut with);
        other.extend(cut(&mut without));
        with.extend(without);
        Ok((with, other))
    }

    /// Runs these nodes and no others, with a proxy that remembers nothing.
    fn run(&mut self, nodes: &[NodeOf]) -> Result<()> {
        self.system.stop()?;
        self.system.addresses.nodes = nodes.to_vec();
        self.system.write_config()?;
        self.system.launch()
    }

    /// What one side does in a round: it makes the containers, and writes objects of some kinds.
    fn write(&mut self, policy: &str, round: usize) -> Result<()> {
        let curl = Curl::login(&self.system, LOGIN)?;
        let header = format!("X-Storage-Policy: {policy}");
        for container in std::mem::take(&mut self.containers) {
            let arguments = ["-X", "PUT", "-H", &header];
            let (status, said) = curl.call(&format!("/{container}"), &arguments)?;
            if round < 2 && status == 503 {
                // Too few of its copies belong to this side. What the other one has made of it stays as it is.
                continue;
            }
            let wanted = if round < 2 { 201 } else { 202 };
            ensure!(
                status == wanted,
                "{container} under {policy}: {status} {said}"
            );
            for number in 0..OBJECTS {
                self.write_one(&curl, &container, (policy, round), number)?;
            }
            self.containers.push(container);
        }
        Ok(())
    }

    fn write_one(
        &mut self,
        curl: &Curl,
        container: &str,
        (policy, round): (&str, usize),
        number: usize,
    ) -> Result<()> {
        let path = format!("/{container}/o{number:02}");
        // In which rounds an object is put; the sixth kind is deleted by the other side.
        let (puts, deletes) = match number % 6 {
            0 => (round == 0, false),
            1 | 4 => (round == 1, false),
            2 => (round < 2, false),
            3 => (round > 0, false),
            _ => (round == 0, round == 1),
        };
        if puts {
            let body = match number % 6 {
                4 => "jar ".repeat(LARGE_BYTES / 4),
                _ => format!("{policy} {round} {path}"),
            };
            let arguments = ["-X", "PUT", "--data-binary", &body];
            let (status, said) = curl.call(&path, &arguments)?;
            self.answered(path, (status, said), (201, Some(body)))
        } else if deletes {
            // It is not there for this side; or this side cannot say so.
            let answer = curl.call(&path, &["-X", "DELETE"])?;
            self.answered(path, answer, (404, None))
        } else {
            Ok(())
        }
    }

    /// A write came to this; when it was acknowledged, it makes the object so.
    fn answered(
        &mut self,
        path: String,
        (status, said): Seen,
        (wanted, body): (u16, Option<String>),
    ) -> Result<()> {
        if status == wanted && !self.uncertain.contains(&path) {
            self.acknowledged.insert(path, body);
        } else if status == wanted || status == 503 {
            self.acknowledged.remove(&path);
            self.uncertain.insert(path);
        } else {
            anyhow::bail!("{path}: {status} {said}");
        }
        Ok(())
    }

    /// Objects that are listed and cannot be read where they belong yet.
    fn to_move(&self) -> Result<usize> {
        let curl = Curl::login(&self.system, LOGIN)?;
        let there = self.acknowledged.iter().filter(|(_, body)| body.is_some());
        let asked: Vec<Sent<'_>> = there
            .map(|(path, _)| ("HEAD", path.as_str(), &[][..], ""))
            .collect();
        let answers = curl.many(&asked)?;
        Ok(answers.iter().filter(|(_, status)| *status != 200).count())
    }

    /// Waits until everything is where it belongs, and looks at it.
    fn judge(mut self) -> Result<()> {
        let curl = Curl::login(&self.system, LOGIN)?;
        let deadline = Instant::now() + DONE_WITHIN;
        loop {
            let wrong = wrong(&self.system, &curl, &self.acknowledged, &self.uncertain)?;
            let Some(wrong) = wrong else { break };
            if Instant::now() > deadline {
                let waiting = told(&self.system, "unreconciled")?;
                anyhow::bail!(
                    "{waiting} names wait; made on both sides: {:?}; {wrong}",
                    self.containers
                );
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        for container in &self.containers {
            let (_, head) = curl.call(&format!("/{container}"), &["-I"])?;
            let is_gold = head.to_lowercase().contains("x-storage-policy: gold");
            ensure!(is_gold, "{container} was made under gold first: {head}");
        }
        self.nothing_is_left_under_silver(&curl)
    }

    /// Looks into the devices at rest, again and again: copies that a quorum did not need come later.
    fn nothing_is_left_under_silver(&mut self, curl: &Curl) -> Result<()> {
        let account = curl.url.rsplit('/').next().context("account")?;
        let deadline = Instant::now() + DONE_WITHIN;
        loop {
            self.system.stop()?;
            let mut left = Vec::new();
            for (_, devices) in &self.all {
                for device in devices {
                    let text = dump(&self.system.state.join("object/devices").join(device))?;
                    let is_left = |line: &&str| {
                        // The policy is the beginning of the key.
                        line.starts_with("object 0001")
                            && line.contains(&format!(" /{account}/c"))
                            && !line.ends_with(" deleted")
                    };
                    left.extend(text.lines().filter(is_left).map(str::to_owned));
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "left under silver: {left:?}");
            self.system.launch()?;
            std::thread::sleep(Duration::from_secs(5));
        }
    }
}

/// A container under each policy that nobody has a reason to touch.
fn fill_untouched(curl: &Curl, count: usize, acknowledged: &mut Acknowledged) -> Result<()> {
    for policy in ["gold", "silver"] {
        let header = format!("X-Storage-Policy: {policy}");
        let container = format!("/untouched-{policy}");
        let (status, said) = curl.call(&container, &["-X", "PUT", "-H", &header])?;
        ensure!(status == 201, "{container}: {status} {said}");
        let paths: Vec<String> = (0..count)
            .map(|number| format!("{container}/o{number:03}"))
            .collect();
        let puts: Vec<Sent<'_>> = paths
            .iter()
            .map(|path| ("PUT", path.as_str(), &[][..], path.as_str()))
            .collect();
        let refused = curl.many(&puts)?;
        let refused = refused.into_iter().find(|(_, status)| *status != 201);
        ensure!(refused.is_none(), "{container}: {refused:?}");
        acknowledged.extend(paths.into_iter().map(|path| (path.clone(), Some(path))));
    }
    Ok(())
}

/// The first thing that is not as it was acknowledged: what is read, what is listed, how many copies of it there are.
fn wrong(
    system: &System,
    curl: &Curl,
    acknowledged: &Acknowledged,
    uncertain: &BTreeSet<String>,
) -> Result<Option<String>> {
    let account = curl.url.rsplit('/').next().context("account")?;
    let mut listed: BTreeMap<&str, String> = BTreeMap::new();
    for (path, body) in acknowledged {
        let (container, name) = path[1..].split_once('/').context("a path")?;
        let listing = listed.entry(container).or_default();
        let (status, said) = curl.call(path, &[])?;
        let Some(body) = body else {
            if status != 404 {
                return Ok(Some(format!("{path} was deleted: {status}")));
            }
            continue;
        };
        *listing += &format!("{name}\n");
        if status != 200 || said != *body {
            let (_, head) = curl.call(&format!("/{container}"), &["-I"])?;
            let (held, _) = copies(system, &format!("{account}{path}"))?;
            return Ok(Some(format!(
                "{path}: {status}, {} bytes; {held} copies under gold; {head}",
                said.len()
            )));
        }
        if !container.ends_with("silver") {
            let (held, all) = copies(system, &format!("{account}{path}"))?;
            if held != all {
                return Ok(Some(format!("{path} has {held} copies of {all}")));
            }
        }
    }
    for (container, wanted) in listed {
        let (_, listing) = curl.call(&format!("/{container}"), &[])?;
        let is_certain = |name: &&str| !uncertain.contains(&format!("/{container}/{name}"));
        let listing = listing.lines().filter(is_certain);
        let listing: String = listing.map(|name| format!("{name}\n")).collect();
        if listing != wanted {
            return Ok(Some(format!(
                "{container} lists {listing:?}, not {wanted:?}"
            )));
        }
    }
    Ok(None)
}

fn divided() -> Result<Outcome> {
    let divided = Divided::make(None, None)?;
    await_told(&divided.system, "reconciled")?;
    divided.judge()?;
    Ok(Outcome::Passed)
}

/// Kills each node in turn while `left` says that there is something left to do.
fn kill_each(system: &System, mut left: impl FnMut() -> Result<usize>) -> Result<()> {
    let mut seen = Vec::new();
    for (address, _) in &system.addresses.nodes {
        let count = left()?;
        ensure!(count > 0, "it was faster than the kills: {seen:?}");
        seen.push(count);
        system.kill(&format!("node-{address}"))?;
        system.await_health("30s")?;
    }
    println!("    left when nodes were killed: {seen:?}");
    Ok(())
}

fn reconciler_killed() -> Result<Outcome> {
    let divided = Divided::make(Some(SLOW), None)?;
    await_told(&divided.system, "reconciled")?;
    kill_each(&divided.system, || divided.to_move())?;
    divided.judge()?;
    Ok(Outcome::Passed)
}

/// Takes what room there is on a file system, until the value ends.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(folder: &Path) -> Result<Self> {
        let this = Self(folder.join("ballast"));
        let mut file = File::create(&this.0)?;
        let piece = vec![b'j'; 1 << 20];
        // The last of it in small pieces.
        while file.write_all(&piece).is_ok() {}
        while file.write_all(&piece[..4_096]).is_ok() {}
        Ok(this)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Lets the disks be full for some passes while `left` says that there is something left to do.
fn fill_disks(folder: &Path, mut left: impl FnMut() -> Result<usize>) -> Result<()> {
    const FULL: Duration = Duration::from_secs(8);
    let before = left()?;
    let ballast = Ballast::fill(folder)?;
    std::thread::sleep(FULL);
    let after = left()?;
    drop(ballast);
    println!("    left when the disks were full: {before}; {FULL:?} later: {after}");
    ensure!(after > 0, "it was faster than the disks were full");
    Ok(())
}

fn reconciler_on_full_disks() -> Result<Outcome> {
    if !crate::needs::long() {
        let reason = "it takes three minutes (integration/test --long)";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(Outcome::Skipped("mounting needs root".to_owned()));
    }
    need!(tool("mount"));
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("state");
    let devices = state.join("object/devices");
    let _disk = SmallDisk::mount(&devices, DISK)?;
    let divided = Divided::make(Some(SLOW), Some(state))?;
    await_told(&divided.system, "reconciled")?;
    fill_disks(&devices, || divided.to_move())?;
    divided.judge()?;
    Ok(Outcome::Passed)
}

/// Two accounts with the same in them, one of which was just deleted.
struct Deleted {
    system: System,
    account: String,
    objects: Vec<String>,
    other: Curl,
    acknowledged: Acknowledged,
}

impl Deleted {
    fn make(state: Option<PathBuf>) -> Result<Self> {
        let system = start(Some(SLOW), state)?;
        let curl = Curl::login(&system, LOGIN)?;
        let other = Curl::login(&system, OTHER)?;
        let (mut objects, mut acknowledged) = (Acknowledged::new(), Acknowledged::new());
        fill_untouched(&curl, REAPED_OBJECTS, &mut objects)?;
        fill_untouched(&other, OBJECTS, &mut acknowledged)?;
        let reseller = Curl {
            token: Curl::login(&system, RESELLER)?.token,
            url: curl.url.clone(),
        };
        let (status, said) = reseller.call("", &["-X", "DELETE"])?;
        ensure!(status == 204, "deleting the account: {status} {said}");
        let account = curl.url.rsplit('/').next().context("account")?.to_owned();
        await_told(&system, "reaped")?;
        Ok(Self {
            objects: objects.into_keys().collect(),
            system,
            account,
            other,
            acknowledged,
        })
    }

    /// How far the first container has not been reaped yet: the number of the last object any primary still has.
    fn left(&self) -> Result<usize> {
        let gold = self.objects.iter().filter(|path| path.contains("gold"));
        for (number, path) in (1..).zip(gold).collect::<Vec<_>>().into_iter().rev() {
            if copies(&self.system, &format!("{}{path}", self.account))?.0 > 0 {
                return Ok(number);
            }
        }
        Ok(0)
    }

    fn judge(mut self) -> Result<()> {
        gone_everywhere(&mut self.system, &self.account)?;
        let wrong = wrong(
            &self.system,
            &self.other,
            &self.acknowledged,
            &BTreeSet::new(),
        )?;
        ensure!(wrong.is_none(), "another account: {wrong:?}");
        Ok(())
    }
}

fn reaper_killed() -> Result<Outcome> {
    let deleted = Deleted::make(None)?;
    kill_each(&deleted.system, || deleted.left())?;
    deleted.judge()?;
    Ok(Outcome::Passed)
}

fn reaper_on_full_disks() -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Outcome::Skipped("mounting needs root".to_owned()));
    }
    need!(tool("mount"));
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("state");
    let devices = state.join("object/devices");
    let _disk = SmallDisk::mount(&devices, DISK)?;
    let deleted = Deleted::make(Some(state))?;
    fill_disks(&devices, || deleted.left())?;
    deleted.judge()?;
    Ok(Outcome::Passed)
}
