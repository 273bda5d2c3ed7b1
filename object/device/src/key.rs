//! Keys of a device's rows. Integers are big-endian, so that keys sort as numbers do.

use onggi_common_meta::KeyRange;
use onggi_object_model::PolicyIndex;
use onggi_object_ring::PathHash;
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{DeviceName, Slot};

/// Bytes of an object's key.
pub const OBJECT_KEY_BYTES: usize = 19;
/// The shard a record is in. Containers that outgrow a device will have more than one.
const SHARD: [u8; 2] = [0, 0];

/// Which object, under which policy, which fragment of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The policy.
    pub policy: PolicyIndex,
    /// The path hash.
    pub hash: PathHash,
    /// The fragment's byte; [`WHOLE`](onggi_object_wire::object::WHOLE) for a whole copy.
    pub fragment: u8,
}

impl ObjectKey {
    /// As the tables have it.
    #[must_use]
    pub fn bytes(&self) -> [u8; OBJECT_KEY_BYTES] {
        let mut key = [0; OBJECT_KEY_BYTES];
        key[..2].copy_from_slice(&self.policy.get().to_be_bytes());
        key[2..18].copy_from_slice(self.hash.as_bytes());
        key[18] = self.fragment;
        key
    }

    /// A key of the tables; `None` when these bytes are none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let key: &[u8; OBJECT_KEY_BYTES] = bytes.try_into().ok()?;
        let [a, b, rest @ ..] = *key;
        let (hash, fragment) = rest.split_first_chunk::<16>()?;
        Some(Self {
            policy: PolicyIndex::new(u16::from_be_bytes([a, b])),
            hash: PathHash::new(*hash),
            fragment: *fragment.first()?,
        })
    }

    /// The slot its digest counts in.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::of(self.hash.as_bytes())
    }

    /// A printable form, part of the name of its body's file.
    pub(crate) fn text(&self) -> String {
        onggi_object_wire::head::to_hex(&self.bytes())
    }
}

/// A container or an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RosterKind {
    /// A container, a roster of objects.
    Container,
    /// An account, a roster of containers.
    Account,
}

impl RosterKind {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Container => b'c',
            Self::Account => b'a',
        }
    }

    /// The scope its digests are compared in.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Container => Scope::Containers,
            Self::Account => Scope::Accounts,
        }
    }
}

/// Which container or account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RosterKey {
    /// A container or an account.
    pub kind: RosterKind,
    /// Its path hash.
    pub hash: PathHash,
}

impl RosterKey {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_and(&[])
    }

    fn bytes_and(&self, rest: &[&[u8]]) -> Vec<u8> {
        let length = rest.iter().map(|part| part.len()).sum::<usize>();
        let mut key = Vec::with_capacity(17 + length);
        key.push(self.kind.byte());
        key.extend_from_slice(self.hash.as_bytes());
        for part in rest {
            key.extend_from_slice(part);
        }
        key
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, hash) = bytes.split_first()?;
        let kind = match kind {
            b'c' => RosterKind::Container,
            b'a' => RosterKind::Account,
            _ => return None,
        };
        let hash: [u8; 16] = hash.try_into().ok()?;
        Some(Self {
            kind,
            hash: PathHash::new(hash),
        })
    }

    pub(crate) fn record_prefix(&self) -> Vec<u8> {
        self.bytes_and(&[&SHARD])
    }

    pub(crate) fn record(&self, name: &str) -> Vec<u8> {
        self.bytes_and(&[&SHARD, name.as_bytes()])
    }

    pub(crate) fn change(&self, sequence: u64) -> Vec<u8> {
        self.bytes_and(&[&sequence.to_be_bytes()])
    }

    pub(crate) fn sync(&self, peer: &[u8; 16]) -> Vec<u8> {
        self.bytes_and(&[peer])
    }

    /// The slot its digest counts in.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::of(self.hash.as_bytes())
    }
}

/// The byte and policy that stand for a scope in keys of digests.
pub(crate) const fn scope_bytes(scope: Scope) -> (u8, u16) {
    match scope {
        Scope::Objects(policy) => (b'o', policy.get()),
        Scope::Containers => (b'c', 0),
        Scope::Accounts => (b'a', 0),
    }
}

pub(crate) const fn scope_of(byte: u8, policy: u16) -> Option<Scope> {
    match byte {
        b'o' => Some(Scope::Objects(PolicyIndex::new(policy))),
        b'c' => Some(Scope::Containers),
        b'a' => Some(Scope::Accounts),
        _ => None,
    }
}

/// A slot's horizon.
pub(crate) fn horizon_key(scope: Scope, slot: Slot) -> Vec<u8> {
    let (byte, policy) = scope_bytes(scope);
    let mut key = Vec::with_capacity(7);
    key.push(byte);
    key.extend_from_slice(&policy.to_be_bytes());
    key.extend_from_slice(&slot.number().to_be_bytes());
    key
}

pub(crate) fn parse_horizon_key(key: &[u8]) -> Option<(Scope, Slot)> {
    let &[byte, p0, p1, s0, s1, s2, s3] = key else {
        return None;
    };
    let scope = scope_of(byte, u16::from_be_bytes([p0, p1]))?;
    Some((scope, Slot::new(u32::from_be_bytes([s0, s1, s2, s3]))?))
}

/// A slot's digest of one day.
pub(crate) fn digest_key(scope: Scope, slot: Slot, day: u16) -> Vec<u8> {
    let (byte, policy) = scope_bytes(scope);
    let mut key = Vec::with_capacity(9);
    key.push(byte);
    key.extend_from_slice(&policy.to_be_bytes());
    key.extend_from_slice(&slot.number().to_be_bytes());
    key.extend_from_slice(&day.to_be_bytes());
    key
}

pub(crate) fn parse_digest_key(key: &[u8]) -> Option<(Scope, Slot, u16)> {
    let &[byte, p0, p1, s0, s1, s2, s3, d0, d1] = key else {
        return None;
    };
    let scope = scope_of(byte, u16::from_be_bytes([p0, p1]))?;
    let slot = Slot::new(u32::from_be_bytes([s0, s1, s2, s3]))?;
    Some((scope, slot, u16::from_be_bytes([d0, d1])))
}

/// The keys of a scope whose hashes begin with these bits: a partition, or a slot.
#[must_use]
pub fn unit_range(scope: Scope, unit: u32, bits: u32) -> KeyRange {
    let prefix = match scope {
        Scope::Objects(policy) => policy.get().to_be_bytes().to_vec(),
        Scope::Containers => vec![RosterKind::Container.byte()],
        Scope::Accounts => vec![RosterKind::Account.byte()],
    };
    let bits = bits.min(SLOT_BITS);
    let first = u64::from(unit) << (32 - bits);
    let past = (u64::from(unit) + 1) << (32 - bits);
    let word = |value: u64| {
        u32::try_from(value)
            .ok()
            .map(|word| [prefix.clone(), word.to_be_bytes().to_vec()].concat())
    };
    let start = word(first).unwrap_or_else(|| prefix.clone());
    match word(past) {
        Some(end) => KeyRange::between(start, end),
        None => {
            let end = KeyRange::prefix(prefix).end().map(<[u8]>::to_vec);
            end.map_or_else(
                || KeyRange::from(start.clone()),
                |end| KeyRange::between(start.clone(), end),
            )
        }
    }
}

/// A device's id as peers' sync points know it: from its cluster-wide name.
#[must_use]
pub fn peer_id(address: &str, device: &DeviceName) -> [u8; 16] {
    let hash = blake3::derive_key("onggi peer id 1", format!("{address}/{device}").as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: [u8; 2]) -> ObjectKey {
        let mut hash = [0x55; 16];
        hash[..2].copy_from_slice(&first);
        ObjectKey {
            policy: PolicyIndex::new(3),
            hash: PathHash::new(hash),
            fragment: 255,
        }
    }

    #[test]
    fn a_key_keeps_its_golden_bytes() {
        let text = key([0xab, 0xcd]).text();
        assert_eq!(text, "0003abcd5555555555555555555555555555ff");
        let bytes = key([0xab, 0xcd]).bytes();
        assert_eq!(ObjectKey::from_bytes(&bytes), Some(key([0xab, 0xcd])));
        assert_eq!(ObjectKey::from_bytes(&bytes[1..]), None);
    }

    #[test]
    fn a_partition_is_one_range_at_any_power() {
        let scope = Scope::Objects(PolicyIndex::new(3));
        for bits in [0, 1, 8, 16] {
            for first in [[0, 0], [0xab, 0xcd], [0xff, 0xff]] {
                let unit = onggi_object_wire::digest::unit_of(key(first).hash.as_bytes(), bits);
                let range = unit_range(scope, unit, bits);
                assert!(range.contains(&key(first).bytes()), "{bits} {first:?}");
                let other = ObjectKey {
                    policy: PolicyIndex::new(4),
                    ..key(first)
                };
                assert!(!range.contains(&other.bytes()), "{bits} {first:?}");
                if bits == 16 {
                    assert!(!range.contains(&key([first[0] ^ 1, first[1]]).bytes()));
                }
            }
        }
    }

    #[test]
    fn digest_and_roster_keys_parse_back() {
        let slot = Slot::new(7).unwrap();
        for scope in [
            Scope::Objects(PolicyIndex::new(9)),
            Scope::Containers,
            Scope::Accounts,
        ] {
            assert_eq!(
                parse_digest_key(&digest_key(scope, slot, 2)),
                Some((scope, slot, 2))
            );
        }
        let roster = RosterKey {
            kind: RosterKind::Account,
            hash: PathHash::new([3; 16]),
        };
        assert_eq!(RosterKey::from_bytes(&roster.bytes()), Some(roster));
        assert_eq!(RosterKey::from_bytes(b"x"), None);
    }
}
