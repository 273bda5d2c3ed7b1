//! What the page cache holds of a file, and what of it is on its way to the disk.
#![expect(unsafe_code, reason = "system calls that no crate offers")]

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

/// Waits until no page of this range of bytes is on its way to the disk. What begins its way meanwhile is not waited for.
///
/// Most disks read a page while others may change it: one that is changed just then arrives as a mixture of both, and is
/// all that is left of what was there before if power goes.
///
/// # Errors
/// When something that was written before did not reach the disk: it is said once, here in place of by the next
/// fdatasync.
pub fn await_writeback(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let [offset, length] = [offset, length].map(i64::try_from);
    let (Ok(offset), Ok(length)) = (offset, length) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: takes numbers alone, and the file is open.
    let returned = unsafe {
        libc::sync_file_range(
            file.as_fd().as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WAIT_BEFORE,
        )
    };
    if returned == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_not_under_way_is_not_waited_for() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 16 << 10]).unwrap();
        await_writeback(&file, 0, 64 << 10).unwrap();
        let outside = await_writeback(&file, u64::MAX, 1).unwrap_err();
        assert_eq!(outside.kind(), io::ErrorKind::InvalidInput);
        let (_reader, writer) = io::pipe().unwrap();
        assert!(
            await_writeback(&writer, 0, 1).is_err(),
            "a pipe has no pages"
        );
    }

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
