//! A LUN as a block device of this machine.
//!
//! Where the kernel has an iSCSI initiator, through open-iscsi. Elsewhere through our own: a helper process, one per
//! attachment, shows the LUN as one file over FUSE, and a loop device shows that file as a disk. The helper lives on
//! when its starter ends, and while the target is away it waits and sends again.
//!
//! What is attached is kept in one directory per attachment: `record.json` (no secrets), `mount/` (the FUSE mount),
//! `helper.log`. A record from before the last boot is nothing but a file; what a dead helper left is cleared away.

mod fuse;
mod helper;
mod record;
mod service;

pub use service::serve_attachment;

use crate::attach::open_iscsi::{self, OpenIscsiError};
use crate::spec::ConnectionSpec;
use helper::HelperSpec;
use onggi_common_host::durable::{self, DurableError};
use onggi_common_host::helper::{Helper, HelperError};
use onggi_common_host::loopback::{self, Attach, LoopDevice, LoopError};
use onggi_common_units::Uuid;
use record::{Process, Record, Records};
use rustix::fs::OFlags;
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a helper has to log in and mount.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a helper has to make everything durable and to end after its mount is gone.
const END_TIME_MAX: Duration = Duration::from_secs(60);
/// How long the kernel has to let go of a device or a mount.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(5);
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// How local attachments are kept and served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPlace {
    /// Where the records of attachments are.
    pub state_dir: PathBuf,
    /// The program whose hidden command serves an attachment.
    pub helper_program: PathBuf,
    /// The hidden command; it calls [`serve_attachment`].
    pub helper_arguments: Vec<OsString>,
}

/// How an attachment is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalMethod {
    /// By the kernel's initiator.
    OpenIscsi,
    /// By our own initiator, FUSE and a loop device.
    FuseLoop,
}

/// A LUN that is a block device of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAttachment {
    /// The attachment.
    pub attachment: Uuid,
    /// The volume.
    pub volume: Uuid,
    /// The device.
    pub device: PathBuf,
    /// How.
    pub method: LocalMethod,
}

/// What this machine remembers of an attachment, whether it is still there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRecord {
    /// The attachment.
    pub attachment: Uuid,
    /// The volume.
    pub volume: Uuid,
    /// The device it has; `None` when attaching did not finish, its helper died, or the machine was started again.
    pub device: Option<PathBuf>,
}

/// Why a LUN cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The machine lacks what is needed.
    #[error("this machine cannot show volumes as block devices: {what}")]
    Unavailable {
        /// What is missing and what to do.
        what: String,
    },
    /// The helper could not be started.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The helper says why it cannot serve the LUN.
    #[error("{message}")]
    Target {
        /// Its words.
        message: String,
    },
    /// There is no loop device for it.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// open-iscsi could not do it.
    #[error(transparent)]
    OpenIscsi(#[from] OpenIscsiError),
    /// The device is in use.
    #[error("{device} is in use ({by}): unmount it first", device = device.display())]
    Busy {
        /// The device.
        device: PathBuf,
        /// By what.
        by: String,
    },
    /// What was written could not be made durable: the target is away.
    #[error("what was written to {device} cannot be brought to the target: {source}", device = device.display())]
    NotFlushed {
        /// The device.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing with this id is attached here.
    #[error("{id} is not attached to this machine")]
    NotAttached {
        /// The attachment or volume.
        id: Uuid,
    },
    /// A file of the attachment could not be kept.
    #[error(transparent)]
    Record(#[from] DurableError),
    /// The machine refused a step.
    #[error("{what} {path}: {source}", path = path.display())]
    Step {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A record is damaged.
    #[error("the record {path} is damaged: {source}; remove it after `losetup -d` and `umount`", path = path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

fn step(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::Step { what, path, source }
}

/// Shows a LUN as a block device of this machine. An attachment that is there already is answered as it is.
///
/// # Errors
/// When the machine lacks what is needed, or the target cannot be reached or refuses.
pub fn attach(spec: &ConnectionSpec, place: &LocalPlace) -> Result<LocalAttachment, LocalError> {
    if !rustix::process::geteuid().is_root() {
        let what = "only root can attach; as another user reach the volume with an iSCSI client";
        return Err(LocalError::Unavailable {
            what: what.to_owned(),
        });
    }
    let records = Records::lock(&place.state_dir)?;
    if let Some(record) = records.find(spec.attachment)? {
        if let Some(attachment) = living(&record) {
            return Ok(attachment);
        }
        clear(&records, &record)?;
    }
    if open_iscsi::is_available() {
        let device = open_iscsi::attach(spec)?;
        let record = Record::open_iscsi(spec, device);
        records.put(&record)?;
        return living(&record).ok_or(LocalError::NotAttached {
            id: spec.attachment,
        });
    }
    attach_by_fuse(spec, place, &records)
}

fn attach_by_fuse(
    spec: &ConnectionSpec,
    place: &LocalPlace,
    records: &Records,
) -> Result<LocalAttachment, LocalError> {
    if !Path::new("/dev/fuse").exists() {
        let what = "there is neither an iSCSI initiator in the kernel nor FUSE (`modprobe fuse`)";
        return Err(LocalError::Unavailable {
            what: what.to_owned(),
        });
    }
    loopback::available()?;
    let directory = records.directory(spec.attachment);
    let mount = directory.join("mount");
    durable::create_dir_all(&mount)?;
    let log_path = directory.join("helper.log");
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(step("opening", &log_path))?;
    let input = HelperSpec::new(spec, &mount).to_json();
    // Before the helper: whoever finds this record knows where a helper may be mounted.
    let mut record = Record::fuse(spec, None);
    records.put(&record)?;
    let mut helper = Helper::start(
        &place.helper_program,
        &place.helper_arguments,
        input.as_bytes(),
        log,
    )?;
    record.helper = Some(Process::of(helper.id()));
    records.put(&record)?;
    let outcome = finish_attach(spec, &mount, &mut helper, &mut record, records);
    match outcome {
        Ok(attachment) => {
            helper.release();
            Ok(attachment)
        }
        Err(error) => {
            drop(helper);
            clear(records, &record)?;
            Err(error)
        }
    }
}

fn finish_attach(
    spec: &ConnectionSpec,
    mount: &Path,
    helper: &mut Helper,
    record: &mut Record,
    records: &Records,
) -> Result<LocalAttachment, LocalError> {
    let line = helper.first_line(READY_TIME_MAX)?;
    let block_bytes = match line.split_once(' ') {
        Some(("ready", block_bytes)) => block_bytes.parse().ok(),
        Some(("error", message)) => {
            return Err(LocalError::Target {
                message: message.to_owned(),
            });
        }
        _ => None,
    };
    let Some(block_bytes) = block_bytes else {
        return Err(LocalError::Target {
            message: format!("the helper said {line:?}"),
        });
    };
    let device = Attach::new(mount.join(fuse::FILE_NAME))
        .read_only(spec.is_read_only)
        .direct_io(true)
        .block_size(block_bytes)
        .attach()?;
    record.device = Some(device.path().to_owned());
    if let Err(error) = records.put(record) {
        device.detach()?;
        return Err(error);
    }
    living(record).ok_or(LocalError::NotAttached {
        id: spec.attachment,
    })
}

/// Takes a block device away; `id` is the attachment or the volume. Of an attachment that died (its helper or its
/// starter was killed, the machine was started again) everything that is left is cleared away.
///
/// # Errors
/// When it is not attached, still in use, or what was written to it cannot be brought to the target.
pub fn detach(id: Uuid, state_dir: &Path) -> Result<(), LocalError> {
    let records = Records::lock(state_dir)?;
    let record = records.find(id)?.ok_or(LocalError::NotAttached { id })?;
    let Some(attachment) = living(&record) else {
        return clear(&records, &record);
    };
    match record.method {
        LocalMethod::OpenIscsi => {
            check_unused(&attachment.device)?;
            flush(&attachment.device)?;
            open_iscsi::detach(&record.iqn, &record.portals)?;
        }
        LocalMethod::FuseLoop => {
            let mount = records.directory(record.attachment).join("mount");
            // A detach that found the device open made the kernel let go of it later: then only the rest is left.
            if loops_showing(&mount).contains(&attachment.device) {
                check_unused(&attachment.device)?;
                flush(&attachment.device)?;
                release_loop(&attachment.device)?;
            }
            unmount(&mount)?;
            if let Some(process) = &record.helper {
                process
                    .wait_for_end(END_TIME_MAX)
                    .map_err(step("waiting for the helper of", &mount))?;
            }
        }
    }
    records.remove(&record)
}

/// All attachments this machine remembers, dead ones too: [`detach`] takes any of them away.
///
/// # Errors
/// When the records cannot be read.
pub fn list(state_dir: &Path) -> Result<Vec<LocalRecord>, LocalError> {
    if !state_dir.exists() {
        return Ok(Vec::new());
    }
    let records = Records::lock(state_dir)?.all()?;
    let entries = records.iter().map(|record| LocalRecord {
        attachment: record.attachment,
        volume: record.volume,
        device: living(record).map(|attachment| attachment.device),
    });
    Ok(entries.collect())
}

/// What a record says, if it still holds.
fn living(record: &Record) -> Option<LocalAttachment> {
    let is_alive = match record.method {
        LocalMethod::OpenIscsi => record.device.as_ref().is_some_and(|device| device.exists()),
        LocalMethod::FuseLoop => record.helper.as_ref().is_some_and(Process::is_alive),
    };
    let device = record
        .device
        .clone()
        .filter(|_| is_alive && record.is_of_this_boot())?;
    let Record {
        attachment,
        volume,
        method,
        ..
    } = *record;
    Some(LocalAttachment {
        attachment,
        volume,
        device,
        method,
    })
}

/// Clears away what an attachment that is not alive left behind.
fn clear(records: &Records, record: &Record) -> Result<(), LocalError> {
    if record.method == LocalMethod::FuseLoop && record.is_of_this_boot() {
        let mount = records.directory(record.attachment).join("mount");
        // Not the record's device: attaching may have ended before it was written down.
        let devices = loops_showing(&mount);
        for device in &devices {
            check_unused(device)?;
        }
        // First the helper: what is not answered yet fails then, instead of holding up the rest.
        if let Some(process) = &record.helper {
            process.kill();
        }
        for device in &devices {
            release_loop(device)?;
        }
        detach_mount(&mount)?;
    }
    records.remove(record)
}

/// The loop devices that show the file of a mount. Only sysfs is asked: a dead helper's file answers nothing.
fn loops_showing(mount: &Path) -> Vec<PathBuf> {
    let file = mount.join(fuse::FILE_NAME);
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten();
    let devices = entries.filter_map(|entry| Some(Path::new("/dev").join(entry.ok()?.file_name())));
    devices
        .filter(|device| backing_of(device).is_some_and(|backing| backing == file))
        .collect()
}

/// The file a loop device shows, if it shows any.
fn backing_of(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?.to_str()?;
    let path = format!("/sys/block/{name}/loop/backing_file");
    let backing = std::fs::read_to_string(path).ok()?;
    Some(PathBuf::from(backing.trim_end_matches('\n')))
}

/// Refuses a device that is mounted, part of a volume group, swapped to, or otherwise held.
fn check_unused(device: &Path) -> Result<(), LocalError> {
    let flags = i32::try_from(OFlags::EXCL.bits()).unwrap_or_default();
    match std::fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(device)
    {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            let by = mounted_at(device).map_or_else(
                || "held by device-mapper, swap or another program".to_owned(),
                |at| format!("mounted at {at}"),
            );
            Err(LocalError::Busy {
                device: device.to_owned(),
                by,
            })
        }
        // A device that vanished is not in use.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(step("opening", device)(error)),
    }
}

fn mounted_at(device: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let is_it = Path::new(fields.next()?) == device;
        fields.next().filter(|_| is_it).map(str::to_owned)
    })
}

/// Brings what was written to the target, and makes the target keep it.
fn flush(device: &Path) -> Result<(), LocalError> {
    let synced = std::fs::File::open(device).and_then(|file| file.sync_all());
    synced.map_err(|source| LocalError::NotFlushed {
        device: device.to_owned(),
        source,
    })
}

fn release_loop(path: &Path) -> Result<(), LocalError> {
    let Some(device) = LoopDevice::from_path(path) else {
        return Ok(());
    };
    device.detach()?;
    let is_released = wait_until(RELEASE_TIME_MAX, || Ok(backing_of(path).is_none()));
    if is_released? {
        return Ok(());
    }
    let by = "another program has it open; it is detached when that closes it".to_owned();
    Err(LocalError::Busy {
        device: path.to_owned(),
        by,
    })
}

/// Unmounts the helper's file system: the helper then takes leave of the target and ends.
fn unmount(mount: &Path) -> Result<(), LocalError> {
    let mut last = None;
    let is_done = wait_until(RELEASE_TIME_MAX, || {
        match rustix::mount::unmount(mount, UnmountFlags::empty()) {
            // Not a mount point: it is gone already.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(true),
            Err(errno) => {
                last = Some(errno);
                Ok(false)
            }
        }
    })?;
    match last {
        Some(errno) if !is_done => Err(step("unmounting", mount)(errno.into())),
        _ => Ok(()),
    }
}

/// Unmounts what nobody serves any more.
fn detach_mount(mount: &Path) -> Result<(), LocalError> {
    match rustix::mount::unmount(mount, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(step("unmounting", mount)(errno.into())),
    }
}

fn wait_until(
    limit: Duration,
    mut is_so: impl FnMut() -> Result<bool, LocalError>,
) -> Result<bool, LocalError> {
    let clock = onggi_common_host::SystemClock::new();
    loop {
        if is_so()? {
            return Ok(true);
        }
        if onggi_common_host::Clock::monotonic(&clock) >= limit {
            return Ok(false);
        }
        std::thread::sleep(RELEASE_PAUSE);
    }
}
