//! Objects that may be under another policy than their container's: what the reconciler looks for.
//!
//! Two sides of a cluster that cannot reach each other may make one container with two policies. When they meet, the policy
//! chosen first stays, and what was put under the other one has to move. A container's replica notes it in the batch in
//! which it hears of it: each name that comes under another policy, and, when its own policy gives way, that everything
//! it lists may be under the one before. Notes are rows of the table `pending`:
//!
//! | key | value |
//! |---|---|
//! | `m`, kind 1, path hash 16, policy 2, name | version 1, since (µs) 8, number 8 |
//! | the same without a name: everything in the container | version 1, since 8, number 8, the last name that was looked at |
//!
//! The number is the container's next place in its change log: a note that was made anew meanwhile has another one.

use crate::device::Device;
use crate::error::DeviceError;
use crate::key::{RosterKey, RosterKind};
use crate::roster::News;
use crate::roster_row::RosterRow;
use crate::tables::{PENDING, RECORD};
use core::ops::ControlFlow;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability, Limit, Order};
use onggi_common_units::{Timestamp, UtcTime};
use onggi_object_model::PolicyIndex;
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use onggi_object_wire::rows::Record;

const MARK: u8 = b'm';
const VERSION: u8 = 1;
const WHAT: &str = "a note of a misplaced object";
/// Bytes of a key before the name.
const HEAD_BYTES: usize = 20;

/// An object, or everything in a container, that may be under another policy than the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    /// The container.
    pub container: RosterKey,
    /// The policy it may be under.
    pub policy: PolicyIndex,
    /// The object's name; empty: all of the container.
    pub name: String,
    /// Since when; zero where nobody looked at a clock.
    pub since: UtcTime,
    number: u64,
    /// Of a whole container: the last name that has a note of its own.
    after: String,
}

impl Misplaced {
    fn new(container: RosterKey, policy: PolicyIndex, name: &str, number: u64) -> Self {
        Self {
            container,
            policy,
            name: name.to_owned(),
            since: UtcTime::EPOCH,
            number,
            after: String::new(),
        }
    }

    /// Whether it stands for everything in the container.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.name.is_empty()
    }

    fn key(&self) -> Vec<u8> {
        let mut key = vec![MARK];
        key.extend_from_slice(&self.container.bytes());
        key.extend_from_slice(&self.policy.get().to_be_bytes());
        key.extend_from_slice(self.name.as_bytes());
        key
    }

    fn value(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.u64(self.since.micros());
        writer.u64(self.number);
        writer.text(&self.after);
        writer.finish()
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Self, CodecError> {
        let malformed = || CodecError::Malformed { what: WHAT };
        let (head, name) = key.split_at_checked(HEAD_BYTES).ok_or_else(malformed)?;
        let (roster, policy) = head
            .split_at_checked(HEAD_BYTES - 2)
            .ok_or_else(malformed)?;
        let container = roster.get(1..).and_then(RosterKey::from_bytes);
        let policy: [u8; 2] = policy.try_into().ok().ok_or_else(malformed)?;
        let mut reader = Reader::new(value);
        reader.version(WHAT, VERSION)?;
        let misplaced = Self {
            container: container.ok_or_else(malformed)?,
            policy: PolicyIndex::new(u16::from_be_bytes(policy)),
            name: core::str::from_utf8(name)
                .ok()
                .ok_or_else(malformed)?
                .to_owned(),
            since: UtcTime::from_micros(reader.u64(WHAT)?),
            number: reader.u64(WHAT)?,
            after: reader.text(WHAT)?,
        };
        reader.end(WHAT)?;
        Ok(misplaced)
    }
}

/// Notes in the batch what news of a container, and the row it makes of the container's, say of misplaced objects.
pub(crate) fn stage<R: Record>(
    batch: &mut Batch,
    key: &RosterKey,
    before: Option<&RosterRow>,
    after: &RosterRow,
    news: &News<'_, R>,
) {
    if key.kind != RosterKind::Container {
        return;
    }
    let note = |policy, name: &str| Misplaced::new(*key, policy, name, after.next_sequence);
    let chosen = |row: &&RosterRow| row.policy_timestamp > Timestamp::ZERO;
    // What a replica lists is under its policy, which it may have before it hears of another.
    let theirs = news.theirs.filter(chosen).map(|row| row.policy);
    let named = news
        .policy
        .or(theirs)
        .filter(|policy| *policy != after.policy);
    for (policy, record) in named
        .iter()
        .flat_map(|policy| news.records.iter().map(move |record| (*policy, record)))
    {
        let note = note(policy, record.name());
        batch.put(PENDING, note.key(), note.value());
    }
    let own = before.filter(chosen).filter(|row| row.next_sequence > 1);
    let own = own.map(|row| row.policy);
    if let Some(policy) = own.filter(|policy| *policy != after.policy) {
        let note = note(policy, "");
        batch.put(PENDING, note.key(), note.value());
    }
}

impl Device {
    /// The next notes after one, at most so many.
    ///
    /// # Errors
    /// When the store cannot answer, or a note is malformed.
    pub fn misplaced(
        &self,
        after: Option<&Misplaced>,
        limit: usize,
    ) -> Result<Vec<Misplaced>, DeviceError> {
        let all = KeyRange::prefix([MARK]);
        let range = after.map_or_else(|| all.clone(), |note| all.resume_after(&note.key()));
        let page = self
            .reader()
            .scan(PENDING, &range, Order::Ascending, Limit::rows(limit))?;
        let notes = page.rows.iter();
        let notes = notes.map(|row| Misplaced::decode(&row.key, &row.value));
        Ok(notes.collect::<Result<_, _>>()?)
    }

    /// Takes a note away, unless it was made anew meanwhile.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn forget_misplaced(&self, note: &Misplaced) -> Result<(), DeviceError> {
        self.replace_note(note, Vec::new())
    }

    /// Remembers since when a note is there, for one that has no such time yet.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn date_misplaced(&self, note: &Misplaced, now: UtcTime) -> Result<(), DeviceError> {
        let since = now;
        let dated = Misplaced {
            since,
            ..note.clone()
        };
        self.replace_note(note, vec![dated])
    }

    /// Puts notes of the next names of a container in the place of one that stands for all of it: at most so many, and that
    /// one again where more follow.
    ///
    /// # Errors
    /// When the store refuses, or a record is damaged.
    pub fn spread_misplaced<R: Record>(
        &self,
        note: &Misplaced,
        limit: usize,
    ) -> Result<(), DeviceError> {
        let key = note.container;
        let all = KeyRange::prefix(key.record_prefix());
        let from = if note.after.is_empty() {
            all
        } else {
            all.resume_after(&key.record(&note.after))
        };
        let prefix_bytes = key.record_prefix().len();
        let mut notes: Vec<Misplaced> = Vec::new();
        self.reader()
            .visit(RECORD, &from, Order::Ascending, &mut |stored_key, _| {
                let name = stored_key.get(prefix_bytes..);
                let name = name.and_then(|name| core::str::from_utf8(name).ok());
                notes.extend(name.map(|name| Misplaced {
                    name: name.to_owned(),
                    after: String::new(),
                    ..note.clone()
                }));
                if notes.len() < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        if notes.len() >= limit
            && let Some(last) = notes.last()
        {
            notes.push(Misplaced {
                after: last.name.clone(),
                ..note.clone()
            });
        }
        self.replace_note(note, notes)
    }

    fn replace_note(&self, note: &Misplaced, notes: Vec<Misplaced>) -> Result<(), DeviceError> {
        let _guard = self.stripes().lock(note.container.slot());
        let there = self.reader().get(PENDING, &note.key())?;
        if there.is_none_or(|there| there != note.value()) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete(PENDING, note.key());
        for note in notes {
            batch.put(PENDING, note.key(), note.value());
        }
        // What a power cut takes back is looked at once more.
        Ok(self.store().write(&batch, Durability::Lazy)?)
    }
}
