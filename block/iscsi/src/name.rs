//! Names and tags: iSCSI names, session identifiers, task tags and the LUN field.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use core::fmt;
use core::str::FromStr;

/// The longest iSCSI name (RFC 7143 §4.2.7.1).
pub const NAME_BYTES_MAX: usize = 223;

/// An iSCSI node name: `iqn.`, `eui.` or `naa.`, in the normal (lower case) form of RFC 3722.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(String);

/// A text that is no iSCSI name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an iSCSI name: {why}")]
pub struct NameError {
    /// What was given, cut to 64 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl IscsiName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IscsiName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why| {
            Err(NameError {
                text: text.chars().take(64).collect(),
                why,
            })
        };
        if text.len() > NAME_BYTES_MAX {
            return refuse("it is longer than 223 bytes");
        }
        let name = text.to_lowercase();
        let is_allowed = |c: char| {
            matches!(c, 'a'..='z' | '0'..='9' | '-' | '.' | ':')
                || (!c.is_ascii() && c.is_alphanumeric())
        };
        let is_hex = |rest: &str, lengths: &[usize]| {
            lengths.contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        // The underscore is not in RFC 3722's set, but names with it are in use everywhere.
        if !name.chars().all(|c| is_allowed(c) || c == '_') {
            return refuse("only letters, digits, '-', '.', ':' and '_' may be in it");
        }
        let is_well_formed = match name.split_once('.') {
            Some(("iqn", rest)) => !rest.is_empty(),
            Some(("eui", rest)) => is_hex(rest, &[16]),
            Some(("naa", rest)) => is_hex(rest, &[16, 32]),
            Some(_) | None => false,
        };
        if !is_well_formed {
            return refuse(
                "it begins with none of iqn., eui. (16 digits) or naa. (16 or 32 digits)",
            );
        }
        Ok(Self(name))
    }
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The initiator's part of a session identifier: six bytes, unique per initiator and portal group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Isid(pub [u8; 6]);

impl Isid {
    /// An ISID of the random kind (RFC 7143 §11.12.5: type 10b, 24 random bits, a 16-bit qualifier).
    #[must_use]
    pub const fn from_random(random: [u8; 3], qualifier: u16) -> Self {
        let [b, c, d] = random;
        let [high, low] = qualifier.to_be_bytes();
        Self([0x80, b, c, d, high, low])
    }
}

/// The target's part of a session identifier; zero asks for a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tsih(pub u16);

/// A connection's number in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cid(pub u16);

/// The initiator's name for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InitiatorTaskTag(pub u32);

impl InitiatorTaskTag {
    /// No task.
    pub const NONE: Self = Self(u32::MAX);
}

/// The target's name for a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TargetTransferTag(pub u32);

impl TargetTransferTag {
    /// No transfer.
    pub const NONE: Self = Self(u32::MAX);
}

/// The eight LUN bytes of a PDU, as SAM-5 §4.7 lays them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LunField(pub [u8; 8]);

impl LunField {
    /// A single-level LUN: peripheral addressing below 256, flat space addressing below 16384.
    ///
    /// Returns `None` for a larger number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        let [high, low] = number.to_be_bytes();
        match high {
            0 => Some(Self([0, low, 0, 0, 0, 0, 0, 0])),
            1..=0x3f => Some(Self([0x40 | high, low, 0, 0, 0, 0, 0, 0])),
            _ => None,
        }
    }

    /// The number of a single-level LUN in peripheral (bus 0) or flat space form; `None` for anything else.
    #[must_use]
    pub const fn number(self) -> Option<u16> {
        let [first, second, rest @ ..] = self.0;
        if u64::from_be_bytes([0, 0, rest[0], rest[1], rest[2], rest[3], rest[4], rest[5]]) != 0 {
            return None;
        }
        match first >> 6 {
            0 if first & 0x3f == 0 => Some(u16::from_be_bytes([0, second])),
            1 => Some(u16::from_be_bytes([first & 0x3f, second])),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_folded_to_lower_case() {
        let name: IscsiName = "IQN.2026-01.org.Example:vol_1".parse().unwrap();
        assert_eq!(name.as_str(), "iqn.2026-01.org.example:vol_1");
        assert!("eui.02004567a425678d".parse::<IscsiName>().is_ok());
        assert!("naa.52004567ba64678d".parse::<IscsiName>().is_ok());
        let long = format!("iqn.{}", "a".repeat(220));
        for bad in [
            "",
            "iqn.",
            "vol1",
            "iqn.2026 a",
            "eui.12",
            "naa.zz004567ba64678d",
            "iqn.a\nb",
            &long,
        ] {
            assert!(bad.parse::<IscsiName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lun_numbers_go_there_and_back() {
        for number in [0u16, 1, 255, 256, 16_383] {
            assert_eq!(
                LunField::from_number(number).unwrap().number(),
                Some(number)
            );
        }
        assert_eq!(LunField::from_number(16_384), None);
        assert_eq!(LunField([0, 1, 0, 1, 0, 0, 0, 0]).number(), None);
        assert_eq!(LunField([0xc1, 1, 0, 0, 0, 0, 0, 0]).number(), None);
    }
}
