//! What is attached, in files: no secrets, one writer at a time.

use super::{LocalError, LocalMethod, step};
use crate::spec::ConnectionSpec;
use onggi_common_host::durable::{self, Visibility};
use onggi_common_units::Uuid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Process {
    id: u32,
    /// When it was started, in the kernel's ticks since boot.
    started: u64,
}

impl Process {
    pub(super) fn of(id: u32) -> Self {
        Self {
            id,
            started: started(id).unwrap_or(0),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.handle().is_some()
    }

    /// A handle to it, if it is still this one.
    fn handle(&self) -> Option<OwnedFd> {
        let id = Pid::from_raw(i32::try_from(self.id).ok()?)?;
        let handle = rustix::process::pidfd_open(id, PidfdFlags::empty()).ok()?;
        (self.started != 0 && started(self.id) == Some(self.started)).then_some(handle)
    }

    pub(super) fn kill(&self) {
        if let Some(handle) = self.handle() {
            // It may end by itself in between.
            rustix::process::pidfd_send_signal(&handle, Signal::KILL).ok();
        }
    }

    /// Waits for its end.
    pub(super) fn wait_for_end(&self, limit: Duration) -> io::Result<()> {
        let Some(handle) = self.handle() else {
            return Ok(());
        };
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut descriptors = [PollFd::new(&handle, PollFlags::IN)];
        match rustix::event::poll(&mut descriptors, Some(&limit)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// proc(5): the 22nd field of `stat`; the second, the name, may contain spaces. A dead process that nobody waited
/// for yet counts as gone.
fn started(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.unwrap_or_default().trim().to_owned()
}

/// An attachment as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) attachment: Uuid,
    pub(super) volume: Uuid,
    pub(super) method: LocalMethod,
    pub(super) iqn: String,
    pub(super) portals: Vec<String>,
    /// Missing while attaching is under way.
    pub(super) device: Option<PathBuf>,
    pub(super) helper: Option<Process>,
    boot_id: String,
}

impl Record {
    pub(super) fn fuse(spec: &ConnectionSpec, helper: Option<Process>) -> Self {
        Self {
            attachment: spec.attachment,
            volume: spec.volume,
            method: LocalMethod::FuseLoop,
            iqn: spec.iqn.clone(),
            portals: spec.portals.clone(),
            device: None,
            helper,
            boot_id: boot_id(),
        }
    }

    pub(super) fn open_iscsi(spec: &ConnectionSpec, device: PathBuf) -> Self {
        Self {
            method: LocalMethod::OpenIscsi,
            device: Some(device),
            ..Self::fuse(spec, None)
        }
    }

    pub(super) fn is_of_this_boot(&self) -> bool {
        self.boot_id == boot_id()
    }
}

const RECORD_BYTES_MAX: u64 = 64 << 10;

/// The records of one state directory, locked.
#[derive(Debug)]
pub(super) struct Records {
    root: PathBuf,
    _lock: File,
}

impl Records {
    /// Waits for other users of the records, then locks them until this is dropped.
    pub(super) fn lock(state_dir: &Path) -> Result<Self, LocalError> {
        let root = state_dir.join("attachments");
        durable::create_dir_all(&root)?;
        // The kernel names a loop device's file by its real path.
        let root = std::fs::canonicalize(&root).map_err(step("resolving", &root))?;
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(step("opening", &path))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| step("locking", &path)(errno.into()))?;
        let records = Self { root, _lock: lock };
        records.sweep();
        Ok(records)
    }

    /// Removes directories without a record: attaching was killed before anything was started or shown.
    fn sweep(&self) {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten();
        for directory in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if directory.is_dir() && !directory.join("record.json").exists() {
                // What cannot be removed is in nobody's way.
                drop(remove_directory(&directory));
            }
        }
    }

    /// The directory of an attachment.
    pub(super) fn directory(&self, attachment: Uuid) -> PathBuf {
        self.root.join(attachment.to_string())
    }

    pub(super) fn put(&self, record: &Record) -> Result<(), LocalError> {
        let directory = self.directory(record.attachment);
        durable::create_dir_all(&directory)?;
        let path = directory.join("record.json");
        let damaged = |source| LocalError::Damaged {
            path: path.clone(),
            source,
        };
        let bytes = serde_json::to_vec_pretty(record).map_err(damaged)?;
        Ok(durable::replace(&path, &bytes, Visibility::Owner)?)
    }

    pub(super) fn all(&self) -> Result<Vec<Record>, LocalError> {
        let mut records = Vec::new();
        let entries = std::fs::read_dir(&self.root).map_err(step("listing", &self.root))?;
        for entry in entries {
            let path = entry
                .map_err(step("listing", &self.root))?
                .path()
                .join("record.json");
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.len() <= RECORD_BYTES_MAX => {}
                Ok(_) | Err(_) => continue,
            }
            let bytes = std::fs::read(&path).map_err(step("reading", &path))?;
            let record = serde_json::from_slice(&bytes);
            records.push(record.map_err(|source| LocalError::Damaged { path, source })?);
        }
        Ok(records)
    }

    /// The record of an attachment or of a volume.
    pub(super) fn find(&self, id: Uuid) -> Result<Option<Record>, LocalError> {
        let mut records = self.all()?;
        records.retain(|record| record.attachment == id || record.volume == id);
        Ok(records.into_iter().next())
    }

    pub(super) fn remove(&self, record: &Record) -> Result<(), LocalError> {
        let directory = self.directory(record.attachment);
        // The record goes first: without it the rest is only litter.
        durable::remove(&directory.join("record.json"))?;
        remove_directory(&directory)
    }
}

/// Removes an attachment's directory, with its mount point and its files: the log, and what a killed process was
/// writing.
fn remove_directory(directory: &Path) -> Result<(), LocalError> {
    let mount = directory.join("mount");
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path != mount {
            durable::remove(&path)?;
        }
    }
    for path in [&mount, directory] {
        match std::fs::remove_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(step("removing", path)(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(attachment: u8, volume: u8) -> Record {
        let spec = ConnectionSpec {
            volume: Uuid::from_bytes([volume; 16]),
            attachment: Uuid::from_bytes([attachment; 16]),
            portals: vec!["127.0.0.1:3260".to_owned()],
            iqn: "iqn.2026-01.org.example:vol".to_owned(),
            lun: 1,
            initiator_name: "iqn.2026-01.org.example:host".to_owned(),
            chap: None,
            mutual_chap: None,
            is_read_only: false,
        };
        Record::fuse(&spec, Some(Process::of(std::process::id())))
    }

    #[test]
    fn a_record_is_found_by_attachment_and_by_volume() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::lock(dir.path()).unwrap();
        records.put(&record(1, 2)).unwrap();
        records.put(&record(3, 4)).unwrap();
        for id in [1, 2] {
            let found = records.find(Uuid::from_bytes([id; 16])).unwrap().unwrap();
            assert_eq!(found, record(1, 2));
        }
        assert!(records.find(Uuid::from_bytes([9; 16])).unwrap().is_none());
        records.remove(&record(1, 2)).unwrap();
        assert_eq!(records.all().unwrap().len(), 1);
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_id() {
        let own = Process::of(std::process::id());
        assert!(own.is_alive());
        assert!(
            !Process {
                started: own.started + 1,
                ..own.clone()
            }
            .is_alive()
        );
        assert!(!Process::of(u32::MAX).is_alive());
    }

    #[test]
    fn a_record_of_another_boot_is_not_of_this_one() {
        let mut old = record(1, 2);
        assert!(old.is_of_this_boot());
        old.boot_id = "before".to_owned();
        assert!(!old.is_of_this_boot());
        assert!(super::super::living(&old).is_none());
    }

    #[test]
    fn a_dead_attachment_is_listed_and_can_be_detached() {
        let dir = tempfile::tempdir().unwrap();
        let mut dead = record(1, 2);
        dead.device = Some(PathBuf::from("/dev/loop-that-is-gone"));
        dead.helper = Some(Process { id: 1, started: 0 });
        Records::lock(dir.path()).unwrap().put(&dead).unwrap();
        let expected = super::super::LocalRecord {
            attachment: dead.attachment,
            volume: dead.volume,
            device: None,
        };
        assert_eq!(super::super::list(dir.path()).unwrap(), [expected]);
        super::super::detach(dead.attachment, dir.path()).unwrap();
        assert_eq!(super::super::list(dir.path()).unwrap(), []);
        let directory = dir
            .path()
            .join("attachments")
            .join(dead.attachment.to_string());
        assert!(!directory.exists());
    }

    #[test]
    fn what_a_killed_attach_was_writing_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::lock(dir.path()).unwrap();
        let litter = |attachment| {
            let directory = records.directory(Uuid::from_bytes([attachment; 16]));
            durable::create_dir_all(&directory.join("mount")).unwrap();
            let path = directory.join("record.json.7.tmp");
            durable::replace(&path, b"{", Visibility::Owner).unwrap();
            directory
        };
        let (recorded, bare) = (litter(1), litter(3));
        records.put(&record(1, 2)).unwrap();
        records.sweep();
        assert!(recorded.exists() && !bare.exists());
        records.remove(&record(1, 2)).unwrap();
        assert!(!recorded.exists());
    }

    #[test]
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::lock(dir.path()).unwrap();
        records.put(&record(1, 2)).unwrap();
        let path = records
            .directory(Uuid::from_bytes([1; 16]))
            .join("record.json");
        durable::replace(&path, b"{", Visibility::Owner).unwrap();
        let error = records.all().unwrap_err();
        assert!(error.to_string().contains("record.json"), "{error}");
    }
}
