//! Names of accounts, containers and objects.
//!
//! A name is UTF-8 without NUL and within its limit; the system's own names begin with NUL ([`RESERVED`]), and whatever
//! reads names from a request refuses that character. `.` and `..` are names like any other: no name ever becomes a
//! path in a file system.

use crate::limits::{ACCOUNT_NAME_BYTES_MAX, CONTAINER_NAME_BYTES_MAX, OBJECT_NAME_BYTES_MAX};
use core::fmt;
use core::str::FromStr;

/// What names begin with that the system gives: a character that no request's path can hold.
pub const RESERVED: char = '\0';
/// Bytes such a name may have beside the user's name in it.
const RESERVED_BYTES_MAX: usize = 64;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no text.
    #[error("{kind} name is empty")]
    Empty {
        /// What was to be named.
        kind: &'static str,
    },
    /// More bytes than allowed. The words are Swift's.
    #[error("{kind} name length of {length} longer than {length_max}")]
    TooLong {
        /// What was to be named.
        kind: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        length_max: usize,
    },
    /// A slash in an account's or container's name.
    #[error("{kind} name contains a slash")]
    Slash {
        /// What was to be named.
        kind: &'static str,
    },
    /// A NUL character.
    #[error("{kind} name contains NUL")]
    Nul {
        /// What was to be named.
        kind: &'static str,
    },
}

fn check(
    kind: &'static str,
    text: &str,
    length_max: usize,
    slash_allowed: bool,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { kind });
    }
    // What begins with NUL is ours: no request can say such a name, and ours hold a user's name and more.
    let is_reserved = text.starts_with(RESERVED);
    let length_max = length_max + if is_reserved { RESERVED_BYTES_MAX } else { 0 };
    if text.len() > length_max {
        return Err(NameError::TooLong {
            kind,
            length: text.len(),
            length_max,
        });
    }
    if text.contains(RESERVED) && !is_reserved {
        return Err(NameError::Nul { kind });
    }
    if !slash_allowed && text.contains('/') {
        return Err(NameError::Slash { kind });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $length_max:expr, $slash_allowed:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// Takes a text as a name.
            ///
            /// # Errors
            /// When the text is empty, too long, or holds a character the name may not have.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check($kind, &text, $length_max, $slash_allowed)?;
                Ok(Self(text.into_boxed_str()))
            }

            /// Whether the name is one the system gave, which no request can say.
            #[must_use]
            pub fn is_reserved(&self) -> bool {
                self.0.starts_with(RESERVED)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.into()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// The name of an account, for example `AUTH_demo`: at most 256 bytes, no slash.
    AccountName, "Account", ACCOUNT_NAME_BYTES_MAX, false
);
name_type!(
    /// The name of a container: at most 256 bytes, no slash.
    ContainerName, "Container", CONTAINER_NAME_BYTES_MAX, false
);
name_type!(
    /// The name of an object: at most 1,024 bytes, slashes welcome.
    ObjectName, "Object", OBJECT_NAME_BYTES_MAX, true
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_count_bytes_not_characters() {
        assert!(ObjectName::new("옹".repeat(341)).is_ok());
        let error = ObjectName::new("옹".repeat(342)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Object name length of 1026 longer than 1024"
        );
        assert!(ContainerName::new("c".repeat(256)).is_ok());
        let error = ContainerName::new("c".repeat(257)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Container name length of 257 longer than 256"
        );
    }

    #[test]
    fn dots_are_ordinary_and_nul_and_slash_are_not() {
        assert_eq!(
            ObjectName::new("../../etc/passwd").unwrap().as_str(),
            "../../etc/passwd"
        );
        assert_eq!(ContainerName::new("..").unwrap().as_str(), "..");
        assert!(matches!(
            ContainerName::new("a/b"),
            Err(NameError::Slash { .. })
        ));
        assert!(matches!(
            ObjectName::new("a\0b"),
            Err(NameError::Nul { .. })
        ));
        assert!(matches!(AccountName::new(""), Err(NameError::Empty { .. })));
    }
}
