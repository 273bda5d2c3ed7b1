//! The exports: what is served, and how that changes while it is served.
//!
//! Every change is durable before it is in force, except that access ends at once: what is taken away must not last a
//! moment longer because a disk is slow. Removing cuts the sessions, waits for their I/O, then forgets the file; a
//! crash in between brings the export back, and the request is made again.

mod valid;

use crate::access::{Reachable, Seeker, claimed, reachable};
use crate::export::{Access, ExportSpec, ExportStatus};
use crate::kept::Kind;
use crate::medium::{FileMedium, Medium, MediumError};
use crate::opening::{Opener, capacity_of};
use crate::sessions::Sessions;
use crate::store::{Store, StoreError};
use crate::unit::Unit;
use onggi_block_iscsi::{IscsiName, NameError, chap};
use onggi_block_medium::MediumSpec;
use onggi_block_scsi::SavedError;
use onggi_block_scsi::range::{BlockSizeError, CapacityError, LunError};
use onggi_common_host::Entropy;
use onggi_common_units::Uuid;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use valid::check;

/// How long sessions may take to end when their access ends: I/O under way has to finish.
const CUT_TIME_MAX: Duration = Duration::from_secs(30);
/// How many exports there may be.
pub(crate) const EXPORTS_MAX: usize = 16_384;
/// How many accesses an export may have.
pub(crate) const ACCESSES_MAX: usize = 1_024;

/// Why a change to the exports was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{given:?} is not the normal form of this name, which is {normal}")]
    NotNormal { given: String, normal: String },
    #[error(transparent)]
    Lun(#[from] LunError),
    #[error(transparent)]
    BlockSize(#[from] BlockSizeError),
    #[error("the volume makes no logical unit: {0}")]
    Capacity(#[from] CapacityError),
    #[error("the access of attachment {attachment}: {why}")]
    Access { attachment: Uuid, why: &'static str },
    #[error("more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
    #[error("there is no export {iqn}")]
    NotFound { iqn: String },
    #[error("{iqn} exports the volume {volume}: remove that export first")]
    Conflict { iqn: String, volume: Uuid },
    #[error("{iqn} cannot shrink from {from} to {to} bytes while it is exported")]
    Shrinks { iqn: String, from: u64, to: u64 },
    #[error(transparent)]
    Medium(#[from] MediumError),
    #[error("sessions of {iqn} did not end within {CUT_TIME_MAX:?}: ask again")]
    Busy { iqn: String },
    #[error("{to:?} is no address an initiator can be sent to: host:port, perhaps with ,group")]
    Address { to: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the kept reservations contradict themselves: {0}")]
    Reservations(#[from] SavedError),
}

/// An export.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) iqn: Arc<str>,
    pub(crate) name: IscsiName,
    state: RwLock<ExportState>,
}

#[derive(Debug)]
struct ExportState {
    spec: ExportSpec,
    serving: Serving,
    is_removed: bool,
    is_fenced: bool,
}

#[derive(Debug, Clone)]
enum Serving {
    Unit(Arc<Unit>),
    /// The medium could not be opened; each login tries again.
    Trouble(String),
}

impl ExportState {
    fn unit(&self) -> Option<Arc<Unit>> {
        match &self.serving {
            Serving::Unit(unit) => Some(Arc::clone(unit)),
            Serving::Trouble(_) => None,
        }
    }

    fn spec_and_fence(&self) -> (ExportSpec, bool) {
        (self.spec.clone(), self.is_fenced)
    }
}

impl Export {
    fn read(&self) -> RwLockReadGuard<'_, ExportState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ExportState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How an initiator may reach it.
    pub(crate) fn reachable(&self, initiator: &str) -> Reachable {
        reachable(&self.read().spec.access, initiator)
    }

    /// The attachments an initiator may prove to be with this user name, and how.
    pub(crate) fn claimed(&self, initiator: &str, user: &str) -> Vec<(Uuid, chap::ChapAccount)> {
        claimed(&self.read().spec.access, initiator, user)
    }

    /// Whether the attachment's access is for this initiator's name alone.
    pub(crate) fn vouches_for(&self, attachment: Uuid, initiator: &str) -> bool {
        let state = self.read();
        let mut accesses = state.spec.access.iter();
        accesses.any(|access| {
            access.attachment == attachment && access.initiator.as_deref() == Some(initiator)
        })
    }

    /// The volume behind it.
    pub(crate) fn volume(&self) -> Uuid {
        self.read().spec.volume
    }

    /// Whether this attachment still has access.
    pub(crate) fn lets_in(&self, attachment: Uuid) -> bool {
        let state = self.read();
        !state.is_removed
            && state
                .spec
                .access
                .iter()
                .any(|access| access.attachment == attachment)
    }

    fn status(&self, sessions: &Sessions) -> ExportStatus {
        // Counted first: whoever holds the table of sessions may want this export's state.
        let count = sessions.count(&self.iqn);
        let state = self.read();
        ExportStatus {
            iqn: state.spec.iqn.clone(),
            lun: state.spec.lun,
            volume: state.spec.volume,
            size: state.spec.medium.size(),
            read_only: state.spec.read_only,
            attachments: state
                .spec
                .access
                .iter()
                .map(|access| access.attachment)
                .collect(),
            sessions: count,
            trouble: match &state.serving {
                Serving::Unit(_) => None,
                Serving::Trouble(why) => Some(why.clone()),
            },
        }
    }
}

/// What units need to know of the process they are in.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The tags of the portal groups.
    pub(crate) portal_groups: Vec<u16>,
    /// How many threads touch media.
    pub(crate) threads: usize,
    /// How fast a SANITIZE overwrites.
    pub(crate) sanitize_bytes_per_second: u64,
}

/// All exports.
pub(crate) struct Registry {
    exports: RwLock<BTreeMap<String, Arc<Export>>>,
    /// Held while a change is made durable and put in force, so that two changes of one export do not cross.
    changes: Mutex<()>,
    opener: Opener,
    sessions: Arc<Sessions>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("exports", &self.exports)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// The exports the store holds. One whose medium cannot be opened is there, in trouble.
    pub(crate) fn restore(
        store: Store,
        sessions: Arc<Sessions>,
        entropy: Arc<dyn Entropy>,
        surroundings: Surroundings,
    ) -> Result<Self, StoreError> {
        let opener = Opener {
            store: Arc::new(store),
            entropy,
            surroundings,
        };
        let mut exports = BTreeMap::new();
        for spec in opener.store.load()? {
            let iqn = spec.iqn.clone();
            match restore_one(spec, &opener) {
                Ok(export) => drop(exports.insert(iqn, Arc::new(export))),
                Err(error) => tracing::error!(%iqn, %error, "a stored export is not served"),
            }
        }
        let (exports, changes) = (RwLock::new(exports), Mutex::new(()));
        Ok(Self {
            exports,
            changes,
            opener,
            sessions,
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Export>>> {
        self.exports.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Export>>> {
        self.exports.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The export of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Export>> {
        self.read().get(name).cloned()
    }

    fn get(&self, iqn: &str) -> Result<Arc<Export>, RegistryError> {
        self.find(iqn).ok_or_else(|| RegistryError::NotFound {
            iqn: iqn.to_owned(),
        })
    }

    /// All exports.
    pub(crate) fn all(&self) -> Vec<Arc<Export>> {
        self.read().values().cloned().collect()
    }

    /// All exports, without secrets.
    pub(crate) fn list(&self) -> Vec<ExportStatus> {
        self.all()
            .iter()
            .map(|export| export.status(&self.sessions))
            .collect()
    }

    /// Whether an initiator must prove itself for discovery: it can reach something, but only by proof.
    pub(crate) fn is_discovery_by_proof(&self, initiator: &str) -> bool {
        let mut is_by_proof = false;
        for export in self.read().values() {
            match export.reachable(initiator) {
                Reachable::No => {}
                Reachable::Freely(_) => return false,
                Reachable::ByProof => is_by_proof = true,
            }
        }
        is_by_proof
    }

    /// The accounts of this user name by which an initiator may prove itself for discovery.
    pub(crate) fn discovery_claims(&self, initiator: &str, user: &str) -> Vec<chap::ChapAccount> {
        let mut found: Vec<chap::ChapAccount> = Vec::new();
        for export in self.read().values() {
            for (_, account) in export.claimed(initiator, user) {
                if found.len() < chap::CLAIMS_MAX && !found.contains(&account) {
                    found.push(account);
                }
            }
        }
        found
    }

    /// The names a discovery session is shown.
    pub(crate) fn visible(&self, seeker: &Seeker) -> Vec<IscsiName> {
        let exports = self.all();
        let seen = exports
            .iter()
            .filter(|export| seeker.sees(&export.read().spec.access));
        seen.map(|export| export.name.clone()).collect()
    }

    /// The unit behind an export; opening its medium is tried again if it failed before.
    pub(crate) fn unit(&self, export: &Export) -> Result<Arc<Unit>, RegistryError> {
        if let Serving::Unit(unit) = &export.read().serving {
            return Ok(Arc::clone(unit));
        }
        let mut state = export.write();
        if let Serving::Unit(unit) = &state.serving {
            return Ok(Arc::clone(unit));
        }
        let unit = self.opener.open(&state.spec)?;
        state.serving = Serving::Unit(Arc::clone(&unit));
        Ok(unit)
    }

    /// Makes an export be so.
    pub(crate) fn put(&self, mut spec: ExportSpec) -> Result<(), RegistryError> {
        let name = check(&mut spec)?;
        let changing = self.changing();
        match self.find(&spec.iqn) {
            Some(export) => self.change(&export, spec, changing),
            None => {
                let exports = self.read().len();
                if exports >= EXPORTS_MAX {
                    return Err(RegistryError::TooMany {
                        what: "exports",
                        max: EXPORTS_MAX,
                    });
                }
                let unit = self.opener.open(&spec)?;
                self.opener.store.put(&spec, &*self.opener.entropy)?;
                let iqn = spec.iqn.clone();
                let state = ExportState {
                    spec,
                    serving: Serving::Unit(unit),
                    is_removed: false,
                    is_fenced: false,
                };
                let export = Export {
                    iqn: Arc::from(iqn.as_str()),
                    name,
                    state: RwLock::new(state),
                };
                self.write().insert(iqn, Arc::new(export));
                Ok(())
            }
        }
    }

    // The parts of a spec that initiators take for granted during a session: a change of them cuts all sessions.
    fn change(
        &self,
        export: &Arc<Export>,
        spec: ExportSpec,
        changing: MutexGuard<'_, ()>,
    ) -> Result<(), RegistryError> {
        let (old, is_fenced) = export.read().spec_and_fence();
        if old == spec && !is_fenced {
            return Ok(());
        }
        if old.volume != spec.volume {
            return Err(RegistryError::Conflict {
                iqn: old.iqn,
                volume: old.volume,
            });
        }
        let basics = |spec: &ExportSpec| (spec.lun, spec.block_size, spec.read_only);
        if basics(&old) == basics(&spec) {
            if old.medium != spec.medium || is_fenced {
                self.replace_medium(export, &spec)?;
            }
            self.opener.store.put(&spec, &*self.opener.entropy)?;
            let iqn = spec.iqn.clone();
            export.write().spec = spec;
            drop(changing);
            return self.cut(&iqn, |attachment| !export.lets_in(attachment));
        }
        let unit = self.opener.open(&spec)?;
        self.opener.store.put(&spec, &*self.opener.entropy)?;
        let iqn = spec.iqn.clone();
        let mut state = export.write();
        let old = state.unit();
        state.spec = spec;
        state.serving = Serving::Unit(unit);
        drop((state, changing));
        self.cut(&iqn, |_| true)?;
        if let Some(old) = old {
            old.retire();
        }
        Ok(())
    }

    fn replace_medium(&self, export: &Export, spec: &ExportSpec) -> Result<(), RegistryError> {
        let capacity = capacity_of(spec)?;
        let unit = self.unit(export)?;
        let from = unit.capacity().size().bytes();
        if capacity.size().bytes() < from {
            return Err(RegistryError::Shrinks {
                iqn: spec.iqn.clone(),
                from,
                to: capacity.size().bytes(),
            });
        }
        let medium: Arc<dyn Medium> = Arc::new(FileMedium::open(&spec.medium, spec.read_only)?);
        unit.replace_medium(medium, capacity);
        export.write().is_fenced = false;
        Ok(())
    }

    /// Serves an export by a new map.
    pub(crate) fn resize(&self, iqn: &str, medium: MediumSpec) -> Result<(), RegistryError> {
        let _changing = self.changing();
        let export = self.get(iqn)?;
        let (mut spec, is_fenced) = export.read().spec_and_fence();
        if spec.medium == medium && !is_fenced {
            return Ok(());
        }
        spec.medium = medium;
        self.replace_medium(&export, &spec)?;
        self.opener.store.put(&spec, &*self.opener.entropy)?;
        export.write().spec = spec;
        Ok(())
    }

    /// Gives or changes an attachment's access.
    pub(crate) fn grant(&self, iqn: &str, access: Access) -> Result<(), RegistryError> {
        let _changing = self.changing();
        let export = self.get(iqn)?;
        let mut spec = export.read().spec.clone();
        match spec
            .access
            .iter_mut()
            .find(|old| old.attachment == access.attachment)
        {
            Some(old) => *old = access,
            None => spec.access.push(access),
        }
        check(&mut spec)?;
        if export.read().spec == spec {
            return Ok(());
        }
        self.opener.store.put(&spec, &*self.opener.entropy)?;
        export.write().spec = spec;
        Ok(())
    }

    /// Takes an attachment's access away and cuts its sessions.
    pub(crate) fn revoke(&self, iqn: &str, attachment: Uuid) -> Result<(), RegistryError> {
        let export = self.get(iqn)?;
        {
            let _changing = self.changing();
            let spec = {
                let mut state = export.write();
                state
                    .spec
                    .access
                    .retain(|access| access.attachment != attachment);
                state.spec.clone()
            };
            self.opener.store.put(&spec, &*self.opener.entropy)?;
        }
        self.cut(iqn, |other| other == attachment)
    }

    /// Refuses all I/O on an export: its bytes may belong to somebody else by now.
    pub(crate) fn fence(&self, iqn: &str) -> Result<(), RegistryError> {
        let export = self.get(iqn)?;
        self.unit(&export)?.fence();
        export.write().is_fenced = true;
        tracing::error!(%iqn, "the export is fenced");
        Ok(())
    }

    /// Stops exporting. What is not there is removed already, but its sessions and its file are still seen to: an
    /// earlier attempt may have stopped half way.
    pub(crate) fn remove(&self, iqn: &str) -> Result<(), RegistryError> {
        let changing = self.changing();
        let mut removed = None;
        if let Some(export) = self.write().remove(iqn) {
            let mut state = export.write();
            state.is_removed = true;
            removed = state.unit();
        }
        drop(changing);
        self.cut(iqn, |_| true)?;
        if let Some(unit) = removed {
            // A SANITIZE, or a copy that another unit's session makes, is no session's job here.
            unit.retire();
        }
        let _changing = self.changing();
        // Somebody may have exported it again while the sessions ended.
        if self.find(iqn).is_none() && iqn.parse::<IscsiName>().is_ok() {
            // First what the export would come back with, if this is as far as it gets.
            for kind in Kind::ALL {
                self.opener.store.remove_kept(kind, iqn)?;
            }
            self.opener.store.remove(iqn)?;
        }
        Ok(())
    }

    /// Asks the initiators of an export, or of all, to log out, and ends the sessions that are left after `within`.
    pub(crate) fn drain(&self, iqn: Option<&str>, within: Duration) -> Result<(), RegistryError> {
        let is_meant = |name: &str| iqn.is_none_or(|iqn| iqn == name);
        let drained = self
            .sessions
            .drain(within, CUT_TIME_MAX, |entry| is_meant(&entry.iqn));
        if drained {
            Ok(())
        } else {
            Err(RegistryError::Busy {
                iqn: iqn.unwrap_or("the target").to_owned(),
            })
        }
    }

    fn cut(&self, iqn: &str, is_meant: impl Fn(Uuid) -> bool) -> Result<(), RegistryError> {
        let cut = self.sessions.cut(CUT_TIME_MAX, |entry| {
            *entry.iqn == *iqn && is_meant(entry.attachment)
        });
        if cut {
            if let Some(unit) = self.find(iqn).and_then(|export| export.read().unit()) {
                unit.wait_for_writers();
            }
            Ok(())
        } else {
            Err(RegistryError::Busy {
                iqn: iqn.to_owned(),
            })
        }
    }
}

fn restore_one(mut spec: ExportSpec, opener: &Opener) -> Result<Export, RegistryError> {
    let name = check(&mut spec)?;
    let serving = match opener.open(&spec) {
        Ok(unit) => Serving::Unit(unit),
        Err(error) => {
            tracing::error!(iqn = %spec.iqn, %error, "the medium of an export cannot be opened");
            Serving::Trouble(error.to_string())
        }
    };
    let iqn = Arc::from(spec.iqn.as_str());
    Ok(Export {
        iqn,
        name,
        state: RwLock::new(ExportState {
            spec,
            serving,
            is_removed: false,
            is_fenced: false,
        }),
    })
}

#[cfg(test)]
pub(crate) mod tests;
