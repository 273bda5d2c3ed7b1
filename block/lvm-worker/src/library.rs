//! LVM commands run inside this process, through liblvm2cmd.
#![expect(unsafe_code, reason = "calls into a C library")]

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::NonNull;
use onggi_block_lvm2_sys as lvm2;
use std::ffi::CString;

/// The status `lvm` ends with when its arguments make no sense.
const STATUS_BAD_ARGUMENTS: i32 = 3;

/// A handle of the library. There is one per process, and it stays on its thread (the pointer is not `Send`).
pub(crate) struct Library {
    handle: NonNull<c_void>,
    stays_here: PhantomData<*mut ()>,
}

impl Library {
    /// Starts the library; `None` when it will not.
    pub(crate) fn open() -> Option<Self> {
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        // SAFETY: lvm2_init takes nothing; this program has one thread and calls it once, before anything else of LVM.
        let handle = unsafe { lvm2::lvm2_init() };
        // lvm2_init leaves 077 behind.
        rustix::process::umask(umask);
        NonNull::new(handle).map(|handle| Self {
            handle,
            stays_here: PhantomData,
        })
    }

    /// Runs one command line and gives the status `lvm` would end with.
    pub(crate) fn run(&mut self, line: &str) -> i32 {
        let Ok(line) = CString::new(line) else {
            return STATUS_BAD_ARGUMENTS;
        };
        // SAFETY: the handle is lvm2_init's and not yet given back; the line is terminated and copied by the library.
        let status = unsafe { lvm2::lvm2_run(self.handle.as_ptr(), line.as_ptr()) };
        // SAFETY: a null stream means all of C's output streams; nobody else in this process uses one.
        let flushed = unsafe { libc::fflush(core::ptr::null_mut()) };
        debug_assert_eq!(flushed, 0, "memory files take all that is written");
        // The library says 1 where the program ends with 0; all other codes are the same.
        match u32::try_from(status) {
            Ok(lvm2::LVM2_COMMAND_SUCCEEDED) => 0,
            _ => status,
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is lvm2_init's, and nothing uses it after this.
        unsafe { lvm2::lvm2_exit(self.handle.as_ptr()) }
    }
}
