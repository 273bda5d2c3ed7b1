//! What the tests run the manager with: a store in memory, a pool of files that fails where it is told to, and a target
//! that keeps what it is told.

use crate::*;
use onggi_block_medium::{Fence, MediumSpec};
use onggi_block_pool::file::FileOptions;
use onggi_block_pool::{Capacity, FilePool, Labels, Pool, PoolError, PoolKind, StoredVolume};
use onggi_block_target::control::{Answer, Request};
use onggi_block_target::{ExportSpec, ExportStatus, PortalStatus, RefusalCode};
use onggi_block_volume::{NewVolume, Owner, QuotaLimits, Scope, SizeGib, VolumeId, VolumeState};
use onggi_common_host::{SystemClock, SystemEntropy};
use onggi_common_meta::TableName;
use onggi_common_meta::control::{At, Embedded, Store};
use onggi_common_units::{ByteCount, Uuid};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A volume of this name is made in the pool, and then the pool says that it failed.
pub(super) const BAD_NAME: &str = "cracked";
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pool of files that fails where it is told to.
pub(super) struct TestPool {
    files: FilePool,
    /// Whether its volumes have a fence, and whether someone else has moved them.
    pub(super) fence: Mutex<Option<bool>>,
    /// How the next calls to create and extend fail, before anything is done.
    pub(super) failures: Mutex<VecDeque<PoolError>>,
}

impl TestPool {
    pub(super) fn open(directory: &Path) -> Self {
        let options = FileOptions {
            name: "jars".to_owned(),
            directory: directory.to_owned(),
            reserve: ByteCount::ZERO,
        };
        Self {
            files: FilePool::open(options).unwrap(),
            fence: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    fn fail(&self) -> Result<(), PoolError> {
        self.failures
            .lock()
            .unwrap()
            .pop_front()
            .map_or(Ok(()), Err)
    }
}

impl Pool for TestPool {
    fn name(&self) -> &str {
        self.files.name()
    }

    fn kind(&self) -> PoolKind {
        self.files.kind()
    }

    fn capacity(&self) -> Result<Capacity, PoolError> {
        self.files.capacity()
    }

    fn create(&self, id: Uuid, size: ByteCount, labels: &Labels) -> Result<(), PoolError> {
        self.fail()?;
        self.files.create(id, size, labels)?;
        if labels.name == BAD_NAME {
            let source = std::io::Error::other("planted");
            return Err(PoolError::Io {
                action: "making",
                path: PathBuf::from("/"),
                source,
            });
        }
        Ok(())
    }

    fn extend(&self, id: Uuid, size: ByteCount) -> Result<(), PoolError> {
        self.fail()?;
        self.files.extend(id, size)
    }

    fn remove(&self, id: Uuid) -> Result<(), PoolError> {
        self.files.remove(id)
    }

    fn label(&self, id: Uuid, labels: &Labels) -> Result<(), PoolError> {
        self.files.label(id, labels)
    }

    fn open(&self, id: Uuid) -> Result<MediumSpec, PoolError> {
        let mut medium = self.files.open(id)?;
        if self.fence.lock().unwrap().is_some() {
            let name = || "test".to_owned();
            let fence = Fence {
                group: name(),
                group_uuid: name(),
                volume_uuid: name(),
                seqno: 1,
            };
            medium.fence = Some(fence);
        }
        Ok(medium)
    }

    fn verify(&self, id: Uuid, medium: &MediumSpec) -> Result<MediumSpec, PoolError> {
        match *self.fence.lock().unwrap() {
            Some(true) => Err(PoolError::Fenced {
                volume: id,
                reason: "planted".to_owned(),
            }),
            Some(false) | None => Ok(medium.clone()),
        }
    }

    fn list(&self) -> Result<Vec<StoredVolume>, PoolError> {
        self.files.list()
    }
}

/// A target that keeps what it is told over its real control socket.
pub(super) struct FakeTarget {
    socket: PathBuf,
    shared: Arc<TargetState>,
}

#[derive(Default)]
struct TargetState {
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Default)]
struct Told {
    exports: BTreeMap<String, ExportSpec>,
    refusal: Option<RefusalCode>,
    fenced: Vec<String>,
    is_stopped: bool,
}

impl FakeTarget {
    pub(super) fn start(socket: PathBuf) -> Self {
        let target = Self {
            socket,
            shared: Arc::default(),
        };
        target.listen();
        target
    }

    fn listen(&self) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.told.lock().unwrap().is_stopped {
                    return;
                }
                // A client that was killed does not wait for its answer.
                drop(shared.converse(&stream.unwrap()));
            }
        });
    }

    /// From now on nobody answers.
    pub(super) fn stop(&self) {
        self.shared.told.lock().unwrap().is_stopped = true;
        drop(UnixStream::connect(&self.socket).unwrap());
        std::fs::remove_file(&self.socket).unwrap();
    }

    /// Answers again, with what it was told before.
    pub(super) fn go_on(&self) {
        self.shared.told.lock().unwrap().is_stopped = false;
        self.listen();
    }

    pub(super) fn refuse_exports(&self, refusal: Option<RefusalCode>) {
        self.shared.told.lock().unwrap().refusal = refusal;
    }

    pub(super) fn set(&self, exports: Vec<ExportSpec>) {
        let exports = exports
            .into_iter()
            .map(|export| (export.iqn.clone(), export));
        self.shared.told.lock().unwrap().exports = exports.collect();
    }

    pub(super) fn export(&self, iqn: &str) -> Option<ExportSpec> {
        self.shared.told.lock().unwrap().exports.get(iqn).cloned()
    }

    pub(super) fn exports(&self) -> Vec<ExportSpec> {
        self.shared
            .told
            .lock()
            .unwrap()
            .exports
            .values()
            .cloned()
            .collect()
    }

    pub(super) fn fenced(&self) -> Vec<String> {
        self.shared.told.lock().unwrap().fenced.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exports().is_empty()
    }
}

impl Drop for FakeTarget {
    fn drop(&mut self) {
        self.shared.told.lock().unwrap().is_stopped = true;
        drop(UnixStream::connect(&self.socket));
    }
}

impl TargetState {
    fn converse(&self, stream: &UnixStream) -> std::io::Result<()> {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer = self
            .told
            .lock()
            .unwrap()
            .answer(serde_json::from_str(&line)?);
        self.changed.notify_all();
        let mut answer = serde_json::to_vec(&answer)?;
        answer.push(b'\n');
        (&*stream).write_all(&answer)
    }
}

impl Told {
    fn answer(&mut self, request: Request) -> Answer {
        let refused = |code| Answer::Refused {
            code,
            message: "planted".to_owned(),
        };
        match request {
            Request::PutExport { export } => {
                // The export is made, and then refused: the worst a target can do.
                let is_refused = export
                    .access
                    .iter()
                    .any(|access| access.initiator.as_deref() == Some("iqn.bad"));
                self.exports.insert(export.iqn.clone(), export);
                match self.refusal {
                    Some(code) => refused(code),
                    None if is_refused => refused(RefusalCode::Medium),
                    None => Answer::Done,
                }
            }
            Request::RemoveExport { iqn } => {
                self.exports.remove(&iqn);
                Answer::Done
            }
            Request::Grant { iqn, access } => match self.exports.get_mut(&iqn) {
                Some(export) => {
                    export.access.push(access);
                    Answer::Done
                }
                None => refused(RefusalCode::NotFound),
            },
            Request::Revoke { iqn, attachment } => match self.exports.get_mut(&iqn) {
                Some(export) => {
                    export
                        .access
                        .retain(|access| access.attachment != attachment);
                    Answer::Done
                }
                None => refused(RefusalCode::NotFound),
            },
            Request::Resize { iqn, medium } => match self.exports.get_mut(&iqn) {
                Some(_) if self.refusal.is_some() => refused(RefusalCode::Medium),
                Some(export) => {
                    export.medium = medium;
                    Answer::Done
                }
                None => refused(RefusalCode::NotFound),
            },
            Request::Fence { iqn } => {
                self.fenced.push(iqn);
                Answer::Done
            }
            Request::ListExports => Answer::Exports {
                exports: self.exports.values().map(status).collect(),
            },
            Request::Sessions => Answer::Sessions {
                sessions: Vec::new(),
            },
            // Nobody asks for these yet.
            Request::Drain { .. } | Request::Serve { .. } => refused(RefusalCode::Invalid),
            Request::Portals => {
                let portal = PortalStatus {
                    address: "127.0.0.1:3260".parse().unwrap(),
                    group: 1,
                };
                Answer::Portals {
                    portals: vec![portal],
                }
            }
        }
    }
}

fn status(export: &ExportSpec) -> ExportStatus {
    ExportStatus {
        iqn: export.iqn.clone(),
        lun: export.lun,
        volume: export.volume,
        size: export.medium.size(),
        read_only: export.read_only,
        attachments: export
            .access
            .iter()
            .map(|access| access.attachment)
            .collect(),
        sessions: 0,
        trouble: None,
    }
}

/// Options over a directory and a store.
pub(super) fn options(directory: &Path, store: Arc<dyn Store>, pool: Arc<dyn Pool>) -> Options {
    Options {
        store,
        backends: vec![Backend {
            name: "file".to_owned(),
            pool,
        }],
        target_socket: directory.join("target.sock"),
        advertised: Vec::new(),
        key_file: directory.join("block.key"),
        host: "node1".to_owned(),
        availability_zone: "nova".to_owned(),
        limits: QuotaLimits::default(),
        over_subscription_percent: 2_000,
        workers: 2,
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        fail_point: None,
    }
}

/// Everything a manager needs.
pub(super) struct World {
    pub(super) target: FakeTarget,
    pub(super) pool: Arc<TestPool>,
    pub(super) store: Arc<dyn Store>,
    directory: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::in_memory(Arc::new(SystemClock::new()));
        Self {
            target: FakeTarget::start(directory.path().join("target.sock")),
            pool: Arc::new(TestPool::open(&directory.path().join("pool"))),
            store: Arc::new(store),
            directory,
        }
    }

    pub(super) fn options(&self) -> Options {
        options(
            self.directory.path(),
            Arc::clone(&self.store),
            self.pool.clone(),
        )
    }

    pub(super) fn start(&self) -> Manager {
        Manager::start(self.options()).unwrap()
    }

    pub(super) fn key_file(&self) -> PathBuf {
        self.options().key_file
    }

    pub(super) fn owner(&self) -> Owner {
        Owner {
            project: "p1".parse().unwrap(),
            user: "u1".parse().unwrap(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        Scope::Project(self.owner().project)
    }

    /// A volume that has become available.
    pub(super) fn available(&self, manager: &Manager, gib: u32) -> VolumeId {
        let new = NewVolume::new(SizeGib::try_from(gib).unwrap());
        let id = manager.create_volume(&self.owner(), new).unwrap().id;
        manager.wait_idle();
        let volume = manager.volume(&self.scope(), id).unwrap().volume;
        assert_eq!(volume.state, VolumeState::Available, "{:?}", volume.fault);
        id
    }

    /// Waits until the catalogue makes this true.
    pub(super) fn until(&self, mut is_so: impl FnMut() -> bool) {
        let volumes = TableName::new("volumes");
        let all = onggi_common_meta::KeyRange::all();
        let from = self
            .store
            .scan(volumes, &all, At::Now, 1)
            .unwrap()
            .revision
            .next();
        let mut watch = self.store.watch(volumes, b"", from).unwrap();
        while !is_so() {
            assert!(!watch.next(PATIENCE).unwrap().is_empty(), "nothing came");
        }
    }

    /// Waits until what the target is told makes this true.
    pub(super) fn until_target(&self, is_so: impl Fn(&FakeTarget) -> bool) {
        for _ in 0..100 {
            if is_so(&self.target) {
                return;
            }
            let told = self.target.shared.told.lock().unwrap();
            // A request between the check and the lock is seen at the next turn.
            drop(
                self.target
                    .shared
                    .changed
                    .wait_timeout(told, PATIENCE / 100)
                    .unwrap(),
            );
        }
        panic!("the target was never told");
    }
}
