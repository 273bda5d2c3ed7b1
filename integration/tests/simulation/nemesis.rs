//! What goes wrong: faults in an order that the seed chooses.

use crate::client::NAMES;
use crate::cluster::{CLIENTS, Cluster, NODES, Pass};
use core::time::Duration;
use onggi_common_sim::network::Weather;
use onggi_common_sim::{Host, Random};
use onggi_object_device::tables::BODY;
use onggi_object_device::{Location, ObjectKey, StoredObject};
use std::sync::Arc;

/// How many nodes are down, or have a disk that is ill, at a time.
const DOWN_MAX: usize = 2;
/// How far clocks are wrong: nodes refuse what is signed or stamped 60 s away.
const SKEW_SECONDS_MAX: u64 = 25;
/// Bytes rot on this node only, and only where another one has the same version whole. A write that was not acknowledged
/// may be on one device alone: what rots there before it was replicated is nowhere, and no promise is about it.
pub(crate) const UNLUCKY: usize = 2;

/// Makes trouble until it is aborted.
pub(crate) async fn trouble(cluster: Arc<Cluster>) {
    let mut random = cluster.world.fork();
    loop {
        let pause = random.span(&(Duration::from_millis(50)..Duration::from_millis(1_200)));
        tokio::time::sleep(pause).await;
        step(&cluster, &mut random);
    }
}

fn hosts(cluster: &Cluster) -> Vec<Host> {
    let nodes = cluster.members.iter().map(|member| member.host);
    nodes
        .chain(cluster.fronts.iter().map(|front| front.host))
        .collect()
}

fn step(cluster: &Arc<Cluster>, random: &mut Random) {
    let index = random.index(NODES);
    let is_down = |index: &usize| !cluster.is_up(*index) || cluster.members[*index].disk.is_ill();
    let has_room = (0..NODES).filter(is_down).count() < DOWN_MAX && cluster.is_up(index);
    let all = hosts(cluster);
    let (one, other) = (all[random.index(all.len())], all[random.index(all.len())]);
    match random.within(0..100) {
        0..=11 => {
            cluster
                .world
                .note(format_args!("the way from {one:?} to {other:?} is blocked"));
            cluster.network.block(one, other);
        }
        12..=15 => {
            cluster.world.note(format_args!("{one:?} is cut off"));
            for other in all.iter().filter(|other| **other != one) {
                cluster.network.block(one, *other);
                cluster.network.block(*other, one);
            }
        }
        16..=27 => {
            cluster.world.note("all ways are open");
            cluster.network.open_all();
        }
        28..=33 if has_room => {
            cluster.stop(index);
            start_later(cluster, index, random);
        }
        34..=39 if has_room => {
            cluster.power_off(index);
            start_later(cluster, index, random);
        }
        40..=44 if has_room => cut_soon(cluster, index, random),
        45..=48 if has_room => hang(cluster, index, random),
        49..=50 if has_room => {
            cluster
                .world
                .note(format_args!("the disk of node {index} fails"));
            let member = &cluster.members[index];
            member.disk.set_failing(true);
            cluster.network.disturb(member.host);
            let cluster = Arc::clone(cluster);
            let time = random.span(&(Duration::from_secs(1)..Duration::from_secs(8)));
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                cluster.members[index].disk.set_failing(false);
                cluster.stop(index);
                cluster.start(index);
            });
        }
        51..=55 => set_clock(cluster, random),
        56..=60 => set_weather(cluster, random),
        61..=63 => rot(cluster, random),
        64..=65 => {
            let front = random.index(CLIENTS);
            cluster
                .world
                .note(format_args!("connections of proxy {front} are cut"));
            cluster.network.stop(cluster.fronts[front].host);
        }
        _ => {
            let pass = Pass::any(random);
            cluster.world.note(format_args!("node {index}: {pass:?}"));
            cluster.pass(index, pass);
        }
    }
}

fn start_later(cluster: &Arc<Cluster>, index: usize, random: &mut Random) {
    let time = random.span(&(Duration::from_millis(100)..Duration::from_secs(7)));
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        cluster.start(index);
    });
}

/// The power goes in the middle of one of the next writes.
fn cut_soon(cluster: &Arc<Cluster>, index: usize, random: &mut Random) {
    let writes = random.within(0..8);
    cluster.world.note(format_args!(
        "node {index} will lose its power after {writes} writes"
    ));
    cluster.members[index].disk.cut_after(writes);
    let time = random.span(&(Duration::from_millis(100)..Duration::from_secs(7)));
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        let disk = Arc::clone(&cluster.members[index].disk);
        let within = Duration::from_secs(20);
        if tokio::time::timeout(within, disk.on_cut()).await.is_ok() {
            cluster.power_off(index);
            tokio::time::sleep(time).await;
            cluster.start(index);
        } else {
            // Nobody would notice it any more: the node would run on over a disk that is gone.
            disk.spare();
        }
    });
}

fn hang(cluster: &Arc<Cluster>, index: usize, random: &mut Random) {
    cluster
        .world
        .note(format_args!("the disk of node {index} hangs"));
    cluster.members[index].disk.set_hanging(true);
    cluster.network.disturb(cluster.members[index].host);
    let time = random.span(&(Duration::from_millis(100)..Duration::from_secs(6)));
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        cluster.members[index].disk.set_hanging(false);
        cluster.network.disturb(cluster.members[index].host);
    });
}

fn set_clock(cluster: &Cluster, random: &mut Random) {
    let index = random.index(NODES + CLIENTS);
    let micros = random.within(0..2 * SKEW_SECONDS_MAX * 1_000_000);
    let skew =
        i64::try_from(micros).unwrap() - i64::try_from(SKEW_SECONDS_MAX).unwrap() * 1_000_000;
    cluster
        .world
        .note(format_args!("clock {index} is {skew} µs ahead"));
    match index.checked_sub(NODES) {
        None => cluster.members[index].clock.set_skew_micros(skew),
        Some(front) => cluster.fronts[front].clock.set_skew_micros(skew),
    }
}

fn set_weather(cluster: &Cluster, random: &mut Random) {
    let weather = match random.within(0..4) {
        0 => Weather::default(),
        1 => Weather {
            loss_per_mille: random.within(1..60),
            ..Weather::default()
        },
        2 => Weather {
            cuts_per_mille: random.within(1..8),
            ..Weather::default()
        },
        _ => Weather {
            latency: Duration::from_micros(50)..Duration::from_millis(random.within(2..150)),
            ..Weather::default()
        },
    };
    cluster.world.note(format_args!("{weather:?}"));
    cluster.network.set_weather(weather);
}

/// Whether another node has the same bytes of an object for good.
fn is_elsewhere(cluster: &Cluster, key: &ObjectKey, row: &StoredObject) -> bool {
    (0..NODES).filter(|index| *index != UNLUCKY).any(|index| {
        let other = cluster.durable_row(index, key);
        other.is_some_and(|other| {
            other.row.body == row.row.body
                && other.row.data_timestamp == row.row.data_timestamp
                && cluster.has_bytes(index, key, &other)
        })
    })
}

fn rot(cluster: &Cluster, random: &mut Random) {
    let row = |key: &ObjectKey| cluster.durable_row(UNLUCKY, key);
    let mut files = cluster.body_files(UNLUCKY);
    files.retain(|file| {
        let name = file.file_name().and_then(|name| name.to_str());
        let named = |name: &str, row: &StoredObject| match &row.location {
            Location::File(own) => own == name,
            Location::Nowhere | Location::Inline | Location::Quarantined => false,
        };
        NAMES.iter().map(|name| cluster.key(name)).any(|key| {
            let row = row(&key).filter(|row| name.is_some_and(|name| named(name, row)));
            row.is_some_and(|row| is_elsewhere(cluster, &key, &row))
        })
    });
    if files.is_empty() || random.per_mille(500) {
        let may_rot = |key: &[u8]| {
            let key = ObjectKey::from_bytes(key);
            key.is_some_and(|key| row(&key).is_some_and(|row| is_elsewhere(cluster, &key, &row)))
        };
        let key = cluster.members[UNLUCKY].disk.rot(BODY, may_rot);
        cluster
            .world
            .note(format_args!("a small body rots: {}", key.is_some()));
        return;
    }
    let file = &files[random.index(files.len())];
    let Ok(mut bytes) = std::fs::read(file) else {
        return;
    };
    let at = random.index(bytes.len());
    bytes[at] ^= 1 << random.index(8);
    // In place, as rot does it: a reader that has the file open sees it.
    let written = std::fs::OpenOptions::new().write(true).open(file);
    let written =
        written.and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0));
    cluster.world.note(format_args!(
        "a large body rots at {at}: {}",
        written.is_ok()
    ));
}
