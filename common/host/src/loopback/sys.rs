//! The loop driver's ioctls that `loopdev` does not offer. Layouts are those of linux/loop.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

const NAME_BYTES: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME_BYTES],
    crypt_name: [u8; NAME_BYTES],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct RawConfig {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<RawConfig>() == 304);

const EMPTY: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; NAME_BYTES],
    crypt_name: [0; NAME_BYTES],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// What [`configure`] sets.
pub(super) struct Config<'a> {
    pub(super) backing: BorrowedFd<'a>,
    pub(super) offset: u64,
    pub(super) size_limit: u64,
    pub(super) read_only: bool,
    pub(super) direct_io: bool,
    pub(super) autoclear: bool,
    pub(super) block_size: u32,
    pub(super) name: &'a Path,
}

/// What [`status`] finds.
pub(super) struct Status {
    pub(super) backing_device: u64,
    pub(super) backing_inode: u64,
    pub(super) offset: u64,
    pub(super) size_limit: u64,
    pub(super) read_only: bool,
    pub(super) direct_io: bool,
    pub(super) autoclear: bool,
}

/// Attaches a file and sets everything about it in one step.
pub(super) fn configure(device: BorrowedFd<'_>, config: &Config<'_>) -> io::Result<()> {
    let mut info = EMPTY;
    info.offset = config.offset;
    info.size_limit = config.size_limit;
    let flags = [
        (config.read_only, LO_FLAGS_READ_ONLY),
        (config.direct_io, LO_FLAGS_DIRECT_IO),
        (config.autoclear, LO_FLAGS_AUTOCLEAR),
    ];
    info.flags = flags
        .iter()
        .filter(|(wanted, _)| *wanted)
        .map(|(_, flag)| flag)
        .sum();
    // The kernel wants a terminated name; a long one is cut, as losetup does.
    let name = config.name.as_os_str().as_bytes();
    for (to, from) in info.file_name.iter_mut().take(NAME_BYTES - 1).zip(name) {
        *to = *from;
    }
    let fd = u32::try_from(config.backing.as_raw_fd()).map_err(io::Error::other)?;
    let raw = RawConfig {
        fd,
        block_size: config.block_size,
        info,
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, whose layout `RawConfig` has, and keeps no pointer to it.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const raw) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Asks the control device for the number of a free device, which is made if there is none.
pub(super) fn free_number(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and touches no memory of this process.
    let outcome = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(outcome).map_err(|_negative| io::Error::last_os_error())
}

/// Asks what a device shows.
pub(super) fn status(device: BorrowedFd<'_>) -> io::Result<Status> {
    let mut info = EMPTY;
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, whose layout `Info` has and of which any bytes are valid.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_set = |flag: u32| info.flags & flag != 0;
    Ok(Status {
        backing_device: info.device,
        backing_inode: info.inode,
        offset: info.offset,
        size_limit: info.size_limit,
        read_only: is_set(LO_FLAGS_READ_ONLY),
        direct_io: is_set(LO_FLAGS_DIRECT_IO),
        autoclear: is_set(LO_FLAGS_AUTOCLEAR),
    })
}
