//! Nodes in one process, each with its own address, devices and listener, talking over real sockets.

mod access;
mod dark_data;
mod expiry;
mod links;
mod partitions;
mod racing;
mod reaping;
mod reclaim;
mod reclaim_rosters;
mod reconciling;
mod replication;
mod requests;

use crate::options::Options;
use crate::progress::DeviceStatus;
use crate::rings::place;
use crate::run::start;
use crate::server::Node;
use bytes::Bytes;
use core::time::Duration;
use http_body_util::BodyExt as _;
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::{Entropy as _, SystemClock, SystemEntropy};
use onggi_common_service::Drain;
use onggi_common_service::http::{Limits, serve};
use onggi_common_units::{Secret, Timestamp, UtcTime};
use onggi_object_client::{
    ContainerAnswer, GetAnswer, ListAnswer, Nodes, Timeouts, Transport, WriteAnswer,
};
use onggi_object_device::Device;
use onggi_object_model::{
    AccountName, ContainerPath, Etag, ListingEntry, ListingQuery, Metadata, ObjectPath,
    PolicyIndex, StampedMetadata,
};
use onggi_object_ring::{HashSecrets, NewDevice, PartPower, Ring, RingBuilder};
use onggi_object_wire::object::{BUFFERED_BYTES_MAX, Delete, Get, Put, Tail, Which};
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{ClusterKeys, Place, Resource, Root, account, container};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const OBJECTS: Scope = Scope::Objects(PolicyIndex::new(0));
/// Daemons make no passes of their own in tests: these call for them.
const NEVER: Duration = Duration::from_secs(100_000);

struct Member {
    options: Options,
    node: Option<Arc<Node>>,
    drain: Drain,
    server: Option<JoinHandle<()>>,
}

/// Four nodes with one device each, three copies of everything.
struct Cluster {
    dir: TempDir,
    members: Vec<Member>,
    nodes: Nodes,
    hash: HashSecrets,
    ring: Ring,
}

fn keys() -> ClusterKeys {
    ClusterKeys::derive(&["the ring's secret"]).unwrap()
}

fn timeouts() -> Timeouts {
    Timeouts {
        answer: Duration::from_secs(20),
        ..Timeouts::default()
    }
}

fn at(ticks: u64) -> Timestamp {
    Timestamp::from_ticks(170_000_000_000_000 + ticks).unwrap()
}

fn ring(addresses: &[String], part_power: u8) -> Ring {
    let mut builder = RingBuilder::new(PartPower::new(part_power).unwrap(), 3.0, 0).unwrap();
    for (zone, address) in (1u32..).zip(addresses) {
        let (ip, port) = address.rsplit_once(':').unwrap();
        let port = port.parse().unwrap();
        builder
            .add(NewDevice::new(1, zone, ip, port, "d1", 1.0))
            .unwrap();
    }
    builder.rebalance(7, UtcTime::from_seconds(1)).unwrap();
    builder.ring().unwrap()
}

/// A listener at a port that the machine gives to no connection by itself (it does so from 32768 on): it stays free while a
/// node is started again.
async fn free_listener() -> TcpListener {
    loop {
        let mut random = [0; 2];
        SystemEntropy.fill(&mut random);
        let port = 10_000 + u16::from_le_bytes(random) % 22_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener;
        }
    }
}

impl Cluster {
    async fn new() -> Self {
        Self::with_part_power(4).await
    }

    async fn with_part_power(part_power: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut listeners = Vec::new();
        for _ in 0..4 {
            listeners.push(free_listener().await);
        }
        let addresses: Vec<String> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().to_string())
            .collect();
        let ring = ring(&addresses, part_power);
        let rings_dir = dir.path().join("rings");
        durable::create_dir_all(&rings_dir).unwrap();
        for name in ["account", "container", "object"] {
            let path = rings_dir.join(format!("{name}.ring.gz"));
            durable::replace(&path, &ring.to_bytes(), Visibility::World).unwrap();
        }
        let hash = HashSecrets::new(Secret::new("prefix"), Secret::new("suffix"));
        // Over links, as processes talk; tests of HTTP make their own client.
        let client = Transport::new(
            keys(),
            Arc::new(SystemClock::new()),
            &SystemEntropy,
            timeouts(),
            Arc::default(),
        );
        let nodes = Nodes::new(Arc::new(client), timeouts());
        let mut cluster = Self {
            dir,
            members: Vec::new(),
            nodes,
            hash,
            ring,
        };
        for (address, listener) in addresses.iter().zip(listeners) {
            let options = cluster.options(address, &rings_dir);
            let drain = Drain::new();
            let member = Member {
                options,
                node: None,
                drain,
                server: None,
            };
            cluster.members.push(member);
            let index = cluster.members.len() - 1;
            cluster.serve(index, listener).await;
        }
        cluster
    }

    fn options(&self, address: &str, rings_dir: &std::path::Path) -> Options {
        let devices_dir = self.dir.path().join(address.replace(':', "-"));
        durable::create_dir_all(&devices_dir).unwrap();
        let devices = vec!["d1".parse().unwrap()];
        let rings_dir = rings_dir.to_owned();
        let mut options = Options::new(
            address.to_owned(),
            devices_dir,
            devices,
            rings_dir,
            keys(),
            self.hash.clone(),
        );
        options.replication_interval = NEVER;
        options.update_interval = NEVER;
        options.expiry_interval = NEVER;
        // The stamps of tests are of long ago; those that are about reclaim say the horizon themselves.
        options.reclaim_age_days = u16::MAX;
        options.audit_bytes_per_second = 0;
        options.reaping.rate = 0;
        options.reconciling.rate = 0;
        options.dark_data.rate = 0;
        options.timeouts = timeouts();
        options
    }

    async fn serve(&mut self, index: usize, listener: TcpListener) {
        let member = &mut self.members[index];
        let drain = Drain::new();
        let (node, _) = start(&member.options, &drain).await.unwrap();
        member.node = Some(Arc::clone(&node));
        member.drain = drain.clone();
        member.server = Some(tokio::spawn(serve(
            listener,
            node,
            Limits::default(),
            drain,
        )));
    }

    /// Stops a node. Its address refuses connections afterwards.
    async fn stop(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.drain.begin();
        member.server.take().unwrap().await.unwrap();
        assert!(member.drain.finished(Duration::from_secs(20)).await);
        let node = member.node.take().unwrap();
        // The daemons let go of the node, and so of its devices, a moment after the drain.
        wait_until(|| Arc::strong_count(&node) == 1).await;
    }

    async fn start(&mut self, index: usize) {
        let listener = TcpListener::bind(&self.members[index].options.address)
            .await
            .unwrap();
        self.serve(index, listener).await;
    }

    /// Loses a stopped node's device with all that is on it.
    fn wipe(&self, index: usize) {
        let devices_dir = &self.members[index].options.devices_dir;
        std::fs::remove_dir_all(devices_dir).unwrap();
        durable::create_dir_all(devices_dir).unwrap();
    }

    fn node(&self, index: usize) -> &Node {
        self.members[index].node.as_ref().unwrap()
    }

    fn device_dir(&self, index: usize) -> PathBuf {
        self.members[index].options.devices_dir.join("d1")
    }

    async fn replicate(&self) {
        for node in self.up() {
            node.replicate_once().await;
        }
    }

    async fn update(&self) {
        for node in self.up() {
            node.update_once().await;
        }
    }

    /// The nodes that run.
    fn up(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.members
            .iter()
            .filter_map(|member| member.node.as_ref())
    }

    /// Something of all devices of the nodes that run, summed up.
    fn sum(&self, of: impl Fn(&Device) -> usize) -> usize {
        let disks = self.up().flat_map(|node| node.disks.serving());
        disks.map(|disk| of(disk.device())).sum()
    }

    /// A number that devices tell, summed up.
    fn told(&self, what: impl Fn(&DeviceStatus) -> u64) -> u64 {
        let devices = self.up().flat_map(|node| node.status().devices);
        devices.map(|device| what(&device)).sum()
    }

    fn index_of(&self, place: &Place) -> usize {
        self.members
            .iter()
            .position(|member| member.options.address == place.address)
            .unwrap()
    }

    /// The primaries of an object, and the one node that is none.
    fn homes(&self, path: &ObjectPath) -> (Vec<Place>, Place) {
        let partition = self.ring.partition(&self.hash.object(path));
        let primaries = self
            .ring
            .primaries(partition)
            .into_iter()
            .filter_map(place)
            .collect();
        let handoff = self.ring.handoffs(partition).find_map(place).unwrap();
        (primaries, handoff)
    }

    fn container_homes(&self) -> Vec<Place> {
        let partition = self.ring.partition(&self.hash.container(&container_path()));
        self.ring
            .primaries(partition)
            .into_iter()
            .filter_map(place)
            .collect()
    }

    fn account_homes(&self) -> Vec<Place> {
        let partition = self.ring.partition(&self.hash.account(&account_name()));
        self.ring
            .primaries(partition)
            .into_iter()
            .filter_map(place)
            .collect()
    }

    async fn make_account_and_container(&self) {
        for home in self.account_homes() {
            let put = account::Put {
                account: account_name(),
                timestamp: at(0),
                metadata: StampedMetadata::default(),
            };
            let answer = self.nodes.put_account(&home, &put).await.unwrap();
            assert!(matches!(answer, ContainerAnswer::Made { .. }), "{answer:?}");
        }
        for home in self.container_homes() {
            let answer = self.put_container(&home, 1).await;
            assert!(matches!(answer, ContainerAnswer::Made { .. }), "{answer:?}");
        }
    }

    async fn put_container(&self, place: &Place, ticks: u64) -> ContainerAnswer {
        let put = container::Put {
            path: container_path(),
            timestamp: at(ticks),
            policy: None,
            default_policy: PolicyIndex::default(),
            metadata: StampedMetadata::default(),
            account: Vec::new(),
        };
        self.nodes.put_container(place, &put).await.unwrap()
    }

    async fn put(
        &self,
        place: &Place,
        path: &ObjectPath,
        ticks: u64,
        body: &[u8],
        listing: Vec<Place>,
    ) -> WriteAnswer {
        let tail = Tail {
            length: body.len() as u64,
            etag: Etag::EMPTY,
            root: Root::of(body),
            system: Metadata::default(),
            settled: None,
        };
        let is_small = body.len() <= BUFFERED_BYTES_MAX;
        let put = Put {
            which: Which::whole(PolicyIndex::default(), path.clone()),
            timestamp: at(ticks),
            content_type: "text/plain".to_owned(),
            metadata: Metadata::default(),
            system: Metadata::default(),
            length: Some(body.len() as u64),
            commit: None,
            listing,
            tail: is_small.then(|| tail.clone()),
        };
        if is_small {
            return self
                .nodes
                .put_object(place, &put, Bytes::copy_from_slice(body))
                .await
                .unwrap();
        }
        let stream = self.nodes.stream(place, Resource::Object, &put).unwrap();
        for piece in body.chunks(50_000) {
            stream.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        stream.finish(&tail).await.unwrap()
    }

    async fn delete(&self, place: &Place, path: &ObjectPath, ticks: u64) -> WriteAnswer {
        let which = Which::whole(PolicyIndex::default(), path.clone());
        let delete = Delete {
            which,
            timestamp: at(ticks),
            listing: Vec::new(),
            commit: None,
        };
        self.nodes.delete_object(place, &delete).await.unwrap()
    }

    async fn get(&self, place: &Place, path: &ObjectPath) -> GetAnswer {
        let which = Which::whole(PolicyIndex::default(), path.clone());
        let get = Get {
            which,
            range: None,
            version: None,
        };
        self.nodes.get_object(place, &get).await.unwrap()
    }

    /// The bytes a node has of an object, if it has it.
    async fn bytes(&self, place: &Place, path: &ObjectPath) -> Option<Vec<u8>> {
        match self.get(place, path).await {
            GetAnswer::Found { body, .. } => {
                Some(body.collect().await.unwrap().to_bytes().to_vec())
            }
            GetAnswer::Missing { .. } => None,
            other => panic!("{other:?}"),
        }
    }

    /// The names a node lists in the container; `None` when it does not have it.
    async fn names(&self, place: &Place) -> Option<Vec<String>> {
        let list = container::List {
            path: container_path(),
            query: ListingQuery::page(1_000),
        };
        match self.nodes.list_container(place, &list).await.unwrap() {
            ListAnswer::Found { listing, .. } => Some(
                listing
                    .entries
                    .into_iter()
                    .map(|entry| match entry {
                        ListingEntry::Item(entry) => entry.name,
                        ListingEntry::Subdir(name) => name,
                    })
                    .collect(),
            ),
            ListAnswer::Missing(_) => None,
            ListAnswer::Failed { status } => panic!("{status}"),
        }
    }
}

fn account_name() -> AccountName {
    "AUTH_a".parse().unwrap()
}

fn container_path() -> ContainerPath {
    ContainerPath {
        account: account_name(),
        container: "c".parse().unwrap(),
    }
}

fn object_path(name: &str) -> ObjectPath {
    let ContainerPath { account, container } = container_path();
    ObjectPath {
        account,
        container,
        object: name.parse().unwrap(),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from(index / 11 % 253).unwrap())
        .collect()
}

/// Waits for something that happens soon.
async fn wait_until(mut is_done: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    while !is_done() {
        assert!(tokio::time::Instant::now() < limit, "waited too long");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
