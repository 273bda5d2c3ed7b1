//! From a path to a partition: `md5(prefix + "/account/container/object" + suffix)`, and its top bits.

use core::fmt;
use core::str::FromStr;
use md5::{Digest as _, Md5};
use onggi_common_units::Secret;
use onggi_object_model::{AccountName, ContainerPath, ObjectPath};

/// The secret texts around a hashed path. They never change in a cluster's life: every key depends on them.
#[derive(Debug, Clone)]
pub struct HashSecrets {
    prefix: Secret,
    suffix: Secret,
}

/// The hash of a path: its key on every device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathHash([u8; 16]);

/// How many of a hash's top bits are its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartPower(u8);

/// A partition's number.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Partition(u32);

impl HashSecrets {
    /// Takes the cluster's two texts; either may be empty, not both in a cluster that is reached by strangers.
    #[must_use]
    pub const fn new(prefix: Secret, suffix: Secret) -> Self {
        Self { prefix, suffix }
    }

    fn hash(&self, parts: &[&str]) -> PathHash {
        let mut hasher = Md5::new();
        hasher.update(self.prefix.expose());
        for part in parts {
            hasher.update(b"/");
            hasher.update(part);
        }
        hasher.update(self.suffix.expose());
        PathHash(hasher.finalize().into())
    }

    /// The key of an account.
    #[must_use]
    pub fn account(&self, account: &AccountName) -> PathHash {
        self.hash(&[account.as_str()])
    }

    /// The key of a container.
    #[must_use]
    pub fn container(&self, path: &ContainerPath) -> PathHash {
        self.hash(&[path.account.as_str(), path.container.as_str()])
    }

    /// The key of an object.
    #[must_use]
    pub fn object(&self, path: &ObjectPath) -> PathHash {
        self.hash(&[
            path.account.as_str(),
            path.container.as_str(),
            path.object.as_str(),
        ])
    }
}

impl PathHash {
    /// The hash with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl PartPower {
    /// The largest part power: 2^24 partitions.
    pub const MAX: u8 = 24;

    /// So many bits, 0 to 24; `None` for more.
    #[must_use]
    pub const fn new(bits: u8) -> Option<Self> {
        if bits <= Self::MAX {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// One bit more, if there is such a part power.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The number of bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// How many partitions there are.
    #[must_use]
    pub const fn partitions(self) -> u32 {
        1 << self.0
    }

    /// The partition of a hash.
    #[must_use]
    pub const fn partition(self, hash: &PathHash) -> Partition {
        Partition(self.top(&hash.0))
    }

    pub(crate) const fn top(self, hash: &[u8; 16]) -> u32 {
        let word = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        // A shift by all 32 bits would overflow; there is then only partition 0.
        if self.0 == 0 {
            0
        } else {
            word >> (32 - self.0)
        }
    }

    /// The least hash in a partition: with [`PartPower::last_hash`], the range of keys it is on a device.
    #[must_use]
    pub fn first_hash(self, partition: Partition) -> PathHash {
        let mut bytes = [0; 16];
        let word = if self.0 == 0 {
            0
        } else {
            partition.0 << (32 - self.0)
        };
        bytes[..4].copy_from_slice(&word.to_be_bytes());
        PathHash(bytes)
    }

    /// The greatest hash in a partition.
    #[must_use]
    pub fn last_hash(self, partition: Partition) -> PathHash {
        let mut bytes = [u8::MAX; 16];
        let below = if self.0 == 0 {
            u32::MAX
        } else {
            u32::MAX.checked_shr(u32::from(self.0)).unwrap_or(0)
        };
        let first =
            u32::from_be_bytes([0, 1, 2, 3].map(|i: usize| self.first_hash(partition).0[i]));
        bytes[..4].copy_from_slice(&(first | below).to_be_bytes());
        PathHash(bytes)
    }
}

impl Partition {
    /// The partition with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for PathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no path hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no path hash: 32 hexadecimal digits are expected")]
pub struct PathHashError {
    /// What was given, cut to 64 characters.
    pub text: String,
}

impl FromStr for PathHash {
    type Err = PathHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // An Etag has the same form: both are the text of an MD5.
        match text.parse::<onggi_object_model::Etag>() {
            Ok(etag) if text.len() == 32 => Ok(Self(*etag.as_bytes())),
            Ok(_) | Err(_) => Err(PathHashError {
                text: text.chars().take(64).collect(),
            }),
        }
    }
}

impl serde::Serialize for PathHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PathHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_hashes_as_swift_hashes_it() {
        let secrets = HashSecrets::new(Secret::new(""), Secret::new("endcap"));
        let path = ObjectPath {
            account: "a".parse().unwrap(),
            container: "c".parse().unwrap(),
            object: "o".parse().unwrap(),
        };
        // md5("/aendcap"), md5("/a/cendcap"), md5("/a/c/oendcap")
        assert_eq!(
            secrets.account(&path.account).to_string(),
            "1c84525acb02107ea475dcd3d09c2c58"
        );
        let container = path.container_path();
        assert_eq!(
            secrets.container(&container).to_string(),
            "33379ecb053aa5c9e356c68997cbb59e"
        );
        assert_eq!(
            secrets.object(&path).to_string(),
            "06fbf0b514e5199dfc4e00f42eb5ea83"
        );
    }

    #[test]
    fn a_partition_is_a_contiguous_range_of_hashes() {
        for bits in [0, 1, 10, 24] {
            let power = PartPower::new(bits).unwrap();
            let last = Partition::new(power.partitions() - 1);
            for partition in [Partition::new(0), last] {
                let (low, high) = (power.first_hash(partition), power.last_hash(partition));
                assert!(low < high);
                assert_eq!(power.partition(&low), partition);
                assert_eq!(power.partition(&high), partition);
            }
            assert_eq!(power.first_hash(Partition::new(0)).as_bytes(), &[0; 16]);
            assert_eq!(power.last_hash(last).as_bytes(), &[0xff; 16]);
        }
        assert_eq!(PartPower::new(25), None);
    }
}
