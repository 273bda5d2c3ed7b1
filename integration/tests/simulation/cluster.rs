//! The system under test: storage nodes and proxies as they are shipped, on simulated machines.

use crate::check::watch;
use crate::lies::{Lies, Listening};
use crate::stamps::Stamps;
use bytes::Bytes;
use core::time::Duration;
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::{Clock, Entropy};
use onggi_common_identity::keys::Purpose;
use onggi_common_identity::revocation::Revocations;
use onggi_common_identity::token::{self, AuditId, Claims, Methods, Scope as TokenScope};
use onggi_common_identity::{KeyRing, Verifier};
use onggi_common_meta::local::Store;
use onggi_common_meta::table;
use onggi_common_service::Drain;
use onggi_common_service::http::{Limits, serve_connection};
use onggi_common_sim::{Disk, Host, Network, Random, SimClock, SimEntropy, World};
use onggi_common_units::{ByteCount, Secret, UtcTime};
use onggi_object_client::connect::{Connect, Connecting, Stream};
use onggi_object_client::{HttpClient, Nodes, Timeouts};
use onggi_object_device::tables::{self, BODY, OBJECT};
use onggi_object_device::{Device, Location, ObjectKey, StoredObject};
use onggi_object_model::{ObjectPath, PolicyIndex};
use onggi_object_node::machine::{Calls, Gate, Machine, Off};
use onggi_object_node::{Node, Options};
use onggi_object_proxy::{Options as ProxyOptions, Parts, Proxy};
use onggi_object_ring::{HashSecrets, NewDevice, PartPower, Ring, RingBuilder};
use onggi_object_wire::ClusterKeys;
use onggi_object_wire::object::WHOLE;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;
use tokio::task::JoinSet;

pub(crate) const NODES: usize = 5;
pub(crate) const CLIENTS: usize = 3;
pub(crate) const ACCOUNT: &str = "AUTH_p";
pub(crate) const CONTAINER: &str = "c";
/// W and R of three copies.
pub(crate) const QUORUM: usize = 2;

/// How a cluster is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) reclaim_age_days: u16,
    /// Of all rings. Above 16 several partitions share what digests are kept for.
    pub(crate) part_power: u8,
    /// The deliberate fault, in controls.
    pub(crate) lies: Lies,
}

impl Default for Shape {
    fn default() -> Self {
        // Longer than any world without days that pass has lived.
        let reclaim_age_days = 20;
        let lies = Lies::None;
        Self {
            reclaim_age_days,
            part_power: 6,
            lies,
        }
    }
}

impl Shape {
    /// The same, in every eighth seed with many partitions.
    pub(crate) fn in_seed(self, seed: u64) -> Self {
        let many = [17, 18, 17, 20];
        let part_power = match seed % 8 {
            5 => many[usize::try_from(seed / 8 % 4).unwrap()],
            _ => self.part_power,
        };
        Self { part_power, ..self }
    }
}

#[derive(Debug)]
struct From {
    network: Arc<Network>,
    host: Host,
}

impl Connect for From {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = self.network.connect(self.host, address).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

#[derive(Debug)]
struct DiskGate {
    disk: Arc<Disk>,
    life: u64,
}

impl Gate for DiskGate {
    fn pass<'a>(&'a self) -> Pin<Box<dyn Future<Output = Result<(), Off>> + Send + 'a>> {
        Box::pin(async move { self.disk.pass(self.life).await.map_err(|_ended| Off) })
    }
}

struct Running {
    node: Arc<Node>,
    tasks: JoinSet<()>,
}

pub(crate) struct Member {
    pub(crate) host: Host,
    pub(crate) address: String,
    pub(crate) disk: Arc<Disk>,
    pub(crate) clock: Arc<SimClock>,
    options: Options,
    running: Mutex<Option<Running>>,
}

pub(crate) struct Front {
    pub(crate) host: Host,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) proxy: Arc<Proxy>,
}

pub(crate) struct Cluster {
    pub(crate) world: Arc<World>,
    pub(crate) network: Arc<Network>,
    pub(crate) members: Vec<Member>,
    pub(crate) fronts: Vec<Front>,
    pub(crate) ring: Ring,
    pub(crate) token: String,
    pub(crate) shape: Shape,
    /// The stamps that clients' writes were sent under: by client and object, and by the write's id.
    pub(crate) stamps: Arc<Mutex<Stamps>>,
    pub(crate) entropy: Arc<SimEntropy>,
    /// What was seen that must not be.
    pub(crate) violations: Mutex<Vec<String>>,
    hash: HashSecrets,
    rings_dir: PathBuf,
    keys: ClusterKeys,
    _dir: TempDir,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(number: usize) -> String {
    format!("10.0.0.{number}:6200")
}

/// A ring's file. Large ones take seconds to make.
fn ring(part_power: u8) -> Arc<Vec<u8>> {
    static RINGS: Mutex<BTreeMap<u8, Arc<Vec<u8>>>> = Mutex::new(BTreeMap::new());
    let mut rings = lock(&RINGS);
    let bytes = rings.entry(part_power).or_insert_with(|| {
        let power = PartPower::new(part_power).unwrap();
        let mut builder = RingBuilder::new(power, 3.0, 0).unwrap();
        for number in 1..=NODES {
            let zone = u32::try_from(number).unwrap();
            let address = address(number);
            let (ip, port) = address.rsplit_once(':').unwrap();
            let new = NewDevice::new(1, zone, ip, port.parse().unwrap(), "d1", 1.0);
            builder.add(new).unwrap();
        }
        builder.rebalance(7, UtcTime::from_seconds(1)).unwrap();
        Arc::new(builder.ring().unwrap().to_bytes())
    });
    Arc::clone(bytes)
}

/// In memory where the machine has such a place: nothing here has to outlive the test.
fn folder() -> TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    };
    made.unwrap()
}

fn timeouts() -> Timeouts {
    Timeouts::default()
}

pub(crate) fn path(name: &str) -> ObjectPath {
    ObjectPath {
        account: ACCOUNT.parse().unwrap(),
        container: CONTAINER.parse().unwrap(),
        object: name.parse().unwrap(),
    }
}

impl Cluster {
    pub(crate) fn new(world: &Arc<World>, shape: Shape) -> Arc<Self> {
        let dir = folder();
        let network = Network::new(world);
        let ring = ring(shape.part_power);
        let rings_dir = dir.path().join("rings");
        durable::create_dir_all(&rings_dir).unwrap();
        for name in ["account", "container", "object"] {
            let path = rings_dir.join(format!("{name}.ring.gz"));
            durable::replace(&path, &ring, Visibility::World).unwrap();
        }
        let entropy = Arc::new(SimEntropy::new(world));
        let key_ring = KeyRing::generate(&*entropy);
        let mut cluster = Self {
            world: Arc::clone(world),
            network,
            members: Vec::new(),
            fronts: Vec::new(),
            ring: Ring::from_bytes(&ring).unwrap(),
            token: sign(&key_ring),
            shape,
            stamps: Arc::default(),
            entropy,
            violations: Mutex::default(),
            hash: HashSecrets::new(Secret::new("prefix"), Secret::new("suffix")),
            rings_dir,
            keys: ClusterKeys::derive(&["the ring's secret"]).unwrap(),
            _dir: dir,
        };
        for number in 1..=NODES {
            let member = cluster.member(number);
            cluster.members.push(member);
        }
        for _ in 0..CLIENTS {
            let front = cluster.front(&key_ring);
            cluster.fronts.push(front);
        }
        let cluster = Arc::new(cluster);
        for index in 0..NODES {
            if shape.lies == Lies::ForgetSyncs {
                cluster.members[index].disk.forget_syncs();
            }
            watch(&cluster, index);
            cluster.start(index);
        }
        cluster
    }

    fn member(&self, number: usize) -> Member {
        let address = address(number);
        let devices_dir = self._dir.path().join(format!("node-{number}"));
        durable::create_dir_all(&devices_dir).unwrap();
        let devices = vec!["d1".parse().unwrap()];
        let (rings, keys, hash) = (self.rings_dir.clone(), self.keys.clone(), self.hash.clone());
        let mut options = Options::new(address.clone(), devices_dir, devices, rings, keys, hash);
        options.reserve = Some(ByteCount::ZERO);
        options.reclaim_age_days = match self.shape.lies {
            Lies::ReclaimEarly => 0,
            _ => self.shape.reclaim_age_days,
        };
        options.timeouts = timeouts();
        Member {
            host: self.network.add(&address),
            address,
            disk: Disk::new(&self.world, &tables::ALL),
            clock: Arc::new(SimClock::new(Arc::clone(&self.world))),
            options,
            running: Mutex::new(None),
        }
    }

    fn front(&self, ring: &KeyRing) -> Front {
        let host = self.network.add(&format!("proxy-{}", self.fronts.len()));
        let clock = Arc::new(SimClock::new(Arc::clone(&self.world)));
        let wall: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let known = Arc::new(Revocations::own("run".to_owned(), Vec::new()));
        let options = ProxyOptions::new(self.rings_dir.clone(), "identity:1".to_owned());
        let parts = Parts {
            nodes: Nodes::new(Arc::new(self.client(host, &wall)), timeouts()),
            verifier: Arc::new(Verifier::with_revocations(ring, Arc::clone(&wall), known)),
            secrets: self.hash.clone(),
            clock: wall,
            entropy: Arc::clone(&self.entropy) as Arc<dyn Entropy>,
        };
        let proxy = Arc::new(Proxy::new(options, parts).unwrap());
        Front { host, clock, proxy }
    }

    /// A client of nodes on a host.
    fn client(&self, host: Host, clock: &Arc<dyn Clock>) -> HttpClient {
        let network = Arc::clone(&self.network);
        let (keys, clock) = (self.keys.clone(), Arc::clone(clock));
        let client = HttpClient::new(keys, clock, &*self.entropy, timeouts());
        client.with_connections(Arc::new(From { network, host }))
    }

    /// Starts a node's program on what is on its disk. A disk that is ill lets it not start.
    pub(crate) fn start(&self, index: usize) {
        let member = &self.members[index];
        if lock(&member.running).is_some() {
            return;
        }
        self.network.power_on(member.host);
        let store = member.disk.open();
        let gate = DiskGate {
            disk: Arc::clone(&member.disk),
            life: store.life(),
        };
        let store = Mutex::new(Some(store));
        let clock = Arc::clone(&member.clock) as Arc<dyn Clock>;
        let machine = Machine {
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&self.entropy) as Arc<dyn Entropy>,
            client: Arc::new(self.client(member.host, &clock)),
            open_device: Arc::new(move |options, entropy| {
                let store = lock(&store).take().expect("a node has one device");
                Device::open_with(options, entropy, |path| {
                    durable::create_dir_all(path)?;
                    Ok(Arc::new(store) as Arc<dyn Store>)
                })
            }),
            calls: Calls::InPlace(Arc::new(gate)),
        };
        let node = match Node::open(&member.options, &machine) {
            Ok(node) => Arc::new(node),
            Err(error) => {
                return self
                    .world
                    .note(format_args!("node {index} does not start: {error}"));
            }
        };
        self.world.note(format_args!("node {index} starts"));
        let mut listener = self.network.listen(member.host);
        let mut tasks = JoinSet::new();
        let (lies, stamps) = (self.shape.lies, Arc::clone(&self.stamps));
        let world = Arc::clone(&self.world);
        let serving = Arc::clone(&node);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some((stream, from)) = listener.recv().await {
                let node = Arc::clone(&serving);
                let handler = Arc::new(Listening {
                    node,
                    from,
                    index,
                    lies,
                    stamps: Arc::clone(&stamps),
                    world: Arc::clone(&world),
                });
                let peer = "10.0.0.99:9".parse().unwrap();
                let limits = Limits::default();
                connections.spawn(serve_connection(
                    stream,
                    peer,
                    handler,
                    limits,
                    Drain::new(),
                ));
                while connections.try_join_next().is_some() {}
            }
        });
        *lock(&member.running) = Some(Running { node, tasks });
    }

    /// The program of a node ends (`kill -9`); nothing on its disk is lost.
    pub(crate) fn stop(&self, index: usize) {
        let member = &self.members[index];
        if lock(&member.running).take().is_some() {
            self.world.note(format_args!("node {index} is killed"));
        }
        member.disk.stop();
        self.network.stop(member.host);
    }

    /// A node loses its power, and what it had not synced.
    pub(crate) fn power_off(&self, index: usize) {
        let member = &self.members[index];
        if lock(&member.running).take().is_some() {
            self.world
                .note(format_args!("node {index} loses its power"));
        }
        member.disk.power_cut();
        self.network.power_off(member.host);
    }

    pub(crate) fn is_up(&self, index: usize) -> bool {
        lock(&self.members[index].running).is_some()
    }

    pub(crate) fn node(&self, index: usize) -> Option<Arc<Node>> {
        lock(&self.members[index].running)
            .as_ref()
            .map(|running| Arc::clone(&running.node))
    }

    /// Makes something go on at a node, for as long as its program runs.
    pub(crate) fn spawn(&self, index: usize, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = &mut *lock(&self.members[index].running) {
            running.tasks.spawn(task);
        }
    }

    pub(crate) fn key(&self, name: &str) -> ObjectKey {
        ObjectKey {
            policy: PolicyIndex::default(),
            hash: self.hash.object(&path(name)),
            fragment: WHOLE,
        }
    }

    /// Which nodes are an object's primaries, in the ring's order.
    pub(crate) fn primaries(&self, name: &str) -> Vec<usize> {
        self.primaries_of(&self.key(name))
    }

    pub(crate) fn primaries_of(&self, key: &ObjectKey) -> Vec<usize> {
        let devices = self.ring.primaries(self.ring.partition(&key.hash));
        let index = |address: String| self.members.iter().position(|one| one.address == address);
        devices
            .into_iter()
            .filter_map(|device| index(device.address()))
            .collect()
    }

    /// Nodes that are no primaries, first the first handoff.
    pub(crate) fn handoffs(&self, name: &str) -> Vec<usize> {
        let devices = self
            .ring
            .handoffs(self.ring.partition(&self.key(name).hash));
        let index = |address: String| self.members.iter().position(|one| one.address == address);
        devices
            .filter_map(|device| index(device.address()))
            .collect()
    }

    /// The row of an object as a power cut now would leave it on a node.
    pub(crate) fn durable_row(&self, index: usize, key: &ObjectKey) -> Option<StoredObject> {
        let store = self.members[index].disk.contents();
        let bytes = store.durable(OBJECT, &key.bytes()).unwrap()?;
        Some(table::decode(&bytes).unwrap())
    }

    /// Whether the bytes of a row are there for good.
    pub(crate) fn has_bytes(&self, index: usize, key: &ObjectKey, stored: &StoredObject) -> bool {
        match &stored.location {
            Location::Nowhere => true,
            Location::Inline => {
                let store = self.members[index].disk.contents();
                store.durable(BODY, &key.bytes()).unwrap().is_some()
            }
            Location::File(name) => self.body_file(index, name).is_file(),
            Location::Quarantined => false,
        }
    }

    pub(crate) fn body_file(&self, index: usize, name: &str) -> PathBuf {
        let device = self.members[index].options.devices_dir.join("d1");
        device.join("bodies").join(&name[4..6]).join(name)
    }

    /// The files of a node's large bodies, in the order of their names.
    pub(crate) fn body_files(&self, index: usize) -> Vec<PathBuf> {
        let device = self.members[index].options.devices_dir.join("d1");
        let shelves = std::fs::read_dir(device.join("bodies"))
            .into_iter()
            .flatten()
            .flatten();
        let files = shelves.flat_map(|shelf| {
            std::fs::read_dir(shelf.path())
                .into_iter()
                .flatten()
                .flatten()
        });
        let mut files: Vec<PathBuf> = files.map(|file| file.path()).collect();
        files.sort_unstable();
        files
    }

    /// The nodes on whose disks a row of an object is for good that satisfies this.
    pub(crate) fn holders(
        &self,
        name: &str,
        satisfies: impl Fn(&StoredObject) -> bool,
    ) -> Vec<usize> {
        self.row_holders(name, true, satisfies)
    }

    /// The same for the row alone, when its bytes do not matter.
    pub(crate) fn row_holders(
        &self,
        name: &str,
        needs_bytes: bool,
        satisfies: impl Fn(&StoredObject) -> bool,
    ) -> Vec<usize> {
        let key = self.key(name);
        let has_bytes =
            |index: usize, row: &StoredObject| !needs_bytes || self.has_bytes(index, &key, row);
        let holds = |index: &usize| {
            let row = self.durable_row(*index, &key);
            row.is_some_and(|row| satisfies(&row) && has_bytes(*index, &row))
        };
        (0..NODES).filter(holds).collect()
    }

    /// Whether R primaries of an object were well, and reachable by a client's proxy, since a moment.
    pub(crate) fn is_calm(&self, client: usize, name: &str, since: tokio::time::Instant) -> bool {
        let front = self.fronts[client].host;
        let is_well = |index: &&usize| {
            let member = &self.members[**index];
            let is_well = self.network.is_well_since(front, member.host, since);
            is_well && !member.disk.is_ill() && self.is_up(**index)
        };
        self.primaries(name).iter().filter(is_well).count() >= QUORUM
    }

    /// A pass of one of a node's daemons.
    pub(crate) fn pass(&self, index: usize, pass: Pass) {
        let Some(node) = self.node(index) else { return };
        self.spawn(index, async move { pass.run(&node).await });
    }

    /// All faults end, and everything runs again.
    pub(crate) fn calm(&self) {
        self.network
            .set_weather(onggi_common_sim::network::Weather::default());
        self.network.open_all();
        for (index, member) in self.members.iter().enumerate() {
            member.clock.set_skew_micros(0);
            member.disk.spare();
            let was_ill = member.disk.is_ill();
            member.disk.set_hanging(false);
            member.disk.set_failing(false);
            if was_ill {
                self.network.disturb(member.host);
                self.stop(index);
            }
            self.start(index);
        }
        for front in &self.fronts {
            front.clock.set_skew_micros(0);
        }
    }

    /// One pass of a kind on every node, one after another.
    pub(crate) async fn pass_everywhere(&self, pass: Pass) {
        for index in 0..NODES {
            if let Some(node) = self.node(index) {
                pass.run(&node).await;
            }
        }
    }
}

/// What daemons do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pass {
    Replicate,
    Update,
    Audit,
    Sweep,
}

impl Pass {
    pub(crate) const fn any(random: &mut Random) -> Self {
        match random.within(0..11) {
            0..=5 => Self::Replicate,
            6..=8 => Self::Update,
            9 => Self::Audit,
            _ => Self::Sweep,
        }
    }

    async fn run(self, node: &Node) {
        match self {
            Self::Replicate => node.replicate_once().await,
            Self::Update => node.update_once().await,
            Self::Audit => node.audit_once().await,
            Self::Sweep => node.sweep_once().await,
        }
    }
}

/// A token that owns the account for as long as any world lives.
fn sign(ring: &KeyRing) -> String {
    let claims = Claims {
        user_id: "u".to_owned(),
        user_name: "u".to_owned(),
        user_domain_id: "default".to_owned(),
        scope: TokenScope::Project {
            id: "p".to_owned(),
            name: "p".to_owned(),
            domain_id: "default".to_owned(),
        },
        roles: vec!["member".to_owned()],
        methods: Methods::PASSWORD,
        issued_at: UtcTime::EPOCH,
        expires_at: UtcTime::from_seconds(1_000 * 86_400),
        audit_id: AuditId::from_random([7; 16]),
        parent_audit_id: None,
    };
    token::sign(&claims, &ring.derive(Purpose::Tokens)).unwrap()
}

/// A body that says whose it is: the write's id, then bytes that follow from it.
pub(crate) fn body_of(id: u64, length: usize) -> Bytes {
    let mut bytes = format!("{id} ").into_bytes();
    let mut random = Random::new(id);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// The most time a simulated second-hand thing may take to settle.
pub(crate) const SETTLING: Duration = Duration::from_secs(30);
