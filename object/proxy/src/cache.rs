//! What the proxy remembers for a moment about containers and accounts: asked for on every object request.

use core::time::Duration;
use onggi_object_model::{AccountInfo, AccountName, ContainerInfo, ContainerPath};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How long a container's policy and ACLs, or an account's, may be remembered. A change through this proxy is seen at once.
const AGE_MAX: Duration = Duration::from_secs(5);
/// Containers, or accounts, remembered at a time.
const ENTRIES_MAX: usize = 10_000;

type Accounts = HashMap<AccountName, (Duration, Arc<AccountInfo>)>;
type Containers = HashMap<ContainerPath, (Duration, Arc<ContainerInfo>)>;

/// The memory.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    containers: Mutex<Containers>,
    accounts: Mutex<Accounts>,
}

impl Cache {
    pub(crate) fn container(
        &self,
        path: &ContainerPath,
        now: Duration,
    ) -> Option<Arc<ContainerInfo>> {
        let containers = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (at, info) = containers.get(path)?;
        (now.saturating_sub(*at) < AGE_MAX).then(|| Arc::clone(info))
    }

    pub(crate) fn put_container(
        &self,
        path: &ContainerPath,
        now: Duration,
        info: &Arc<ContainerInfo>,
    ) {
        let mut containers = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if containers.len() >= ENTRIES_MAX {
            containers.retain(|_, (at, _)| now.saturating_sub(*at) < AGE_MAX);
        }
        if containers.len() < ENTRIES_MAX {
            containers.insert(path.clone(), (now, Arc::clone(info)));
        }
    }

    pub(crate) fn forget_container(&self, path: &ContainerPath) {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(path);
    }

    /// Forgets all containers of an account.
    pub(crate) fn forget_containers(&self, account: &AccountName) {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path, _| path.account != *account);
    }

    pub(crate) fn account(&self, name: &AccountName, now: Duration) -> Option<Arc<AccountInfo>> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, info) = accounts.get(name)?;
        (now.saturating_sub(*at) < AGE_MAX).then(|| Arc::clone(info))
    }

    pub(crate) fn put_account(&self, name: &AccountName, now: Duration, info: &Arc<AccountInfo>) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= ENTRIES_MAX {
            accounts.retain(|_, (at, _)| now.saturating_sub(*at) < AGE_MAX);
        }
        if accounts.len() < ENTRIES_MAX {
            accounts.insert(name.clone(), (now, Arc::clone(info)));
        }
    }

    pub(crate) fn forget_account(&self, name: &AccountName) {
        self.accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }
}
