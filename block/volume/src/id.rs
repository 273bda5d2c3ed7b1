//! Who and what: ids of volumes, attachments and plans, and of those they belong to.

use core::fmt;
use core::str::FromStr;
use onggi_common_units::{IdError, Uuid};
use serde::{Deserialize, Serialize};

/// The longest id of a project or user.
pub const OWNER_ID_BYTES_MAX: usize = 255;

macro_rules! uuid_kind {
    ($(#[$doc:meta] $name:ident),* $(,)?) => {$(
        #[$doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

uuid_kind! {
    /// A volume's id.
    VolumeId,
    /// An attachment's id.
    AttachmentId,
    /// A plan's id.
    PlanId,
}

impl VolumeId {
    /// The volume's iSCSI name, the one Cinder gives.
    #[must_use]
    pub fn iqn(self) -> String {
        format!("iqn.2010-10.org.openstack:volume-{self}")
    }
}

/// A text that is no id of a project or user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no id: 1 to {OWNER_ID_BYTES_MAX} printable characters without slashes are")]
pub struct OwnerError {
    /// What was given, cut to 64 characters.
    pub text: String,
}

macro_rules! owner_kind {
    ($(#[$doc:meta] $name:ident),* $(,)?) => {$(
        #[$doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = OwnerError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                // Ids are parts of keys and paths: what would end such a part is refused.
                let is_printable = text.chars().all(|c| !c.is_control() && c != '/');
                if text.is_empty() || text.len() > OWNER_ID_BYTES_MAX || !is_printable {
                    return Err(OwnerError { text: text.chars().take(64).collect() });
                }
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = OwnerError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

owner_kind! {
    /// The id of a project: what volumes belong to.
    ProjectId,
    /// The id of a user.
    UserId,
}

/// Who something is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The project.
    pub project: ProjectId,
    /// The user.
    pub user: UserId,
}

/// What a caller may see. What lies outside is not found, as if it were not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// What belongs to one project.
    Project(ProjectId),
    /// Everything: for administrators.
    All,
}

impl Scope {
    /// Whether what belongs to this project can be seen.
    #[must_use]
    pub fn covers(&self, project: &ProjectId) -> bool {
        match self {
            Self::Project(own) => own == project,
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_end_a_key_or_a_path_are_refused() {
        for bad in ["", "a/b", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(bad.parse::<ProjectId>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "test:tester".parse::<UserId>().unwrap().as_str(),
            "test:tester"
        );
    }

    #[test]
    fn another_projects_things_are_out_of_scope() {
        let (own, other): (ProjectId, ProjectId) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(Scope::Project(own.clone()).covers(&own) && Scope::All.covers(&other));
        assert!(!Scope::Project(own).covers(&other));
    }
}
