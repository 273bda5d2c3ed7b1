//! Storms over a real cluster: eight nodes with two devices each are killed while clients write, and one is wiped; a node is
//! added while clients write.

use crate::connection::Connection;
use crate::curl::Curl;
use crate::object::LOGIN;
use crate::writers;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::run::{Run, RunError};
use onggi_integration::powercut::random::Random;
use onggi_integration::system::{Options, System, program};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "storm::killed_and_wiped_nodes_cost_no_acknowledged_write",
        killed_and_wiped,
    ),
    (
        "storm::a_node_added_under_load_gets_its_share",
        added_under_load,
    ),
];

const NODES: usize = 8;
/// How long nodes are killed, and how long apart.
const STORM: Duration = Duration::from_secs(12);
const KILL_EVERY: Duration = Duration::from_millis(350);
/// A pass of each replicator, and how many may be needed.
const SETTLING: Duration = Duration::from_secs(7);
const SETTLINGS_MAX: usize = 6;

fn cluster(nodes: usize) -> Result<System> {
    System::start(Options::objects(nodes, nodes * 2))
}

/// Kills a node now and then, until told to stop. One may be killed again before it is back.
fn kill_nodes(system: &System, random: &mut Random, is_over: &AtomicBool) -> Result<usize> {
    let mut killed = 0;
    while !is_over.load(Ordering::Relaxed) {
        let index = usize::try_from(random.bits() % NODES as u64)?;
        let (address, _) = &system.addresses.nodes[index];
        // It may be away at this moment.
        killed += usize::from(system.kill(&format!("node-{address}")).is_ok());
        std::thread::sleep(KILL_EVERY);
    }
    Ok(killed)
}

/// No device that was killed has rows that do not fit each other.
fn check_devices(system: &System) -> Result<()> {
    for (address, devices) in &system.addresses.nodes {
        for device in devices {
            let directory = system.state.join("object/devices").join(device);
            let report = onggi_object_device::check::check(&directory, true)?;
            ensure!(
                report.problem_count == 0,
                "{device} of {address}: {:?}",
                report.problems
            );
        }
    }
    Ok(())
}

/// Takes both disks of a node away, as if it were replaced by a new machine.
fn wipe(system: &System, index: usize) -> Result<()> {
    let (_, devices) = &system.addresses.nodes[index];
    for device in devices {
        let directory = system.state.join("object/devices").join(device);
        std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
        std::fs::remove_file(onggi_object_device::format::id_file(&directory))?;
    }
    Ok(())
}

/// Flips a bit in the middle of large bodies of a node; how many.
fn flip_bits(system: &System, index: usize) -> Result<usize> {
    let (_, devices) = &system.addresses.nodes[index];
    let mut flipped = 0;
    let mut folders: Vec<_> = devices
        .iter()
        .map(|device| {
            system
                .state
                .join("object/devices")
                .join(device)
                .join("bodies")
        })
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path)?;
            let middle = bytes.len() / 2;
            let Some(byte) = bytes.get_mut(middle) else {
                continue;
            };
            *byte ^= 1;
            durable::replace(&path, &bytes, Visibility::World)?;
            flipped += 1;
        }
    }
    Ok(flipped)
}

/// Stops the system when all copies are alike. A write that was not acknowledged may be on one device alone, and may be
/// listed: with that device it is lost.
fn stop_settled(system: &mut System) -> Result<()> {
    let mut lack = None;
    for _ in 0..SETTLINGS_MAX {
        system.stop()?;
        lack = writers::unsettled(system)?;
        if lack.is_none() {
            return Ok(());
        }
        system.launch()?;
        std::thread::sleep(SETTLING);
    }
    anyhow::bail!("after {SETTLINGS_MAX} times {SETTLING:?}: {lack:?}")
}

fn killed_and_wiped() -> Result<Outcome> {
    let mut system = cluster(NODES)?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let host = system.addresses.objects;
    let (mut clients, seed) = writers::clients(&system, &curl)?;
    let killed = writers::write_during(&mut clients, STORM, |is_over| {
        kill_nodes(&system, &mut Random::new(!seed), is_over)
    })?;
    let whole = writers::await_whole(&system, &mut clients)?;
    let (acknowledged, refused) = writers::counts(&clients);
    println!(
        "    {killed} kills, {acknowledged} requests acknowledged, {refused} not, whole after {whole:?}"
    );
    ensure!(killed >= 10 && acknowledged >= 100, "that was no storm");

    stop_settled(&mut system)?;
    check_devices(&system)?;
    wipe(&system, 2)?;
    let flipped = flip_bits(&system, 5)?;
    system.launch()?;
    let curl = Curl::login(&system, LOGIN)?;
    for client in &mut clients {
        client.connection = Connection::open(host, &curl)?;
    }
    let whole = writers::await_whole(&system, &mut clients)?;
    println!("    a node wiped, {flipped} bodies of another damaged: whole after {whole:?}");
    Ok(Outcome::Passed)
}

/// Changes the builders of all rings and writes the rings anew.
fn change_rings(system: &System, verbs: &[&[&str]]) -> Result<()> {
    for ring in ["account", "container", "object"] {
        let builder = system
            .state
            .join("object/rings")
            .join(format!("{ring}.builder"));
        let builder = builder.to_str().context("path")?;
        for verb in verbs.iter().chain(&[&["rebalance"][..]]) {
            let run = Run::new(program("onggid")?).args(["ring", builder]);
            match run.args(*verb).output() {
                // 1 is a warning.
                Ok(_) | Err(RunError::Failed { code: Some(1), .. }) => {}
                Err(error) => return Err(error).with_context(|| format!("{ring}: {verb:?}")),
            }
        }
    }
    Ok(())
}

/// Partitions that a device is primary of, by the builder.
fn partitions(system: &System, device: &str) -> Result<u64> {
    let builder = system.state.join("object/rings/object.builder");
    let run = Run::new(program("onggid")?).arg("ring").arg(builder);
    let text = String::from_utf8(run.output()?.stdout)?;
    // Name, weight, partitions.
    let mut words = text.split_whitespace();
    let word = words.by_ref().skip_while(|word| *word != device).nth(2);
    let word = word.with_context(|| format!("{device} is not in {text}"))?;
    word.parse().with_context(|| format!("{word} in {text}"))
}

fn added_under_load() -> Result<Outcome> {
    const NODES: usize = 5;
    let system = cluster(NODES)?;
    let (address, devices) = system.addresses.nodes[NODES - 1].clone();
    let removed: Vec<String> = devices.iter().map(|name| format!("/{name}")).collect();
    let removed: Vec<[&str; 2]> = removed.iter().map(|name| ["remove", name]).collect();
    let removed: Vec<&[&str]> = removed.iter().map(<[&str; 2]>::as_slice).collect();
    change_rings(&system, &removed)?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let (mut clients, _) = writers::clients(&system, &curl)?;
    let names: Vec<String> = devices
        .iter()
        .map(|name| format!("r1z{NODES}-{address}/{name}"))
        .collect();
    writers::write_during(&mut clients, STORM, |_| {
        std::thread::sleep(STORM / 3);
        let mut verbs = vec![vec!["pretend_min_part_hours_passed"]];
        verbs.extend(names.iter().map(|name| vec!["add", name.as_str(), "100"]));
        let verbs: Vec<&[&str]> = verbs.iter().map(Vec::as_slice).collect();
        change_rings(&system, &verbs)
    })?;
    let whole = writers::await_whole(&system, &mut clients)?;
    let (acknowledged, refused) = writers::counts(&clients);
    let share = partitions(&system, &devices[0])?;
    println!(
        "    {acknowledged} requests acknowledged, {refused} not; {} has {share} partitions; whole after {whole:?}",
        devices[0]
    );
    ensure!(share > 0 && acknowledged > 100, "nothing was moved");
    ensure!(refused == 0, "a ring that changes is no reason to refuse");
    Ok(Outcome::Passed)
}
