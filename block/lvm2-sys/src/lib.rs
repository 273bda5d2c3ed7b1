//! bindgen bindings of liblvm2cmd, nothing else.
//!
//! Where lvm2cmd.h or the library is missing at build time the crate is empty and [`AVAILABLE`] is false; a dependent
//! build script learns the same as `DEP_LVM2CMD_AVAILABLE`.
//!
//! What the header does not say: the library keeps process-wide state, so only one thread of a process may ever call
//! it; `lvm2_init` leaves the umask at 077; reports go to standard output, warnings to standard error.

/// Whether the bindings are there.
pub const AVAILABLE: bool = cfg!(lvm2cmd_available);

#[cfg(lvm2cmd_available)]
pub use bindings::*;

#[cfg(lvm2cmd_available)]
#[allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::use_self,
    reason = "generated from a C header"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(all(test, lvm2cmd_available))]
mod tests {
    use super::*;

    #[test]
    fn the_result_codes_are_those_the_worker_translates() {
        assert_eq!(
            [
                LVM2_COMMAND_SUCCEEDED,
                LVM2_NO_SUCH_COMMAND,
                LVM2_INVALID_PARAMETERS,
                LVM2_PROCESSING_FAILED
            ],
            [1, 2, 3, 5]
        );
    }
}
