//! The checker of invariant B1: a write that was acknowledged with FUA, or before a SYNCHRONIZE CACHE that was
//! acknowledged, is there, or a later one to the same sector is; and nothing else is.

use super::log::Log;
use super::mounted::Mounter;
use super::replay::Check;
use super::volume::{
    EXTENTS, Operation, PART_SECTORS, Plan, SECTOR_BYTES, Sectors, THREADS, VOLUME_BYTES, content,
};
use anyhow::{Context as _, Result, ensure};

/// What an operation does to a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Write(u64),
    Unmap(u64),
}

impl Touch {
    const fn operation(self) -> u64 {
        match self {
            Self::Write(operation) | Self::Unmap(operation) => operation,
        }
    }
}

/// Where the volume is on the disk.
#[derive(Debug)]
enum Location {
    Region,
    File {
        mounter: Mounter,
        name: &'static str,
    },
}

/// Checks the volume of the workload with this seed and number of operations.
#[derive(Debug)]
pub struct VolumeCheck {
    plans: Vec<Plan>,
    /// What each sector is touched by, in order.
    touches: Vec<Vec<Touch>>,
    /// The operation whose effect on each sector is acknowledged as durable.
    durable: Vec<Option<u64>>,
    /// Operations of each thread before this one were taken into account by a SYNCHRONIZE CACHE.
    synchronized: Vec<usize>,
    location: Location,
}

impl VolumeCheck {
    /// The checker of a volume that is a region of the disk.
    ///
    /// # Errors
    /// Never on a machine with 64 bits.
    pub fn of_region(seed: u64, count: usize) -> Result<Self> {
        Self::new(seed, count, Location::Region)
    }

    /// The checker of a volume that is the file `name` of the mounted file system.
    ///
    /// # Errors
    /// Never on a machine with 64 bits.
    pub fn of_file(
        (seed, count): (u64, usize),
        mounter: Mounter,
        name: &'static str,
    ) -> Result<Self> {
        Self::new(seed, count, Location::File { mounter, name })
    }

    fn new(seed: u64, count: usize, location: Location) -> Result<Self> {
        let sectors = usize::try_from(THREADS * PART_SECTORS)?;
        let plans: Vec<_> = (0..THREADS)
            .map(|thread| Plan::new(seed, thread, count))
            .collect();
        let mut touches = vec![Vec::new(); sectors];
        for plan in &plans {
            for (number, operation) in (0..).zip(&plan.operations) {
                for (range, touch) in effects(number, operation) {
                    for lba in range.lba..range.lba + range.count {
                        touches[usize::try_from(lba)?].push(touch);
                    }
                }
            }
        }
        Ok(Self {
            synchronized: vec![0; plans.len()],
            durable: vec![None; sectors],
            plans,
            touches,
            location,
        })
    }

    fn make_durable(&mut self, thread: usize, number: usize) -> Result<()> {
        let operation = &self.plans[thread].operations[number];
        for (range, touch) in effects(u64::try_from(number)?, operation) {
            for lba in range.lba..range.lba + range.count {
                let durable = &mut self.durable[usize::try_from(lba)?];
                *durable = (*durable).max(Some(touch.operation()));
            }
        }
        Ok(())
    }

    /// How many sectors went to the disk, within the region of the volume, as a mixture of several writes: a page of the
    /// page cache that was changed while the disk read it. Whatever was there before is lost if power goes just then.
    #[must_use]
    pub fn torn(&self, log: &Log) -> usize {
        let writes = log.entries.iter().flat_map(|entry| {
            let sectors = log.written(entry).chunks(SECTOR_BYTES);
            (entry.offset..).step_by(SECTOR_BYTES).zip(sectors)
        });
        let is_torn = |(offset, found): &(u64, &[u8])| {
            let Some(lba) = EXTENTS.iter().find_map(|extent| {
                let within = offset.checked_sub(extent.medium_offset)?;
                (within < extent.length).then(|| (extent.volume_offset + within) / 512)
            }) else {
                return false;
            };
            found.iter().any(|byte| *byte != 0)
                && number_in(found).is_none_or(|number| *found != content(number, lba))
        };
        writes.filter(is_torn).count()
    }

    fn check_volume(&self, volume: &[u8]) -> Option<String> {
        let sectors = volume.chunks(SECTOR_BYTES).zip(&self.touches);
        for ((lba, (found, touches)), durable) in (0..).zip(sectors).zip(&self.durable) {
            let is_allowed =
                |touch: &&Touch| durable.is_none_or(|durable| touch.operation() >= durable);
            let mut allowed = touches.iter().filter(is_allowed);
            let is_right = if found.iter().all(|byte| *byte == 0) {
                durable.is_none() || allowed.any(|touch| matches!(touch, Touch::Unmap(_)))
            } else {
                number_in(found).is_some_and(|number| {
                    allowed.any(|touch| *touch == Touch::Write(number))
                        && found == content(number, lba)
                })
            };
            if !is_right {
                let is_empty = found.iter().all(|byte| *byte == 0);
                let seen = match number_in(found) {
                    Some(number) => parts(found, lba, number, touches),
                    None if is_empty => "zeros".to_owned(),
                    None => "garbage".to_owned(),
                };
                return Some(match durable {
                    Some(durable) => format!(
                        "sector {lba} has {seen}; operation {durable} was acknowledged as durable"
                    ),
                    None => format!("sector {lba} has {seen}, which nobody wrote there"),
                });
            }
        }
        None
    }
}

/// What a sector that begins as an operation wrote it consists of.
fn parts(found: &[u8], lba: u64, number: u64, touches: &[Touch]) -> String {
    let begun = content(number, lba);
    let Some(at) = found.iter().zip(&begun).position(|(a, b)| a != b) else {
        return format!("operation {number}");
    };
    let rest_of = |touch: &&Touch| content(touch.operation(), lba).get(at..) == found.get(at..);
    match touches.iter().find(rest_of) {
        Some(rest) => format!("operation {number} up to byte {at} and {rest:?} behind it"),
        None => format!("what looks like operation {number} up to byte {at}"),
    }
}

/// The operation a sector names.
fn number_in(sector: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*sector.first_chunk()?);
    number.checked_sub(1)
}

fn effects(number: u64, operation: &Operation) -> Vec<(Sectors, Touch)> {
    let write = |sectors: &Sectors| (*sectors, Touch::Write(number));
    match operation {
        Operation::WriteThrough(sectors) => vec![write(sectors)],
        Operation::CompareAndWrite(lba) => vec![write(&Sectors {
            lba: *lba,
            count: 1,
        })],
        Operation::WriteBack(writes) => writes.iter().map(write).collect(),
        Operation::Unmap(sectors) => vec![(*sectors, Touch::Unmap(number))],
        Operation::Synchronize => Vec::new(),
    }
}

impl Check for VolumeCheck {
    fn acknowledge(&mut self, mark: &[u8]) -> Result<()> {
        let (numbers, rest) = mark.as_chunks::<8>();
        ensure!(numbers.len() == 2 && rest.is_empty(), "a foreign mark");
        let thread = usize::try_from(u64::from_le_bytes(numbers[0]))?;
        let number = usize::try_from(u64::from_le_bytes(numbers[1]))?;
        let plan = self.plans.get(thread).context("a mark of no thread")?;
        match plan
            .operations
            .get(number)
            .context("a mark of no operation")?
        {
            Operation::WriteThrough(_) | Operation::CompareAndWrite(_) => {
                self.make_durable(thread, number)
            }
            Operation::Synchronize => {
                for earlier in self.synchronized[thread]..number {
                    self.make_durable(thread, earlier)?;
                }
                self.synchronized[thread] = number;
                Ok(())
            }
            Operation::WriteBack(_) | Operation::Unmap(_) => {
                anyhow::bail!("a mark of an operation that is not durable")
            }
        }
    }

    fn check(&mut self, disk: &[u8]) -> Result<Option<String>> {
        match &self.location {
            Location::Region => {
                let mut volume = Vec::new();
                for extent in EXTENTS {
                    let start = usize::try_from(extent.medium_offset)?;
                    let end = start + usize::try_from(extent.length)?;
                    volume.extend(disk.get(start..end).context("the disk is too small")?);
                }
                Ok(self.check_volume(&volume))
            }
            Location::File { mounter, name } => mounter.look(disk, |root| {
                let volume = match std::fs::read(root.join(name)) {
                    Ok(volume) => volume,
                    Err(error) => return Ok(Some(format!("{name} cannot be read: {error}"))),
                };
                if u64::try_from(volume.len())? != VOLUME_BYTES {
                    return Ok(Some(format!("{name} has {} bytes", volume.len())));
                }
                Ok(self.check_volume(&volume))
            }),
        }
    }

    fn repaired(&self) -> usize {
        match &self.location {
            Location::Region => 0,
            Location::File { mounter, .. } => mounter.repaired(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 200;

    /// The disk after all operations before `end` of both plans.
    fn disk_after(check: &VolumeCheck, end: usize) -> Vec<u8> {
        let mut disk = vec![0; 4 << 20];
        for plan in &check.plans {
            for (number, operation) in (0..).zip(&plan.operations[..end]) {
                for (range, touch) in effects(number, operation) {
                    for lba in range.lba..range.lba + range.count {
                        let sector = match touch {
                            Touch::Write(number) => content(number, lba),
                            Touch::Unmap(_) => [0; SECTOR_BYTES],
                        };
                        let at = place_of(lba);
                        disk[at..at + SECTOR_BYTES].copy_from_slice(&sector);
                    }
                }
            }
        }
        disk
    }

    fn place_of(lba: u64) -> usize {
        let offset = lba * 512;
        let extent = EXTENTS
            .iter()
            .find(|extent| {
                offset >= extent.volume_offset && offset - extent.volume_offset < extent.length
            })
            .unwrap();
        usize::try_from(extent.medium_offset + offset - extent.volume_offset).unwrap()
    }

    fn mark(thread: u64, number: usize) -> Vec<u8> {
        [thread, u64::try_from(number).unwrap()]
            .map(u64::to_le_bytes)
            .concat()
    }

    /// The last SYNCHRONIZE CACHE of the first thread and a sector that a write before it touched last.
    fn last_synchronized(check: &VolumeCheck) -> (usize, u64) {
        let operations = &check.plans[0].operations;
        let sync = operations
            .iter()
            .rposition(|operation| *operation == Operation::Synchronize)
            .unwrap();
        let lba = (0..PART_SECTORS)
            .find(|lba| {
                let touches = &check.touches[usize::try_from(*lba).unwrap()];
                matches!(touches.last(), Some(Touch::Write(number)) if *number < u64::try_from(sync).unwrap())
            })
            .unwrap();
        (sync, lba)
    }

    #[test]
    fn everything_done_is_right_whether_acknowledged_or_not() {
        let mut check = VolumeCheck::of_region(5, COUNT).unwrap();
        for end in [0, 1, COUNT / 2, COUNT] {
            let disk = disk_after(&check, end);
            assert_eq!(check.check(&disk).unwrap(), None);
        }
        let (sync, _) = last_synchronized(&check);
        check.acknowledge(&mark(0, sync)).unwrap();
        let disk = disk_after(&check, COUNT);
        assert_eq!(check.check(&disk).unwrap(), None);
        let early = disk_after(&check, 3);
        assert!(check.check(&early).unwrap().is_some(), "an old disk passes");
    }

    #[test]
    fn a_lost_an_older_and_a_damaged_sector_are_found() {
        let mut check = VolumeCheck::of_region(5, COUNT).unwrap();
        let (sync, lba) = last_synchronized(&check);
        check.acknowledge(&mark(0, sync)).unwrap();
        let good = disk_after(&check, COUNT);
        let at = place_of(lba);
        for wrong in [
            vec![0; SECTOR_BYTES],
            content(0, lba).to_vec(),
            good[at + 1..][..SECTOR_BYTES].to_vec(),
        ] {
            let mut disk = good.clone();
            disk[at..at + SECTOR_BYTES].copy_from_slice(&wrong);
            let finding = check.check(&disk).unwrap().unwrap();
            assert!(finding.contains(&format!("sector {lba} ")), "{finding}");
        }
    }

    #[test]
    fn a_sector_that_went_to_the_disk_as_a_mixture_is_counted() {
        let check = VolumeCheck::of_region(5, COUNT).unwrap();
        let at = |lba| u64::try_from(place_of(lba)).unwrap();
        let whole = [content(3, 8), content(4, 9), [0; SECTOR_BYTES]].concat();
        let mut mixture = content(6, 9);
        mixture[256..].copy_from_slice(&content(4, 9)[256..]);
        let elsewhere = 8 << 20;
        let log = Log::of(&[
            (at(8), 0, &whole),
            (at(9), 0, &mixture),
            (elsewhere, 0, &mixture),
        ]);
        assert_eq!(check.torn(&log), 1);
    }

    #[test]
    fn marks_that_make_no_sense_are_refused() {
        let mut check = VolumeCheck::of_region(5, COUNT).unwrap();
        assert!(check.acknowledge(b"?").is_err());
        assert!(check.acknowledge(&mark(9, 0)).is_err());
        assert!(check.acknowledge(&mark(0, COUNT)).is_err());
    }
}
