//! What a request's path names: an account, a container or an object.

use crate::name::{AccountName, ContainerName, NameError, ObjectName};
use core::fmt;
use percent_encoding::{
    AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode,
};

/// What a path segment keeps as it is: RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// What an object name keeps as it is in a path: also its slashes.
const REST: &AsciiSet = &SEGMENT.remove(b'/');
/// What makes an echoed header value unsafe.
const HEADER: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// A container of an account.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ContainerPath {
    /// The account.
    pub account: AccountName,
    /// The container in it.
    pub container: ContainerName,
}

/// An object in a container of an account.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ObjectPath {
    /// The account.
    pub account: AccountName,
    /// The container in it.
    pub container: ContainerName,
    /// The object in that.
    pub object: ObjectName,
}

impl ObjectPath {
    /// The container the object is in.
    #[must_use]
    pub fn container_path(&self) -> ContainerPath {
        ContainerPath {
            account: self.account.clone(),
            container: self.container.clone(),
        }
    }
}

/// `/account/container`, the text the ring hashes.
impl fmt::Display for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}", self.account, self.container)
    }
}

/// `/account/container/object`, the text the ring hashes.
impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}/{}", self.account, self.container, self.object)
    }
}

/// What a storage request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `/v1/account`
    Account(AccountName),
    /// `/v1/account/container`
    Container(ContainerPath),
    /// `/v1/account/container/object`
    Object(ObjectPath),
}

/// Why a path names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not UTF-8 after decoding, or a NUL in it. Swift answers 412.
    #[error("Invalid UTF8 or contains NULL")]
    Text,
    /// No account, or an empty container before an object. Swift answers 412.
    #[error("Bad URL")]
    Shape,
    /// The first segment is no version of the API. Swift answers 400.
    #[error("Bad URL: the first segment must be v1")]
    Version,
    /// A segment is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

fn decode(raw: &str) -> Result<String, PathError> {
    let text = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_invalid| PathError::Text)?;
    if text.contains('\0') {
        return Err(PathError::Text);
    }
    Ok(text.into_owned())
}

impl Resource {
    /// Reads the percent-encoded path of a request, without its query.
    ///
    /// The whole path is decoded before it is split, as Swift does: `%2F` in a container's name is a slash.
    ///
    /// # Errors
    /// When the path is no UTF-8, has no version or account, or a name in it is out of its limits.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        let text = decode(raw)?;
        let mut segments = text
            .strip_prefix('/')
            .ok_or(PathError::Shape)?
            .splitn(4, '/');
        let version = segments.next().unwrap_or_default();
        let account = segments.next().unwrap_or_default();
        let container = segments.next().unwrap_or_default();
        let object = segments.next().unwrap_or_default();
        if account.is_empty() {
            return Err(PathError::Shape);
        }
        if !matches!(version, "v1" | "v1.0") {
            return Err(PathError::Version);
        }
        let account = AccountName::new(account)?;
        match (container, object) {
            ("", "") => Ok(Self::Account(account)),
            ("", _) => Err(PathError::Shape),
            (container, "") => {
                let container = ContainerName::new(container)?;
                Ok(Self::Container(ContainerPath { account, container }))
            }
            (container, object) => {
                let container = ContainerName::new(container)?;
                let object = ObjectName::new(object)?;
                Ok(Self::Object(ObjectPath {
                    account,
                    container,
                    object,
                }))
            }
        }
    }

    /// The account it is about, or in.
    #[must_use]
    pub const fn account(&self) -> &AccountName {
        match self {
            Self::Account(account) => account,
            Self::Container(path) => &path.account,
            Self::Object(path) => &path.account,
        }
    }
}

/// `container/object` of a `Destination` or `X-Copy-From` header, percent-encoded, with or without a first slash.
///
/// # Errors
/// When the text is no UTF-8, or does not name both.
pub fn parse_container_and_object(raw: &str) -> Result<(ContainerName, ObjectName), PathError> {
    let text = decode(raw)?;
    let text = text.strip_prefix('/').unwrap_or(&text);
    let (container, object) = text.split_once('/').ok_or(PathError::Shape)?;
    Ok((ContainerName::new(container)?, ObjectName::new(object)?))
}

/// `container/object` as the system keeps it in its own metadata: the names may be those the system gave.
///
/// # Errors
/// When the text is no UTF-8, or does not name both.
pub fn parse_kept_container_and_object(
    raw: &str,
) -> Result<(ContainerName, ObjectName), PathError> {
    let text = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_invalid| PathError::Text)?;
    let (container, object) = text.split_once('/').ok_or(PathError::Shape)?;
    Ok((ContainerName::new(container)?, ObjectName::new(object)?))
}

/// A query string's decoded pairs; there is no value when it is no UTF-8.
pub fn query_pairs(raw: &str) -> impl Iterator<Item = (std::borrow::Cow<'_, str>, Option<String>)> {
    crate::listing::pairs(raw).map(|(name, value)| (name, value.ok()))
}

/// A text with its percent-encoding undone; `None` when what comes out is no UTF-8.
#[must_use]
pub fn decode_segment(text: &str) -> Option<String> {
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// One path segment or query value, percent-encoded.
#[must_use]
pub fn encode_segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// An object name as the rest of a path, percent-encoded; its slashes stay.
#[must_use]
pub fn encode_rest(text: &str) -> String {
    utf8_percent_encode(text, REST).to_string()
}

/// A text made fit for a header value: what could end or split the line is percent-encoded.
#[must_use]
pub fn encode_header(text: &str) -> String {
    utf8_percent_encode(text, HEADER).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(raw: &str) -> ObjectPath {
        match Resource::parse(raw) {
            Ok(Resource::Object(path)) => path,
            other => panic!("{raw}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_accounts_containers_and_objects() {
        assert!(matches!(
            Resource::parse("/v1/AUTH_a"),
            Ok(Resource::Account(_))
        ));
        assert!(matches!(
            Resource::parse("/v1/AUTH_a/"),
            Ok(Resource::Account(_))
        ));
        assert!(matches!(
            Resource::parse("/v1.0/AUTH_a/c/"),
            Ok(Resource::Container(_))
        ));
        assert_eq!(object("/v1/AUTH_a/c/o/p//q/").object.as_str(), "o/p//q/");
        assert_eq!(object("/v1/a/c/%ED%95%9C%20x").object.as_str(), "한 x");
        assert_eq!(object("/v1/a/c/o").to_string(), "/a/c/o");
    }

    #[test]
    fn traversal_is_an_ordinary_name() {
        assert_eq!(object("/v1/a/c/../../x").object.as_str(), "../../x");
        assert_eq!(object("/v1/a/../%2e%2e").object.as_str(), "..");
        assert_eq!(object("/v1/a/c%2Fd").object.as_str(), "d");
    }

    #[test]
    fn malformed_paths_are_refused_by_kind() {
        assert_eq!(Resource::parse("/v1/a/c/%00"), Err(PathError::Text));
        assert_eq!(Resource::parse("/v1/a/c/%ff"), Err(PathError::Text));
        assert_eq!(Resource::parse("/v1"), Err(PathError::Shape));
        assert_eq!(Resource::parse("/v1//c"), Err(PathError::Shape));
        assert_eq!(Resource::parse("/v1/a//o"), Err(PathError::Shape));
        assert_eq!(Resource::parse("/v2/a/c"), Err(PathError::Version));
        let long = format!("/v1/a/c/{}", "x".repeat(1025));
        assert!(matches!(
            Resource::parse(&long),
            Err(PathError::Name(NameError::TooLong { .. }))
        ));
    }

    proptest! {
        #[test]
        fn an_encoded_path_parses_back(c in "[^/\0]{1,60}", o in "[^\0]{1,200}") {
            let raw = format!("/v1/a/{}/{}", encode_segment(&c), encode_rest(&o));
            let path = object(&raw);
            prop_assert_eq!(path.container.as_str(), c);
            prop_assert_eq!(path.object.as_str(), o);
        }

        #[test]
        fn no_text_makes_parsing_panic(raw in ".{0,300}") {
            drop(Resource::parse(&raw));
        }

        #[test]
        fn an_encoded_header_has_no_line_end(text in ".{0,100}") {
            prop_assert!(encode_header(&text).bytes().all(|b| b > 0x20 && b < 0x7f));
        }
    }
}
