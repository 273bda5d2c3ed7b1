//! Loop devices: a file shown as a block device.
//!
//! Attaching is one step where the kernel has LOOP_CONFIGURE (5.8 and later), so that no reader ever sees the device
//! with the wrong offset, size or cache mode; older kernels take the several steps of `loopdev`. The number of a free
//! device is only a proposal: whoever configures it first has it, so a lost race asks for the next number.
//!
//! A loop device is found again by the device and inode of its file, not by its name: names can be moved.

#[expect(
    unsafe_code,
    reason = "two ioctls that no crate offers, each with its argument's layout"
)]
mod sys;

use loopdev::LoopDevice as LoopHandle;
use onggi_common_units::ByteCount;
use rustix::fs::{CWD, FileType, Mode};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How often a free device is asked for when others take the proposed ones.
pub const ATTACH_ATTEMPTS_MAX: u32 = 64;

const LOOP_CONTROL: &str = "/dev/loop-control";
const LOOP_CONTROL_MAJOR: u32 = 10;
const LOOP_CONTROL_MINOR: u32 = 237;
const LOOP_MAJOR: u32 = 7;

/// What went wrong with a loop device.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The kernel offers no loop devices, or not to us.
    #[error(
        "loop devices cannot be used: {LOOP_CONTROL}: {source} (root and the kernel's `loop` module are needed)"
    )]
    Unavailable {
        /// Why.
        source: io::Error,
    },
    /// The file cannot be opened.
    #[error("opening {path} for a loop device: {source}")]
    Backing {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others took every device that was proposed.
    #[error(
        "no loop device could be had for {path}: {ATTACH_ATTEMPTS_MAX} proposed ones were taken by others"
    )]
    Contended {
        /// The file.
        path: PathBuf,
    },
    /// A step on one device failed.
    #[error("{action} {device}: {source}")]
    Device {
        /// What was being done.
        action: &'static str,
        /// The device.
        device: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// How a file is to be shown.
#[derive(Debug, Clone)]
pub struct Attach {
    backing: PathBuf,
    offset: u64,
    size_limit: u64,
    read_only: bool,
    direct_io: bool,
    autoclear: bool,
    block_size: u32,
}

impl Attach {
    /// The whole file, writable, with direct I/O, until it is detached.
    #[must_use]
    pub fn new(backing: impl Into<PathBuf>) -> Self {
        Self {
            backing: backing.into(),
            offset: 0,
            size_limit: 0,
            read_only: false,
            direct_io: true,
            autoclear: false,
            block_size: 0,
        }
    }

    /// Only the part from `offset` on, and of it `length` bytes.
    #[must_use]
    pub const fn part(mut self, offset: ByteCount, length: ByteCount) -> Self {
        self.offset = offset.bytes();
        self.size_limit = length.bytes();
        self
    }

    /// Whether writes are refused.
    #[must_use]
    pub const fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether the file's page cache is passed by; where its file system cannot do that, the kernel goes through it.
    #[must_use]
    pub const fn direct_io(mut self, direct_io: bool) -> Self {
        self.direct_io = direct_io;
        self
    }

    /// Whether the kernel detaches the device by itself when its last user closes it.
    #[must_use]
    pub const fn autoclear(mut self, autoclear: bool) -> Self {
        self.autoclear = autoclear;
        self
    }

    /// The logical block size; the kernel's own choice unless given.
    #[must_use]
    pub const fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = bytes;
        self
    }

    /// Shows the file as a loop device.
    ///
    /// # Errors
    /// When there are no loop devices, the file cannot be opened, or the kernel refuses.
    pub fn attach(&self) -> Result<LoopDevice, LoopError> {
        let backing = self.open_backing()?;
        let control = open_control()?;
        for _ in 0..ATTACH_ATTEMPTS_MAX {
            let device = next_free(&control)?;
            match self.configure(&device, &backing) {
                Ok(()) => return Ok(device),
                Err(error) if is_lost_race(&error) => {}
                Err(source) => return Err(device.failed("attaching", source)),
            }
        }
        Err(LoopError::Contended {
            path: self.backing.clone(),
        })
    }

    fn open_backing(&self) -> Result<File, LoopError> {
        File::options()
            .read(true)
            .write(!self.read_only)
            .open(&self.backing)
            .map_err(|source| LoopError::Backing {
                path: self.backing.clone(),
                source,
            })
    }

    fn configure(&self, device: &LoopDevice, backing: &File) -> io::Result<()> {
        let handle = File::options().read(true).write(true).open(&device.path)?;
        let config = sys::Config {
            backing: backing.as_fd(),
            offset: self.offset,
            size_limit: self.size_limit,
            read_only: self.read_only,
            direct_io: self.direct_io,
            autoclear: self.autoclear,
            block_size: self.block_size,
            name: &self.backing,
        };
        match sys::configure(handle.as_fd(), &config) {
            // Before 5.8 the kernel does not know LOOP_CONFIGURE, and says EINVAL. The steps cannot set a block size.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.block_size == 0 => {
                drop(handle);
                self.attach_in_steps(device)
            }
            outcome => outcome,
        }
    }

    fn attach_in_steps(&self, device: &LoopDevice) -> io::Result<()> {
        LoopHandle::open(&device.path)?
            .with()
            .offset(self.offset)
            .size_limit(self.size_limit)
            .read_only(self.read_only)
            .autoclear(self.autoclear)
            .set_direct_io(self.direct_io)
            .attach(&self.backing)
    }
}

/// A loop device, attached or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoopDevice {
    number: u32,
    path: PathBuf,
}

/// What a loop device shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopStatus {
    /// The file, as the kernel knows its name; a removed one ends in ` (deleted)`.
    pub backing: PathBuf,
    /// The device number of the file's file system.
    pub backing_device: u64,
    /// The file's inode number.
    pub backing_inode: u64,
    /// Where in the file it begins.
    pub offset: ByteCount,
    /// How much of the file is shown; zero means all.
    pub size_limit: ByteCount,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether the file's page cache is passed by.
    pub direct_io: bool,
    /// Whether the kernel detaches it by itself.
    pub autoclear: bool,
}

impl LoopDevice {
    fn numbered(number: u32) -> Self {
        Self {
            number,
            path: PathBuf::from(format!("/dev/loop{number}")),
        }
    }

    /// The device a path like `/dev/loop3` names.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<Self> {
        let number = path.to_str()?.strip_prefix("/dev/loop")?.parse().ok()?;
        Some(Self::numbered(number))
    }

    /// Its node, like `/dev/loop3`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it shows; `None` when it shows nothing.
    ///
    /// # Errors
    /// When the device cannot be opened or asked.
    pub fn status(&self) -> Result<Option<LoopStatus>, LoopError> {
        let failed = |source| self.failed("asking", source);
        make_node(&self.path, FileType::BlockDevice, LOOP_MAJOR, self.number).map_err(failed)?;
        let handle = File::open(&self.path).map_err(failed)?;
        match sys::status(handle.as_fd()) {
            Ok(status) => Ok(Some(LoopStatus {
                backing: self.backing_name(),
                backing_device: status.backing_device,
                backing_inode: status.backing_inode,
                offset: ByteCount::new(status.offset),
                size_limit: ByteCount::new(status.size_limit),
                read_only: status.read_only,
                direct_io: status.direct_io,
                autoclear: status.autoclear,
            })),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Its size as a block device.
    ///
    /// # Errors
    /// When sysfs does not tell.
    pub fn size(&self) -> Result<ByteCount, LoopError> {
        let path = PathBuf::from(format!("/sys/block/loop{}/size", self.number));
        let failed = |source| LoopError::Device {
            action: "reading",
            device: path.clone(),
            source,
        };
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        let sectors: u64 = text
            .trim()
            .parse()
            .map_err(io::Error::other)
            .map_err(failed)?;
        // sysfs counts in sectors of 512 bytes whatever the device's block size is.
        Ok(ByteCount::new(sectors.saturating_mul(512)))
    }

    /// Lets go of the file. Users that still have the device open keep it until they close it; a device that shows
    /// nothing is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self) -> Result<(), LoopError> {
        let outcome = LoopHandle::open(&self.path).and_then(|handle| handle.detach());
        match outcome {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
            outcome => outcome.map_err(|source| self.failed("detaching", source)),
        }
    }

    /// Takes over the file's new size after it has grown.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn refresh_size(&self) -> Result<(), LoopError> {
        LoopHandle::open(&self.path)
            .and_then(|handle| handle.set_capacity())
            .map_err(|source| self.failed("resizing", source))
    }

    fn backing_name(&self) -> PathBuf {
        let path = format!("/sys/block/loop{}/loop/backing_file", self.number);
        // It can be detached at any moment; the name is for people, the inode is what counts.
        let name = std::fs::read_to_string(path).unwrap_or_default();
        PathBuf::from(name.trim_end_matches('\n'))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> LoopError {
        LoopError::Device {
            action,
            device: self.path.clone(),
            source,
        }
    }
}

/// The loop devices that show a file, whatever part of it, in no particular order.
///
/// # Errors
/// When the file or a loop device cannot be asked.
pub fn find(backing: &Path) -> Result<Vec<LoopDevice>, LoopError> {
    let failed = |source| LoopError::Backing {
        path: backing.to_owned(),
        source,
    };
    let file = backing.metadata().map_err(failed)?;
    let canonical = backing.canonicalize().map_err(failed)?;
    let (mut by_device, mut by_name) = (Vec::new(), Vec::new());
    for device in attached()? {
        // Asking means opening, and closing a device that detaches by itself may detach it: only likely ones are asked.
        // The kernel's name for the file follows renames.
        if device.backing_name().file_name() != canonical.file_name() {
            continue;
        }
        let Some(status) = device.status()? else {
            continue;
        };
        if status.backing_inode != file.ino() {
            continue;
        }
        if status.backing_device == file.dev() {
            by_device.push(device);
        } else if status.backing == canonical {
            by_name.push(device);
        }
    }
    // btrfs and overlayfs tell stat(2) another device number than the kernel keeps: there the name has to do.
    Ok(if by_device.is_empty() {
        by_name
    } else {
        by_device
    })
}

/// All loop devices that show a file.
///
/// # Errors
/// When sysfs cannot be read.
pub fn attached() -> Result<Vec<LoopDevice>, LoopError> {
    let root = Path::new("/sys/block");
    let failed = |source| LoopError::Device {
        action: "listing",
        device: root.to_owned(),
        source,
    };
    let mut devices = Vec::new();
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(number) = name
            .to_str()
            .and_then(|name| name.strip_prefix("loop")?.parse().ok())
        else {
            continue;
        };
        if root.join(&name).join("loop/backing_file").exists() {
            devices.push(LoopDevice::numbered(number));
        }
    }
    Ok(devices)
}

/// Whether this process can attach loop devices here, and if not, why.
///
/// # Errors
/// When it cannot.
pub fn available() -> Result<(), LoopError> {
    open_control().map(drop)
}

fn open_control() -> Result<File, LoopError> {
    make_node(
        Path::new(LOOP_CONTROL),
        FileType::CharacterDevice,
        LOOP_CONTROL_MAJOR,
        LOOP_CONTROL_MINOR,
    )
    .and_then(|()| File::options().read(true).write(true).open(LOOP_CONTROL))
    .map_err(|source| LoopError::Unavailable { source })
}

/// Proposes a device. The crate's own `next_free` opens the node at once; in a container it may have to be made first.
fn next_free(control: &File) -> Result<LoopDevice, LoopError> {
    let number =
        sys::free_number(control.as_fd()).map_err(|source| LoopError::Unavailable { source })?;
    let device = LoopDevice::numbered(number);
    make_node(device.path(), FileType::BlockDevice, LOOP_MAJOR, number)
        .map_err(|source| device.failed("making the node of", source))?;
    Ok(device)
}

/// Makes a device node where it is missing: in a container nobody else does. What is there already must be a device.
fn make_node(path: &Path, kind: FileType, major: u32, minor: u32) -> io::Result<()> {
    match path.metadata() {
        Ok(found) if found.file_type().is_block_device() || found.file_type().is_char_device() => {
            return Ok(());
        }
        Ok(_) => return Err(io::Error::other("it is no device node")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
    match rustix::fs::mknodat(CWD, path, kind, mode, rustix::fs::makedev(major, minor)) {
        // Somebody else made it in between.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        // Told as the missing node it is; that it could not be made either is the smaller matter.
        Err(_errno) => Err(io::ErrorKind::NotFound.into()),
    }
}

fn is_lost_race(error: &io::Error) -> bool {
    // EBUSY: another process configured it first. ENXIO: it was removed in between.
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENXIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// Detaches when a test ends, also by a panic.
    struct Guard(LoopDevice);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.detach().unwrap();
        }
    }

    fn is_skipped() -> bool {
        available()
            .inspect_err(|error| println!("skipped, because {error}"))
            .is_err()
    }

    fn backing(dir: &tempfile::TempDir, mib: u64) -> PathBuf {
        let path = dir.path().join("backing.img");
        File::create(&path).unwrap().set_len(mib << 20).unwrap();
        path
    }

    #[test]
    fn a_file_is_attached_found_grown_and_detached() {
        if is_skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = backing(&dir, 4);
        assert_eq!(find(&path).unwrap(), []);
        let device = Attach::new(&path).attach().unwrap();
        let guard = Guard(device.clone());
        assert_eq!(find(&path).unwrap(), std::slice::from_ref(&device));
        assert_eq!(LoopDevice::from_path(device.path()), Some(device.clone()));
        let status = device.status().unwrap().unwrap();
        assert_eq!(status.backing, path.canonicalize().unwrap());
        assert!(!status.read_only && !status.autoclear);
        assert_eq!(device.size().unwrap(), ByteCount::from_mib(4));
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        device.refresh_size().unwrap();
        assert_eq!(device.size().unwrap(), ByteCount::from_mib(8));
        drop(guard);
        assert_eq!(find(&path).unwrap(), []);
        device.detach().unwrap();
    }

    #[test]
    fn direct_io_is_on_from_the_first_moment_where_the_file_system_can() {
        if is_skipped() {
            return;
        }
        // Asked when it runs: a build that another clone of this source made is taken as it is.
        let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
        let dir = tempfile::tempdir_in(here).unwrap();
        let path = backing(&dir, 1);
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT;
        if rustix::fs::open(&path, flags, Mode::empty()).is_err() {
            println!("skipped, because the file system has no direct I/O");
            return;
        }
        let guard = Guard(Attach::new(&path).attach().unwrap());
        assert!(guard.0.status().unwrap().unwrap().direct_io);
    }

    #[test]
    fn a_part_of_a_file_is_exactly_that_part() {
        if is_skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = backing(&dir, 4);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"jar", (1 << 20) + 512).unwrap();
        file.sync_all().unwrap();
        let part = Attach::new(&path)
            .part(ByteCount::from_mib(1), ByteCount::from_mib(2))
            .read_only(true);
        let guard = Guard(part.attach().unwrap());
        assert_eq!(guard.0.size().unwrap(), ByteCount::from_mib(2));
        let mut bytes = [0; 3];
        File::open(guard.0.path())
            .unwrap()
            .read_exact_at(&mut bytes, 512)
            .unwrap();
        assert_eq!(&bytes, b"jar");
        assert!(guard.0.status().unwrap().unwrap().read_only);
    }

    #[test]
    fn the_steps_of_older_kernels_end_in_the_same_state() {
        if is_skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = backing(&dir, 4);
        let attach = Attach::new(&path).part(ByteCount::from_mib(1), ByteCount::from_mib(1));
        let control = open_control().unwrap();
        let guard = loop {
            let device = next_free(&control).unwrap();
            match attach.attach_in_steps(&device) {
                Ok(()) => break Guard(device),
                Err(error) => assert!(is_lost_race(&error), "{error}"),
            }
        };
        let status = guard.0.status().unwrap().unwrap();
        assert_eq!(
            (status.offset, status.size_limit),
            (ByteCount::from_mib(1), ByteCount::from_mib(1))
        );
    }

    #[test]
    fn many_at_once_never_share_a_device() {
        if is_skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let attach = |index: u32| {
            let path = dir.path().join(format!("{index}.img"));
            File::create(&path).unwrap().set_len(1 << 20).unwrap();
            Guard(Attach::new(path).attach().unwrap())
        };
        let guards: Vec<Guard> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|index| scope.spawn(move || attach(index)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let distinct: std::collections::HashSet<_> =
            guards.iter().map(|guard| guard.0.clone()).collect();
        assert_eq!(distinct.len(), 8);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Attach::new("/nowhere/pool.img").attach().unwrap_err();
        assert!(matches!(&error, LoopError::Backing { .. }), "{error}");
        assert!(error.to_string().contains("/nowhere/pool.img"));
    }

    #[test]
    fn only_loop_nodes_are_loop_devices() {
        for bad in [
            "/dev/sda",
            "/dev/loop",
            "/dev/loopx",
            "/dev/loop-control",
            "loop0",
        ] {
            assert_eq!(LoopDevice::from_path(Path::new(bad)), None);
        }
    }
}
