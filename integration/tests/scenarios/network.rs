//! Clusters whose nodes are hosts of their own: ways are cut in one direction or both, lose packets, and are slow.

use crate::connection::Connection;
use crate::curl::Curl;
use crate::needs::{self, need};
use crate::object::LOGIN;
use crate::writers;
use crate::{Outcome, Scenario};
use anyhow::{Result, ensure};
use onggi_integration::powercut::random::Random;
use onggi_integration::system::{Host, Network, Options, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "network::cut_and_lossy_ways_cost_no_acknowledged_write",
        cut_ways,
    ),
    ("network::a_node_that_is_cut_off_is_hardly_noticed", cut_off),
    ("network::a_slow_and_lossy_node_holds_up_nobody", slow_node),
];

const NODES: u8 = 5;
/// How long there is trouble, and how long one lasts.
const TROUBLE: Duration = Duration::from_secs(16);
const CHANGE_EVERY: Duration = Duration::from_millis(800);

fn cluster() -> Result<System> {
    System::start(Options {
        hosts: true,
        ..Options::objects(usize::from(NODES), usize::from(NODES))
    })
}

/// A host by chance, the proxy's among them.
fn any_host(random: &mut Random) -> Host {
    match random.bits() % u64::from(NODES + 1) {
        0 => Host::Proxy,
        node => Host::Node(u8::try_from(node - 1).unwrap_or_default()),
    }
}

/// Makes trouble on the network: one way cut, a host cut off, packets lost. Some of it at a time.
fn one_trouble(network: &Network, random: &mut Random) -> Result<()> {
    let (one, other) = (any_host(random), any_host(random));
    if one == other {
        return Ok(());
    }
    match random.bits() % 4 {
        // One direction: what is asked arrives, and the answer does not.
        0 | 1 => network.lose(one, other, 100),
        2 => network.lose(one, other, 40),
        _ => {
            // Not the proxy: then there is nothing to see.
            let alone = if one == Host::Proxy { other } else { one };
            for peer in (0..NODES).map(Host::Node).chain([Host::Proxy]) {
                if peer != alone {
                    network.lose(alone, peer, 100)?;
                    network.lose(peer, alone, 100)?;
                }
            }
            Ok(())
        }
    }
}

fn troubles(network: &Network, random: &mut Random, is_over: &AtomicBool) -> Result<u64> {
    let mut lost = 0;
    while !is_over.load(Ordering::Relaxed) {
        one_trouble(network, random)?;
        std::thread::sleep(CHANGE_EVERY);
        if random.bits().is_multiple_of(2) {
            lost += network.heal()?;
        }
    }
    Ok(lost + network.heal()?)
}

fn cut_ways() -> Result<Outcome> {
    need!(needs::namespaces());
    let system = cluster()?;
    let network = system.network()?;
    network.on(Host::Proxy, || {
        let curl = Curl::login(&system, LOGIN)?;
        curl.put("/c", "")?;
        curl.put("/timed", "")?;
        let (mut clients, seed) = writers::clients(&system, &curl)?;
        let lost = writers::write_during(&mut clients, TROUBLE, |is_over| {
            troubles(network, &mut Random::new(!seed), is_over)
        })?;
        let whole = writers::await_whole(&system, &mut clients)?;
        let (acknowledged, refused) = writers::counts(&clients);
        println!(
            "    {lost} packets lost, {acknowledged} requests acknowledged, {refused} not, whole after {whole:?}"
        );
        ensure!(lost > 100 && acknowledged >= 100, "that was no trouble");
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

/// PUTs and GETs one after the other for a while; how long each took.
fn alternate(connection: &mut Connection, round: &str, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0..count {
        let path = format!("/timed/{round}-{}", number / 2);
        let (method, body): (_, &[u8]) = match number % 2 {
            0 => ("PUT", &[b'j'; 4_096]),
            _ => ("GET", b""),
        };
        let begun = Instant::now();
        let status = connection.request(method, &path, &[], body)?.status;
        times.push(begun.elapsed());
        ensure!((200..300).contains(&status), "{method} {path}: {status}");
    }
    times.sort_unstable();
    Ok(times)
}

fn tell(name: &str, times: &[Duration]) {
    let at = |share: usize| times[(times.len() - 1) * share / 1_000];
    println!(
        "    {name}: {} requests, all served, p50 {:?}, p99 {:?}, longest {:?}",
        times.len(),
        at(500),
        at(990),
        at(1_000)
    );
}

fn cut_off() -> Result<Outcome> {
    need!(needs::namespaces());
    let system = cluster()?;
    let network = system.network()?;
    network.on(Host::Proxy, || {
        let curl = Curl::login(&system, LOGIN)?;
        curl.put("/c", "")?;
        curl.put("/timed", "")?;
        let mut connection = Connection::open(system.addresses.objects, &curl)?;
        tell("all well", &alternate(&mut connection, "well", 600)?);
        for peer in [0, 1, 3, 4]
            .map(Host::Node)
            .into_iter()
            .chain([Host::Proxy])
        {
            network.lose(Host::Node(2), peer, 100)?;
            network.lose(peer, Host::Node(2), 100)?;
        }
        tell(
            "one of five cut off",
            &alternate(&mut connection, "cut", 600)?,
        );
        let lost = network.heal()?;
        ensure!(lost > 0, "nothing was cut off");
        tell("healed", &alternate(&mut connection, "healed", 600)?);
        Ok(())
    })?;
    Ok(Outcome::Passed)
}

fn slow_node() -> Result<Outcome> {
    need!(needs::namespaces());
    let mut system = cluster()?;
    system.network_mut()?.delay(Host::Node(1), 0.05, 0.01)?;
    let network = system.network()?;
    network.on(Host::Proxy, || {
        let curl = Curl::login(&system, LOGIN)?;
        curl.put("/c", "")?;
        curl.put("/timed", "")?;
        let (mut clients, _) = writers::clients(&system, &curl)?;
        let mut connection = Connection::open(system.addresses.objects, &curl)?;
        let times = writers::write_during(&mut clients, Duration::from_secs(6), |_| {
            alternate(&mut connection, "slow", 400)
        })?;
        tell("one of five 50 ms away, one frame of 100 lost", &times);
        let whole = writers::await_whole(&system, &mut clients)?;
        let (acknowledged, refused) = writers::counts(&clients);
        println!("    {acknowledged} requests acknowledged, {refused} not, whole after {whole:?}");
        ensure!(
            refused == 0 && acknowledged >= 100,
            "a slow node is no reason to refuse"
        );
        Ok(())
    })?;
    Ok(Outcome::Passed)
}
