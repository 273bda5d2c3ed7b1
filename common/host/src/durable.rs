//! Files that survive power loss once the call returns.
//!
//! `replace` is write to a temporary name, fsync, rename, fsync of the directory: a reader sees the old bytes or the
//! new ones, and after success only the new ones.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Only the owner: secrets.
    Owner,
    /// Everybody.
    World,
}

impl Visibility {
    fn mode(self) -> Mode {
        match self {
            Self::Owner => Mode::RUSR | Mode::WUSR,
            Self::World => Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH,
        }
    }
}

/// A durable file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}: {source}", path = path.display())]
pub struct DurableError {
    /// What was being done.
    pub operation: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DurableError {
    let path = path.to_owned();
    move |source| DurableError {
        operation,
        path,
        source,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Syncs a directory, so that names made or removed in it are durable.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), DurableError> {
    let directory = File::open(path).map_err(at("opening directory", path))?;
    directory.sync_all().map_err(at("syncing directory", path))
}

/// Makes a directory and its parents, each durable in its parent. An existing one is fine.
///
/// # Errors
/// When a directory can neither be made nor be there.
pub fn create_dir_all(path: &Path) -> Result<(), DurableError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if above != path && !above.is_dir() {
        create_dir_all(above)?;
    }
    match std::fs::create_dir(path) {
        Ok(()) => sync_dir(above),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(at("making directory", path)(error)),
    }
}

/// Puts `bytes` at `path` in one durable step, over whatever was there.
///
/// # Errors
/// When a step fails; the old file is then still whole.
pub fn replace(path: &Path, bytes: &[u8], visibility: Visibility) -> Result<(), DurableError> {
    let mut temporary_name = path.file_name().unwrap_or_default().to_owned();
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary_name);
    // What a killed process of the same id left behind is nobody's.
    match std::fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at("removing", &temporary)(error)),
    }
    let outcome = write_and_rename(&temporary, path, bytes, visibility);
    if outcome.is_err() && temporary.exists() {
        // The first error is the one to tell; a left-over temporary file is removed by the next attempt.
        drop(std::fs::remove_file(&temporary));
    }
    outcome
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the ban on fs::rename points to"
)]
fn write_and_rename(
    temporary: &Path,
    path: &Path,
    bytes: &[u8],
    visibility: Visibility,
) -> Result<(), DurableError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let descriptor: OwnedFd = rustix::fs::open(temporary, flags, visibility.mode())
        .map_err(|errno| at("creating", temporary)(errno.into()))?;
    // The process's umask must not decide who reads it.
    rustix::fs::fchmod(descriptor.as_fd(), visibility.mode())
        .map_err(|errno| at("setting the mode of", temporary)(errno.into()))?;
    let mut file = File::from(descriptor);
    file.write_all(bytes).map_err(at("writing", temporary))?;
    file.sync_all().map_err(at("syncing", temporary))?;
    std::fs::rename(temporary, path).map_err(at("renaming into", path))?;
    sync_dir(parent(path))
}

/// Removes a file durably. A missing one is fine.
///
/// # Errors
/// When the file is there and cannot be removed, or the directory cannot be synced.
pub fn remove(path: &Path) -> Result<(), DurableError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("removing", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replace_swaps_the_bytes_and_keeps_secrets_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/key");
        create_dir_all(path.parent().unwrap()).unwrap();
        replace(&path, b"one", Visibility::World).unwrap();
        replace(&path, b"two", Visibility::Owner).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn an_error_names_the_file() {
        let error = replace(Path::new("/proc/nowhere/x"), b"", Visibility::World).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere/x"), "{error}");
    }
}
