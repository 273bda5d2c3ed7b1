//! What the page cache holds of a file.
#![expect(unsafe_code, reason = "a system call that no crate offers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// cachestat(2), the same number on every architecture that Linux added it to (6.5).
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range`.
#[repr(C)]
struct RawRange {
    offset: u64,
    length: u64,
}

/// `struct cachestat`.
#[repr(C)]
#[derive(Default)]
struct RawCounts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages of this range of bytes are in the page cache, pages that are just being read included. A range of
/// length 0 goes to the end of the file.
///
/// # Errors
/// `Unsupported` where the kernel (before 6.5) or a filter on system calls does not offer it; whatever else the kernel
/// says, for example that the file is not ours to ask about.
pub fn cached_pages(file: impl AsFd, offset: u64, length: u64) -> io::Result<u64> {
    let range = RawRange { offset, length };
    let mut counts = RawCounts::default();
    // SAFETY: both structures have the kernel's layout, live until the call returns, and nobody else has them.
    let returned = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_fd().as_raw_fd(),
            &raw const range,
            &raw mut counts,
            0,
        )
    };
    if returned == 0 {
        Ok(counts.cached)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_just_written_is_cached_and_a_hole_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 16 << 10]).unwrap();
        file.set_len(64 << 10).unwrap();
        let page = u64::try_from(rustix::param::page_size()).unwrap();
        match cached_pages(&file, 0, 16 << 10) {
            Ok(count) => {
                assert_eq!(count, (16 << 10) / page);
                assert_eq!(cached_pages(&file, 32 << 10, 32 << 10).unwrap(), 0);
            }
            Err(error) => println!("skipped, because this kernel has no cachestat: {error}"),
        }
    }
}
