//! Storage policies: how a container's objects are kept.

use core::fmt;
use core::str::FromStr;

/// The number of a storage policy; it picks the object ring and never changes for a container.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct PolicyIndex(u16);

impl PolicyIndex {
    /// The policy with this number.
    #[must_use]
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PolicyIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for PolicyIndex {
    type Err = core::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A storage policy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Policy {
    /// Its number.
    pub index: PolicyIndex,
    /// The name users ask for; compared without regard to case.
    pub name: String,
    /// Whether containers get it that ask for none.
    pub is_default: bool,
}

impl Policy {
    /// The one policy of a cluster that defines none.
    #[must_use]
    pub fn single() -> Self {
        Self {
            index: PolicyIndex::default(),
            name: "Policy-0".to_owned(),
            is_default: true,
        }
    }

    /// Whether a user's word for a policy means this one.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}
