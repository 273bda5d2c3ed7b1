//! What a pool can refuse.

use crate::lvm::LvmError;
use onggi_block_medium::ExtentMapError;
use onggi_common_host::durable::DurableError;
use onggi_common_units::{ByteCount, Uuid};
use std::io;
use std::path::PathBuf;

/// Why a pool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// There is no such volume.
    #[error("pool {pool} has no volume {volume}")]
    NotFound {
        /// The pool.
        pool: String,
        /// The volume.
        volume: Uuid,
    },
    /// The volume is there already, with another size.
    #[error("volume {volume} is there already with {found}, {asked} were asked for")]
    Exists {
        /// The volume.
        volume: Uuid,
        /// The size it has.
        found: ByteCount,
        /// The size asked for.
        asked: ByteCount,
    },
    /// No volume can have this size.
    #[error("a volume cannot have {size}: it needs at least one byte and at most {max}")]
    InvalidSize {
        /// The size asked for.
        size: ByteCount,
        /// The largest size.
        max: ByteCount,
    },
    /// The pool has too little room.
    #[error(
        "pool {pool} has {free} free, {needed} needed{later}",
        later = still_cleared(*reclaiming)
    )]
    InsufficientSpace {
        /// The pool.
        pool: String,
        /// What was needed, rounded up to the pool's unit.
        needed: ByteCount,
        /// What was free.
        free: ByteCount,
        /// What removed volumes still take up until their bytes are gone; free later.
        reclaiming: ByteCount,
    },
    /// A volume cannot become smaller.
    #[error("volume {volume} has {found} and cannot be shrunk to {asked}")]
    Shrink {
        /// The volume.
        volume: Uuid,
        /// The size it has.
        found: ByteCount,
        /// The size asked for.
        asked: ByteCount,
    },
    /// Making or growing the volume was cut short and has not been done again.
    #[error("volume {volume} is not complete: create, extend or remove it again")]
    Incomplete {
        /// The volume.
        volume: Uuid,
    },
    /// Somebody else moved or removed the volume's bytes.
    #[error("volume {volume} was changed by someone else and must not be served: {reason}")]
    Fenced {
        /// The volume.
        volume: Uuid,
        /// What does not fit.
        reason: String,
    },
    /// The volume's bytes do not lie where this pool can serve them from.
    #[error("volume {volume} cannot be mapped: {reason}")]
    Unmappable {
        /// The volume.
        volume: Uuid,
        /// What stands in the way.
        reason: String,
    },
    /// The volume's extents are no map.
    #[error("the extents of volume {volume}: {source}")]
    Extents {
        /// The volume.
        volume: Uuid,
        /// What is wrong with them.
        source: ExtentMapError,
    },
    /// LVM or the volume group.
    #[error(transparent)]
    Lvm(#[from] LvmError),
    /// A file could not be written durably.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A file or device could not be read or changed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn still_cleared(reclaiming: ByteCount) -> String {
    if reclaiming == ByteCount::ZERO {
        return String::new();
    }
    format!("; {reclaiming} of deleted volumes are still being cleared: try again shortly")
}

impl PoolError {
    /// Whether the same call may well succeed later although nobody does anything: LVM's worker did not say how it went.
    /// It may have acted; all calls may be repeated.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Lvm(error) => error.is_passing(),
            Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::InvalidSize { .. }
            | Self::InsufficientSpace { .. }
            | Self::Shrink { .. }
            | Self::Incomplete { .. }
            | Self::Fenced { .. }
            | Self::Unmappable { .. }
            | Self::Extents { .. }
            | Self::Durable(_)
            | Self::Io { .. } => false,
        }
    }

    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source: source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_says_what_is_still_being_cleared() {
        let full = |reclaiming| PoolError::InsufficientSpace {
            pool: "jars".to_owned(),
            needed: ByteCount::from_gib(2),
            free: ByteCount::from_gib(1),
            reclaiming,
        };
        let text = full(ByteCount::ZERO).to_string();
        assert_eq!(text, "pool jars has 1GiB free, 2GiB needed");
        let text = full(ByteCount::from_gib(3)).to_string();
        assert!(
            text.ends_with("; 3GiB of deleted volumes are still being cleared: try again shortly"),
            "{text}"
        );
    }
}
