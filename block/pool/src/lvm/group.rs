//! The volume group under the pool: made once, found again at each start, never made over something that is not ours.
//!
//! A marker in the state directory remembers that the group was made, under which id, and how large its ground was. It
//! is written without the id before anything is made, and with it afterwards; so whatever a crash leaves is told apart
//! from what somebody else put there.

use crate::error::PoolError;
use crate::lvm::config::{self, Surroundings};
use crate::lvm::error::LvmError;
use crate::lvm::names::{TAG_OURS, VgName};
use crate::lvm::report::{self, Group, PhysicalVolume};
use crate::lvm::worker::{Worker, WorkerOptions};
use crate::lvm::{device_mapper, ground, hints};
use crate::pool::PoolKind;
use core::time::Duration;
use ground::Ground;
use onggi_common_host::durable::{self, Visibility};
use onggi_common_units::ByteCount;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The smallest ground: below it LVM's own metadata would take too much of it.
pub const SIZE_MIN: ByteCount = ByteCount::from_mib(64);

/// The size of an extent. Volumes have whole GiB, so any size that divides a GiB wastes nothing.
const EXTENT_SIZE: &str = "4m";

/// LVM keeps two copies of a group's description in here; the usual 1 MiB ends at some hundred volumes.
const METADATA_SIZE: &str = "16m";

const DATA_ALIGNMENT: &str = "1m";
const MARKER_VERSION: u32 = 1;
const THIN_POOL_SHARE: &str = "95%FREE";

/// LVM's exit status for a command that failed; among other things for a group that is not there.
const STATUS_FAILED: i32 = 5;

/// What the volume group lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A sparse file, shown as a loop device; made at first start, grown when the size here grows.
    LoopFile {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: ByteCount,
    },
    /// A disk or partition, used whole.
    Disk(PathBuf),
}

/// Whether volumes are activated in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// With device-mapper where there is one (thin, unless the group already has other volumes), without elsewhere.
    Auto,
    /// Never: volumes are served through their physical extents.
    Never,
    /// Linear volumes, activated; device-mapper is needed.
    Thick,
    /// Thin volumes, activated; device-mapper is needed.
    Thin,
}

/// How an LVM pool is to be.
#[derive(Debug, Clone)]
pub struct LvmOptions {
    /// The volume group.
    pub group: VgName,
    /// What it lies on.
    pub backing: Backing,
    /// Where the pool keeps its marker, its lock and LVM's configuration. A directory of its own.
    pub state_dir: PathBuf,
    /// The program `onggi-lvm-worker`.
    pub worker: PathBuf,
    /// Whether LVM runs as a program for each command even where its library is built in.
    pub lvm_as_program: bool,
    /// Whether volumes are activated in the kernel.
    pub activation: Activation,
    /// How many bytes of removed volumes are zeroed in a second, at most.
    pub reclaim_per_second: ByteCount,
    /// How long an LVM command may take.
    pub command_limit: Duration,
}

impl LvmOptions {
    /// The usual options: what differs from one machine to the other must be given.
    #[must_use]
    pub fn new(group: VgName, backing: Backing, state_dir: PathBuf, worker: PathBuf) -> Self {
        Self {
            group,
            backing,
            state_dir,
            worker,
            lvm_as_program: false,
            activation: Activation::Auto,
            reclaim_per_second: ByteCount::from_gib(1),
            command_limit: Duration::from_secs(60),
        }
    }

    fn marker_path(&self) -> PathBuf {
        self.state_dir.join("group.json")
    }
}

/// A group that can be used.
pub(crate) struct Prepared {
    pub(crate) name: VgName,
    pub(crate) worker: Worker,
    pub(crate) ground: Ground,
    pub(crate) kind: PoolKind,
    /// Held as long as the pool is open.
    pub(crate) lock: File,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marker {
    version: u32,
    group: String,
    pub(crate) size: ByteCount,
    pub(crate) group_uuid: Option<String>,
}

/// Makes the group ready, making it if it was never made.
pub(crate) fn prepare(options: &LvmOptions) -> Result<Prepared, PoolError> {
    durable::create_dir_all(&options.state_dir)?;
    let lock = take_lock(options)?;
    let marker = read_marker(options)?;
    let uses_kernel = uses_kernel(options)?;
    let begin = || write_marker(options, &Marker::making(options));
    let ground = ground::lay(options, marker.as_ref(), begin)?;
    match prepare_on(options, &ground, marker.as_ref(), uses_kernel) {
        Ok((worker, kind)) => Ok(Prepared {
            name: options.group.clone(),
            worker,
            ground,
            kind,
            lock,
        }),
        Err(error) => {
            ground.give_up();
            Err(error)
        }
    }
}

fn prepare_on(
    options: &LvmOptions,
    ground: &Ground,
    marker: Option<&Marker>,
    uses_kernel: bool,
) -> Result<(Worker, PoolKind), PoolError> {
    let surroundings = Surroundings {
        activation: uses_kernel,
        udev: device_mapper::has_udev(),
    };
    let text = config::text(&ground.device, surroundings);
    let system_dir = options.state_dir.join("lvm");
    durable::create_dir_all(&system_dir)?;
    durable::replace(
        &system_dir.join("lvm.conf"),
        text.as_bytes(),
        Visibility::World,
    )?;
    let worker = Worker::new(WorkerOptions {
        program: options.worker.clone(),
        as_program: options.lvm_as_program,
        system_dir,
        time_limit: options.command_limit,
    });
    let group = find_or_make(options, &worker, ground, marker)?;
    let group = grow(options, &worker, group)?;
    hints::outdate();
    let made = Marker {
        group_uuid: Some(group.uuid.clone()),
        size: ground.size,
        ..Marker::making(options)
    };
    if marker != Some(&made) {
        write_marker(options, &made)?;
    }
    let kind = if uses_kernel {
        kernel_kind(options, &worker, &group)?
    } else {
        PoolKind::LvmMapped
    };
    Ok((worker, kind))
}

impl Marker {
    fn making(options: &LvmOptions) -> Self {
        Self {
            version: MARKER_VERSION,
            group: options.group.to_string(),
            size: ByteCount::ZERO,
            group_uuid: None,
        }
    }
}

fn take_lock(options: &LvmOptions) -> Result<File, PoolError> {
    let path = options.state_dir.join("lock");
    let open = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = open.map_err(PoolError::io("opening", &path))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LvmError::InUse {
            group: options.group.clone(),
            path,
        }
        .into()),
        Err(errno) => Err(PoolError::io("locking", path)(errno)),
    }
}

fn read_marker(options: &LvmOptions) -> Result<Option<Marker>, PoolError> {
    let path = options.marker_path();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PoolError::io("reading", path)(error)),
    };
    let marker: Marker = match serde_json::from_str(&text) {
        Ok(marker) => marker,
        Err(source) => return Err(LvmError::Marker { path, source }.into()),
    };
    if marker.version != MARKER_VERSION || marker.group != options.group.as_str() {
        let reason = format!(
            "{} is of version {} for group {}: it belongs to another pool or a newer program",
            path.display(),
            marker.version,
            marker.group
        );
        return Err(LvmError::GroupUnfit {
            group: options.group.clone(),
            reason,
        }
        .into());
    }
    Ok(Some(marker))
}

fn write_marker(options: &LvmOptions, marker: &Marker) -> Result<(), PoolError> {
    let path = options.marker_path();
    let text = serde_json::to_vec(marker)
        .map_err(io::Error::other)
        .map_err(PoolError::io("writing", &path))?;
    Ok(durable::replace(&path, &text, Visibility::World)?)
}

fn uses_kernel(options: &LvmOptions) -> Result<bool, PoolError> {
    let must = match options.activation {
        Activation::Never => return Ok(false),
        Activation::Auto => false,
        Activation::Thick | Activation::Thin => true,
    };
    let can = device_mapper::is_usable();
    if must && !can {
        let reason =
            "the kernel has no device-mapper, which thick and thin volumes need".to_owned();
        return Err(LvmError::GroupUnfit {
            group: options.group.clone(),
            reason,
        }
        .into());
    }
    Ok(can)
}

/// The group as it is now; `None` when there is none of this name on our device.
pub(crate) fn inventory(worker: &Worker, name: &VgName) -> Result<Option<Group>, LvmError> {
    let words = report::COMMAND
        .into_iter()
        .chain([name.as_str()])
        .map(str::to_owned)
        .collect();
    let response = worker.ask(words)?;
    let is_absent = response.log.contains("not found");
    match response.status {
        0 => Ok(report::parse(&response.stdout)?),
        STATUS_FAILED if is_absent => Ok(None),
        status => Err(LvmError::Command {
            command: "fullreport".to_owned(),
            status,
            log: response.log,
        }),
    }
}

fn find_or_make(
    options: &LvmOptions,
    worker: &Worker,
    ground: &Ground,
    marker: Option<&Marker>,
) -> Result<Group, LvmError> {
    let group = options.group.clone();
    let known = marker.and_then(|marker| marker.group_uuid.as_deref());
    if let Some(found) = inventory(worker, &group)? {
        check(options, ground, &found, known)?;
        return Ok(found);
    }
    if known.is_some() {
        return Err(LvmError::GroupLost {
            group,
            path: ground.medium.clone(),
            marker: options.marker_path(),
        });
    }
    // With a marker that has no id we were cut short while making it; else only blank ground may be built on.
    if marker.is_none() && !ground.is_blank {
        return Err(LvmError::BackingForeign {
            group,
            path: ground.medium.clone(),
        });
    }
    if is_taken(worker, &group)? {
        return Err(LvmError::GroupForeign {
            group,
            reason: "another device has a group of this name",
        });
    }
    make(worker, &group, &ground.device)?;
    let made = inventory(worker, &group)?;
    made.ok_or_else(|| LvmError::GroupUnfit {
        group,
        reason: "it was made and is not there".to_owned(),
    })
}

fn check(
    options: &LvmOptions,
    ground: &Ground,
    found: &Group,
    known: Option<&str>,
) -> Result<(), LvmError> {
    let group = || options.group.clone();
    if !found.tags.iter().any(|tag| tag == TAG_OURS) {
        return Err(LvmError::GroupForeign {
            group: group(),
            reason: "it has no tag `onggi`",
        });
    }
    if known.is_some_and(|known| known != found.uuid) {
        return Err(LvmError::GroupForeign {
            group: group(),
            reason: "it has another id than the one made here",
        });
    }
    if found.missing_count > 0 || found.physical.len() != 1 {
        let reason = format!(
            "it spans {} devices, {} missing",
            found.physical.len(),
            found.missing_count
        );
        return Err(LvmError::GroupUnfit {
            group: group(),
            reason,
        });
    }
    for device in &found.physical {
        let needed = found
            .extents(device.extent_count)
            .checked_add(device.extents_start);
        let expected = needed.unwrap_or(ByteCount::new(u64::MAX));
        if device.device_size < expected {
            let (path, size) = (ground.medium.clone(), device.device_size);
            return Err(LvmError::BackingTruncated {
                group: group(),
                path,
                found: size,
                expected,
            });
        }
    }
    Ok(())
}

/// Whether another device of the machine has a group of this name. Looks, once, at what is otherwise kept out of sight.
fn is_taken(worker: &Worker, group: &VgName) -> Result<bool, LvmError> {
    let all = r#"devices{filter=["a|.*|"] global_filter=["a|.*|"]}"#;
    let words = [
        "vgs",
        "--noheadings",
        "-o",
        "vg_uuid",
        "--config",
        all,
        group.as_str(),
    ];
    let response = worker.ask(words.map(str::to_owned).to_vec())?;
    match response.status {
        0 => Ok(true),
        STATUS_FAILED if response.log.contains("not found") => Ok(false),
        status => Err(LvmError::Command {
            command: "vgs".to_owned(),
            status,
            log: response.log,
        }),
    }
}

fn make(worker: &Worker, group: &VgName, device: &Path) -> Result<(), LvmError> {
    let device = device.to_string_lossy();
    // No --yes: where LVM sees a signature it would ask whether to wipe it, and gets no answer.
    let words = [
        "vgcreate",
        "--metadatasize",
        METADATA_SIZE,
        "--dataalignment",
        DATA_ALIGNMENT,
        "--physicalextentsize",
        EXTENT_SIZE,
        "--setautoactivation",
        "n",
        "--addtag",
        TAG_OURS,
        group.as_str(),
        &device,
    ];
    worker.run(words).map(drop)
}

/// Takes over ground that has grown: there is room for another extent behind the last one.
fn grow(options: &LvmOptions, worker: &Worker, group: Group) -> Result<Group, LvmError> {
    let has_room = |device: &PhysicalVolume| {
        let next_end = group
            .extents(device.extent_count.saturating_add(1))
            .checked_add(device.extents_start);
        next_end.is_some_and(|end| end <= device.device_size)
    };
    let Some(device) = group.physical.iter().find(|device| has_room(device)) else {
        return Ok(group);
    };
    worker.run(["pvresize", &device.name.to_string_lossy()])?;
    Ok(inventory(worker, &options.group)?.unwrap_or(group))
}

/// The name of a group's thin pool, as Cinder names it.
pub(crate) fn thin_pool_name(group: &VgName) -> String {
    format!("{group}-pool")
}

fn kernel_kind(options: &LvmOptions, worker: &Worker, group: &Group) -> Result<PoolKind, LvmError> {
    let pool = thin_pool_name(&options.group);
    let has_pool = group.volume(&pool).is_some();
    let make = || {
        let words = [
            "lvcreate",
            "--type",
            "thin-pool",
            "-Zy",
            "-l",
            THIN_POOL_SHARE,
            "-n",
            &pool,
            "--addtag",
            TAG_OURS,
        ];
        worker
            .run(words.into_iter().chain([options.group.as_str()]))
            .map(drop)
    };
    match options.activation {
        Activation::Thick | Activation::Never => Ok(PoolKind::LvmThick),
        Activation::Thin | Activation::Auto if has_pool => Ok(PoolKind::LvmThin),
        Activation::Thin => make().map(|()| PoolKind::LvmThin),
        Activation::Auto if !group.logical.is_empty() => Ok(PoolKind::LvmThick),
        Activation::Auto => match make() {
            Ok(()) => Ok(PoolKind::LvmThin),
            Err(error) => {
                tracing::warn!(group = %options.group, %error, "no thin pool can be made here: volumes will be thick");
                Ok(PoolKind::LvmThick)
            }
        },
    }
}
