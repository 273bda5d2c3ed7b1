//! The state folder: who holds it, and which processes run over it.

use anyhow::{Context as _, Result, bail};
use onggi_common_host::durable::{self, Visibility};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The processes of a running system, as `run/processes.json` lists them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Processes {
    /// The process id of `onggid run`.
    pub(crate) supervisor: u32,
    /// Process ids by name.
    pub(crate) pids: BTreeMap<String, u32>,
}

/// A state folder this process may use.
#[derive(Debug, Clone)]
pub(crate) struct StateFolder {
    path: PathBuf,
    // The lock lives as long as a clone does.
    _lock: Option<Arc<OwnedFd>>,
}

impl StateFolder {
    /// The folder, made when missing, and locked against a second `onggid run` over it.
    ///
    /// # Errors
    /// When it cannot be made, or another `onggid run` holds it.
    pub(crate) fn hold(path: &Path) -> Result<Self> {
        let folder = Self::open(path)?;
        let lock_path = path.join("run/onggid.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&lock_path, flags, Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("opening {}", lock_path.display()))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = folder
                .read_processes()
                .map_or(0, |processes| processes.supervisor);
            bail!(
                "{} is in use by another onggid run (process {holder}); stop it first, or name another state folder",
                path.display()
            );
        }
        Ok(Self {
            _lock: Some(Arc::new(lock)),
            ..folder
        })
    }

    /// The folder, made when missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        for folder in ["run", "keys"] {
            durable::create_dir_all(&path.join(folder))?;
        }
        for folder in [path.to_owned(), path.join("keys"), path.join("run")] {
            rustix::fs::chmod(&folder, Mode::RWXU)
                .with_context(|| format!("making {} private", folder.display()))?;
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: None,
        })
    }

    fn processes_path(&self) -> PathBuf {
        self.path.join("run/processes.json")
    }

    /// Writes the list of processes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_processes(&self, processes: &Processes) -> Result<()> {
        let text = serde_json::to_vec_pretty(processes)?;
        durable::replace(&self.processes_path(), &text, Visibility::Owner)?;
        Ok(())
    }

    /// The list of processes, when a system runs or was killed.
    #[must_use]
    pub(crate) fn read_processes(&self) -> Option<Processes> {
        let text = std::fs::read(self.processes_path()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes the list at an orderly end.
    pub(crate) fn remove_processes(&self) {
        if let Err(error) = durable::remove(&self.processes_path()) {
            tracing::warn!(%error, "the list of processes could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_is_held_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let held = StateFolder::hold(&path).unwrap();
        held.write_processes(&Processes {
            supervisor: 42,
            pids: BTreeMap::new(),
        })
        .unwrap();
        let error = StateFolder::hold(&path).unwrap_err().to_string();
        assert!(error.contains("process 42"), "{error}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(held);
        StateFolder::hold(&path).unwrap();
    }
}
