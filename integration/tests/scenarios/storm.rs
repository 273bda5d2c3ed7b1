//! Storms over a real cluster: eight nodes with two devices each are killed while clients write, and one is wiped.

use crate::connection::Connection;
use crate::curl::Curl;
use crate::object::LOGIN;
use crate::writers;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_integration::powercut::random::Random;
use onggi_integration::system::{ObjectOptions, Options, System, User};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "storm::killed_and_wiped_nodes_cost_no_acknowledged_write",
    killed_and_wiped,
)];

const NODES: usize = 8;
/// How long nodes are killed, and how long apart.
const STORM: Duration = Duration::from_secs(12);
const KILL_EVERY: Duration = Duration::from_millis(350);

fn cluster() -> Result<System> {
    System::start(Options {
        object: Some(ObjectOptions {
            nodes: NODES,
            devices: NODES * 2,
            replicas: 3,
            port: 0,
            storage_domain: None,
            policies: &[],
        }),
        users: vec![User {
            account: "test",
            user: "tester",
            key: None,
            groups: &[".admin"],
        }],
        ..Options::default()
    })
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

fn killed_and_wiped() -> Result<Outcome> {
    let mut system = cluster()?;
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

    system.stop()?;
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
