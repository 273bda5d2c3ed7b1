//! Where a request goes: the version, a device of the node, and what of it.

use core::fmt;
use core::str::FromStr;

/// The version in every path.
pub const VERSION: &str = "2";
/// Bytes of a device's name.
pub const DEVICE_BYTES_MAX: usize = 64;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// One object: PUT, GET, HEAD, POST, DELETE.
    Object,
    /// An object's key, kept for a conditional PUT: PUT, DELETE.
    Reservation,
    /// One container: PUT, POST, DELETE, HEAD, and GET for its listing.
    Container,
    /// Object records of a container: POST.
    ContainerRows,
    /// One account: PUT, POST, DELETE, HEAD, and GET for its listing.
    Account,
    /// Container records of an account: POST.
    AccountRows,
    /// Asks whether anything is known that is newer than objects whose date of deletion has come: POST.
    Expiry,
    /// Compares digests of partitions or slots: POST.
    Digests,
    /// Compares rows of slots: POST.
    Wants,
    /// Takes object rows, small bodies with them: POST.
    Rows,
    /// Takes one object row with a large body: PUT.
    Body,
    /// Takes a container's or account's own row and records: POST.
    Roster,
    /// Compares runs of a container's or account's records: POST.
    RosterRuns,
}

const RESOURCES: [(Resource, &str); 13] = [
    (Resource::Object, "object"),
    (Resource::Reservation, "object/reservation"),
    (Resource::Container, "container"),
    (Resource::ContainerRows, "container/rows"),
    (Resource::Account, "account"),
    (Resource::AccountRows, "account/rows"),
    (Resource::Expiry, "replication/expiry"),
    (Resource::Digests, "replication/digests"),
    (Resource::Wants, "replication/wants"),
    (Resource::Rows, "replication/rows"),
    (Resource::Body, "replication/body"),
    (Resource::Roster, "replication/roster"),
    (Resource::RosterRuns, "replication/roster-runs"),
];

impl Resource {
    /// Its number in frames ([`crate::link`]): its place in this contract.
    #[must_use]
    pub fn number(self) -> u8 {
        let place = RESOURCES.iter().position(|(resource, _)| *resource == self);
        place
            .and_then(|place| u8::try_from(place).ok())
            .unwrap_or(u8::MAX)
    }

    /// The resource of a number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        RESOURCES
            .get(usize::from(number))
            .map(|(resource, _)| *resource)
    }

    /// Its part of the path.
    #[must_use]
    pub fn path(self) -> &'static str {
        RESOURCES
            .iter()
            .find(|(resource, _)| *resource == self)
            .map_or("", |(_, path)| path)
    }
}

/// The name of a device on its node: letters, digits, `.`, `-`, `_`; it is also a directory's name.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

/// A text that names no device or no resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct TargetError {
    /// What was given, cut to 128 characters.
    pub text: String,
    /// What was expected.
    pub expected: &'static str,
}

impl DeviceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeviceName {
    type Error = TargetError;
    fn try_from(text: String) -> Result<Self, TargetError> {
        let fits = (1..=DEVICE_BYTES_MAX).contains(&text.len())
            && !text.starts_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if fits {
            return Ok(Self(text));
        }
        let text = text.chars().take(128).collect();
        Err(TargetError {
            text,
            expected: "a device name (letters, digits, '.', '-', '_')",
        })
    }
}

impl FromStr for DeviceName {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::try_from(text.to_owned())
    }
}

impl core::borrow::Borrow<str> for DeviceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device somewhere in the cluster: what a request is sent to.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The node's address, `host:port`; an IPv6 host stands in brackets.
    pub address: String,
    /// The device of that node.
    pub device: DeviceName,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.device)
    }
}

/// A resource of a device, as a request's path names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The device.
    pub device: DeviceName,
    /// What of it.
    pub resource: Resource,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{VERSION}/{}/{}", self.device, self.resource.path())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let error = || TargetError {
            text: text.chars().take(128).collect(),
            expected: "a path of this version (/2/<device>/<resource>)",
        };
        let rest = text
            .strip_prefix('/')
            .and_then(|rest| rest.strip_prefix(VERSION));
        let (device, path) = rest
            .and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
            .ok_or_else(error)?;
        let (resource, _) = RESOURCES
            .iter()
            .find(|(_, known)| *known == path)
            .ok_or_else(error)?;
        Ok(Self {
            device: device.parse()?,
            resource: *resource,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_a_path_that_parses_back() {
        for (resource, _) in RESOURCES {
            let target = Target {
                device: "sdb1".parse().unwrap(),
                resource,
            };
            assert_eq!(target.to_string().parse(), Ok(target));
            assert_eq!(Resource::from_number(resource.number()), Some(resource));
        }
    }

    #[test]
    fn paths_that_leave_the_devices_directory_are_refused() {
        for bad in [
            "/2/../object",
            "/2/./object",
            "/2//object",
            "/1/d/object",
            "/2/d/",
            "2/d/object",
            "/2/d%2f/object",
            "/",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
