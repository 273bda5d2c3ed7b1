//! A volume group of a test's own, which leaves nothing behind, also after a panic.

use core::time::Duration;
use onggi_block_medium::MediumSpec;
use onggi_block_pool::lvm::{Activation, Backing, LvmOptions};
use onggi_block_pool::{Labels, LvmPool, PoolError};
use onggi_common_host::loopback;
use onggi_common_host::run::Run;
use onggi_common_host::{Clock, Entropy, SystemClock, SystemEntropy};
use onggi_common_units::{ByteCount, Uuid};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// How long anything here may take.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The directory, the backing file and the name of a test's group.
pub(crate) struct Jar {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) options: LvmOptions,
}

impl Drop for Jar {
    fn drop(&mut self) {
        detach(&self.backing());
    }
}

/// Detaches every loop device that shows a file.
pub(crate) fn detach(backing: &Path) {
    if backing.exists() {
        for device in loopback::find(backing).unwrap() {
            device.detach().unwrap();
        }
    }
}

/// Waits until no loop device shows a file. Another test's `vgs` may look at the device just then, and the kernel
/// detaches only when it is done.
pub(crate) fn is_detached(backing: &Path) -> bool {
    let since = SystemClock::new();
    while since.monotonic() < SOON {
        if loopback::find(backing).unwrap().is_empty() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

impl Jar {
    /// A group of so many MiB that is not made yet; `None` where tests like this cannot run.
    pub(crate) fn new(mib: u64) -> Option<Self> {
        if let Err(error) = loopback::available() {
            println!("skipped, because {error}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let name = format!("onggi-test-{}", SystemEntropy.hex_id());
        let backing = Backing::LoopFile {
            path: dir.path().join("pool.img"),
            size: ByteCount::from_mib(mib),
        };
        let mut options = LvmOptions::new(
            name.parse().unwrap(),
            backing,
            dir.path().join("state"),
            worker().to_owned(),
        );
        options.activation = Activation::Never;
        Some(Self { dir, options })
    }

    pub(crate) fn backing(&self) -> PathBuf {
        self.dir.path().join("pool.img")
    }

    pub(crate) fn open(&self) -> LvmPool {
        self.try_open().unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<LvmPool, PoolError> {
        LvmPool::open(&self.options)
    }

    pub(crate) fn group(&self) -> &str {
        self.options.group.as_str()
    }

    /// Runs an LVM command with the pool's own configuration, as a crash would have left it done.
    pub(crate) fn lvm(&self, words: &[&str]) -> String {
        let run = Run::new("lvm")
            .args(words)
            .env("LVM_SYSTEM_DIR", self.dir.path().join("state/lvm"));
        text(&run.output().unwrap().stdout)
    }
}

/// What a command of the machine prints; its own configuration, as an operator has it.
pub(crate) fn operator(words: &[&str]) -> String {
    text(
        &Run::new(words[0])
            .args(&words[1..])
            .output()
            .unwrap()
            .stdout,
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The worker of this build, built if need be: cargo makes only the programs of the package under test.
fn worker() -> &'static Path {
    static WORKER: OnceLock<PathBuf> = OnceLock::new();
    WORKER.get_or_init(|| {
        if let Some(given) = std::env::var_os("ONGGI_LVM_WORKER") {
            return given.into();
        }
        let program = std::env::current_exe().unwrap();
        let profile = program.parent().and_then(Path::parent).unwrap();
        let target = profile.parent().unwrap();
        let mut build = Run::new(std::env::var("CARGO").unwrap())
            .args([
                "build",
                "--quiet",
                "--package",
                "onggi-block-lvm-worker",
                "--target-dir",
            ])
            .arg(target)
            .time_limit(Duration::from_secs(900));
        if profile.ends_with("release") {
            build = build.arg("--release");
        }
        build.output().unwrap();
        profile.join("onggi-lvm-worker")
    })
}

pub(crate) fn id(number: u8) -> Uuid {
    Uuid::from_random([number; 16])
}

pub(crate) fn labels() -> Labels {
    Labels {
        name: "demo v1, größer".to_owned(),
        project: "7b2c".to_owned(),
    }
}

pub(crate) const fn mib(count: u64) -> ByteCount {
    ByteCount::from_mib(count)
}

/// Writes through the map, as the target does.
pub(crate) fn write(medium: &MediumSpec, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(&medium.path).unwrap();
    let end = offset + u64::try_from(bytes.len()).unwrap();
    for piece in medium.extents.resolve(offset..end).unwrap() {
        let from = usize::try_from(piece.volume_offset - offset).unwrap();
        let length = usize::try_from(piece.length).unwrap();
        file.write_all_at(&bytes[from..from + length], piece.medium_offset)
            .unwrap();
    }
    file.sync_all().unwrap();
}

/// Reads a whole volume through the map.
pub(crate) fn read(medium: &MediumSpec) -> Vec<u8> {
    let file = File::open(&medium.path).unwrap();
    let mut bytes = Vec::new();
    for piece in medium.extents.resolve(0..medium.size().bytes()).unwrap() {
        let mut part = vec![0; usize::try_from(piece.length).unwrap()];
        file.read_exact_at(&mut part, piece.medium_offset).unwrap();
        bytes.extend(part);
    }
    bytes
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Bytes that differ from block to block.
pub(crate) fn pattern(size: ByteCount) -> Vec<u8> {
    let blocks = u32::try_from(size.bytes() / 4).unwrap();
    (0..blocks)
        .flat_map(|block| block.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}
