//! The row of a container or account: its own state, and the totals over its records.

use crate::stored::day_of;
use onggi_common_meta::table::{PayloadError, Record};
use onggi_common_units::Timestamp;
use onggi_object_model::{
    AccountInfo, AccountName, ContainerInfo, ContainerName, ContainerPath, ContainerRecord,
    PolicyIndex, StampedMetadata, StampedValue,
};
use onggi_object_wire::Digest;
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::replication::RosterInfo;
use onggi_object_wire::rows;
use std::collections::BTreeMap;

const WHAT: &str = "a roster row";
/// The version of rows whose one digest was over all records. The devices they are on are brought to a newer format.
const VERSION_TRACELESS: u16 = 1;

/// The day (since 1970) of a deletion. Day 0 is that of what is there.
pub(crate) fn trace_day(at: Timestamp) -> u16 {
    day_of(at.to_utc().seconds()).max(1)
}

/// A container or an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterRow {
    /// The account, or the container's account.
    pub account: AccountName,
    /// The container; `None` for an account.
    pub container: Option<ContainerName>,
    /// When it was made.
    pub put_timestamp: Timestamp,
    /// When it was deleted last.
    pub delete_timestamp: Timestamp,
    /// The policy of a container's objects.
    pub policy: PolicyIndex,
    /// When the policy was chosen.
    pub policy_timestamp: Timestamp,
    /// Its metadata.
    pub metadata: StampedMetadata,
    /// Records that are listed.
    pub live_count: u64,
    /// Objects they count.
    pub object_count: u64,
    /// Bytes they count.
    pub bytes_used: u64,
    /// The digest over the records that are listed.
    pub records_digest: Digest,
    /// The digests over the records of what was deleted, by the day (since 1970) of the deletion.
    pub traces: BTreeMap<u16, Digest>,
    /// The number the next change gets in its log.
    pub next_sequence: u64,
}

impl RosterRow {
    /// A row that was never put.
    #[must_use]
    pub fn new(account: AccountName, container: Option<ContainerName>) -> Self {
        Self {
            account,
            container,
            put_timestamp: Timestamp::ZERO,
            delete_timestamp: Timestamp::ZERO,
            policy: PolicyIndex::default(),
            policy_timestamp: Timestamp::ZERO,
            metadata: StampedMetadata::default(),
            live_count: 0,
            object_count: 0,
            bytes_used: 0,
            records_digest: Digest::EMPTY,
            traces: BTreeMap::new(),
            next_sequence: 1,
        }
    }

    /// Takes metadata that changes. What was said before the last deletion stays forgotten, an ACL above all: whoever
    /// makes a container of the same name starts with none.
    pub fn change_metadata(&mut self, changes: &StampedMetadata) {
        self.metadata.merge(changes);
        self.metadata.forget_until(self.delete_timestamp);
    }

    /// Marks it as deleted, with all its metadata.
    pub fn delete(&mut self, at: Timestamp) {
        self.delete_timestamp = self.delete_timestamp.max(at);
        self.metadata.forget_until(self.delete_timestamp);
    }

    /// Whether it is there, and not deleted since.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.put_timestamp > self.delete_timestamp
    }

    /// Whether it was deleted, and not made again since.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        !self.exists() && self.delete_timestamp > Timestamp::ZERO
    }

    /// The day (since 1970) it was deleted, if it is the trace of that and nothing else: one that still has a record of
    /// something that is there is none.
    #[must_use]
    pub fn trace_day(&self) -> Option<u16> {
        let is_trace = self.is_deleted() && self.live_count == 0;
        is_trace.then(|| trace_day(self.delete_timestamp))
    }

    /// The newest of its own stamps, those of its records apart.
    #[must_use]
    pub fn newest(&self) -> Timestamp {
        let items = self.metadata.stamped().map(|(_, item)| item.timestamp);
        let own = self.put_timestamp.max(self.delete_timestamp);
        items.fold(own, Timestamp::max)
    }

    /// Counts a record in, or out again. Returns its digest.
    pub fn count<R: rows::Record>(&mut self, record: &R, is_in: bool) -> Digest {
        let (digest, is_live) = (record.digest(), record.is_live());
        let sum = if is_live {
            &mut self.records_digest
        } else {
            self.traces.entry(trace_day(record.newest())).or_default()
        };
        if is_in {
            *sum += digest;
        } else {
            *sum -= digest;
        }
        if !is_live {
            self.traces.retain(|_, sum| *sum != Digest::EMPTY);
            return digest;
        }
        let (objects, bytes) = record.weight();
        let add = |total: u64, part: u64| {
            if is_in {
                total.saturating_add(part)
            } else {
                total.saturating_sub(part)
            }
        };
        self.live_count = add(self.live_count, 1);
        self.object_count = add(self.object_count, objects);
        self.bytes_used = add(self.bytes_used, bytes);
        digest
    }

    /// The same row without any records counted.
    #[must_use]
    pub fn uncounted(&self) -> Self {
        Self {
            live_count: 0,
            object_count: 0,
            bytes_used: 0,
            records_digest: Digest::EMPTY,
            traces: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// What a container's readers see.
    #[must_use]
    pub fn container_info(&self) -> ContainerInfo {
        ContainerInfo {
            put_timestamp: self.put_timestamp,
            delete_timestamp: self.delete_timestamp,
            object_count: self.object_count,
            bytes_used: self.bytes_used,
            policy: self.policy,
            policy_timestamp: self.policy_timestamp,
            metadata: self.metadata.clone(),
            // Half of it tells apart what replicas of one container have heard.
            records: u64::try_from(self.records_digest.value() >> 64).ok(),
        }
    }

    /// What an account's readers see.
    #[must_use]
    pub fn account_info(&self) -> AccountInfo {
        AccountInfo {
            put_timestamp: self.put_timestamp,
            delete_timestamp: self.delete_timestamp,
            container_count: self.live_count,
            object_count: self.object_count,
            bytes_used: self.bytes_used,
            metadata: self.metadata.clone(),
        }
    }

    /// The container's path, when it is one.
    #[must_use]
    pub fn container_path(&self) -> Option<ContainerPath> {
        let container = self.container.clone()?;
        Some(ContainerPath {
            account: self.account.clone(),
            container,
        })
    }

    /// What a container's account is told about it.
    #[must_use]
    pub const fn told(&self) -> (Timestamp, Timestamp, u64, u64, PolicyIndex) {
        (
            self.put_timestamp,
            self.delete_timestamp,
            self.object_count,
            self.bytes_used,
            self.policy,
        )
    }

    /// A container's record for its account, with totals counted at this moment. `None` for an account.
    #[must_use]
    pub fn record(&self, counted_at: Timestamp) -> Option<CountedContainer> {
        let record = ContainerRecord {
            name: self.container.clone()?,
            put_timestamp: self.put_timestamp,
            delete_timestamp: self.delete_timestamp,
            object_count: self.object_count,
            bytes_used: self.bytes_used,
            policy: Some(self.policy),
        };
        Some(CountedContainer { record, counted_at })
    }

    /// What peers are told about it.
    #[must_use]
    pub fn roster_info(&self) -> RosterInfo {
        match self.container_path() {
            Some(path) => RosterInfo::Container {
                path,
                info: self.container_info(),
            },
            None => RosterInfo::Account {
                account: self.account.clone(),
                info: self.account_info(),
                delete_timestamp: self.delete_timestamp,
            },
        }
    }

    /// The digest over it and its records: equal on two devices when nothing is left to tell.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest_above(0)
    }

    /// The same without traces of days up to the horizon: those are settled, and each device lets go of them by itself.
    #[must_use]
    pub fn digest_above(&self, horizon: u16) -> Digest {
        let traces = self.traces.iter().filter(|(day, _)| **day > horizon);
        traces.fold(self.live_digest(), |sum, (_, digest)| sum + *digest)
    }

    /// The digest over it and the records that are listed.
    pub(crate) fn live_digest(&self) -> Digest {
        let mut writer = Writer::new();
        writer.timestamp(self.put_timestamp);
        writer.timestamp(self.delete_timestamp);
        writer.u16(self.policy.get());
        write_metadata(&mut writer, &self.metadata);
        Digest::of(&writer.finish()) + self.records_digest
    }

    /// Takes what is newer of another replica's row. The policy chosen first since the last deletion stays: objects may be
    /// under it already. True when anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = (self.digest(), self.policy_timestamp);
        // A container made again after a deletion may have another policy. What only one of the two has heard is deleted
        // counts as deleted.
        let deleted = self.delete_timestamp.max(other.delete_timestamp);
        let rank = |row: &Self| {
            let at = row.policy_timestamp;
            (at == Timestamp::ZERO, at <= deleted, at, row.policy)
        };
        if rank(other) < rank(self) {
            self.policy = other.policy;
            self.policy_timestamp = other.policy_timestamp;
        }
        self.put_timestamp = self.put_timestamp.max(other.put_timestamp);
        self.delete_timestamp = self.delete_timestamp.max(other.delete_timestamp);
        self.metadata.merge(&other.metadata);
        self.metadata.forget_until(self.delete_timestamp);
        before != (self.digest(), self.policy_timestamp)
    }

    /// A row as a peer told it, to be merged.
    #[must_use]
    pub fn from_info(info: RosterInfo) -> Self {
        match info {
            RosterInfo::Container { path, info } => Self {
                put_timestamp: info.put_timestamp,
                delete_timestamp: info.delete_timestamp,
                policy: info.policy,
                policy_timestamp: info.chosen(),
                metadata: info.metadata,
                ..Self::new(path.account, Some(path.container))
            },
            RosterInfo::Account {
                account,
                info,
                delete_timestamp,
            } => Self {
                put_timestamp: info.put_timestamp,
                delete_timestamp,
                policy_timestamp: info.put_timestamp,
                metadata: info.metadata,
                ..Self::new(account, None)
            },
        }
    }
}

fn write_metadata(writer: &mut Writer, metadata: &StampedMetadata) {
    let items: Vec<(&str, &StampedValue)> = metadata.stamped().collect();
    writer.u32(u32::try_from(items.len()).unwrap_or(u32::MAX));
    for (name, item) in items {
        writer.text(name);
        writer.timestamp(item.timestamp);
        writer.text(&item.value);
    }
}

fn read_metadata(reader: &mut Reader<'_>) -> Result<StampedMetadata, CodecError> {
    let mut metadata = StampedMetadata::default();
    for _ in 0..reader.count(WHAT, 24)? {
        let name = reader.text(WHAT)?;
        let timestamp = reader.timestamp(WHAT)?;
        metadata.insert(
            name,
            StampedValue {
                timestamp,
                value: reader.text(WHAT)?,
            },
        );
    }
    Ok(metadata)
}

impl Record for RosterRow {
    const NAME: &'static str = "roster";
    const VERSION: u16 = 2;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        let mut writer = Writer::new();
        writer.text(self.account.as_str());
        // No container has an empty name.
        writer.text(self.container.as_ref().map_or("", ContainerName::as_str));
        writer.timestamp(self.put_timestamp);
        writer.timestamp(self.delete_timestamp);
        writer.u16(self.policy.get());
        writer.timestamp(self.policy_timestamp);
        write_metadata(&mut writer, &self.metadata);
        writer.u64(self.live_count);
        writer.u64(self.object_count);
        writer.u64(self.bytes_used);
        writer.u128(self.records_digest.value());
        writer.u64(self.next_sequence);
        writer.u32(u32::try_from(self.traces.len()).unwrap_or(u32::MAX));
        for (day, digest) in &self.traces {
            writer.u16(*day);
            writer.u128(digest.value());
        }
        payload.extend_from_slice(&writer.finish());
    }

    fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
        if !(VERSION_TRACELESS..=Self::VERSION).contains(&version) {
            return Ok(None);
        }
        let row = read(&mut Reader::new(payload), version);
        row.map(Some).map_err(|error| PayloadError {
            detail: error.to_string(),
        })
    }
}

fn read(reader: &mut Reader<'_>, version: u16) -> Result<RosterRow, CodecError> {
    let malformed = CodecError::Malformed { what: WHAT };
    let account = AccountName::new(reader.text(WHAT)?)
        .ok()
        .ok_or_else(|| malformed.clone())?;
    let container = match reader.text(WHAT)? {
        name if name.is_empty() => None,
        name => Some(ContainerName::new(name).ok().ok_or(malformed)?),
    };
    let mut row = RosterRow {
        account,
        container,
        put_timestamp: reader.timestamp(WHAT)?,
        delete_timestamp: reader.timestamp(WHAT)?,
        policy: PolicyIndex::new(reader.u16(WHAT)?),
        policy_timestamp: reader.timestamp(WHAT)?,
        metadata: read_metadata(reader)?,
        live_count: reader.u64(WHAT)?,
        object_count: reader.u64(WHAT)?,
        bytes_used: reader.u64(WHAT)?,
        records_digest: Digest::from_value(reader.u128(WHAT)?),
        next_sequence: reader.u64(WHAT)?,
        traces: BTreeMap::new(),
    };
    if version > VERSION_TRACELESS {
        for _ in 0..reader.count(WHAT, 18)? {
            let day = reader.u16(WHAT)?;
            row.traces
                .insert(day, Digest::from_value(reader.u128(WHAT)?));
        }
    }
    (*reader).end(WHAT)?;
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_meta::table;

    fn row() -> RosterRow {
        let at = |ticks| Timestamp::from_ticks(ticks).unwrap();
        let mut row = RosterRow::new("AUTH_a".parse().unwrap(), Some("c".parse().unwrap()));
        row.put_timestamp = at(2);
        row.delete_timestamp = at(1);
        row.metadata.insert(
            "x-container-meta-jar",
            StampedValue {
                timestamp: at(2),
                value: "brown".to_owned(),
            },
        );
        row.live_count = 3;
        row.traces.insert(7, Digest::of(b"gone"));
        row
    }

    #[test]
    fn a_roster_row_keeps_its_golden_bytes() {
        let bytes = table::encode(&row());
        let golden = include_str!("../golden/roster-row-2.hex").trim();
        assert_eq!(onggi_object_wire::head::to_hex(&bytes), golden);
        assert_eq!(table::decode::<RosterRow>(&bytes).unwrap(), row());
        let golden = include_str!("../golden/roster-row-1.hex").trim();
        let bytes: Vec<u8> = golden
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let old = RosterRow {
            traces: BTreeMap::new(),
            ..row()
        };
        assert_eq!(table::decode::<RosterRow>(&bytes).unwrap(), old);
    }

    #[test]
    fn totals_are_each_replicas_own_affair() {
        let mut ours = row();
        let mut theirs = row();
        theirs.live_count = 9;
        assert!(!ours.merge(&theirs));
        assert_eq!(ours.digest(), theirs.digest());
        theirs.delete_timestamp = Timestamp::from_ticks(5).unwrap();
        assert!(ours.merge(&theirs));
        assert!(!ours.exists());
        assert_eq!(ours.live_count, 3);
    }

    #[test]
    fn the_policy_of_a_deleted_container_does_not_come_back() {
        let stamp = |ticks| Timestamp::from_ticks(ticks).unwrap();
        let mut late = row();
        late.policy_timestamp = stamp(2);
        let mut made_again = late.clone();
        made_again.delete(stamp(5));
        made_again.put_timestamp = stamp(6);
        made_again.policy = PolicyIndex::new(1);
        made_again.policy_timestamp = stamp(6);
        // Whichever of the two hears of the other first.
        let mut ours = made_again.clone();
        ours.merge(&late);
        late.merge(&made_again);
        assert_eq!(
            (ours.policy, late.policy),
            (PolicyIndex::new(1), PolicyIndex::new(1))
        );
        assert_eq!(ours.digest(), late.digest());
    }

    #[test]
    fn replicas_agree_about_the_policy_whoever_hears_first() {
        let stamp = |ticks| Timestamp::from_ticks(ticks).unwrap();
        let made = |policy, chosen, put, deleted| {
            let mut row = RosterRow::new("AUTH_a".parse().unwrap(), Some("c".parse().unwrap()));
            row.policy = PolicyIndex::new(policy);
            (row.policy_timestamp, row.put_timestamp) = (stamp(chosen), stamp(put));
            row.delete_timestamp = stamp(deleted);
            row
        };
        // Made twice and put again; made again after a deletion that another has not heard of; one that was never made.
        let rows = [
            made(0, 1, 9, 0),
            made(1, 2, 2, 0),
            made(2, 6, 6, 4),
            made(1, 5, 7, 4),
            made(0, 0, 0, 3),
        ];
        for (a, b) in rows.iter().flat_map(|a| rows.iter().map(move |b| (a, b))) {
            for c in &rows {
                let told = |row: &RosterRow| RosterRow::from_info(row.roster_info());
                let (mut one, mut two, mut three) = (a.clone(), b.clone(), c.clone());
                // Everybody hears of everybody, by turns.
                for _ in 0..2 {
                    one.merge(&told(&two));
                    two.merge(&told(&three));
                    three.merge(&told(&one));
                    one.merge(&told(&three));
                    two.merge(&told(&one));
                }
                assert_eq!(one.digest(), two.digest(), "{a:?} {b:?} {c:?}");
                assert_eq!(one.digest(), three.digest(), "{a:?} {b:?} {c:?}");
            }
        }
        let mut first = rows[1].clone();
        first.merge(&RosterRow::from_info(rows[0].roster_info()));
        assert_eq!(
            first.policy,
            PolicyIndex::new(0),
            "a later PUT of it changes nothing"
        );
    }

    #[test]
    fn what_was_said_before_a_deletion_does_not_come_back() {
        let stamp = |ticks| Timestamp::from_ticks(ticks).unwrap();
        let mut ours = row();
        let late = ours.clone();
        ours.delete(stamp(5));
        assert!(ours.metadata.is_empty());
        ours.put_timestamp = stamp(6);
        // Neither by a replica that has not heard of the deletion, nor by a change that comes late.
        ours.merge(&late);
        ours.change_metadata(&late.metadata);
        assert!(ours.exists() && ours.metadata.is_empty());
        let mut theirs = late;
        theirs.merge(&ours);
        assert_eq!(theirs.digest(), ours.digest());
    }
}
