//! What LVM, the volume group and what it lies on can refuse.

use crate::lvm::names::VgName;
use crate::lvm::protocol::{STATUS_NOT_STARTED, STATUS_TIMED_OUT, WordError};
use crate::lvm::report::ReportError;
use onggi_common_host::dialogue::DialogueError;
use onggi_common_host::loopback::LoopError;
use onggi_common_units::ByteCount;
use std::path::PathBuf;

/// Why LVM could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LvmError {
    /// The worker could not be started, or did not answer. The command's outcome is unknown.
    #[error("the LVM worker: {0}")]
    Worker(#[from] DialogueError),
    /// The worker's thread is gone: the pool is being closed.
    #[error("the LVM worker is stopped")]
    Stopped,
    /// The worker's answer is none.
    #[error("the LVM worker gave an answer that cannot be read: {0}")]
    Answer(serde_json::Error),
    /// The worker answered another request.
    #[error("the LVM worker answered request {answered} instead of {asked}")]
    OutOfTurn {
        /// The request's number.
        asked: u64,
        /// The answer's.
        answered: u64,
    },
    /// A command could not be expressed.
    #[error(transparent)]
    Word(#[from] WordError),
    /// A command failed.
    #[error("LVM's {command} failed with status {status}: {log}")]
    Command {
        /// The command's name.
        command: String,
        /// Its exit status.
        status: i32,
        /// What it complained about.
        log: String,
    },
    /// A report could not be understood.
    #[error("an LVM report: {0}")]
    Report(#[from] ReportError),
    /// Loop devices.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The file under the volume group is gone.
    #[error(
        "the file {path} under volume group {group} is missing: put it back where it was, or, if its volumes are to be \
         given up, remove {marker}"
    )]
    BackingMissing {
        /// The group.
        group: VgName,
        /// The file.
        path: PathBuf,
        /// What remembers the group.
        marker: PathBuf,
    },
    /// What is under the volume group is smaller than it was.
    #[error(
        "{path} under volume group {group} has {found} but must have at least {expected}: it was cut short; restore it \
         before the volumes are used, bytes past its end are gone"
    )]
    BackingTruncated {
        /// The group.
        group: VgName,
        /// The file or disk.
        path: PathBuf,
        /// Its size.
        found: ByteCount,
        /// The size it had.
        expected: ByteCount,
    },
    /// What was given for the volume group holds something else.
    #[error(
        "{path} holds data that is no volume group {group} of Onggi's; nothing was changed: give another file or disk"
    )]
    BackingForeign {
        /// The group.
        group: VgName,
        /// The file or disk.
        path: PathBuf,
    },
    /// What was given cannot carry a volume group.
    #[error("{path} cannot carry a volume group: {reason}")]
    BackingUnfit {
        /// The file or disk.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The group's metadata is gone although it was made once.
    #[error(
        "{path} holds no volume group {group}, although one was made on it: restore its metadata (vgcfgrestore), or, if \
         its volumes are to be given up, remove {path} and {marker}"
    )]
    GroupLost {
        /// The group.
        group: VgName,
        /// The file or disk.
        path: PathBuf,
        /// What remembers the group.
        marker: PathBuf,
    },
    /// A group of this name is somebody else's.
    #[error(
        "volume group {group} is not Onggi's ({reason}); nothing was changed: configure another name or place"
    )]
    GroupForeign {
        /// The group.
        group: VgName,
        /// How that shows.
        reason: &'static str,
    },
    /// The group cannot be served as it is.
    #[error("volume group {group} cannot be used: {reason}")]
    GroupUnfit {
        /// The group.
        group: VgName,
        /// Why.
        reason: String,
    },
    /// Another process has the pool.
    #[error("volume group {group} is in use by another Onggi process (lock {path})")]
    InUse {
        /// The group.
        group: VgName,
        /// The lock file.
        path: PathBuf,
    },
    /// What remembers the group cannot be read.
    #[error("{path} cannot be understood: {source}")]
    Marker {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl LvmError {
    /// Whether the same command may well succeed later although nobody does anything: the worker died, could not be
    /// started, or missed its time limit. What LVM itself answered, and what is wrong with the group, stays.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Worker(error) => match error {
                DialogueError::Start { .. }
                | DialogueError::Pipe { .. }
                | DialogueError::Ended { .. }
                | DialogueError::TimedOut { .. } => true,
                // The same report is too long again.
                DialogueError::Answer { .. } => false,
            },
            Self::Stopped | Self::OutOfTurn { .. } => true,
            Self::Command { status, .. } => {
                matches!(*status, STATUS_TIMED_OUT | STATUS_NOT_STARTED)
            }
            Self::Answer(_)
            | Self::Word(_)
            | Self::Report(_)
            | Self::Loop(_)
            | Self::BackingMissing { .. }
            | Self::BackingTruncated { .. }
            | Self::BackingForeign { .. }
            | Self::BackingUnfit { .. }
            | Self::GroupLost { .. }
            | Self::GroupForeign { .. }
            | Self::GroupUnfit { .. }
            | Self::InUse { .. }
            | Self::Marker { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PoolError;
    use core::time::Duration;

    #[test]
    fn what_the_worker_did_not_answer_passes_and_what_lvm_answered_stays() {
        let program = || PathBuf::from("/worker");
        let passing = [
            DialogueError::Ended {
                program: program(),
                status: "signal: 9".to_owned(),
            },
            DialogueError::TimedOut {
                program: program(),
                limit: Duration::from_secs(1),
            },
        ];
        for error in passing {
            assert!(PoolError::from(LvmError::Worker(error)).is_passing());
        }
        let long = DialogueError::Answer {
            program: program(),
            wrong: "too long",
        };
        assert!(!PoolError::from(LvmError::Worker(long)).is_passing());
        assert!(PoolError::from(LvmError::Stopped).is_passing());
        for (status, is_passing) in [(STATUS_TIMED_OUT, true), (5, false), (3, false)] {
            let error = LvmError::Command {
                command: "lvextend".to_owned(),
                status,
                log: "insufficient free space".to_owned(),
            };
            assert_eq!(PoolError::from(error).is_passing(), is_passing, "{status}");
        }
    }
}
