//! The checker of invariants O1 and O3: what was acknowledged to a client is there, whole and the newest; what was under
//! way is there whole or not at all; and the device fits together.
//!
//! After each cut the device's file systems are mounted, which replays their journals, and a [`Device`] is opened as a
//! node would do it. Looked at are every object with all its bytes, its line in the listing (its record, or what the
//! device still has to tell), containers and their metadata; and in one of eight cuts whatever `onggid device check` looks
//! at: digests, totals, change logs, bodies without rows.

use super::mounted::Mounter;
use super::objects::{self, NAMES, Object, Plan, State, THREADS};
use super::replay::Check;
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::entropy::SystemEntropy;
use onggi_common_units::Timestamp;
use onggi_object_device::{Device, DeviceError, DeviceOptions, RosterKind, check};
use onggi_object_model::{Etag, ObjectRecord, PolicyIndex};
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{ObjectRow, Slot};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// After so many cuts the device is checked as a whole. That opens it once more, which takes as long as all the rest.
const WHOLE_CHECK_EACH: usize = 8;

/// Checks the device of the workload with this seed and number of operations.
#[derive(Debug)]
pub struct ObjectsCheck {
    plans: Vec<Plan>,
    /// How many operations of each client were acknowledged.
    acknowledged: Vec<usize>,
    mounter: Mounter,
    device: PathBuf,
    /// Disks that were looked at.
    count: usize,
}

/// What a device holds, by names.
#[derive(Debug, Default)]
struct Found {
    objects: BTreeMap<Place, FoundObject>,
    /// What listings say, and since when.
    lines: BTreeMap<Place, (Timestamp, Option<Line>)>,
    /// Containers that are there, and the step in their metadata.
    containers: BTreeMap<String, Option<usize>>,
}

/// A container's name, and an object's.
type Place = (String, String);

#[derive(Debug)]
struct FoundObject {
    bytes: Vec<u8>,
    line: Line,
    step: Option<usize>,
}

/// What a listing says of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    length: u64,
    etag: Etag,
}

impl ObjectsCheck {
    /// The checker of the device that is the folder `device` of the mounted file systems.
    #[must_use]
    pub fn new((seed, count): (u64, usize), mounter: Mounter, device: PathBuf) -> Self {
        let plans: Vec<_> = (0..THREADS)
            .map(|thread| Plan::new(seed, thread, count))
            .collect();
        Self {
            acknowledged: vec![0; plans.len()],
            plans,
            mounter,
            device,
            count: 0,
        }
    }

    fn look(&self, root: &Path) -> Result<Option<String>> {
        let directory = root.join(&self.device);
        let options = DeviceOptions {
            directory: directory.clone(),
            reserve: None,
        };
        let device = match Device::open(&options, &SystemEntropy) {
            Ok(device) => device,
            Err(error) => return Ok(Some(format!("the device cannot be opened: {error:#}"))),
        };
        if let Err(error) = device.sweep() {
            return Ok(Some(format!("the device cannot be swept: {error:#}")));
        }
        let found = match find(&device) {
            Ok(found) => found,
            Err(error) => return Ok(Some(format!("the device cannot be read: {error:#}"))),
        };
        drop(device);
        let wrong = self.compare(&found);
        if wrong.is_some() || !self.count.is_multiple_of(WHOLE_CHECK_EACH) {
            return Ok(wrong);
        }
        let report = match check::check(&directory, false) {
            Ok(report) => report,
            Err(error) => return Ok(Some(format!("the device cannot be checked: {error:#}"))),
        };
        if report.problem_count > 0 || report.orphans > 0 {
            return Ok(Some(format!(
                "{} bodies without rows, {} problems: {}",
                report.orphans,
                report.problem_count,
                report.problems.join("; ")
            )));
        }
        Ok(None)
    }

    fn compare(&self, found: &Found) -> Option<String> {
        for (plan, acknowledged) in self.plans.iter().zip(&self.acknowledged) {
            // The client began at most one more operation than was acknowledged to it.
            let states = plan.states.iter().skip(*acknowledged).take(2);
            let wrong: Vec<_> = states
                .map(|state| found.differs(plan.thread, state))
                .collect();
            if wrong.iter().all(Option::is_some) {
                let wrong: Vec<_> = wrong.into_iter().flatten().collect();
                return Some(format!(
                    "client {} with {acknowledged} acknowledged operations: {}",
                    plan.thread,
                    wrong.join(", or ")
                ));
            }
        }
        found.strange_line()
    }
}

fn find(device: &Device) -> Result<Found, DeviceError> {
    let mut found = Found::default();
    let policy = PolicyIndex::default();
    for slot in slots(device, Scope::Objects(policy)) {
        let mut there = Vec::new();
        device.visit_objects(policy, slot, &mut |key, stored| {
            if stored.row.body.is_some() {
                there.push((*key, stored.clone()));
            }
        })?;
        for (key, stored) in there {
            let mut bytes = Vec::new();
            let mut body = device.open_body(&key, &stored, &[])?;
            while let Some(piece) = body.next(device)? {
                bytes.extend_from_slice(&piece);
            }
            found.add_object(&stored.row, bytes);
        }
    }
    for slot in slots(device, Scope::Containers) {
        for sum in device.roster_keys(RosterKind::Container, slot, 0)? {
            let key = onggi_object_device::RosterKey {
                kind: RosterKind::Container,
                hash: onggi_object_ring::PathHash::new(sum.hash),
            };
            let Some(row) = device.roster(&key)? else {
                continue;
            };
            let Some(container) = row.container.as_ref().map(|name| name.as_str().to_owned())
            else {
                continue;
            };
            device.visit_records::<ObjectRecord>(&key, None, None, &mut |record| {
                found.add_line(&container, record);
            })?;
            if row.exists() {
                let step = row.metadata.get("x-container-meta-step");
                let step = step.and_then(|step| step.parse().ok());
                found.containers.insert(container, step);
            }
        }
    }
    // What the device still has to tell is told after a restart, before anything else.
    for pending in device.pending_objects(None, usize::MAX)? {
        found.add_line(pending.container.container.as_str(), &pending.record);
    }
    Ok(found)
}

fn slots(device: &Device, scope: Scope) -> impl Iterator<Item = Slot> {
    let units = device.digests(scope, SLOT_BITS);
    units.into_keys().filter_map(Slot::new)
}

impl Found {
    fn add_object(&mut self, row: &ObjectRow, bytes: Vec<u8>) {
        let Some(body) = &row.body else { return };
        let line = Line {
            length: body.length,
            etag: body.etag,
        };
        let step = row.metadata.get("x-object-meta-step");
        let step = step.and_then(|step| step.parse().ok());
        let place = (
            row.path.container.as_str().to_owned(),
            row.path.object.as_str().to_owned(),
        );
        self.objects
            .insert(place, FoundObject { bytes, line, step });
    }

    fn add_line(&mut self, container: &str, record: &ObjectRecord) {
        let line = (!record.deleted).then_some(Line {
            length: record.length,
            etag: record.etag,
        });
        let place = (container.to_owned(), record.name.as_str().to_owned());
        let known = self.lines.entry(place).or_insert((Timestamp::ZERO, None));
        if record.data_timestamp >= known.0 {
            *known = (record.data_timestamp, line);
        }
    }

    /// How what is here differs from a state of a client.
    fn differs(&self, thread: u64, state: &State) -> Option<String> {
        let container = objects::container(thread);
        for name in 0..NAMES {
            let place = (container.clone(), objects::object(name));
            let found = self.objects.get(&place);
            if let Some(wrong) = differs(thread, found, state.objects[name].as_ref()) {
                return Some(format!("{}/{} {wrong}", place.0, place.1));
            }
        }
        match self.containers.get(&container) {
            None => return Some(format!("container {container} is lost")),
            Some(step) if *step != state.metadata => {
                return Some(format!(
                    "container {container} has metadata {step:?} and not {:?}",
                    state.metadata
                ));
            }
            Some(_) => {}
        }
        let extra = objects::extra(thread);
        let has_extra = self.containers.contains_key(&extra);
        (has_extra != state.has_extra).then(|| format!("container {extra} is there: {has_extra}"))
    }

    /// An object whose line says something else, or a line without an object.
    fn strange_line(&self) -> Option<String> {
        let mut places: Vec<_> = self.objects.keys().chain(self.lines.keys()).collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().find_map(|place| {
            let object = self.objects.get(place).map(|object| object.line);
            let line = self.lines.get(place).and_then(|(_, line)| *line);
            (object != line).then(|| {
                format!(
                    "{}/{} is {object:?} and listed as {line:?}",
                    place.0, place.1
                )
            })
        })
    }
}

fn differs(thread: u64, found: Option<&FoundObject>, wanted: Option<&Object>) -> Option<String> {
    let (found, wanted) = match (found, wanted) {
        (None, None) => return None,
        (Some(_), None) => return Some("is there and was deleted, or never put".to_owned()),
        (None, Some(wanted)) => return Some(format!("is lost, put by operation {}", wanted.put)),
        (Some(found), Some(wanted)) => (found, wanted),
    };
    if found.bytes != objects::content(thread, wanted.put, wanted.length) {
        return Some(format!(
            "has {} bytes that are not those of operation {}",
            found.bytes.len(),
            wanted.put
        ));
    }
    (found.step != Some(wanted.metadata)).then(|| {
        format!(
            "has the metadata of {:?} and not of {}",
            found.step, wanted.metadata
        )
    })
}

impl Check for ObjectsCheck {
    fn acknowledge(&mut self, mark: &[u8]) -> Result<()> {
        let (numbers, rest) = mark.as_chunks::<8>();
        ensure!(numbers.len() == 2 && rest.is_empty(), "a foreign mark");
        let thread = usize::try_from(u64::from_le_bytes(numbers[0]))?;
        let number = usize::try_from(u64::from_le_bytes(numbers[1]))?;
        let plan = self.plans.get(thread).context("a mark of no client")?;
        ensure!(number < plan.operations.len(), "a mark of no operation");
        ensure!(
            number == self.acknowledged[thread],
            "marks that are out of order"
        );
        self.acknowledged[thread] = number + 1;
        Ok(())
    }

    fn check(&mut self, disk: &[u8]) -> Result<Option<String>> {
        self.count += 1;
        self.mounter.look(disk, |root| self.look(root))
    }

    fn repaired(&self) -> usize {
        self.mounter.repaired()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 120;

    fn checker() -> ObjectsCheck {
        ObjectsCheck::new(
            (5, COUNT),
            Mounter::new(PathBuf::new(), Vec::new()),
            PathBuf::new(),
        )
    }

    /// What a device holds after `end` operations of each client.
    fn found_after(check: &ObjectsCheck, end: usize) -> Found {
        let mut found = Found::default();
        for plan in &check.plans {
            let state = &plan.states[end];
            for (name, object) in state.objects.iter().enumerate() {
                let Some(object) = object else { continue };
                let bytes = objects::content(plan.thread, object.put, object.length);
                let line = Line {
                    length: bytes.len() as u64,
                    etag: Etag::EMPTY,
                };
                let place = (objects::container(plan.thread), objects::object(name));
                found
                    .lines
                    .insert(place.clone(), (Timestamp::ZERO, Some(line)));
                let step = Some(object.metadata);
                found
                    .objects
                    .insert(place, FoundObject { bytes, line, step });
            }
            found
                .containers
                .insert(objects::container(plan.thread), state.metadata);
            if state.has_extra {
                found.containers.insert(objects::extra(plan.thread), None);
            }
        }
        found
    }

    fn acknowledge(check: &mut ObjectsCheck, end: usize) {
        for thread in 0..THREADS {
            for number in 0..end as u64 {
                let mark = [thread, number].map(u64::to_le_bytes).concat();
                check.acknowledge(&mark).unwrap();
            }
        }
    }

    #[test]
    fn one_operation_more_than_acknowledged_is_right_and_one_less_is_not() {
        let mut check = checker();
        acknowledge(&mut check, 50);
        for (end, is_right) in [(49, false), (50, true), (51, true), (52, false)] {
            let found = found_after(&check, end);
            assert_eq!(check.compare(&found).is_none(), is_right, "{end}");
        }
    }

    #[test]
    fn a_lost_a_torn_and_an_older_object_and_a_wrong_line_are_found() {
        let mut check = checker();
        acknowledge(&mut check, COUNT);
        let place = found_after(&check, COUNT).objects.into_keys().next();
        let place = place.unwrap();
        let change: [fn(&mut Found, &Place); 6] = [
            |found, place| drop(found.objects.remove(place)),
            |found, place| found.objects.get_mut(place).unwrap().bytes[0] ^= 1,
            |found, place| found.objects.get_mut(place).unwrap().bytes.truncate(1),
            |found, place| found.objects.get_mut(place).unwrap().step = None,
            |found, place| found.lines.retain(|other, _| other != place),
            |found, place| found.containers.retain(|name, _| *name != place.0),
        ];
        for change in change {
            let mut found = found_after(&check, COUNT);
            change(&mut found, &place);
            assert!(check.compare(&found).is_some());
        }
    }

    #[test]
    fn marks_that_make_no_sense_are_refused() {
        let mut check = checker();
        let mark = |thread: u64, number: u64| [thread, number].map(u64::to_le_bytes).concat();
        assert!(check.acknowledge(b"?").is_err());
        assert!(check.acknowledge(&mark(9, 0)).is_err());
        assert!(check.acknowledge(&mark(0, 1)).is_err());
        assert!(check.acknowledge(&mark(0, COUNT as u64)).is_err());
    }
}
