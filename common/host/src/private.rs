//! Files with secrets: read only when nobody but their owner can.

use onggi_common_units::Secret;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The longest file of secrets.
const BYTES_MAX: u64 = 1 << 20;
/// Everybody but the owner.
const OTHERS: u32 = 0o077;

/// A file of secrets that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// It cannot be read.
    #[error("reading {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read or change it.
    #[error("{path} has the mode {mode:04o}: others than its owner could know the secrets in it; chmod 600 it, and take new secrets if anybody read it", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is too long to be a file of secrets.
    #[error("{path} has more than {BYTES_MAX} bytes", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a text that only the file's owner can read.
///
/// # Errors
/// When it cannot be read, others may read or change it, or it is no UTF-8.
pub fn read(path: &Path) -> Result<Secret, PrivateError> {
    let failed = |source: io::Error| PrivateError::Read {
        path: path.to_owned(),
        source,
    };
    // A named pipe must not hold the start up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(|errno| failed(errno.into()))?);
    // The file that was opened, whatever has taken its name since.
    let status = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
    let mode = status.st_mode & 0o7777;
    if mode & OTHERS != 0 {
        let path = path.to_owned();
        return Err(PrivateError::Open { path, mode });
    }
    let mut text = String::new();
    let read = file.take(BYTES_MAX + 1).read_to_string(&mut text);
    let secret = Secret::new(text);
    if read.map_err(failed)? as u64 > BYTES_MAX {
        let path = path.to_owned();
        return Err(PrivateError::TooLong { path });
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{self, Visibility};
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        durable::replace(&path, b"k1 x", Visibility::Owner).unwrap();
        assert_eq!(read(&path).unwrap().expose(), "k1 x");
        for mode in [0o640, 0o604, 0o644, 0o620] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"));
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        read(&path).unwrap();
        let missing = read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}
