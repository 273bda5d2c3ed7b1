//! A device at rest: looking at everything it holds, and mending what can be mended.
//!
//! [`check`] reads all rows and, if asked, all bytes, and says what does not fit; it changes nothing. [`repair`] builds
//! anew what follows from the rows. When the store is lost or damaged, [`rebuild_from_files`] puts it aside and makes a new
//! one from the body files, whose trailers hold key and row. Small bodies, containers, accounts, tombstones and POSTs are
//! not in files: they come back from the peers. A device that was rebuilt so is not read from before it has been compared
//! with them.

use crate::device::Device;
use crate::error::{DeviceError, OpenError, open_at};
use crate::format::{self, BODIES, Marker, STORE, id_file};
use crate::key::{ObjectKey, RosterKey, RosterKind, digest_key};
use crate::large::{self, LargeError};
use crate::object::{Merge, NewRow};
use crate::rebuild::{self, Sums};
use crate::roster::decode_record;
use crate::roster_row::RosterRow;
use crate::stored::{Location, StoredObject};
use crate::tables::{self, BODY, CHANGE, DIGEST, EXPIRY, OBJECT, RECORD, ROSTER};
use crate::{DeviceOptions, digests, expiry};
use core::ops::ControlFlow;
use onggi_common_host::{Entropy, durable};
use onggi_common_meta::local::{Order, Read, RocksStore};
use onggi_common_meta::{KeyRange, TableName, table};
use onggi_common_units::UtcTime;
use onggi_object_model::ObjectRecord;
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::rows::Record;
use onggi_object_wire::{Digest, Root};
use rustix::fs::CWD;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A store that is being made from the body files.
const MAKING: &str = "store.making";
/// Problems that are told one by one; more are only counted.
pub const PROBLEMS_MAX: usize = 1_000;

/// What a device holds, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects that are there.
    pub objects: u64,
    /// Traces of deleted ones.
    pub tombstones: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Containers and accounts.
    pub rosters: u64,
    /// Their records.
    pub records: u64,
    /// Body files that no row names: left by a crash, and removed at the next start.
    pub orphans: u64,
    /// What is wrong, as far as it is told.
    pub problems: Vec<String>,
    /// How many things are wrong.
    pub problem_count: u64,
}

impl Report {
    fn wrong(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// What was made of the body files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Objects that have a row again.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are no whole body, and why; they are left where they are for the moment, and swept at the next start.
    pub refused: Vec<String>,
    /// Where the store that was there is now.
    pub old_store: Option<std::path::PathBuf>,
}

/// A device's store, opened without changing anything of the device.
pub(crate) struct AtRest<'a> {
    directory: &'a Path,
    pub(crate) store: RocksStore,
}

fn marker(directory: &Path) -> Result<Marker, OpenError> {
    format::find(directory, &id_file(directory))?.ok_or_else(|| OpenError::NoDevice {
        directory: directory.to_owned(),
    })
}

pub(crate) fn open(directory: &Path) -> Result<AtRest<'_>, OpenError> {
    let marker = marker(directory)?;
    if marker.format < Marker::CURRENT {
        return Err(OpenError::FormatBefore {
            directory: directory.to_owned(),
            format: marker.format,
        });
    }
    let path = directory.join(STORE);
    if !path.is_dir() {
        return Err(OpenError::StoreLost {
            directory: directory.to_owned(),
        });
    }
    let store = RocksStore::open(&path, &tables::options())?;
    Ok(AtRest { directory, store })
}

/// Looks at everything a device at rest holds. With `bytes`, every byte of every body is read.
///
/// # Errors
/// When the device is in use, is none, or its store cannot be opened.
pub fn check(directory: &Path, bytes: bool) -> Result<Report, OpenError> {
    let device = open(directory)?;
    let mut report = Report::default();
    let mut sums = Sums::new();
    let mut files = BTreeSet::new();
    device.objects(bytes, &mut report, &mut sums, &mut files)?;
    device.rosters(&mut report, &mut sums)?;
    device.digests(&mut report, &sums)?;
    for shelf in names(&directory.join(BODIES))? {
        for name in names(&directory.join(BODIES).join(shelf))? {
            report.orphans += u64::from(!files.contains(&name));
        }
    }
    Ok(report)
}

fn names(directory: &Path) -> Result<Vec<String>, OpenError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(open_at("reading", directory))? {
        let entry = entry.map_err(open_at("reading", directory))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]);

impl AtRest<'_> {
    fn each(
        &self,
        table: TableName,
        range: &KeyRange,
        visitor: Visit<'_>,
    ) -> Result<(), DeviceError> {
        Ok(self
            .store
            .visit(table, range, Order::Ascending, &mut |key, value| {
                visitor(key, value);
                ControlFlow::Continue(())
            })?)
    }

    fn objects(
        &self,
        bytes: bool,
        report: &mut Report,
        sums: &mut Sums,
        files: &mut BTreeSet<String>,
    ) -> Result<(), DeviceError> {
        let mut dates = BTreeSet::new();
        let mut inline = 0u64;
        let mut failed = None;
        self.each(OBJECT, &KeyRange::all(), &mut |key, value| {
            let known = ObjectKey::from_bytes(key);
            let (key, stored) = match (known, table::decode::<StoredObject>(value)) {
                (Some(key), Ok(stored)) => (key, stored),
                (None, _) => return report.wrong(format!("object row with key {key:02x?}")),
                (Some(key), Err(error)) => {
                    return report.wrong(format!("object {}: {error}", key.text()));
                }
            };
            rebuild::count_object(sums, &key, &stored);
            dates.extend(stored.row.delete_at().map(|at| expiry::index_key(at, &key)));
            match &stored.row.body {
                Some(body) => {
                    report.objects += 1;
                    report.bytes += body.length;
                }
                None => report.tombstones += 1,
            }
            if let Location::File(name) = &stored.location {
                files.insert(name.clone());
            }
            inline += u64::from(stored.location == Location::Inline);
            match self.body(&key, &stored, bytes) {
                Ok(None) => {}
                Ok(Some(problem)) => {
                    report.wrong(format!(
                        "object {} ({}): {problem}",
                        key.text(),
                        stored.row.path
                    ));
                }
                Err(error) => failed = Some(error),
            }
        })?;
        failed.map_or(Ok(()), Err)?;
        let mut bodies = 0u64;
        self.each(BODY, &KeyRange::all(), &mut |_, _| bodies += 1)?;
        if bodies > inline {
            report.wrong(format!("{} small bodies have no row", bodies - inline));
        }
        self.each(EXPIRY, &KeyRange::all(), &mut |key, _| {
            if !dates.remove(key) {
                report.wrong(format!(
                    "the index of dates has {key:02x?}, which no object has"
                ));
            }
        })?;
        for date in dates {
            report.wrong(format!("the index of dates lacks {date:02x?}"));
        }
        Ok(())
    }

    /// What is wrong with an object's bytes.
    fn body(
        &self,
        key: &ObjectKey,
        stored: &StoredObject,
        bytes: bool,
    ) -> Result<Option<String>, DeviceError> {
        let wrong = |problem: &str| Ok(Some(problem.to_owned()));
        let Some(body) = &stored.row.body else {
            let is_fine = stored.location == Location::Nowhere;
            return if is_fine {
                Ok(None)
            } else {
                wrong("a tombstone with a body")
            };
        };
        match &stored.location {
            Location::Nowhere => wrong("its row says that it has no bytes"),
            Location::Quarantined => wrong("its bytes are quarantined; a peer gives them back"),
            Location::Inline => match self.store.get(BODY, &key.bytes())? {
                None => wrong("its bytes are missing"),
                Some(value) if Root::of(&value) == body.root => Ok(None),
                Some(_) => wrong("its bytes fail their checksum"),
            },
            Location::File(name) => {
                let path = large::body_path(self.directory, name);
                let found = large::open(&path, body.length, true).and_then(|file| {
                    if large::key_of(name) != Some(*key) || file.root != body.root {
                        return Err(LargeError::Damaged("it is another object's".to_owned()));
                    }
                    if bytes {
                        file.verify(body.length)
                    } else {
                        Ok(())
                    }
                });
                match found {
                    Ok(()) => Ok(None),
                    Err(LargeError::Damaged(detail)) => Ok(Some(format!("{name}: {detail}"))),
                    Err(LargeError::Io(source)) => Ok(Some(format!("{name}: {source}"))),
                }
            }
        }
    }

    fn rosters(&self, report: &mut Report, sums: &mut Sums) -> Result<(), DeviceError> {
        let mut rosters = Vec::new();
        self.each(ROSTER, &KeyRange::all(), &mut |key, value| match (
            RosterKey::from_bytes(key),
            table::decode::<RosterRow>(value),
        ) {
            (Some(key), Ok(row)) => rosters.push((key, row)),
            (_, Err(error)) => report.wrong(format!("roster {key:02x?}: {error}")),
            (None, Ok(_)) => report.wrong(format!("roster row with key {key:02x?}")),
        })?;
        for (key, row) in rosters {
            report.rosters += 1;
            rebuild::count_roster(sums, &key, &row);
            let name = row.container.as_ref().map_or_else(
                || row.account.to_string(),
                |container| format!("{}/{container}", row.account),
            );
            match key.kind {
                RosterKind::Container => self.records::<ObjectRecord>(&key, &row, &name, report)?,
                RosterKind::Account => {
                    self.records::<CountedContainer>(&key, &row, &name, report)?;
                }
            }
        }
        Ok(())
    }

    /// Counts a roster's records again.
    fn records<R: Record>(
        &self,
        key: &RosterKey,
        row: &RosterRow,
        name: &str,
        report: &mut Report,
    ) -> Result<(), DeviceError> {
        let mut found = RosterRow::new(row.account.clone(), row.container.clone());
        let mut changes = BTreeSet::new();
        self.each(
            RECORD,
            &KeyRange::prefix(key.record_prefix()),
            &mut |stored_key, value| match decode_record::<R>(value) {
                Ok((record, sequence)) => {
                    report.records += 1;
                    changes.insert((sequence, record.name().to_owned()));
                    found.count(&record, true);
                }
                Err(error) => report.wrong(format!("{name}: record {stored_key:02x?}: {error}")),
            },
        )?;
        let totals = |row: &RosterRow| {
            (
                row.live_count,
                row.object_count,
                row.bytes_used,
                row.records_digest,
                row.traces.clone(),
            )
        };
        if totals(&found) != totals(row) {
            let (live, objects, bytes, ..) = totals(row);
            report.wrong(format!(
                "{name}: its totals say {live} records, {objects} objects, {bytes} bytes; its records are {}, {}, {}",
                found.live_count, found.object_count, found.bytes_used
            ));
        }
        self.each(
            CHANGE,
            &KeyRange::prefix(key.bytes()),
            &mut |stored_key, value| {
                let sequence = stored_key
                    .last_chunk::<8>()
                    .copied()
                    .map(u64::from_be_bytes);
                let entry = sequence.zip(String::from_utf8(value.to_vec()).ok());
                if !entry.is_some_and(|entry| changes.remove(&entry)) {
                    report.wrong(format!(
                        "{name}: its change log has {stored_key:02x?}, which no record has"
                    ));
                }
            },
        )?;
        for (sequence, record) in changes {
            report.wrong(format!(
                "{name}: its change log lacks {record} at {sequence}"
            ));
        }
        Ok(())
    }

    fn digests(&self, report: &mut Report, sums: &Sums) -> Result<(), DeviceError> {
        let expected = sums
            .iter()
            .map(|((scope, slot, day), sum)| (digest_key(*scope, *slot, *day), *sum));
        let mut expected: std::collections::BTreeMap<_, _> = expected.collect();
        self.each(DIGEST, &KeyRange::all(), &mut |key, value| {
            let found = digests::decode(value).ok();
            let wanted = expected.remove(key);
            if found != wanted {
                report.wrong(format!("the digest {key:02x?} is not that of its rows"));
            }
        })?;
        for (key, sum) in expected {
            if sum.digest != Digest::EMPTY || sum.count > 0 {
                report.wrong(format!("the digest {key:02x?} is missing"));
            }
        }
        Ok(())
    }
}

/// Builds the index of dates and the digests of a device at rest anew from its rows.
///
/// # Errors
/// When the device is in use, is none, its store cannot be opened, or a row is damaged.
pub fn repair(directory: &Path) -> Result<(), OpenError> {
    let device = open(directory)?;
    Ok(rebuild::all(&device.store)?)
}

/// Puts the store of a device at rest aside, if there is one, and makes a new one from the body files.
///
/// # Errors
/// When there is no device, or the machine refuses.
pub fn rebuild_from_files(
    options: &DeviceOptions,
    entropy: &dyn Entropy,
) -> Result<Rebuilt, OpenError> {
    let directory = options.directory.as_path();
    let marker = marker(directory)?;
    let making = directory.join(MAKING);
    if making.exists() {
        std::fs::remove_dir_all(&making).map_err(open_at("removing", &making))?;
    }
    let store = RocksStore::open(&making, &tables::options())?;
    // Not opened as usual: that would sweep away every file, since none has a row.
    let device = Device::with_store(options, entropy, marker.id, Arc::new(store))?;
    let mut rebuilt = Rebuilt::default();
    for shelf in names(&directory.join(BODIES))? {
        for name in names(&directory.join(BODIES).join(shelf))? {
            match take_file(&device, &name) {
                Ok(length) => {
                    rebuilt.objects += 1;
                    rebuilt.bytes += length;
                }
                Err(Refused::File(detail)) => rebuilt.refused.push(format!("{name}: {detail}")),
                Err(Refused::Device(error)) => return Err(error.into()),
            }
        }
    }
    // It may hold what was deleted meanwhile: it is to be compared before it is read from.
    device.mark_alive(UtcTime::EPOCH)?;
    device.sync()?;
    drop(device);
    // Until the new store is whole, the old one has its place, or none has: a device without a store is never taken for
    // an empty one.
    rebuilt.old_store = put_store_aside(directory)?;
    rename(&making, &directory.join(STORE))?;
    Ok(rebuilt)
}

fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    rustix::fs::renameat(CWD, from, CWD, to)
        .map_err(|errno| open_at("renaming", from)(errno.into()))?;
    Ok(durable::sync_dir(to.parent().unwrap_or(to))?)
}

fn put_store_aside(directory: &Path) -> Result<Option<std::path::PathBuf>, OpenError> {
    let store = directory.join(STORE);
    if !store.exists() {
        return Ok(None);
    }
    let free = (1u32..).map(|number| directory.join(format!("{STORE}.damaged-{number}")));
    let Some(aside) = free.into_iter().find(|path| !path.exists()) else {
        return Ok(None);
    };
    rename(&store, &aside)?;
    Ok(Some(aside))
}

enum Refused {
    File(String),
    Device(DeviceError),
}

fn take_file(device: &Device, name: &str) -> Result<u64, Refused> {
    let path = large::body_path(device.directory(), name);
    let (key, row) = large::read_row(&path).map_err(|error| match error {
        LargeError::Damaged(detail) => Refused::File(detail),
        LargeError::Io(source) => Refused::File(source.to_string()),
    })?;
    if large::key_of(name) != Some(key) {
        return Err(Refused::File("its name is another object's".to_owned()));
    }
    let length = row.body.as_ref().map_or(0, |body| body.length);
    let taken = device.adopt_file(&key, NewRow { row, body: None }, name, Merge::default());
    match taken {
        Ok(true) => Ok(length),
        Ok(false) => Err(Refused::File("a newer one is there".to_owned())),
        Err(error) => Err(Refused::Device(error)),
    }
}
