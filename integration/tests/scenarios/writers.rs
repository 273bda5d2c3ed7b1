//! Clients that know what their objects can be.
//!
//! Each client has its own names and knows for each what the object can be: an acknowledged request leaves one answer, one
//! that was not acknowledged adds what it would have done, which may show at any time later. Afterwards every object is one
//! of those, all its primaries hold it, and the listing is what the objects say.

use crate::connection::{Answer, Connection};
use crate::curl::Curl;
use crate::object::{Absence, copies};
use anyhow::{Context as _, Result, bail};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_common_host::in_use;
use onggi_integration::powercut::random::Random;
use onggi_integration::system::System;
use onggi_object_device::{OpenError, dump};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How many write at a time.
const CLIENTS: usize = 6;
/// Names of each client: so many that most are not written again after a trouble that would show on them.
const NAMES: usize = 60;
/// Of so many names one is looked for on each device.
const LOCATED_ONE_IN: usize = 30;
/// How long a cluster may take to be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);
/// One in so many PUTs goes to a file.
const LARGE_ONE_IN: u64 = 3;
const LARGE_BYTES: usize = 150_000;

/// What an object can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    Present { seed: u64, length: usize, note: u64 },
}

/// One name, and all that it can be.
pub(crate) struct Name {
    path: String,
    states: Vec<State>,
}

pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
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
pub(crate) struct Client<'a> {
    host: SocketAddr,
    curl: &'a Curl,
    pub(crate) connection: Connection,
    random: Random,
    pub(crate) names: Vec<Name>,
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
}

impl<'a> Client<'a> {
    pub(crate) fn new(host: SocketAddr, curl: &'a Curl, number: usize, seed: u64) -> Result<Self> {
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
        self.refused += usize::from(!is_acknowledged && status != Some(404));
        if !is_acknowledged {
            after.extend(before);
        }
        self.names[index].states = after;
        Ok(())
    }
}

/// So many clients of a system, and the seed they and their troubles follow from.
pub(crate) fn clients<'a>(system: &System, curl: &'a Curl) -> Result<(Vec<Client<'a>>, u64)> {
    let mut seed = [0; 8];
    SystemEntropy.fill(&mut seed);
    let seed = u64::from_le_bytes(seed);
    println!("    seed {seed}");
    let host = system.addresses.objects;
    let clients = (0..CLIENTS).map(|number| Client::new(host, curl, number, seed ^ number as u64));
    Ok((clients.collect::<Result<_>>()?, seed))
}

/// Lets clients write for some time while there is trouble, which ends when it is told to. Returns what that says.
pub(crate) fn write_during<T: Send>(
    clients: &mut [Client<'_>],
    time: Duration,
    trouble: impl FnOnce(&AtomicBool) -> Result<T> + Send,
) -> Result<T> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (over, until) = (&is_over, Instant::now() + time);
        let trouble = scope.spawn(move || trouble(over));
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
        trouble.join().map_err(broke)?
    })
}

/// How many requests were acknowledged, and how many were not.
pub(crate) fn counts(clients: &[Client<'_>]) -> (usize, usize) {
    let acknowledged = clients.iter().map(|client| client.acknowledged).sum();
    let refused = clients.iter().map(|client| client.refused).sum();
    (acknowledged, refused)
}

/// Every object is what it can be, and the listing says the same. What is not so yet, if anything.
pub(crate) fn judge(clients: &mut [Client<'_>]) -> Result<Option<String>> {
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

/// Shows each row of each device of a system whose nodes do not run, with the device's place.
fn each_row(system: &System, row: &mut dyn FnMut(&str, &str)) -> Result<()> {
    for (address, devices) in &system.addresses.nodes {
        for device in devices {
            let place = format!("{address}/{device}");
            let directory = system.state.join("object/devices").join(device);
            let dump = || dump::dump(&directory, &mut |line| row(&place, &line));
            in_use::awaited(dump, OpenError::is_in_use)?;
        }
    }
    Ok(())
}

/// What devices hold of the names in a text. Ends all nodes to look at it.
fn rows_of(system: &System, text: &str) -> Result<String> {
    let _absence = Absence::begin(system)?;
    for (address, _) in &system.addresses.nodes {
        // One that is away already is none the worse for it.
        drop(system.kill(&format!("node-{address}")));
    }
    let named: BTreeSet<&str> = text
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
        .filter(|word| word.starts_with("client"))
        .collect();
    let mut rows = String::new();
    each_row(system, &mut |place, row| {
        let mut words = row.split([' ', '/']);
        if row.starts_with("container") || words.any(|word| named.contains(word)) {
            rows.push_str(&format!("{place} {row}\n"));
        }
    })?;
    Ok(rows)
}

/// In what the copies of objects and listings of a stopped system differ, if in anything: then a device alone may hold a
/// write that was not acknowledged, and others what it has told of it.
pub(crate) fn unsettled(system: &System) -> Result<Option<String>> {
    /// Copies of everything in the clusters of these scenarios.
    const COPIES: usize = 3;
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    let mut untold = None;
    each_row(system, &mut |place, row| {
        let words: Vec<&str> = row.split(' ').collect();
        match words[..] {
            // Key, path, three stamps; then where the bytes are, which is each device's own.
            ["object", ..] => *copies.entry(words[..6].join(" ")).or_default() += 1,
            ["in", "container", ..] => *copies.entry(row.to_owned()).or_default() += 1,
            ["untold", ..] => untold = Some(format!("{place}: {row}")),
            _ => {}
        }
    })?;
    let few = copies.into_iter().find(|(_, count)| *count != COPIES);
    Ok(untold.or(few.map(|(row, count)| format!("{count} copies of {row}"))))
}

/// Waits until the cluster is whole: objects, listing, and all copies of some names.
pub(crate) fn await_whole(system: &System, clients: &mut [Client<'_>]) -> Result<Duration> {
    let begun = Instant::now();
    for client in clients.iter_mut() {
        // A request that was refused before its body was read ends the connection with its answer.
        client.connection = Connection::open(client.host, client.curl)?;
    }
    let account = clients[0].curl.url.rsplit('/').next().context("account")?;
    loop {
        let mut lack = judge(clients)?;
        let present = clients.iter().flat_map(|client| &client.names);
        let present = present.filter(|name| !name.states.contains(&State::Absent));
        for name in present.step_by(LOCATED_ONE_IN) {
            let (held, all) = copies(system, &format!("{account}{}", name.path))?;
            if held != all {
                lack = Some(format!("{} has {held} of {all} copies", name.path));
                break;
            }
        }
        let Some(lack) = lack else {
            return Ok(begun.elapsed());
        };
        if begun.elapsed() >= WHOLE_WITHIN {
            let rows = rows_of(system, &lack)?;
            bail!("after {WHOLE_WITHIN:?}: {lack}; what devices hold:\n{rows}");
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
