//! Storms over a real cluster: eight nodes with two devices each are killed while clients write, and one is wiped.
//!
//! Each client has its own names and knows for each what the object can be: an acknowledged request leaves one answer, one
//! that was not acknowledged adds what it would have done, which may show at any time later. Afterwards every object is one of those, all its primaries hold
//! it, and the listing is what the objects say.

use crate::connection::{Answer, Connection};
use crate::curl::Curl;
use crate::object::{LOGIN, copies};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_integration::powercut::random::Random;
use onggi_integration::system::{ObjectOptions, Options, System, User};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "storm::killed_and_wiped_nodes_cost_no_acknowledged_write",
    killed_and_wiped,
)];

const NODES: usize = 8;
const CLIENTS: usize = 6;
/// Names of each client.
const NAMES: usize = 12;
/// How long nodes are killed, and how long apart.
const STORM: Duration = Duration::from_secs(12);
const KILL_EVERY: Duration = Duration::from_millis(350);
/// How long a cluster may take to be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);
/// One in so many PUTs goes to a file.
const LARGE_ONE_IN: u64 = 3;
const LARGE_BYTES: usize = 150_000;

/// What an object can be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Absent,
    Present { seed: u64, length: usize, note: u64 },
}

/// One name, and all that it can be.
struct Name {
    path: String,
    states: Vec<State>,
}

fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.bits().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn state_of(answer: &Answer, expected: &[State]) -> Option<State> {
    if answer.status == 404 {
        return Some(State::Absent);
    }
    let note: u64 = answer.header("x-object-meta-note")?.parse().ok()?;
    expected
        .iter()
        .find(|state| match state {
            State::Absent => false,
            State::Present {
                seed,
                length,
                note: expected,
            } => *expected == note && answer.body == content(*seed, *length),
        })
        .cloned()
}

/// One client: its names, and how many of its requests were acknowledged and refused.
struct Client<'a> {
    host: SocketAddr,
    curl: &'a Curl,
    connection: Connection,
    random: Random,
    names: Vec<Name>,
    acknowledged: usize,
    refused: usize,
}

impl<'a> Client<'a> {
    fn new(host: SocketAddr, curl: &'a Curl, number: usize, seed: u64) -> Result<Self> {
        let names = (0..NAMES).map(|name| Name {
            path: format!("/c/client{number}-{name}"),
            states: vec![State::Absent],
        });
        Ok(Self {
            host,
            curl,
            connection: Connection::open(host, curl)?,
            random: Random::new(seed),
            names: names.collect(),
            acknowledged: 0,
            refused: 0,
        })
    }

    fn send(&mut self, method: &str, path: &str, note: u64, body: &[u8]) -> Option<u16> {
        let note = note.to_string();
        let headers = [("X-Object-Meta-Note", note.as_str())];
        let headers: &[(&str, &str)] = if method == "DELETE" { &[] } else { &headers };
        match self.connection.request(method, path, headers, body) {
            Ok(answer) => Some(answer.status),
            Err(_broken) => {
                self.connection = Connection::open(self.host, self.curl).ok()?;
                None
            }
        }
    }

    /// One request, and what it makes of the name.
    fn step(&mut self) -> Result<()> {
        let index = usize::try_from(self.random.bits() % NAMES as u64)?;
        let path = self.names[index].path.clone();
        let before = self.names[index].states.clone();
        let note = self.random.bits() >> 1;
        let kind = self.random.bits() % 4;
        let (status, mut after) = match kind {
            0 | 1 => {
                let is_large = self.random.bits().is_multiple_of(LARGE_ONE_IN);
                let length = if is_large { LARGE_BYTES } else { 2_000 };
                let seed = self.random.bits();
                let status = self.send("PUT", &path, note, &content(seed, length));
                (status, vec![State::Present { seed, length, note }])
            }
            2 => (self.send("DELETE", &path, 0, b""), vec![State::Absent]),
            _ => {
                let noted = before.iter().map(|state| match state {
                    State::Absent => State::Absent,
                    State::Present { seed, length, .. } => State::Present {
                        seed: *seed,
                        length: *length,
                        note,
                    },
                });
                let noted = noted.collect();
                (self.send("POST", &path, note, b""), noted)
            }
        };
        let is_acknowledged = match (kind, status) {
            (_, Some(201 | 202 | 204)) | (2, Some(404)) => true,
            // A POST that too few nodes can serve may be kept by those that can.
            (3, Some(404)) => false,
            (_, Some(503) | None) => false,
            (_, Some(status)) => anyhow::bail!("{path}: {status} to request {kind}"),
        };
        self.acknowledged += usize::from(is_acknowledged);
        self.refused += usize::from(!is_acknowledged);
        if !is_acknowledged {
            after.extend(before);
        }
        self.names[index].states = after;
        Ok(())
    }
}

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

/// Lets clients write while nodes are killed.
fn storm(system: &System, clients: &mut [Client<'_>], seed: u64) -> Result<usize> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut random = Random::new(seed);
        let (over, until) = (&is_over, Instant::now() + STORM);
        let killer = scope.spawn(move || kill_nodes(system, &mut random, over));
        let workers: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(move || -> Result<()> {
                    while Instant::now() < until {
                        client.step()?;
                    }
                    Ok(())
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        let broke = |_panic| anyhow::anyhow!("a thread broke");
        for worker in ended {
            worker.map_err(broke)??;
        }
        killer.join().map_err(broke)?
    })
}

/// Every object is what it can be, and the listing says the same. What is not so yet, if anything.
fn judge(clients: &mut [Client<'_>]) -> Result<Option<String>> {
    let mut there = BTreeSet::new();
    for client in clients.iter_mut() {
        for index in 0..NAMES {
            let (path, states) = {
                let name = &client.names[index];
                (name.path.clone(), name.states.clone())
            };
            let answer = client.connection.request("GET", &path, &[], b"")?;
            if answer.status == 503 {
                return Ok(Some(format!("{path}: 503")));
            }
            // What only stand-ins have acknowledged shows when they have brought it home.
            let Some(state) = state_of(&answer, &states).filter(|state| states.contains(state))
            else {
                return Ok(Some(format!(
                    "{path} is {} with {:?} and {} bytes, which none of {states:?} is",
                    answer.status,
                    answer.header("x-object-meta-note"),
                    answer.body.len()
                )));
            };
            if state != State::Absent {
                there.insert(path.trim_start_matches("/c/").to_owned());
            }
        }
    }
    let listing = clients[0].connection.request("GET", "/c", &[], b"")?;
    let listed: BTreeSet<String> = String::from_utf8(listing.body)?
        .lines()
        .map(str::to_owned)
        .collect();
    Ok((listed != there).then(|| {
        let differ: Vec<_> = listed.symmetric_difference(&there).collect();
        format!("listing and objects differ in {differ:?}")
    }))
}

/// Waits until the cluster is whole: objects, listing, and all copies of some names.
fn await_whole(system: &System, clients: &mut [Client<'_>]) -> Result<Duration> {
    let begun = Instant::now();
    let account = clients[0].curl.url.rsplit('/').next().context("account")?;
    loop {
        let mut lack = judge(clients)?;
        let present = clients.iter().flat_map(|client| &client.names);
        let present = present.filter(|name| !name.states.contains(&State::Absent));
        for name in present.step_by(5) {
            let (held, all) = copies(system, &format!("{account}{}", name.path))?;
            if held != all {
                lack = Some(format!("{} has {held} of {all} copies", name.path));
                break;
            }
        }
        let Some(lack) = lack else {
            return Ok(begun.elapsed());
        };
        ensure!(
            begun.elapsed() < WHOLE_WITHIN,
            "after {WHOLE_WITHIN:?}: {lack}"
        );
        std::thread::sleep(Duration::from_millis(300));
    }
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
    let mut seed = [0; 8];
    SystemEntropy.fill(&mut seed);
    let seed = u64::from_le_bytes(seed);
    println!("    seed {seed}");
    let mut clients = (0..CLIENTS)
        .map(|number| Client::new(host, &curl, number, seed ^ number as u64))
        .collect::<Result<Vec<_>>>()?;
    let killed = storm(&system, &mut clients, !seed)?;
    let whole = await_whole(&system, &mut clients)?;
    let acknowledged: usize = clients.iter().map(|client| client.acknowledged).sum();
    let refused: usize = clients.iter().map(|client| client.refused).sum();
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
    let whole = await_whole(&system, &mut clients)?;
    println!("    a node wiped, {flipped} bodies of another damaged: whole after {whole:?}");
    Ok(Outcome::Passed)
}
