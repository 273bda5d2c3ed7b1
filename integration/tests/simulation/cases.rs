//! Cases that have names, each over several seeds.

use crate::check;
use crate::client::{Client, Extra};
use crate::cluster::{Cluster, Pass, Shape};
use crate::history::{History, Kind, Outcome};
use crate::lies::Lies;
use core::time::Duration;
use http::StatusCode;
use onggi_common_host::Clock as _;
use onggi_common_meta::local::Read as _;
use onggi_common_sim::network::Weather;
use onggi_common_sim::world;
use onggi_object_device::tables::{BODY, OBJECT};
use std::sync::{Arc, Mutex};

const SEEDS: u64 = 20;
/// Seeds of worlds in which days pass: a horizon that rises costs a row for each slot.
const SEEDS_DAYS: u64 = 2;
const DAY: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(45);

/// A cluster with a container, and its clients.
struct Scene {
    cluster: Arc<Cluster>,
    clients: Vec<Client>,
    history: Arc<Mutex<History>>,
}

impl Scene {
    async fn new(world: &Arc<world::World>, shape: Shape) -> Self {
        let cluster = Cluster::new(world, shape);
        let history: Arc<Mutex<History>> = Arc::default();
        let client = |index| Client {
            cluster: Arc::clone(&cluster),
            index,
            history: Arc::clone(&history),
        };
        let clients: Vec<Client> = (0..crate::cluster::CLIENTS).map(client).collect();
        assert_eq!(clients[0].make_container().await, StatusCode::CREATED);
        // Long enough for what comes to count as undisturbed.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Self {
            cluster,
            clients,
            history,
        }
    }

    async fn put(&self, client: usize, name: &str) -> (u64, Outcome) {
        self.clients[client]
            .put(name, Kind::Put, 900, Extra::default())
            .await
    }

    async fn replicate(&self) {
        self.cluster.pass_everywhere(Pass::Replicate).await;
    }

    /// Lets everything come to rest, and everything that was found wrong.
    async fn end(&self) -> Vec<String> {
        check::quiesce(&self.cluster).await;
        check::judge(&self.clients[0]).await;
        check::violations(&self.cluster, &self.history)
    }

    fn assert_well(&self, found: &[String]) {
        let lines = self.cluster.world.lines().join("\n");
        assert!(
            found.is_empty(),
            "seed {}: {found:#?}\n{lines}",
            self.cluster.world.seed()
        );
    }
}

const fn is_done(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}

/// Nodes whose disks have an object of a write for good.
fn holders(scene: &Scene, name: &str, outcome: Outcome) -> Vec<usize> {
    let Outcome::Done { at } = outcome else {
        return Vec::new();
    };
    scene.cluster.holders(name, |row| {
        row.row.data_timestamp == at && row.row.body.is_some()
    })
}

#[test]
fn a_put_on_one_primary_and_a_handoff_is_not_lost_while_the_other_primary_is_slow() {
    for seed in 0..SEEDS {
        world::run(seed, async |world| {
            let scene = Scene::new(&world, Shape::default()).await;
            let cluster = &scene.cluster;
            let primaries = cluster.primaries("k0");
            let handoff = cluster.handoffs("k0")[0];
            let (first, before) = scene.put(0, "k0").await;
            assert!(is_done(before));
            let [_, away, slow] = primaries[..] else {
                panic!("three primaries")
            };
            cluster.power_off(away);
            cluster.members[slow].disk.set_hanging(true);
            cluster.network.disturb(cluster.members[slow].host);
            let (second, outcome) = scene.put(0, "k0").await;
            let at = holders(&scene, "k0", outcome);
            assert!(
                is_done(outcome) && at.contains(&primaries[0]) && at.contains(&handoff),
                "{at:?}"
            );
            // Whoever reads now gets the new version, or nothing.
            let read = scene.clients[1].get("k0").await;
            assert!(read.is_none_or(|(id, _)| id == second), "{first} was read");
            // The one that was away has the old version, the slow one may have either.
            cluster.members[slow].disk.set_hanging(false);
            cluster.start(away);
            if seed % 2 == 0 {
                cluster.power_off(primaries[0]);
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            scene.clients[2].get("k0").await;
            let found = scene.end().await;
            scene.assert_well(&found);
            assert_eq!(
                scene.clients[1].get("k0").await.map(|(id, _)| id),
                Some(second)
            );
        });
    }
}

/// Seed 590: one of the two nodes that keep a POST has found its bytes damaged.
#[test]
fn a_post_stays_that_a_node_with_damaged_bytes_and_one_other_have() {
    for seed in 0..SEEDS {
        world::run(seed, async |world| {
            let scene = Scene::new(&world, Shape::default()).await;
            let cluster = &scene.cluster;
            let [whole, damaged, away] = cluster.primaries("k0")[..] else {
                panic!("three primaries")
            };
            assert!(is_done(scene.put(0, "k0").await.1));
            scene.replicate().await;
            cluster.power_off(away);
            let key = cluster.key("k0").bytes();
            let rotten = cluster.members[damaged].disk.rot(BODY, |one| one == key);
            assert!(rotten.is_some());
            if let Some(node) = cluster.node(damaged) {
                node.audit_once().await;
            }
            assert!(is_done(scene.clients[0].post("k0").await));
            // Now only the one whose bytes were damaged is there to tell it, and then only the other.
            let (first, second) = [(whole, damaged), (damaged, whole)][usize::from(seed % 2 == 0)];
            cluster.power_off(first);
            cluster.start(away);
            cluster.pass_everywhere(Pass::Replicate).await;
            cluster.start(first);
            cluster.power_off(second);
            cluster.pass_everywhere(Pass::Replicate).await;
            let found = scene.end().await;
            scene.assert_well(&found);
        });
    }
}

/// Seeds 393, 554, 679 and others: handoffs stand in for primaries, and a primary has something newer.
#[test]
fn a_proxy_whose_clock_lags_stamps_above_what_handoffs_do_not_have() {
    for seed in 0..SEEDS {
        world::run(seed, async |world| {
            let scene = Scene::new(&world, Shape::default()).await;
            let cluster = &scene.cluster;
            cluster.fronts[1].clock.set_skew_micros(-20_000_000);
            assert!(is_done(scene.put(0, "k0").await.1));
            for away in cluster.primaries("k0").into_iter().skip(1) {
                cluster.power_off(away);
            }
            // Its proxy has not seen the first one: where it asks, one node has it and the others cannot know.
            let (second, outcome) = scene.put(1, "k0").await;
            assert!(is_done(outcome), "{outcome:?}");
            let found = scene.end().await;
            scene.assert_well(&found);
            for client in &scene.clients {
                assert_eq!(client.get("k0").await.map(|(id, _)| id), Some(second));
            }
        });
    }
}

#[test]
fn of_conditional_puts_that_race_one_wins() {
    for seed in 0..SEEDS {
        world::run(seed, async |world| {
            let scene = Scene::new(&world, Shape::default()).await;
            // With an even seed nothing goes wrong, so that exactly one must win.
            let is_calm = seed % 2 == 0;
            if !is_calm {
                let cuts_per_mille = world.choose(|random| random.within(0..20));
                let loss_per_mille = world.choose(|random| random.within(0..80));
                scene.cluster.network.set_weather(Weather {
                    loss_per_mille,
                    cuts_per_mille,
                    ..Weather::default()
                });
            }
            let race = async |kind: Kind, etag: Option<String>| {
                let racers = scene.clients.iter().map(|client| {
                    let (client, etag) = (client.clone(), etag.clone());
                    tokio::spawn(async move {
                        let etag = etag.as_deref();
                        client
                            .put(
                                "chain",
                                kind,
                                700,
                                Extra {
                                    etag,
                                    ..Extra::default()
                                },
                            )
                            .await
                            .1
                    })
                });
                let mut outcomes = Vec::new();
                for racer in racers.collect::<Vec<_>>() {
                    outcomes.push(racer.await.unwrap());
                }
                let won = outcomes.iter().filter(|outcome| is_done(**outcome)).count();
                let refused = outcomes
                    .iter()
                    .filter(|outcome| **outcome == Outcome::Refused)
                    .count();
                assert!(
                    won <= 1 && (!is_calm || (won, refused) == (1, 2)),
                    "seed {seed}: {outcomes:?}"
                );
            };
            race(Kind::PutNew, None).await;
            for _ in 0..3 {
                if let Some((read, etag)) = scene.clients[0].get("chain").await {
                    race(Kind::PutOver { read }, Some(etag)).await;
                }
            }
            let found = scene.end().await;
            scene.assert_well(&found);
        });
    }
}

#[test]
fn a_proxy_whose_clock_lags_by_an_hour_loses_nothing() {
    for seed in 0..SEEDS {
        world::run(seed, async |world| {
            let scene = Scene::new(&world, Shape::default()).await;
            let (first, outcome) = scene.put(0, "k0").await;
            assert!(is_done(outcome));
            // Nodes refuse what is signed an hour ago: nothing is acknowledged, and nothing is left.
            let lagging = &scene.cluster.fronts[1].clock;
            lagging.set_skew_micros(-3_600_000_000);
            let (_, refused) = scene.put(1, "k0").await;
            let deleted = scene.clients[1].delete("k0", PATIENCE).await;
            assert!(
                !is_done(refused) && !is_done(deleted),
                "{refused:?} {deleted:?}"
            );
            assert_eq!(
                scene.clients[2].get("k0").await.map(|(id, _)| id),
                Some(first)
            );
            // As far behind as they let it be, its writes are stamped above what is there.
            lagging.set_skew_micros(-55_000_000);
            let mut last = first;
            for client in [1, 0, 1, 1, 2, 1] {
                let (id, outcome) = scene.put(client, "k0").await;
                assert!(is_done(outcome), "seed {seed}: {outcome:?}");
                assert_eq!(
                    scene.clients[2].get("k0").await.map(|(id, _)| id),
                    Some(id),
                    "after {last}"
                );
                last = id;
            }
            assert!(is_done(scene.clients[1].delete("k0", PATIENCE).await));
            assert_eq!(scene.clients[0].get("k0").await, None);
            let found = scene.end().await;
            scene.assert_well(&found);
        });
    }
}

/// Whether a node has the row of a deleted object, for good or not yet.
fn has_tombstone(cluster: &Cluster, index: usize) -> bool {
    let store = cluster.members[index].disk.contents();
    store
        .get(OBJECT, &cluster.key("k0").bytes())
        .unwrap()
        .is_some()
}

/// Waits until so long before a midnight.
async fn until_before_midnight(cluster: &Cluster, before: Duration) {
    let clock = onggi_common_sim::SimClock::new(Arc::clone(&cluster.world));
    let second = clock.now().seconds() % DAY.as_secs();
    tokio::time::sleep(DAY - Duration::from_secs(second) - before).await;
}

#[test]
fn tombstones_reclaimed_at_different_times_let_nothing_come_back() {
    for seed in 0..SEEDS_DAYS {
        world::run(seed, async |world| {
            let shape = Shape {
                reclaim_age_days: 2,
                ..Shape::default()
            };
            let scene = Scene::new(&world, shape).await;
            let cluster = &scene.cluster;
            let primaries = cluster.primaries("k0");
            let handoff = cluster.handoffs("k0")[0];
            // A handoff gets a copy, and is away when the object is deleted.
            cluster.stop(primaries[2]);
            let (_, outcome) = scene.put(0, "k0").await;
            assert!(
                holders(&scene, "k0", outcome).contains(&handoff),
                "{outcome:?}"
            );
            cluster.stop(handoff);
            cluster.start(primaries[2]);
            scene.replicate().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(is_done(scene.clients[1].delete("k0", PATIENCE).await));
            scene.replicate().await;
            let has_row = |index: usize| cluster.durable_row(index, &cluster.key("k0")).is_some();
            // One primary's clock is past midnight of the day when tombstones go, those of the others are not yet.
            assert!(primaries.iter().all(|index| has_row(*index)));
            tokio::time::sleep(DAY * 2).await;
            until_before_midnight(cluster, Duration::from_secs(10)).await;
            let early = primaries[usize::try_from(seed).unwrap()];
            cluster.members[early].clock.set_skew_micros(30_000_000);
            scene.replicate().await;
            let left = primaries
                .iter()
                .filter(|index| has_tombstone(cluster, **index));
            assert_eq!(left.count(), 2, "one primary has let it go");
            // Those that have it do not give it back, and the handoff does not bring back what it deleted.
            scene.replicate().await;
            cluster.start(handoff);
            for _ in 0..2 {
                cluster.pass_everywhere(Pass::Replicate).await;
                assert_eq!(scene.clients[2].get("k0").await, None);
            }
            tokio::time::sleep(DAY).await;
            let found = scene.end().await;
            scene.assert_well(&found);
            assert_eq!(scene.clients[2].get("k0").await, None);
        });
    }
}

#[test]
fn a_device_back_after_reclaim_age_brings_nothing_back() {
    // The same seed with a partition, and with several, in what digests are kept for.
    for (seed, part_power) in [(0, 6), (1, 6), (1, 18)] {
        world::run(seed, async |world| {
            let shape = Shape {
                reclaim_age_days: 2,
                part_power,
                ..Shape::default()
            };
            let scene = Scene::new(&world, shape).await;
            let cluster = &scene.cluster;
            let primaries = cluster.primaries("k0");
            for name in ["k0", "k1", "k2"] {
                assert!(is_done(scene.put(0, name).await.1));
            }
            scene.replicate().await;
            let away = primaries[usize::try_from(seed).unwrap()];
            cluster.stop(away);
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(is_done(scene.clients[0].delete("k0", PATIENCE).await));
            let (newer, outcome) = scene.put(1, "k1").await;
            assert!(is_done(outcome));
            // Days pass, and everybody else makes passes.
            tokio::time::sleep(DAY * 5).await;
            scene.replicate().await;
            cluster.pass_everywhere(Pass::Update).await;
            cluster.start(away);
            // It is not asked before it has been compared.
            for client in &scene.clients {
                assert_eq!(client.get("k0").await, None);
                assert_eq!(client.get("k1").await.map(|(id, _)| id), Some(newer));
            }
            let found = scene.end().await;
            scene.assert_well(&found);
            tokio::time::sleep(DAY * 2).await;
            for _ in 0..3 {
                scene.replicate().await;
            }
            let left = (0..crate::cluster::NODES).filter(|index| has_tombstone(cluster, *index));
            assert_eq!(left.count(), 0, "the tombstone stays for ever");
            assert_eq!(scene.clients[1].get("k0").await, None);
        });
    }
}

/// An object is deleted, a day passes, and everybody makes passes; what is found wrong.
pub(crate) fn a_deletion_and_days(part_power: u8, lies: Lies) -> Vec<String> {
    world::run(1, async |world| {
        let scene = Scene::new(
            &world,
            Shape {
                reclaim_age_days: 3,
                part_power,
                lies,
            },
        )
        .await;
        assert!(is_done(scene.put(0, "k0").await.1));
        assert!(is_done(scene.clients[0].delete("k0", PATIENCE).await));
        tokio::time::sleep(DAY + DAY / 10).await;
        scene.replicate().await;
        scene.end().await
    })
}

/// A primary is away when an object is deleted and is there when its tombstone is old; what is found wrong.
pub(crate) fn a_primary_misses_a_deletion(part_power: u8, lies: Lies) -> Vec<String> {
    world::run(1, async |world| {
        let scene = Scene::new(
            &world,
            Shape {
                reclaim_age_days: 2,
                part_power,
                lies,
            },
        )
        .await;
        let away = scene.cluster.primaries("k0")[1];
        let handoffs = scene.cluster.handoffs("k0");
        assert!(is_done(scene.put(0, "k0").await.1));
        scene.replicate().await;
        // No handoff is there that could tell it later.
        let absent = || handoffs.iter().copied().chain([away]);
        absent().for_each(|index| scene.cluster.stop(index));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(is_done(scene.clients[0].delete("k0", PATIENCE).await));
        tokio::time::sleep(DAY).await;
        absent().for_each(|index| scene.cluster.start(index));
        tokio::time::sleep(DAY * 3).await;
        for _ in 0..2 {
            scene.replicate().await;
        }
        scene.end().await
    })
}
