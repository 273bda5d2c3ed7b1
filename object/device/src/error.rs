//! What can go wrong with a device.

use onggi_common_host::durable::DurableError;
use onggi_common_meta::StoreError;
use onggi_common_meta::table::DecodeError;
use onggi_common_units::ByteCount;
use onggi_object_wire::codec::CodecError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A device that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory holds no device although one is expected there.
    #[error("{directory} holds no device, but {id_file} says that one belongs there: mount it; or, to begin with an empty one, remove {id_file}", directory = directory.display(), id_file = id_file.display())]
    NotMounted {
        /// Where it should be.
        directory: PathBuf,
        /// What remembers it.
        id_file: PathBuf,
    },
    /// Another device is there.
    #[error("{directory} holds device {found}, expected is {expected}: mount the right one", directory = directory.display())]
    OtherDevice {
        /// Where it is.
        directory: PathBuf,
        /// Its id.
        found: String,
        /// The id expected.
        expected: String,
    },
    /// There is no device.
    #[error("{directory} holds no device", directory = directory.display())]
    NoDevice {
        /// The directory.
        directory: PathBuf,
    },
    /// The device has not been opened since this program was installed.
    #[error("{directory} is of format {format}: start its node once, which brings it to the newer one", directory = directory.display())]
    FormatBefore {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        format: u16,
    },
    /// Its rows are gone.
    #[error("{directory} has lost its store: put it back; or make one from its body files (onggid device repair --from-files); or remove the whole directory and its .id file, and replication fills the new device", directory = directory.display())]
    StoreLost {
        /// The device's directory.
        directory: PathBuf,
    },
    /// The directory holds something that is no device.
    #[error("{directory} is not empty and holds no device: name an empty directory", directory = directory.display())]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
    },
    /// The file that names the device cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Marker {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// Its store cannot be opened.
    #[error(transparent)]
    Store(#[from] onggi_common_meta::OpenError),
    /// A row needed at the start cannot be read.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A file cannot be made durable.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The machine refused.
    #[error("{operation} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A device that cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Too little space is left: what is reserved stays free.
    #[error("{path} has {free} free, {needed} and a reserve of {reserve} are needed", path = path.display())]
    Full {
        /// The device.
        path: PathBuf,
        /// What is free.
        free: ByteCount,
        /// What was to be written.
        needed: ByteCount,
        /// What must stay free.
        reserve: ByteCount,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row is damaged.
    #[error(transparent)]
    Row(#[from] DecodeError),
    /// Bytes are no row.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A body is damaged. It is quarantined.
    #[error("the body of {key} is damaged: {detail}")]
    Damaged {
        /// The object's key.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// A row with bytes came without them.
    #[error("a row with a body of {length} bytes came without it")]
    BodyMissing {
        /// The body's length.
        length: u64,
    },
    /// What was written together with other changes was refused.
    #[error(transparent)]
    InGroup(Arc<Self>),
    /// The machine refused.
    #[error("{operation} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl OpenError {
    /// Whether another process, or another part of this one, has the device open.
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        matches!(
            self,
            Self::Store(onggi_common_meta::OpenError::InUse { .. })
        )
    }
}

impl DeviceError {
    /// Whether space is what is missing.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Store(StoreError::Full { .. }) => true,
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
            Self::InGroup(error) => error.is_full(),
            Self::Store(_)
            | Self::Row(_)
            | Self::Codec(_)
            | Self::Damaged { .. }
            | Self::BodyMissing { .. } => false,
        }
    }

    /// Whether the disk or the store on it failed: an I/O error, a damaged store. Damage of one object is not that.
    #[must_use]
    pub fn is_of_the_machine(&self) -> bool {
        match self {
            Self::Io { source, .. } => !self.is_full() && source.kind() != io::ErrorKind::NotFound,
            Self::Store(error) => {
                matches!(
                    error,
                    StoreError::Machine { .. } | StoreError::Damaged { .. }
                )
            }
            Self::InGroup(error) => error.is_of_the_machine(),
            Self::Full { .. }
            | Self::Row(_)
            | Self::Codec(_)
            | Self::Damaged { .. }
            | Self::BodyMissing { .. } => false,
        }
    }
}

pub(crate) fn io_at(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> DeviceError + use<> {
    let path = path.to_owned();
    move |source| DeviceError::Io {
        operation,
        path,
        source,
    }
}

pub(crate) fn open_at(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io {
        operation,
        path,
        source,
    }
}
