//! Volumes as logical volumes: the pool itself.
//!
//! | state | name | tags |
//! |---|---|---|
//! | being made, its bytes not yet zero | `volume-<uuid>` | `onggi`, `onggi.unready`, labels |
//! | complete | `volume-<uuid>` | `onggi`, labels |
//! | being grown, the new bytes not yet zero | `volume-<uuid>` | … and `onggi.growing=<extents before>` |
//! | removed, its bytes not yet zero | `onggi-zeroing-<other uuid>` | as before |
//!
//! Each step is one LVM command, so a crash leaves one of these states, and the same call goes on from it. Thin volumes
//! skip the first and third state: their pool zeroes by itself.
//!
//! The fence holds the group's sequence number, which changes with every volume of the group; so a differing number
//! only asks for a second look, and what decides is the volume's own LVM id and its extents.

use crate::error::PoolError;
use crate::lvm::error::LvmError;
use crate::lvm::ground::Ground;
use crate::lvm::group::{self, LvmOptions, thin_pool_name};
use crate::lvm::hints;
use crate::lvm::mapping::{self, MappingError};
use crate::lvm::names::{
    TAG_GROWING, TAG_OURS, TAG_UNREADY, VgName, is_label_tag, is_zeroing, label_tags, labels_of,
    volume_id, volume_name, zeroing_name,
};
use crate::lvm::reclaim::{self, Reclaim};
use crate::lvm::report::{Group, LogicalVolume};
use crate::lvm::worker::Worker;
use crate::pool::{Capacity, Labels, Pool, PoolKind, StoredVolume};
use crate::zero;
use core::time::Duration;
use onggi_block_medium::{ExtentMap, Fence, MediumKind, MediumSpec};
use onggi_common_host::{Clock, Entropy, SystemClock, SystemEntropy};
use onggi_common_units::{ByteCount, Uuid};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The largest volume: what LVM and a block device's offsets allow is far more, what a typing error asks for as well.
pub const VOLUME_SIZE_MAX: ByteCount = ByteCount::from_gib(64 << 10);

/// How long a call waits for the space of removed volumes before it says that the pool is full.
const RECLAIM_WAIT: Duration = Duration::from_secs(20);

/// A pool of logical volumes.
#[derive(Debug)]
pub struct LvmPool {
    shared: Arc<Shared>,
    reclaimer: Option<JoinHandle<()>>,
}

/// What the pool and its background thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) group: VgName,
    pub(crate) worker: Worker,
    pub(crate) reclaim: Reclaim,
    pub(crate) reclaim_per_second: ByteCount,
    kind: PoolKind,
    ground: Ground,
    /// Held over each look-then-change, so that two callers do not change on the strength of one look.
    changes: Mutex<()>,
    /// Keeps other processes out as long as the pool is open.
    _lock: File,
}

impl LvmPool {
    /// Opens the pool: finds the volume group again, or makes it if that was never done.
    ///
    /// # Errors
    /// When there is something else where the group should be, when what was there is gone or cut short, when another
    /// process has the pool, or when LVM or the loop devices cannot be used.
    pub fn open(options: &LvmOptions) -> Result<Self, PoolError> {
        let prepared = group::prepare(options)?;
        let shared = Arc::new(Shared {
            group: prepared.name,
            worker: prepared.worker,
            reclaim: Reclaim::default(),
            reclaim_per_second: options.reclaim_per_second,
            kind: prepared.kind,
            ground: prepared.ground,
            changes: Mutex::new(()),
            _lock: prepared.lock,
        });
        // What the last run left to be zeroed.
        shared.reclaim.wake();
        let background = Arc::clone(&shared);
        let reclaimer = std::thread::spawn(move || reclaim::serve(&background));
        Ok(Self {
            shared,
            reclaimer: Some(reclaimer),
        })
    }

    /// The device the group lies on: `/dev/loop…`, or the disk.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.shared.ground.device
    }

    /// Waits until the bytes of all removed volumes are zero and their space is free, or the limit is reached. Whether
    /// that is so.
    #[must_use]
    pub fn wait_reclaimed(&self, limit: Duration) -> bool {
        self.shared.reclaim.wait_idle(limit)
    }

    /// Closes the pool and lets go of its loop device; the next opening attaches it again. Whoever still has volumes
    /// open keeps the bytes, and the kernel detaches when the last one is done.
    ///
    /// # Errors
    /// When the loop device cannot be detached.
    pub fn release(mut self) -> Result<(), PoolError> {
        self.close();
        match &self.shared.ground.loop_device {
            Some(device) => {
                device.detach().map_err(LvmError::Loop)?;
                hints::outdate();
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn close(&mut self) {
        self.shared.reclaim.stop();
        if let Some(thread) = self.reclaimer.take() {
            // It panics only where a test shows it anyway.
            drop(thread.join());
        }
    }
}

impl Drop for LvmPool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub(crate) fn inventory(&self) -> Result<Group, PoolError> {
        let group = group::inventory(&self.worker, &self.group)?;
        let reason = || "it has gone from its device".to_owned();
        Ok(group.ok_or_else(|| LvmError::GroupUnfit {
            group: self.group.clone(),
            reason: reason(),
        })?)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards no data, only the order of commands.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_found(&self, volume: Uuid) -> PoolError {
        PoolError::NotFound {
            pool: self.group.to_string(),
            volume,
        }
    }

    /// A volume of ours; one of the same name that is not is never touched.
    fn find<'a>(&self, group: &'a Group, id: Uuid) -> Result<Option<&'a LogicalVolume>, PoolError> {
        match group.volume(&volume_name(id)) {
            Some(volume) if is_ours(volume) => Ok(Some(volume)),
            Some(_) => {
                let reason = format!("it has no tag `{TAG_OURS}`: somebody else made it");
                Err(PoolError::Unmappable { volume: id, reason })
            }
            None => Ok(None),
        }
    }

    fn run(&self, command: &str, options: &[&str], lv_name: &str) -> Result<(), LvmError> {
        let full_name = self.group.volume(lv_name);
        let words = [command]
            .into_iter()
            .chain(options.iter().copied())
            .chain([full_name.as_str()]);
        self.worker.run(words).map(drop)
    }

    fn is_mapped(&self) -> bool {
        match self.kind {
            PoolKind::LvmMapped | PoolKind::File => true,
            PoolKind::LvmThick | PoolKind::LvmThin => false,
        }
    }

    /// Takes a volume out of the kernel, where it is in it.
    pub(crate) fn deactivate(&self, lv_name: &str) -> Result<(), PoolError> {
        if self.is_mapped() {
            return Ok(());
        }
        Ok(self.run("lvchange", &["-an"], lv_name)?)
    }

    /// Where all of a volume's bytes are, complete or not.
    pub(crate) fn raw_medium(
        &self,
        group: &Group,
        volume: &LogicalVolume,
    ) -> Result<MediumSpec, PoolError> {
        let count = group.extents_for(volume.size);
        self.medium(group, volume, count)
    }

    /// Where a volume's first extents are.
    fn medium(
        &self,
        group: &Group,
        volume: &LogicalVolume,
        count: u64,
    ) -> Result<MediumSpec, PoolError> {
        // Volumes that are being zeroed have no id any more; errors name the nil one.
        let id = volume_id(&volume.name).unwrap_or(Uuid::from_random([0; 16]));
        let fence = Some(Fence {
            group: group.name.clone(),
            group_uuid: group.uuid.clone(),
            volume_uuid: volume.uuid.clone(),
            seqno: group.seqno,
        });
        if self.is_mapped() {
            let extents = mapping::map(group, volume, count).map_err(|error| match error {
                MappingError::Unmappable(reason) => PoolError::Unmappable { volume: id, reason },
                MappingError::Extents(source) => PoolError::Extents { volume: id, source },
            })?;
            return Ok(MediumSpec {
                path: self.ground.medium.clone(),
                kind: self.ground.kind,
                extents,
                fence,
            });
        }
        if !volume.is_active {
            self.run("lvchange", &["-ay", "-K"], &volume.name)?;
        }
        let path = PathBuf::from("/dev")
            .join(self.group.as_str())
            .join(&volume.name);
        let extents = ExtentMap::linear(group.extents(count))
            .map_err(|source| PoolError::Extents { volume: id, source })?;
        Ok(MediumSpec {
            path,
            kind: MediumKind::Device,
            extents,
            fence,
        })
    }

    /// Refuses when so many extents are not free.
    fn require_free(&self, group: &Group, count: u64) -> Result<(), PoolError> {
        if group.free_count >= count {
            return Ok(());
        }
        Err(PoolError::InsufficientSpace {
            pool: self.group.to_string(),
            needed: group.extents(count),
            free: group.extents(group.free_count),
            reclaiming: reclaiming(group),
        })
    }

    /// Makes a change under the lock. Where it lacks what removed volumes will give back, it is made again after each of
    /// them: the lock is free meanwhile, and all the waiting together has a limit.
    fn change_with_room(
        &self,
        change: impl Fn() -> Result<(), PoolError>,
    ) -> Result<(), PoolError> {
        let since = SystemClock::new();
        loop {
            // Before the look, so that what is given back in between counts.
            let seen = self.reclaim.reclaimed();
            let outcome = {
                let _changes = self.lock();
                change()
            };
            let left = RECLAIM_WAIT.saturating_sub(since.monotonic());
            match &outcome {
                Err(PoolError::InsufficientSpace {
                    needed,
                    free,
                    reclaiming,
                    ..
                }) if free.bytes().saturating_add(reclaiming.bytes()) >= needed.bytes()
                    && self.reclaim.wait_reclaimed(seen, left) => {}
                _ => return outcome,
            }
        }
    }

    /// Makes the logical volume, unless it is there. Under the lock.
    fn begin_create(&self, id: Uuid, size: ByteCount, labels: &Labels) -> Result<(), PoolError> {
        let group = self.inventory()?;
        let count = Self::checked_extents(&group, size)?;
        match self.find(&group, id)? {
            None => self.make(&group, id, count, labels),
            Some(volume) if group.extents_for(volume.size) != count => Err(PoolError::Exists {
                volume: id,
                found: volume.size,
                asked: group.extents(count),
            }),
            Some(_) => Ok(()),
        }
    }

    /// Grows the logical volume, unless it is grown. Under the lock.
    fn begin_extend(&self, id: Uuid, size: ByteCount) -> Result<(), PoolError> {
        let group = self.inventory()?;
        let count = Self::checked_extents(&group, size)?;
        let volume = self.find(&group, id)?.ok_or_else(|| self.not_found(id))?;
        let found = group.extents_for(volume.size);
        if is_unready(volume) {
            return Err(PoolError::Incomplete { volume: id });
        }
        if found > count {
            return Err(PoolError::Shrink {
                volume: id,
                found: volume.size,
                asked: group.extents(count),
            });
        }
        if found == count {
            return Ok(());
        }
        if self.kind != PoolKind::LvmThin {
            self.require_free(&group, count - found)?;
            if is_complete(volume) {
                let tag = format!("{TAG_GROWING}{}", usable_extents(&group, volume));
                self.run("lvchange", &["--addtag", &tag], &volume.name)?;
            }
        }
        Ok(self.run("lvextend", &["-l", &count.to_string()], &volume.name)?)
    }

    /// Makes the logical volume. Where its bytes must be cleared first it is tagged as unready.
    fn make(&self, group: &Group, id: Uuid, count: u64, labels: &Labels) -> Result<(), PoolError> {
        let name = volume_name(id);
        let size = format!("{}b", group.extents(count).bytes());
        let extents = count.to_string();
        let pool = self.group.volume(&thin_pool_name(&self.group));
        let mut words: Vec<&str> = vec!["lvcreate", "-n", &name, "--addtag", TAG_OURS];
        match self.kind {
            PoolKind::LvmThin => words.extend(["--type", "thin", "-V", &size, "--thinpool", &pool]),
            PoolKind::LvmThick | PoolKind::LvmMapped | PoolKind::File => {
                self.require_free(group, count)?;
                let activate = if self.is_mapped() { "-an" } else { "-ay" };
                // Not zeroed and not wiped by LVM: it would need the volume's node, and all of it is cleared anyway.
                words.extend([
                    activate,
                    "-Zn",
                    "-Wn",
                    "--type",
                    "linear",
                    "-l",
                    &extents,
                    "--addtag",
                    TAG_UNREADY,
                ]);
            }
        }
        let tags = label_tags(labels);
        words.extend(tags.iter().flat_map(|tag| ["--addtag", tag.as_str()]));
        words.push(self.group.as_str());
        self.worker.run(words)?;
        Ok(())
    }

    /// Clears what must be cleared and takes away the tag that says so.
    fn complete(&self, id: Uuid) -> Result<(), PoolError> {
        let group = self.inventory()?;
        let volume = self.find(&group, id)?.ok_or_else(|| self.not_found(id))?;
        for tag in &volume.tags {
            let first = match (tag.as_str(), growing_from(tag)) {
                (TAG_UNREADY, _) => 0,
                (_, Some(before)) => before,
                _ => continue,
            };
            let medium = self.raw_medium(&group, volume)?;
            let start = group.extents(first).bytes().min(medium.size().bytes());
            zero::clear(&medium, start..medium.size().bytes(), |_| true)?;
            self.run("lvchange", &["--deltag", tag], &volume.name)?;
        }
        Ok(())
    }

    fn checked_extents(group: &Group, size: ByteCount) -> Result<u64, PoolError> {
        if size == ByteCount::ZERO || size > VOLUME_SIZE_MAX {
            return Err(PoolError::InvalidSize {
                size,
                max: VOLUME_SIZE_MAX,
            });
        }
        Ok(group.extents_for(size))
    }
}

fn is_ours(volume: &LogicalVolume) -> bool {
    volume.tags.iter().any(|tag| tag == TAG_OURS)
}

fn growing_from(tag: &str) -> Option<u64> {
    tag.strip_prefix(TAG_GROWING)?.parse().ok()
}

/// How many extents of a volume are there to be used: not those it is just being grown by.
fn usable_extents(group: &Group, volume: &LogicalVolume) -> u64 {
    let all = group.extents_for(volume.size);
    volume
        .tags
        .iter()
        .filter_map(|tag| growing_from(tag))
        .fold(all, u64::min)
}

fn is_unready(volume: &LogicalVolume) -> bool {
    volume.tags.iter().any(|tag| tag == TAG_UNREADY)
}

fn is_complete(volume: &LogicalVolume) -> bool {
    !is_unready(volume) && !volume.tags.iter().any(|tag| growing_from(tag).is_some())
}

impl Pool for LvmPool {
    fn name(&self) -> &str {
        self.shared.group.as_str()
    }

    fn kind(&self) -> PoolKind {
        self.shared.kind
    }

    fn capacity(&self) -> Result<Capacity, PoolError> {
        let group = self.shared.inventory()?;
        Ok(capacity(
            &group,
            self.shared.kind,
            &thin_pool_name(&self.shared.group),
        ))
    }

    fn create(&self, id: Uuid, size: ByteCount, labels: &Labels) -> Result<(), PoolError> {
        let shared = &self.shared;
        shared.change_with_room(|| shared.begin_create(id, size, labels))?;
        // Not under the lock: clearing a disk takes its time, and the tag keeps the volume from being used.
        shared.complete(id)
    }

    fn extend(&self, id: Uuid, size: ByteCount) -> Result<(), PoolError> {
        let shared = &self.shared;
        shared.change_with_room(|| shared.begin_extend(id, size))?;
        shared.complete(id)
    }

    fn remove(&self, id: Uuid) -> Result<(), PoolError> {
        let shared = &self.shared;
        let _changes = shared.lock();
        let group = shared.inventory()?;
        let Some(volume) = shared.find(&group, id)? else {
            return Ok(());
        };
        shared.deactivate(&volume.name)?;
        if shared.kind == PoolKind::LvmThin {
            return Ok(shared.run("lvremove", &["--yes"], &volume.name)?);
        }
        let parked = zeroing_name(SystemEntropy.uuid());
        shared
            .worker
            .run(["lvrename", shared.group.as_str(), &volume.name, &parked])?;
        shared.reclaim.wake();
        Ok(())
    }

    fn label(&self, id: Uuid, labels: &Labels) -> Result<(), PoolError> {
        let shared = &self.shared;
        let _changes = shared.lock();
        let group = shared.inventory()?;
        let volume = shared
            .find(&group, id)?
            .ok_or_else(|| shared.not_found(id))?;
        let new = label_tags(labels);
        let stale = volume
            .tags
            .iter()
            .filter(|tag| is_label_tag(tag) && !new.contains(tag));
        let fresh = new.iter().filter(|tag| !volume.tags.contains(tag));
        let words: Vec<&str> = stale
            .flat_map(|tag| ["--deltag", tag.as_str()])
            .chain(fresh.flat_map(|tag| ["--addtag", tag.as_str()]))
            .collect();
        if words.is_empty() {
            return Ok(());
        }
        Ok(shared.run("lvchange", &words, &volume.name)?)
    }

    fn open(&self, id: Uuid) -> Result<MediumSpec, PoolError> {
        let shared = &self.shared;
        let group = shared.inventory()?;
        let volume = shared
            .find(&group, id)?
            .ok_or_else(|| shared.not_found(id))?;
        if is_unready(volume) {
            return Err(PoolError::Incomplete { volume: id });
        }
        shared.medium(&group, volume, usable_extents(&group, volume))
    }

    fn verify(&self, id: Uuid, medium: &MediumSpec) -> Result<MediumSpec, PoolError> {
        let fenced = |reason: &str| PoolError::Fenced {
            volume: id,
            reason: reason.to_owned(),
        };
        let now = match self.open(id) {
            Ok(now) => now,
            Err(PoolError::NotFound { .. }) => return Err(fenced("it is gone")),
            Err(error) => return Err(error),
        };
        let ids = |medium: &MediumSpec| {
            medium
                .fence
                .as_ref()
                .map(|fence| (fence.group_uuid.clone(), fence.volume_uuid.clone()))
        };
        if ids(&now) != ids(medium) {
            return Err(fenced("another volume has taken its name"));
        }
        if now.path != medium.path {
            return Err(fenced("it lies on another device now"));
        }
        if !now.extents.begins_with(&medium.extents) {
            return Err(fenced("its extents have moved"));
        }
        Ok(now)
    }

    fn list(&self) -> Result<Vec<StoredVolume>, PoolError> {
        let group = self.shared.inventory()?;
        let ours = group.logical.iter().filter(|volume| is_ours(volume));
        Ok(ours
            .filter_map(|volume| {
                Some(StoredVolume {
                    id: volume_id(&volume.name)?,
                    size: group.extents(usable_extents(&group, volume)),
                    labels: labels_of(&volume.tags),
                    is_complete: is_complete(volume),
                })
            })
            .collect())
    }
}

/// What removed volumes still take up.
fn reclaiming(group: &Group) -> ByteCount {
    let zeroing = group
        .logical
        .iter()
        .filter(|volume| is_zeroing(&volume.name));
    let sizes = zeroing.map(|volume| volume.size.bytes());
    ByteCount::new(sizes.fold(0, u64::saturating_add))
}

fn capacity(group: &Group, kind: PoolKind, thin_pool: &str) -> Capacity {
    let sum = |wanted: fn(&&LogicalVolume) -> bool| {
        let sizes = group
            .logical
            .iter()
            .filter(wanted)
            .map(|volume| volume.size.bytes());
        ByteCount::new(sizes.fold(0, u64::saturating_add))
    };
    let reclaiming = reclaiming(group);
    if kind == PoolKind::LvmThin
        && let Some(pool) = group.volume(thin_pool)
    {
        let free_hundredths = 10_000 - pool.used_hundredths_percent.unwrap_or(0).min(10_000);
        return Capacity {
            total: pool.size,
            free: ByteCount::new(pool.size.bytes() / 10_000 * free_hundredths),
            provisioned: sum(|volume| volume_id(&volume.name).is_some()),
            reclaiming,
        };
    }
    Capacity {
        total: group.extents(group.extent_count),
        free: group.extents(group.free_count),
        provisioned: sum(|volume| !is_zeroing(&volume.name)),
        reclaiming,
    }
}
