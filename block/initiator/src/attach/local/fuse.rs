//! A LUN as the one file of a file system.
//!
//! Requests are answered from the session's thread when the target has answered: the thread that reads requests never
//! waits, so that many are with the target at a time. Only zeroing waits, on a thread of its own.

use crate::disk::{Disk, DiskError};
use bytes::Bytes;
use fuser::{
    AccessFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use onggi_common_units::Uuid;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The name of the file.
pub(super) const FILE_NAME: &str = "volume";

const FILE: INodeNo = INodeNo(2);
/// Nothing ever changes.
const TTL: Duration = Duration::from_secs(3600);
/// How many requests the kernel may have with us at a time.
const BACKGROUND_MAX: u16 = 128;
/// fallocate(2) modes.
const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;

/// The file system.
#[derive(Debug)]
pub(super) struct LunFile {
    disk: Arc<Disk>,
    is_read_only: bool,
}

impl LunFile {
    pub(super) const fn new(disk: Arc<Disk>, is_read_only: bool) -> Self {
        Self { disk, is_read_only }
    }

    pub(super) fn mount_options(volume: Uuid) -> Config {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("onggi:{volume}")),
            MountOption::Subtype("onggi".to_owned()),
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
        ];
        config
    }

    fn attributes(&self, node: INodeNo) -> FileAttr {
        let is_file = node == FILE;
        let size = if is_file { self.disk.size().bytes() } else { 0 };
        FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: if is_file { 1 } else { 2 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

fn errno(error: &DiskError) -> Errno {
    match error {
        DiskError::Range { .. } => Errno::EINVAL,
        // DATA PROTECT
        DiskError::Refused {
            key: 7,
            code: 0x27,
            qualifier: 7,
            ..
        } => Errno::ENOSPC,
        DiskError::Refused { key: 7, .. } => Errno::EROFS,
        DiskError::Session(_) | DiskError::Refused { .. } | DiskError::Malformed { .. } => {
            Errno::EIO
        }
    }
}

impl Filesystem for LunFile {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel that offers less is used as it is.
        config.set_max_write(self.disk.transfer_bytes_max()).ok();
        config.set_max_background(BACKGROUND_MAX).ok();
        for wanted in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_MAX_PAGES,
        ] {
            config.add_capabilities(wanted).ok();
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == FILE_NAME {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &self.attributes(node));
    }

    fn access(&self, _request: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn open(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if node == FILE {
            // No second copy in the page cache: the loop device has the first.
            let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
            reply.opened(FileHandle(1), flags);
        } else {
            reply.error(Errno::EISDIR);
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, FILE_NAME),
        ];
        for ((node, kind, name), next) in entries.into_iter().zip(1..) {
            if next > offset && reply.add(node, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.disk.size().bytes().saturating_sub(offset);
        let size = size.min(u32::try_from(left).unwrap_or(u32::MAX));
        if size == 0 {
            return reply.data(&[]);
        }
        // Whole blocks around what is asked for: people look at the file with all sorts of programs.
        let block = u64::from(self.disk.block_bytes());
        let first = offset / block * block;
        let end = (offset + u64::from(size)).div_ceil(block) * block;
        let skip = usize::try_from(offset - first).unwrap_or(usize::MAX);
        let keep = usize::try_from(size).unwrap_or(usize::MAX);
        let length = u32::try_from(end - first).unwrap_or(u32::MAX);
        self.disk
            .begin_read(first, length, move |outcome| match outcome {
                Ok(data) => reply.data(data.get(skip..skip + keep).unwrap_or_default()),
                Err(error) => reply.error(errno(&error)),
            });
    }

    fn write(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.is_read_only {
            return reply.error(Errno::EROFS);
        }
        let written = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let data = Bytes::copy_from_slice(data);
        self.disk
            .begin_write(offset, data, move |outcome| match outcome {
                Ok(()) => reply.written(written),
                Err(error) => reply.error(errno(&error)),
            });
    }

    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Called at every close(2); durability is asked for with fsync(2).
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _is_data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.disk.begin_flush(move |outcome| match outcome {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let is_zeroing = mode & PUNCH_HOLE != 0 || mode & ZERO_RANGE != 0;
        if !is_zeroing || mode & KEEP_SIZE == 0 || !self.disk.can_zero() {
            return reply.error(Errno::EOPNOTSUPP);
        }
        if self.is_read_only {
            return reply.error(Errno::EROFS);
        }
        let disk = Arc::clone(&self.disk);
        std::thread::spawn(move || match disk.zero(offset, length) {
            Ok(()) => reply.ok(),
            // The kernel then sends zeros, or lets a discard be.
            Err(DiskError::Range { .. }) => reply.error(Errno::EOPNOTSUPP),
            Err(error) => reply.error(errno(&error)),
        });
    }
}
